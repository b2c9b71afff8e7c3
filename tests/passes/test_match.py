"""The engine: every composite is recognised by its decomposition, and nothing else is."""

import pytest

from firstlight.ir.array import Array
from firstlight.ir.builder import Builder
from firstlight.ir.core import Module, census
from firstlight.ir.decompose import expand
from firstlight.ir.dims import B, S
from firstlight.ir.registry import TABLE
from firstlight.ir.types import TensorType
from firstlight.passes import run_pipeline
from firstlight.passes.canonicalize import Canonicalize
from firstlight.passes.fuse import fuse
from firstlight.passes.match import patterns
from support.modules import (
    COMPOSITES,
    RECOGNISED,
    anonymous,
    composite,
    difference,
    pieces,
    shapes,
    swap,
)

FUSED = [(name, example) for name, example in COMPOSITES if name in RECOGNISED]


@pytest.mark.parametrize(("name", "example"), FUSED)
def test_fusing_undoes_decomposing(name: str, example: int) -> None:
    before = pieces(name, example)
    after = run_pipeline(before)
    assert shapes(after) == shapes(composite(name, example))
    assert list(after.functions) == ["main"]
    assert difference(before, after) <= 1e-5


@pytest.mark.parametrize(("name", "example"), FUSED)
def test_names_locs_and_operand_order_play_no_part(name: str, example: int) -> None:
    for seed in range(4):
        after = run_pipeline(anonymous(swap(pieces(name, example), seed)))
        main = list(after.functions)[-1]
        assert shapes(after, main) == shapes(composite(name, example))


@pytest.mark.parametrize(("name", "example"), COMPOSITES)
def test_decompositions_are_canonical(name: str, example: int) -> None:
    types, attrs = TABLE[name].examples[example]
    function, module = expand(TABLE[name], types, dict(attrs), Module())
    module = module.with_function(function)
    assert str(Canonicalize().run(module)) == str(module)


@pytest.mark.parametrize("name", sorted(n for n, info in TABLE.items() if info.composite))
def test_patterns_mention_every_operand_and_attribute(name: str) -> None:
    for pattern in patterns(name):
        function = pattern.graph.function
        read = {v for op in function.ops for v in op.operands}
        assert set(function.args) <= read
        assert {*pattern.fixed, *pattern.sentinels.values()} == set(TABLE[name].attrs)


def two_norms() -> tuple[Builder, Array, Array]:
    builder = Builder("main")
    x = Array(builder, builder.arg(TensorType((B, S, 6)), "x"))
    w = Array(builder, builder.arg(TensorType((6,)), "w"))
    return builder, x, w


def norm(x: Array, w: Array | None = None) -> Array:
    y = x * ((x * x).mean(-1, keepdims=True) + 1e-3).emit("rsqrt")
    return y if w is None else y * w


def test_inner_values_with_other_users_stay() -> None:
    builder, x, w = two_norms()
    squares = x * x
    before = Module({"main": builder.finish(norm(x, w).value, squares.value)})
    after = fuse(before, ["rms_norm"])
    assert census(after) == {"mul": 1, "rms_norm": 1}
    assert difference(before, after) <= 1e-6


def test_instances_may_feed_each_other() -> None:
    builder, x, w = two_norms()
    before = Module({"main": builder.finish(norm(norm(x, w), w).value)})
    after = fuse(before, ["rms_norm"])
    assert census(after) == {"rms_norm": 2}
    assert difference(before, after) <= 1e-6


def test_an_instance_that_would_depend_on_itself_stays() -> None:
    """The weights' scores come from what the chosen experts computed: two halves, not one op."""
    builder = Builder("main")
    x = Array(builder, builder.arg(TensorType((B, S, 6)), "x"))
    gate = Array(builder, builder.arg(TensorType((5, 6)), "gate"))
    table = Array(builder, builder.arg(TensorType((7, 2), "i32"), "table"))
    tokens = Array(builder, builder.arg(TensorType((B, S), "i32"), "tokens"))
    index = table.emit("embedding", tokens)
    later = x + index.cast("f32").sum(-1, keepdims=True)
    scores = later.emit("linear", gate).emit("softplus").emit("sqrt")
    chosen = scores.emit("take_along", index)
    weights = chosen / chosen.sum(-1, keepdims=True) * 1.5
    before = Module({"main": builder.finish(index.value, weights.value)})
    after = fuse(before, ["route_hash"])
    assert "route_hash" not in census(after)
    assert difference(before, after) == 0


def test_a_fused_op_has_the_path_of_what_it_replaces() -> None:
    builder, x, w = two_norms()
    with builder.scope("layer.attn"):
        with builder.scope("q_norm"):
            y = x * ((x * x).mean(-1, keepdims=True) + 1e-3).emit("rsqrt")
        with builder.scope("scale"):
            y = y * w
    after = fuse(Module({"main": builder.finish(y.value)}), ["rms_norm"])
    assert [op.loc for op in after["main"].ops] == ["layer.attn"]
