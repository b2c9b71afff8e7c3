"""Decode at great depths, with states in each codec side by side.

    python benchmarks/long_context.py --checkpoint DIR
    python benchmarks/long_context.py --checkpoint DIR --depths 1024,1048000 --states f32,released
    python benchmarks/long_context.py --checkpoint DIR --threads 1 --clock cpu     beside other work

Artifacts for 1,048,576 tokens are compiled to --work where they are missing. Sessions are not
prefilled: their states hold normal numbers. Policies take turns, a token each, between the same
sticks. `bound` adds up for every step the longer of the times that its bytes and its operations
need at the speed of the sticks; `index` is the share of its bound that scoring and selecting
reaches alone, `attention` the same of the steps that attend.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from bench import run_compiler

from firstlight.measure.counting import Cost
from firstlight.measure.speed import Bench

CONTEXT = 1 << 20
STATES = {"f32": "shipped", "bf16": "kv=bf16,index-keys=bf16",
          "released": "kv=released,index-keys=released"}
"""Name of a column -> policy."""
TOKEN = 7


class Column:
    """An artifact's session at one depth; every measurement puts its position back."""

    def __init__(self, name: str, bench: Bench, depth: int) -> None:
        self.name, self.bench, self.depth = name, bench, depth
        self.session = bench.at(depth)
        self.costs = bench.counter.steps("decode", 1, depth)
        self.seconds: list[float] = []
        self.steps: list[Any] = []

    def take(self) -> None:
        """Time a token whole, and one step by step."""
        context: Any = self.session._context
        for _ in range(2):                      # the first one warms what the others cooled
            start = self.bench.clock()
            self.session.decode(TOKEN)
            spent = self.bench.clock() - start
            context.position = self.depth
        self.seconds.append(spent)
        self.steps.append(self.bench.step_seconds(context, "decode", np.array([TOKEN], np.int32),
                                                  len(self.costs)))

    def record(self, read: float, adds: float) -> dict[str, Any]:
        """A row of the table, by the speed of the sticks."""
        seconds, steps = median(self.seconds), np.median(self.steps, axis=0)
        bound = sum(c.limit(read, adds) for c in self.costs)

        def share(*ops: str) -> float:
            some = [(c.limit(read, adds), s) for c, s in zip(self.costs, steps, strict=True)
                    if c.op in ops]
            return sum(limit for limit, _ in some) / sum(s for _, s in some)

        tensors = self.bench.model.manifest.state
        return {
            "depth": self.depth, "state": self.name, "tokens_per_second": 1 / seconds,
            "bound": 1 / bound, "of_bound": bound / seconds, "index": share("index_select"),
            "attention": share("hybrid_attention", "norm_rope_attention"),
            "read": read, "multiply_add": adds,
            "state_bytes": sum(t.used_rows(self.depth) * t.row_bytes for t in tensors),
            "bytes": _sum(self.costs, "bytes"), "flops": _sum(self.costs, "flops"),
        }


def _sum(costs: Sequence[Cost], field: str) -> float:
    return float(sum(getattr(cost, field) for cost in costs))


def measure(benches: dict[str, Bench], depth: int, samples: int) -> list[dict[str, Any]]:
    """Rows of one depth: every column `samples` times, in turn."""
    columns = [Column(name, bench, depth) for name, bench in benches.items()]
    sticks = columns[0].bench.sticks
    reads, adds = [], []
    for _ in range(samples):
        for column in columns:
            reads.append(sticks.read(1 << 26))
            adds.append(sticks.multiply_add(2e8))
            column.take()
    return [column.record(median(reads), median(adds)) for column in columns]


def table(records: Sequence[dict[str, Any]]) -> str:
    """The rows as markdown."""
    lines = ["| depth | state | state MB | MB/token | MFLOP/token | tokens/s | bound | of bound "
             "| index | attention |", "| ---: | --- |" + " ---: |" * 8]
    for r in records:
        lines.append(
            f"| {r['depth']} | {r['state']} | {r['state_bytes'] / 1e6:.1f} "
            f"| {r['bytes'] / 1e6:.1f} | {r['flops'] / 1e6:.0f} | {r['tokens_per_second']:.2f} "
            f"| {r['bound']:.2f} | {r['of_bound']:.0%} | {r['index']:.0%} | {r['attention']:.0%} |")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("build/long-context"),
                        help="folder of the artifacts")
    parser.add_argument("--context", type=int, default=CONTEXT)
    parser.add_argument("--depths", type=lambda text: [int(n) for n in text.split(",")],
                        default=[1024, 16384, 131072, CONTEXT - 8])
    parser.add_argument("--states", type=lambda text: text.split(","), default=list(STATES))
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    args = parser.parse_args()
    clock: Callable[[], float] = time.thread_time if args.clock == "cpu" else time.perf_counter
    benches = {}
    for name in args.states:
        out = args.work / name
        if not (out / "manifest.json").is_file():
            done = run_compiler(args.checkpoint, out, [
                f"--context={args.context}", f"--quantize={STATES[name]}"])
            print(f"{name}: compiled in {done['seconds']:.1f} s ({done['cpu_s']:.1f} s of "
                  "processor time)")
        benches[name] = Bench(out, args.threads, args.samples, 0, clock)
        print(f"{name}: loaded in {benches[name].load_s:.3f} s")
    records = [record for depth in args.depths
               for record in measure(benches, depth, args.samples)]
    print("\n" + table(records))
    if args.json:
        args.json.write_text(json.dumps(records, indent=1))


if __name__ == "__main__":
    main()
