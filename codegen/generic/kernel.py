"""One generic kernel per op: a composite is its decomposition, lowered into one function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from firstlight.codegen.generic.emitter import Emitter
from firstlight.codegen.generic.function import lower_function
from firstlight.codegen.generic.recipe import State, Tensor
from firstlight.codegen.generic.scalars import DTYPES
from firstlight.codegen.generic.storage import (
    buffer_at,
    pointer_types,
    state_operand,
    tensor_operand,
)
from firstlight.codegen.kernel import Kernel
from firstlight.codegen.tvm_bridge import prim_func
from firstlight.ir.core import Function, Module, Op, Value
from firstlight.ir.decompose import decompose, ordered
from firstlight.ir.registry import lookup
from firstlight.ir.types import StateType, TensorType, Type


def generic_kernel(name: str, op: Op, module: Module) -> Kernel:
    """The kernel of any op but `call`, correct on every chip.

    Args:
        name: symbol of the kernel.
        op: specialised: B = 1, C is a number, S a number or the symbol S.
        module: where a `repeat` finds its callee.

    Parameters and layouts are as `Kernel` describes them; all weights are as the checkpoint has
    them. Raises F450 for an op that cannot be lowered and F451 for an unknown size.
    """
    alone = _alone(op, module)
    function = alone["main"]
    labels = lookup(op.name).bind(len(op.operands))
    pointers = _pointers(op, labels)

    def body(*parameters: Any) -> None:
        *given, tokens = parameters
        e, args, buffers = Emitter(tokens, alone), [], []
        for label, arg in zip(labels, function.args, strict=True):
            count = len(pointer_types(arg.type))
            args.append(_operand(e, label, arg.type, given[:count]))
            given = given[count:]
        for value in function.results:
            buffers.append(None)
            if isinstance(value.type, TensorType):
                shape, dtype = e.extents(value.type), DTYPES[value.type.dtype]
                buffers[-1] = buffer_at("out", given.pop(0), shape, dtype)
        lower_function(e, function, args, buffers)

    return Kernel(name, prim_func(name, pointers, body), (None,) * len(op.operands))


def _alone(op: Op, module: Module) -> Module:
    """A module whose only op is `op`, down to primitives, with the functions it applies."""
    args = tuple(Value(v.type, v.loc) for v in op.operands)
    results = tuple(Value(v.type, v.loc) for v in op.results)
    main = Function("main", args, (Op(op.name, args, op.attrs, results, op.loc),), results)
    callees = {}
    if "callee" in op.attrs:
        callees = {f.name: f for f in _reachable(module, str(op.attrs["callee"]))}
    return decompose(Module({**callees, "main": main}))


def _reachable(module: Module, name: str) -> list[Function]:
    names = [name]
    for found in names:
        names += [str(o.attrs["callee"]) for o in module[found].ops
                  if "callee" in o.attrs and o.attrs["callee"] not in names]
    return list(ordered(Module({n: module[n] for n in names})))


def _pointers(op: Op, labels: Sequence[str]) -> list[tuple[str, str]]:
    """(name, element type) of each pointer parameter."""
    pointers = []
    for label, value in zip(labels, op.operands, strict=True):
        codes, *scales = pointer_types(value.type)
        pointers += [(label, codes), *((f"{label}_scales", s) for s in scales)]
    types = [v.type for v in op.results if isinstance(v.type, TensorType)]
    return pointers + [(f"out{i}", DTYPES[t.dtype]) for i, t in enumerate(types)]


def _operand(e: Emitter, label: str, type_: Type, pointers: Sequence[Any]) -> Tensor | State:
    if isinstance(type_, StateType):
        return state_operand(label, type_, e.extent(type_.capacity), pointers[0])
    return tensor_operand(label, type_, e.extents(type_), pointers)
