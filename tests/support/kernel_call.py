"""Compile one kernel and call it on numpy arrays."""

import ctypes
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.tvm_bridge import compile_module

VNNI = "vnni"
OPTIONS = {8: {"mcpu": "x86-64-v3"}, 16: {"mcpu": "x86-64-v4"},
           VNNI: {"mcpu": "x86-64-v4", "vector-width": 512,
                  "mattr": ["+avx512vnni", "+avx512vbmi"]}}
MOST = [8, 1 << 20]
"""Tokens that a kernel is built for: few, for one thread, and many."""
LANES = [8, 16] if "avx512vl" in Path("/proc/cpuinfo").read_text() else [8]
"""Vector widths whose instructions this machine has."""


def aligned(array: np.ndarray) -> np.ndarray:
    """A C-contiguous copy on a 64-byte boundary."""
    room = np.empty(array.nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


class Compiled:
    """A kernel that can be called; `lanes` picks the instruction set it is compiled for."""

    def __init__(self, kernel: Kernel, lanes: int | str = 8) -> None:
        self.name, self.in_place = kernel.name, kernel.in_place
        self.module = compile_module({kernel.name: kernel.func}, OPTIONS[lanes])
        self.function = (
            self.module.jit()[kernel.name]
            if hasattr(self.module, "jit")
            else (self.module[kernel.name])
        )

    def __call__(
        self, operands: Sequence[np.ndarray], results: Sequence[np.ndarray], tokens: int
    ) -> list[np.ndarray]:
        """Operands (copied unless aligned; states are updated in place), then results by shape.

        A kernel that may write over an operand is called on copies, too: bits must be the same.
        """
        outs = [aligned(np.full_like(r, -7)) for r in results]
        ins = [
            a if a.ctypes.data % 64 == 0 and a.flags.c_contiguous else aligned(a) for a in operands
        ]
        again = [*map(aligned, ins), *map(aligned, outs)]
        self._call([*ins, *outs], tokens)
        if self.in_place is not None:
            place = again[self.in_place]
            again[len(ins)] = place.reshape(outs[0].shape)
            self._call(again, tokens)
            ins = [*ins[:self.in_place], outs[0].reshape(place.shape), *ins[self.in_place + 1:]]
            for got, want in zip(again, [*ins, *outs], strict=True):
                np.testing.assert_array_equal(got, want, "in place")
        return outs

    def _call(self, arrays: Sequence[np.ndarray], tokens: int) -> None:
        self.function(*(ctypes.c_void_p(a.ctypes.data) for a in arrays), tokens)


def max_error(got: np.ndarray, want: np.ndarray) -> float:
    """Largest difference, relative to the largest magnitude wanted."""
    scale = float(np.abs(want).max()) or 1.0
    return float(np.abs(got - want).max()) / scale


def to_bf16(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(bit patterns uint16, float32 values) of `array` cut to bfloat16."""
    bits = (array.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return bits, (bits.astype(np.uint32) << 16).view(np.float32)


def products(kernel: Kernel, lanes: int) -> Iterator[str]:
    """The assembly of the innermost loops that multiply vectors by numbers from memory."""
    text = compile_module({kernel.name: kernel.func}, OPTIONS[lanes]).inspect_source("asm")
    for block in re.finditer(r"^(\.LBB\w+):\n((?:(?!\.LBB).*\n)*)", text, re.M):
        again = re.search(rf"\tj\w+\t{re.escape(block[1])}\n", block[2])
        loop = block[2][: again.start()] if again else ""
        if re.search(r"\tvbroadcastss\t[-\d]*\(", loop) and loop.count("vfmadd") >= 8:
            yield loop
