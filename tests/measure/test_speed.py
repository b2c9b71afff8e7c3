"""bench and profiles: what is counted and written is right; times themselves are not tested."""

import csv
import json
import time
from pathlib import Path

import numpy as np
import pytest

from firstlight.cli import run_command_line
from firstlight.measure.counting import Counter
from firstlight.measure.speed import Bench
from firstlight.measure.timeline import Timeline
from firstlight.runtime import load
from firstlight.runtime.errors import FirstlightError


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
    assert float(rows[0]["mean"]) > 0
    assert len(rows[0]["all_samples"].split()) == 2
    assert rows[0]["cpu"]


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


@pytest.mark.parametrize(("tokens", "code"), [
    ("1,99999", "F605"), ("1,-5", "F605"), (",".join(["1"] * 3000), "F607")])
def test_a_profiled_run_refuses_what_a_run_refuses(tiny_artifact, tmp_path, capsys, tokens,
                                                   code) -> None:
    path = tmp_path / "profile.json"
    run = ["run", str(tiny_artifact), "--tokens", tokens, "--profile", str(path)]
    assert run_command_line(run) == 1
    assert capsys.readouterr().err.startswith(f"error[{code}]")
    assert not path.exists()


def test_a_profiled_run_samples_and_stops_as_a_run_does(tiny_artifact, tmp_path, capsys) -> None:
    path = tmp_path / "profile.json"
    with load(tiny_artifact, threads=1) as model:
        (eos, *_) = model.eos_token_ids
        for seed in range(30):      # one that ends
            asked = {"temperature": 3.0, "seed": seed, "max_new_tokens": 40}
            wanted = list(model.session().generate([5, 6], **asked))
            if wanted[-1] == eos:
                break
    assert wanted[-1] == eos
    assert len(wanted) < 40
    words = [f"--{name.replace('_', '-')}={value}" for name, value in asked.items()]
    assert run_command_line(["run", str(tiny_artifact), "--tokens", "5,6", "--json", "--threads",
                             "1", "--profile", str(path), *words]) == 0
    assert json.loads(capsys.readouterr().out)["ids"] == wanted
    calls = [e for e in json.loads(path.read_text())["traceEvents"] if e.get("tid") == 1]
    assert len(calls) == 1 + len(wanted), "their name, the prompt, a call for all but the last"


def test_a_profile_is_written_of_what_was_run(tiny_artifact, tmp_path, capsys) -> None:
    path = tmp_path / "profile.json"
    with load(tiny_artifact, threads=1) as model:
        context = model.context
    tokens = ",".join(["7"] * (context - 2))
    assert run_command_line(["run", str(tiny_artifact), "--tokens", tokens, "-n", "9",
                             "--ignore-eos", "--profile", str(path)]) == 1
    out, err = capsys.readouterr()
    assert err.startswith("error[F607]")
    assert len(out.strip().split(",")) == 3
    calls = [e for e in json.loads(path.read_text())["traceEvents"] if e["ph"] == "X"]
    assert sum(e["name"].startswith("decode of 1 at") for e in calls) == 2


def test_an_interrupted_call_breaks_the_session(tiny_artifact, monkeypatch) -> None:
    with load(tiny_artifact, threads=1) as model:
        timeline = Timeline(model)
        session = timeline.session()
        session.prefill([1, 2, 3])

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(timeline, "event", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.prefill([4, 5])
        with pytest.raises(FirstlightError, match="F610"):
            session.decode(6)


@pytest.mark.parametrize(("command", "code"), [
    (["bench", "--csv", "no/such/folder/rows.csv"], "F714"),
    (["bench", "--csv", "."], "F714"),
    (["bench", "-p", "5000", "-d", "5000"], "F715"),
    (["run", "--tokens", "1", "--profile", "no/such/folder/p.json"], "F714"),
    (["quality", "--against", "x", "--text", "x", "--plot", "no/such/folder/p.svg"], "F714"),
    (["quality", "--against", "x", "--text", "x", "--plot", "p.txt"], "F712"),
    (["tune", "--budget", "1", "--text", "x", "--plot", "p.txt"], "F712")])
def test_what_cannot_be_written_is_refused_before_the_work(tiny_artifact, capsys, command,
                                                           code) -> None:
    assert run_command_line([command[0], str(tiny_artifact), *command[1:]]) == 1
    assert capsys.readouterr().err.startswith(f"error[{code}]")


def test_a_breakdown_as_data(tiny_artifact, capsys) -> None:
    assert run_command_line(["bench", str(tiny_artifact), "-p", "9", "-d", "20", "-r", "1", "-n",
                             "1", "--threads", "1", "--breakdown", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    prefill, decode = document["breakdown"]
    assert (prefill["tokens"], decode["entry"], decode["depth"]) == (9, "decode", 20)
    assert sum(row["calls"] for row in decode["rows"]) > 30
    assert document["numerics"] == "float"
    assert document["quantize"] == "shipped"
    assert document["rows"][0]["mean"] == document["rows"][0]["samples"][0]


@pytest.mark.parametrize("numbers", ["0", "x", "1,-2"])
def test_numbers(tiny_artifact, numbers) -> None:
    assert run_command_line(["bench", str(tiny_artifact), "-p", numbers]) == 2


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("clock", [time.perf_counter, time.thread_time])
def test_steps_are_timed_by_the_launcher_or_one_by_one(tiny_artifact, threads, clock) -> None:
    """Every step has its time, the session goes on from where it was, and nothing is left on."""
    bench = Bench(tiny_artifact, threads, 1, clock=clock)
    session, costs = bench.at(30), bench.counter.steps("decode", 1, 30)
    native = bench.sticks.steps(lambda: None)
    assert (native is not None) == (clock is time.perf_counter)
    seconds = bench.step_seconds(session._context, "decode", np.array([3], np.int32), len(costs))
    assert len(seconds) == len(costs)
    assert seconds.min() >= 0 < seconds.max()
    assert session.position == 30
    if native is not None:
        before = bench.sticks._spent.copy()
        session.decode(3)
        assert np.array_equal(bench.sticks._spent, before)
