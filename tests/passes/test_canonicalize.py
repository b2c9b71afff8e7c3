"""canonicalize."""

import numpy as np
import pytest

from firstlight.ir.array import Array, constant, emit, trace
from firstlight.ir.builder import Builder
from firstlight.ir.core import Module, Op, Value, census
from firstlight.ir.dims import B, S
from firstlight.ir.types import TensorType
from firstlight.passes import run_pipeline
from firstlight.passes.canonicalize import Canonicalize
from support.modules import difference


def untidy() -> Module:
    """Identities, constants that could be computed, an unused op, reshapes in a row."""
    builder = Builder("main")
    x = Array(builder, builder.arg(TensorType((B, S, 6)), "x"))
    same = x.emit("reshape", shape=(B, S, 6)).transpose(0, 1, 2)
    same = same.emit("slice", axis=2, start=0, stop=6).emit("cast", dtype="f32")
    three = constant(builder, 1.0) + constant(builder, 2.0)
    same.emit("exp")
    y = (same * three).reshape(B, S, 2, 3).reshape(B, S, 3, 2).reshape(B, S, 6)
    return Module({"main": builder.finish(y.value)})


def test_text_and_meaning(golden) -> None:
    before = untidy()
    after = run_pipeline(before, "canonicalize")
    golden("canonicalize", after)
    assert census(after) == {"constant": 1, "mul": 1, "reshape": 3}
    assert difference(before, after) == 0


def test_chains_of_reshapes_on_demand() -> None:
    before = untidy()
    after = run_pipeline(before, "canonicalize{chains=true}")
    assert census(after) == {"constant": 1, "mul": 1}
    assert difference(before, after) == 0


def test_it_is_done_after_one_run() -> None:
    once = Canonicalize(chains=True).run(untidy())
    assert str(Canonicalize(chains=True).run(once)) == str(once)


def test_equal_ops_are_shared() -> None:
    x = Value(TensorType((B, 3)), "x")
    a, b, c = (Value(x.type) for _ in range(3))
    ops = (Op("exp", (x,), {}, (a,)), Op("exp", (x,), {}, (b,)), Op("add", (a, b), {}, (c,)))
    function = type(trace("main", lambda x: x, (x.type,)))("main", (x,), ops, (c,))
    after = Canonicalize().run(Module({"main": function}))
    assert census(after) == {"add": 1, "exp": 1}
    assert difference(Module({"main": function}), after) == 0


@pytest.mark.parametrize(("name", "a", "b"), [
    ("add", 0.1, 0.2), ("sub", 1e8, 1.0), ("mul", 1e30, 1e30), ("div", 1.0, 3.0),
    ("minimum", -0.5, 2.0), ("maximum", -0.5, 2.0),
])
def test_folding_changes_no_bit(name: str, a: float, b: float) -> None:
    builder = Builder("main")
    y = emit(builder, name, constant(builder, a), constant(builder, b))[0]
    before = Module({"main": builder.finish(y.value)})
    after = Canonicalize().run(before)
    assert list(census(after)) == ["constant"]
    reference = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide,
                 "minimum": np.minimum, "maximum": np.maximum}[name]
    with np.errstate(over="ignore"):
        expected = reference(np.float32(a), np.float32(b))
    assert np.float32(after["main"].ops[0].attrs["value"]) == expected


def test_a_function_that_lost_its_callers_goes() -> None:
    body = trace("body", lambda x: x + x, (TensorType((B, 3)),))
    builder = Builder("main", Module({"body": body}))
    x = builder.arg(TensorType((B, 3)), "x")
    builder.emit("call", x, callee="body")
    module = builder.module.with_function(builder.finish(x))
    assert list(Canonicalize().run(module).functions) == ["main"]


def test_entries_stay() -> None:
    body = trace("score", lambda x: x + x, (TensorType((B, 3)),))
    module = Module({"score": body, "prefill": trace("prefill", lambda x: x, (body.args[0].type,))})
    assert list(Canonicalize().run(module).functions) == ["score", "prefill"]
