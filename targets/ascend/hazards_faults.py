"""Seeded faults for the hazard checker: each flag and barrier of a lowered kernel left out in turn.

A *single* fault leaves out one set, wait or barrier. A *pair* leaves out sets together with the
waits that await them, so that counts stay even and only the order of accesses can tell.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstlight.targets.ascend.hazards import check
from firstlight.targets.ascend.hazards_events import Part
from firstlight.targets.ascend.hazards_order import IN_ORDER, order
from firstlight.targets.ascend.hazards_trace import Lowered
from firstlight.targets.ascend.rewrite_ops import Op


@dataclass(frozen=True)
class Fault:
    """What is left out, and what came of it.

    changes   whether any two accesses lose their order
    findings  kinds of what the checker says
    """

    how: str
    text: str
    changes: bool
    findings: frozenset[str]

    @property
    def caught(self) -> bool:
        """Whether the checker says anything."""
        return bool(self.findings)


def seeded(text: str) -> list[Fault]:
    """All faults of a lowered kernel, singles first."""
    lowered = Lowered(text)
    flags = lowered.flags()
    whole = _before(lowered, frozenset())
    faults = [_fault(lowered, "single", [op], frozenset({id(op)}), whole)
              for op in flags]
    pairs = [([op for op in flags if id(op) in parts], parts) for parts in _components(lowered)]
    pairs.sort(key=lambda pair: [flags.index(op) for op in pair[0]])
    return faults + [_fault(lowered, "pair", ops, parts, whole) for ops, parts in pairs]


def summary(kernels: Mapping[str, str]) -> dict[str, Any]:
    """Figures of all faults of some kernels, with the harmless ones by name."""
    document: dict[str, Any] = {"kernels": {}, "total": {}}
    totals: dict[str, dict[str, int]] = {}
    for name, text in kernels.items():
        faults = seeded(text)
        record: dict[str, Any] = {"false_alarms": len(check(text))}
        for how in ("single", "pair"):
            some = [f for f in faults if f.how == how]
            figures = {
                "planted": len(some),
                "change_order": sum(f.changes for f in some),
                "caught": sum(f.caught for f in some),
                "caught_of_those_that_change_order": sum(f.caught for f in some if f.changes),
                "caught_by_order_alone": sum("hazard" in f.findings for f in some),
            }
            record[how] = {**figures, "not_caught": [
                {"left_out": f.text, "why": "the order it gives is given by others" if not f.changes
                 else "what it orders shares no byte"} for f in some if not f.caught]}
            total = totals.setdefault(how, dict.fromkeys(figures, 0))
            for key, value in figures.items():
                total[key] += value
        document["kernels"][name] = record
    document["total"] = {"false_alarms": sum(r["false_alarms"] for r in
                                             document["kernels"].values()), **totals}
    return document


def _fault(lowered: Lowered, how: str, ops: Iterable[Op], parts: frozenset[Part],
           whole: list[set[Any]]) -> Fault:
    findings = frozenset(f.kind for f in check(lowered, parts))
    text = "; ".join(op.line.strip() for op in ops)
    return Fault(how, text, _before(lowered, parts) != whole, findings)


def _before(lowered: Lowered, without: frozenset[Part]) -> list[set[Any]]:
    """For every walk, which accesses happen before which, where that is not the pipe's nature."""
    relations = []
    for launch in lowered.launches():
        for cores in lowered.walks(launch, without):
            nodes = order(cores).nodes
            count: dict[str, int] = defaultdict(int)
            keys = []
            for node in nodes:
                keys.append((node.core, node.event.pipe, count[node.core]))
                count[node.core] += 1
            relations.append({(keys[j], keys[i]) for i, node in enumerate(nodes)
                              for j in range(len(nodes)) if node.before >> j & 1 and j != i
                              and (keys[j][:2] != keys[i][:2] or keys[i][1] not in IN_ORDER)})
    return relations


def _components(lowered: Lowered) -> list[frozenset[Part]]:
    """Sets and waits that belong together: a loop's flag is also set before and awaited after."""
    links: dict[Part, set[Part]] = defaultdict(set)
    for launch in lowered.launches():
        for cores in lowered.walks(launch):
            for pair in order(cores).pairs:
                a, b = (number if not slot else (number, slot) for number, slot in pair)
                links[a].add(b)
                links[b].add(a)
                for part in (a, b):     # a product that awaits half of L0 also frees it
                    if isinstance(part, tuple) and part[1].startswith(("free", "used")):
                        names = {(part[0], f"{word}{part[1][-1]}") for word in ("free", "used")}
                        links[part] |= names
    found, seen = [], set[Part]()
    for part in links:
        if part in seen:
            continue
        component, left = set[Part](), [part]
        while left:
            one = left.pop()
            if one not in component:
                component.add(one)
                left += links[one]
        seen |= component
        found.append(frozenset(component))
    return found


if __name__ == "__main__":      # FOLDER of lowered kernels -> the report
    print(json.dumps(summary({path.stem: path.read_text() for path in
                              sorted(Path(sys.argv[1]).glob("*.mlir"))}), indent=1))
