"""Vector arithmetic for kernels that stream no weights: loops with tails, functions, sums.

Like ``micro``, everything here runs while a kernel is built and returns expressions or emits
statements. Each function takes `lanes`; one lane means a scalar, so the tail of a loop is the same
code as its body and gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

from firstlight.codegen.tvm_bridge import T

Expr = Any
"""A TIR expression or a Python number."""

MANY = 1 << 40
"""Length of a flat buffer whose real length does not matter; 64 bits, so that indices are too."""


# ---- loads, stores, variables


def kind(dtype: str, lanes: int) -> str:
    """Name of a vector type; one lane is a scalar."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def spread(value: Expr, lanes: int) -> Expr:
    """`value` in every lane; Python floats become float32."""
    value = T.float32(value) if isinstance(value, float) else value
    return value if lanes == 1 else T.broadcast(value, lanes)


def get(buffer: Any, *index: Expr, lanes: int = 1) -> Expr:
    """`lanes` consecutive elements."""
    last = index[-1] if lanes == 1 else T.ramp(index[-1], 1, lanes)
    return buffer[(*index[:-1], last)]


def put(buffer: Any, value: Expr, *index: Expr, lanes: int = 1) -> None:
    """Write `lanes` consecutive elements."""
    last = index[-1] if lanes == 1 else T.ramp(index[-1], 1, lanes)
    T.buffer_store(buffer, value, [*index[:-1], last])


def fetch(element: Expr, level: int = 1) -> None:
    """Bring the line of an element, which may lie behind its buffer, to a cache of this level."""
    T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch", T.address_of(element), 0, 4 - level, 1))


class Cell:
    """A variable of one vector or scalar; LLVM keeps it in a register."""

    def __init__(self, value: Expr, lanes: int = 1, dtype: str = "float32") -> None:
        self._lanes, self._place = lanes, T.alloc_buffer((lanes,), dtype)
        self.value = value

    @property
    def value(self) -> Expr:
        """The value at this point of the kernel."""
        return get(self._place, 0, lanes=self._lanes)

    @value.setter
    def value(self, new: Expr) -> None:
        put(self._place, new, 0, lanes=self._lanes)


def hold(value: Expr, lanes: int = 1, dtype: str = "float32") -> Expr:
    """`value`, computed once. TVM's simplifier puts a `T.bind` back wherever it is used, and chains
    of functions would grow exponentially until LLVM finds the common parts again; it does not look
    through variables.
    """
    return T.bind(Cell(value, lanes, dtype).value)


def flat(pointer: Any, dtype: str = "float32") -> Any:
    """The memory behind a pointer as one long row, indexed with 64 bits."""
    return T.decl_buffer((T.int64(MANY),), dtype, data=pointer)


def wide(index: Expr) -> Expr:
    """An index of 64 bits: state and weights may exceed 2**31 elements."""
    return T.Cast("int64", index)


STORAGE = {"f32": "float32", "bf16": "uint16", "f16": "float16", "i32": "int32", "i64": "int64"}
"""Codec of a plainly stored weight -> element type of its pointer."""


def decode(buffer: Any, codec: str, index: Expr, lanes: int = 1) -> Expr:
    """Elements of a flat weight of codec f32, bf16 or f16, as float32."""
    value = get(buffer, index, lanes=lanes)
    if codec == "bf16":
        bits = T.shift_left(T.Cast(kind("uint32", lanes), value), spread(T.uint32(16), lanes))
        return T.reinterpret(kind("float32", lanes), bits)
    return T.Cast(kind("float32", lanes), value) if codec == "f16" else value


# ---- loops


def sweep(n: int, lanes: int, body: Callable[[Expr, int], None]) -> None:
    """body(i, lanes) for whole vectors of range(n), then body(i, 1) for what is left."""
    if n >= lanes:
        with T.serial(n // lanes) as i:
            body(i * lanes, lanes)
    if n % lanes:
        with T.serial(n // lanes * lanes, n) as i:
            body(i, 1)


def clear(buffer: Any, at: Expr, n: int, lanes: int) -> None:
    """Zeros in `n` float32 of a flat buffer."""
    sweep(n, lanes, lambda i, m: put(buffer, spread(0.0, m), at + i, lanes=m))


def settle(number: Expr) -> Expr:
    """An int32 that the simplifier does not look into: of its bounds it would know nothing, and
    try for minutes."""
    return hold(number, 1, "int32")


def ceil_div(a: Expr, b: Expr) -> Expr:
    """a / b, rounded up; a >= 0."""
    return (a + (b - 1)) // b


# ---- squares of vectors


def transposed(rows: Sequence[Expr], lanes: int) -> list[Expr]:
    """Vectors, `lanes` of them or half, as columns; of half as many two columns each."""
    rows, unit = list(rows), lanes // len(rows)
    step = unit
    while step < lanes:
        for i, other in ((i, i + step // unit) for i in range(len(rows)) if not i * unit & step):
            pair = [rows[i], rows[other]]
            low = [lanes + j - step if j & step else j for j in range(lanes)]
            high = [lanes + j if j & step else j + step for j in range(lanes)]
            rows[i], rows[other] = (T.bind(T.Shuffle(pair, order)) for order in (low, high))
        step *= 2
    return rows


def totals(vectors: Sequence[Expr], lanes: int) -> Expr:
    """A vector of the sums across each of at most `lanes` vectors; zeros behind them.

    Sums are of halves, of halves of these, and so on, as `across` has them.
    """
    parts = [*vectors, *[spread(0.0, lanes)] * (lanes - len(vectors))]
    half = lanes // 2
    while half:
        groups = range(0, lanes, 2 * half)
        order = [side * lanes + g + i for side in (0, 1) for g in groups for i in range(half)]
        parts = [T.bind(T.Shuffle([a, b], order) + T.Shuffle([a, b], [i + half for i in order]))
                 for a, b in zip(parts[::2], parts[1::2], strict=True)]
        half //= 2
    return parts[0]


# ---- reductions


def across(v: Expr, lanes: int, join: Callable[[Expr, Expr], Expr]) -> Expr:
    """`join` of all lanes, a scalar: halves are joined, odd lanes taken one by one."""
    v = hold(v, lanes)
    while lanes > 1 and lanes % 2 == 0:
        lanes //= 2
        low, high = (T.Shuffle([v], list(range(i, i + lanes))) for i in (0, lanes))
        v = hold(join(low, high), lanes)
    return reduce(join, [T.Shuffle([v], [i]) for i in range(lanes)]) if lanes > 1 else v


def add(a: Expr, b: Expr) -> Expr:
    """a + b, for `across`."""
    return a + b


def tree(values: Sequence[Expr]) -> Expr:
    """Sum as a balanced tree."""
    half = len(values) // 2
    return values[0] if half == 0 else tree(values[:half]) + tree(values[half:])


CHAINS = 4
"""Independent sums that hide the latency of the adder."""


def sum_over(n: int, lanes: int, term: Callable[[Expr, int], Expr]) -> Expr:
    """Sum of term(i, lanes) over range(n), a float32."""
    sums = [Cell(spread(0.0, lanes), lanes) for _ in range(min(CHAINS, n // lanes))]
    step = lanes * CHAINS
    whole = n // step * step
    if whole:
        with T.serial(n // step) as i:
            for j, cell in enumerate(sums):
                cell.value = cell.value + term(i * step + j * lanes, lanes)
    for j in range((n - whole) // lanes):
        sums[j].value = sums[j].value + term(whole + j * lanes, lanes)
    rest = Cell(T.float32(0))
    if n % lanes:
        with T.serial(n // lanes * lanes, n) as i:
            rest.value = rest.value + term(i, 1)
    if not sums:
        return rest.value
    return hold(across(tree([c.value for c in sums]), lanes, add) + rest.value)


# ---- functions


def horner(x: Expr, coefficients: Sequence[float], lanes: int) -> Expr:
    """Polynomial with the highest power first."""
    p = spread(coefficients[0], lanes)
    for c in coefficients[1:]:
        p = T.fma(p, x, spread(c, lanes))
    return p


ROUNDER = 12582912.0
"""1.5 * 2**23: a float32 of this size has no digits behind the point, and the sum of it and an
integer n, |n| < 2**22, has the bits of n in its low half."""


def nearest(x: Expr, lanes: int = 1) -> tuple[Expr, Expr]:
    """The integer nearest to x (ties to even), |x| < 2**22, as float32 and as int32.

    By addition, which takes two operations everywhere; where rounding is no instruction of its own
    (RISC-V), LLVM would save and restore the flags around three others.
    """
    shifted = hold(x + spread(ROUNDER, lanes), lanes)
    bits = T.reinterpret(kind("int32", lanes), shifted)
    integer = bits - spread(T.int32(0x4B400000), lanes)
    return hold(shifted - spread(ROUNDER, lanes), lanes), hold(integer, lanes, "int32")


def exp(x: Expr, lanes: int = 1) -> Expr:
    """e**x to 2 ulp; 0 below -87.7 and at -infinity, at most 2**127, NaN of NaN.

    x = n ln 2 + r with ln 2 in two parts (Cody and Waite), then a Taylor polynomial of r,
    |r| <= ln 2 / 2, whose first left-out term is 5e-9.
    """
    low, high = spread(-88.03, lanes), spread(88.03, lanes)
    x = hold(T.min(high, T.max(low, x)), lanes)  # in this order NaN stays NaN
    n, whole = nearest(x * spread(1.4426950408889634, lanes), lanes)
    r = T.fma(n, spread(-0.693145751953125, lanes), x)
    r = hold(T.fma(n, spread(-1.42860682030941723212e-6, lanes), r), lanes)
    taylor = (1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5)
    p = T.fma(horner(r, taylor, lanes), hold(r * r, lanes), r + spread(1.0, lanes))
    exponent = whole + spread(T.int32(127), lanes)
    power = T.shift_left(exponent, spread(T.int32(23), lanes))
    return p * T.reinterpret(kind("float32", lanes), power)


def log1p(u: Expr, lanes: int = 1) -> Expr:
    """ln(1 + u) for 0 <= u <= 1 to 3 ulp, also for the tiniest u.

    2 artanh(s), s = u / (2 + u) <= 1/3, as a series whose first left-out term is 2e-9 of the sum.
    """
    s = hold(u / (u + spread(2.0, lanes)), lanes)
    square = hold(s * s, lanes)
    series = horner(square, [2 / (2 * k + 1) for k in range(8, -1, -1)], lanes)
    return s * series


def sigmoid(z: Expr, lanes: int = 1) -> Expr:
    """1 / (1 + e**-z) with small relative error on both sides."""
    z = hold(z, lanes)
    e = hold(exp(spread(0.0, lanes) - T.abs(z), lanes), lanes)
    one = spread(1.0, lanes)
    return T.Select(z >= spread(0.0, lanes), one, e) / (one + e)


def softplus(z: Expr, lanes: int = 1) -> Expr:
    """ln(1 + e**z) with small relative error everywhere; z itself where z is large."""
    z = hold(z, lanes)
    e = hold(exp(spread(0.0, lanes) - T.abs(z), lanes), lanes)
    return T.max(z, spread(0.0, lanes)) + log1p(e, lanes)


HALF_PI = (1.57079637050628662109375, -4.37113900018624283e-8)
"""pi / 2 as a float32 and what it leaves out."""


def sin_cos(angle: Expr, lanes: int = 1) -> tuple[Expr, Expr]:
    """(sin, cos) with an absolute error of 1e-7 for angles up to 2**21.

    The quarter turn is subtracted by two fused operations: the first is exact, because the
    difference is a small multiple of the last bit of HALF_PI[0].
    """
    angle = hold(angle, lanes)
    n, quarter = nearest(angle * spread(0.6366197723675814, lanes), lanes)
    r = T.fma(n, spread(-HALF_PI[0], lanes), angle)
    r = hold(T.fma(n, spread(-HALF_PI[1], lanes), r), lanes)
    square = hold(r * r, lanes)
    s = horner(square, (2.75573192e-6, -1.98412698e-4, 8.33333333e-3, -1 / 6), lanes)
    s = hold(T.fma(s * square, r, r), lanes)
    c = horner(square, (2.48015873e-5, -1.38888889e-3, 1 / 24, -0.5), lanes)
    c = hold(T.fma(c, square, spread(1.0, lanes)), lanes)
    one, two = spread(T.int32(1), lanes), spread(T.int32(2), lanes)
    odd = T.bitwise_and(quarter, one) == one
    zero = spread(0.0, lanes)
    sin, cos = T.Select(odd, c, s), T.Select(odd, s, c)
    sin_turned = T.bitwise_and(quarter, two) == two
    cos_turned = T.bitwise_and(quarter + one, two) == two
    return T.Select(sin_turned, zero - sin, sin), T.Select(cos_turned, zero - cos, cos)
