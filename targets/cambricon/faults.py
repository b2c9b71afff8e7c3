"""Seeded faults for the hazard detector: every sync of a kernel left out, one at a time.

A sync is left out by its line, without compiling anew: the call returns at once. The kernel is then
run with all checks, and without them in every queue order and eight seeds, its cores in turns.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firstlight.targets.cambricon.bang_machine import ORDERS, Outcome, Settings

if TYPE_CHECKING:
    from firstlight.codegen.kernel import Kernel
    from firstlight.codegen.target import Array
    from firstlight.targets.cambricon.chips import Chip

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
    reached: bool
    said: str
    changes: tuple[str, ...]

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


def seeded(file: str, text: str, arch: int, run: Run) -> tuple[str, list[Fault]]:
    """What is said about the whole kernel (a false alarm), and all its faults.

    Args:
        file: the name under which the text was compiled.
    """
    plain = Settings(arch, serial=True)
    ways = [replace(plain, order=order, seed=seed, check=False)
            for order in ORDERS for seed in SEEDS]
    alarms = [run(replace(plain, order=order, seed=0))[0].problem for order in ORDERS]
    expected = [run(way)[1] for way in ways]
    faults = []
    for line, call in syncs(text):
        outcomes = [run(replace(plain, order=order, seed=0, without=(file, line)))[0]
                    for order in ORDERS]
        reached = any(o.left_out for o in outcomes)
        changes = []
        for way, right in zip(ways, expected, strict=True) if reached else ():
            outcome, got = run(replace(way, without=(file, line)))
            if got != right or outcome.problem:
                changes.append(f"{way.order}, seed {way.seed}")
        said = next((o.problem for o in outcomes if o.problem), "")
        faults.append(Fault(line, call, reached, said, tuple(changes)))
    return next((a for a in alarms if a), ""), faults


def merged(before: tuple[str, list[Fault]] | None, alarm: str,
           faults: list[Fault]) -> tuple[str, list[Fault]]:
    """What several runs of one kernel have shown together."""
    if before is None:
        return alarm, faults
    return before[0] or alarm, [
        Fault(a.line, a.text, a.reached or b.reached, a.said or b.said, a.changes + b.changes)
        for a, b in zip(before[1], faults, strict=True)]


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


def emitted(target: str, ops: Sequence[str]) -> dict[str, Any]:
    """Faults of every kernel that a target emits for the kit's cases, each at all its sizes."""
    from firstlight.targets import available
    from firstlight.targets.cambricon.executor import BangExecutor
    from firstlight.targets.conform.kit import conform

    folder = Path(tempfile.mkdtemp(prefix="firstlight-faults-"))    # the kit runs units in forks

    class Seeding(BangExecutor):
        """Runs a kernel as ever, and the first time at each size with all its faults."""

        def run(self, symbol: str, buffers: Sequence[Array], tokens: int) -> None:
            note = folder / f"{symbol}.{tokens}.json"
            if not note.exists():
                file = f"{symbol}.mlu"

                def on_copies(settings: Settings) -> tuple[Outcome, bytes]:
                    copies = [b.copy() for b in buffers]
                    outcome = self.outcome(symbol, copies, tokens, settings)
                    return outcome, b"".join(c.tobytes() for c in copies)

                alarm, faults = seeded(file, self.sources[symbol].files[file].decode(),
                                       self.chip.arch, on_copies)
                note.write_text(json.dumps([alarm, [asdict(f) for f in faults]]))
            super().run(symbol, buffers, tokens)

    whole = available().targets[target]
    emulate = whole.emulate
    assert isinstance(emulate, partial), "the target's chip is its first argument"
    chip: Chip = emulate.args[0]

    def seeding(kernels: Mapping[str, Kernel], scratch: Path) -> Seeding:
        return Seeding(chip, {n: whole.emit(k) for n, k in kernels.items()}, scratch)

    conform(replace(whole, emulate=seeding), "run", ops, limit=24 * 3600)
    found: dict[str, tuple[str, list[Fault]]] = {}
    for note in sorted(folder.glob("*.json")):
        alarm, faults = json.loads(note.read_text())
        name = note.name.partition(".")[0]
        found[name] = merged(found.get(name), alarm, [
            Fault(**{**f, "changes": tuple(f["changes"])}) for f in faults])
    shutil.rmtree(folder)
    return summary(found)


if __name__ == "__main__":      # TARGET [OP ...] -> the report
    print(json.dumps(emitted(sys.argv[1], sys.argv[2:]), indent=1))
