"""Emitted BANG C in the emulator: compiled once, then called on numpy memory."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from firstlight.codegen.target import Array, Source
from firstlight.runtime.errors import FirstlightError
from firstlight.targets.cambricon.chips import Chip

EMULATOR = Path(__file__).with_name("emulator")
ALIGN = 64
FLAGS = ("-std=gnu++17", "-O1", "-w", "-fno-strict-aliasing", "-ffp-contract=off", "-fPIC")
ORDERS = {"program": 0, "dma late": 1, "compute late": 2}


def compilers() -> list[list[str]]:
    """C++ compilers found here."""
    found = [[path] for name in ("g++", "clang++") if (path := shutil.which(name))]
    if importlib.util.find_spec("ziglang") is not None:
        found.append([sys.executable, "-m", "ziglang", "c++"])
    return found


class BangExecutor:
    """An `firstlight.codegen.target.Executor`; raises F479 where a kernel breaks a rule.

    Args:
        check: rules and hazards are checked; without, kernels just run.
        order: a key of `ORDERS`: which queues run as late as their syncs allow.
    """

    note = "executed in the emulator, not on a card"

    def __init__(self, chip: Chip, sources: Mapping[str, Source], folder: Path, *,
                 check: bool = True, order: str = "dma late", seed: int = 1) -> None:
        self.chip, self.sources, self.check = chip, sources, check
        self.order, self.seed = order, seed
        for source in sources.values():
            for path, data in source.files.items():
                (folder / path).write_bytes(data)
        lines = ["#include <bang.h>", '#include "emulate.h"']
        for name, source in sources.items():
            room = f"{name}_nram" if source.resources["nram_bytes"] else ""
            lines += [f'#include "{name}.mlu"',
                      f"BANG_KERNEL({name}, {room or 'nullptr'}, "
                      f"{f'sizeof {room}' if room else '0'})"]
        (folder / "kernels.cpp").write_text("\n".join([*lines, ""]))
        self.library = ctypes.CDLL(str(_compile(folder, check)))

    def run(self, symbol: str, buffers: Sequence[Array], tokens: int) -> None:
        """Call a kernel on 64-byte aligned arrays, in a workspace of its own."""
        size = getattr(self.library, f"bang_workspace_{symbol}")
        size.restype = ctypes.c_int64
        room = np.full(size(ctypes.c_int64(tokens)) + ALIGN, 0xFF, np.uint8)
        workspace = room[-room.ctypes.data % ALIGN:]
        arrays = [*buffers, workspace]
        pointers = (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))
        sizes = (ctypes.c_int64 * len(arrays))(*(a.nbytes for a in arrays))
        call = getattr(self.library, f"bang_run_{symbol}")
        call.restype = ctypes.c_char_p
        said = call(pointers, sizes, len(arrays), tokens, self.chip.arch, ORDERS[self.order],
                    int(self.check), self.seed)
        if said:
            raise FirstlightError("F479", f"{symbol} breaks a rule of the chip", where=symbol,
                                  why=said.decode(), try_="read the kernel at that line")


def _compile(folder: Path, check: bool) -> Path:
    found = compilers()
    if not found:
        raise FirstlightError("F410", "there is no C++ compiler", where=str(folder),
                              why="neither g++, clang++ nor the ziglang package was found",
                              try_="apt-get install g++    or    pip install ziglang")
    watch = ["-fsanitize=thread"] if check else []
    run = {"cwd": folder, "env": {**os.environ, "LC_ALL": "C"}, "capture_output": True,
           "text": True}
    for flags in ([*watch, "-c", "kernels.cpp", "-o", "kernels.o"],
                  ["-shared", "kernels.o", "-o", "kernels.so"]):
        done = subprocess.run([*found[0], *FLAGS, f"-I{EMULATOR}", *flags], **run)
        if done.returncode:
            said = [line.strip() for line in done.stderr.splitlines() if "error" in line]
            raise FirstlightError("F408", "the C++ compiler refuses emitted text",
                                  where=" ".join(found[0]),
                                  why=said[0] if said else f"status {done.returncode}",
                                  try_="firstlight conform TARGET --level emit")
    return folder / "kernels.so"
