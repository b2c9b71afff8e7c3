"""fuse-hybrid-attention."""

import pytest

from firstlight.ir.core import census
from firstlight.passes import run_pipeline
from support.modules import (
    Change,
    check_near_miss,
    constant,
    difference,
    gallery,
    mutate,
    pieces,
    replaced,
    scaled,
    turned,
)


def test_text_and_meaning(golden) -> None:
    before = gallery("hybrid_attention")
    after = run_pipeline(before, "fuse-norm-rope,fuse-hybrid-attention")
    golden("fuse_hybrid_attention", after)
    for name in before.functions:
        assert difference(before, after, name) <= 1e-5


@pytest.mark.parametrize("change", [
    scaled("exp"), scaled("matmul"), constant(5, 4), constant(-float("inf"), 0.0),
    turned("concat"), turned("sub", 1), replaced("le", "lt"), replaced("neg", "abs"),
])
@pytest.mark.parametrize("example", [0, 1, 2])
def test_other_attentions_stay(change: Change, example: int) -> None:
    check_near_miss("hybrid_attention", change, example)


def test_a_sink_scaled_beforehand_is_another_sink() -> None:
    whole = pieces("hybrid_attention")
    before = mutate(whole, scaled("reshape", _place_of_the_sink(whole)))
    after = run_pipeline(before)
    assert difference(whole, before) > 1e-3
    assert difference(before, after) <= 1e-5


def _place_of_the_sink(whole) -> int:
    sink = whole["main"].args[2]
    reshapes = [op for op in whole["main"].ops if op.name == "reshape"]
    return next(i for i, op in enumerate(reshapes) if op.operands == (sink,))


def test_a_ring_written_elsewhere_is_not_taken() -> None:
    before = mutate(pieces("hybrid_attention"), scaled("ring_read"))
    assert "hybrid_attention" not in census(run_pipeline(before))
