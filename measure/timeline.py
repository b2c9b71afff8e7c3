"""A run as a timeline: every kernel call with its module path, for Perfetto or chrome://tracing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from firstlight.measure.counting import Counter
from firstlight.runtime.engine import Context
from firstlight.runtime.model import Model
from firstlight.runtime.session import Session
from firstlight.runtime.trace import RETURN, Tracer, stepping

Event = dict[str, Any]


class Timeline:
    """Sessions of one model that run kernel by kernel, and what took how long.

    Steps run one by one, which costs a few microseconds each; all else, what a session refuses and
    how it samples, is as without. Raises F613 if the artifact does not tell its steps.
    """

    def __init__(self, model: Model) -> None:
        self.model, self.tracer = model, Tracer(model)
        self.counter = Counter(model.manifest.directory, model.program)
        self.began = time.perf_counter()
        self.events: list[Event] = []

    def session(self) -> Session:
        """A new session under observation; its forks are not. Raises F613 if the launcher runs
        whole entries only."""
        session = self.model.session()
        session._context = _Observed(stepping(session), self, session)
        return session

    def write(self, path: Path) -> None:
        """Write the Trace Event Format (JSON): a row for calls of entries, one for kernels."""
        document = {"traceEvents": [*_names(), *self.events], "displayTimeUnit": "ns"}
        path.write_text(json.dumps(document))

    def event(self, name: str, kind: str, begin: float, end: float, row: int,
              facts: Event) -> None:
        """One bar, from `begin` to `end` in seconds of `time.perf_counter`."""
        self.events.append({"name": name, "cat": kind, "ph": "X", "pid": 1, "tid": row,
                            "ts": 1e6 * (begin - self.began), "dur": 1e6 * (end - begin),
                            "args": {"op": kind, **facts}})


class _Observed(Context):
    """The context of a session, run step by step; every step is noted.

    A call that does not come to its end (Ctrl+C) leaves the session broken (F610).
    """

    def __init__(self, context: Any, timeline: Timeline, session: Session) -> None:
        self._context, self._timeline, self._session = context, timeline, session

    @property
    def position(self) -> int:      # type: ignore[override]
        return int(self._context.position)

    def run(
        self, entry: str, tokens: npt.NDArray[np.int32], logits: npt.NDArray[np.float32]
    ) -> None:
        timeline, depth = self._timeline, self.position
        costs = timeline.counter.steps(entry, len(tokens), depth)
        rows = (row for row in timeline.tracer.rows[entry] if row.op != RETURN)
        self._session._broken = "a profiled call was not finished"
        first = now = time.perf_counter()
        for row, cost, _ in zip(rows, costs, self._context.steps(entry, tokens), strict=True):
            end = time.perf_counter()
            timeline.event(row.path or entry, row.op, now, end, 2, {
                "bytes": int(cost.bytes), "GB/s": round(cost.bytes / (end - now) / 1e9, 2),
                "GFLOP/s": round(cost.flops / (end - now) / 1e9, 2)})
            now = time.perf_counter()
        self._session._broken = None
        timeline.event(f"{entry} of {len(tokens)} at {depth}", entry, first, now, 1, {})
        where = timeline.model.program.entries[entry].logits
        raw = self._context.arena(where, logits.nbytes)
        logits[...] = raw.view(np.float32).reshape(logits.shape)

    def read_state(self, offset: int, nbytes: int) -> npt.NDArray[np.uint8]:
        state: npt.NDArray[np.uint8] = self._context.read_state(offset, nbytes)
        return state

    def write_state(self, offset: int, data: npt.NDArray[np.uint8]) -> None:
        self._context.write_state(offset, data)


def _names() -> Iterator[Event]:
    for row, name in ((1, "entries"), (2, "kernels")):
        yield {"name": "thread_name", "ph": "M", "pid": 1, "tid": row, "args": {"name": name}}
