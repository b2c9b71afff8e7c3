"""Kernels lowered for the chip, run on this machine: emulator_build makes the code, here it runs.

A launch record is what the artifact's ``code/launch.json`` has for a kernel: how many pointers it
takes, the bytes of its workspace, and its launches in order, each with entry, grid and arguments (a
pointer's number, "w" for the workspace, "l" for the lock between blocks, "S" for the tokens).
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.codegen.target import Array, Executor
from firstlight.runtime.errors import FirstlightError
from firstlight.targets.ascend.emulator_build import Built, build, lacking, shims
from firstlight.targets.ascend.rewrite import Entry

CHIP = "Ascend950PR_9589"
PROCESSES = 2
LIMIT_MS = 20_000
"""Longest that a core waits for another: a block's work is milliseconds."""
LOCK_BYTES = 4096
ALIGN = 512
POISON = 0xEE

Record = Mapping[str, Any]


class EmulatorError(RuntimeError):
    """A kernel did what a chip would punish: a wait without end, an access outside of memory."""


class _Memory(ctypes.Structure):
    """A one-dimensional memref, as MLIR passes it."""

    _fields_ = (("allocated", ctypes.c_void_p), ("aligned", ctypes.c_void_p),
                ("offset", ctypes.c_int64), ("size", ctypes.c_int64), ("stride", ctypes.c_int64))


def evaluate(size: Any, tokens: int) -> int:
    """A size of a launch record: a number, "S", or [op, size, size]."""
    if isinstance(size, int):
        return size
    if size == "S":
        return tokens
    op, a, b = size[0], evaluate(size[1], tokens), evaluate(size[2], tokens)
    return {"add": a + b, "sub": a - b, "mul": a * b, "ceildiv": -(-a // b) if b else 0,
            "floordiv": a // b if b else 0, "max": max(a, b), "min": min(a, b)}[op]


class Emulator:
    """An `firstlight.codegen.target.Executor` of lowered kernels.

    Args:
        texts: by symbol, the kernel's MLIR (as the chip's compiler takes it) and launch record.
        chip: the compiler's name of the chip.

    `beliefs` has, by symbol, what a kernel's result takes on trust about the chip: of such a kernel
    an agreement shows what we believe, and no more. `refused` has the errors (F471 to F475) of
    kernels that could not be lowered or read; to run one raises it.
    """

    def __init__(self, texts: Mapping[str, tuple[str, Record]], chip: str = CHIP) -> None:
        self._shims = shims()
        self._records = {symbol: record for symbol, (_, record) in texts.items()}
        distinct = {text: symbol for symbol, (text, _) in texts.items()}
        with ThreadPoolExecutor(PROCESSES) as pool:
            made = dict(zip(distinct, pool.map(lambda text: _try(text, chip, distinct[text]),
                                               distinct), strict=True))
        found = {symbol: made[text] for symbol, (text, _) in texts.items()}
        self._built = {symbol: b for symbol, b in found.items() if isinstance(b, Built)}
        self.refused = {symbol: b for symbol, b in found.items() if not isinstance(b, Built)}
        self._libraries: dict[Path, ctypes.CDLL] = {}
        self.beliefs = {symbol: built.beliefs for symbol, built in self._built.items()
                        if built.beliefs}

    def run(self, symbol: str, buffers: Sequence[Array], tokens: int) -> None:
        """Call a kernel: its pointers in order, then S. Raises EmulatorError for its faults."""
        if symbol in self.refused:
            raise self.refused[symbol]
        record = self._records[symbol]
        workspace = _room(evaluate(record.get("workspace", 0), tokens), POISON)
        for launch in record["launches"]:
            memories: list[Array] = []
            scalars: list[int] = []
            for argument in launch["args"]:
                if argument == "S":
                    scalars.append(tokens)
                else:
                    memories.append(workspace if argument == "w" else _room(LOCK_BYTES, 0)
                                    if argument == "l" else buffers[argument])
            grid = [evaluate(side, tokens) for side in launch["grid"]]
            grid += [1] * (3 - len(grid))
            if math.prod(grid):
                self._launch(symbol, launch["entry"], memories, [*scalars, *grid],
                             math.prod(grid))

    def _launch(self, symbol: str, name: str, memories: Sequence[Array], scalars: Sequence[int],
                blocks: int) -> None:
        built = self._built[symbol]
        library = self._libraries.setdefault(built.path, ctypes.CDLL(str(built.path)))
        starts, entry = _entries(built, name, library)
        kinds = [a for a in entry.arguments if a.startswith("memref")]
        if (len(kinds), len(entry.arguments)) != (len(memories), len(memories) + len(scalars)):
            raise EmulatorError(f"{symbol}: {name} takes {len(kinds)} memories and "
                                f"{len(entry.arguments) - len(kinds)} numbers, and is launched "
                                f"with {len(memories)} and {len(scalars)}")
        records = (_Memory * len(memories))(*[
            _Memory(a.ctypes.data, a.ctypes.data, 0, a.nbytes // _width(kind), 1)
            for a, kind in zip(memories, kinds, strict=True)])
        nbytes = (ctypes.c_int64 * len(memories))(*[a.nbytes for a in memories])
        numbers = (ctypes.c_int64 * (len(scalars) + 1))(len(memories), *scalars)
        message = ctypes.create_string_buffer(512)
        if self._shims.emu_launch(starts.get("aic"), starts.get("aiv"), records, nbytes, numbers,
                                  ctypes.c_int64(blocks), ctypes.c_int64(LIMIT_MS), message,
                                  ctypes.c_int64(len(message))):
            raise EmulatorError(f"{symbol}: {message.value.decode()}")


def emulate(texts: Mapping[str, tuple[str, Record]], folder: Path,
            chip: str = CHIP) -> Executor | None:
    """Run lowered kernels here; None where a tool is not here (`emulator_build.lacking`)."""
    return None if lacking() else Emulator(texts, chip)


def _try(text: str, chip: str, where: str) -> Built | FirstlightError:
    try:
        return build(text, chip, where)
    except FirstlightError as error:
        return error


def _entries(built: Built, name: str, library: ctypes.CDLL
             ) -> tuple[dict[str, Any], Entry]:
    """Start functions of a launch by core; a mixed kernel has two entries."""
    found = [e for e in built.entries if e.name in (name, f"{name}_mix_aic", f"{name}_mix_aiv")]
    if not found:
        raise EmulatorError(f"there is no entry {name} in the lowered module, only "
                            f"{', '.join(e.name for e in built.entries)}")
    return {e.core: getattr(library, f"start_{e.name}") for e in found}, found[0]


def _width(kind: str) -> int:
    bits = int("".join(c for c in kind.split("x")[-1] if c.isdigit()))
    return max(bits // 8, 1)


def _room(nbytes: int, value: int) -> Array:
    room = np.full(nbytes + ALIGN, value, np.uint8)
    start = -room.ctypes.data % ALIGN
    return room[start: start + nbytes]
