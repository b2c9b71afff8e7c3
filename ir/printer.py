"""The text form: deterministic, parses back, MLIR generic syntax."""

from __future__ import annotations

import json
import math
import struct

from firstlight.ir.core import Attr, Function, Module, Op, Value
from firstlight.ir.dims import Dim


def print_module(module: Module, locs: bool = True) -> str:
    """The module as one ``builtin.module`` with a ``func.func`` per function."""
    body = "".join(print_function(f, locs) for f in module)
    return f'"builtin.module"() ({{\n{body}}}) : () -> ()\n'


def print_function(function: Function, locs: bool = True) -> str:
    """One function, values numbered in order of definition."""
    names: dict[Value, str] = {v: f"%arg{i}" for i, v in enumerate(function.args)}
    lines = []
    for op in function.ops:
        for value in op.results:
            names[value] = f"%{len(names) - len(function.args)}"
        lines.append(f"    {print_op(op, names, locs)}\n")
    args = ", ".join(f"{names[v]}: {v.type}{_loc(v.loc, locs)}" for v in function.args)
    ins = ", ".join(str(v.type) for v in function.args)
    outs = ", ".join(str(v.type) for v in function.results)
    returned = ", ".join(names[v] for v in function.results)
    return (
        f'  "func.func"() ({{\n  ^bb0({args}):\n{"".join(lines)}'
        f'    "func.return"({returned}) : ({outs}) -> ()\n'
        f'  }}) {{function_type = ({ins}) -> ({outs}), sym_name = "{function.name}"}} : () -> ()\n'
    )


def print_op(op: Op, names: dict[Value, str] | None = None, locs: bool = True) -> str:
    """One op; without `names`, values are shown as %?."""
    names = names or {}
    results = ", ".join(names.get(v, "%?") for v in op.results)
    operands = ", ".join(names.get(v, "%?") for v in op.operands)
    attrs = ", ".join(f"{k} = {print_attr(k, v)}" for k, v in sorted(op.attrs.items()))
    ins = ", ".join(str(v.type) for v in op.operands)
    outs = ", ".join(str(v.type) for v in op.results)
    shown = f" {{{attrs}}}" if attrs else ""
    outs = outs if len(op.results) == 1 else f"({outs})"
    return f'{results} = "fl.{op.name}"({operands}){shown} : ({ins}) -> {outs}{_loc(op.loc, locs)}'


def print_attr(name: str, value: Attr) -> str:
    """An attribute: callee as a symbol, dims as strings, floats exactly."""
    if name == "callee":
        return f'@"{value}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return print_float(value)
    if isinstance(value, (str, Dim)):
        return json.dumps(str(value))
    return "[" + ", ".join(print_attr("", v) for v in value) + "]"


def print_float(value: float) -> str:
    """A decimal literal that reads back exactly; infinities and NaN by their bits, as MLIR does."""
    if not math.isfinite(value):
        return f"0x{struct.unpack('>Q', struct.pack('>d', value))[0]:016X} : f64"
    text = repr(value)
    mantissa, _, exponent = text.partition("e")
    mantissa = mantissa if "." in mantissa else f"{mantissa}.0"
    return f"{mantissa}e{exponent}" if exponent else mantissa


def _loc(loc: str, shown: bool) -> str:
    return f" loc({json.dumps(loc)})" if loc and shown else ""
