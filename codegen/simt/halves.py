"""Float16 in memory without a chip's own float16, which not every chip has: decoded by integers."""

from __future__ import annotations

from typing import Any

from firstlight.codegen.tvm_bridge import PrimFunc, T, replaced, tensor_load, tirx, transformed

HALF, CODE = "float16", "uint16"


def without_halves(func: PrimFunc) -> PrimFunc:
    """A flat function that reads float16 values as uint16 codes; float32 is what it makes of them.

    Generic kernels read float16 weights and write none.
    """
    pointers = {p: tirx.Var(p.name, T.handle(CODE).ty) for p in func.params if _is_half(p)}
    if not pointers:
        return func
    coded: dict[Any, Any] = {}

    def declared(stmt: Any) -> Any:
        if str(stmt.buffer.dtype) != HALF:
            return stmt
        old = stmt.buffer
        coded[old] = tirx.decl_buffer(old.shape, CODE, old.name)
        return tirx.DeclBuffer(coded[old], data=stmt.data)

    def loaded(load: Any) -> Any:
        return decoded(coded[load.source][load.indices[0]]) if load.source in coded else load

    body = transformed(func.body, tirx.DeclBuffer, declared)
    body = replaced(transformed(body, tensor_load(), loaded), pointers)
    params = [pointers.get(p, p) for p in func.params]
    return PrimFunc(params, body, func.ret_type, func.attrs)


def decoded(code: Any) -> Any:
    """Value of a float16 code: 1.m 2^(e-15), m 2^-24 where e = 0; e = 31 is infinite or no number.
    """
    code = T.Cast("int32", code)
    exponent, fraction = T.bitwise_and(code >> 10, T.int32(31)), T.bitwise_and(code, T.int32(1023))
    high = T.Select(T.EQ(exponent, T.int32(31)), T.int32(255), exponent + 112)
    normal = T.reinterpret("float32", T.bitwise_or(
        T.shift_left(high, T.int32(23)), T.shift_left(fraction, T.int32(13))))
    size = T.Select(exponent > 0, normal, T.Cast("float32", fraction) * T.float32(2.0**-24))
    return T.Select(code > 0x7FFF, -size, size)


def _is_half(parameter: Any) -> bool:
    element = getattr(parameter.ty, "element_type", None)
    return element is not None and str(element.dtype) == HALF
