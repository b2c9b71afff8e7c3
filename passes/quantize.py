"""quantize: weights are stored in other codecs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import ClassVar

from firstlight.ir.builder import Builder
from firstlight.ir.core import Function, Module, Op, Value
from firstlight.ir.types import CODECS, REAL, TensorType, Type
from firstlight.passes.base import Pass
from firstlight.runtime.errors import FirstlightError

CALLS = ("call", "repeat")


@dataclass(frozen=True)
class Quantize(Pass):
    """Change the codec in the types of weights; kernels and stored bytes follow from the types.

    before   @score(..., %w : 2048x256xf32, bf16): linear(%x, %w)           (codecs=head.*=...)
    after    @score(..., %w : 2048x256xf32, int8/32:bf16): linear(%x, %w)

    codecs: ``pattern=codec``, the first pattern that a weight's name matches decides (shell
    patterns). Only matrices of real numbers change; one whose rows do not fill the groups of a
    codec stays as it is. A function that is called with weights of different codecs becomes
    several. F301 for a codec that does not exist.
    """

    name: ClassVar[str] = "quantize"
    codecs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for _, codec in self._rules():
            if codec not in REAL:
                raise FirstlightError(
                    "F301", f"pass 'quantize' names an unknown codec: {codec!r}", where=str(self),
                    why=f"the codecs of weights are {', '.join(REAL)}",
                    try_="quantize{codecs=head.weight=bf16}",
                )

    def run(self, module: Module) -> Module:
        """The module with the new types; entries keep their names."""
        called = {str(op.attrs["callee"]) for f in module for op in f.ops if op.name in CALLS}
        copies = _Copies(module)
        for function in module:
            if function.name not in called:
                copies.instance(function, tuple(self._type(a) for a in function.args))
        return copies.done

    def codec(self, name: str, type_: TensorType) -> str:
        """The codec in which a weight of this name and type is stored."""
        if type_.rank < 2 or type_.codec not in REAL:
            return type_.codec
        for pattern, codec in self._rules():
            if fnmatchcase(name, pattern):
                return codec if CODECS[codec].fits(type_.shape[-1]) else type_.codec
        return type_.codec

    def _type(self, arg: Value) -> Type:
        if not isinstance(arg.type, TensorType):
            return arg.type
        return replace(arg.type, codec=self.codec(arg.loc, arg.type))

    def _rules(self) -> list[tuple[str, str]]:
        return [(p, c) for p, _, c in (rule.rpartition("=") for rule in self.codecs)]


class _Copies:
    """Functions rebuilt for new argument types, callees before callers."""

    def __init__(self, module: Module) -> None:
        self.source, self.done = module, Module()
        self._names: dict[tuple[str, tuple[Type, ...]], str] = {}

    def instance(self, function: Function, types: tuple[Type, ...]) -> str:
        """The name of `function` for these argument types."""
        key = (function.name, types)
        if key not in self._names:
            callees = {op: self._callee(op, dict(zip(function.args, types, strict=True)))
                       for op in function.ops if op.name in CALLS}
            same = sum(name == function.name for name, _ in self._names)
            self._names[key] = function.name + (f"_{same}" if same else "")
            self._build(self._names[key], function, types, callees)
        return self._names[key]

    def _callee(self, op: Op, types: Mapping[Value, Type]) -> str:
        callee = self.source[str(op.attrs["callee"])]
        return self.instance(callee, tuple(types.get(v, v.type) for v in op.operands))

    def _build(self, name: str, function: Function, types: tuple[Type, ...],
               callees: Mapping[Op, str]) -> None:
        builder = Builder(name, self.done)
        values = {arg: builder.arg(type_, arg.loc)
                  for arg, type_ in zip(function.args, types, strict=True)}
        for op in function.ops:
            attrs = {**op.attrs, **({"callee": callees[op]} if op in callees else {})}
            new = builder.emit(op.name, *[values[v] for v in op.operands], loc=op.loc, **attrs)
            values.update(zip(op.results, new.results, strict=True))
        self.done = self.done.with_function(
            builder.finish(*[values[v] for v in function.results]))
