"""Rows of states in their codecs (`firstlight.ir.rows`): vector code both ways.

Attention and indexer decode some rows at a time into float32 that stays in the nearest caches, and
use it for all heads; whoever writes a row encodes it once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from firstlight.codegen.tvm_bridge import T
from firstlight.ir.codecs import E2M1_FLOOR, E2M1_MAX, E4M3_FLOOR, E4M3_MAX
from firstlight.ir.types import RowCodec, row_codec
from firstlight.targets.cpu.kernels.micro import E2M1, byte_table
from firstlight.targets.cpu.kernels.vecmath import (
    Cell,
    Expr,
    across,
    fetch,
    flat,
    get,
    hold,
    kind,
    put,
    spread,
    sweep,
)


@dataclass(frozen=True)
class _Format:
    """A small float: bits of mantissa, bias, largest value, least maximum of a group (spec 7)."""

    mantissa: int
    bias: int
    top: float
    floor: float
    top_bits: int
    """Of `top`: its mantissa as 23 bits, and its exponent."""
    top_exponent: int


FORMATS = {
    "e4m3": _Format(3, 7, E4M3_MAX, E4M3_FLOOR, 0x600000, 8),
    "e2m1": _Format(1, 1, E2M1_MAX, E2M1_FLOOR, 0x400000, 2),
}


@dataclass(frozen=True)
class StoredRows:
    """Rows of `width` numbers as a state of this codec has them in memory."""

    codec: str
    width: int
    lanes: int

    @property
    def form(self) -> RowCodec:
        """What the codec's name means."""
        return row_codec(self.codec)

    @property
    def dtype(self) -> str:
        """Element type of the memory."""
        return "float32" if self.codec == "f32" else "uint8"

    @property
    def size(self) -> int:
        """Elements of a row."""
        return self.width if self.codec == "f32" else self.form.nbytes(self.width)

    def flat(self, pointer: Any) -> Any:
        """The memory behind a pointer."""
        return flat(pointer, self.dtype)

    def prefetch(self, memory: Any, base: Expr) -> None:
        """Fetch the lines of a row, to where they do not fill the nearest cache's queue."""
        line = 16 if self.codec == "f32" else 64
        with T.serial(-(-self.size // line)) as i:
            fetch(memory[base + i * line], 2)

    def copy(self, source: Any, base: Expr, target: Any, place: Expr) -> None:
        """A row from memory to memory; padding stays the zeros that it is."""
        used, lanes = sum(self.form.parts(self.width)), 4 * self.lanes
        if self.codec == "f32":
            used, lanes = self.width, self.lanes
        sweep(used, lanes,
              lambda i, n: put(target, get(source, base + i, lanes=n), place + i, lanes=n))

    # -- memory -> float32 ----------------------------------------------------------------------

    def load(self, memory: Any, base: Expr, out: Any, place: Expr) -> None:
        """out[place ..] = the row at memory[base ..], as the state holds it."""
        if self.codec == "f32":
            self.copy(memory, base, out, place)
            return
        codes, tail, _ = self.form.parts(self.width)
        if self.form.codes == "bf16":
            self._load_bf16(memory, base, out, place, self.width)
            return
        kept = self.width - self.form.tail

        def group(g: Expr, count: int) -> None:
            first = T.bind(g * self.form.group)
            scale = T.bind(_power_of_two(memory[base + (codes + tail) + g]))
            if self.form.codes == "e2m1":
                self._load_e2m1(memory, T.bind(base + first // 2), out, place + first, scale)
                return

            def step(i: Expr, n: int) -> None:
                value = _e4m3(get(memory, base + first + i, lanes=n), n)
                unit = spread(scale * T.float32(256), n)
                put(out, value * unit, place + first + i, lanes=n)

            sweep(count, self.lanes, step)

        self._groups(kept, group)
        if self.form.tail:
            self._load_bf16(memory, T.bind(base + codes), out, place + kept, self.form.tail)

    def _load_bf16(self, memory: Any, base: Expr, out: Any, place: Expr, count: int) -> None:
        def step(i: Expr, n: int) -> None:
            words = T.reinterpret(kind("uint16", n), get(memory, base + 2 * i, lanes=2 * n))
            bits = T.shift_left(T.Cast(kind("uint32", n), words), spread(T.uint32(16), n))
            put(out, T.reinterpret(kind("float32", n), bits), place + i, lanes=n)

        sweep(count, self.lanes, step)

    def _load_e2m1(self, memory: Any, base: Expr, out: Any, place: Expr, scale: Expr) -> None:
        """32 numbers from 16 bytes: each byte becomes two, and a table has twice their values."""
        words = T.bind(T.Cast("uint16x16", get(memory, base, lanes=16)))
        apart = T.bitwise_or(words, T.shift_left(words, T.broadcast(T.uint16(4), 16)))
        index = T.reinterpret("int8x32", T.bitwise_and(apart, T.broadcast(T.uint16(0x0F0F), 16)))
        table = byte_table([int(2 * v) & 255 for v in E2M1], 8)
        twice = T.bind(T.call_llvm_pure_intrin("int8x32", "llvm.x86.avx2.pshuf.b", table, index))
        unit = T.bind(spread(scale * T.float32(0.5), self.lanes))
        for first in range(0, 32, self.lanes):
            some = T.Shuffle([twice], list(range(first, first + self.lanes)))
            whole = T.Cast(kind("int32", self.lanes), some)
            value = T.Cast(kind("float32", self.lanes), whole)
            put(out, value * unit, place + first, lanes=self.lanes)

    # -- float32 -> memory ----------------------------------------------------------------------

    def store(self, source: Any, base: Expr, memory: Any, place: Expr) -> None:
        """memory[place ..] = the row at source[base ..], rounded; rotated already if need be."""
        if self.codec == "f32":
            self.copy(source, base, memory, place)
            return
        codes, tail, _ = self.form.parts(self.width)
        if self.form.codes == "bf16":
            self._store_bf16(source, base, memory, place, self.width)
            return
        form, kept = FORMATS[self.form.codes], self.width - self.form.tail

        def group(g: Expr, count: int) -> None:
            first = T.bind(base + g * self.form.group)
            largest = T.reinterpret("int32", self._largest(source, first, count, form.floor))
            # ceil(log2(largest / top)): the mantissa of `top` is the last that needs no step up
            up = largest + T.int32((1 << 23) - 1 - form.top_bits)
            scale = hold(T.shift_right(up, T.int32(23)) - T.int32(form.top_exponent), 1, "int32")
            put(memory, T.Cast("uint8", scale), place + (codes + tail) + g)
            inverse = T.bind(_power_of_two(T.int32(254) - scale))

            def code(at: Expr, n: int) -> Expr:
                return _code(get(source, first + at, lanes=n) * spread(inverse, n), form, n)

            if self.form.codes == "e2m1":
                self._store_pairs(code, memory, T.bind(place + g * (self.form.group // 2)))
                return
            target = T.bind(place + g * self.form.group)
            sweep(count, self.lanes, lambda i, n: put(
                memory, T.Cast(kind("uint8", n), code(i, n)), target + i, lanes=n))

        self._groups(kept, group)
        if self.form.tail:
            self._store_bf16(source, base + kept, memory, place + codes, self.form.tail)

    def _store_bf16(self, source: Any, base: Expr, memory: Any, place: Expr, count: int) -> None:
        """Nearest, ties to even; a NaN stays one."""
        def step(i: Expr, n: int) -> None:
            value = hold(get(source, base + i, lanes=n), n)
            bits = T.reinterpret(kind("uint32", n), value)
            half, quiet = spread(T.uint32(0x7FFF), n), spread(T.uint32(1 << 22), n)
            odd = T.bitwise_and(T.shift_right(bits, spread(T.uint32(16), n)),
                                spread(T.uint32(1), n))
            bits = T.Select(value == value, bits + half + odd, T.bitwise_or(bits, quiet))
            words = T.Cast(kind("uint16", n), T.shift_right(bits, spread(T.uint32(16), n)))
            put(memory, T.reinterpret(kind("uint8", 2 * n), words), place + 2 * i, lanes=2 * n)

        sweep(count, self.lanes, step)

    def _store_pairs(self, code: Callable[[Expr, int], Expr], memory: Any, place: Expr) -> None:
        """32 codes of four bits, the even column in the low half of a byte."""
        lanes = self.lanes
        for first in range(0, 32, 2 * lanes):
            two = [hold(code(first + i * lanes, lanes), lanes, "int32") for i in (0, 1)]
            low, high = (T.Shuffle(two, list(range(odd, 2 * lanes, 2))) for odd in (0, 1))
            both = T.bitwise_or(low, T.shift_left(high, spread(T.int32(4), lanes)))
            put(memory, T.Cast(kind("uint8", lanes), both), place + first // 2, lanes=lanes)

    def _largest(self, source: Any, base: Expr, count: int, floor: float) -> Expr:
        """The largest magnitude of source[base ..], or `floor`."""
        wide, one = Cell(spread(floor, self.lanes), self.lanes), Cell(T.float32(floor))

        def step(i: Expr, n: int) -> None:
            cell = one if n == 1 else wide
            cell.value = T.max(cell.value, T.abs(get(source, base + i, lanes=n)))

        sweep(count, self.lanes, step)
        return hold(T.max(across(wide.value, self.lanes, T.max), one.value))

    def _groups(self, kept: int, body: Callable[[Expr, int], None]) -> None:
        """body(g, columns) for each group that shares a scale."""
        whole, rest = divmod(kept, self.form.group)
        if whole:
            with T.serial(whole) as g:
                body(g, self.form.group)
        if rest:
            body(T.int32(whole), rest)


def _power_of_two(code: Expr) -> Expr:
    """2 ** (code - 127) of an e8m0 code in 1 .. 254."""
    return T.reinterpret("float32", T.shift_left(T.Cast("int32", code), T.int32(23)))


def _e4m3(codes: Expr, n: int) -> Expr:
    """2**-8 times the value of e4m3 codes: a float16 has the same bits further up, and F16C takes
    subnormal numbers at full speed."""
    signed = T.Cast(kind("int16", n), T.reinterpret(kind("int8", n), codes))
    bits = T.bitwise_and(T.shift_left(signed, spread(T.int16(7), n)), spread(T.int16(-0x4001), n))
    return T.Cast(kind("float32", n), T.reinterpret(kind("float16", n), bits))


def _code(y: Expr, form: _Format, n: int) -> Expr:
    """The nearest code, ties to even, of y within +-top, as int32.

    Above the subnormal codes the low bits of the float are rounded off, a carry going where it
    belongs; among them a sum with a power of two leaves the multiple of the smallest code.
    """
    def integer(value: int) -> Expr:
        return spread(T.int32(value), n)

    def bits(value: Expr) -> Expr:
        return T.reinterpret(kind("int32", n), value)

    y = hold(y, n)
    size = hold(T.min(T.abs(y), spread(form.top, n)), n)
    drop = 23 - form.mantissa
    odd = T.bitwise_and(T.shift_right(bits(size), integer(drop)), integer(1))
    normal = T.shift_right(bits(size) + integer((1 << (drop - 1)) - 1) + odd, integer(drop))
    normal = normal - integer((127 - form.bias) << form.mantissa)
    unit = 2.0 ** (24 - form.bias - form.mantissa)
    small = bits(size + spread(unit, n)) - bits(spread(unit, n))
    code = T.Select(size < spread(2.0 ** (1 - form.bias), n), small, normal)
    places = 24 if form.mantissa == 3 else 28
    sign = T.bitwise_and(T.shift_right(bits(y), integer(places)), integer(1 << (31 - places)))
    return T.bitwise_or(code, sign)


def hadamard(row: Any, base: Expr, width: int, lanes: int) -> None:
    """Walsh-Hadamard transform of `width` (a power of two) values of a flat buffer, in place.

    Sums are formed in the order of `firstlight.ir.codecs.hadamard`, so that the bits are the same.
    """
    half = 1
    while half < lanes:
        order = [j ^ half for j in range(lanes)]
        signs = [T.float32(-1 if j & half else 1) for j in range(lanes)]
        with T.serial(width // lanes) as i:
            v = hold(get(row, base + i * lanes, lanes=lanes), lanes)
            turned = v * T.Shuffle(signs, list(range(lanes))) + T.Shuffle([v], order)
            put(row, turned, base + i * lanes, lanes=lanes)
        half *= 2
    while half < width:
        with T.serial(width // (2 * half)) as block, T.serial(half // lanes) as i:
            at = T.bind(base + block * (2 * half) + i * lanes)
            a, b = (hold(get(row, at + j * half, lanes=lanes), lanes) for j in (0, 1))
            put(row, a + b, at, lanes=lanes)
            put(row, a - b, at + half, lanes=lanes)
        half *= 2
    factor = spread(float(width) ** -0.5, lanes)
    sweep(width, lanes, lambda i, n: put(
        row, get(row, base + i, lanes=n) * factor, base + i, lanes=n))
