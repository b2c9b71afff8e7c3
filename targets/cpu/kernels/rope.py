"""Rotary position embedding (spec 4.4): a table per position, then rotations of adjacent pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.tvm_bridge import T, prim_func
from firstlight.targets.cpu.kernels.schedule import loop
from firstlight.targets.cpu.kernels.vecmath import (
    Expr,
    flat,
    get,
    hold,
    put,
    sin_cos,
    spread,
    sweep,
    wide,
)

TASK = 8192
"""Values a parallel task should turn at least: smaller ones cost more to start than to run."""


@dataclass(frozen=True)
class Table:
    """cos and signed sin of one position, each value twice: [c0, c0, c1, ..], [-s0, s0, -s1, ..].

    With it, a rotation is ``v * cos + swap(v) * sin`` for any number of heads.
    """

    cos: Any
    sin: Any
    pairs: int

    def rotate(self, row: Any, base: Expr, lanes: int) -> None:
        """Turn `2 * pairs` values of the flat buffer `row` from `base` on, in place."""
        width = 2 * self.pairs
        whole = width // lanes * lanes
        for start, stop, n in ((0, whole, lanes), (whole, width, 2)):
            if start < stop:
                with T.serial((stop - start) // n) as i:
                    at = T.bind(start + i * n)
                    v = T.bind(get(row, base + at, lanes=n))
                    swapped = T.Shuffle([v], [j ^ 1 for j in range(n)])
                    turned = v * get(self.cos, at, lanes=n) + swapped * get(self.sin, at, lanes=n)
                    put(row, turned, base + at, lanes=n)


def table(freqs: Any, pairs: int, position: Expr, lanes: int, inverse: bool = False) -> Table:
    """The table of an int32 position; `inverse` turns backwards.

    The angle is a float32 product, which is what the model was trained with.
    """
    cos = T.alloc_buffer((2 * pairs,), "float32")
    sin = T.alloc_buffer((2 * pairs,), "float32")
    place = T.bind(T.Cast("float32", position))

    def fill(i: Expr, n: int) -> None:
        s, c = sin_cos(get(freqs, i, lanes=n) * spread(place, n), n)
        s, c = hold(s, n), hold(c, n)
        minus = spread(0.0, n) - s
        first, second = (s, minus) if inverse else (minus, s)
        if n == 1:
            for j, (sine, cosine) in enumerate(((first, c), (second, c))):
                put(sin, sine, 2 * i + j)
                put(cos, cosine, 2 * i + j)
            return
        for half in range(2):
            lane = [half * n // 2 + j // 2 for j in range(n)]
            signed = [k + n * (j % 2) for j, k in enumerate(lane)]
            put(cos, T.Shuffle([c], lane), 2 * i + half * n, lanes=n)
            put(sin, T.Shuffle([first, second], signed), 2 * i + half * n, lanes=n)

    sweep(pairs, lanes, fill)
    return Table(cos, sin, pairs)


def head_groups(heads: int, width: int) -> tuple[int, int]:
    """(groups, heads per group) for tasks of about TASK values; the last group may be smaller."""
    per_group = min(heads, max(1, TASK // width))
    return -(-heads // per_group), per_group


def rope(
    name: str, *, heads: int, width: int, pairs: int, tokens: int, inverse: bool = False,
    lanes: int = 8,
) -> Kernel:  # fmt: skip
    """x[S, heads, width], positions[S] i32, freqs[pairs] -> y: the last 2 * pairs values turned."""
    groups, per_group = head_groups(heads, width)

    def body(x_: Expr, positions_: Expr, freqs_: Expr, y_: Expr, S: Expr) -> None:
        x, freqs, y = flat(x_), flat(freqs_), flat(y_)
        positions = flat(positions_, "int32")
        with loop(S * groups, tokens * heads * width) as task:
            token, first = T.bind(task // groups), T.bind(task % groups * per_group)
            turn = table(freqs, pairs, positions[token], lanes, inverse)
            with T.serial(first, T.min(first + per_group, heads)) as head:
                base = T.bind(wide(token * heads + head) * width)
                sweep(
                    width, lanes, lambda i, n: put(y, get(x, base + i, lanes=n), base + i, lanes=n)
                )
                turn.rotate(y, base + (width - 2 * pairs), lanes)

    pointers = [("x", "float32"), ("positions", "int32"), ("freqs", "float32"), ("y", "float32")]
    return Kernel(name, prim_func(name, pointers, body), (None,) * 3, in_place=0)
