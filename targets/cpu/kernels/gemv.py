"""Matrix-vector tiles: every weight byte is read once, in one sequential stream.

A lane of an accumulator is a row, so the only sums across registers are over the few chains that
hide the FMA's latency.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from firstlight.codegen.tvm_bridge import T
from firstlight.targets.cpu.kernels.layouts import TILE
from firstlight.targets.cpu.kernels.micro import Weight, zeros
from firstlight.targets.cpu.kernels.vecmath import Cell, Expr, get, put, spread, sweep, tree


def x_copy(x: Any, rows: Expr, k: int, weights: Sequence[Weight], lanes: int,
           most: int = 0) -> Any:
    """x[rows, k] as the tiles read it: up to the padded K of every weight, zeros behind k.

    `most` where `rows` is not a number.
    """
    padded = max(w.padded for w in weights)
    if padded == k:
        return x
    copy = T.alloc_buffer((most or rows, padded), "float32")
    with T.serial(rows) as r:
        sweep(k, lanes, lambda i, n: put(copy, get(x, r, i, lanes=n), r, i, lanes=n))
        with T.serial(padded - k) as i:
            T.buffer_store(copy, T.float32(0), [r, k + i])
    return copy


def gemv_tile(
    weight: Weight, tile: Expr, x: Any, lanes: int, row: Expr = 0
) -> list[Expr]:
    """16 rows of W x[row] as ``16 // lanes`` vectors; `x` comes from `x_copy`."""
    halves, form = TILE // lanes, weight.form
    blocks = max(1, 4 // form.step)  # per turn, so that there are four chains of FMAs
    chains = 2 if (form.step, lanes) == (8, 8) else 4  # of fp4 registers of 256 bits hold only two
    sums = [zeros(chains, lanes) for _ in range(halves)]
    grand = [zeros(1, lanes)[0] for _ in range(halves)] if form.group else []
    with T.serial(weight.steps // blocks) as turn:
        for b in range(blocks):
            step = turn * blocks + b
            for half, values in enumerate(weight.block(tile, step, lanes)):
                for k, value in enumerate(values):
                    chain = sums[half][(b * form.step + k) % chains]
                    scalar = x[row, step * form.step + k]
                    chain.value = chain.value + value * T.broadcast(scalar, lanes)
        if form.group:
            turns = form.group // form.step
            # The branch is also a wall for LLVM's scheduler, which otherwise merges the groups
            # into one block and spills.
            with T.If(turn % turns == turns - 1), T.Then():
                for half in range(halves):
                    _close_group(weight, tile, turn // turns, half, sums[half], grand[half], lanes)
    if form.group:
        return [g.value for g in grand]
    return [tree([c.value for c in chain]) for chain in sums]


def _close_group(
    weight: Weight, tile: Expr, group: Expr, half: int, sums: Sequence[Cell], grand: Cell,
    lanes: int,
) -> None:  # fmt: skip
    value = tree([c.value for c in sums])
    if weight.micro.unit != 1.0:  # before the scale, which may be as small as 2**-127
        value = value * spread(1.0 / weight.micro.unit, lanes)
    grand.value = grand.value + value * weight.scale(tile, group, half, lanes)
    for chain in sums:
        chain.value = spread(0.0, lanes)
