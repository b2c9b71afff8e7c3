"""Speed of a compiled model beside the limits of the machine, measured in the same minute.

    python benchmarks/bench.py                        the whole road: write, compile, load, measure
    python benchmarks/bench.py --profile              and where the time goes, step by step
    python benchmarks/bench.py --artifact DIR         only measure what is there
    python benchmarks/bench.py --check                exit status 1 below the limits of limits.py
    python benchmarks/bench.py --gate                 ... if a share of the bound fell by 15 %
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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import baseline
from checkpoint import CONFIG, write_checkpoint
from limits import shortfalls

import firstlight
from firstlight.measure.speed import Bench, table
from firstlight.measure.steps import breakdown

WORK = Path("build/bench")


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
            print("\n" + breakdown(bench.decode_steps(depth)))
        for n in args.prefill:
            print("\n" + breakdown(bench.prefill_steps(n)))
    if args.write_baseline or args.gate:
        where = baseline.key(bench.model.manifest.document, bench.model.threads,
                             Path("/proc/cpuinfo").read_text())
        if args.write_baseline:
            baseline.record(where, records)
    if args.check or args.gate:
        missed = shortfalls(records) if args.check else []
        missed += baseline.judge(where, records) if args.gate else []
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
    parser.add_argument("--gate", action="store_true",
                        help="exit with 1 if a test lost 15 % of its share in baseline.json")
    parser.add_argument("--write-baseline", action="store_true",
                        help="record the shares of this machine in baseline.json")
    parser.add_argument("--jsonl", type=Path, help="append a JSON line for every test")
    args = parser.parse_args()
    if args.clock == "cpu" and args.threads != 1:
        parser.error("--clock cpu counts one thread: give --threads 1")
    return args


if __name__ == "__main__":
    main()
