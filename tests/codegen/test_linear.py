"""Indices as sums: what they are for every step of the axes, however they are written or cut."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstlight.codegen.nests.linear import coefficient, cuts, joined, linear
from firstlight.codegen.nests.nodes import const, make, substitute, var

EXTENTS = {"a": 6, "b": 4, "c": 32}
LEAVES = st.one_of(st.sampled_from(sorted(EXTENTS)).map(var), st.integers(0, 40).map(const))


def _combined(parts):
    whole = st.tuples(st.sampled_from(["add", "sub"]), parts, parts)
    scaled = st.tuples(st.just("mul"), parts, st.integers(0, 40).map(const))
    divided = st.tuples(st.sampled_from(["floordiv", "mod"]), parts,
                        st.sampled_from([1, 2, 3, 4, 16, 32]).map(const))
    return st.one_of(whole, scaled, divided).map(lambda t: make(t[0], "int32", *t[1:]))


@given(st.recursive(LEAVES, _combined, max_leaves=8))
def test_a_sum_has_the_value_of_what_it_was_made_of(node):
    total = joined(linear(node, EXTENTS))
    for place in itertools.product((0, 1, 3), (0, 3), (0, 5, 16, 31)):
        values = dict(zip(EXTENTS, map(const, place), strict=True))
        assert substitute(total, values).number == substitute(node, values).number


def test_a_cut_axis_makes_quotients_sums():
    index = make("floordiv", "int32", make("add", "int32", make("mul", "int32", var("a"),
                                                                const(48)), var("c")), const(16))
    assert list(cuts(index, {"a": 6, "c": 48})) == [("c", 16)]
    cut = substitute(index, {"c": make("add", "int32", make("mul", "int32", var("o"), const(16)),
                                       var("i"))})
    total = linear(cut, {"a": 6, "o": 3, "i": 16})
    assert [coefficient(total, name) for name in "aoi"] == [3, 1, 0]


@pytest.mark.parametrize(("divisor", "value"), [(32, None), (8, 4)])
def test_what_is_no_constant_step_is_said(divisor, value):
    node = make("floordiv", "int32", make("mul", "int32", var("c"), const(32)), const(divisor))
    other = make("mod", "int32", var("c"), const(5))
    assert coefficient(linear(node, EXTENTS), "c") == (1 if value is None else value)
    assert coefficient(linear(other, EXTENTS), "c") is None
