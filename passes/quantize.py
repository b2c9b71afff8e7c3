"""quantize: weights and states are stored in other codecs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import ClassVar

from firstlight.ir.builder import Builder
from firstlight.ir.core import Function, Module, Op, Value
from firstlight.ir.types import CODECS, REAL, StateType, TensorType, Type, row_codec
from firstlight.passes.base import Pass
from firstlight.runtime.errors import FirstlightError

CALLS = ("call", "repeat")


@dataclass(frozen=True)
class Quantize(Pass):
    """Change codecs in types; kernels, stored bytes and bytes of a session follow from the types.

    before   @score(..., %w : 2048x256xf32, bf16): linear(%x, %w)           (codecs=head.*=...)
    after    @score(..., %w : 2048x256xf32, int8/32:bf16): linear(%x, %w)

    codecs: ``pattern=codec``, the first pattern that a weight's name matches decides (shell
    patterns). Only matrices of real numbers change; one whose rows do not fill the groups of a
    codec stays as it is. A function that is called with weights of different codecs becomes
    several. F301 for a codec that does not exist.

    states: the same for rings and entries. Compressor inputs stay float32: they are sums' terms.
    What goes into a ring is rounded where it is written, for every later reader, so that a token of
    this call is seen as one of an earlier call would be.
    """

    name: ClassVar[str] = "quantize"
    codecs: tuple[str, ...] = ()
    states: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for _, codec in _rules(self.codecs):
            if codec not in REAL:
                raise self._unknown(codec, f"the codecs of weights are {', '.join(REAL)}")
        for _, codec in _rules(self.states):
            try:
                row_codec(codec)
            except ValueError as e:
                raise self._unknown(codec, f"{e}: f32, bf16, fp8e4m3/64:ue8m0-bf16x64, "
                                           "hadamard-fp4e2m1/32:ue8m0 are some") from e

    def _unknown(self, codec: str, why: str) -> FirstlightError:
        return FirstlightError("F301", f"pass 'quantize' names an unknown codec: {codec!r}",
                               where=str(self), why=why, try_="quantize{codecs=head.weight=bf16}")

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
        for pattern, codec in _rules(self.codecs):
            if fnmatchcase(name, pattern):
                return codec if CODECS[codec].fits(type_.shape[-1]) else type_.codec
        return type_.codec

    def state_codec(self, name: str, type_: StateType) -> str:
        """The codec in which a state of this name and type is kept."""
        for pattern, codec in _rules(self.states) if type_.kind != "partial" else ():
            if fnmatchcase(name, pattern):
                return codec if row_codec(codec).fits(type_.width) else type_.codec
        return type_.codec

    def _type(self, arg: Value) -> Type:
        if isinstance(arg.type, StateType):
            return replace(arg.type, codec=self.state_codec(arg.loc, arg.type))
        return replace(arg.type, codec=self.codec(arg.loc, arg.type))


def _rules(texts: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(p, c) for p, _, c in (rule.rpartition("=") for rule in texts)]


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
            name = function.name
            if any(known == name for known, _ in self._names):      # copies of other types
                free = (f"{name}_{i}" for i in itertools.count(1))
                name = next(n for n in free
                            if n not in self.source.functions and n not in self.done.functions)
            self._names[key] = name
            self._build(name, function, types, callees)
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
            if op.name == "ring_write":
                self._round(builder, values, *op.operands[:2])
            new = builder.emit(op.name, *[values[v] for v in op.operands], loc=op.loc, **attrs)
            values.update(zip(op.results, new.results, strict=True))
        self.done = self.done.with_function(
            builder.finish(*[values[v] for v in function.results]))

    def _round(self, builder: Builder, values: dict[Value, Value], ring: Value, x: Value) -> None:
        """From here on, x is what the ring will give back."""
        codec = values[ring].type.codec
        if codec != "f32":
            values[x] = builder.emit("round_rows", values[x], codec=codec, loc=x.loc).result
