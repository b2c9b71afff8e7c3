"""Types: tensors (dtype, codec, symbolic dims) and state (ring, partial, entries)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from firstlight.ir import dims
from firstlight.ir.dims import Size

DTYPES = ("f32", "i32", "bool")
BLOCK_FP8 = "fp8e4m3/128x128:ue8m0"
GROUP_FP4 = "fp4e2m1/32:ue8m0"
MXFP8 = "fp8e4m3/32:ue8m0"
GROUP_INT8 = "int8/32:bf16"
GROUP_INT4 = "int4/32:bf16"
STATE_KINDS = ("ring", "partial", "entries")


@dataclass(frozen=True)
class Codec:
    """How the elements of a weight are stored, row after row.

    codes   numpy dtype of the codes
    dense   elements in one code
    block   (rows, columns) that share a scale; blocks at the edges may be cut off
    scales  numpy dtype of the scales' codes, "" for a codec without scales
    """

    codes: str
    dense: int = 1
    block: tuple[int, int] = (1, 1)
    scales: str = ""

    def grid(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the scales of a weight [..., N, K]."""
        *lead, rows, columns = shape
        return (*lead, -(-rows // self.block[0]), -(-columns // self.block[1]))

    def fits(self, columns: Size) -> bool:
        """Whether rows of so many elements can be stored: a group of one row is never cut off."""
        return isinstance(columns, int) and (self.block[0] > 1 or columns % self.block[1] == 0)

    def nbytes(self, shape: Sequence[int]) -> int:
        """Stored bytes of a tensor, scales included."""
        sizes = {"int64": 8, "float32": 4, "int32": 4, "float16": 2, "uint16": 2, "uint8": 1}
        scales = math.prod(self.grid(shape)) * sizes[self.scales] if self.scales else 0
        return math.prod(shape) // self.dense * sizes[self.codes] + scales


CODECS: Mapping[str, Codec] = {
    "f32": Codec("float32"),
    "bf16": Codec("uint16"),
    "f16": Codec("float16"),
    BLOCK_FP8: Codec("uint8", 1, (128, 128), "uint8"),
    GROUP_FP4: Codec("uint8", 2, (1, 32), "uint8"),
    MXFP8: Codec("uint8", 1, (1, 32), "uint8"),
    GROUP_INT8: Codec("uint8", 1, (1, 32), "uint16"),
    GROUP_INT4: Codec("uint8", 2, (1, 32), "uint16"),
    "i32": Codec("int32"),
    "i64": Codec("int64"),
}
REAL = tuple(name for name in CODECS if name not in ("i32", "i64", MXFP8))
"""Codecs of real numbers that weights come in; the others are those of tables, and MXFP8, which
packed weights may have."""


@dataclass(frozen=True)
class TensorType:
    """A tensor: logical `shape` and `dtype`; `codec` says how a weight is stored ("" = plainly)."""

    shape: tuple[Size, ...]
    dtype: str = "f32"
    codec: str = ""

    def __str__(self) -> str:
        body = "x".join([*map(str, self.shape), self.dtype])
        return f"!fl.tensor<{body}, {self.codec}>" if self.codec else f"!fl.tensor<{body}>"

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def plain(self) -> TensorType:
        """The type of the decoded tensor."""
        return TensorType(self.shape, self.dtype)

    def nbytes(self, sizes: Mapping[str, int] | None = None) -> int:
        """Stored bytes, scales included."""
        shape = [dims.evaluate(d, sizes or {}) for d in self.shape]
        if self.codec:
            return CODECS[self.codec].nbytes(shape)
        return math.prod(shape) * (1 if self.dtype == "bool" else 4)


@dataclass(frozen=True)
class RowCodec:
    """How a row of a state is stored: codes, then `tail` as bf16, then scales, then pad bytes.

    codes    "f32", "bf16", "e4m3" or "e2m1" (two in a byte): the columns before the tail
    group    columns that share a ue8m0 scale; the last group of e4m3 may be short. 0: no scales
    tail     last columns, kept as bf16: those that rope turns (spec 7)
    rotated  what is stored is the Walsh-Hadamard transform of the row, which is its own inverse
    """

    codes: str
    group: int = 0
    tail: int = 0
    rotated: bool = False

    def fits(self, width: int) -> bool:
        """Whether rows of so many columns can be stored."""
        if self.rotated and width & (width - 1):
            return False
        return self.tail < width and (self.codes != "e2m1" or width % self.group == 0)

    def parts(self, width: int) -> tuple[int, int, int]:
        """Bytes of codes, of the tail, and of scales."""
        columns = width - self.tail
        codes = columns * _CODE_BITS[self.codes] // 8
        return codes, 2 * self.tail, -(-columns // self.group) if self.group else 0

    def nbytes(self, width: int) -> int:
        """Bytes of a row: whole words of four, so 512 columns take 584 and 128 keys 68 (6.5)."""
        return -(-sum(self.parts(width)) // 4) * 4


_CODE_BITS = {"f32": 32, "bf16": 16, "e4m3": 8, "e2m1": 4}
_ROW_CODEC = re.compile(r"f32|bf16|fp8(?P<fp8>e4m3)/64:ue8m0(?:-bf16x(?P<tail>[1-9]\d{0,5}))?"
                        r"|(?P<rotated>hadamard-)?fp4(?P<fp4>e2m1)/32:ue8m0")
KEYS_FP4 = f"hadamard-{GROUP_FP4}"
"""The released format of index keys (spec 7)."""


def kv_fp8(tail: int) -> str:
    """The released format of keys and values (spec 7): the last `tail` columns stay bf16."""
    return "fp8e4m3/64:ue8m0" + (f"-bf16x{tail}" if tail else "")


@cache
def row_codec(name: str) -> RowCodec:
    """The codec of a state by its name; ValueError for what is none."""
    match = _ROW_CODEC.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is no codec of states")
    if match["fp8"]:
        return RowCodec("e4m3", 64, int(match["tail"] or 0))
    return RowCodec("e2m1", 32, 0, bool(match["rotated"])) if match["fp4"] else RowCodec(name)


@dataclass(frozen=True)
class StateType:
    """What a layer remembers between calls: rows [slots, rows, width] of real numbers.

    ring     `rows` latest rows, position p in row p mod rows   (window keys; spec 6.1)
    partial  the same, holding compressor inputs of blocks of `ratio` tokens
    entries  row w is compressed block w; C // ratio rows, or `rows` once the context is fixed

    `codec` (see `row_codec`) is how a row is stored: what is written is rounded, and every reader
    sees the rounded row. Arrays of references hold float32 either way.
    """

    kind: str
    width: int
    rows: int = 0
    ratio: int = 0
    codec: str = "f32"

    def __post_init__(self) -> None:
        if not row_codec(self.codec).fits(self.width):
            raise ValueError(f"rows of {self.width} columns cannot be stored as {self.codec}")

    def __str__(self) -> str:
        fields = [self.kind, f"width={self.width}"]
        fields += [f"rows={self.rows}"] if self.rows else []
        fields += [f"ratio={self.ratio}"] if self.ratio else []
        fields += [f"codec={self.codec}"] if self.codec != "f32" else []
        return f"!fl.state<{', '.join(fields)}>"

    @property
    def capacity(self) -> Size:
        """Rows per slot: fixed for rings, a share of the context for entries."""
        return self.rows or dims.floordiv(dims.C, self.ratio)

    @property
    def row_bytes(self) -> int:
        """Stored bytes of a row."""
        return row_codec(self.codec).nbytes(self.width)

    def nbytes(self, context: int) -> int:
        """Bytes of one slot."""
        return self.row_bytes * dims.evaluate(self.capacity, {"C": context})


Type = TensorType | StateType
