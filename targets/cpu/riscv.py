"""What RISC-V kernels do differently, because of the emulator that is here."""

from __future__ import annotations

from typing import Any

from firstlight.codegen.tvm_bridge import PrimFunc, T, tirx, transformed

LOWEST = -3.4028234663852886e38
"""Of all finite float32."""


def settled(func: PrimFunc) -> PrimFunc:
    """Every float32 that becomes an int32 is first held against the lowest one: no result changes.

    qemu 7.2 (Debian 12) dies of a vector conversion with a rounding mode of its own that is the
    first float instruction of its block ("decode_save_opc: Assertion"): it notes the instruction
    twice, once for leaving the mode that is not known yet and once for the conversion's. Any float
    instruction before it helps; this one LLVM keeps, and it costs what an addition would.
    """
    def change(node: Any) -> Any:
        if (str(node.ty.dtype), str(node.value.ty.dtype)) != ("int32", "float32"):
            return node
        value = T.call_llvm_pure_intrin("float32", "llvm.maxnum", node.value, T.float32(LOWEST))
        return tirx.Cast("int32", value)

    return func.with_body(transformed(func.body, tirx.Cast, change))
