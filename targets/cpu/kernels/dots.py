"""Dot products with small row-major weights, read as the checkpoint stores them.

The streamed matrices have packed layouts (``layouts``); these few (stream mixers, expert gates) are
too small to be worth one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from firstlight.codegen.tvm_bridge import T
from firstlight.targets.cpu.kernels.schedule import parallel_few
from firstlight.targets.cpu.kernels.vecmath import (
    Cell,
    Expr,
    across,
    add,
    ceil_div,
    clear,
    decode,
    fetch,
    get,
    hold,
    put,
    spread,
    sweep,
    wide,
)

ROWS_ALONE = 4
"""Weight rows per task for one token: enough chains of FMAs, and tasks for several cores."""

TOKENS = 4
ROWS = {8: 3, 16: 6}
"""Tile for many tokens by lanes: as many accumulators as there is room for beside the tokens."""


@dataclass(frozen=True)
class Columns:
    """Columns [pieces][width] of x and w, of which a product takes `size` of each piece at a time.

    Attributes:
        size: 0 for all of a piece.
        prepare: (token, first, count) called before these columns of a token's pieces are read; it
            may be what writes them.
    """

    width: int
    pieces: int = 1
    size: int = 0
    prepare: Callable[[Expr, Expr, int], None] | None = None

    @property
    def k(self) -> int:
        """All of them."""
        return self.pieces * self.width

    @property
    def blocks(self) -> int:
        """How often `size` columns are taken, the last time maybe fewer."""
        return ceil_div(self.width, self.size or self.width)

    def block(self, number: Expr, body: Callable[[Expr, int], None]) -> None:
        """body(first, count) for a block: once, or for whole ones and for what is left."""
        size, rest = self.size or self.width, self.width % (self.size or self.width)
        first = T.bind(number * size)
        if not rest:
            body(first, size)
            return
        with T.If(number < self.blocks - 1):
            with T.Then():
                body(first, size)
            with T.Else():
                body(first, rest)


def dot_tile(
    x: Any, x_bases: Sequence[Expr], w: Any, codec: str, w_bases: Sequence[Expr], k: int,
    lanes: int, pieces: int = 1, apart: int = 0, ahead: int = 0,
) -> list[list[Expr]]:  # fmt: skip
    """<x[x_base : +k], w[w_base : +k]> for each pair, [token][row]; flat buffers, w in `codec`.

    Of several `pieces`, which are summed, the next begins `apart` behind the last. With `ahead`,
    elements so far behind are fetched meanwhile.
    """
    sums = [[Cell(spread(0.0, lanes), lanes) for _ in w_bases] for _ in x_bases]
    rests = [[Cell(T.float32(0)) for _ in w_bases] for _ in x_bases] if k % lanes else []

    def step(cells: list[list[Cell]], i: Expr, n: int) -> None:
        xs = [T.bind(get(x, base + i, lanes=n)) for base in x_bases]
        for row, base in enumerate(w_bases):
            if ahead and n > 1:
                fetch(w[base + i + ahead], 2)
            v = hold(decode(w, codec, base + i, n), n)
            for token, value in enumerate(xs):
                cells[token][row].value = T.fma(value, v, cells[token][row].value)

    with T.serial(pieces) as piece:
        start = T.bind(piece * apart)
        if k >= lanes:
            with T.serial(k // lanes) as i:
                step(sums, start + i * lanes, lanes)
        if rests:
            with T.serial(k // lanes * lanes, k) as i:
                step(rests, start + i, 1)
    out = [[across(c.value, lanes, add) for c in line] for line in sums]
    if rests:
        out = [[a + b.value for a, b in zip(*lines, strict=True)]
               for lines in zip(out, rests, strict=True)]  # fmt: skip
    return out


def matvec(x: Any, w: Any, codec: str, rows: int, columns: Columns, out: Any,
           lanes: int) -> None:
    """out[r] = <w_r, x> for one token; threads share the rows, or the blocks of columns."""
    if columns.blocks == 1:
        if columns.prepare:
            columns.prepare(T.int32(0), T.int32(0), columns.width)
        tasks = ceil_div(rows, ROWS_ALONE)
        with parallel_few(tasks, tasks) as task:
            _rows(x, [T.int64(0)], w, codec, rows, columns, T.int32(0), columns.width, task,
                  ROWS_ALONE, lanes, lambda _, row, value: put(out, value, row))
        return
    parts = T.alloc_buffer((columns.blocks * rows,), "float32")
    with parallel_few(columns.blocks, columns.blocks) as number:

        def multiply(first: Expr, count: int) -> None:
            if columns.prepare:
                columns.prepare(T.int32(0), first, count)
            with T.serial(ceil_div(rows, ROWS_ALONE)) as turn:
                _rows(x, [T.int64(0)], w, codec, rows, columns, first, count, turn, ROWS_ALONE,
                      lanes, lambda _, row, value: put(parts, value, number * rows + row))

        columns.block(number, multiply)
    clear(out, 0, rows, lanes)
    with T.serial(columns.blocks) as number:
        _add(out, parts, number * rows, rows, lanes)


def for_tokens(
    x: Any, w: Any, codec: str, rows: int, columns: Columns, S: Expr, lanes: int,
    finish: Callable[[Expr, Expr, Any], None],
) -> None:  # fmt: skip
    """finish(first, count, z) with z[t * rows + r] = <w_r, x_(first + t)> for t < count <= TOKENS.

    Blocks of TOKENS tokens are shared among the threads; w is read once per block. Columns are
    summed in the order in which `matvec` sums them.
    """
    with T.parallel(ceil_div(S, TOKENS)) as block:
        start = T.bind(block * TOKENS)
        here = T.bind(T.min(TOKENS, S - start))
        bases = [T.bind(wide(T.min(start + t, S - 1)) * columns.k) for t in range(TOKENS)]
        z = T.alloc_buffer((TOKENS * rows,), "float32")
        part = z
        if columns.blocks > 1:
            clear(z, 0, TOKENS * rows, lanes)
            part = T.alloc_buffer((TOKENS * rows,), "float32")

        def multiply(first: Expr, count: int) -> None:
            if columns.prepare:
                with T.serial(here) as t:
                    columns.prepare(start + t, first, count)
            with T.serial(ceil_div(rows, ROWS[lanes])) as turn:
                _rows(x, bases, w, codec, rows, columns, first, count, turn, ROWS[lanes], lanes,
                      lambda token, row, value: put(part, value, token * rows + row))
            if columns.blocks > 1:
                _add(z, part, 0, TOKENS * rows, lanes)

        with T.serial(columns.blocks) as number:
            columns.block(number, multiply)
        finish(start, here, z)


def _add(total: Any, part: Any, at: Expr, count: int, lanes: int) -> None:
    """total[: count] += part[at : at + count]."""
    sweep(count, lanes, lambda i, n: put(
        total, get(total, i, lanes=n) + get(part, at + i, lanes=n), i, lanes=n))


def _rows(
    x: Any, bases: Sequence[Expr], w: Any, codec: str, rows: int, columns: Columns, first: Expr,
    count: int, turn: Expr, many: int, lanes: int, use: Callable[[int, Expr, Expr], None],
) -> None:  # fmt: skip
    """use(token, row, product of `count` columns of each piece) for `many` rows, the last of them
    more than once where there are not so many."""
    at = [T.bind(T.min(turn * many + r, rows - 1)) for r in range(many)]
    tile = dot_tile(x, [base + first for base in bases], w, codec,
                    [wide(r) * columns.k + first for r in at], count, lanes, columns.pieces,
                    columns.width, many * columns.k if len(bases) == 1 else 0)
    for token, sums in enumerate(tile):
        for row, value in zip(at, sums, strict=True):
            use(token, row, value)
