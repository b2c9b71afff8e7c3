"""Run two sides over the same tokens and report the first value they disagree about."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from firstlight.comparison.align import common_keys, pairs
from firstlight.comparison.measure import Gap, gap, summary
from firstlight.comparison.side import RETURN, Array, Key, Side
from firstlight.runtime.errors import FirstlightError

CHUNK = 256
TOLERANCE = 1e-4
_LAYER = re.compile(r"layers\.\d+|[^.]*")


@dataclass(frozen=True)
class Difference:
    """The first value beyond tolerance, as plain data.

    `inputs`: how far apart the results were that the step read; where no side knows them, the
    results compared last.
    """

    entry: str
    position: int
    key: Key
    result: int
    gap: Gap
    values: tuple[Any, Any]
    states: tuple[dict[str, Any], dict[str, Any]]
    inputs: tuple[dict[str, Any], ...]

    def document(self) -> dict[str, Any]:
        """For printing."""
        return {
            "path": self.key.path, "op": self.key.op, "occurrence": self.key.number,
            "result": self.result, "entry": self.entry, "first_position": self.position,
            "index": list(self.gap.index), "a": _plain(self.values[0]), "b": _plain(self.values[1]),
            "beyond_tolerance": self.gap.count, "largest": _plain(self.gap.largest),
            "relative": _plain(self.gap.relative),
        }  # fmt: skip


@dataclass
class Report:
    """What was compared, and the largest difference of each layer."""

    tolerance: float
    compared: int = 0
    steps: int = 0
    layers: dict[str, dict[str, Any]] = field(default_factory=dict)
    first: Difference | None = None

    def document(self) -> dict[str, Any]:
        """For printing; numbers that JSON does not have are text."""
        document: dict[str, Any] = {
            "equal": self.first is None, "tolerance": self.tolerance, "values": self.compared,
            "within": "steps and functions" if self.steps else "functions only",
        }  # fmt: skip
        if self.first is not None:
            document["first_difference"] = self.first.document()
            document["states"] = [{"side": name, **{k: _plain(v) for k, v in state.items()}}
                                  for name, state in zip("ab", self.first.states, strict=True)]
            document["read_by_it" if self.first.key.op != RETURN else "compared_before"] = list(
                self.first.inputs)
        document["layers"] = [{"layer": name, **{k: _plain(v) for k, v in row.items()}}
                              for name, row in self.layers.items()]
        return document

    def note(self, key: Key, result: int, found: Gap) -> None:
        """Count a result of a step."""
        self.compared += 1
        self.steps += key.op != RETURN
        match = _LAYER.match(key.path)
        name = match[0] if match and match[0] else key.path or key.op
        row = self.layers.setdefault(name, {"values": 0, "largest": -1.0, "relative": -1.0,
                                            "beyond_tolerance": 0, "at": ""})  # fmt: skip
        row["values"] += 1
        row["largest"] = max(row["largest"], found.largest)
        row["beyond_tolerance"] += found.count > 0
        if found.relative > row["relative"]:
            row["relative"], row["at"] = found.relative, str(key)


def compare(a: Side, b: Side, ids: Sequence[int], tolerance: float = TOLERANCE) -> Report:
    """Feed `ids` to both: all but the last in prefill calls, the last in a decode call.

    Raises F706 if the sides have no value in common or are not of one model.
    """
    if a.vocab_size != b.vocab_size:
        raise _unlike(a, b, f"their vocabularies have {a.vocab_size} and {b.vocab_size} tokens")
    report, position = Report(tolerance), 0
    for entry, part in _calls(ids, min(CHUNK, a.chunk or CHUNK, b.chunk or CHUNK)):
        common = common_keys(a.keys(entry), b.keys(entry))
        if not common:
            raise _unlike(a, b, "no module path of one is a path of the other")
        _compare_call(report, entry, position, a, b, part, common)
        position += len(part)
    return report


def _compare_call(report: Report, entry: str, position: int, a: Side, b: Side,
                  ids: Sequence[int], common: set[Key]) -> None:  # fmt: skip
    gaps: dict[tuple[Key, int], Gap] = {}
    last: list[tuple[Key, int]] = []
    for one, other in pairs(a.run(entry, ids), b.run(entry, ids), common):
        # Not strict: transformers shows what a function returns, and not the states after it.
        for result, values in enumerate(zip(one.results, other.results, strict=False)):
            found = gaps[one.key, result] = gap(*values, report.tolerance)
            report.note(one.key, result, found)
            if found.count and report.first is None:
                inputs = [i for i in one.inputs or other.inputs if i in gaps] or last
                report.first = Difference(
                    entry, position, one.key, result, found, _elements(*values, found),
                    (summary(values[0]), summary(values[1])),
                    tuple(_input(i, gaps[i]) for i in inputs))
        last = [(one.key, i) for i in range(len(one.results))]


def _calls(ids: Sequence[int], chunk: int) -> Iterator[tuple[str, Sequence[int]]]:
    """The last token is decoded; so is a lone one before it, as sessions do."""
    for start in range(0, len(ids) - 1, chunk):
        part = ids[start : min(start + chunk, len(ids) - 1)]
        yield "prefill" if len(part) > 1 else "decode", part
    yield "decode", ids[-1:]


def _input(key: tuple[Key, int], found: Gap) -> dict[str, Any]:
    step, result = key
    return {"path": step.path, "op": step.op, "result": result, "largest": _plain(found.largest),
            "relative": _plain(found.relative)}


def _elements(a: Array, b: Array, found: Gap) -> tuple[Any, Any]:
    if a.size != b.size:
        return f"{a.size} values", f"{b.size} values"
    return a[found.index].item(), b.reshape(a.shape)[found.index].item()


def _plain(value: Any) -> Any:
    """Floats to six digits; those that JSON does not have as text."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if np.isfinite(value) else str(value)


def _unlike(a: Side, b: Side, why: str) -> FirstlightError:
    return FirstlightError(
        "F706",
        "the two sides cannot be compared",
        where=f"{a.name}, {b.name}",
        why=why,
        try_="two sides of the same model",
    )
