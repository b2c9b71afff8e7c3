"""Time every step of a program: what to tune by.

Steps run one by one through the native loop, in their order and on the session's real data, so
that caches are as cold or warm as in a whole run. This knows the inside of the CPU launcher.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from counting import Cost

from firstlight.runtime.launchers.cpu import _STEP, CpuContext


def step_times(context: CpuContext, entry: str, tokens: npt.NDArray[np.int32],
               clock: Callable[[], float]) -> npt.NDArray[np.float64]:
    """Seconds of each step of one call, which feeds `tokens` as any call does.

    `entry` must have run in this context before.
    """
    call, scalars, begin = context._calls[entry], context._scalars, context.position
    pool, steps, count, patches, n_patches = call._fixed
    call.tokens[: len(tokens)] = tokens
    call.pos[0], call.last[0] = begin, len(tokens) - 1
    scalars[0] = len(tokens)
    seconds = np.zeros(count)
    for i in range(count):
        context.position = begin        # the native loop moves it after every run
        start = clock()
        failed = call._run(pool, steps + i * _STEP.itemsize, 1, patches, n_patches,
                           scalars.ctypes.data)
        seconds[i] = clock() - start
        assert failed < 0, f"step {i} of {entry} failed"
    return seconds


@dataclass
class Row:
    """Steps of one kind, added up."""

    label: str
    calls: int = 0
    seconds: float = 0.0
    bytes: float = 0.0
    flops: float = 0.0


def by_kind(costs: Sequence[Cost], seconds: npt.NDArray[np.float64]) -> list[Row]:
    """Steps of equal label summed, the slowest first."""
    rows: dict[str, Row] = {}
    for cost, spent in zip(costs, seconds, strict=True):
        row = rows.setdefault(cost.label, Row(cost.label))
        row.calls += 1
        row.seconds += float(spent)
        row.bytes += cost.bytes
        row.flops += cost.flops
    return sorted(rows.values(), key=lambda r: -r.seconds)


def profile_table(title: str, rows: Sequence[Row], bandwidth: float, peak: float) -> str:
    """A markdown table; `limit` is the time the bytes or operations need at full speed."""
    total = sum(r.seconds for r in rows)
    limit = [max(r.bytes / bandwidth, r.flops / peak) for r in rows]
    lines = [
        f"### {title}: {1e3 * total:.2f} ms in steps, {1e3 * sum(limit):.2f} ms at full speed "
        f"({bandwidth / 1e9:.1f} GB/s, {peak / 1e9:.0f} GFLOP/s)\n",
        "| step | calls | us | share | MB | GB/s | of read | GFLOP/s | of FMA | above limit us |",
        "| --- |" + " ---: |" * 9,
    ]
    for row, least in zip(rows, limit, strict=True):
        read, work = row.bytes / row.seconds, row.flops / row.seconds
        lines.append(
            f"| {row.label} | {row.calls} | {1e6 * row.seconds:.0f} | {row.seconds / total:.1%} "
            f"| {row.bytes / 1e6:.2f} | {read / 1e9:.2f} | {read / bandwidth:.0%} "
            f"| {work / 1e9:.1f} | {work / peak:.0%} | {1e6 * (row.seconds - least):.0f} |")
    return "\n".join(lines)
