"""fuse-expert-dispatch."""

import pytest

from firstlight.passes import run_pipeline
from support.modules import (
    Change,
    check_near_miss,
    constant,
    difference,
    gallery,
    replaced,
    scaled,
    turned,
)


def test_text_and_meaning(golden) -> None:
    before = gallery("route", "route_hash", "expert_ffn")
    after = run_pipeline(before, "fuse-expert-dispatch")
    golden("fuse_expert_dispatch", after)
    for name in before.functions:
        assert difference(before, after, name) <= 1e-5


@pytest.mark.parametrize("name", ["route", "route_hash"])
@pytest.mark.parametrize("change", [
    replaced("softplus", "exp"), replaced("sqrt", "exp"), turned("div"),
    replaced("reduce_sum", "reduce_max"),
])
def test_other_routers_stay(name: str, change: Change) -> None:
    check_near_miss(name, change)


@pytest.mark.parametrize("change", [
    constant(-0.7, -0.1), replaced("sigmoid", "tanh"), scaled("expert_linear", 2),
    replaced("minimum", "maximum"), replaced("add", "sub"), scaled("sigmoid", 1),
])
def test_other_experts_stay(change: Change) -> None:
    check_near_miss("expert_ffn", change)
