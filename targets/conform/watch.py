"""Checks in a process of their own: a kernel that crashes, or never ends, is a finding."""

from __future__ import annotations

import json
import mmap
import os
import struct
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from firstlight.codegen.apart import Died, run_apart
from firstlight.codegen.target import Executor
from firstlight.targets.conform.data import Array
from firstlight.targets.conform.report import Check

LIMIT = 60.0
"""Seconds that a call of a kernel may take. An emulator needs a few for the longest of the kit."""
_TEXT = 2048


class Doing:
    """What a forked process is at, in memory that its parent sees."""

    def __init__(self) -> None:
        self._room = mmap.mmap(-1, 16 + _TEXT)      # shared with children

    @contextmanager
    def call(self, what: str) -> Iterator[None]:
        """During a call."""
        self.at(what)
        self._room[:8] = struct.pack("<d", time.monotonic())
        try:
            yield
        finally:
            self._room[:8] = bytes(8)

    def at(self, what: str) -> None:
        """Between calls."""
        text = what.encode()[:_TEXT]
        self._room[8:16] = struct.pack("<q", len(text))
        self._room[16 : 16 + len(text)] = text

    @property
    def what(self) -> str:
        """The last that was said."""
        (length,) = struct.unpack("<q", self._room[8:16])
        return self._room[16 : 16 + length].decode(errors="replace")

    def overdue(self, limit: float) -> str:
        """Why it has to be ended, or ""."""
        (began,) = struct.unpack("<d", self._room[:8])
        return f"no end after {limit:g} s" if began and time.monotonic() - began > limit else ""


class Watched:
    """An executor whose calls are timed by the parent; `where` is put before their names."""

    def __init__(self, executor: Executor, doing: Doing, where: str = "") -> None:
        self.executor, self.doing, self.where = executor, doing, where
        self.note = getattr(executor, "note", "")

    def run(self, symbol: str, buffers: Sequence[Array], tokens: int) -> None:
        """See `Executor.run`."""
        with self.doing.call(" ".join(filter(None, (self.where, symbol, f"S={tokens}")))):
            self.executor.run(symbol, buffers, tokens)


Give = Callable[[Check], None]


def checks_apart(work: Callable[[Doing, Give, Path], None], scratch: Path, limit: float
                 ) -> tuple[list[Check], Exception | None]:
    """Call `work` in a forked process, with a folder of its own.

    Returns the checks it gave, and what ended it early: what it raised, or Died, whose text says
    during which call. When this ends, the process and those it started have ended.
    """
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        lines, doing = Path(folder, "checks.jsonl"), Doing()
        lines.touch()
        error: Exception | None = None
        try:
            run_apart(lambda: work(doing, lambda check: _write(lines, check), Path(folder)),
                      Path(folder), lambda: doing.overdue(limit))
        except Died as died:
            error = Died(f"{doing.what}: {died}" if doing.what else str(died))
        except Exception as raised:     # whatever a port raises is a finding about the port
            error = raised
        return [Check(**json.loads(line)) for line in lines.read_text().splitlines()], error


def _write(lines: Path, check: Check) -> None:
    with lines.open("a") as out:
        out.write(json.dumps(asdict(check)) + "\n")
        out.flush()
        os.fsync(out.fileno())
