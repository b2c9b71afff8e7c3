"""The best of as many entries as a million tokens leave, chunk by chunk."""

import numpy as np
import pytest

from firstlight.codegen.generic import generic_kernel
from firstlight.ir.array import trace
from firstlight.ir.core import Module
from firstlight.ir.types import TensorType
from firstlight.targets.ascend.emulator_build import lacking
from firstlight.targets.ascend.execute import emulate

ENTRIES = 262_144


@pytest.mark.chip
@pytest.mark.skipif(bool(lacking()), reason=f"not here: {', '.join(lacking())}")
@pytest.mark.parametrize("k", [512, 1024])
def test_the_best_of_all_entries_in_order_of_place_where_they_are_equal(k):
    module = Module({"main": trace("main", lambda x: x.emit("top_k", k=k), (
        TensorType((1, ENTRIES)),))})
    executor = emulate("Ascend950PR_9589", {
        "top": generic_kernel("top", module["main"].ops[-1], module)})
    random = np.random.default_rng(k)
    scores = random.integers(-40_000, 40_000, (1, ENTRIES)).astype(np.float32) / 16    # many ties
    scores[0, random.integers(0, ENTRIES, 1000)] = -np.inf
    got = np.zeros((1, k), np.int32)
    executor.run("top", [scores, got], 1)
    assert (got == np.argsort(-scores, 1, kind="stable")[:, :k]).all()
