"""fuse-linears: projections of the same vector, side by side. After the vertical fusions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from firstlight.ir.builder import Builder
from firstlight.ir.core import Function, Module, Op, Value
from firstlight.passes.base import Pass


@dataclass(frozen=True)
class FuseLinears(Pass):
    """Linears that read the same x become one op: x is read once, the weights in one stream.

    before   %a = linear(%x, %wq_a) ; ... ; %b = linear(%x, %wkv)
    after    %a, %b = linears(%x, %wq_a, %wkv)

    Only weights that are arguments of the function count: they exist before the first linear, so
    none of the products can depend on another. Groups smaller than `smallest` stay.
    """

    name: ClassVar[str] = "fuse-linears"
    rules: ClassVar[tuple[tuple[str, str], ...]] = (("linear", "linears"),)
    smallest: int = 2

    def run(self, module: Module) -> Module:
        """The module with every group of linears joined."""
        for function in module:
            for one, several in self.rules:
                function = self._join(function, module, one, several)
            module = module.with_function(function)
        return module

    def _join(self, function: Function, module: Module, one: str, several: str) -> Function:
        groups: dict[Value, list[Op]] = {}
        for op in function.ops:
            if op.name == one and op.operands[1] in function.args:
                groups.setdefault(op.operands[0], []).append(op)
        joined = {op: group for group in groups.values() if len(group) >= self.smallest
                  for op in group}
        builder = Builder(function.name, module)
        values = {arg: builder.arg(arg.type, arg.loc) for arg in function.args}
        for op in function.ops:
            group = joined.get(op)
            if group is None:
                new = builder.emit(op.name, *[values[v] for v in op.operands], loc=op.loc,
                                   **op.attrs)
                values.update(zip(op.results, new.results, strict=True))
            elif op is group[0]:
                weights = [values[member.operands[1]] for member in group]
                new = builder.emit(several, values[op.operands[0]], *weights, loc=op.loc)
                values.update(zip([m.result for m in group], new.results, strict=True))
        return builder.finish(*[values[v] for v in function.results])
