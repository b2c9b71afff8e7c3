"""Matrix-matrix tiles: a strip of weight rows is decoded once into a panel that stays in L1, then
register tiles of 6 token rows run over it.

    strip   16 weight rows at 256 bits, 64 at 512 bits: 12 or 24 accumulators, so that one broadcast
            of x feeds 2 or 4 FMAs
    panel   f32 [256 k][strip], 16 or 64 KiB
    part    f32 [tokens][strip], sums over the k blocks so far
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from firstlight.codegen.tvm_bridge import T
from firstlight.targets.cpu.kernels.layouts import TILE
from firstlight.targets.cpu.kernels.micro import Expr, Vector, Weight, f32, load, store

ROWS = 6
"""Token rows of a register tile."""
DEPTH = 256
"""Columns of W decoded at a time: a multiple of every codec's scale group."""


def strip_tiles(weight: Weight, lanes: int) -> int:
    """16-row weight tiles in a strip: what the registers hold, less for small matrices."""
    return 1 if lanes == 8 else min(4, weight.tiles)


def strips(weight: Weight, lanes: int) -> int:
    """Strips of one matrix."""
    return -(-weight.tiles // strip_tiles(weight, lanes))


def part_buffer(tokens: int, width: int) -> Any:
    """Room for the sums of up to `tokens` rows; whole register tiles are written."""
    return T.alloc_buffer((-(-tokens // ROWS) * ROWS, width), "float32")


def multiply_strip(
    weight: Weight, tile: Expr, limit: Expr, x: Any, rows: Callable[[Expr], Expr], count: Expr,
    part: Any, column: int, lanes: int,
) -> None:  # fmt: skip
    """part[r, column : column + strip] = x[rows(r)] . W strip, for r < count.

    Args:
        tile: the strip's first 16-row tile, counted over all matrices.
        limit: the matrix's last tile. A strip that runs over it repeats it; nobody reads the sums.
        x: buffer [.., K].
        rows: row of x for row r of the result; called with r < count only.
    """
    k, width = weight.k, strip_tiles(weight, lanes) * TILE
    panel = T.alloc_buffer((min(DEPTH, weight.padded), width), "float32")
    with T.serial(-(-k // DEPTH)) as block:
        _decode_panel(weight, tile, limit, block, panel, lanes)
        with T.serial(T.truncdiv(count + (ROWS - 1), T.int32(ROWS))) as m:
            picked = [T.bind(rows(T.min(m * ROWS + i, count - 1))) for i in range(ROWS)]
            sums = [[Vector(lanes) for _ in range(width // lanes)] for _ in picked]
            cells = [
                (s, m * ROWS + i, column + j * lanes)
                for i, row in enumerate(sums)
                for j, s in enumerate(row)
            ]
            with T.If(block == 0):
                with T.Then():
                    for vector, _, _ in cells:
                        vector.value = f32(0.0, lanes)
                with T.Else():
                    for vector, r, c in cells:
                        vector.value = load(part, r, c, lanes=lanes)
            with T.serial(T.min(DEPTH, k - block * DEPTH)) as kk:
                columns = [
                    T.bind(load(panel, kk, j * lanes, lanes=lanes)) for j in range(width // lanes)
                ]
                for r, row in zip(picked, sums, strict=True):
                    scalar = T.bind(T.broadcast(x[r, block * DEPTH + kk], lanes))
                    for vector, w in zip(row, columns, strict=True):
                        vector.value = vector.value + scalar * w
            for vector, r, c in cells:
                store(part, vector.value, r, c, lanes=lanes)


def _decode_panel(
    weight: Weight, tile: Expr, limit: Expr, block: Expr, panel: Any, lanes: int
) -> None:
    form = weight.form
    steps = DEPTH // form.step
    with T.serial(strip_tiles(weight, lanes)) as t:
        source = T.bind(T.min(tile + t, limit))
        with T.serial(T.min(steps, weight.steps - block * steps)) as s:
            step = T.bind(block * steps + s)
            for half, values in enumerate(weight.block(source, step, lanes)):
                if form.group:
                    group = T.truncdiv(step, T.int32(form.group // form.step))
                    scale = T.bind(weight.scale(source, group, half, lanes))
                for k, value in enumerate(values):
                    if weight.micro.unit != 1.0:  # before the scale: it may be 2**-127
                        value = value * f32(1.0 / weight.micro.unit, lanes)
                    if form.group:
                        value = value * scale
                    at = t * TILE + half * lanes
                    store(panel, value, s * form.step + k, at, lanes=lanes)


def panel_work(
    x: Any, weight: Weight, groups: int, count: Expr, tokens: int, lanes: int,
    finish: Callable[[Expr, Expr, int, Expr, Any], None],
) -> tuple[int, int, Callable[[Expr], None]]:  # fmt: skip
    """One segment for `parallel_by_bytes`: every strip of a weight times all tokens.

    Args:
        x: buffer [S * G, K].
        finish: called with (row r < count, tile of the matrix, column of `part`, group, part).
    """
    per, n = strip_tiles(weight, lanes), strips(weight, lanes)

    def body(strip: Expr) -> None:
        group = T.bind(T.truncdiv(strip, T.int32(n)))
        first = T.bind((strip - group * n) * per)
        base = T.bind(group * weight.tiles)
        part = part_buffer(tokens, per * TILE)
        multiply_strip(
            weight, base + first, base + (weight.tiles - 1), x, lambda r: r * groups + group,
            count, part, 0, lanes,
        )  # fmt: skip
        with T.serial(count) as r:
            for j in range(per):
                if weight.tiles % per == 0:
                    finish(r, first + j, j * TILE, group, part)
                else:
                    with T.If(first + j < weight.tiles), T.Then():
                        finish(r, first + j, j * TILE, group, part)

    return weight.count * n, weight.tile_bytes * per, body
