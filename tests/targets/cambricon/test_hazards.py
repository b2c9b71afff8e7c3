"""Every sync of kernels by hand left out in turn: the detector says so, values alone would not."""

from __future__ import annotations

import numpy as np
import pytest

from firstlight.targets.cambricon.bang_library import compilers, library
from firstlight.targets.cambricon.bang_machine import Outcome, Settings, machine
from firstlight.targets.cambricon.faults import Fault, seeded, summary
from support.bang import CLUSTER, HEAD, PIPELINE, PRODUCT, SPARE, STAGES, SUM

pytestmark = [pytest.mark.chip,
              pytest.mark.skipif(not compilers(), reason="there is no C++ compiler here")]
RNG = np.random.default_rng(7)


def floats(*shape: int) -> np.ndarray:
    """Normal numbers."""
    return RNG.normal(size=shape).astype(np.float32)


KERNELS = {
    "pipeline": (PIPELINE, 2, lambda: [floats(16384), floats(16384), np.zeros(16384, np.float32),
                                       np.int32(16384)]),
    "product": (f"#define T float\n{PRODUCT}", 1, lambda: [
        floats(16, 64), floats(64, 64), np.zeros((16, 64), np.float32)]),
    "cluster": (CLUSTER, 2, lambda: [floats(2, 1024), np.zeros((2, 4, 1024), np.float32)]),
    "sum": (SUM, 2, lambda: [floats(8192), np.zeros(8, np.float32), np.zeros(1, np.float32)]),
    "stages": (STAGES, 1, lambda: [floats(8192), np.zeros(8192, np.float32), np.int32(8192)]),
    "spare": (SPARE, 1, lambda: [floats(256), np.zeros(256, np.float32)]),
}
DATA = {name: make() for name, (_, _, make) in KERNELS.items()}


def faults(name: str) -> tuple[str, list[Fault]]:
    """All faults of one kernel."""
    text, clusters, _ = KERNELS[name]
    built = library({"k.mlu": (HEAD + text).encode()}, {"k": "k"})

    def run(settings: Settings) -> tuple[Outcome, bytes]:
        arguments = [np.copy(a) if isinstance(a, np.ndarray) else a for a in DATA[name]]
        outcome = machine().launch(built, "k", clusters, [4 * clusters, 1, 1], arguments, settings)
        return outcome, b"".join(a.tobytes() for a in arguments)

    return seeded("k.mlu", HEAD + text, 592, run)


# What a queue orders by itself, and a last sync after which nothing is left to wait.
HARMLESS = {"pipeline": [18], "product": [26], "stages": [19], "spare": [11]}


@pytest.mark.parametrize("name", KERNELS)
def test_no_sync_that_matters_can_be_left_out_unseen(name: str) -> None:
    alarm, found = faults(name)
    assert alarm == ""
    assert [f for f in found if f.verdict == "missed"] == []
    assert [f.line for f in found if f.verdict == "harmless"] == HARMLESS.get(name, [])
    assert any(f.verdict == "caught" for f in found)


def test_what_is_harmless_is_named() -> None:
    document = summary({"spare": faults("spare")})
    assert document["total"]["caught_of_those_that_matter"] == 1.0
    assert document["kernels"]["spare"]["lines"] == {
        "harmless": ["11: __sync_compute();"], "not reached": ["16: __sync_move();"]}


def test_values_alone_see_less() -> None:
    """Why there is a detector: running in program order shows none of them."""
    _, found = faults("pipeline")
    assert all("program" not in way for f in found for way in f.changes)
    assert any(f.changes for f in found)
