"""The kit: levels in order, one report."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from firstlight.codegen.target import Target
from firstlight.ir.registry import TABLE
from firstlight.runtime.errors import FirstlightError
from firstlight.targets import available
from firstlight.targets.conform.build import check_build
from firstlight.targets.conform.cases import INLINED, all_cases
from firstlight.targets.conform.checkpoints import PATTERNS
from firstlight.targets.conform.emit import check_emit, check_manifest
from firstlight.targets.conform.made import lines_of, made
from firstlight.targets.conform.report import ORACLE, Check, Report
from firstlight.targets.conform.run import check_run
from firstlight.targets.conform.units import Unit, units
from firstlight.targets.conform.watch import LIMIT

KERNELS = 10
"""Limits of one kernel that a call of a whole model may take: a driver compiles in the first."""

Progress = Callable[[str, int, int], None]


def conform(target: Target, level: str = "run", ops: Iterable[str] = (),
            progress: Progress = lambda stage, done, total: None,
            limit: float = LIMIT) -> Report:
    """Hold a target against its contract, up to and including `level`.

    Level `oracle` is for itself: it asks another engine what the ops mean, whatever the target.

    Args:
        ops: only these rows of the op table; without, all of them.
        progress: called with a level and how many ops, or models, of it are done.
        limit: seconds that one call of a kernel may take.

    Raises F441 for an unknown op.
    """
    chosen = tuple(ops)
    unknown = [name for name in chosen if name not in TABLE or name in INLINED]
    if unknown:
        raise FirstlightError(
            "F441", f"there is no op {', '.join(unknown)} to check", where="--ops",
            why="no row of the op table that kernels stand for has this name",
            try_=f"some of: {', '.join(sorted(set(TABLE) - set(INLINED)))}",
        )
    report = Report(target.name, target.tier, level, chosen, made=made(target),
                    lines=lines_of(target, available().modules),
                    support={op: has.how for op, has in target.ops.items() if op not in INLINED})
    report.add(check_manifest(target, report.versions))
    if report.checks:
        return report
    cases = all_cases(chosen, target.capabilities.native)
    by_op: dict[str, list[Unit]] = {name: [] for name in cases}
    with tempfile.TemporaryDirectory(prefix="firstlight-conform-") as folder:
        scratch = Path(folder)

        def emit() -> Iterable[Check]:
            for unit in units(target, cases):
                by_op[unit.op].append(unit)
            return check_emit(target, by_op)

        def model() -> Iterable[Check]:
            from firstlight.targets.conform.model import check_model

            return check_model(target, scratch, KERNELS * limit)

        def oracle() -> Iterable[Check]:
            from firstlight.targets.conform.oracle import check_oracle

            return check_oracle(cases)

        steps: dict[str, Callable[[], Iterable[Check]]] = {
            "emit": emit,
            "build": lambda: check_build(target, by_op, scratch, report.commands),
            "run": lambda: check_run(target, by_op, scratch, limit),
            "model": model,
            ORACLE: oracle,
        }
        for name in report.levels:
            began, done = time.perf_counter(), 0
            total = 1 + len(PATTERNS) if name == "model" else len(by_op)
            progress(name, 0, total)
            for check in steps[name]():
                report.checks.append(check)
                done += 1
                progress(name, done, total)
            report.seconds[name] = time.perf_counter() - began
    return report
