"""Calls: layers are functions called with different weights, loops are a function repeated."""

from __future__ import annotations

from firstlight.ir.builder import require
from firstlight.ir.core import Module
from firstlight.ir.ops.shape import free
from firstlight.ir.registry import cost_of, op, reference_of, shape_of
from firstlight.ir.types import Type

call = op("call", ("args*",), ("results*",), attrs={"callee": str})
repeat = op("repeat", ("x",), attrs={"callee": str, "count": int})


@shape_of(call)
def _(*args: Type, callee: str, module: Module) -> tuple[Type, ...]:
    require(callee in module.functions, f"there is no function @{callee}")
    function = module[callee]
    expected = tuple(arg.type for arg in function.args)
    require(args == expected, f"@{callee} takes ({', '.join(map(str, expected))})")
    return tuple(value.type for value in function.results)


@shape_of(repeat)
def _(x: Type, callee: str, count: int, module: Module) -> Type:
    """@callee applied `count` times, its result fed back as its argument."""
    require(callee in module.functions, f"there is no function @{callee}")
    function = module[callee]
    require(tuple(a.type for a in function.args) == (x,)
            and tuple(r.type for r in function.results) == (x,),
            f"@{callee} must map {x} to {x}")
    return x


def _by_interpreter(*_: object, **__: object) -> object:
    raise NotImplementedError("the interpreter runs calls itself")


for _info in (call, repeat):
    cost_of(_info)(free)
    reference_of(_info)(_by_interpreter)
