"""Types: tensors (dtype, codec, symbolic dims) and state (ring, partial, entries)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from firstlight.ir import dims
from firstlight.ir.dims import Size

DTYPES = ("f32", "i32", "bool")
BLOCK_FP8 = "fp8e4m3/128x128:ue8m0"
GROUP_FP4 = "fp4e2m1/32:ue8m0"
CODECS = ("f32", "bf16", "f16", BLOCK_FP8, GROUP_FP4, "i32", "i64")
STATE_KINDS = ("ring", "partial", "entries")


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
        return stored_bytes([dims.evaluate(d, sizes or {}) for d in self.shape],
                            self.codec or self.dtype)


@dataclass(frozen=True)
class StateType:
    """What a layer remembers between calls; arrays are [slots, rows, width] float32.

    ring     `rows` latest rows, position p in row p mod rows   (window keys; spec 6.1)
    partial  the same, holding compressor inputs of blocks of `ratio` tokens
    entries  row w is compressed block w; C // ratio rows, or `rows` once the context is fixed
    """

    kind: str
    width: int
    rows: int = 0
    ratio: int = 0
    codec: str = "f32"

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

    def nbytes(self, context: int) -> int:
        """Bytes of one slot."""
        return 4 * self.width * dims.evaluate(self.capacity, {"C": context})


Type = TensorType | StateType


def stored_bytes(shape: list[int], codec: str) -> int:
    """Bytes of a tensor of `shape` as the checkpoint stores it (codes and scales)."""
    count = 1
    for dim in shape:
        count *= dim
    if codec == BLOCK_FP8:
        *lead, rows, cols = shape
        grid = -(-rows // 128) * -(-cols // 128)
        for dim in lead:
            grid *= dim
        return count + grid
    if codec == GROUP_FP4:
        return count // 2 + count // 32
    return count * {"f32": 4, "i32": 4, "bf16": 2, "f16": 2, "i64": 8, "bool": 1}[codec]
