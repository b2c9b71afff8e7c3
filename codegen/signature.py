"""What a kernel takes, word by word: the bytes behind each pointer, for the program's reader."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.target import ArraySpec, Packer
from firstlight.ir import dims
from firstlight.ir.core import Op
from firstlight.ir.types import CODECS, StateType, TensorType, Type

TOKENS = "t"
"""The last word, which is no pointer."""


def signature(op: Op, kernel: Kernel, packer: Packer | None) -> list[Any]:
    """Bytes behind each word of a call, as `spelled` writes them, then `TOKENS`.

    Operands come first, a weight with scales as two; then the results that are no states.
    """
    words: list[Any] = []
    for value, layout in zip(op.operands, kernel.layouts, strict=True):
        if isinstance(value.type, TensorType) and value.type.codec:
            shape = [dims.evaluate(size, {}) for size in value.type.shape]
            specs = packed_specs(layout or "", value.type.codec, shape, packer)
            words += [_bytes(*spec) for spec in specs if spec is not None]
        else:
            words.append(_plain(value.type))
    words += [_plain(value.type) for value in op.results if not isinstance(value.type, StateType)]
    return [*words, TOKENS]


def spelled(size: dims.Size) -> Any:
    """A size for JSON: a number, the name of a symbol, or [operation, size, number]."""
    if not isinstance(size, dims.Dim):
        return size
    return size.head if size.base is None else [size.head, spelled(size.base), size.amount]


def packed_specs(layout: str, codec: str, shape: Sequence[int],
                 packer: Packer | None) -> tuple[ArraySpec, ArraySpec | None]:
    """Shapes and dtypes of a stored weight, without reading it."""
    if layout:
        assert packer is not None
        return packer.shapes(layout, codec, shape)
    form = CODECS[codec]
    codes = (*shape[:-1], shape[-1] // form.dense) if shape else ()
    return (codes, form.codes), ((form.grid(shape), form.scales) if form.scales else None)


def _plain(type_: Type) -> Any:
    if isinstance(type_, StateType):
        shape, number = (type_.capacity,), type_.row_bytes
    else:
        shape, number = type_.shape, 1 if type_.dtype == "bool" else 4
    number *= math.prod(size for size in shape if isinstance(size, int))
    result: Any = number
    for size in shape:
        if isinstance(size, dims.Dim):
            result = ["mul", spelled(size), result]
    return result


def _bytes(shape: Sequence[int], dtype: str) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize
