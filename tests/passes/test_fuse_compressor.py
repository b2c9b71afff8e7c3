"""fuse-compressor."""

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
    before = gallery("compress")
    after = run_pipeline(before, "fuse-norm-rope,fuse-compressor")
    golden("fuse_compressor", after)
    for name in before.functions:
        assert difference(before, after, name) <= 1e-5


@pytest.mark.parametrize("change", [
    turned("concat"), turned("concat", 1), replaced("softmax", "softmax", axis=1),
    scaled("softmax"), constant(1, 2), constant(-float("inf"), -1.0), replaced("add", "sub", 1),
    replaced("slice", "slice", 2, start=0, stop=6),
])
def test_other_poolings_stay(change: Change) -> None:
    check_near_miss("compress", change, example=1)
