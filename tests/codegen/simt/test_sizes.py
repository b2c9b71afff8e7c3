"""Sizes of launches: what the compiler writes is what the runtime computes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstlight.codegen.simt.sizes import OPERATIONS, combine, evaluate, expression, size_of
from firstlight.codegen.tvm_bridge import T, tirx
from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.sizes import value

LEAVES = st.one_of(st.just("S"), st.integers(1, 30))     # six multiplied fit an int32
SIZES = st.recursive(LEAVES, lambda parts: st.tuples(
    st.sampled_from(sorted(set(OPERATIONS) - {"sub"})), parts, parts), max_leaves=6)


def built(tree):
    """The size that `combine` makes of a tree; what divides is a number."""
    if not isinstance(tree, tuple):
        return tree
    operation, a, b = tree
    if operation in ("ceildiv", "floordiv"):
        return combine(operation, built(a), 64)
    return combine(operation, built(a), built(b))


def plain(tree, tokens: int) -> int:
    """What the tree means."""
    if not isinstance(tree, tuple):
        return tokens if tree == "S" else tree
    operation, a, b = tree
    divides = operation in ("ceildiv", "floordiv")
    return OPERATIONS[operation](plain(a, tokens), 64 if divides else plain(b, tokens))


@given(SIZES, st.integers(1, 5000))
def test_the_number_is_the_same_on_both_sides(tree, tokens):
    size = built(tree)
    assert evaluate(size, tokens) == value(size, tokens) == plain(tree, tokens)


@given(SIZES)
def test_an_expression_of_s_is_the_size_it_was_made_of(tree):
    tokens = tirx.Var("S", "int32")
    again = size_of(expression(built(tree), tokens))
    for count in (1, 7, 64, 1000):
        assert evaluate(again, count) == plain(tree, count)


def test_another_variable_is_refused():
    with pytest.raises(FirstlightError, match="F453"):
        size_of(tirx.Var("pos", "int32") + T.int32(1))
