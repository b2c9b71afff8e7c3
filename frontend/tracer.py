"""The tracer: model definitions are Python functions over traced arrays; it records their ops.

A model definition calls `Tracer.call` once per layer. The body is traced the first time and called
again with other weights wherever the weights have the same types, so a 61-layer model is a handful
of functions and one list of calls. Inside a body a `Scope` gives weights and states by their path
relative to the layer; the path becomes the `loc` of every value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace

from firstlight.ir import dims
from firstlight.ir.array import Array, constant, emit, iota
from firstlight.ir.builder import Builder
from firstlight.ir.core import Module
from firstlight.ir.types import StateType, TensorType, Type

Body = Callable[..., Array]
INPUTS: dict[str, TensorType] = {
    "tokens": TensorType((dims.B, dims.S), "i32"),
    "pos": TensorType((dims.B,), "i32"),
    "slot": TensorType((dims.B,), "i32"),
    "last": TensorType((dims.B,), "i32"),
}


@dataclass
class Scope:
    """What a model definition sees while one function is traced."""

    builder: Builder
    weight_types: Mapping[str, TensorType]
    prefix: str
    inputs: dict[str, Array]
    path: str = ""
    weights: dict[str, Array] = field(default_factory=dict)
    states: dict[str, Array] = field(default_factory=dict)
    updates: dict[str, Array] = field(default_factory=dict)

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Names inside are relative to `name`."""
        outer, self.path = self.path, f"{self.path}{name}."
        with self.builder.scope(name):
            yield
        self.path = outer

    def at(self, name: str) -> AbstractContextManager[None]:
        """Ops inside carry the module path `name`, but weights and states keep theirs."""
        return self.builder.scope(name)

    def weight(self, name: str) -> Array:
        """The weight of this name, [out, in] for matrices."""
        name = self.path + name
        if name not in self.weights:
            type_ = self.weight_types[self.prefix + name]
            self.weights[name] = Array(self.builder, self.builder.arg(type_, name))
        return self.weights[name]

    def state(self, name: str, type_: StateType) -> Array:
        """The current value of a state this layer owns."""
        name = self.path + name
        if name not in self.states:
            self.states[name] = Array(self.builder, self.builder.arg(type_, name))
        return self.updates.get(name, self.states[name])

    def update(self, name: str, value: Array) -> Array:
        """Make `value` the state's value from here on."""
        self.updates[self.path + name] = value
        return value

    def constant(self, value: float | tuple[float, ...], shape: tuple[int, ...] = ()) -> Array:
        """A float32 constant."""
        return constant(self.builder, value, shape)

    def iota(self, shape: tuple[dims.Size, ...], axis: int) -> Array:
        """0, 1, 2, ... along an axis."""
        return iota(self.builder, shape, axis)


@dataclass(frozen=True)
class Traced:
    """A function, the relative names of its weights and states, and the types it was traced for."""

    name: str
    weights: tuple[str, ...]
    states: tuple[str, ...]
    updates: tuple[str, ...]
    types: tuple[Type, ...]


class Tracer:
    """Builds the module of one model."""

    def __init__(self, weight_types: Mapping[str, TensorType]) -> None:
        self.weight_types = weight_types
        self.module = Module()
        self._traced: dict[str, list[Traced]] = {}

    def entry(self, name: str, body: Callable[[Scope], Array], inputs: tuple[str, ...]) -> None:
        """A function that callers of the module run; its states and weights have full names."""
        builder = Builder(name, self.module)
        arrays = {n: Array(builder, builder.arg(INPUTS[n], n)) for n in inputs}
        scope = Scope(builder, self.weight_types, "", arrays)
        result = body(scope)
        updated = [scope.updates[n].value for n in scope.states if n in scope.updates]
        self.module = self.module.with_function(builder.finish(result.value, *updated))

    def call(self, outer: Scope, kind: str, body: Body, prefix: str, **inputs: Array) -> Array:
        """Run `body(scope, **inputs)` as a function named after `kind`, on the weights of `prefix`.

        The path `prefix` (``layers.7.``) is where its weights and states are found.
        """
        traced = self._find(kind, prefix, inputs) or self._trace(kind, body, prefix, inputs)
        outer.builder.module = self.module
        args = list(inputs.values())
        function = self.module[traced.name]
        by_name = {v.loc: v.type for v in function.args}
        with outer.scope(prefix.removesuffix(".")) if prefix else nullcontext():
            args += [outer.weight(n) for n in traced.weights]
            args += [outer.state(n, by_name[n]) for n in traced.states]  # type: ignore[arg-type]
            results = emit(outer.builder, "call", *args, callee=traced.name)
            for name, value in zip(traced.updates, results[1:], strict=True):
                outer.update(name, value)
        return results[0]

    def _find(self, kind: str, prefix: str, inputs: Mapping[str, Array]) -> Traced | None:
        for traced in self._traced.get(kind, []):
            types = [a.type for a in inputs.values()]
            types += [self.weight_types[prefix + n] for n in traced.weights]
            if tuple(types) == traced.types:
                return traced
        return None

    def _trace(self, kind: str, body: Body, prefix: str, inputs: Mapping[str, Array]) -> Traced:
        known = self._traced.setdefault(kind, [])
        name = f"{kind}_{len(known)}" if known else kind
        builder = Builder(name, self.module)
        arrays = {n: Array(builder, builder.arg(a.type, n)) for n, a in inputs.items()}
        scope = Scope(builder, self.weight_types, prefix, arrays)
        result = body(scope, **arrays)
        self.module = builder.module
        updates = [n for n in scope.states if n in scope.updates]
        function = builder.finish(result.value, *[scope.updates[n].value for n in updates])
        # inputs, weights, states: the order in which `call` passes them
        ordered = [*arrays.values(), *scope.weights.values(), *scope.states.values()]
        function = replace(function, args=tuple(a.value for a in ordered))
        self.module = self.module.with_function(function)
        types = (*[a.type for a in arrays.values()], *[a.type for a in scope.weights.values()])
        traced = Traced(name, tuple(scope.weights), tuple(scope.states),
                        tuple(updates), types)
        known.append(traced)
        return traced
