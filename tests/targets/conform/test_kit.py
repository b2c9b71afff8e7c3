"""The kit's own promises: every op has cases, reports add up, the command line, whole models."""

import json
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from firstlight import targets
from firstlight.cli import cli
from firstlight.codegen.generic import generic_kernel
from firstlight.ir.core import Module, Op
from firstlight.ir.registry import TABLE, OpInfo
from firstlight.ir.types import CODECS, MXFP8
from firstlight.runtime.errors import FirstlightError
from firstlight.targets.conform import LEVELS, conform, matrix, model, read_report, table
from firstlight.targets.conform.cases import INLINED, all_cases
from firstlight.targets.conform.checkpoints import write_checkpoint
from firstlight.targets.conform.measure import Errors, Memory
from firstlight.targets.conform.report import Check, Report
from firstlight.targets.cpu.executor import CpuExecutor

CPU = targets.find("cpu-x86-64-v3")


def test_every_op_has_cases_and_every_codec_is_in_some():
    cases = all_cases(native=frozenset(TABLE))
    assert set(cases) | set(INLINED) == set(TABLE)
    joints = {name for name, info in TABLE.items() if info.joint}
    assert set(all_cases()) == set(cases) - joints, "targets without them are not asked"
    assert set(all_cases(("hyper_mix",))) == {"hyper_mix"}
    used = {t.codec for some in cases.values() for c in some for t in c.types
            if getattr(t, "dtype", "")}
    assert set(CODECS) - used == {"i32", MXFP8}, "no checkpoint has tables of i32, nor MXFP8"


def test_an_op_row_without_cases_fails_the_kit(monkeypatch):
    monkeypatch.setitem(TABLE, "brand_new", OpInfo("brand_new", ("x",), ("y",)))
    with pytest.raises(FirstlightError, match="F440") as caught:
        all_cases()
    assert "brand_new" in str(caught.value)


def test_an_unknown_op_is_refused():
    with pytest.raises(FirstlightError, match="F441"):
        conform(CPU, "emit", ("lineer",))


def test_summary_badge_and_matrix_add_up():
    how = {"add": "native", "mul": "generic", "exp": "missing", "sin": "generic"}
    report = Report("chip", "C", "run", support=how, checks=[
        Check("add", "emit", 2), Check("add", "build", 2), Check("add", "run", 9),
        Check("mul", "emit", 2), Check("mul", "build", 2), Check("mul", "run", 9, ["off"]),
        Check("exp", "emit", missing="no table"), Check("exp", "build", missing="no table"),
        Check("exp", "run", missing="no table"),
        Check("sin", "emit", 1), Check("sin", "build", skips=["not here"]),
        Check("sin", "run", skips=["not here"]),
    ])
    assert report.badge == "chip C run ops 1/4"
    assert not report.clean
    assert "NOT conformant" in report.summary
    printed = table(report)
    assert printed.splitlines()[-1] == report.summary
    assert "failed run mul: off" in printed
    assert "missing exp: no table" in printed
    document = json.loads(json.dumps(report.document()))
    assert document["levels"]["run"] == {"passed": 1, "total": 4}
    other = document | {
        "target": "pihc", "through": "emulator", "lines": 12, "seconds": {"emit": 1.4},
        "levels": {"model": {"passed": 6, "total": 6}}, "checks": document["checks"][:3],
        "support": dict.fromkeys(how, "generic")}
    shown = matrix([document, other]).splitlines()
    assert shown[2] == "| `chip` | C, not shown | 3/4 | 2/4 | 1/4 | - | not conformant | - | 0 |"
    assert shown[3].startswith("| `pihc` | C | - |"), "its kernels ran"
    assert shown[3].endswith("| 6/6, emulated | not conformant | 12 | 1 |")
    assert shown[5:] == [
        "| ops | `chip` | `pihc` |", "|---|---|---|",
        "| `add` | native | generic |", "| `exp` | missing | - |",
        "| `mul` | generic, fails at run | - |", "| `sin` | generic, not here at build | - |"]
    assert Report("chip", "C", "run").clean is False, "nothing checked is not conformant"


def test_errors_in_three_measures():
    errors = Errors()
    want = np.array([1, -8, np.inf, 0], np.float32)
    got = np.array([1, np.nextafter(np.float32(-8), np.float32(0)), np.inf, 0], np.float32)
    assert errors.compare(got, want, "here") == ""
    assert errors.max_ulp == 0.5, "below a power of two the spacing is half"
    assert errors.max_rel == errors.max_abs / 8
    assert errors.worst.startswith("here at [1]")
    assert "not finite" in errors.compare(np.zeros(4, np.float32), want, "here")
    assert "nan at [0]" in errors.compare(np.array([np.nan, -8, np.inf, 0], np.float32), want, "x")
    assert "1 of 2 differ" in errors.compare(np.array([1, 2], np.int32),
                                             np.array([1, 3], np.int32), "x")


def test_memory_has_guards():
    memory = Memory(np.arange(5, dtype=np.int32))
    assert memory.array.ctypes.data % 64 == 0
    assert memory.problem("x", written=False) == ""
    memory.array[2] = 7
    assert memory.problem("x", written=False) == "the operand x was overwritten"
    assert memory.problem("x", written=True) == ""


def test_the_command_line(tmp_path):
    file = tmp_path / "report.json"
    arguments = ["conform", CPU.name, "--level", "run", "--ops", "rope, relu", "-q", "--json",
                 str(file)]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[-2] == f"{CPU.name} A run ops 2/2"
    assert lines[-1].startswith(f"{CPU.name}: clean at level run, for these ops only (6 passed")
    document = read_report(file)
    numbers = {(c["op"], c["level"]): c["numbers"] for c in document["checks"]}
    assert set(numbers["rope", "run"]) == {"native", "generic"}
    assert 0 < numbers["rope", "run"]["native"]["max_rel"] < 1e-6
    done = CliRunner().invoke(cli, ["conform", "--matrix", str(file), str(file)])
    assert done.exit_code == 0
    row = f"| `{CPU.name}` | A | 2/2 | 2/2 | 2/2 | - | not conformant | {document['lines']} |"
    assert done.output.count(row) == 2
    assert "| `rope` | native | native |" in done.output
    assert document["lines"] > 1000
    assert {"date", "cpu", "system", "python", "firstlight", "tools"} == set(document["made"])
    assert CliRunner().invoke(cli, ["conform", "one", "two"]).exit_code == 2
    done = CliRunner().invoke(cli, ["conform", CPU.name, "--json", str(tmp_path / "no" / "r.json")])
    assert "F714" in str(done.exception)


def test_a_skip_is_not_success():
    done = CliRunner().invoke(cli, ["conform", "null", "--level", "run", "--ops", "relu", "-q"])
    assert done.exit_code == 1
    assert "NOT conformant" in done.output.splitlines()[-1]
    assert "skipped run relu: not here" in done.output


def test_another_file_is_no_report(tmp_path):
    (tmp_path / "x.json").write_text('{"kind": "firstlight-artifact"}')
    with pytest.raises(FirstlightError, match="F443"):
        read_report(tmp_path / "x.json")


def test_checkpoints_are_the_same_every_time(tmp_path):
    for name in "ab":
        write_checkpoint(tmp_path / name, "wch")
    files = [{p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in "ab"]
    assert files[0] == files[1]


def test_a_wrong_kernel_is_found_in_a_model(tmp_path, monkeypatch):
    """A norm whose epsilon is wrong by a thousandth: small in one op, seen in the logits."""
    def off(name: str, op: Op, tokens: int):
        wrong = Op(op.name, op.operands, {**op.attrs, "eps": op.attrs["eps"] + 1e-3}, op.results)
        return generic_kernel(name, wrong, Module())

    planted = replace(CPU, overrides=lambda: {**CPU.overrides(), "norm_rope_attention": off})
    monkeypatch.setattr(model, "PATTERNS", {"window": "w"})
    foreign = replace(planted, launcher="none-is-here")
    for target, wanted, through in ((CPU, "passed", "launcher"), (planted, "failed", "launcher"),
                                    (replace(CPU, launcher="none-is-here"), "passed", "emulator"),
                                    (foreign, "failed", "emulator")):
        folder = tmp_path / f"{wanted} {through}"
        folder.mkdir()
        check = next(model.check_model(target, folder))
        assert (check.status, check.through) == (wanted, through), check.problems
        assert set(check.numbers) >= {"prefill", "decode"}


def test_a_machine_without_launcher_and_emulator_is_not_here(tmp_path, monkeypatch):
    monkeypatch.setattr(model, "PATTERNS", {"window": "w"})
    for emulate in (None, lambda kernels, folder: None):
        target = replace(CPU, launcher="none-is-here", emulate=emulate)
        folder = tmp_path / str(emulate is None)
        folder.mkdir()
        check = next(model.check_model(target, folder))
        assert check.status == "skipped"
        assert "not here" in check.skips[0]


@pytest.mark.parametrize(("end", "said"), [
    ("hang", "no end after 1 s"), ("crash", "the process died"),
])
def test_a_model_whose_kernel_never_ends_or_crashes(tmp_path, monkeypatch, end, said):
    class Bad(CpuExecutor):
        def run(self, symbol, buffers, tokens):
            if symbol.startswith("norm_rope"):
                time.sleep(1000) if end == "hang" else os.kill(os.getpid(), signal.SIGSEGV)
            super().run(symbol, buffers, tokens)

    def emulate(kernels, folder):
        CPU.build(kernels, folder, None)
        return Bad(folder / "code" / "model.so")

    monkeypatch.setattr(model, "PATTERNS", {"window": "w"})
    target = replace(CPU, launcher="none-is-here", emulate=emulate)
    check = next(model.check_model(target, tmp_path, limit=1.0))
    assert check.status == "failed"
    assert said in check.problems[0]
    assert "norm_rope" in check.problems[0], "it names the kernel"


@pytest.mark.slow
def test_this_target_is_conformant():
    report = conform(CPU, LEVELS[-1])
    assert report.conformant, table(report)
