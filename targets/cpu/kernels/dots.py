"""Dot products with small row-major weights, read as the checkpoint stores them.

The streamed matrices have packed layouts (``layouts``); these few (stream mixers, expert gates) are
too small to be worth one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from firstlight.codegen.tvm_bridge import T
from firstlight.targets.cpu.kernels.vecmath import (
    Cell,
    Expr,
    across,
    add,
    ceil_div,
    decode,
    get,
    hold,
    put,
    spread,
    wide,
)

ROWS_ALONE = 4
"""Weight rows per task for one token: enough chains of FMAs, and tasks for several cores."""

TOKENS, ROWS = 4, 3
"""Tile for many tokens: twelve accumulators, seven loads for twelve FMAs."""


def dot_tile(
    x: Any, x_bases: Sequence[Expr], w: Any, codec: str, w_bases: Sequence[Expr], k: int, lanes: int
) -> list[list[Expr]]:
    """<x[x_base : +k], w[w_base : +k]> for each pair, [token][row]; flat buffers, w in `codec`."""
    sums = [[Cell(spread(0.0, lanes), lanes) for _ in w_bases] for _ in x_bases]
    rests = [[Cell(T.float32(0)) for _ in w_bases] for _ in x_bases] if k % lanes else []

    def step(cells: list[list[Cell]], i: Expr, n: int) -> None:
        xs = [T.bind(get(x, base + i, lanes=n)) for base in x_bases]
        for row, base in enumerate(w_bases):
            v = hold(decode(w, codec, base + i, n), n)
            for token, value in enumerate(xs):
                cells[token][row].value = T.fma(value, v, cells[token][row].value)

    if k >= lanes:
        with T.serial(k // lanes) as i:
            step(sums, i * lanes, lanes)
    if rests:
        with T.serial(k // lanes * lanes, k) as i:
            step(rests, i, 1)
    out = [[across(c.value, lanes, add) for c in line] for line in sums]
    if rests:
        out = [[a + b.value for a, b in zip(*lines, strict=True)]
               for lines in zip(out, rests, strict=True)]  # fmt: skip
    return out


def matvec(x: Any, w: Any, codec: str, rows: int, k: int, out: Any, lanes: int) -> None:
    """out[r] = <w_r, x[0 : k]> for one token, rows shared among the threads."""
    with T.parallel(-(-rows // ROWS_ALONE)) as task:
        at = [T.bind(T.min(task * ROWS_ALONE + r, rows - 1)) for r in range(ROWS_ALONE)]
        (sums,) = dot_tile(x, [T.int64(0)], w, codec, [wide(r) * k for r in at], k, lanes)
        for row, value in zip(at, sums, strict=True):
            put(out, value, row)


def for_tokens(
    x: Any, w: Any, codec: str, rows: int, k: int, S: Expr, lanes: int,
    finish: Callable[[Expr, Any, Expr], None],
) -> None:  # fmt: skip
    """finish(token, z, base) with z[base + r] = <w_r, x_token> for each of S tokens.

    Blocks of TOKENS tokens are shared among the threads; w is read once per block.
    """
    with T.parallel(ceil_div(S, TOKENS)) as block:
        first = T.bind(block * TOKENS)
        x_bases = [T.bind(wide(T.min(first + t, S - 1)) * k) for t in range(TOKENS)]
        z = T.alloc_buffer((TOKENS * rows,), "float32")
        with T.serial(-(-rows // ROWS)) as turn:
            at = [T.bind(T.min(turn * ROWS + r, rows - 1)) for r in range(ROWS)]
            tile = dot_tile(x, x_bases, w, codec, [wide(r) * k for r in at], k, lanes)
            for token, sums in enumerate(tile):
                for row, value in zip(at, sums, strict=True):
                    put(z, value, token * rows + row)
        with T.serial(T.min(TOKENS, S - first)) as token:
            finish(first + token, z, token * rows)
