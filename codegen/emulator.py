"""Emitted text, run on this machine: what a printer writes is C, a chip's words are macros."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from firstlight.codegen.c_compiler import compile_c
from firstlight.codegen.target import Array, Source

ALIGN = 64


class CEmulator:
    """An `firstlight.codegen.target.Executor` of sources that a printer of codegen/printer made.

    Args:
        sources: by symbol of the kernel.
        folder: an empty folder to compile in.
        words: put before all sources, e.g. definitions of the chip's words.

    Raises F410 without a C compiler and F408 if it refuses the text.
    """

    def __init__(self, sources: Mapping[str, Source], folder: Path, words: str = "") -> None:
        self.sources = sources
        for path, data in {p: d for s in sources.values() for p, d in s.files.items()}.items():
            (folder / path).write_bytes(data)
        texts = [path for s in sources.values() for path in s.files if path.endswith(".c")]
        lines = [words, *(f'#include "{path}"' for path in texts), ""]
        (folder / "kernels.c").write_text("\n".join(lines))
        compile_c(folder / "kernels.c", folder / "kernels.so")
        self.library = ctypes.CDLL(str(folder / "kernels.so"))

    def run(self, symbol: str, buffers: Sequence[Array], tokens: int) -> None:
        """Call every phase of a kernel on 64-byte aligned arrays, in a workspace of its own."""
        size = getattr(self.library, f"{symbol}_workspace")
        size.restype = ctypes.c_int64
        room = np.full(size(ctypes.c_int64(tokens)) + ALIGN, 0xAB, np.uint8)
        workspace = room[-room.ctypes.data % ALIGN:]
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (*buffers, workspace)]
        for entry in self.entries(symbol):
            self.call(entry, [*pointers, ctypes.c_int32(tokens)])

    def entries(self, symbol: str) -> list[str]:
        """The functions of a kernel, in order."""
        source = self.sources[symbol]
        return [phase["entry"] for phase in source.launch.get("phases", ())] or [source.entry]

    def call(self, entry: str, arguments: Sequence[object]) -> None:
        """Call one function."""
        getattr(self.library, entry)(*arguments)
