"""Emitted kernels in the emulator: several clusters, and all their syncs left out in turn."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from firstlight import targets
from firstlight.codegen.target import Source
from firstlight.targets.cambricon.bang_library import compilers
from firstlight.targets.cambricon.chips import CHIPS
from firstlight.targets.cambricon.emit import source
from firstlight.targets.cambricon.fault_sweep import (
    Trying,
    distinct,
    inputs,
    report,
    sweep,
    swept,
)
from firstlight.targets.conform.cases import Case, all_cases
from firstlight.targets.conform.execute import Run
from firstlight.targets.conform.kit import conform
from firstlight.targets.conform.primitives import primitives
from firstlight.targets.conform.units import units

pytestmark = [pytest.mark.chip,
              pytest.mark.skipif(not compilers(), reason="there is no C++ compiler here")]
TARGET = "cambricon-mlu590"


@pytest.mark.slow
@pytest.mark.parametrize("clusters", ["2", "8"])
def test_clusters_together_compute_the_same(clusters: str) -> None:
    target = targets.find(TARGET)
    wide = target.configured({name: clusters if name == "clusters" else option.default
                              for name, option in target.options.items()})
    run = [c for c in conform(wide, "run", ["rms_norm", "add"]).checks if c.level == "run"]
    assert [(c.op, c.status) for c in run] == [("add", "passed"), ("rms_norm", "passed")]


@pytest.mark.parametrize("clusters", [1, 2])
@pytest.mark.parametrize(("inner", "columns"), [(256, 330), (200, 256)])
def test_what_goes_through_sram_is_right_and_its_syncs_matter(
        clusters: int, inner: int, columns: int, tmp_path: Path) -> None:
    target = targets.find(TARGET)
    x, w = next(c for c in primitives() if c.op == "linear").types[:2]
    case = Case("linear", (replace(x, shape=(*x.shape[:2], inner)),
                           replace(w, shape=(columns, inner))))
    unit = next(u for u in units(target, {"linear": [case]}) if u.shape == "prefill")
    (kernel,) = unit.kernels
    made = source(CHIPS[1], kernel, clusters=clusters)
    assert made.resources["sram_bytes"] > 0
    executor = Trying(CHIPS[1], {kernel.name: made}, tmp_path)
    found = sweep(unit, target, executor)
    assert found.alarm == ""
    assert [f for f in found.faults if f.verdict == "missed"] == []
    caught = [f.text for f in found.faults if f.verdict == "caught"]
    assert caught.count("__sync_cluster();") == 2 * len(re.findall("GDRAM2SRAM", text(made)))
    for tokens in (1, 67, 150):
        operands = list(case.operands(np.random.default_rng(tokens), {"B": 1, "S": tokens}, 0,
                                      case.changes[0]))
        got = Run(executor, None, unit, operands, {"B": 1, "S": tokens}).results[0]
        want = operands[0].value[0].astype(np.float64) @ operands[1].value.T
        np.testing.assert_allclose(got[0], want, atol=4e-6 * np.abs(want).max())


def text(made: Source) -> str:
    """A kernel's file."""
    return next(data for path, data in made.files.items() if path.endswith(".mlu")).decode()


def test_a_sweep_catches_what_matters_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    notes = tmp_path / "notes.jsonl"
    document = report(TARGET, swept(TARGET, notes, ["exp"]))
    total = document["total"]
    assert (total["false_alarms"], total["missed"]) == (0, 0)
    assert total["caught"] > 0
    assert total["left_out"] == sum(total[v] for v in ("caught", "harmless", "not reached"))
    assert total["harmless"] == sum(len(some.split(", ")) for some in
                                    document["harmless"].values())
    assert total["kernels_tried"] == total["kernels_with_syncs"] > 0
    before = notes.read_text()
    assert report(TARGET, swept(TARGET, notes, ["exp"])) == document
    assert report(TARGET, swept(TARGET, notes, ["exp"], so_far=True)) == document
    assert notes.read_text() == before
    assert {json.loads(line)["op"] for line in before.splitlines()} == {"exp"}


def test_kernels_of_one_text_are_tried_once() -> None:
    target = targets.find(TARGET)
    some = list(units(target, all_cases(("abs", "exp"))))
    sources = {k.name: target.emit(k) for u in some for k in u.kernels}
    assert len(distinct(some, sources)) <= len(sources)
    assert len(distinct([some[0], some[0]], sources)) == 1
    assert next(inputs(next(u for u in some if u.shape == "prefill"))) == (67, 0)
