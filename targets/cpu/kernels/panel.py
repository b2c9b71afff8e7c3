"""Matrix-matrix tiles: a strip of weight rows is decoded once into a panel that stays in the cache,
then register tiles of 6 token rows run over it.

    register tile   6 tokens x 16 columns at 256 bits, x 64 at 512 bits: 12 or 24 accumulators
    panel           f32 [128 k][64 columns], 32 KiB
    part            f32 [tokens][64 columns], sums over the k blocks so far
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from firstlight.codegen.tvm_bridge import T
from firstlight.targets.cpu.kernels.layouts import TILE
from firstlight.targets.cpu.kernels.micro import Weight, zeros
from firstlight.targets.cpu.kernels.vecmath import (
    Expr,
    ceil_div,
    fetch,
    get,
    put,
    settle,
    spread,
)

LINE = 16
"""float32 of a line of the cache. At 512 bits those of the next register tile are fetched while one
is computed: where a row of x is as long as `wo_a`'s, the processor does not foresee them, and two
cores of Ice Lake take 1.25 times as long. At 256 bits four register tiles share them."""
ROWS = 6
"""Token rows of a register tile."""
DEPTH = 128
"""Columns of W decoded at a time: the largest scale group. It also bounds the chains of additions,
and so the rounding error."""
STRIP = 4
"""Weight tiles decoded together: a register tile's worth at 512 bits; at 256 bits four register
tiles that read the same x, which then comes from L1 three times out of four."""
SHARE = 258
"""Most tokens of a task, whole register tiles: their sums and a block of their columns stay in the
second-level cache, and threads of which others slow one end closer together. Two cores of Ice Lake
take 0.9 to 1 of the time for a product alone. Each task decodes its strip."""


@dataclass(frozen=True)
class Strip:
    """`tiles` consecutive row tiles of a weight from tile `first` on.

    Tiles are counted over all matrices. Those after `last` are read as `last`: a strip may run over
    its matrix, and nobody looks at the sums.
    """

    weight: Weight
    tiles: int
    first: Expr
    last: Expr


class Multiplier(Protocol):
    """Activations that can be multiplied with strips: `activations.Rows`."""

    def multiply(self, strips: Sequence[Strip], row: Callable[[Expr], Expr], count: Expr,
                 part: Any, done: Callable[[Expr], None], soon: Callable[[Expr], None]) -> None:
        """As `multiply`."""


def part_buffer(rows: int, tiles: int) -> Any:
    """Room for the sums of up to `rows` tokens; whole register tiles are written."""
    return T.alloc_buffer((-(-rows // ROWS) * ROWS, tiles * TILE), "float32")


def multiply(
    strips: Sequence[Strip], x: Any, row: Callable[[Expr], Expr], count: Expr, part: Any,
    done: Callable[[Expr], None], soon: Callable[[Expr], None], lanes: int,
) -> None:  # fmt: skip
    """part[r] = x[row(r)] . (the strips side by side), for r < count.

    Args:
        strips: of weights with the same K.
        x: buffer [.., K]; nothing behind column K is read.
        row: row of x for row r of the result, asked for r < count only.
        part: from `part_buffer`.
        done: called with r when part[r] is whole, while it is in the nearest cache.
        soon: called with r a register tile before, at 512 bits, to fetch what `done` writes to.
    """
    k = strips[0].weight.k
    width = sum(s.tiles for s in strips) * TILE
    depth = min(DEPTH, max(s.weight.padded for s in strips))
    panel = T.alloc_buffer((depth, width), "float32")

    def fill(block: Expr) -> None:
        column = 0
        for strip in strips:
            _decode(strip, block, panel, column, lanes)
            column += strip.tiles * TILE

    def visit(block: Expr, first: Expr, rows: Sequence[Expr], following: Sequence[Expr]) -> None:
        tile = min(width, 4 * TILE if lanes == 16 else TILE)
        with T.serial(width // tile) as c:
            _register_tile(x, rows, following, panel, part, first, c * tile, tile, block, k, lanes)

    tiled(-(-k // DEPTH), fill, visit, row, count, done, soon, lanes, ROWS, half=True)


def tiled(
    blocks: int, fill: Callable[[Expr], None],
    visit: Callable[[Expr, Expr, Sequence[Expr], Sequence[Expr]], None],
    row: Callable[[Expr], Expr], count: Expr, done: Callable[[Expr], None],
    soon: Callable[[Expr], None], lanes: int, size: int, half: bool,
) -> None:  # fmt: skip
    """For every block of k fill(block), then visit(block, first r, rows of x, those of the next
    tile if it is to fetch them) for every register tile of `size` rows, which divides ROWS; before
    its last soon(r), at 512 bits, and after it done(r) for every r.

    An expert has a few dozen of a chunk's tokens, and whole tiles of six only would waste a
    twentieth: with `half` the last has half the rows if that is enough. At 256 bits LLVM spills if
    `done` is in the same loop.
    """
    def at(r: Expr) -> Expr:
        return T.bind(row(T.min(r, count - 1)))

    def tile(block: Expr, first: Expr, number: int) -> None:
        rows = [at(first + i) for i in range(number)]
        fetching = lanes == 16 and number == ROWS       # float32 tiles: smaller ones do not wait
        following = [at(first + number + i) for i in range(number)] if fetching else []
        if lanes == 8:
            visit(block, first, rows, following)
            return
        last = T.bind(T.min(number, T.Select(block == blocks - 1, count - first, T.int32(0))))
        with T.serial(last) as i:
            soon(T.bind(first + i))
        visit(block, first, rows, following)
        with T.serial(last) as i:
            done(T.bind(first + i))

    with T.serial(blocks) as block:
        fill(block)
        rest = T.bind(T.truncmod(count, T.int32(size)))
        few = T.bind(T.And(rest > 0, rest <= size // 2)) if half else T.bool(False)
        whole = T.bind(T.truncdiv(count + (size - 1), T.int32(size)) - T.Cast("int32", few))
        with T.serial(whole) as m:
            tile(block, T.bind(m * size), size)
        if half:
            with T.If(few), T.Then():
                tile(block, T.bind(whole * size), size // 2)
    if lanes == 8:
        with T.serial(count) as r:
            done(r)


def _register_tile(
    x: Any, rows: Sequence[Expr], following: Sequence[Expr], panel: Any, part: Any, first: Expr,
    column: Expr, width: int, block: Expr, k: int, lanes: int,
) -> None:  # fmt: skip
    across = range(0, width, lanes)
    sums = [zeros(len(across), lanes) for _ in rows]
    deep = T.bind(T.min(DEPTH, k - block * DEPTH))

    def step(kk: Expr) -> None:
        ws = [T.bind(get(panel, kk, column + j, lanes=lanes)) for j in across]
        for r, line in zip(rows, sums, strict=True):
            scalar = T.bind(T.broadcast(x[r, block * DEPTH + kk], lanes))
            for cell, w in zip(line, ws, strict=True):
                cell.value = cell.value + scalar * w

    if following:
        with T.serial(ceil_div(deep, LINE)) as piece:
            start = T.bind(piece * LINE)
            for r in following:
                fetch(x[r, block * DEPTH + start])
            with T.serial(LINE if k % LINE == 0 else T.min(LINE, deep - start)) as i:
                step(T.bind(start + i))
    else:
        with T.serial(deep) as kk:
            step(kk)
    # Sums start anew in each block and are added: shorter chains, smaller rounding error.
    with T.If(block > 0), T.Then():
        for i, line in enumerate(sums):
            for cell, j in zip(line, across, strict=True):
                cell.value = cell.value + get(part, first + i, column + j, lanes=lanes)
    for i, line in enumerate(sums):
        for cell, j in zip(line, across, strict=True):
            put(part, cell.value, first + i, column + j, lanes=lanes)


def _decode(strip: Strip, block: Expr, panel: Any, column: int, lanes: int) -> None:
    """Columns `column` .. of the panel = this block of k of the strip."""
    weight, form, unit = strip.weight, strip.weight.form, strip.weight.micro.unit
    alike = form.group // form.step if form.group else 1  # steps that share scales
    most = DEPTH // form.step // alike
    with T.serial(strip.tiles) as t:
        tile = T.bind(T.min(strip.first + t, strip.last))
        with T.serial(T.min(most, weight.steps // alike - block * most)) as g:
            group = T.bind(block * most + g)
            scales = [T.bind(weight.scale(tile, group, half, lanes))
                      for half in range(TILE // lanes if form.group else 0)]
            with T.serial(alike) as s:
                for half, values in enumerate(weight.block(tile, group * alike + s, lanes)):
                    for k, value in enumerate(values):
                        if unit != 1.0:  # before the scale: it may be 2**-127
                            value = value * spread(1.0 / unit, lanes)
                        if scales:
                            value = value * scales[half]
                        at = column + t * TILE + half * lanes
                        put(panel, value, (g * alike + s) * form.step + k, at, lanes=lanes)


def panel_work(
    x: Multiplier, weight: Weight, groups: int, count: Expr, tokens: int, lanes: int,
    finish: Callable[[Expr, Expr, Expr, Sequence[Expr]], None],
    soon: Callable[[Expr, Expr, Expr], None],
) -> tuple[int, int, Callable[[Expr], None]]:  # fmt: skip
    """One segment for `parallel_by_bytes`: every strip of a weight times all tokens.

    Args:
        x: rows [S * G, K].
        finish: called with (token, group, tile of the matrix, its vectors).
        soon: called with (token, group, tile) before, to fetch what `finish` writes to.
    """
    per = min(STRIP, weight.tiles)
    n = -(-weight.tiles // per)
    cuts = -(-tokens // SHARE)
    even = ceil_div(count, T.max(ceil_div(count, SHARE), 1))
    share = settle(ceil_div(even, ROWS) * ROWS)

    def body(index: Expr) -> None:
        cut = T.bind(T.truncdiv(index, T.int32(weight.count * n)))
        strip = T.bind(index - cut * (weight.count * n))
        start = settle(cut * share)
        group = T.bind(T.truncdiv(strip, T.int32(n)))
        first = T.bind((strip - group * n) * per)
        base = T.bind(group * weight.tiles)
        part = part_buffer(min(tokens, SHARE), per)
        pieces = [Strip(weight, per, base + first, base + (weight.tiles - 1))]

        def done(r: Expr) -> None:
            each_tile(weight, per, first, lambda tile, column: finish(
                start + r, group, tile,
                [get(part, r, column + h, lanes=lanes) for h in range(0, TILE, lanes)]))

        def ahead(r: Expr) -> None:
            each_tile(weight, per, first, lambda tile, column: soon(start + r, group, tile))

        with T.If(start < count), T.Then():
            x.multiply(pieces, lambda r: (start + r) * groups + group,
                       settle(T.min(share, count - start)), part, done, ahead)

    return weight.count * n * cuts, weight.tile_bytes * per, body


def each_tile(weight: Weight, per: int, first: Expr, visit: Callable[[Expr, int], None]) -> None:
    """Call visit(tile, column) for every tile of a strip that exists."""
    for j in range(per):
        if weight.tiles % per == 0:
            visit(first + j, j * TILE)
        else:
            with T.If(first + j < weight.tiles), T.Then():
                visit(first + j, j * TILE)
