"""fuse-norm-rope."""

import pytest

from firstlight.ir.core import census
from firstlight.passes import run_pipeline
from firstlight.passes.fuse_norm_rope import FuseNormRope
from support.modules import (
    Change,
    check_near_miss,
    difference,
    gallery,
    mutate,
    pieces,
    replaced,
    scaled,
    turned,
)


def test_text_and_meaning(golden) -> None:
    before = gallery("rms_norm", "rope", "norm_rope")
    after = run_pipeline(before, [FuseNormRope()])
    golden("fuse_norm_rope", after)
    for name in before.functions:
        assert difference(before, after, name) <= 1e-5


@pytest.mark.parametrize("change", [
    replaced("reduce_mean", "reduce_max"), replaced("rsqrt", "sqrt"), scaled("add"),
    scaled("rsqrt", factor=1.5),
])
def test_other_norms_stay(change: Change) -> None:
    check_near_miss("rms_norm", change)


@pytest.mark.parametrize("change", [
    turned("concat"), turned("sub"), replaced("cos", "sin"), scaled("cast"),
    replaced("slice", "slice", 1, start=1, stop=2), replaced("add", "sub"),
])
def test_other_rotations_stay(change: Change) -> None:
    check_near_miss("rope", change)


def test_a_scaled_norm_does_not_join_the_rotation() -> None:
    normed = run_pipeline(pieces("norm_rope"), [FuseNormRope()])
    before = mutate(pieces("norm_rope"), scaled("rsqrt"))
    after = run_pipeline(before, [FuseNormRope()])
    assert census(normed) == {"norm_rope": 1}
    assert census(after)["rope"] == 1
    assert "norm_rope" not in census(after)
    assert difference(before, after) <= 1e-5
