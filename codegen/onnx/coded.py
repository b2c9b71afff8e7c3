"""Weights as a checkpoint stores them, decoded in the graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from firstlight.codegen.onnx.elementwise import F32, I32
from firstlight.codegen.onnx.graph import Graph
from firstlight.codegen.onnx.values import Val
from firstlight.ir import codecs
from firstlight.ir.types import BLOCK_FP8, CODECS, GROUP_FP4, GROUP_INT4, GROUP_INT8

UINT8, INT8, FLOAT16, BFLOAT16, FLOAT8E4M3FN, INT64 = 2, 3, 10, 16, 17, 7
STORED: dict[str, tuple[int, ...]] = {
    "f32": (F32,), "bf16": (BFLOAT16,), "f16": (FLOAT16,), "i32": (I32,), "i64": (INT64,),
    BLOCK_FP8: (FLOAT8E4M3FN, UINT8), GROUP_FP4: (UINT8, UINT8), GROUP_INT8: (INT8, BFLOAT16),
    GROUP_INT4: (UINT8, BFLOAT16),
}
"""ONNX element types of codes and scales. Two 4-bit codes in a byte are a byte: no float4 in
onnxruntime, and a table takes both at once."""
_BYTES = np.arange(256, dtype=np.uint8)
PAIRS = {GROUP_FP4: codecs.decode_e2m1(_BYTES).reshape(256, 2),
         GROUP_INT4: codecs.decode_int4(_BYTES).reshape(256, 2)}
"""The two values of every byte."""


@dataclass(frozen=True)
class Coded(Val):
    """A weight whose codes are at `name`, and its scales, if it has any, at `scales`."""

    codec: str = "f32"
    scales: str = ""

    def plain(self, g: Graph) -> str:
        """Decoded: f32, or i32 of a table."""
        if self.codec in ("f32", "i32"):
            return self.name
        if not self.scales:
            return str(g("Cast", self.name, to=I32 if self.codec == "i64" else F32))
        shape = tuple(d for d in self.shape if isinstance(d, int))
        if self.codec == BLOCK_FP8:
            return str(g("Mul", g("Cast", self.name, to=F32), self._grid(g, shape)))
        group = CODECS[self.codec].block[1]
        values = (lookup(g, self.name, PAIRS[self.codec]) if self.codec in PAIRS
                  else g("Cast", self.name, to=F32))
        blocks = g("Reshape", values, [*shape[:-1], shape[-1] // group, group])
        return str(g("Reshape", g("Mul", blocks, g("Unsqueeze", self._factors(g), [-1])),
                     list(shape)))

    def _grid(self, g: Graph, shape: tuple[int, ...]) -> str:
        """The scale of every element of a weight with square blocks."""
        name, block = self._factors(g), CODECS[self.codec].block
        for axis, side in ((-2, block[0]), (-1, block[1])):
            name = g("Gather", name, np.arange(shape[axis], dtype=np.int64) // side, axis=axis)
        return name

    def _factors(self, g: Graph) -> str:
        """The scales as f32."""
        if STORED[self.codec][1] == UINT8:
            return lookup(g, self.scales, codecs.decode_e8m0(_BYTES))
        return str(g("Cast", self.scales, to=F32))


def lookup(g: Graph, codes: str, table: NDArray[np.float32]) -> str:
    """What a table says of codes uint8; rows of two are of bytes that hold two codes."""
    return str(g("Gather", table, g("Cast", codes, to=I32), axis=0))
