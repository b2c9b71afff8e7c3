"""Emitted kernels in the emulator: several clusters, and all their syncs left out in turn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from firstlight import targets
from firstlight.targets.cambricon.bang_library import compilers
from firstlight.targets.cambricon.fault_sweep import distinct, inputs, report, swept
from firstlight.targets.conform.cases import all_cases
from firstlight.targets.conform.kit import conform
from firstlight.targets.conform.units import units

pytestmark = [pytest.mark.chip,
              pytest.mark.skipif(not compilers(), reason="there is no C++ compiler here")]
TARGET = "cambricon-mlu590"


@pytest.mark.slow
@pytest.mark.parametrize("clusters", ["2", "8"])
def test_clusters_together_compute_the_same(clusters: str) -> None:
    wide = targets.find(TARGET).configured({"matmul": "matrix", "clusters": clusters})
    run = [c for c in conform(wide, "run", ["rms_norm", "add"]).checks if c.level == "run"]
    assert [(c.op, c.status) for c in run] == [("add", "passed"), ("rms_norm", "passed")]


def test_a_sweep_catches_what_matters_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    notes = tmp_path / "notes.jsonl"
    document = report(TARGET, swept(TARGET, notes, ["exp"]))
    total = document["total"]
    assert (total["false_alarms"], total["missed"]) == (0, 0)
    assert total["caught"] > 0
    assert total["left_out"] == sum(total[v] for v in ("caught", "harmless", "not reached"))
    assert total["harmless"] == sum(map(len, document["harmless"].values()))
    before = notes.read_text()
    assert report(TARGET, swept(TARGET, notes, ["exp"])) == document
    assert notes.read_text() == before
    assert {json.loads(line)["op"] for line in before.splitlines()} == {"exp"}


def test_kernels_of_one_text_are_tried_once() -> None:
    target = targets.find(TARGET)
    some = list(units(target, all_cases(("abs", "exp"))))
    sources = {k.name: target.emit(k) for u in some for k in u.kernels}
    assert len(distinct(some, sources)) <= len(sources)
    assert len(distinct([some[0], some[0]], sources)) == 1
    assert next(inputs(next(u for u in some if u.shape == "prefill"))) == (67, 0)
