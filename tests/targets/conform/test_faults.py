"""Seeded faults: the kit finds each of them, at the level where it belongs, and nothing else."""

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from firstlight.codegen.generic import generic_kernel
from firstlight.codegen.target import Source, Target
from firstlight.ir.core import Module, Op
from firstlight.passes.capabilities import Capabilities, MemorySpace
from firstlight.runtime.errors import FirstlightError
from firstlight.targets import find
from firstlight.targets.conform import conform
from firstlight.targets.conform.cases import all_cases
from firstlight.targets.conform.units import units
from firstlight.targets.cpu.executor import CpuExecutor
from support.kernel_faults import RUN

CPU = find("cpu-x86-64-v3")
OPS = tuple(sorted({op for op, _, _ in RUN}))


def _text(folder: Path) -> Path:
    path = folder / "text"
    path.write_text("built")
    return path


PLAIN = replace(
    CPU, name="planted", capabilities=Capabilities(), overrides=dict, packer=None,
    emit=lambda kernel: Source({kernel.name: b"text"}, kernel.name, {}, {}),
    build=lambda kernels, folder, jobs: [_text(folder)],
)
"""Generic kernels only. Emitting and building cost nothing: the kernels are in `library`."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Correct kernels of all ops that faults are planted in."""
    folder = tmp_path_factory.mktemp("kernels")
    kernels = {k.name: k for u in units(PLAIN, all_cases(OPS)) for k in u.kernels}
    CPU.build(kernels, folder, 1)
    return folder / "code" / "model.so"


class Spoiled:
    """An executor whose kernels of one op are wrong."""

    def __init__(self, library: Path, op: str, fault: Callable[..., Any]) -> None:
        self.right, self.op, self.fault = CpuExecutor(library), op, fault

    def run(self, symbol: str, buffers: Any, tokens: int) -> None:
        if symbol.startswith(f"{self.op}_generic"):
            self.fault(lambda *b: self.right.run(symbol, b, tokens), tokens, *buffers)
        else:
            self.right.run(symbol, buffers, tokens)


def levels(target: Target, level: str, *ops: str) -> dict[str, Any]:
    """The checks that are not clean, by level."""
    report = conform(target, level, ops)
    assert report.clean == (not report.of("failed") and not report.of("skipped"))
    return {c.level: c for c in report.checks if c.status in ("failed", "skipped")}


def test_without_a_fault_nothing_is_found(library):
    target = replace(PLAIN, emulate=lambda kernels, folder: CpuExecutor(library))
    report = conform(target, "run", OPS)
    assert report.clean
    assert not report.conformant, "a part of the ops does not make a target conformant"
    assert all(c.count for c in report.checks)


@pytest.mark.parametrize(("op", "fault", "said"), RUN, ids=[f.__name__ for _, f, _ in RUN])
def test_a_wrong_kernel_is_found_when_it_runs(library, op, fault, said):
    target = replace(PLAIN, emulate=lambda kernels, folder: Spoiled(library, op, fault))
    others = tuple(o for o in ("rms_norm", "ring_write") if o != op)[:1]
    report = conform(target, "run", (op, *others))
    bad = [(c.level, c.op) for c in report.checks if c.status != "passed"]
    assert bad == [("run", op)], "and the other op is still judged"
    problems = next(c.problems for c in report.checks if c.status == "failed")
    assert any(said in text for text in problems), problems[:3]


def test_a_swiglu_that_is_not_clamped(tmp_path):
    def unclamped(name: str, op: Op, tokens: int):
        wrong = Op(op.name, op.operands, {**op.attrs, "limit": 1e30}, op.results)
        return generic_kernel(name, wrong, Module())

    target = replace(CPU, overrides=lambda: {"expert_ffn": unclamped}, packer=None,
                     emit=PLAIN.emit, build=PLAIN.build,
                     capabilities=Capabilities(native=frozenset({"expert_ffn"})))
    found = levels(target, "run", "expert_ffn")
    assert set(found) == {"run"}
    assert all("native" in text for text in found["run"].problems), "the generic one is right"


def test_emitting_twice_must_give_the_same(library):
    number = count()
    target = replace(PLAIN, emit=lambda k: Source(
        {k.name: str(next(number)).encode()}, k.name, {}, {}))
    found = levels(target, "emit", "relu")
    assert "emitted twice, it is not the same" in found["emit"].problems[0]


def test_resources_must_fit():
    target = replace(
        PLAIN, capabilities=Capabilities(memory=(MemorySpace("scratch", 4096),)),
        emit=lambda k: Source({k.name: b""}, k.name, {}, {"scratch_bytes": 4097}))
    assert "4097 scratch_bytes, the chip has 4096" in levels(target, "emit", "relu")[
        "emit"].problems[0]


def test_an_op_that_cannot_be_emitted():
    def emit(kernel):
        raise ValueError("no such intrinsic")

    found = levels(replace(PLAIN, emit=emit), "emit", "exp")
    assert "no such intrinsic" in found["emit"].problems[0]


def test_an_op_said_to_be_native_without_an_override():
    target = replace(PLAIN, capabilities=Capabilities(native=frozenset({"rope"})))
    assert "no override fits" in levels(target, "emit", "rope")["emit"].problems[0]


def test_a_build_that_fails_names_the_op():
    def build(kernels, folder, jobs):
        if any(name.startswith("sin_") for name in kernels):
            raise RuntimeError("the assembler says no")
        return [_text(folder)]

    report = conform(replace(PLAIN, build=build), "build", ("sin", "cos"))
    bad = {c.op: c.problems for c in report.of("failed")}
    assert set(bad) == {"sin", "all kernels together"}
    assert "the assembler says no" in bad["sin"][0]


def _raises(*_):
    raise OSError("no such disk")


def _cannot_link(*_):
    raise FirstlightError("F411", "linking failed", where="cc", why="a word is wrong", try_="")


@pytest.mark.parametrize(("change", "level", "said"), [
    ({"tools": _raises}, "emit", "no such disk"),
    ({"versions": _raises}, "emit", "no such disk"),
    ({"overrides": lambda: {"no_op": None}}, "emit", "no_op"),
    ({"overrides": lambda: {"sin": lambda *_: "kernel"}}, "emit", "a Kernel or None, not 'kernel'"),
    ({"emit": lambda kernel: None}, "emit", "no Source, but None"),
    ({"emit": lambda kernel: Source({}, kernel.name, {}, {})}, "emit", "no files of bytes"),
    ({"build": lambda kernels, folder, jobs: ()}, "build", "nothing"),
    ({"build": lambda kernels, folder, jobs: [folder / "x"]}, "build", "is not in the artifact"),
    ({"emulate": lambda kernels, folder: object()}, "run", "no attribute 'run'"),
    ({"emulate": _raises}, "run", "no such disk"),
    ({"emulate": _cannot_link}, "run", "because: a word is wrong"),
])
def test_a_port_that_breaks_its_contract(change, level, said):
    found = levels(replace(PLAIN, **change), level, "sin")
    assert found[level].status == "failed"
    assert said in found[level].problems[0]


def test_a_build_that_dies_is_reported():
    def build(kernels, folder, jobs):
        os.kill(os.getpid(), signal.SIGKILL)

    assert "the build died" in levels(replace(PLAIN, build=build), "build", "sin")[
        "build"].problems[0]


def test_a_tool_chain_that_is_elsewhere_is_a_skip_with_its_commands():
    def build(kernels, folder, jobs):
        (folder / "code").mkdir()
        listed = folder / "code" / "commands.txt"
        listed.write_text("chipcc -c sin.c\n")
        return [listed]

    report = conform(replace(PLAIN, build=build), "build", ("sin",))
    assert not report.clean
    assert [c.level for c in report.of("skipped")] == ["build"]
    assert report.commands == ["chipcc -c sin.c"]


def test_a_target_that_cannot_run_here_is_not_conformant():
    for emulate in (None, lambda kernels, folder: None):
        report = conform(replace(PLAIN, emulate=emulate), "run", ("sin",))
        assert [c.level for c in report.of("skipped")] == ["run"]
        assert not report.clean
        assert "not here" in report.of("skipped")[0].skips[0]


@pytest.mark.parametrize(("end", "said"), [
    ("sleep", "no end after 1 s"), ("spin", "no end after 1 s"), ("crash", "signal 11"),
])
def test_a_kernel_that_never_ends_or_crashes_fails_its_own_check_only(library, end, said):
    """Spinning is done by native threads, which no exception of Python would reach."""
    def emulate(kernels, folder):
        right = CpuExecutor(library)

        class Bad:
            def run(self, symbol, buffers, tokens):
                if not symbol.startswith("rms_norm"):
                    right.run(symbol, buffers, tokens)
                elif end == "sleep":
                    time.sleep(1000)
                elif end == "spin":
                    right.library.fl_fma(right.pool, ctypes.c_int64(1 << 50))
                else:
                    ctypes.string_at(0)

        return Bad()

    ops = ("ring_write", "rms_norm", "rope", "hyper_post")
    report = conform(replace(PLAIN, emulate=emulate), "run", tuple(o for o in ops if o in OPS
                                                                   or o == "rms_norm"), limit=1.0)
    bad = {c.op: c.problems for c in report.checks if c.status != "passed"}
    assert set(bad) == {"rms_norm"}
    assert said in bad["rms_norm"][0]
    assert "rms_norm_generic" in bad["rms_norm"][0], "it names the call"
    assert "S=1" in bad["rms_norm"][0]
    assert len(report.checks) == 3 * len({c.op for c in report.checks})


def test_a_kernel_that_is_not_fit_to_work_in_place_is_found():
    def override(symbol, op, tokens):
        return replace(generic_kernel(symbol, op, Module()), in_place=0)

    class ClearsItsResultFirst(CpuExecutor):
        def run(self, symbol, buffers, tokens):
            buffers[-1][...] = 0
            super().run(symbol, buffers, tokens)

    def emulate(kernels, folder):
        CPU.build(kernels, folder, 1)
        return ClearsItsResultFirst(folder / "code" / "model.so")

    target = replace(PLAIN, capabilities=Capabilities(native=frozenset({"rope"})),
                     overrides=lambda: {"rope": override}, emulate=emulate)
    problems = levels(target, "run", "rope")["run"].problems
    assert problems
    assert all(" in place" in problem for problem in problems)


def test_a_missing_composite_runs_as_its_decomposition(tmp_path):
    target = replace(CPU, capabilities=Capabilities(), overrides=dict, packer=None,
                     missing={"compress": "too large", "hadamard": "no bits"})
    report = conform(target, "run", ("compress", "hadamard"))
    status = {(c.op, c.level): c.status for c in report.checks}
    assert {s for (op, _), s in status.items() if op == "compress"} == {"passed"}
    assert {s for (op, _), s in status.items() if op == "hadamard"} == {"missing"}
    assert report.badge == "cpu-x86-64-v3 A run ops 1/2"
