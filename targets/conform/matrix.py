"""Several reports as two markdown tables: targets by levels, and ops by targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from firstlight.targets.conform.report import LEVELS

SHOWN_BY = {"A": "run", "B+": "run", "C": "run", "B": "build", "D": "emit"}
"""The level that has to pass for a target to be of its tier."""
Documents = Sequence[Mapping[str, Any]]
"""Reports, as `read_report` gives them."""


def matrix(documents: Documents) -> str:
    """How far each target comes, what else was run in place of its code, how it has each op."""
    parts = [_targets(documents), _notes(documents), _ops(documents)]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _targets(documents: Documents) -> list[str]:
    lines = [f"| target | tier | {' | '.join(LEVELS)} | verdict | lines of code | seconds |",
             "|---" * (3 + len(LEVELS)) + "|---:|---:|"]
    for d in documents:
        cells = [f"{x['passed']}/{x['total']}" if (x := d["levels"].get(level)) else "-"
                 for level in LEVELS]
        if d.get("through") == "emulator":
            cells[LEVELS.index("model")] += ", emulated"
        verdict = f"conformant at {d['level']}" if d["conformant"] else "not conformant"
        lines.append(f"| `{d['target']}` | {_tier(d)} | {' | '.join(cells)} | {verdict} | "
                     f"{d.get('lines') or '-'} | {sum(d['seconds'].values()):.0f} |")
    return lines


def _tier(document: Mapping[str, Any]) -> str:
    """What the target says of itself, and whether this report shows it."""
    tier = str(document["tier"])
    at = [c["status"] for c in document["checks"] if c["level"] == SHOWN_BY[tier]]
    shown = "passed" in at and not {"failed", "skipped"} & set(at)
    return tier if shown else f"{tier}, not shown"


def _notes(documents: Documents) -> list[str]:
    return [f"`{d['target']}`, level {note}." for d in documents for note in d.get("notes", ())]


def _ops(documents: Documents) -> list[str]:
    """A row for all ops that every target has in the same way, the most first.

    A report that does not say how its target has ops gets no column.
    """
    documents = [d for d in documents if d.get("support")]
    cells = [_cells(d) for d in documents]
    groups: dict[tuple[str, ...], list[str]] = {}
    for op in sorted({op for some in cells for op in some}):
        groups.setdefault(tuple(some.get(op, "-") for some in cells), []).append(op)
    names = [f"`{d['target']}`" for d in documents]
    if not documents:
        return []
    lines = [f"| ops | {' | '.join(names)} |",
             "|---" * (1 + len(documents)) + "|"]
    for row, ops in sorted(groups.items(), key=lambda item: (-len(item[1]), item[1])):
        lines.append(f"| {' '.join(f'`{op}`' for op in ops)} | {' | '.join(row)} |")
    return lines


def _cells(document: Mapping[str, Any]) -> dict[str, str]:
    """op -> how the target has it; if a level does not pass, which and why not."""
    support: Mapping[str, str] = document.get("support", {})
    out: dict[str, str] = {}
    for check in document["checks"]:
        op, level, status = check["op"], check["level"], check["status"]
        if level == "model" or op not in support:
            continue
        out.setdefault(op, support[op])
        if status in ("failed", "skipped") and out[op] == support[op]:
            out[op] += f", {'not here' if status == 'skipped' else 'fails'} at {level}"
    return out
