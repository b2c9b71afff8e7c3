"""Sinkhorn rounds on the square matrices of some tokens, side by side in vectors (spec 4.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from firstlight.codegen.tvm_bridge import T
from firstlight.targets.cpu.kernels.vecmath import (
    Cell,
    Expr,
    across,
    add,
    exp,
    get,
    hold,
    put,
    spread,
    tree,
)


def together(n: int, tokens: int, lanes: int) -> int:
    """How many of `tokens` tokens share a vector, n lanes each."""
    if n & (n - 1):         # `_each` joins halves
        return 1
    return min(tokens, max(1, lanes // n))


def sinkhorn(matrices: Any, at: Expr, apart: int, n: int, tokens: int, hc_eps: float,
             rounds: int) -> None:  # fmt: skip
    """Logits become doubly normalised matrices, in place.

    Args:
        matrices, at, apart: line j of the first token's is at ``at + j * apart``, those of
            `tokens` tokens are one behind the other.
        rounds: (rows, columns) normalisations after the first columns.
    """
    lanes = n * tokens
    small = spread(hc_eps, lanes)
    lines = []
    for j in range(n):
        v = hold(get(matrices, at + j * apart, lanes=lanes), lanes)
        power = hold(exp(v - _each(v, n, lanes, T.max), lanes), lanes)
        lines.append(Cell(power / _each(power, n, lanes, add) + small, lanes))

    def rows() -> None:
        for line in lines:
            v = T.bind(line.value)
            line.value = v * hold(spread(1.0, lanes) / (_each(v, n, lanes, add) + small), lanes)

    def columns() -> None:
        whole = tree([line.value for line in lines]) + small
        factor = hold(spread(1.0, lanes) / whole, lanes)
        for line in lines:
            line.value = line.value * factor

    columns()
    with T.serial(rounds):
        rows()
        columns()
    for j, line in enumerate(lines):
        put(matrices, line.value, at + j * apart, lanes=lanes)


def _each(v: Expr, n: int, lanes: int, join: Callable[[Expr, Expr], Expr]) -> Expr:
    """In every lane the `join` of its n neighbours, lanes 0 .. n - 1 and so on, in the order of
    `across`."""
    if n == lanes:
        return spread(across(v, n, join), n)
    v, step = hold(v, lanes), n // 2
    while step:
        v = hold(join(v, T.Shuffle([v], [i ^ step for i in range(lanes)])), lanes)
        step //= 2
    return v
