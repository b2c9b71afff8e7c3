"""bench and profiles: what is counted and written is right; times themselves are not tested."""

import csv
import json
from pathlib import Path

import pytest

from firstlight.cli import run_command_line
from firstlight.measure.counting import Counter
from firstlight.measure.speed import Bench
from firstlight.runtime import load


def test_rows_say_what_was_measured(tiny_artifact: Path, tmp_path, capsys) -> None:
    arguments = ["bench", str(tiny_artifact), "-p", "20,100000", "-d", "30", "-r", "2", "-n", "2",
                 "--threads", "1"]
    assert run_command_line([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    prefill, decode = document["rows"]
    assert (prefill["test"], prefill["n"], decode["test"], decode["n"]) == (
        "prefill", 20, "decode", 30)
    for row in (prefill, decode):
        assert len(row["samples"]) == len(row["of_bound"]) == 2
        assert 0 < min(row["of_bound"]) < 2
    assert all(value > 1e8 for value in document["machine"].values())
    assert document["machine"]["byte_products"] < 100 * document["machine"]["multiply_add"]
    table = tmp_path / "rows.csv"
    assert run_command_line([*arguments, "--breakdown", "--csv", str(table)]) == 0
    out = capsys.readouterr().out
    assert "prefill 100000" in out.split("machine")[0], "what does not fit the context is named"
    assert "expert_ffn" in out
    rows = list(csv.DictReader(table.open()))
    assert [row["test"] for row in rows] == ["prefill", "decode"]
    assert float(rows[0]["samples_mean"]) > 0


def test_a_bound_is_the_sum_of_what_each_step_needs(tiny_artifact: Path) -> None:
    with load(tiny_artifact, threads=1) as model:
        steps = Counter(tiny_artifact, model.program).steps("decode", 1, 100)
    bandwidth, peak = 1e10, 1e11
    bound = sum(max(s.bytes / bandwidth, s.flops / peak) for s in steps)
    bench = Bench(tiny_artifact, threads=1, samples=1)
    record = bench._record("decode", 100, [2 / bound], 0, steps, [(bandwidth, peak)], 1)
    assert record["of_bound"] == [pytest.approx(2)]
    both = sum(s.bytes for s in steps) / bandwidth, sum(s.flops for s in steps) / peak
    assert bound >= max(both) * (1 - 1e-9)


def test_a_timeline_has_every_kernel_and_the_same_text(tiny_artifact, tmp_path, capsys) -> None:
    prompt = ["--prompt", "import os", "-n", "6", "--threads", "1", "-q"]
    assert run_command_line(["run", str(tiny_artifact), *prompt]) == 0
    text = capsys.readouterr().out
    path = tmp_path / "profile.json"
    assert run_command_line(["run", str(tiny_artifact), *prompt, "--profile", str(path)]) == 0
    assert capsys.readouterr().out == text
    events = [e for e in json.loads(path.read_text())["traceEvents"] if e["ph"] == "X"]
    with load(tiny_artifact, threads=1) as model:
        entries = model.program.entries
    kernels = [e for e in events if e["tid"] == 2]
    assert len(kernels) == len(entries["prefill"].kernel) + 5 * len(entries["decode"].kernel)
    assert {"layers.3.attn.wo_b", "head"} <= {e["name"] for e in kernels}
    assert all(e["dur"] >= 0 for e in events)
    assert any(e["args"]["bytes"] > 100_000 for e in kernels)


@pytest.mark.parametrize("numbers", ["0", "x", "1,-2"])
def test_numbers(tiny_artifact, numbers) -> None:
    assert run_command_line(["bench", str(tiny_artifact), "-p", numbers]) == 2
