"""The tracer: ordinary Python over arrays that record ops, layer bodies traced once."""

import numpy as np
import pytest

from firstlight.frontend.tracer import Scope, Tracer
from firstlight.ir import dims
from firstlight.ir.array import Array, concat, iota, size_of, trace
from firstlight.ir.builder import Builder
from firstlight.ir.core import Module, census
from firstlight.ir.interpreter import run
from firstlight.ir.parser import parse
from firstlight.ir.types import BLOCK_FP8, StateType, TensorType
from firstlight.ir.verifier import verify
from firstlight.runtime.errors import FirstlightError

B, S = dims.B, dims.S
RING = StateType("ring", 4, 3)


# -- the numpy-like surface ------------------------------------------------------------------------

def evaluate(function, *arrays: np.ndarray) -> np.ndarray:
    """`function` traced on the arrays' types (two symbolic axes first), then interpreted."""
    names = {np.dtype("f4"): "f32", np.dtype("i4"): "i32", np.dtype("?"): "bool"}
    types = tuple(TensorType((B, S, *a.shape[2:]), names[a.dtype]) for a in arrays)
    module = Module().with_function(trace("main", function, types))
    verify(module)
    assert str(parse(str(module))) == str(module)
    sizes = dict(zip("BS", arrays[0].shape[:2], strict=True))
    return run(module, "main", list(arrays), sizes)[0]


X = np.linspace(-2, 3, 2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
Y = np.roll(X, 5)
I = np.arange(24, dtype=np.int32).reshape(2, 3, 4)  # noqa: E741
SAME = {
    "arithmetic": (lambda x, y: (x + y) * 2.0 - y / 3.0 + 1.0 - x, (X, Y)),
    "numbers first": (lambda x: 1.0 - 2.0 * x + (3.0 + x), (X,)),
    "minus": (lambda x: -x, (X,)),
    "integers": (lambda i: (i + 3) // 4 * 5 % 7, (I,)),
}
COMPARED = {
    "less": lambda x, y: x < y, "at most": lambda x, y: x <= y,
    "more": lambda x, y: x > y, "at least": lambda x, y: x >= y,
    "both": lambda x, y: (x > -1.0) & (y < 1.0),
}
NAMED = {
    "minimum": (lambda x, y: x.minimum(y).maximum(-1.0), lambda x, y: np.maximum(
        np.minimum(x, y), -1)),
    "sum": (lambda x, y: x.sum(-1), lambda x, y: x.sum(-1)),
    "sum keepdims": (lambda x, y: x.sum(2, keepdims=True), lambda x, y: x.sum(2, keepdims=True)),
    "mean": (lambda x, y: x.mean(-1), lambda x, y: x.mean(-1)),
    "reshape": (lambda x, y: x.reshape(B, S, 2, 2), lambda x, y: x.reshape(2, 3, 2, 2)),
    "insert": (lambda x, y: x.insert(-1), lambda x, y: x[..., None]),
    "insert first": (lambda x, y: x.insert(2), lambda x, y: x[:, :, None]),
    "transpose": (lambda x, y: x.transpose(1, 2, 0), lambda x, y: x.transpose(1, 2, 0)),
    "broadcast": (lambda x, y: x.insert(2).broadcast(B, S, 5, 4),
                  lambda x, y: np.repeat(x[:, :, None], 5, 2)),
    "take": (lambda x, y: x.take(-1, 1, 3), lambda x, y: x[..., 1:3]),
    "take all": (lambda x, y: x.take(-1, 0, 4) + 0.0, lambda x, y: x),
    "where": (lambda x, y: (x < y).where(x, 0.0), lambda x, y: np.where(x < y, x, 0)),
    "where numbers": (lambda x, y: (x < y).where(1.0, -1.0), lambda x, y: np.where(x < y, 1, -1)),
    "matmul": (lambda x, y: x.insert(2).matmul(y.insert(2), transpose=True).reshape(B, S),
               lambda x, y: (x * y).sum(-1)),
    "concat": (lambda x, y: concat([x, y], -1), lambda x, y: np.concatenate([x, y], -1)),
    "cast": (lambda x, y: x.cast("i32").cast("f32"), lambda x, y: np.trunc(x)),
    "iota": (lambda x, y: x + iota(x.builder, (1, S, 1), 1).cast("f32"),
             lambda x, y: x + np.arange(3)[:, None]),
    "size": (lambda x, y: x * size_of(x.builder, S).cast("f32"), lambda x, y: x * 3),
    "softmax": (lambda x, y: x.softmax(-1), lambda x, y: np.exp(x) / np.exp(x).sum(-1,
                                                                                  keepdims=True)),
}


@pytest.mark.parametrize("what", SAME)
def test_operators_are_those_of_numpy(what):
    function, arrays = SAME[what]
    np.testing.assert_allclose(evaluate(function, *arrays), function(*arrays), rtol=1e-6)


@pytest.mark.parametrize("what", COMPARED)
def test_comparisons_are_those_of_numpy(what):
    np.testing.assert_array_equal(evaluate(COMPARED[what], X, Y), COMPARED[what](X, Y))


@pytest.mark.parametrize("what", NAMED)
def test_methods(what):
    traced, expected = NAMED[what]
    np.testing.assert_allclose(evaluate(traced, X, Y), expected(X, Y), rtol=1e-6)


def test_equal_ops_are_recorded_once():
    function = trace("main", lambda x: (x + 1.0) * (x + 1.0), (TensorType((B, S)),))
    assert census(function) == {"add": 1, "constant": 1, "mul": 1}


def test_what_changes_nothing_records_nothing():
    def same(x: Array) -> Array:
        return x.reshape(B, S, 4).broadcast(B, S, 4).take(-1, 0, 4).cast("f32")

    assert trace("main", same, (TensorType((B, S, 4)),)).ops == ()


WRONG = {
    "add": (lambda x: x + x.take(-1, 0, 3), "fl.add(!fl.tensor<BxSx4xf32>, !fl.tensor<BxSx3xf32>)",
            "do not broadcast"),
    "dtype": (lambda x: x + x.cast("i32"), "fl.add", "operands are f32 and i32"),
    "reshape": (lambda x: x.reshape(B, S, 5), "fl.reshape(!fl.tensor<BxSx4xf32>)",
                "differ in size"),
    "symbolic": (lambda x: x.reshape(S, B, 4), "fl.reshape", "changes a symbolic axis"),
    "slice": (lambda x: x.take(-1, 2, 9), "fl.slice", "[2, 9) of an axis of 4"),
    "slice of symbolic": (lambda x: x.take(1, 0, 2), "fl.slice", "of an axis of S"),
    "matmul": (lambda x: x.matmul(x), "fl.matmul", "the inner axes are 4 and S"),
    "condition": (lambda x: x.where(x, 0.0), "fl.select", "the condition is f32, not bool"),
    "transpose": (lambda x: x.transpose(0, 1), "fl.transpose", "(0, 1) is not a permutation"),
    "concat": (lambda x: concat([x, x.take(-1, 0, 2)], 1), "fl.concat", "differ outside axis 1"),
    "linear": (lambda x: x.emit("linear", x.take(-1, 0, 2)), "fl.linear", "does not fit w"),
    "no such op": (lambda x: x.emit("conv"), "unknown op 'fl.conv'", "no row"),
    "attribute": (lambda x: x.emit("softmax", dim=1), "fl.softmax: attributes ['dim']",
                  "exactly ['axis']"),
    "operands": (lambda x: x.emit("exp", x), "op 'exp' takes 1 operands, got 2", "signature"),
}


@pytest.mark.parametrize("what", WRONG)
def test_mistakes_are_told_in_the_words_of_the_op(what):
    """Four lines that name the op, its operand types and the module path."""
    function, text, why = WRONG[what]
    builder = Builder("main")
    with builder.scope("layers"), builder.scope("attn"), pytest.raises(FirstlightError) as caught:
        trace("main", function, (TensorType((B, S, 4)),), builder)
    assert text in caught.value.what
    assert why in caught.value.why
    assert caught.value.code.startswith("F2")
    if caught.value.code == "F205":
        assert caught.value.where == "layers.attn"


def test_no_branches_on_traced_values():
    with pytest.raises(TypeError, match="no truth value"):
        trace("main", lambda x: x if x > 0.0 else -x, (TensorType((B,)),))


# -- functions, weights, states ------------------------------------------------------------------

def types(codecs: list[str]) -> dict[str, TensorType]:
    """A matrix of 4 x 4 for each layer, stored as it says there."""
    return {f"layers.{i}.mix.w.weight": TensorType((4, 4), "f32", codec)
            for i, codec in enumerate(codecs)} | {"embed.weight": TensorType((9, 4), "f32", "bf16")}


def body(m: Scope, *, x: Array, pos: Array, slot: Array) -> Array:
    """x W^T plus the oldest row of a ring; the row x goes into the ring."""
    with m.scope("mix"):
        y = x.emit("linear", m.weight("w.weight"))
        ring = m.state("recent", RING)
        old = ring.emit("ring_read", slot, pos)
        m.update("recent", ring.emit("ring_write", x, slot, pos))
        with m.at("add"):
            return y + old.take(1, 0, 1) * m.constant(0.5)


def model(codecs: list[str]) -> Module:
    """A layer called once for each codec."""
    tracer = Tracer(types(codecs))

    def tower(m: Scope) -> Array:
        at = {"pos": m.inputs["pos"], "slot": m.inputs["slot"]}
        with m.at("embed"):
            x = m.weight("embed.weight").emit("embedding", m.inputs["tokens"])
        for i in range(len(codecs)):
            x = tracer.call(m, "mixer", body, f"layers.{i}.", x=x, **at)
        return x

    tracer.entry("score", tower, ("tokens", "pos", "slot"))
    verify(tracer.module)
    assert str(parse(str(tracer.module))) == str(tracer.module)
    return tracer.module


def test_a_body_is_traced_once():
    module = model(["bf16"] * 40)
    assert list(module.functions) == ["mixer", "score"]
    assert census(module["score"]) == {"call": 40, "embedding": 1}


def test_weights_stored_otherwise_give_a_second_function():
    module = model(["bf16", BLOCK_FP8, "bf16", "f32", BLOCK_FP8])
    assert list(module.functions) == ["mixer", "mixer_1", "mixer_2", "score"]
    called = [op.attrs["callee"] for op in module["score"].ops if op.name == "call"]
    assert called == ["mixer", "mixer_1", "mixer", "mixer_2", "mixer_1"]
    weights = [module[name].args[3] for name in ("mixer", "mixer_1", "mixer_2")]
    assert [w.type.codec for w in weights] == ["bf16", BLOCK_FP8, "f32"]
    assert {w.loc for w in weights} == {"mix.w.weight"}


def test_names_of_weights_and_states():
    """Relative in a body, in full in an entry; inputs, then weights and states as they are met."""
    module = model(["bf16", "bf16"])
    assert [v.loc for v in module["mixer"].args] == ["x", "pos", "slot", "mix.w.weight",
                                                     "mix.recent"]
    assert [v.loc for v in module["score"].args] == [
        "tokens", "pos", "slot", "embed.weight", "layers.0.mix.w.weight", "layers.0.mix.recent",
        "layers.1.mix.w.weight", "layers.1.mix.recent"]
    assert [v.type for v in module["score"].results] == [
        TensorType((B, S, 4)), RING, RING]


def test_module_paths():
    module = model(["bf16", "bf16"])
    paths = {op.name: op.loc for op in module["mixer"].ops}
    assert paths["linear"] == paths["ring_write"] == "mix"
    assert paths["add"] == "mix.add"
    assert [op.loc for op in module["score"].ops] == ["embed", "layers.0", "layers.1"]
    assert all(v.loc == op.loc for f in module for op in f.ops for v in op.results)


def test_states_are_threaded_through_the_calls():
    """What the interpreter makes of it, against numpy."""
    module = model(["f32", "f32"])
    random = np.random.default_rng(0)
    table = random.normal(size=(9, 4)).astype("f4")
    w = random.normal(size=(2, 4, 4)).astype("f4")
    rings = [np.zeros((2, 3, 4), np.float32) for _ in w]
    seen: list[list[np.ndarray]] = [[], []]
    for position, token in enumerate([3, 1, 4, 1, 5]):
        args = [np.array([[token]], np.int32), np.array([position], np.int32),
                np.array([1], np.int32), table, w[0], rings[0], w[1], rings[1]]
        out, *rings = run(module, "score", args, {"B": 1, "S": 1})
        x = table[token]
        for layer in range(2):
            seen[layer].append(x)
            oldest = seen[layer][position - 3] if position >= 3 else 0 * x
            x = w[layer] @ x + oldest / 2
        np.testing.assert_allclose(out[0, 0], x, rtol=1e-5, atol=1e-6)
    assert not any(ring[0].any() for ring in rings)         # the other slot


def test_a_state_used_twice_is_one_argument():
    tracer = Tracer({})

    def twice(m: Scope) -> Array:
        pos, slot = m.inputs["pos"], m.inputs["slot"]
        row = m.iota((1, 1, 4), 2).cast("f32").broadcast(B, S, 4)
        m.update("r", m.state("r", RING).emit("ring_write", row, slot, pos))
        return m.state("r", RING).emit("ring_read", slot, pos + 1)

    tracer.entry("score", twice, ("tokens", "pos", "slot"))
    function = tracer.module["score"]
    assert [v.loc for v in function.args] == ["tokens", "pos", "slot", "r"]
    read = next(op for op in function.ops if op.name == "ring_read")
    assert read.operands[0] is function.results[1]          # what was written is read
