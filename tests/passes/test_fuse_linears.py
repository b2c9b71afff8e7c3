"""fuse-linears."""

from firstlight.ir.array import Array
from firstlight.ir.builder import Builder
from firstlight.ir.core import Module, census
from firstlight.ir.dims import B, S
from firstlight.ir.types import BLOCK_FP8, TensorType
from firstlight.passes import run_pipeline
from firstlight.passes.fuse_linears import FuseLinears
from support.modules import difference, gallery


def projections() -> Module:
    """x through three weights of different codecs; one result through a fourth and a fifth."""
    builder = Builder("main")
    types = [TensorType((B, S, 6)), TensorType((8, 6), codec=BLOCK_FP8),
             TensorType((4, 6), codec="bf16"), TensorType((6, 6)), TensorType((6, 8))]
    x, a, b, c, d = (Array(builder, builder.arg(t, n))
                     for t, n in zip(types, "xabcd", strict=True))
    first = x.emit("linear", a)
    second = first.emit("linear", d)
    later = (x.emit("linear", c) + second).emit("linear", c)
    return Module({"main": builder.finish(second.value, x.emit("linear", b).value, later.value)})


def test_text_and_meaning(golden) -> None:
    before = projections()
    after = run_pipeline(before, "fuse-linears")
    golden("fuse_linears", after)
    assert census(after) == {"add": 1, "linear": 2, "linears": 1}
    assert difference(before, after) <= 1e-6


def test_small_groups_stay() -> None:
    before = projections()
    assert str(FuseLinears(smallest=4).run(before)) == str(before)


def test_a_weight_that_is_computed_stays() -> None:
    builder = Builder("main")
    x = Array(builder, builder.arg(TensorType((6, 6)), "x"))
    w = Array(builder, builder.arg(TensorType((6, 6)), "w"))
    y = x.emit("linear", w)
    before = Module({"main": builder.finish(y.value, x.emit("linear", y).value)})
    assert str(FuseLinears().run(before)) == str(before)


def test_linears_inside_composites_are_left_to_them() -> None:
    before = gallery("route", "hyper_pre", "expert_ffn", "hyper_head")
    assert not {"linear", "linears"} & set(census(run_pipeline(before)))
