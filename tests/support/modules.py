"""Modules for the tests of the passes: composites taken apart, and what they compute."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.ir import dims, interpreter
from firstlight.ir.array import Array, emit
from firstlight.ir.builder import Builder
from firstlight.ir.core import Function, Module, Op, Value, census
from firstlight.ir.decompose import decompose
from firstlight.ir.ops.elementwise import COMMUTATIVE
from firstlight.ir.registry import TABLE
from firstlight.ir.rewriter import Rewriter
from firstlight.ir.types import StateType, TensorType
from firstlight.passes import run_pipeline
from firstlight.passes.fuse import FusionPass

SIZES = {"B": 2, "S": 7, "C": 40}
COMPOSITES = [(info.name, i) for info in TABLE.values() if info.composite
              for i in range(len(info.examples))]
RECOGNISED = {"linears", *(rule for kind in FusionPass.__subclasses__() for rule in kind.rules)}
"""Composites that passes find by their decomposition; `quantize` writes the other."""
Change = Callable[[Op, Rewriter], "tuple[Value, ...] | None"]


def composite(name: str, example: int = 0, function: str = "main") -> Module:
    """A module of one composite op on one of its examples; arguments are called as its operands."""
    info = TABLE[name]
    types, attrs = info.examples[example]
    builder = Builder(function)
    args = [Array(builder, builder.arg(t, n))
            for t, n in zip(types, info.bind(len(types)), strict=True)]
    with builder.scope("layer"):
        results = emit(builder, name, *args, **attrs)
    return Module({function: builder.finish(*[a.value for a in results])})


def gallery(*names: str) -> Module:
    """A function of primitives for every example of some composites."""
    module = Module()
    for name, i in COMPOSITES:
        if name in names:
            module = Module({**module.functions, **composite(name, i, f"{name}_{i}").functions})
    return decompose(module)


def pieces(name: str, example: int = 0) -> Module:
    """The same in primitives."""
    return decompose(composite(name, example))


def arguments(function: Function, seed: int = 0) -> list[NDArray[Any]]:
    """Random arrays for the arguments, at the sizes `SIZES`; two sequences at two positions."""
    rng = np.random.default_rng(seed)
    pos = np.array([2, 12], np.int32)
    given = {"pos": pos, "slot": np.array([2, 0], np.int32), "last": np.array([6, 3], np.int32),
             "positions": (pos[:, None] + np.arange(SIZES["S"])).astype(np.int32)}

    def array(value: Value) -> NDArray[Any]:
        if isinstance(value.type, StateType):
            rows = dims.evaluate(value.type.capacity, SIZES)
            return rng.standard_normal((3, rows, value.type.width)).astype(np.float32)
        shape = tuple(dims.evaluate(d, SIZES) for d in value.type.shape)
        if value.type.dtype == "i32":
            return given.get(value.loc, rng.integers(0, 5, shape).astype(np.int32))
        weight = len(shape) > 1 and all(isinstance(d, int) for d in value.type.shape)
        scale = shape[-1] ** -0.5 if weight else 1.0
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    return [array(v) for v in function.args]


def difference(a: Module, b: Module, name: str = "main") -> float:
    """The largest difference of the results of a function on the same random arrays."""
    args = arguments(a[name])
    one, two = (interpreter.run(m, name, args, SIZES) for m in (a, b))
    return max(float(np.max(np.abs(x.astype(np.float64) - y), initial=0.0))
               for x, y in zip(one, two, strict=True))


def mutate(module: Module, change: Change, name: str = "main") -> Module:
    """The module with some ops of a function replaced, as in `firstlight.ir.rewriter.rewrite`."""
    return module.with_function(Rewriter(module[name], module).run(change))


def nth(name: str, n: int, change: Change) -> Change:
    """`change` of the n-th op called `name`, and of no other."""
    def only(op: Op, r: Rewriter) -> tuple[Value, ...] | None:
        same = [other for other in r.source.ops if other.name == name]
        return change(op, r) if op is same[n] else None

    return only


def scaled(name: str, n: int = 0, factor: float = 2.0) -> Change:
    """The result of the n-th op called `name` times a factor."""

    def change(op: Op, r: Rewriter) -> tuple[Value, ...]:
        (result,) = r.copy(op)
        return ((Array(r.builder, result) * factor).value,)

    return nth(name, n, change)


def turned(name: str, n: int = 0) -> Change:
    """The n-th op called `name` with its operands in reverse order."""
    return nth(name, n, lambda op, r: r.builder.emit(
        op.name, *map(r.get, op.operands[::-1]), loc=op.loc, **op.attrs).results)


def replaced(name: str, new: str, n: int = 0, **attrs: Any) -> Change:
    """The n-th op called `name` as another op, or with other attributes."""
    return nth(name, n, lambda op, r: r.builder.emit(
        new, *map(r.get, op.operands), loc=op.loc, **{**op.attrs, **attrs}).results)


def constant(old: float, new: float) -> Change:
    """The constant `old` with the value `new`."""

    def change(op: Op, r: Rewriter) -> tuple[Value, ...] | None:
        if op.name != "constant" or op.attrs["value"] != old:
            return None
        return r.builder.emit("constant", **{**op.attrs, "value": new}).results

    return change


def swap(module: Module, seed: int) -> Module:
    """Operands of commutative ops in random order."""
    rng = random.Random(seed)

    def change(op: Op, r: Rewriter) -> tuple[Value, ...] | None:
        if op.name not in COMMUTATIVE or rng.random() < 0.5:
            return None
        a, b = map(r.get, op.operands)
        return r.builder.emit(op.name, b, a, loc=op.loc, **op.attrs).results

    for name in list(module.functions):
        module = mutate(module, change, name)
    return module


def check_near_miss(name: str, change: Change, example: int = 0,
                    run: Callable[[Module], Module] = run_pipeline) -> None:
    """A changed decomposition of a composite is not taken for it, and still means the same."""
    whole = pieces(name, example)
    before = mutate(whole, change)
    assert difference(whole, before) > 1e-4, "the change changes nothing"
    after = run(before)
    assert name not in census(after)
    assert difference(before, after) <= 1e-5


def anonymous(module: Module) -> Module:
    """The module without any loc, its functions renamed."""
    names = {name: f"f{i}" for i, name in enumerate(module.functions)}
    out = Module()
    for function in module:
        values = {v: Value(v.type) for v in function.args}
        ops = []
        for op in function.ops:
            values |= {v: Value(v.type) for v in op.results}
            attrs = {k: names[str(v)] if k == "callee" else v for k, v in op.attrs.items()}
            ops.append(Op(op.name, tuple(values[v] for v in op.operands), attrs,
                          tuple(values[v] for v in op.results)))
        out = out.with_function(Function(names[function.name],
                                         tuple(values[v] for v in function.args), tuple(ops),
                                         tuple(values[v] for v in function.results)))
    return out


def censuses(module: Module) -> list[dict[str, int]]:
    """The census of each function, in order."""
    return [census(f) for f in module]


def shapes(module: Module, name: str = "main") -> list[tuple[str, dict[str, Any]]]:
    """Names and attributes of the ops of a function."""
    return [(op.name, dict(op.attrs)) for op in module[name].ops]


def traced(config: dict[str, Any], folder: Path, numerics: str = "float") -> Module:
    """The module of the model that a config.json describes."""
    from firstlight.frontend.checkpoint import read_config
    from firstlight.frontend.model import config_types, trace_model

    (folder / "config.json").write_text(json.dumps(config))
    parsed = read_config(folder)
    return trace_model(parsed, config_types(parsed), numerics)


def tensor(*shape: dims.Size, dtype: str = "f32") -> TensorType:
    """A plain tensor type."""
    return TensorType(shape, dtype)
