"""Functions in terms of operations that every vector unit has, on nodes.

For chips whose own function is missing or not good enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from firstlight.codegen.nests.nodes import INTEGERS, Node, const, make

REAL, WHOLE = "float32", "int32"
STEP = 1024
"""Counts of quarter turns are taken apart at this: both parts have at most eleven bits."""
PART_BITS = 13
"""Bits of a part of pi / 2, so that its products with parts of counts are exact."""
SINE = (-1 / 6, 1 / 120, -1 / 5040, 1 / 362880)
COSINE = (-1 / 2, 1 / 24, -1 / 720, 1 / 40320)


def _f(op: str, *args: Node) -> Node:
    return make(op, REAL, *args)


def _i(op: str, *args: Node) -> Node:
    return make(op, WHOLE, *args)


def _real(value: float) -> Node:
    return const(value, REAL)


def cos(x: Node) -> Node:
    """The cosine of a float32 as it is given: a quarter of a turn before the sine."""
    return _turn(x, 1)


def sin(x: Node) -> Node:
    """The sine of a float32 as it is given, |x| < 1.6e6: positions of a context of 2**20 tokens.

    At most two units in the last place of 1 off.
    """
    return _turn(x, 0)


def log1p(x: Node, log: Callable[[Node], Node]) -> Node:
    """log(1 + x), for small x too."""
    whole = _f("add", x, _real(1.0))
    got = _f("sub", whole, _real(1.0))
    flat = make("eq", "bool", got, _real(0.0))
    share = _f("div", x, make("select", REAL, flat, _real(1.0), got))
    return make("select", REAL, flat, x, _f("mul", log(whole), share))


def popcount(x: Node) -> Node:
    """Number of ones of a non-negative int32: sums of neighbours, twice as wide each time."""
    x = make("cast", WHOLE, x) if x.dtype not in INTEGERS else x
    for mask, by in ((0x55555555, 1), (0x33333333, 2), (0x0F0F0F0F, 4), (0x00FF00FF, 8),
                     (0x0000FFFF, 16)):
        high = _i("shr", x, const(by))
        x = _i("add", _i("and", x, const(mask)), _i("and", high, const(mask)))
    return x


def series(x: Node, terms: tuple[float, ...]) -> Node:
    """terms[0] + terms[1] x + terms[2] x**2 + ..."""
    total = _real(terms[-1])
    for term in reversed(terms[:-1]):
        total = _f("add", _f("mul", total, x), _real(term))
    return total


def _turn(x: Node, ahead: int) -> Node:
    """The sine `ahead` quarter turns further on.

    x - count pi / 2 by Cody and Waite: the parts of pi / 2 and of the count are so short that their
    products are exact, and what is left after each is short, too.
    """
    count = _f("nearbyint", _f("mul", x, _real(2 / math.pi)))
    high = _f("mul", _f("nearbyint", _f("mul", count, _real(1 / STEP))), _real(float(STEP)))
    low, rest = _f("sub", count, high), x
    *exact, last = _parts(math.pi / 2)
    for part in exact:
        for some in (high, low):
            rest = _f("sub", rest, _f("mul", some, _real(part)))
    rest = _f("sub", rest, _f("mul", count, _real(last)))
    square = _f("mul", rest, rest)
    odd = _f("add", rest, _f("mul", _f("mul", rest, square), series(square, SINE)))
    even = _f("add", _f("mul", square, series(square, COSINE)), _real(1.0))
    quarter = _i("and", _i("add", make("cast", WHOLE, count), const(ahead)), const(3))
    swap = make("ne", "bool", _i("and", quarter, const(1)), const(0))
    back = make("ge", "bool", quarter, const(2))
    size = make("select", REAL, swap, even, odd)
    return make("select", REAL, back, _f("sub", _real(0.0), size), size)


def _parts(value: float) -> list[float]:
    """Three parts of `PART_BITS` bits each, and the rest."""
    found = []
    for turn in range(1, 4):
        unit = 2.0 ** (1 - PART_BITS * turn)
        found.append(math.floor(value / unit) * unit)
        value -= found[-1]
    return [*found, value]
