"""fuse-hyper-connections."""

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
    before = gallery("hyper_pre", "hyper_post", "hyper_head")
    after = run_pipeline(before, "fuse-norm-rope,fuse-hyper-connections")
    golden("fuse_hyper_connections", after)
    for name in after.functions:
        assert difference(before, after, name) <= 1e-5


@pytest.mark.parametrize("change", [
    constant(2.0, 3.0), replaced("softmax", "softmax", axis=2), replaced("sigmoid", "tanh"),
    scaled("sigmoid", 1, 3.0), turned("div"),
])
def test_other_coefficients_stay(change: Change) -> None:
    check_near_miss("hyper_pre", change)


@pytest.mark.parametrize("change", [
    constant(2e-3, 1.0), replaced("reduce_sum", "reduce_max"),
    replaced("reduce_sum", "reduce_sum", 1, axis=3), turned("div"),
])
def test_other_sinkhorn_rounds_stay(change: Change) -> None:
    whole = pieces("hyper_pre")
    body = next(name for name in whole.functions if name != "main")
    before = mutate(whole, change, body)
    after = run_pipeline(before)
    assert difference(whole, before) > 1e-5
    assert "hyper_pre" not in census(after)
    assert difference(before, after) <= 1e-5


def test_one_round_more_is_an_attribute() -> None:
    before = mutate(pieces("hyper_pre"), replaced("repeat", "repeat", count=4))
    after = run_pipeline(before)
    assert [op.attrs["rounds"] for op in after["main"].ops] == [4]
    assert difference(before, after) <= 1e-5


@pytest.mark.parametrize("change", [
    replaced("transpose", "transpose", perm=(0, 1, 2, 3)), replaced("add", "sub"),
    scaled("matmul"),
])
def test_other_mixtures_stay(change: Change) -> None:
    check_near_miss("hyper_post", change)


def test_other_heads_stay() -> None:
    check_near_miss("hyper_head", replaced("sigmoid", "tanh"))


def test_a_scaled_result_is_scaled_afterwards() -> None:
    before = mutate(pieces("hyper_pre"), scaled("repeat"))
    after = run_pipeline(before)
    assert census(after) == {"constant": 1, "hyper_pre": 1, "mul": 1}
    assert difference(before, after) <= 1e-5
