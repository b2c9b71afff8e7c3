"""The emulator's processes: started once, then told what to launch."""

from __future__ import annotations

import atexit
import functools
import mmap
import os
import re
import select
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from firstlight.codegen.target import Array, place
from firstlight.runtime.errors import FirstlightError
from firstlight.targets.cambricon.bang_library import server

ROOM = 1 << 36
"""Bytes of address room for GDRAM; what is not touched costs nothing."""
PAGE = 4096
CLUSTERS = 8
SRAM = 8 << 20
ORDERS = {"program": 0, "dma late": 1, "compute late": 2}


@dataclass(frozen=True)
class Settings:
    """How a launch is done.

    order    a key of `ORDERS`: which queues run as late as their syncs allow
    seed     0: as late as possible, sums forward, exact roots; others vary all that
    check    rules, hazards and races are checked
    overlaps operands that overlap where the reference forbids it are let through
    serial   cores run one after the other between barriers: no result hangs on the host's scheduler
    without  (file, line) of a sync that is left out
    """

    arch: int
    order: str = "dma late"
    seed: int = 1
    check: bool = True
    overlaps: bool = False
    serial: bool = False
    without: tuple[str, int] | None = None


@dataclass(frozen=True)
class Outcome:
    """What a launch came to: "" or the rule that was broken, and whether the sync was reached.

    moved   bytes that copies and gathers moved, by direction: {"GDRAM2NRAM": 4096}
    """

    problem: str
    left_out: bool
    moved: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Machine:
    """The processes, one per core, and the memory that all of them see."""

    process: subprocess.Popen[bytes]
    memory: mmap.mmap
    owner: int = field(default_factory=os.getpid)
    said: bytearray = field(default_factory=bytearray)

    @classmethod
    def start(cls) -> Machine:
        """Processes that wait for launches."""
        gdram, sram = os.memfd_create("bang-gdram"), os.memfd_create("bang-sram")
        os.ftruncate(gdram, ROOM)
        os.ftruncate(sram, CLUSTERS * SRAM)
        process = subprocess.Popen([str(server()), str(gdram), str(ROOM), str(sram)],
                                   pass_fds=(gdram, sram), stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, bufsize=0)
        memory = mmap.mmap(gdram, ROOM)
        os.close(gdram)
        os.close(sram)
        return cls(process, memory)

    def launch(self, library: Path, symbol: str, clusters: int, dim: Sequence[int],
               arguments: Sequence[Array | np.generic], settings: Settings,
               seconds: float = 600) -> Outcome:
        """Run a kernel; arrays that it writes are changed.

        Args:
            clusters: of a UnionN launch; 0 for Block.
            dim: tasks along x, y and z.
            arguments: arrays become GDRAM, numpy scalars are passed as they are.
        """
        words, at, places, given = [], PAGE, [], dict[tuple[int, int], int]()
        for argument in arguments:
            if isinstance(argument, np.ndarray):
                assert argument.flags.c_contiguous, "GDRAM is what it looks like"
                start = given.setdefault(place(argument), at)
                self._view(start, argument.nbytes)[...] = argument.reshape(-1).view(np.uint8)
                words.append(f"p:{start}:{argument.nbytes}")
                places.append(start)
                at += -(-argument.nbytes // PAGE) * PAGE + PAGE
            else:
                words.append(f"v:{argument.tobytes()[::-1].hex()}")
                places.append(-1)
        file, line = settings.without or ("-", 0)
        head = [library, symbol, clusters, *dim, settings.arch, ORDERS[settings.order],
                int(settings.check), int(settings.overlaps), int(settings.serial), settings.seed,
                file, line]
        answer = self._ask(" ".join(map(str, ["run", *head, *words])), seconds)
        word, written, left_out, traffic, problem = answer.split("\t", 4)
        for argument, start, wrote in zip(arguments, places, written, strict=False):
            if wrote == "1" and isinstance(argument, np.ndarray):
                argument.reshape(-1).view(np.uint8)[...] = self._view(start, argument.nbytes)
        moved = {way: int(size) for way, size in re.findall(r"(\w+):(\d+),", traffic)}
        return Outcome(_located(problem, library) if word == "failed" else "", left_out == "1",
                       moved)

    def workspace(self, library: Path, symbol: str, tokens: int) -> int:
        """Bytes of workspace that a kernel wants, -1 if it says nothing."""
        return int(self._ask(f"workspace {library} {symbol} {tokens}", 60))

    def alive(self) -> bool:
        """Whether it still answers."""
        return self.process.poll() is None

    def stop(self) -> None:
        """End all processes."""
        self.process.kill()
        self.process.wait()

    def _view(self, at: int, nbytes: int) -> Array:
        return np.frombuffer(self.memory, np.uint8, nbytes, at)

    def _ask(self, line: str, seconds: float) -> str:
        assert self.process.stdin
        assert self.process.stdout
        try:
            self.process.stdin.write(line.encode() + b"\n")
        except BrokenPipeError:
            raise self._gone("it has ended") from None
        while b"\n" not in self.said:
            if not select.select([self.process.stdout], [], [], seconds)[0]:
                self.stop()
                raise self._gone(f"no answer in {seconds:.0f} s; a loop that does not end?")
            part = os.read(self.process.stdout.fileno(), 1 << 16)
            if not part:
                raise self._gone("it ended during a launch")
            self.said += part
        answer, _, rest = self.said.partition(b"\n")
        self.said = bytearray(rest)
        return bytes(answer).decode(errors="replace")

    def _gone(self, why: str) -> FirstlightError:
        return FirstlightError("F479", "the emulator does not answer", where="targets/cambricon",
                               why=why, try_="run the kernel alone, with a smaller input")


_RUNNING: list[Machine] = []


def machine() -> Machine:
    """The machine of this process; a fork leaves its parent's alone."""
    if not _RUNNING or _RUNNING[0].owner != os.getpid() or not _RUNNING[0].alive():
        _RUNNING[:] = [Machine.start()]
        atexit.register(_RUNNING[0].stop)
    return _RUNNING[0]


def _located(problem: str, library: Path) -> str:
    """The places of scalar accesses as file and line, if there is a tool that knows."""
    return re.sub(r"@(0x[0-9a-f]+)", lambda m: _line(str(library), m[1]), problem)


@functools.lru_cache(maxsize=256)
def _line(library: str, place: str) -> str:
    tool = shutil.which("addr2line")
    if tool is None:
        return f"kernel+{place}"
    done = subprocess.run([tool, "-e", library, place], capture_output=True, text=True)
    found = done.stdout.strip().rpartition("/")[2].split(" ")[0]
    return found if done.returncode == 0 and "?" not in found else f"kernel+{place}"
