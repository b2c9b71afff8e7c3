"""Primitives: what the shape rule says is what the reference gives, and meanings by hand."""

from pathlib import Path

import numpy as np
import pytest

from firstlight.ir import dims
from firstlight.ir.builder import Builder, infer
from firstlight.ir.core import Module
from firstlight.ir.interpreter import run
from firstlight.ir.parser import parse
from firstlight.ir.registry import TABLE, OpInfo, lookup
from firstlight.ir.types import StateType, TensorType
from firstlight.ir.verifier import verify
from firstlight.runtime.errors import FirstlightError
from support.primitive_cases import DTYPES, SIZES, PrimitiveCase, primitive_cases

DOCS = Path(__file__).parents[2] / "docs" / "ir.md"
CASES = list(primitive_cases())
PRIMITIVES = {name for name, info in TABLE.items() if not info.composite}
B, S = dims.B, dims.S


def test_every_primitive_has_a_case():
    assert {case.op for case in CASES} == PRIMITIVES - {"call", "repeat"}


@pytest.mark.parametrize("name", sorted({case.op for case in CASES}))
def test_shape_rule_and_reference_agree(name):
    """Shapes, dtypes; the text form; the operands are left as they were."""
    for case in (c for c in CASES if c.op == name):
        before = [a.copy() for a in case.arrays]
        module, got = case.module(), case.result()
        (type_,) = [v.type for v in module["main"].results]
        if isinstance(type_, StateType):
            assert got.shape == case.arrays[0].shape
            assert got is not case.arrays[0]
        else:
            assert got.shape == tuple(dims.evaluate(d, SIZES) for d in type_.shape)
            assert DTYPES[got.dtype] == type_.dtype
        for a, b in zip(case.arrays, before, strict=True):
            np.testing.assert_array_equal(a, b)
        verify(module)
        assert str(parse(str(module))) == str(module)


@pytest.mark.parametrize("name", sorted({case.op for case in CASES}))
def test_symbolic_axes_survive(name):
    """With 3 and 5 as B and S in the types, results have B and S where they had 3 and 5."""
    for case in (c for c in CASES if c.op == name and len(c.arrays) - len(c.states) == 1):
        (array,) = case.arrays[len(case.states):]
        if name in ("reshape", "broadcast") or array.shape[:2] != (3, 5) or case.states:
            continue
        if case.attrs.get("axis", 2) < 2 and name == "slice":
            continue
        symbolic = TensorType((B, S, *array.shape[2:]), DTYPES[array.dtype])
        builder = Builder("main")
        op = builder.emit(name, builder.arg(symbolic), loc=None, **case.attrs)
        module = Module().with_function(builder.finish(op.result))
        assert {dims.B, dims.S} & set(op.result.type.shape)
        np.testing.assert_array_equal(run(module, "main", [array], SIZES)[0], case.result())


@pytest.mark.parametrize("name", sorted(PRIMITIVES - {"call", "repeat"}))
def test_costs_are_numbers(name):
    """Flops of every case, never negative; what only moves data has none."""
    for case in (c for c in CASES if c.op == name):
        if any(isinstance(d, dims.Dim) for v in case.module()["main"].results
               if isinstance(v.type, TensorType) for d in v.type.shape):
            continue
        outs = tuple(v.type for v in case.module()["main"].results)
        assert lookup(name).cost(case.types, outs, **case.attrs) >= 0


def apply(name: str, *arrays, states=(), **attrs) -> list:
    return PrimitiveCase(name, tuple(np.asarray(a) for a in arrays), attrs, states).result()


def test_top_k():
    """Descending; ties to the lower place; -inf and what is not there is -1."""
    f = lambda *v: np.array([v], np.float32)  # noqa: E731
    inf = np.inf
    assert apply("top_k", f(1, 3, 3, 2), k=3).tolist() == [[1, 2, 3]]
    assert apply("top_k", f(-5, -1, -1), k=5).tolist() == [[1, 2, 0, -1, -1]]
    assert apply("top_k", f(-inf, 0, -inf), k=2).tolist() == [[1, -1]]
    assert apply("top_k", f(-inf, -inf), k=1).tolist() == [[-1]]


def test_rings_hold_position_p_in_row_p_mod_rows():
    """ring_read: the rows before pos, oldest first, zero before the beginning."""
    ring, slot = StateType("ring", 1, 4), np.array([1], np.int32)
    state = np.full((2, 4, 1), -1, np.float32)
    for pos, tokens in ((0, 3), (3, 2), (5, 6)):
        at = np.array([pos], np.int32)
        rows = np.arange(pos, pos + tokens, dtype=np.float32).reshape(1, -1, 1)
        read = apply("ring_read", state, slot, at, states=(ring,))
        assert read[0, :, 0].tolist() == [max(0, p) for p in range(pos - 4, pos)]
        state = apply("ring_write", state, rows, slot, at, states=(ring,))
    assert state[1, :, 0].tolist() == [8, 9, 10, 7]
    assert (state[0] == -1).all()


def test_entries_append_writes_count_rows_of_each_sequence():
    entries = StateType("entries", 1, ratio=4)
    x = np.array([[[1.0], [2.0]], [[3.0], [4.0]]], np.float32)
    slot, first, count = (np.array(v, np.int32) for v in ([2, 0], [1, 5], [2, 0]))
    out = apply("entries_append", np.zeros((3, 6, 1), np.float32), x, slot, first, count,
                states=(entries,))
    assert out[2, :, 0].tolist() == [0, 1, 2, 0, 0, 0]
    assert not out[:2].any()


def test_repeat_applies_a_function_again_and_again():
    x = TensorType((B,))
    inner = Builder("double")
    arg = inner.arg(x)
    module = Module().with_function(inner.finish(inner.emit("add", arg, arg).result))
    for count in (0, 1, 5):
        outer = Builder("main", module)
        op = outer.emit("repeat", outer.arg(x), callee="double", count=count)
        whole = module.with_function(outer.finish(op.result))
        verify(whole)
        (y,) = run(whole, "main", [np.ones(2, np.float32)], {"B": 2})
        assert (y == 2.0**count).all()


def test_call_wants_the_types_of_the_callee():
    inner = Builder("f")
    module = Module().with_function(inner.finish(inner.arg(TensorType((B,)))))
    outer = Builder("main", module)
    with pytest.raises(FirstlightError, match=r"fl\.call") as caught:
        outer.emit("call", outer.arg(TensorType((S,))), callee="f")
    assert "@f takes (!fl.tensor<Bxf32>)" in caught.value.why
    with pytest.raises(FirstlightError) as caught:
        outer.emit("call", callee="g")
    assert "there is no function @g" in caught.value.why


def test_weights_may_be_stored_in_any_codec():
    """A codec says how it is stored; results are plain."""
    x, w = TensorType((B, S, 128)), TensorType((6, 128), "f32", "fp8e4m3/128x128:ue8m0")
    builder = Builder("main")
    values = builder.arg(x), builder.arg(w)
    assert infer("linear", values, {}, Module()) == (TensorType((B, S, 6)),)
    with pytest.raises(FirstlightError, match="fp8e4m3/128x128:ue8m0"):
        infer("linear", values[::-1], {}, Module())


def signature(info: OpInfo) -> str:
    """As docs/ir.md writes it."""
    return f"| `{info.name}` | {', '.join(info.ins) or '-'} | {', '.join(info.attrs) or '-'} |"


@pytest.mark.parametrize("name", sorted(TABLE))
def test_documented(name):
    """docs/ir.md has a row for the op, with its operands and attributes."""
    assert signature(TABLE[name]) in DOCS.read_text()


def test_text_in_the_documentation_parses():
    text = DOCS.read_text().split("```mlir\n")[1].split("```")[0]
    module = parse(text)
    assert parse(str(module)).hash == module.hash
    assert str(module) == text
