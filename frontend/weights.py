"""Weights of a checkpoint, still in their files: shape, codec, and views when asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.ir.codecs import BLOCK_FP8, FP8_BLOCK, decode_bf16, decode_weight, encode_e8m0
from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.safetensors import SafetensorsFile, TensorInfo

ALL = slice(None)


@dataclass(frozen=True, slots=True)
class WeightRef:
    """One stored matrix or vector; nothing is read before a method asks for it.

    `name` is the released name, `source` the one in the file, `shape` the logical shape. `bound`:
    a table's values must lie in [0, bound). `rows` of the methods is a slice of the first axis.
    """

    name: str
    codec: str
    shape: tuple[int, ...]
    file: SafetensorsFile
    data: TensorInfo
    scale_file: SafetensorsFile | None = None
    scale: TensorInfo | None = None
    bound: int = 0

    @property
    def source(self) -> str:
        """The tensor's name in its file."""
        return self.data.name

    @property
    def nbytes(self) -> int:
        """Stored bytes, scales included (as one byte each)."""
        return self.data.nbytes + (math.prod(self.scale.shape) if self.scale else 0)

    def codes(self, rows: slice = ALL) -> NDArray[Any]:
        """The stored codes, a view: uint8 [N, K] for fp8, uint8 [N, K/2] for fp4, uint16 for bf16,
        float16, float32 or int64 else. A table's values are checked (F132)."""
        part = self._part(self.data, rows)
        self.file.will_need(part)          # the map itself has no read-ahead
        values = self.file.array(part)
        if self.codec.startswith("fp"):
            return values.view(np.uint8)
        if self.bound and values.size and not 0 <= values.min() <= values.max() < self.bound:
            raise FirstlightError(
                "F132", f"table {self.source!r} holds {values.min()} to {values.max()}",
                where=str(self.file.path), why=f"its entries name one of {self.bound} experts",
                try_="fetch this file again")
        return values

    def scales(self, rows: slice = ALL) -> NDArray[np.uint8] | None:
        """e8m0 scale codes: [ceil(N/128), ceil(K/128)] for fp8 (the block rows that `rows` meets),
        [N, K/32] for fp4, None for other codecs."""
        if self.scale is None:
            return None
        assert self.scale_file is not None
        start, stop, _ = rows.indices(self.shape[0])
        if self.codec == BLOCK_FP8:
            start, stop = start // FP8_BLOCK, -(-stop // FP8_BLOCK)
        values = self.scale_file.array(self.scale.rows(start, stop))
        if self.scale.dtype in ("F32", "BF16"):
            return self._powers_of_two(values)
        return values

    def decode(self, rows: slice = ALL) -> NDArray[Any]:
        """The logical values as a new float32 array (int32 for tables)."""
        codes = self.codes(rows)
        if self.codec in ("i64", "i32"):
            return codes.astype(np.int32)
        if self.codec == "f32":
            return np.array(codes, np.float32)
        first = rows.indices(self.shape[0])[0] % FP8_BLOCK if self.codec == BLOCK_FP8 else 0
        return decode_weight(codes, self.scales(rows), self.codec, first)

    def will_need(self) -> None:
        """Start reading ahead: this weight comes next."""
        self.file.will_need(self.data)

    def release(self, rows: slice = ALL) -> None:
        """Give its pages (or those of some rows) back: it will not be read again soon."""
        self.file.release(self._part(self.data, rows))
        if rows == ALL and self.scale is not None and self.scale_file is not None:
            self.scale_file.release(self.scale)

    def _part(self, info: TensorInfo, rows: slice) -> TensorInfo:
        if rows == ALL:
            return info
        start, stop, step = rows.indices(self.shape[0])
        assert step == 1, "rows are contiguous"
        return info.rows(start, max(start, stop))

    def _powers_of_two(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Scales of older converters, floats that must be e8m0 values."""
        scales = decode_bf16(values) if values.dtype == np.uint16 else values
        codes = encode_e8m0(np.where(scales > 0, scales, 1))
        if not np.array_equal(np.ldexp(np.float32(1), codes.astype(np.int32) - 127), scales):
            assert self.scale is not None
            raise FirstlightError(
                "F131", f"scales {self.scale.name!r} are no powers of two",
                where=str(self.scale_file and self.scale_file.path),
                why="DeepSeek-V4 weights have ue8m0 scales",
                try_="a checkpoint whose scale_fmt is ue8m0")
        return codes


@dataclass(frozen=True, slots=True)
class StackedRef:
    """The same matrix of all experts of a layer, [E, out, in]; iterate to stream them."""

    name: str
    experts: tuple[WeightRef, ...]

    @property
    def codec(self) -> str:
        """How every expert is stored."""
        return self.experts[0].codec

    @property
    def shape(self) -> tuple[int, ...]:
        """[E, out, in]."""
        return (len(self.experts), *self.experts[0].shape)

    @property
    def source(self) -> str:
        """The name of the first expert's tensor in its file."""
        return self.experts[0].source

    @property
    def nbytes(self) -> int:
        """Stored bytes of all experts."""
        return sum(w.nbytes for w in self.experts)

    def __len__(self) -> int:
        return len(self.experts)

    def __iter__(self) -> Iterator[WeightRef]:
        return iter(self.experts)

    def __getitem__(self, e: int) -> WeightRef:
        return self.experts[e]

    def codes(self) -> NDArray[Any]:
        """A copy of all codes, [E, ...]; stream the experts one by one if the model is large."""
        return np.stack([w.codes() for w in self.experts])

    def scales(self) -> NDArray[np.uint8] | None:
        """A copy of all scales, [E, ...], or None."""
        parts = [s for w in self.experts if (s := w.scales()) is not None]
        return np.stack(parts) if parts else None

    def decode(self) -> NDArray[np.float32]:
        """All experts as float32, [E, out, in]: for small models."""
        values = np.empty(self.shape, np.float32)
        for e, w in enumerate(self.experts):
            values[e] = w.decode()
        return values

    def release(self) -> None:
        """Give the pages of all experts back."""
        for w in self.experts:
            w.release()
