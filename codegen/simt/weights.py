"""Weights as threads read them: a 32-bit word at a time, still packed, decoded in registers.

Neighbouring threads read neighbouring words of a row, whatever the codec. Decoding is the generic
kernels' own: exact, by integers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from firstlight.codegen.generic.storage import decode_bf16, decode_e2m1, decode_e4m3, decode_e8m0
from firstlight.codegen.simt.halves import decoded
from firstlight.codegen.tvm_bridge import T
from firstlight.ir.types import BLOCK_FP8, CODECS, GROUP_FP4

PER_WORD = {"f32": 1, "bf16": 2, "f16": 2, BLOCK_FP8: 4, GROUP_FP4: 8}
"""Codec -> weights in a word. Others are left to generic kernels."""


@dataclass
class Weight:
    """Stacked matrices [count, n, k] in one codec; `bind` gives it its pointers."""

    codec: str
    count: int
    n: int
    k: int
    words: Any = field(init=False, default=None)
    scales: Any = field(init=False, default=None)

    @property
    def fits(self) -> bool:
        """Whether rows are whole words and places can be numbered with 32 bits."""
        per = PER_WORD.get(self.codec, 0)
        group = CODECS[self.codec].block[1] if self.codec == GROUP_FP4 else per
        return bool(per) and self.k % max(group, 1) == 0 and self.count * self.n * self.k < 1 << 31

    @property
    def per(self) -> int:
        """Weights in a word."""
        return PER_WORD[self.codec]

    @property
    def row_words(self) -> int:
        """Words of a row."""
        return self.k // self.per

    def pointers(self, name: str) -> list[tuple[str, str]]:
        """(name, element type) of its parameters."""
        if self.codec == "f32":
            return [(name, "float32")]
        form = CODECS[self.codec]
        return [(name, form.codes), *([(f"{name}_scales", form.scales)] if form.scales else [])]

    def bind(self, pointers: list[Any]) -> None:
        """Declare its memory."""
        words = self.count * self.n * self.row_words
        kind = "float32" if self.codec == "f32" else "uint32"
        self.words = T.decl_buffer((words,), kind, data=pointers[0])
        if len(pointers) > 1:
            block = CODECS[self.codec].block
            grid = self.count * -(-self.n // block[0]) * -(-self.k // block[1])
            self.scales = T.decl_buffer((grid,), "uint8", data=pointers[1])

    def read(self, matrix: Any, row: Any, word: Any) -> tuple[list[Any], Any]:
        """The weights in a word of a row, and what they are to be multiplied by (None: nothing)."""
        place = (matrix * self.n + row) * self.row_words + word
        bits = T.bind(self.words[place])
        if self.codec == "f32":
            return [bits], None
        if self.codec == BLOCK_FP8:
            values = [decode_e4m3(_piece(bits, 8, i)) for i in range(4)]
            rows, columns = -(-self.n // 128), -(-self.k // 128)
            scale = self.scales[(matrix * rows + row // 128) * columns + word // (128 // self.per)]
        elif self.codec == GROUP_FP4:
            values = [decode_e2m1(_piece(bits, 4, i)) for i in range(8)]
            scale = self.scales[(matrix * self.n + row) * (self.k // 32) + word // (32 // self.per)]
        else:
            decode = decode_bf16 if self.codec == "bf16" else decoded
            return [decode(_piece(bits, 16, i)) for i in range(2)], None
        return values, T.bind(decode_e8m0(scale))


def _piece(word: Any, width: int, number: int) -> Any:
    """So many bits of a word, as an integer of their own."""
    mask = T.uint32((1 << width) - 1)
    piece = T.bitwise_and(T.shift_right(word, T.uint32(width * number)), mask)
    return T.bind(piece if width == 16 else T.Cast("int32", piece))
