"""What more threads could do: steps measured on one thread, divided by what bounds them on many.

A plan, and a kind one: of what is not known it assumes the best, so tokens/s are at most these.
docs/cli.md says what is measured and what is assumed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import log2
from typing import Any

import numpy as np
import numpy.typing as npt

from firstlight.measure.speed import Bench
from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.model import Model
from firstlight.runtime.sizes import value

Times = tuple[float, list[float]]
"""Seconds of a step, and of each region in it."""

ASSUMED = ("Of more threads than this machine has, GB/s are n times one thread's unless "
           "--bandwidth says less; each has a core of its own, and its memory is on the node of "
           "that core.")
READ, READS = 1 << 26, 16
DECODE_REPEATS = 4      # a token is so short that other processes disturb whole samples


@dataclass(frozen=True)
class Region:
    """A parallel region of a step: seconds on one thread, and its chunks, at most.

    None is a number of chunks that data decide without a limit; it is taken to divide evenly.
    """

    seconds: float
    chunks: int | None

    def on(self, threads: int) -> float:
        """Seconds of the thread that has most chunks."""
        if self.chunks is None:
            return self.seconds / threads
        chunks = max(self.chunks, 1)
        return self.seconds * -(-chunks // threads) / chunks


@dataclass(frozen=True)
class Step:
    """One kernel call: bytes that it must read, seconds outside of its regions, and those."""

    bytes: float
    outside: float
    regions: tuple[Region, ...] = ()


@dataclass(frozen=True)
class Threads:
    """So many threads: bytes per second of all of them, seconds to start and end a region."""

    number: int
    bandwidth: float
    start: float


@dataclass
class Division:
    """Seconds of a call by what bounds its steps."""

    memory: float = 0.0
    shared: float = 0.0
    one_thread: float = 0.0
    starting: float = 0.0

    @property
    def total(self) -> float:
        """Seconds of the whole call."""
        return self.memory + self.shared + self.one_thread + self.starting


def divide(steps: Iterable[Step], threads: Threads) -> Division:
    """The time of `steps` on so many threads: of what is shared the work or the memory, whichever
    takes longer."""
    out = Division()
    for step in steps:
        out.one_thread += step.outside
        out.starting += len(step.regions) * threads.start
        shared = sum(region.on(threads.number) for region in step.regions)
        memory = step.bytes / threads.bandwidth if step.regions else 0.0
        if memory > shared:
            out.memory += memory
        else:
            out.shared += shared
    return out


class Scale:
    """The plans of one artifact.

    Args:
        bench: the artifact on this machine's own threads.
        asked: (threads, most bytes per second of the machine one thinks of, or None).

    Raises F713 for an artifact that does not tell its regions.
    """

    def __init__(self, bench: Bench, asked: Sequence[tuple[int, float | None]]) -> None:
        self.model = bench.model
        self.regions = kernel_regions(bench.model)
        region, own = bench.sticks.region(), bench.model.threads
        self.one = Bench(bench.model.manifest.directory, 1, bench.samples)
        self.spent = self.one.sticks.watch()
        alone = _read(self.one)
        self.threads = [Threads(1, alone, 0.0)]
        if own > 1:
            self.threads.append(Threads(own, _read(bench), region))
        self.threads += [
            Threads(n, min(n * alone, most or float("inf")), _start(region, own, n))
            for n, most in asked if n not in (1, own)]
        self.facts = {"one_thread_read": alone, "region_s": region if own > 1 else None}

    def prefill(self, tokens: int, measured: float) -> list[dict[str, Any]]:
        """Rows of a prompt that this machine's threads fed at `measured` tokens/s."""
        chunk = self.one.counter.chunk
        calls = [("prefill", min(chunk, tokens - at), at) for at in range(0, tokens, chunk)]
        return self._rows("prefill", tokens, tokens, self._steps(calls, 1), measured)

    def decode(self, depth: int, measured: float) -> list[dict[str, Any]]:
        """Rows of a token after so many."""
        steps = self._steps([("decode", 1, depth)], DECODE_REPEATS)
        return self._rows("decode", depth, 1, steps, measured)

    def _rows(self, test: str, n: int, tokens: int, steps: Sequence[Step],
              measured: float) -> list[dict[str, Any]]:
        rows = []
        for threads in self.threads:
            division = divide(steps, threads)
            rows.append({
                "test": test, "n": n, "threads": threads.number, "bandwidth": threads.bandwidth,
                "tokens_per_s": tokens / division.total, "seconds": asdict(division),
                "measured": measured if threads.number == self.model.threads else None})
        return rows

    def _steps(self, calls: Sequence[tuple[str, int, int]], repeats: int) -> list[Step]:
        """Steps of calls (entry, tokens, depth) that follow each other."""
        session = self.one.at(calls[0][2])
        context: Any = session._context
        out = []
        for entry, tokens, depth in calls:
            ids = self.one._ids(tokens).astype(np.int32)
            context.position = depth
            costs = self.one.counter.steps(entry, tokens, depth)
            kernels = [self.model.program.kernels[k]
                       for k in self.model.program.entries[entry].kernel]
            listed = [_ways(self.regions[kernel], tokens) for kernel in kernels]
            times = self._times(context, entry, ids, len(costs), repeats * self.one.samples)
            out += [_step(cost.bytes, spent, regions, chunks) for cost, (spent, regions), chunks
                    in zip(costs, times, listed, strict=True)]
        return out

    def _times(self, context: Any, entry: str, ids: npt.NDArray[np.int32], count: int,
               repeats: int) -> list[Times]:
        """Of each step the best, as the launcher times it: without Python between them."""
        depth, logits = context.position, np.empty((1, self.model.vocab_size), np.float32)
        best: list[Times] = [(float("inf"), [])] * count
        for _ in range(1 + repeats):
            context.position, self.spent[0] = depth, 0
            context.run(entry, ids, logits)
            best = [min(times) for times in zip(best, _read_times(self.spent), strict=True)]
        return best


def _read_times(spent: npt.NDArray[np.int64]) -> Iterator[Times]:
    """Steps from the words of `Sticks.watch`."""
    regions: list[float] = []
    for seconds in (1e-9 * spent[1 : 1 + spent[0]]).tolist():
        if seconds <= 0:
            yield -seconds, regions
            regions = []
        else:
            regions.append(seconds)


Chunks = list[int | None]


def _ways(regions: Sequence[Any], tokens: int) -> list[Chunks]:
    """The chunks of the regions of a kernel, for every way through its branches."""
    ways: list[Chunks] = [[]]
    for size in regions:
        if isinstance(size, dict):
            more = [way for branch in size["either"] for way in _ways(branch, tokens)]
        else:
            more = [[None if size is None else value(size, tokens)]]
        ways = [way + rest for way in ways for rest in more]
    return ways


def _step(nbytes: float, seconds: float, spent: Sequence[float], ways: Sequence[Chunks]) -> Step:
    """A step from its time, that of the regions it went through, and what its kernel lists."""
    fitting = [way for way in ways if len(way) == len(spent)]
    if not fitting:     # some are in loops, or in a branch without another: the kindest for all
        fitting = [[n] * len(spent) for way in ways for n in way]
    chunks = [None if None in some else max(n for n in some if n is not None)
              for some in zip(*fitting, strict=True)]
    regions = tuple(map(Region, spent, chunks))
    return Step(nbytes, max(seconds - sum(spent), 0.0), regions)


def _read(bench: Bench) -> float:
    """Bytes per second, the best of many reads: other processes come and go."""
    return max(bench.sticks.read(READ) for _ in range(READS))


def _start(measured: float, own: int, threads: int) -> float:
    """Assumed: each doubling of the threads costs as much as it does up to this machine's own."""
    return measured * log2(threads) / log2(own) if own > 1 else 0.0


def kernel_regions(model: Model) -> dict[str, list[Any]]:
    """By kernel, the chunks of its regions, from `debug.json`. Raises F713 where it has none."""
    path = model.manifest.directory / "debug.json"
    try:
        regions: dict[str, list[Any]] = json.loads(path.read_bytes())["regions"]
        if set(model.program.kernels) <= set(regions):
            return regions
        why = "its `regions` lack some of the kernels"
    except (OSError, ValueError, KeyError):
        why = "there are no `regions` in it, which say what threads share"
    raise FirstlightError("F713", "the artifact does not tell its parallel regions",
                          where=str(path), why=why,
                          try_="compile the checkpoint again, or leave --scale out")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A markdown table of the rows of one test; times in milliseconds."""
    first = rows[0]
    unit = "token" if first["test"] == "decode" else "prompt"
    lines = [f"### {first['test']} {first['n']} by threads, ms a {unit}\n",
             "| threads | GB/s | tokens/s at most | measured | memory | shared work | one thread"
             " | starting |", "| ---: |" + " ---: |" * 7]
    for row in rows:
        measured = "" if row["measured"] is None else f"{row['measured']:.1f}"
        times = " | ".join(f"{1e3 * spent:.2f}" for spent in row["seconds"].values())
        lines.append(f"| {row['threads']} | {row['bandwidth'] / 1e9:.1f} "
                     f"| {row['tokens_per_s']:.1f} | {measured} | {times} |")
    return "\n".join(lines)
