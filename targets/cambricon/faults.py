"""Seeded faults for the hazard detector: every sync of a kernel left out, one at a time.

A sync is left out by its line, without compiling anew: the call returns at once. The kernel is then
run with all checks, and without them in every queue order and eight seeds, its cores in turns.
`fault_sweep` does that with all kernels that a target emits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from firstlight.targets.cambricon.bang_machine import ORDERS, Outcome, Settings

SEEDS = range(8)
SYNC = re.compile(r"\b__sync\w*\s*\(")
Run = Callable[[Settings], tuple[Outcome, bytes]]
"""A kernel on fresh memory: what the emulator says, and all bytes that it may have written."""


@dataclass(frozen=True)
class Fault:
    """A sync that was left out, and what came of it.

    reached   whether the run came by it at all
    said      what the detector says, or ""
    changes   orders and seeds in which the results differ
    """

    line: int
    text: str
    reached: bool = False
    said: str = ""
    changes: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """caught, missed (results change and nothing is said), harmless, or not reached."""
        if self.said:
            return "caught"
        if not self.reached:
            return "not reached"
        return "missed" if self.changes else "harmless"


def syncs(text: str) -> list[tuple[int, str]]:
    """Line and text of every sync; the emitter writes one a line.

    >>> syncs("a();\\n  __sync_io();\\n")
    [(2, '__sync_io();')]
    """
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)
            if SYNC.search(line)]


@dataclass
class Trial:
    """A kernel on one input; `file` is the name under which its text was compiled."""

    file: str
    arch: int
    run: Run
    _expected: dict[Settings, bytes] = field(default_factory=dict)

    def alarm(self) -> str:
        """What is said about the whole kernel."""
        said = (self.run(way)[0].problem for way in self._checked())
        return next(filter(None, said), "")

    def said(self, fault: Fault) -> Fault:
        """What the detector says, in any queue order, where the sync is left out."""
        for way in self._checked():
            outcome, _ = self.run(replace(way, without=(self.file, fault.line)))
            fault = replace(fault, said=fault.said or outcome.problem,
                            reached=fault.reached or outcome.left_out or bool(outcome.problem))
            if fault.said:
                break
        return fault

    def compared(self, fault: Fault) -> Fault:
        """In which orders and seeds the results differ."""
        line, changes = fault.line, list(fault.changes)
        for way in self._unchecked() if fault.reached else ():
            if way not in self._expected:
                self._expected[way] = self.run(way)[1]
            outcome, got = self.run(replace(way, without=(self.file, line)))
            if got != self._expected[way] or outcome.problem:
                changes.append(f"{way.order}, seed {way.seed}")
        return replace(fault, changes=tuple(changes))

    def _checked(self) -> list[Settings]:
        return [Settings(self.arch, order, 0, serial=True) for order in ORDERS]

    def _unchecked(self) -> list[Settings]:
        return [Settings(self.arch, order, seed, check=False, serial=True)
                for order in ORDERS for seed in SEEDS]


def seeded(file: str, text: str, arch: int, run: Run) -> tuple[str, list[Fault]]:
    """What is said about the whole kernel (a false alarm), and all its faults on one input.

    Args:
        file: the name under which the text was compiled.
    """
    trial = Trial(file, arch, run)
    return trial.alarm(), [trial.compared(trial.said(Fault(line, call)))
                           for line, call in syncs(text)]


def summary(kernels: Mapping[str, tuple[str, Sequence[Fault]]]) -> dict[str, Any]:
    """Figures of all kernels; misses and harmless ones by line."""
    document: dict[str, Any] = {"kernels": {}, "total": {}}
    verdicts = ("caught", "missed", "harmless", "not reached")
    total = {"kernels": len(kernels), "false_alarms": 0, "left_out": 0,
             **dict.fromkeys(verdicts, 0), "seen_by_values": 0}
    for name, (alarm, faults) in sorted(kernels.items()):
        figures = {v: sum(f.verdict == v for f in faults) for v in verdicts}
        seen = sum(bool(f.changes) for f in faults)
        document["kernels"][name] = {
            "false_alarm": alarm, "left_out": len(faults), **figures, "seen_by_values": seen,
            "lines": {v: [f"{f.line}: {f.text}" for f in faults if f.verdict == v]
                      for v in verdicts[1:] if figures[v]}}
        total["false_alarms"] += bool(alarm)
        total["left_out"] += len(faults)
        total["seen_by_values"] += seen
        for verdict, number in figures.items():
            total[verdict] += number
    judged = total["caught"] + total["missed"]
    document["total"] = {**total, "caught_of_those_that_matter":
                         round(total["caught"] / judged, 4) if judged else None}
    return document
