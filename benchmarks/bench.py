"""Speed of a compiled model beside the limits of the machine, measured in the same minute.

    python benchmarks/bench.py                        the whole road: write, compile, load, measure
    python benchmarks/bench.py --profile              and where the time goes, step by step
    python benchmarks/bench.py --artifact DIR         only measure what is there
    python benchmarks/bench.py --check                exit status 1 below the limits of limits.py
    python benchmarks/bench.py --threads 1 --clock cpu ...   on a machine that others use, too

Sticks and samples alternate. `of limit` compares a sample with the sticks just before it: the
bytes a token must read against plain reads, for prefill its operations against multiply-adds.
`--jsonl FILE` appends a line for every test, with the keys of the peers' scripts (peer, variant,
test, n, samples in tokens/s, rss, load_s). `--clock cpu` counts the time of the thread instead of
the wall's, which leaves out what other processes took.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from checkpoint import CONFIG, write_checkpoint
from counting import Counter
from limits import shortfalls
from steps import by_kind, profile_table, step_times
from sticks import Sticks

import firstlight
from firstlight.runtime import load

WORK = Path("build/bench")
STICK_READS = 4
PROFILE_STICK = 4 << 20     # bytes: as short as a step, since the best of many is taken
WARM_TOKENS = 2


def run_compiler(checkpoint: Path, out: Path, options: Sequence[str]) -> dict[str, Any]:
    """Compile in a process of its own; its wall time and its largest resident memory.

    Call it while this process is small: a new process is charged for its parent's memory.
    """
    command = [sys.executable, "-m", "firstlight.cli", "compile", str(checkpoint), "--force",
               "-q", "-o", str(out), *options]
    start = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        sys.exit(f"failed: {' '.join(command)}")
    return {"test": "compile", "n": 1, "samples": [], "rss": usage.ru_maxrss * 1024,
            "seconds": time.perf_counter() - start, "cpu_s": usage.ru_utime + usage.ru_stime}


class Bench:
    """A loaded artifact under measurement."""

    def __init__(self, artifact: Path, threads: int | None, samples: int, seed: int,
                 clock: Callable[[], float]) -> None:
        start = time.perf_counter()
        self.model = load(artifact, threads=threads)
        self.load_s = time.perf_counter() - start
        self.samples, self.clock = samples, clock
        self.counter = Counter(artifact, self.model.program)
        self.rng = np.random.default_rng(seed)
        self._weights = sum(p.stat().st_size for p in artifact.glob("weights/*"))
        self._sticks: Sticks | None = None

    @property
    def sticks(self) -> Sticks:
        """Made when first used."""
        if self._sticks is None:
            self._sticks = Sticks(self.model.engine, self._weights, self.clock)
        return self._sticks

    def prefill(self, n: int) -> dict[str, Any]:
        """Tokens/s of feeding n tokens to an empty session."""
        ids, cost = self._ids(n), self.counter.prefill(n)
        rates, limits = [], []
        with self.model.session() as session:
            session.prefill(ids)
        rss = self._resident()
        for _ in range(self.samples):
            limits.append(max(self.sticks.multiply_add(cost.flops / 4) for _ in range(2)))
            with self.model.session() as session:
                start = self.clock()
                session.prefill(ids)
                rates.append(n / (self.clock() - start))
        return self._record("prefill", n, rates, rss, cost.bytes / n, cost.flops / n,
                            "flops", limits, cost.flops / n)

    def decode(self, depth: int, tokens: int) -> dict[str, Any]:
        """Tokens/s of one token after the other, `tokens` a sample, after `depth` tokens."""
        cost = self.counter.total("decode", 1, depth)
        rates, limits, best = [], [], 0.0
        with self.model.session() as prefix:
            prefix.prefill(self._ids(depth))
            prefix.fork().decode(0)
            rss = self._resident()
            for _ in range(self.samples):
                limits.append(median(self.sticks.read(cost.bytes) for _ in range(STICK_READS)))
                ids, spent = self._ids(WARM_TOKENS + tokens).tolist(), []
                with prefix.fork() as session:
                    for token in ids:
                        start = self.clock()
                        session.decode(token)
                        spent.append(self.clock() - start)
                spent = spent[WARM_TOKENS:]
                rates.append(tokens / sum(spent))
                best = max(best, 1 / min(spent))
        return {**self._record("decode", depth, rates, rss, cost.bytes, cost.flops,
                               "bandwidth", limits, cost.bytes), "gen": tokens, "best": best}

    def profile(self, entry: str, tokens: int, depth: int, repeats: int) -> str:
        """A table of the steps of one call, each the best of several."""
        session, ids = self.model.session(), self._ids(tokens).astype(np.int32)
        if depth:
            session.prefill(self._ids(depth))
        context: Any = session._context
        context.run(entry, ids, np.empty((1, self.model.vocab_size), np.float32))
        rounds, reads, sums = [], [], []
        for _ in range(repeats):
            rounds.append(step_times(context, entry, ids, self.clock))
            reads += [self.sticks.read(PROFILE_STICK) for _ in range(32)]
            sums += [self.sticks.multiply_add(2e8) for _ in range(8)]
        title = f"{entry} of {tokens} at depth {depth}" if tokens > 1 else f"{entry} at {depth}"
        rows = by_kind(self.counter.steps(entry, tokens, depth), np.min(rounds, axis=0))
        return profile_table(title, rows, max(reads), max(sums))

    def _resident(self) -> int:
        """Bytes of this process in memory, mapped weights included, the sticks' buffer not."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") - (self._weights if self._sticks else 0)

    def _ids(self, n: int) -> Any:
        return self.rng.integers(0, self.model.vocab_size, n)

    def _record(self, test: str, n: int, rates: list[float], rss: int, nbytes: float,
                flops: float, stick: str, limits: list[float], per_token: float) -> dict[str, Any]:
        return {
            "test": test, "n": n, "samples": rates, "rss": rss, "load_s": self.load_s,
            "bytes_per_token": nbytes, "flops_per_token": flops, stick: limits,
            "of_limit": [r * per_token / s for r, s in zip(rates, limits, strict=True)],
        }


def table(records: Sequence[dict[str, Any]]) -> str:
    """A markdown table of the records of `Bench`."""
    lines = ["| test | n | min | median | max tokens/s | MB/token | MFLOP/token | stick"
             " | of limit min | median | max | resident MB |", "| --- |" + " ---: |" * 11]
    for r in records:
        if not r["samples"]:
            continue
        s, f = r["samples"], r["of_limit"]
        stick = (f"{median(r['bandwidth']) / 1e9:.1f} GB/s" if "bandwidth" in r
                 else f"{median(r['flops']) / 1e9:.0f} GFLOP/s")
        lines.append(
            f"| {r['test']} | {r['n']} | {min(s):.1f} | {median(s):.1f} | {max(s):.1f} "
            f"| {r['bytes_per_token'] / 1e6:.2f} | {r['flops_per_token'] / 1e6:.0f} | {stick} "
            f"| {min(f):.0%} | {median(f):.0%} | {max(f):.0%} | {r['rss'] / 1e6:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    args = _arguments()
    records: list[dict[str, Any]] = []
    common = {"peer": "firstlight", "versions": f"firstlight {firstlight.__version__}"}

    def emit(record: dict[str, Any], variant: str) -> None:
        records.append({**common, "variant": variant, **record})
        if args.jsonl:
            with args.jsonl.open("a") as file:
                file.write(json.dumps(records[-1]) + "\n")

    artifact = args.artifact or WORK / "artifact"
    if args.artifact is None or args.compile:
        checkpoint = args.checkpoint or WORK / "checkpoint"
        if not (checkpoint / "config.json").is_file():
            write_checkpoint(json.loads(args.config.read_text()), checkpoint)
        record = run_compiler(checkpoint, artifact, args.compile_option)
        emit(record, "compile")
        print(f"compiled in {record['seconds']:.1f} s ({record['cpu_s']:.1f} s of processor time), "
              f"at most {record['rss'] / 2**30:.2f} GiB resident\n")
    clock = time.thread_time if args.clock == "cpu" else time.perf_counter
    bench = Bench(artifact, args.threads, args.samples, args.seed, clock)
    variant = f"published weights, {bench.model.manifest.document['target']['name']}"
    extra = {"threads": bench.model.threads, "clock": args.clock}
    print(f"{artifact}: loaded in {bench.load_s:.3f} s, {bench.model.threads} threads\n")
    for n in args.prefill:
        emit({**bench.prefill(n), **extra}, variant)
    for depth in args.decode:
        emit({**bench.decode(depth, args.generate), **extra}, variant)
    print(table(records))
    if args.profile:
        for depth in args.decode:
            print("\n" + bench.profile("decode", 1, depth, 4 * args.samples))
        chunk = bench.counter.chunk
        for n in args.prefill:
            print("\n" + bench.profile("prefill", min(n, chunk), max(0, n - chunk), args.samples))
    if args.check:
        missed = shortfalls(records)
        print("\n" + "\n".join(f"FAILED  {line}" for line in missed) if missed else "\nchecked")
        sys.exit(bool(missed))


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",") if word]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--artifact", type=Path, help="measure this one instead of compiling")
    parser.add_argument("--compile", action="store_true", help="compile to --artifact first")
    parser.add_argument("--checkpoint", type=Path, help=f"default {WORK}/checkpoint")
    parser.add_argument("--config", type=Path, default=CONFIG, help="of a checkpoint to write")
    parser.add_argument("--compile-option", action="append", default=[], metavar="OPTION",
                        help="for `firstlight compile`, such as --compile-option=--chunk=64")
    parser.add_argument("--prefill", type=_numbers, default=[128, 512, 2048], metavar="N,N",
                        help="lengths of prompts")
    parser.add_argument("--decode", type=_numbers, default=[128, 2048], metavar="DEPTH,DEPTH",
                        help="tokens before the ones that are decoded")
    parser.add_argument("--samples", type=int, default=5, help="of every test")
    parser.add_argument("--generate", type=int, default=16, help="tokens of a decode sample")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall",
                        help="cpu: time of the thread, with --threads 1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", action="store_true", help="time every step")
    parser.add_argument("--check", action="store_true",
                        help="exit with 1 if a limit of limits.py is missed")
    parser.add_argument("--jsonl", type=Path, help="append a JSON line for every test")
    args = parser.parse_args()
    if args.clock == "cpu" and args.threads != 1:
        parser.error("--clock cpu counts one thread: give --threads 1")
    return args


if __name__ == "__main__":
    main()
