"""fuse-indexer."""

import pytest

from firstlight.passes import run_pipeline
from support.modules import (
    Change,
    check_near_miss,
    constant,
    difference,
    gallery,
    replaced,
    turned,
)


def test_text_and_meaning(golden) -> None:
    before = gallery("index_select")
    after = run_pipeline(before, "fuse-indexer")
    golden("fuse_indexer", after)
    for name in before.functions:
        assert difference(before, after, name) == 0


@pytest.mark.parametrize("change", [
    replaced("relu", "abs"), constant(1, 3), constant(4, 3), constant(-float("inf"), 0.0),
    turned("lt"), replaced("lt", "le"), replaced("reduce_sum", "reduce_max"),
])
def test_other_selections_stay(change: Change) -> None:
    check_near_miss("index_select", change)
