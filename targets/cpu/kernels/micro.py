"""Weight decoders: what the weight-streaming kernels are made of.

All functions here run while a kernel is built (``tvm_bridge.prim_func``) and return expressions or
emit statements. `lanes` is the number of f32 in a vector: 8 (AVX2) or 16 (AVX-512); a 16-row weight
tile is ``16 // lanes`` vectors.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from firstlight.codegen.tvm_bridge import T
from firstlight.targets.cpu.kernels.layouts import FORMS, QUADS, TILE, Form, tiles
from firstlight.targets.cpu.kernels.vecmath import Cell, Expr, fetch, get, sigmoid, spread, wide


def zeros(count: int, lanes: int) -> list[Cell]:
    """`count` vectors of zeros, kept in registers."""
    return [Cell(spread(0.0, lanes), lanes) for _ in range(count)]


def swiglu(gate: Expr, up: Expr, limit: float, lanes: int) -> Expr:
    """silu(min(gate, L)) * clamp(up, -L, L)  (spec 4.11)."""
    gate = T.bind(T.min(gate, spread(limit, lanes)))
    up = T.max(T.min(up, spread(limit, lanes)), spread(-limit, lanes))
    return gate * sigmoid(gate, lanes) * up


# ---- decoders: one block of a weight tile -> f32 vectors


@dataclass(frozen=True)
class Micro:
    """How a codec is decoded.

    Attributes:
        form: the packed form.
        decode: (load function, lanes) -> vectors[half][k] of one block; `get(offset, n)` reads n
            elements of the block.
        unit: decoded values are the codes' values times this power of two.
        ahead: bytes that software prefetch runs ahead, to the second-level cache (see `NEAR`).
    """

    form: Form
    decode: Callable[[Callable[[int, int], Expr], int], list[list[Expr]]]
    unit: float = 1.0
    ahead: int = 3072


E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
INT4 = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, -8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0)


def _bf16_of(values: Sequence[float]) -> list[int]:
    """High halves of float32 values, which is all of them."""
    return [int.from_bytes(struct.pack("<f", v), "little") >> 16 for v in values]


def byte_table(table: Sequence[int], lanes: int) -> Expr:
    """Sixteen bytes for pshufb, repeated in each 128-bit part; LLVM makes it one constant."""
    words = [int.from_bytes(bytes(table[i : i + 8]), "little", signed=True) for i in (0, 8)]
    parts = [T.int64(w) for w in words] * (lanes // 4)
    return T.reinterpret(f"int8x{4 * lanes}", T.Shuffle(parts, list(range(lanes // 2))))


def _pshufb(table: Expr, index: Expr, lanes: int) -> Expr:
    name = {8: "llvm.x86.avx2.pshuf.b", 16: "llvm.x86.avx512.pshuf.b.512"}[lanes]
    return T.call_llvm_pure_intrin(f"int8x{4 * lanes}", name, table, index)


def _unpack(low: Expr, high: Expr, upper: int, lanes: int) -> Expr:
    """Lower or upper 8 bytes of each 128-bit part, interleaved: bytes l, h -> word 256 h + l."""
    n, order = 4 * lanes, []
    for part in range(0, n, 16):
        for j in range(8):
            order += [part + 8 * upper + j, n + part + 8 * upper + j]
    return T.Shuffle([low, high], order)


def _u32(value: int, lanes: int) -> Expr:
    return T.broadcast(T.uint32(value), lanes)


def word_pair(v: Expr, lanes: int) -> list[Expr]:
    """uint32 lanes -> the low and the high word of each as the high half of a float32."""
    kind = f"float32x{lanes}"
    low = T.reinterpret(kind, T.shift_left(v, _u32(16, lanes)))
    return [low, T.reinterpret(kind, T.bitwise_and(v, _u32(0xFFFF0000, lanes)))]


def _nibble(v: Expr, shift: int, lanes: int) -> Expr:
    """Four bits of every byte of uint32 lanes, as bytes."""
    part = T.shift_right(v, _u32(shift, lanes)) if shift else v
    return T.reinterpret(f"int8x{4 * lanes}", T.bitwise_and(part, _u32(0x0F0F0F0F, lanes)))


def lookup(table: Expr, v: Expr, shift: int, lanes: int) -> Expr:
    """Four bits of every byte of uint32 lanes, looked up in a `byte_table`."""
    return _pshufb(table, _nibble(v, shift, lanes), lanes)


def _nibbles(
    table: Sequence[int], read: Callable[[int, int], Expr], lanes: int
) -> list[list[Expr]]:
    """Codes -> the two bytes of their bf16 by two table look-ups, interleaved and widened."""
    high_bytes = byte_table([v >> 8 for v in table], lanes)
    low_bytes = byte_table([v & 255 for v in table], lanes)
    halves = []
    for half in range(TILE // lanes):
        v = T.bind(T.reinterpret(f"uint32x{lanes}", read(half * 4 * lanes, 4 * lanes)))
        out = []
        for shift in (0, 4):
            index = T.bind(_nibble(v, shift, lanes))
            low = T.bind(_pshufb(low_bytes, index, lanes))
            high = T.bind(_pshufb(high_bytes, index, lanes))
            for upper in (0, 1):
                words = T.reinterpret(f"uint32x{lanes}", _unpack(low, high, upper, lanes))
                out += word_pair(T.bind(words), lanes)
        halves.append(out)
    return halves


def _fp8(read: Callable[[int, int], Expr], lanes: int) -> list[list[Expr]]:
    """e4m3 bits moved to where float16 has sign, exponent and mantissa, then F16C: value * 2**-8.

    Moved into a float32 directly the codes would cost less, but subnormal ones would become
    subnormal float32, and an Intel core takes 100 cycles for a multiplication by such a number:
    weights with 6 % subnormal codes ran 40 times slower. F16C converts subnormals at full speed.
    """
    out: list[list[Expr]] = [[None] * 4 for _ in range(TILE // lanes)]
    mask = T.broadcast(T.int16(-0x4080), 2 * lanes)  # sign, four bits of exponent, three mantissa
    for part in range(0, 64, 4 * lanes):
        v = T.bind(T.reinterpret(f"int16x{2 * lanes}", read(part, 4 * lanes)))
        for odd in (0, 1):
            top = v if odd else T.shift_left(v, T.broadcast(T.int16(8), 2 * lanes))
            one = T.broadcast(T.int16(1), 2 * lanes)
            words = T.bind(T.bitwise_and(T.shift_right(top, one), mask))
            for i in (0, 1):
                order = list(range(i * lanes, (i + 1) * lanes))
                half = T.reinterpret(f"float16x{lanes}", T.Shuffle([words], order))
                row, pair = divmod(part // 2 + i * lanes, TILE)[::-1]
                out[row // lanes][2 * pair + odd] = T.Cast(f"float32x{lanes}", half)
    return out


def _quads(read: Callable[[int, int], Expr], lanes: int) -> list[list[Expr]]:
    """e4m3 bits moved to where float32 has sign, exponent and mantissa: value * 2**-120."""
    mask = T.broadcast(T.uint32(0x87F00000), lanes)
    eight, four = (T.broadcast(T.int16(n), 2 * lanes) for n in (8, 4))
    halves = []
    for part in range(0, 64, 4 * lanes):
        v = T.bind(T.reinterpret(f"int16x{2 * lanes}", read(part, 4 * lanes)))
        pairs = []
        for top in (T.shift_left(v, eight), v):
            words = T.bind(T.reinterpret(f"uint32x{lanes}", T.shift_right(top, four)))
            pairs.append([T.reinterpret(f"float32x{lanes}", T.bitwise_and(bits, mask))
                          for bits in (T.shift_left(words, _u32(16, lanes)), words)])
        halves.append([value for column in zip(*pairs, strict=True) for value in column])
    return halves


def _int8(read: Callable[[int, int], Expr], lanes: int) -> list[list[Expr]]:
    """Bytes sign-extended in place, in the upper and in the lower half of a word."""
    out: list[list[Expr]] = [[None] * 4 for _ in range(TILE // lanes)]
    eight = T.broadcast(T.int16(8), 2 * lanes)
    for part in range(0, 64, 4 * lanes):
        v = T.bind(T.reinterpret(f"int16x{2 * lanes}", read(part, 4 * lanes)))
        for odd in (0, 1):
            words = T.bind(T.shift_right(v if odd else T.shift_left(v, eight), eight))
            for i in (0, 1):
                order = list(range(i * lanes, (i + 1) * lanes))
                row, pair = divmod(part // 2 + i * lanes, TILE)[::-1]
                value = T.Cast(f"float32x{lanes}", T.Shuffle([words], order))
                out[row // lanes][2 * pair + odd] = value
    return out


def _bf16(read: Callable[[int, int], Expr], lanes: int) -> list[list[Expr]]:
    return [
        word_pair(T.bind(T.reinterpret(f"uint32x{lanes}", read(h * 2 * lanes, 2 * lanes))), lanes)
        for h in range(TILE // lanes)
    ]


def _f16(read: Callable[[int, int], Expr], lanes: int) -> list[list[Expr]]:
    half = f"float16x{lanes}"
    return [
        [T.Cast(f"float32x{lanes}", T.reinterpret(half, read(h * lanes, lanes)))]
        for h in range(TILE // lanes)
    ]


def _f32(read: Callable[[int, int], Expr], lanes: int) -> list[list[Expr]]:
    return [[read(h * lanes, lanes)] for h in range(TILE // lanes)]


MICROS = {
    "fp4e2m1/32:ue8m0": Micro(FORMS["fp4e2m1/32:ue8m0"], partial(_nibbles, _bf16_of(E2M1)),
                              ahead=6144),
    "int4/32:bf16": Micro(FORMS["int4/32:bf16"], partial(_nibbles, _bf16_of(INT4)), ahead=6144),
    "int8/32:bf16": Micro(FORMS["int8/32:bf16"], _int8),
    "fp8e4m3/128x128:ue8m0": Micro(FORMS["fp8e4m3/128x128:ue8m0"], _fp8, 2.0**-8, 8192),
    "bf16": Micro(FORMS["bf16"], _bf16),
    "f16": Micro(FORMS["f16"], _f16),
    "f32": Micro(FORMS["f32"], _f32),
}
QUAD = Micro(FORMS["fp8e4m3/128x128:ue8m0"], _quads, 2.0**-120, 8192)
"""Of FP8 in the order ``.quads``: for cores that multiply subnormal numbers at full speed."""


NEAR = 512
"""Bytes that software prefetch runs ahead of the decoder, to the nearest cache; `Micro.ahead` are
those to the second-level cache. A decoder's instructions fill the window that would otherwise look
ahead: without prefetch fp4 reads at half the speed on Sapphire Rapids. A core of Zen 4 waits for no
more than two dozen lines of its nearest cache, so that fetching all to there leaves reading and
decoding one after the other: a token takes 1.07 times as long. How far is worth it depends on the
decoder: from memory one core of Zen 4 reads FP8 1.25 times as fast with 8192 bytes as with 4096,
bf16 1.15 times as fast with 3072. The non-temporal hint loses, fetching scales gains nothing."""


class Weight:
    """A packed weight [.., N, K] inside a kernel: addresses of its blocks and scales.

    Indices are 64 bits: the experts of one layer of the largest model exceed 2**31 bytes.
    """

    def __init__(self, codec: str, count: int, n: int, k: int, quads: bool = False) -> None:
        """`count` matrices of [n, k] one after the other (experts, groups)."""
        self.micro, self.codec = QUAD if quads else MICROS[codec], codec
        self.form = self.micro.form
        self.count, self.n, self.k = count, n, k
        self.tiles = tiles(n)
        self.steps, self.groups = self.form.steps(k), self.form.groups(k)
        self.padded = self.steps * self.form.step
        self.tile_bytes = self.form.tile_bytes(k)

    def layout(self, tiles: str) -> str:
        """The packed layout, of which `tiles` is the beginning."""
        return tiles + (QUADS if self.micro is QUAD else "")

    def pointers(self, name: str) -> list[tuple[str, str]]:
        """Pointer parameters: codes and, if the codec has them, scales."""
        codes = [(name, self.form.dtype)]
        return codes + ([(f"{name}_scales", self.form.scales)] if self.groups else [])

    def bind(self, pointers: Sequence[Any]) -> Weight:
        """Declare the buffers; takes this weight's pointers."""
        size = self.count * self.tiles
        words = T.int64(size * self.steps * self.form.words)
        self._codes = T.decl_buffer((words,), self.form.dtype, data=pointers[0])
        if self.groups:
            scales = T.int64(size * self.groups * TILE)
            self._scales = T.decl_buffer((scales,), self.form.scales, data=pointers[1])
        return self

    def block(self, tile: Expr, step: Expr, lanes: int) -> list[list[Expr]]:
        """vectors[half][k] of one block, in `micro.unit`. `tile` counts over all matrices.

        Also fetches blocks that will be due in a while; they may lie behind the last tile.
        """
        return self.micro.decode(self.reader(tile, step), lanes)

    def reader(self, tile: Expr, step: Expr) -> Callable[[int, int], Expr]:
        """(offset, n) -> n elements of a block as they are stored; see `block`."""
        base = (wide(tile) * self.steps + wide(step)) * self.form.words
        for ahead, level in ((self.micro.ahead, 2), (NEAR, 1)):
            fetch(self._codes[base + ahead // self.form.block_bytes * self.form.words], level)
        return lambda offset, n: get(self._codes, base + offset, lanes=n)

    def scale(self, tile: Expr, group: Expr, half: int, lanes: int) -> Expr:
        """Of `lanes` rows: a bf16, or 2**(byte - 127), where 2**-127 is a subnormal float32."""
        base = (wide(tile) * self.groups + wide(group)) * TILE
        row = get(self._scales, base + half * lanes, lanes=lanes)
        if self.form.scales == "uint16":
            bits = T.shift_left(T.Cast(f"uint32x{lanes}", row), _u32(16, lanes))
            return T.reinterpret(f"float32x{lanes}", bits)
        bits = T.shift_left(T.Cast(f"int32x{lanes}", row), T.broadcast(T.int32(23), lanes))
        bits = T.max(bits, T.broadcast(T.int32(0x00400000), lanes))
        return T.reinterpret(f"float32x{lanes}", bits)
