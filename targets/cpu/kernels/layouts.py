"""How weights lie in memory for the vector kernels, and the packers. numpy only, no TVM.

Every matrix [N, K] (y = x W^T) is cut into tiles of 16 rows; a tile is one sequential stream of
64-byte blocks (32 for f16), a block holds a few k of all 16 rows, and its 32-bit lane is a row.
So a matrix-vector kernel needs no horizontal sums, and a block decodes into rows of the panel of a
matrix-matrix kernel. N is padded to 16 rows and K to the codec's `pad`, both with zero codes.

    codec               packed codes               where (row r, k) of a block lies
    fp4e2m1/32:ue8m0    uint8 [.., T, K/8, 64]     r = 4a+d, k = 4h+2u+p: byte 16a+8u+2d+p, nibble h
    fp8e4m3/128x128     uint8 [.., T, K/4, 64]     k = 2q+p: byte 32q+2r+p
    bf16                uint16[.., T, K/2, 32]     word 2r+k
    f16                 uint16[.., T, K, 16]       word r
    f32                 float32[.., T, K, 16]      word r
    int8/32:bf16        as fp8
    int4/32:bf16        as fp4
    fp8, ``.quads``     uint8 [.., T, K/4, 64]     byte 4r+k

    scales              [.., T, K/group, 16]       one per row and group of 32 or 128 k: ue8m0 bytes
                                                   of fp4 and fp8, bf16 words of int8 and int4

The orders of fp4 and fp8 are what `pshufb` with `punpck`, and F16C, undo at 256 and at 512 bits;
that of quads is for a lane of 32 bits, in which each of the four is moved to its place.

Layouts: ``tile16`` for [.., N, K], each [N, K] a matrix of its own (experts); ``tile16.groupedG``
for a matrix [G*N, K] whose G groups of rows are multiplied with different vectors: every group is
padded to whole tiles by itself, the scale grid ignores the groups. Behind either, ``.quads`` says
that blocks have the other order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

TILE = 16
PLAIN, GROUPED, QUADS = "tile16", "tile16.grouped", ".quads"


@dataclass(frozen=True)
class Form:
    """The packed form of one codec.

    Attributes:
        dtype: numpy dtype of packed codes.
        step: consecutive k in one block.
        words: elements of `dtype` in one block.
        group: k that share a scale, 0 without scales.
        grid: matrix rows that share a scale.
        pad: K is padded to a multiple of this.
        dense: codes in one shipped element.
        scales: numpy dtype of a scale.
    """

    dtype: str
    step: int
    words: int
    group: int
    grid: int
    pad: int
    dense: int = 1
    scales: str = "uint8"

    @property
    def block_bytes(self) -> int:
        """Bytes of one block."""
        return self.words * np.dtype(self.dtype).itemsize

    def steps(self, k: int) -> int:
        """Blocks in a tile of `k` columns."""
        return -(-k // self.pad) * self.pad // self.step

    def groups(self, k: int) -> int:
        """Scales per row of a tile of `k` columns."""
        return -(-k // self.group) if self.group else 0

    def tile_bytes(self, k: int) -> int:
        """Bytes streamed for one tile of `k` columns, scales included."""
        scales = self.groups(k) * TILE * np.dtype(self.scales).itemsize
        return self.steps(k) * self.block_bytes + scales


FORMS = {
    "fp4e2m1/32:ue8m0": Form("uint8", 8, 64, 32, 1, 32, 2),
    "fp8e4m3/128x128:ue8m0": Form("uint8", 4, 64, 128, 128, 128),
    "int8/32:bf16": Form("uint8", 4, 64, 32, 1, 32, scales="uint16"),
    "int4/32:bf16": Form("uint8", 8, 64, 32, 1, 32, 2, "uint16"),
    "bf16": Form("uint16", 2, 32, 0, 0, 4),
    "f16": Form("uint16", 1, 16, 0, 0, 4),
    "f32": Form("float32", 1, 16, 0, 0, 4),
}


def tiles(n: int) -> int:
    """Row tiles of a matrix of `n` rows."""
    return -(-n // TILE)


def packed_shapes(
    layout: str, codec: str, shape: Sequence[int]
) -> tuple[tuple[tuple[int, ...], str], tuple[tuple[int, ...], str] | None]:
    """((codes shape, dtype), (scales shape, dtype) or None) of a packed weight [.., N, K]."""
    form, (*lead, n, k) = FORMS[codec], _matrices(layout, shape)
    codes = (*lead, tiles(n), form.steps(k), form.words)
    scales = (*lead, tiles(n), form.groups(k), TILE)
    return (codes, form.dtype), ((scales, form.scales) if form.group else None)


def pack(
    layout: str,
    codes: Array,
    scales: Array | None,
    codec: str,
    shape: Sequence[int],
    first_row: int = 0,
) -> tuple[Array, Array | None]:
    """Pack a weight, or a part of one: a range of leading indices, or rows in multiples of 16.

    Packed parts follow each other in memory, so large weights are packed piece by piece (grouped
    ones, which are small, are not).

    Args:
        codes: as shipped, logical shape `shape` = [.., N, K]: f32 or f16 or bf16 words (any dtype
            of that width), e4m3 bytes, or for fp4 bytes [.., N, K/2] and int4 with the even k in
            the low nibble.
        scales: [.., N, K/32] for groups of a row and [.., ceil(N/128), ceil(K/128)] for fp8.
        shape: logical shape of what is given.
        first_row: row of the whole stored matrix that codes[.., 0, :] is. `scales` then still
            belongs to the whole matrix for fp8 (its grid does not follow the rows), and to the
            given rows else.
    """
    form, (*lead, n, k) = FORMS[codec], _matrices(layout, shape)
    codes = codes.reshape(*lead, n, -1)
    elements = codes.view(form.dtype)
    columns = -(-k // form.dense)
    if elements.shape != (*lead, n, columns):
        raise ValueError(f"codes {elements.shape} do not have the shape {(*lead, n, columns)}")
    nt, steps, width = tiles(n), form.steps(k), form.step // form.dense
    full = np.zeros((*lead, nt * TILE, steps * width), form.dtype)
    full[..., :n, :columns] = elements
    packed = _fold(full.reshape(*lead, nt, TILE, steps, width), form, _by_lane(layout, form))
    if not form.group:
        return np.ascontiguousarray(packed), None
    assert scales is not None
    per_row = np.zeros((*lead, nt * TILE, form.groups(k)), form.scales)
    per_row[..., :n, :] = _row_scales(form, layout, scales.view(form.scales), lead, n, first_row)
    tiled = per_row.reshape(*lead, nt, TILE, -1)
    return np.ascontiguousarray(packed), np.ascontiguousarray(np.swapaxes(tiled, -1, -2))


def unpack(
    layout: str, codes: Array, scales: Array | None, codec: str, shape: Sequence[int]
) -> tuple[Array, Array | None]:
    """(codes, scales) again, one code per element [.., N, K] and one scale per row and group.

    With groups the result is [G, N, K].
    """
    form, (*lead, n, k) = FORMS[codec], _matrices(layout, shape)
    blocks = _unfold(codes, form, _by_lane(layout, form))
    nt = tiles(n)
    elements = np.swapaxes(blocks, -3, -2).reshape(*lead, nt * TILE, -1)[..., :n, :k]
    if scales is None:
        return elements, None
    return elements, np.swapaxes(scales, -1, -2).reshape(*lead, nt * TILE, -1)[..., :n, :]


def grouped(groups: int) -> str:
    """The layout for `groups` groups of rows."""
    return f"{GROUPED}{groups}"


def by_rows(layout: str) -> bool:
    """Whether parts of rows can be packed alone: groups are tiled one by one."""
    return layout.removesuffix(QUADS) == PLAIN


def _by_lane(layout: str, form: Form) -> bool:
    """Whether a row has all its k of a block in a row."""
    return form.step < 4 or layout.endswith(QUADS)


def _matrices(layout: str, shape: Sequence[int]) -> tuple[int, ...]:
    """[.., N, K] as the tiles see it; with groups [G, N, K], given as that or as [G*N, K]."""
    if by_rows(layout):
        return tuple(shape)
    groups = layout.removesuffix(QUADS).removeprefix(GROUPED)
    if not layout.startswith(GROUPED) or not groups.isdigit():
        raise ValueError(f"unknown layout {layout!r}, known: {PLAIN}, {GROUPED}<groups>")
    *lead, rows, k = shape
    count = int(groups)
    if lead == [count]:
        return tuple(shape)
    if lead or rows % count:
        raise ValueError(f"layout {layout} does not fit a weight of shape {tuple(shape)}")
    return count, rows // count, k


def _row_scales(
    form: Form, layout: str, scales: Array, lead: list[int], n: int, first_row: int
) -> Array:
    """One scale per row and group: a row takes the scales of the grid row it lies in."""
    if form.grid == 1:
        return scales.reshape(*lead, n, -1)
    if not by_rows(layout):
        rows = first_row + np.arange(lead[0] * n).reshape(lead[0], n)
        return scales[rows // form.grid]
    return scales[..., (first_row + np.arange(n)) // form.grid, :]


def _fold(blocks: Array, form: Form, by_lane: bool) -> Array:
    """[.., 16 rows, blocks, step] -> [.., blocks, words]; of fp4 the bytes as shipped."""
    *lead, _, count, _ = blocks.shape
    if by_lane:
        return np.swapaxes(blocks, -3, -2).reshape(*lead, count, form.words)
    i = len(lead)
    if form.step == 4:
        split = blocks.reshape(*lead, TILE, count, 2, 2)  # r block q p
        order = [*range(i), i + 1, i + 2, i, i + 3]
        return split.transpose(order).reshape(*lead, count, form.words)
    first, second = blocks[..., :2], blocks[..., 2:]  # h = 0, 1; within: u; p = 0 in low nibbles
    pairs = (first >> 4 | second & 0xF0).astype(np.uint16) << 8 | (first & 15 | second << 4)
    split = pairs.reshape(*lead, 4, 4, count, 2)  # a d block u
    order = [*range(i), i + 2, i, i + 3, i + 1]  # block a u d
    words = np.ascontiguousarray(split.transpose(order), "<u2")
    return words.view(np.uint8).reshape(*lead, count, form.words)


def _unfold(packed: Array, form: Form, by_lane: bool) -> Array:
    """[.., blocks, words] -> [.., blocks, 16 rows, step]."""
    *lead, count, _ = packed.shape
    i = len(lead) + 1
    if by_lane:
        return packed.reshape(*lead, count, TILE, form.step)
    if form.step == 4:
        split = packed.reshape(*lead, count, 2, TILE, 2)  # q r p
        return split.swapaxes(-3, -2).reshape(*lead, count, TILE, 4)
    split = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*lead, count, 4, 2, 4, 2, 2)
    order = [*range(i), i, i + 2, i + 4, i + 1, i + 3]  # a u d p h -> a d h u p
    return split.transpose(order).reshape(*lead, count, TILE, 8)
