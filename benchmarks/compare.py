"""Our artifacts and other engines on one checkpoint, in alternation, as one table of ratios.

    python benchmarks/compare.py ours=build/bench/artifact fast=build/bench/fast \\
        --llama-bin LLAMA/build/bin --gguf native=model.gguf --transformers build/bench/checkpoint

Every round runs each engine once on every test, each in a process of its own, so that what the
machine does meanwhile falls on all of them. Engines that are not here say `absent`. With
`--llama-source FOLDER` llama-bench is built there (needs cmake), and the checkpoint is converted by
its own script (needs the packages of that script) to build/bench/llama.gguf.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from firstlight.runtime import cpu

GGUF = Path("build/bench/llama.gguf")
Test = tuple[str, int]
Row = dict[str, Any]


@dataclass
class Engine:
    """One column: its tokens/s by test, and why it has none, of all tests or of one."""

    name: str
    samples: dict[Test, list[float]] = field(default_factory=dict)
    shares: dict[Test, list[float]] = field(default_factory=dict)
    facts: dict[str, float] = field(default_factory=dict)
    absent: str = ""
    failed: dict[Test, str] = field(default_factory=dict)

    def run(self, test: Test, threads: int, generate: int) -> Row:
        """One sample."""
        raise NotImplementedError

    def sample(self, test: Test, threads: int, generate: int) -> None:
        """Take one, unless the engine is not here or has failed in this test before."""
        if self.absent or test in self.failed:
            return
        try:
            row = self.run(test, threads, generate)
        except (OSError, subprocess.SubprocessError, ValueError, KeyError, IndexError) as error:
            self.failed[test] = f"{type(error).__name__}: {error}"[:200]
            return
        self.samples.setdefault(test, []).extend(row["samples"])
        self.shares.setdefault(test, []).extend(row.get("of_bound", ()))
        self.facts |= {k: row[k] for k in ("load_s", "rss") if k in row}

    def line(self) -> str:
        """What there is to say about it."""
        facts = ", ".join(f"{k} {v:.3g}" for k, v in self.facts.items())
        measured = [facts or "measured"] if self.samples else []
        failed = [f"{test} {n} failed: {why}" for (test, n), why in self.failed.items()]
        return self.absent or "; ".join([*measured, *failed])


@dataclass
class Ours(Engine):
    """An artifact under `firstlight bench`."""

    artifact: Path = Path()

    def run(self, test: Test, threads: int, generate: int) -> Row:
        """See `Engine.run`."""
        kind, n = test
        command = [sys.executable, "-m", "firstlight.cli", "bench", self.artifact, "-r", 1,
                   "-n", generate, "--threads", threads, "--json", "-p", n if kind == "prefill" else
                   "", "-d", n if kind == "decode" else ""]
        document = json.loads(_output(command))
        return {**document["rows"][0], "load_s": document["load_s"]}


@dataclass
class Llama(Engine):
    """llama.cpp's llama-bench on a GGUF file."""

    program: Path = Path()
    file: Path = Path()

    def run(self, test: Test, threads: int, generate: int) -> Row:
        """See `Engine.run`."""
        kind, n = test
        what = ["-p", n, "-n", 0] if kind == "prefill" else ["-p", 0, "-n", generate, "-d", n]
        rows = json.loads(_output([self.program, "-m", self.file, "-t", threads, "-r", 1,
                                   "-o", "json", *what]))
        return {"samples": rows[-1]["samples_ts"]}


@dataclass
class Transformers(Engine):
    """peer_transformers.py on the checkpoint."""

    checkpoint: Path = Path()

    def run(self, test: Test, threads: int, generate: int) -> Row:
        """See `Engine.run`."""
        kind, n = test
        script = Path(__file__).with_name("peer_transformers.py")
        row: Row = json.loads(_output([sys.executable, script, self.checkpoint, f"--{kind}", n,
                                       "--generate", generate, "--threads", threads]))
        return row


def _output(command: Sequence[object]) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True,
                          check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode:
        raise ValueError(f"exit status {done.returncode}: {done.stderr.strip()[-160:]}")
    return done.stdout


def build_llama(source: Path, checkpoint: Path) -> tuple[Path, Path]:
    """llama-bench of a source folder, and the checkpoint as GGUF; both only if not there yet.

    Raises OSError or CalledProcessError.
    """
    build = source / "build-firstlight"
    program = build / "bin" / "llama-bench"
    if not program.is_file():
        subprocess.run(["cmake", "-S", source, "-B", build, "-DCMAKE_BUILD_TYPE=Release",
                        "-DLLAMA_CURL=OFF", "-DGGML_NATIVE=ON"], check=True)
        subprocess.run(["cmake", "--build", build, "--target", "llama-bench", "-j"], check=True)
    if not GGUF.is_file():
        GGUF.parent.mkdir(parents=True, exist_ok=True)
        convert = Path(__file__).with_name("llama_gguf.py")
        subprocess.run([sys.executable, convert, source, checkpoint, GGUF], check=True)
    return program, GGUF


def table(engines: Sequence[Engine], tests: Sequence[Test]) -> str:
    """Median tokens/s, how many times as fast the first engine is as each other one, and of ours
    the share of the bound."""
    first, *others = engines
    ours = [e for e in engines if any(e.shares.values())]
    head = "".join(f" {e.name} |" for e in engines) + "".join(f" {first.name} / {e.name} |"
                                                              for e in others)
    head += "".join(f" of bound ({e.name}) |" for e in ours)
    lines = [f"| test |{head}",
             "| --- |" + " ---: |" * (len(engines) + len(others) + len(ours))]
    for test in tests:
        rates = [median(e.samples[test]) if e.samples.get(test) else None for e in engines]
        ratios = [rates[0] / r if rates[0] and r else None for r in rates[1:]]
        cells = [f"{r:.1f}" if r else "absent" for r in rates]
        cells += [f"{r:.2f}" if r else "" for r in ratios]
        cells += [f"{median(e.shares[test]):.0%}" if e.shares.get(test) else "" for e in ours]
        lines.append(f"| {test[0]} {test[1]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _engines(args: argparse.Namespace) -> Iterator[Engine]:
    for text in args.artifacts:
        name, _, folder = text.rpartition("=")
        yield Ours(name or Path(folder).name, artifact=Path(folder))
    program, files = args.llama_bin, args.gguf
    if program and program.is_dir():
        program /= "llama-bench"
    why = "" if program and program.is_file() else "no llama-bench (--llama-bin, --llama-source)"
    if args.llama_source:
        try:
            program, built = build_llama(args.llama_source, args.checkpoint)
            files, why = [*files, f"llama.cpp={built}"], ""
        except (OSError, subprocess.SubprocessError) as error:
            why = f"it could not be built: {error}"
    elif program and not files:
        why = "no model (--gguf)"
    for text in files or ["llama.cpp="]:
        name, _, file = text.rpartition("=")
        yield Llama(name or Path(file).stem, program=program, file=Path(file), absent=why)
    if args.transformers:
        yield Transformers("transformers", checkpoint=args.transformers)


def main() -> None:
    """The command line."""
    args = _arguments()
    engines = list(_engines(args))
    tests = [("prefill", n) for n in args.prefill] + [("decode", n) for n in args.decode]
    for _ in range(args.rounds):
        for test in tests:
            for engine in engines:
                engine.sample(test, args.threads, args.generate)
    print(f"{datetime.now(UTC):%Y-%m-%d}, {cpu.model()}, {platform.system()}, "
          f"{args.threads} threads, median of {args.rounds}\n")
    print(table(engines, tests))
    for engine in engines:
        print(f"\n{engine.name}: {engine.line()}", end="")
    print()


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",") if word]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifacts", nargs="+", metavar="NAME=DIR", help="ours; the first is the "
                        "one that the others are compared with")
    parser.add_argument("--llama-bin", type=Path, metavar="PATH",
                        help="where llama-bench lies, or that itself")
    parser.add_argument("--gguf", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--llama-source", type=Path, metavar="DIR", help="build it from here")
    parser.add_argument("--checkpoint", type=Path, default=Path("build/bench/checkpoint"),
                        help="what --llama-source converts")
    parser.add_argument("--transformers", type=Path, metavar="CHECKPOINT")
    parser.add_argument("--prefill", type=_numbers, default=[512, 2048], metavar="N,N")
    parser.add_argument("--decode", type=_numbers, default=[128, 2048], metavar="N,N")
    parser.add_argument("--generate", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=cpu.usable_cores())
    return parser.parse_args()


if __name__ == "__main__":
    main()
