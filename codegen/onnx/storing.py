"""Writing the data file of a model: weights in the forms its graphs want, streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.codegen.onnx.forms import FORMS
from firstlight.codegen.onnx.library import Library, Part, Wanted
from firstlight.codegen.weights import Source
from firstlight.ir import codecs
from firstlight.ir.types import BLOCK_FP8, CODECS
from firstlight.runtime.safetensors import SafetensorsFile, SafetensorsWriter, TensorPlan, Written

Array = NDArray[Any]
ELEMENTS = 16 << 20
"""Most elements that are held at a time, unless one row or one expert has more."""
Piece = tuple[Array, Array | None]
"""(an element's code or value [n, K], factors f32 [n, groups of K])."""


def write_data(path: Path, library: Library, sources: Mapping[str, Source],
               progress: Callable[[int, int], None]) -> Written:
    """Write the data file: a safetensors file, whose tensors graphs find by their offset.

    Each tensor begins at a multiple of 64 bytes. `progress` is called with bytes done and in all.
    """
    wanted = [library.wanted[name] for name in sorted(library.wanted)]
    plan = [TensorPlan(p.name, p.dtype, p.stored) for item in wanted for p in item.parts]
    total, done = sum(p.nbytes for p in plan), 0
    with SafetensorsWriter(path, plan) as out:
        for item in wanted:
            kept: list[Array] = []
            for part, data in zip(item.parts, (_codes(item, sources[item.weight], kept), kept),
                                  strict=False):
                out.write(part.name, iter(data))
                done += TensorPlan(part.name, part.dtype, part.stored).nbytes
                progress(done, total)
    assert out.written is not None
    return out.written


def initializers(onnx: Any, parts: Mapping[str, Part], data: Path, location: str) -> Iterator[Any]:
    """TensorProtos that refer to the data file; `location` is its path from the model's."""
    infos = SafetensorsFile(data, "F5").tensors
    for name, part in sorted(parts.items()):
        tensor = onnx.TensorProto(name=name, data_type=part.kind, dims=part.shape,
                                  data_location=onnx.TensorProto.EXTERNAL)
        for key, value in (("location", location), ("offset", infos[name].offset),
                           ("length", infos[name].nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        yield tensor


def _codes(item: Wanted, source: Source, kept: list[Array]) -> Iterator[Array]:
    """What is stored of a weight, in its order; `kept` gets the scales, whose turn is later."""
    for codes, factors in _pieces(item, source):
        if factors is not None:
            kept.append(factors)
        yield _encoded(item.form, codes)


def _pieces(item: Wanted, source: Source) -> Iterator[Piece]:
    shape = source.shape or (1,)
    columns = shape[-1]
    few = max(1, ELEMENTS // columns // 128) * 128
    if not item.swapped:
        for first, codes, scales in source.pieces(few):
            yield _split(item, codes, scales, source.codec, first)
    elif len(shape) > 2:
        for _, codes, scales in source.pieces(1 << 62):
            codes, factors = _split(item, codes, scales, source.codec, 0)
            yield codes.T, factors.T
    else:
        rows = shape[0] // (item.groups or 1)
        most = ELEMENTS * (16 if FORMS[item.form].scaled else 1)        # a code is one byte
        step = max(1, most // rows // 128) * 128
        for top in range(0, shape[0], rows):
            for left in range(0, columns, step):
                codes, factors = _turned(item, source, few, slice(top, top + rows),
                                         slice(left, min(columns, left + step)))
                yield codes, (factors if left == 0 else None)


def _turned(item: Wanted, source: Source, few: int, rows: slice, columns: slice
            ) -> tuple[Array, Array]:
    """Columns of some rows of a matrix, as rows: the source is read once for each such block."""
    found, grids = [], []
    for first, codes, scales in source.pieces(few):
        low, high = max(rows.start - first, 0), min(rows.stop - first, len(codes))
        if low < high:
            part, factors = _split(item, codes, scales, source.codec, first)
            found.append(part[low:high, columns])
            grids.append(factors[low:high])
    return np.concatenate(found).T, np.concatenate(grids).T


def _split(item: Wanted, codes: Array, scales: Array | None, codec: str, first: int
           ) -> tuple[Array, Array]:
    """Codes of single elements and their factors, where the form has scales; else values."""
    if not FORMS[item.form].scaled:
        return _values(codes, scales, codec, first), np.empty((len(codes), 0), np.float32)
    assert scales is not None
    form = CODECS[codec]
    if codec == BLOCK_FP8:
        grid = codecs.decode_e8m0(scales)[(first + np.arange(len(codes))) // form.block[0]]
        return codes, grid
    grid = (codecs.decode_e8m0 if form.scales == "uint8" else codecs.decode_bf16)(scales)
    if form.dense == 2:
        codes = np.stack([codes & np.uint8(15), codes >> np.uint8(4)], -1).reshape(len(codes), -1)
        if item.form == "int8":          # four bits of two's complement as eight
            codes = ((codes ^ np.uint8(8)) - np.uint8(8)).astype(np.uint8)
    return codes, grid


def _values(codes: Array, scales: Array | None, codec: str, first: int) -> Array:
    if codec in ("i32", "i64"):
        return codes.astype(np.int32)
    return codecs.decode_weight(codes, scales, codec, first)


def _encoded(form: str, values: Array) -> Array:
    """What the data file holds of codes or values."""
    if form == "bf16":
        return codecs.encode_bf16(values)
    if form == "f16":
        return codecs.encode_f16(values)
    if FORMS[form].dense == 2:
        return values[..., 0::2] | (values[..., 1::2] << np.uint8(4))
    return values
