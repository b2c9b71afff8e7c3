"""Every sync of every kernel that a target emits for the kit's cases left out, one at a time.

Kernels with the same text, names aside, are tried once. A kernel runs on inputs of several sizes,
longest loops first; a fault that the detector reports on one of them is caught and goes no further.
The values of one that it reports on none are compared on the first. Records are kept kernel by
kernel, so that a sweep that was ended goes on where it stopped.
"""

from __future__ import annotations

import argparse
import datetime
import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.codegen.target import Array, Source, Target
from firstlight.runtime.errors import FirstlightError
from firstlight.targets import available
from firstlight.targets.cambricon.bang_machine import Outcome, Settings
from firstlight.targets.cambricon.chips import Chip
from firstlight.targets.cambricon.executor import BangExecutor
from firstlight.targets.cambricon.faults import Fault, Trial, syncs
from firstlight.targets.conform.cases import CONTEXT, all_cases
from firstlight.targets.conform.execute import Run
from firstlight.targets.conform.units import Unit, units

TOKENS = {"prefill": (67, 19, 7), "decode": (1,)}
"""Tokens of a call, in the order in which they are tried: 67 are more than one round of rows.
What has states has no room for so many."""
SECONDS = 30.0
"""A launch that takes longer has lost its way, which is a change of its results."""


@dataclass
class Swept:
    """What is known of a kernel. `inputs` are [tokens, position of the first]."""

    kernel: str
    op: str
    alarm: str = ""
    faults: list[Fault] = field(default_factory=list)
    inputs: list[list[int]] = field(default_factory=list)
    seconds: float = 0.0


class Trying(BangExecutor):
    """Runs a kernel as ever, and before that all faults of it that are not caught yet.

    Attributes:
        values: whether they are to be seen in the results, or by the detector.
    """

    swept: Swept
    values = False

    def run(self, symbol: str, buffers: Sequence[Array], tokens: int) -> None:
        """See `Executor.run`."""

        def on_copies(settings: Settings) -> tuple[Outcome, bytes]:
            copies = [b.copy() for b in buffers]
            try:
                outcome = self.outcome(symbol, copies, tokens, settings, SECONDS)
            except FirstlightError as error:
                outcome = Outcome(error.what if settings.without is None or not settings.check
                                  else "", settings.without is not None)
            return outcome, b"".join(c.tobytes() for c in copies)

        trial = Trial(f"{symbol}.mlu", self.chip.arch, on_copies)
        found = self.swept
        if not self.values:
            found.alarm = found.alarm or trial.alarm()
        found.faults = [f if f.said else trial.compared(f) if self.values else trial.said(f)
                        for f in found.faults]
        super().run(symbol, buffers, tokens)


def inputs(unit: Unit) -> Iterator[tuple[int, int]]:
    """(tokens, position of the first): the furthest position at each size, then the others."""
    positions = sorted(unit.case.positions, reverse=True)
    sizes = TOKENS[unit.shape]

    def fits(tokens: int) -> list[int]:
        return [p for p in positions if not unit.case.states or p + tokens <= CONTEXT]

    yield from ((tokens, fits(tokens)[0]) for tokens in sizes if fits(tokens))
    yield from ((tokens, pos) for tokens in sizes for pos in fits(tokens)[1:])


def sweep(unit: Unit, target: Target, executor: Trying) -> Swept:
    """All faults of a unit's kernel."""
    began = time.perf_counter()
    (kernel,) = unit.kernels
    text = executor.sources[kernel.name].files[f"{kernel.name}.mlu"].decode()
    found = Swept(kernel.name, unit.op, faults=[Fault(n, t) for n, t in syncs(text)])
    executor.swept, some = found, list(inputs(unit))
    for number, (tokens, pos) in enumerate([*some, some[0]]):
        if all(f.said for f in found.faults):
            break
        executor.values = number == len(some)
        sizes, random = {"B": 1, "S": tokens, "C": CONTEXT}, np.random.default_rng(tokens)
        operands = list(unit.case.operands(random, sizes, pos, unit.case.changes[0]))
        Run(executor, target.packer, unit, operands, sizes)
        if not executor.values:
            found.inputs.append([tokens, pos])
    found.seconds = round(time.perf_counter() - began, 2)
    return found


def distinct(some: Iterable[Unit], sources: Mapping[str, Source]) -> dict[str, Unit]:
    """A unit by the text of its kernel without its name; those of one text are one."""
    found: dict[str, Unit] = {}
    for unit in some:
        for kernel in unit.kernels:
            text = sources[kernel.name].files[f"{kernel.name}.mlu"].decode()
            found.setdefault(text.replace(kernel.name, "KERNEL"), unit)
    return found


def swept(name: str, notes: Path, ops: Sequence[str], so_far: bool = False) -> Iterator[Swept]:
    """Records of all kernels, from `notes` (a file of JSON lines) or made now and put there.

    Args:
        so_far: nothing is made; kernels without a record have one without faults and inputs.
    """
    before = {}
    if notes.exists():
        for line in notes.read_text().splitlines():
            record = json.loads(line)
            record["faults"] = [Fault(**{**f, "changes": tuple(f["changes"])})
                                for f in record["faults"]]
            before[record["kernel"]] = Swept(**record)
    target = available().targets[name]
    emulate = target.emulate
    assert isinstance(emulate, partial), "the target's chip is its first argument"
    chip: Chip = emulate.args[0]
    some = [u for u in units(target, all_cases(tuple(ops))) if u.kernels]
    sources = {k.name: target.emit(k) for u in some for k in u.kernels}
    one_each = list(distinct(some, sources).values())
    left = [u for u in one_each if u.kernels[0].name not in before
            and syncs(sources[u.kernels[0].name].files[f"{u.kernels[0].name}.mlu"].decode())]
    if so_far:
        yield from (before.get(u.kernels[0].name, Swept(u.kernels[0].name, u.op))
                    for u in one_each if u in left or u.kernels[0].name in before)
        return
    left.sort(key=lambda u: len(sources[u.kernels[0].name].files[f"{u.kernels[0].name}.mlu"]))
    with tempfile.TemporaryDirectory() as folder:
        names = [u.kernels[0].name for u in left]
        executor = Trying(chip, {n: sources[n] for n in names}, Path(folder))
        for number, unit in enumerate(left):
            found = sweep(unit, target, executor)
            with notes.open("a") as out:
                out.write(json.dumps(asdict(found)) + "\n")
            before[found.kernel] = found
            silent = sum(not f.said for f in found.faults)
            print(f"{number + 1}/{len(left)} {found.kernel}: {found.seconds} s, "
                  f"{len(found.faults)} syncs, {silent} not reported", flush=True)
    yield from (before[u.kernels[0].name] for u in one_each if u.kernels[0].name in before)


def report(name: str, records: Iterable[Swept]) -> dict[str, Any]:
    """Figures, and by kernel what was not caught: ``line sync``."""
    verdicts = ("caught", "missed", "harmless", "not reached")
    total: dict[str, Any] = {"kernels_with_syncs": 0, "kernels_tried": 0, "false_alarms": 0,
                             "left_out": 0, **dict.fromkeys(verdicts, 0)}
    listed: dict[str, dict[str, str]] = {v: {} for v in verdicts[1:]}
    alarms, by_sync = {}, dict[str, dict[str, int]]()
    not_tried: list[str] = []
    for record in records:
        total["kernels_with_syncs"] += 1
        total["kernels_tried"] += bool(record.inputs)
        not_tried += [record.kernel] * (not record.inputs)
        if record.alarm:
            alarms[record.kernel] = record.alarm
        total["left_out"] += len(record.faults)
        for fault in record.faults:
            total[fault.verdict] += 1
            word = fault.text.partition("(")[0].removeprefix("__")
            kind = by_sync.setdefault(word, dict.fromkeys(verdicts, 0))
            kind[fault.verdict] += 1
            if fault.verdict != "caught":
                known = listed[fault.verdict].get(record.kernel)
                listed[fault.verdict][record.kernel] = (
                    f"{known}, " * bool(known) + f"{fault.line} {word}")
    total["false_alarms"] = len(alarms)
    judged = total["caught"] + total["missed"]
    return {"target": name, "when": datetime.date.today().isoformat(), "total": {
        **total, "caught_of_those_that_matter": round(total["caught"] / judged, 4) if judged
        else None}, "by_sync": by_sync, "not_tried": not_tried,
        "false_alarms": alarms, **listed}


def main() -> None:
    """TARGET NOTES [OP ...]: sweep, and write the report as JSON."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("target")
    words.add_argument("notes", type=Path, help="a file of records; a sweep goes on where it ends")
    words.add_argument("ops", nargs="*")
    words.add_argument("--so-far", action="store_true", help="no kernel is run")
    words.add_argument("--json", type=Path, help="where the report goes")
    given = words.parse_args()
    document = report(given.target,
                      swept(given.target, given.notes, given.ops, given.so_far))
    if given.json:
        given.json.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document["total"], indent=1))


if __name__ == "__main__":
    main()
