"""Speed of an artifact beside the limits of the machine, measured in the same minute."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median, pstdev
from typing import Any

import numpy as np
import numpy.typing as npt

from firstlight.ir.rows import encode
from firstlight.measure.counting import Cost, Counter
from firstlight.measure.steps import Breakdown, by_kind, step_times
from firstlight.measure.sticks import Sticks
from firstlight.runtime import load
from firstlight.runtime.session import Session
from firstlight.runtime.trace import stepping

STICK_READS = 4
PROFILE_STICK = 4 << 20     # bytes: as short as a step, since the best of many is taken
WARM_TOKENS = 2
FED = 16384
"""Deepest session that is prefilled; deeper ones start from a random state."""
RANDOM_ROWS = 8192
"""Rows of it that differ."""


class Bench:
    """A loaded artifact under measurement. Sticks and samples alternate.

    Args:
        samples: of every test.
        clock: whose time counts; `time.thread_time` leaves out what other processes took, and is
            right for one thread only.
    """

    def __init__(self, artifact: Path, threads: int | None = None, samples: int = 5,
                 seed: int = 0, clock: Callable[[], float] = time.perf_counter) -> None:
        start = time.perf_counter()
        self.model = load(artifact, threads=threads)
        self.load_s = time.perf_counter() - start
        if self.model.manifest.graph is not None:
            self.model.session()    # says that it is no language model
        self.samples, self.clock = samples, clock
        self.counter = Counter(artifact, self.model.program)
        self.rng = np.random.default_rng(seed)
        weights = sum(p.stat().st_size for p in artifact.glob("weights/*"))
        self.sticks = Sticks(self.model.engine, weights, clock)

    def machine(self) -> dict[str, float]:
        """The limits of this machine: bytes and operations per second, the best of several."""
        return {
            "read": max(self.sticks.read(1 << 27) for _ in range(3)),
            "multiply_add": max(self.sticks.multiply_add(1e9) for _ in range(3)),
            "byte_products": max(self.sticks.byte_products(2e9) for _ in range(3)),
        }

    def prefill(self, n: int) -> dict[str, Any]:
        """Tokens/s of feeding n tokens to an empty session."""
        ids, costs = self._ids(n), self.counter.prefill(n)
        rates, limits = [], []
        with self.model.session() as session:
            session.prefill(ids)
        rss = self._resident()
        for _ in range(self.samples):
            reads = self.sticks.read(1 << 26)
            limits.append((reads, max(self.sticks.multiply_add(_sum(costs).flops / 4)
                                      for _ in range(2))))
            with self.model.session() as session:
                start = self.clock()
                session.prefill(ids)
                rates.append(n / (self.clock() - start))
        return self._record("prefill", n, rates, rss, costs, limits, n)

    def decode(self, depth: int, tokens: int) -> dict[str, Any]:
        """Tokens/s of one token after the other, `tokens` a sample, after `depth` tokens."""
        costs = self.counter.steps("decode", 1, depth)
        rates, limits, best = [], [], 0.0
        with self.at(depth) as prefix:
            prefix.fork().decode(0)
            rss = self._resident()
            for _ in range(self.samples):
                adds = self.sticks.multiply_add(1e8)
                limits.append((median(self.sticks.read(_sum(costs).bytes)
                                      for _ in range(STICK_READS)), adds))
                ids, spent = self._ids(WARM_TOKENS + tokens).tolist(), []
                with prefix.fork() as session:
                    for token in ids:
                        start = self.clock()
                        session.decode(token)
                        spent.append(self.clock() - start)
                spent = spent[WARM_TOKENS:]
                rates.append(tokens / sum(spent))
                best = max(best, 1 / min(spent))
        record = self._record("decode", depth, rates, rss, costs, limits, 1)
        return {**record, "gen": tokens, "best": best}

    def refuse_steps(self) -> None:
        """Raises F613 if the launcher runs whole entries only."""
        with self.model.session() as session:
            stepping(session)

    def prefill_steps(self, n: int) -> Breakdown:
        """The steps of the last chunk of a prompt, by kind."""
        chunk = min(n, self.counter.chunk)
        return self.breakdown("prefill", chunk, n - chunk, self.samples)

    def decode_steps(self, depth: int) -> Breakdown:
        """The steps of a token, by kind."""
        return self.breakdown("decode", 1, depth, 4 * self.samples)

    def breakdown(self, entry: str, tokens: int, depth: int, repeats: int) -> Breakdown:
        """The steps of one call by kind, each the best of several."""
        session, ids = self.at(depth), self._ids(tokens).astype(np.int32)
        context: Any = session._context
        costs = self.counter.steps(entry, tokens, depth)
        self.step_seconds(context, entry, ids, len(costs))
        rounds, reads, sums = [], [], []
        for _ in range(repeats):
            rounds.append(self.step_seconds(context, entry, ids, len(costs)))
            reads += [self.sticks.read(PROFILE_STICK) for _ in range(32)]
            sums += [self.sticks.multiply_add(2e8) for _ in range(8)]
        bandwidth, peak = max(reads), max(sums)
        rows = by_kind(costs, np.min(rounds, axis=0), bandwidth, peak)
        return Breakdown(entry, tokens, depth, bandwidth, peak, rows)

    def step_seconds(self, context: Any, entry: str, tokens: npt.NDArray[np.int32], count: int
                     ) -> npt.NDArray[np.float64]:
        """Of the `count` steps of a call, which leaves the position as it was."""
        begin, logits = context.position, np.empty((1, self.model.vocab_size), np.float32)
        seconds = self.sticks.steps(lambda: context.run(entry, tokens, logits))
        context.position = begin
        return step_times(context, entry, tokens, self.clock, count) if seconds is None else seconds

    def at(self, depth: int) -> Session:
        """A session of so many tokens. A deep one was never fed: its states hold normal numbers,
        of the size that the model's norms give, so that only the selections mean nothing."""
        session = self.model.session()
        if 0 < depth <= FED:
            session.prefill(self._ids(depth))
        elif depth:
            context: Any = session._context
            for tensor in self.model.manifest.state:
                block = self.rng.standard_normal(
                    (min(tensor.used_rows(depth), RANDOM_ROWS), tensor.width), np.float32)
                raw = encode(block, tensor.codec)
                for first in range(0, tensor.used_rows(depth), RANDOM_ROWS):
                    part = raw[: tensor.used_rows(depth) - first].reshape(-1)
                    context.write_state(tensor.offset + first * tensor.row_bytes, part)
            context.position = depth
        return session

    def _resident(self) -> int:
        """Bytes of this process in memory, mapped weights included, the sticks' buffer not."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") - self.sticks.resident

    def _ids(self, n: int) -> Any:
        return self.rng.integers(0, self.model.vocab_size, n)

    def _record(self, test: str, n: int, rates: Sequence[float], rss: int, costs: Sequence[Cost],
                limits: Sequence[tuple[float, float]], tokens: int) -> dict[str, Any]:
        """`of_limit`: of the stick that fits the test, reads or multiply-adds; `of_bound`: of the
        time that every step needs for its bytes or its operations, whichever is longer."""
        total = _sum(costs)
        decode = test == "decode"
        per_token = (total.bytes if decode else total.flops) / tokens
        # one step of an ONNX target is a whole call, of which nothing is known
        known = limits if total.bytes else []
        bounds = [tokens / sum(c.limit(read, adds) for c in costs) for read, adds in known]
        return {
            "test": test, "n": n, "mean": fmean(rates), "spread": pstdev(rates),
            "samples": list(rates), "rss": rss, "load_s": self.load_s,
            "bytes_per_token": total.bytes / tokens, "flops_per_token": total.flops / tokens,
            "bandwidth": [read for read, _ in limits], "flops": [adds for _, adds in limits],
            "of_limit": [r * per_token / (read if decode else adds)
                         for r, (read, adds) in zip(rates, known, strict=False)],
            "of_bound": [r / b for r, b in zip(rates, bounds, strict=False)],
        }


def _sum(costs: Sequence[Cost]) -> Cost:
    return Cost("", "", sum(c.bytes for c in costs), sum(c.flops for c in costs))


def table(records: Sequence[dict[str, Any]]) -> str:
    """A markdown table of the records of `Bench`."""
    lines = ["| test | n | tokens/s, median | mean | +- | min | max | MB/token | MFLOP/token"
             " | read GB/s | FMA GFLOP/s | of stick | of bound | resident MB |",
             "| --- |" + " ---: |" * 13]
    for r in (r for r in records if r["samples"]):
        s = r["samples"]
        lines.append(
            f"| {r['test']} | {r['n']} | {median(s):.1f} | {r['mean']:.1f} | {r['spread']:.1f} "
            f"| {min(s):.1f} | {max(s):.1f} "
            f"| {r['bytes_per_token'] / 1e6:.2f} | {r['flops_per_token'] / 1e6:.0f} "
            f"| {median(r['bandwidth']) / 1e9:.1f} | {median(r['flops']) / 1e9:.0f} "
            f"| {_share(r['of_limit'])} | {_share(r['of_bound'])} "
            f"| {r['rss'] / 1e6:.0f} |")
    return "\n".join(lines)


def _share(values: Sequence[float]) -> str:
    return f"{median(values):.0%}" if values else "-"
