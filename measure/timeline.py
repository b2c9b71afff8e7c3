"""A run as a timeline: every kernel call with its module path, for Perfetto or chrome://tracing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.measure.counting import Counter
from firstlight.runtime.model import Model
from firstlight.runtime.trace import RETURN, Tracer

Event = dict[str, Any]


def write_timeline(model: Model, ids: Sequence[int], new_tokens: int, path: Path) -> list[int]:
    """Prefill `ids`, decode up to `new_tokens` tokens greedily, and write what took how long.

    The file is in the Trace Event Format (JSON): a row for calls of entries, one for kernels. Steps
    run one by one, which costs a few microseconds each. Returns the new tokens. Raises F613 if the
    launcher runs whole entries only.
    """
    recorder = _Recorder(model)
    session, chunk = model.session(), model.manifest.chunk
    new: list[int] = []
    token = None
    for at in range(0, len(ids), chunk):
        token = recorder.feed(session, "prefill", list(ids[at : at + chunk]))
    while token is not None and len(new) < new_tokens:
        new.append(token)
        if len(new) < new_tokens and session.position < model.manifest.context:
            token = recorder.feed(session, "decode", [token])
    document = {"traceEvents": [*_names(), *recorder.events], "displayTimeUnit": "ns"}
    path.write_text(json.dumps(document))
    return new


class _Recorder:
    def __init__(self, model: Model) -> None:
        self.model, self.tracer = model, Tracer(model)
        self.counter = Counter(model.manifest.directory, model.program)
        self.events: list[Event] = []
        self.began = time.perf_counter()

    def feed(self, session: Any, entry: str, ids: list[int]) -> int:
        """Run a call step by step; the most likely next token."""
        context = session._usable_context()
        depth, steps = context.position, self.counter.steps(entry, len(ids), context.position)
        rows = (row for row in self.tracer.rows[entry] if row.op != RETURN)
        first = now = time.perf_counter()
        for row, cost, _ in zip(rows, steps, context.steps(entry, np.array(ids, np.int32)),
                                strict=True):
            end = time.perf_counter()
            path = row.path or entry
            self._event(path, row.op, now, end, 2, {
                "bytes": int(cost.bytes), "GB/s": round(cost.bytes / (end - now) / 1e9, 2),
                "GFLOP/s": round(cost.flops / (end - now) / 1e9, 2)})
            now = time.perf_counter()
        self._event(f"{entry} of {len(ids)} at {depth}", entry, first, now, 1, {})
        return self._next(context, entry, len(ids))

    def _next(self, context: Any, entry: str, count: int) -> int:
        program = self.model.program.entries[entry]
        rows = count if program.every_row else 1
        vocab = self.model.vocab_size
        logits = context.arena(program.logits, 4 * rows * vocab).view(np.float32)
        return int(logits.reshape(rows, vocab)[-1].argmax())

    def _event(self, name: str, kind: str, begin: float, end: float, row: int,
               facts: Event) -> None:
        self.events.append({"name": name, "cat": kind, "ph": "X", "pid": 1, "tid": row,
                            "ts": 1e6 * (begin - self.began), "dur": 1e6 * (end - begin),
                            "args": {"op": kind, **facts}})


def _names() -> Iterator[Event]:
    for row, name in ((1, "entries"), (2, "kernels")):
        yield {"name": "thread_name", "ph": "M", "pid": 1, "tid": row, "args": {"name": name}}
