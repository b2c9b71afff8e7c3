"""One token times FP8 weights, on cores that multiply subnormal numbers at full speed.

The bits of an e4m3 code, moved to where float32 has sign, exponent and mantissa, are its value
times 2**-120, a subnormal number for codes below 2**-6. No conversion is needed; F16C's bounds FP8
on AMD's Zen, where a core decodes 1.6 times as fast this way (one of Intel's takes 100 cycles for
such a factor, see `micro`). Weights lie as ``.quads``, so that a lane is a row here, too.
Activations are lifted by a power of two for every 128 of them, so that products keep all their
bits: sums are the same as without.
"""

from __future__ import annotations

from typing import Any

from firstlight.codegen.tvm_bridge import T
from firstlight.targets.cpu.kernels.layouts import TILE
from firstlight.targets.cpu.kernels.micro import Weight, zeros
from firstlight.targets.cpu.kernels.panel import DEPTH
from firstlight.targets.cpu.kernels.schedule import parallel_few
from firstlight.targets.cpu.kernels.vecmath import Cell, Expr, across, get, put, spread, tree

LIFT = 60
"""The largest activation of a block gets this exponent; smaller ones than 2**-60 a lower one."""


class Lifted:
    """Rows of activations times powers of two, one for every 128 columns."""

    CODECS = frozenset({"fp8e4m3/128x128:ue8m0"})

    def __init__(self, rows: int, k: int, lanes: int) -> None:
        self.rows, self.lanes, self.blocks = rows, lanes, -(-k // DEPTH)
        self.values = T.alloc_buffer((rows, self.blocks * DEPTH), "float32")
        self.backs = T.alloc_buffer((rows, self.blocks), "float32")

    def fill(self, x: Any) -> None:
        """Lift x [rows, .. >= whole blocks]: each where it probably was written and is read."""
        lanes = self.lanes
        rows = parallel_few(self.rows, self.rows) if self.rows > 1 else T.serial(1)
        with rows as row, T.serial(self.blocks) as block:
            top = Cell(spread(2.0**-LIFT, lanes), lanes)
            with T.serial(DEPTH // lanes) as i:
                v = T.bind(get(x, row, block * DEPTH + i * lanes, lanes=lanes))
                top.value = T.max(top.value, T.max(v, spread(0.0, lanes) - v))
            most = T.reinterpret("uint32", across(top.value, lanes, T.max))
            exponent = T.bind(T.bitwise_and(most, T.uint32(0x7F800000)))
            put(self.backs, T.reinterpret("float32", exponent), row, block)
            lift = T.reinterpret("float32", T.uint32((127 + LIFT + 127) << 23) - exponent)
            lift = T.bind(spread(lift, lanes))
            with T.serial(DEPTH // lanes) as i:
                at = block * DEPTH + i * lanes
                put(self.values, get(x, row, at, lanes=lanes) * lift, row, at, lanes=lanes)

    def tile(self, weight: Weight, tile: Expr, row: Expr = 0) -> list[Expr]:
        """16 rows of W x[row] as ``16 // lanes`` vectors; see `gemv.gemv_tile`."""
        lanes, step = self.lanes, weight.form.step
        grands = zeros(TILE // lanes, lanes)
        with T.serial(weight.padded // DEPTH) as block:
            sums = [zeros(step, lanes) for _ in grands]
            with T.serial(DEPTH // step) as s:
                at = T.bind(block * (DEPTH // step) + s)
                for half, values in enumerate(weight.block(tile, at, lanes)):
                    for k, value in enumerate(values):
                        a = T.broadcast(self.values[row, at * step + k], lanes)
                        sums[half][k].value = T.fma(value, a, sums[half][k].value)
            back = T.bind(spread(self.backs[row, block], lanes))
            for half, grand in enumerate(grands):
                value = tree([c.value for c in sums[half]])
                value = value * spread(2.0**-LIFT / weight.micro.unit, lanes) * back
                grand.value = grand.value + value * weight.scale(tile, block, half, lanes)
        return [grand.value for grand in grands]
