"""What the kit found: checks, their sum, and the forms it is printed in."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.safetensors import parse_json

KIND = "firstlight-conformance"
LEVELS = ("emit", "build", "run", "model")
"""Each includes those before it."""
ORACLE = "oracle"
"""In a report of its own: what the ops mean, in the opinion of another engine."""


@dataclass
class Check:
    """One op at one level; at the level `model` the names of models stand for ops.

    Attributes:
        count: kernels, or calls, or logit rows that were looked at.
        problems: what is wrong.
        skips: what could not be looked at here, and why.
        missing: why the target does not have the op at all, in its own words.
        numbers: errors by kind of kernel ("native", "generic"), or by route of a model.
        note: what was run in place of the chip's own code, if so.
        through: at the level `model`, what ran the artifact: "launcher", or "emulator" where the
            launcher is not here.
    """

    op: str
    level: str
    count: int = 0
    problems: list[str] = field(default_factory=list)
    skips: list[str] = field(default_factory=list)
    missing: str = ""
    numbers: dict[str, dict[str, Any]] = field(default_factory=dict)
    note: str = ""
    through: str = ""

    @property
    def status(self) -> str:
        """failed, skipped, missing or passed."""
        if self.problems:
            return "failed"
        if self.skips:
            return "skipped"
        return "missing" if self.missing and not self.count else "passed"


@dataclass
class Report:
    """All checks of one target.

    Attributes:
        level: the highest level that was asked for.
        ops: what was asked for; empty means all.
        commands: how to build where the tool chain is, if it is not here.
        seconds: by level.
        made: when, on what machine, with what.
        lines: of code in the target's own package.
        support: op -> native, generic, decomposed or missing, as the manifest has it.
    """

    target: str
    tier: str
    level: str
    ops: tuple[str, ...] = ()
    checks: list[Check] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)
    lines: int = 0
    support: dict[str, str] = field(default_factory=dict)

    def add(self, checks: Iterable[Check]) -> None:
        """Take in the checks of a level."""
        self.checks += checks

    def of(self, status: str) -> list[Check]:
        """Checks with a status."""
        return [c for c in self.checks if c.status == status]

    @property
    def levels(self) -> tuple[str, ...]:
        """Every level that was looked at."""
        return (ORACLE,) if self.level == ORACLE else LEVELS[: LEVELS.index(self.level) + 1]

    @property
    def clean(self) -> bool:
        """Nothing failed and nothing was skipped."""
        return bool(self.checks) and not self.of("failed") and not self.of("skipped")

    @property
    def conformant(self) -> bool:
        """Clean, and over all ops."""
        return self.clean and not self.ops

    def level_counts(self) -> dict[str, tuple[int, int]]:
        """level -> (checks passed, checks in all); what the target misses counts as not passed."""
        out = {}
        for level in self.levels:
            here = [c for c in self.checks if c.level == level]
            out[level] = (sum(c.status == "passed" for c in here), len(here))
        return out

    @property
    def notes(self) -> list[str]:
        """What the levels were shown by, where that is not the chip's own code."""
        return list(dict.fromkeys(f"{c.level}: {c.note}" for c in self.checks if c.note))

    @property
    def through(self) -> str:
        """What ran the models, if any ran."""
        return ", ".join(sorted({c.through for c in self.checks if c.through and c.count}))

    @property
    def badge(self) -> str:
        """`name tier level ops passed/total`, the line that a matrix is made from."""
        names = sorted({c.op for c in self.checks if c.level != "model"})
        bad = {c.op for c in self.checks if c.level != "model" and c.status != "passed"}
        return f"{self.target} {self.tier} {self.level} ops {len(names) - len(bad)}/{len(names)}"

    @property
    def summary(self) -> str:
        """The last line printed."""
        counts = ", ".join(f"{len(self.of(s))} {s}" for s in ("passed", "failed", "skipped",
                                                              "missing"))
        if self.level == ORACLE:
            verdict = f"references {'agree' if self.clean else 'DISAGREE'} with the other engine"
        elif self.conformant:
            verdict = f"conformant at level {self.level}"
        elif self.clean:
            verdict = f"clean at level {self.level}, for these ops only"
        else:
            verdict = f"NOT conformant at level {self.level}"
        return f"{self.target}: {verdict} ({counts}; {sum(self.seconds.values()):.0f} s)"

    def document(self) -> dict[str, Any]:
        """The report as JSON."""
        return {
            "schema": 1, "kind": KIND, "target": self.target, "tier": self.tier,
            "level": self.level, "ops": list(self.ops), "conformant": self.conformant,
            "summary": self.summary, "badge": self.badge, "notes": self.notes,
            "through": self.through, "made": dict(self.made), "lines": self.lines,
            "support": dict(self.support),
            "levels": {k: {"passed": p, "total": t} for k, (p, t) in self.level_counts().items()},
            "seconds": {k: round(v, 1) for k, v in self.seconds.items()},
            "versions": dict(self.versions), "commands": list(self.commands),
            "checks": [{**asdict(c), "status": c.status} for c in self.checks],
        }


def table(report: Report, width: int = 110) -> str:
    """The report for people: a row per op, its errors, then every problem and skip by name."""
    from rich.console import Console
    from rich.table import Table

    grid = Table(title=f"{report.target}, tier {report.tier}", title_justify="left")
    levels = report.levels
    for column in ("op", *levels):
        grid.add_column(column)
    for column in ("abs", "rel", "ulp"):
        grid.add_column(column, justify="right")
    rows: dict[str, dict[str, Check]] = {}
    for check in report.checks:
        rows.setdefault(check.op, {})[check.level] = check
    for op, checks in rows.items():
        marks = [_mark(checks.get(level)) for level in levels]
        grid.add_row(op, *marks, *_worst(checks.values()))
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None)
    console.print(grid)
    for check in report.checks:
        for kind, texts in (("failed", check.problems), ("skipped", check.skips)):
            for text in texts[:3]:
                console.print(f"{kind} {check.level} {check.op}: {text}", markup=False)
            if texts[3:]:
                console.print(f"  and {len(texts) - 3} more", markup=False)
        if check.missing and check.level == "emit":
            console.print(f"missing {check.op}: {check.missing}", markup=False)
    if report.through:
        console.print(f"models ran through: {report.through}", markup=False)
    for note in report.notes:
        console.print(f"note {note}", markup=False)
    for command in report.commands[:3]:
        console.print(f"to build: {command}", markup=False)
    if report.commands[3:]:
        console.print(f"  and {len(report.commands) - 3} more commands, listed by --json")
    return out.getvalue() + report.badge + "\n" + report.summary


def read_report(path: Path) -> dict[str, Any]:
    """A report as `document` gave it; raises F443 for any other file."""
    document = parse_json(path.read_bytes(), where=str(path), code="F443")
    if document.get("kind") != KIND or document.get("schema") != 1:
        raise FirstlightError(
            "F443", "this is no conformance report", where=str(path),
            why=f"its kind is {document.get('kind')!r}, its schema {document.get('schema')!r}",
            try_="firstlight conform TARGET --json FILE    writes one",
        )
    return document


def _mark(check: Check | None) -> str:
    if check is None:
        return ""
    return f"{check.count}" if check.status == "passed" else check.status


def _worst(checks: Iterable[Check]) -> tuple[str, ...]:
    numbers = [n for c in checks for n in c.numbers.values()]
    if not numbers:
        return "", "", ""
    return tuple(f"{max(n.get(key, 0) for n in numbers):.2g}"
                 for key in ("max_abs", "max_rel", "max_ulp"))
