"""Time every step of a program: what to tune by.

Where no native loop times them (`Sticks.steps`), steps run one by one, in their order and on the
session's real data, so that caches are as cold or warm as in a whole run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from firstlight.measure.counting import Cost


def step_times(context: Any, entry: str, tokens: npt.NDArray[np.int32],
               clock: Callable[[], float], count: int) -> npt.NDArray[np.float64]:
    """Seconds of each of the `count` steps of one call.

    The call feeds `tokens` at the position of the `context` (a `runtime.trace.SteppingContext`),
    which is put back: so it can be asked again.
    """
    begin, seconds = context.position, np.zeros(count)
    steps = context.steps(entry, tokens)
    start = clock()
    for step in steps:
        seconds[step] = clock() - start
        start = clock()
    context.position = begin
    return seconds


@dataclass
class Row:
    """Steps of one kind, added up; `limit` is the time they need at the machine's full speed."""

    label: str
    calls: int = 0
    seconds: float = 0.0
    bytes: float = 0.0
    flops: float = 0.0
    limit: float = 0.0


def by_kind(costs: Sequence[Cost], seconds: npt.NDArray[np.float64], bandwidth: float,
            peak: float) -> list[Row]:
    """Steps of equal label summed, the slowest first."""
    rows: dict[str, Row] = {}
    for cost, spent in zip(costs, seconds, strict=True):
        row = rows.setdefault(cost.label, Row(cost.label))
        row.calls += 1
        row.seconds += float(spent)
        row.bytes += cost.bytes
        row.flops += cost.flops
        row.limit += cost.limit(bandwidth, peak)
    return sorted(rows.values(), key=lambda r: -r.seconds)


@dataclass(frozen=True)
class Breakdown:
    """The steps of one call by kind, beside bytes and operations per second of the machine."""

    entry: str
    tokens: int
    depth: int
    bandwidth: float
    peak: float
    rows: list[Row]


def breakdown(call: Breakdown) -> str:
    """A markdown table; `limit` is the time the bytes or operations need at full speed."""
    rows, bandwidth, peak = call.rows, call.bandwidth, call.peak
    total, limit = sum(r.seconds for r in rows), sum(r.limit for r in rows)
    title = call.entry if call.tokens == 1 else f"{call.entry} of {call.tokens}"
    lines = [
        f"### {title} at depth {call.depth}: {1e3 * total:.2f} ms in steps, "
        f"{1e3 * limit:.2f} ms at full speed ({bandwidth / 1e9:.1f} GB/s, "
        f"{peak / 1e9:.0f} GFLOP/s)\n",
        "| step | calls | us | share | MB | GB/s | of read | GFLOP/s | of FMA | above limit us |",
        "| --- |" + " ---: |" * 9,
    ]
    for row in rows:
        read, work = row.bytes / row.seconds, row.flops / row.seconds
        lines.append(
            f"| {row.label} | {row.calls} | {1e6 * row.seconds:.0f} | {row.seconds / total:.1%} "
            f"| {row.bytes / 1e6:.2f} | {read / 1e9:.2f} | {read / bandwidth:.0%} "
            f"| {work / 1e9:.1f} | {work / peak:.0%} | {1e6 * (row.seconds - row.limit):.0f} |")
    return "\n".join(lines)
