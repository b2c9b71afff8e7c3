"""Composite ops by their meaning: the decomposition as a function of primitives."""

from __future__ import annotations

from firstlight.ir.array import trace
from firstlight.ir.builder import Builder
from firstlight.ir.core import Attr, Function, Module, Op, Value
from firstlight.ir.registry import OpInfo, lookup
from firstlight.ir.rewriter import Rewriter, inline
from firstlight.ir.types import Type


def expand(info: OpInfo, types: tuple[Type, ...], attrs: dict[str, Attr],
           module: Module) -> tuple[Function, Module]:
    """One step of `info` for operands of `types`; the module gains helper functions it calls."""
    builder = Builder(info.name, module)
    assert info.decomposition is not None, f"{info.name} is not composite"
    function = trace(info.name, info.decomposition, types, builder, **attrs)
    return function, builder.module


def decompose_op(op: Op, builder: Builder, operands: tuple[Value, ...]) -> tuple[Value, ...]:
    """Emit what `op` stands for; composites inside are left as they are."""
    info = lookup(op.name)
    function, builder.module = expand(info, tuple(v.type for v in operands), dict(op.attrs),
                                      builder.module)
    return inline(builder, function, operands, op.loc)


def decompose(module: Module, keep: frozenset[str] = frozenset()) -> Module:
    """`module` with every composite not named in `keep` expanded, down to primitives."""
    names = list(module.functions)
    for name in names:
        while any(lookup(op.name).composite and op.name not in keep for op in module[name].ops):
            rewriter = Rewriter(module[name], module)

            def replace(op: Op, r: Rewriter) -> tuple[Value, ...] | None:
                if op.name in keep or not lookup(op.name).composite:
                    return None
                return decompose_op(op, r.builder, tuple(r.get(v) for v in op.operands))

            function = rewriter.run(replace)
            module = ordered(rewriter.builder.module.with_function(function))
    return module


def ordered(module: Module) -> Module:
    """Callees before callers, otherwise in the order they stand."""
    done: dict[str, Function] = {}

    def visit(name: str) -> None:
        if name in done:
            return
        for op in module[name].ops:
            if "callee" in op.attrs:
                visit(str(op.attrs["callee"]))
        done[name] = module[name]

    for name in module.functions:
        visit(name)
    return Module(done)
