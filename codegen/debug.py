"""`debug.json`: what each step computes and where its results lie, for tracing; not for running."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from firstlight.codegen.signature import spelled
from firstlight.ir.core import Value
from firstlight.ir.types import StateType
from firstlight.passes.plan_memory import Place, Plan


@dataclass
class DebugTable:
    """Rows [op, module path, [result, ...]] of every entry, in the order in which steps run.

    Steps have the names of their ops; between them, a row `return` marks the end of each call, with
    the results of its function. A result is [argument word, number of its type], of a state the
    word alone. A type is [dtype, shape], whose symbolic sizes are "S" or [operation, size, number].
    """

    _types: dict[str, tuple[int, list[Any]]] = field(default_factory=dict)
    _entries: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, entry: str, plan: Plan, word: Callable[[Place], str]) -> None:
        """Describe one plan; `word` spells a place as `program.json` does."""
        rows = self._entries[entry] = []
        for number, step in enumerate(plan.steps, 1):
            rows.append([step.op.name, step.path,
                         self._results(step.results, step.op.results, word)])
            rows += [["return", end.path, self._results(end.results, end.function.results, word)]
                     for end in plan.returns if end.after == number]

    def document(self) -> dict[str, Any]:
        """The content of debug.json."""
        return {"schema": 1, "types": [type_ for _, type_ in self._types.values()],
                "entries": self._entries}

    def _results(self, places: Iterable[Place], values: Iterable[Value],
                 word: Callable[[Place], str]) -> list[list[Any]]:
        return [[word(place), *self._type(value)] for place, value in zip(places, values,
                                                                          strict=True)
                if place.kind in ("arena", "state")]

    def _type(self, value: Value) -> list[int]:
        if isinstance(value.type, StateType):
            return []
        row = [value.type.dtype, [spelled(d) for d in value.type.shape]]
        return [self._types.setdefault(str(row), (len(self._types), row))[0]]
