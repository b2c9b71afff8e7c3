"""Results over operands: where that may be, and that no value is lost by it."""

import numpy as np
import pytest

from firstlight.ir.builder import Builder
from firstlight.ir.core import Module, Value
from firstlight.ir.interpreter import run
from firstlight.ir.types import TensorType
from firstlight.passes.in_place import taken_places
from firstlight.passes.plan_memory import PlanMemory, alias_roots
from support.run_plan import run_plan

X = TensorType((1, 4, 8))
FIRST = {"neg": 0, "exp": 0, "sub": 0, "add": 1}
"""Operand that the result of an op may lie over."""


def first(op):
    return FIRST.get(op.name)


def function(module: Module, name: str, count: int, *program: str) -> Module:
    """A function of `count` arguments a, b, ..; lines are `result op operands`, the last one `op`
    return; an op that is the name of a function is a call."""
    builder = Builder(name, module)
    values: dict[str, Value] = {n: builder.arg(X, n) for n in "abc"[:count]}
    *lines, end = program
    for line in lines:
        names, op, *operands = line.split()
        ins = [values[n] for n in operands]
        done = (builder.emit("call", *ins, callee=op) if op in module.functions
                else builder.emit(op, *ins))
        values.update(zip(names.split(","), done.results, strict=True))
    return module.with_function(builder.finish(*(values[n] for n in end.split()[1:])))


def taken(module: Module, name: str = "main") -> int:
    """How many results lie over operands in a function."""
    roots = {f.name: alias_roots(f, module) for f in module}
    return len(taken_places(module, "main", roots, first)[name])


def main(count: int, *program: str) -> Module:
    return function(Module(), "main", count, *program)


@pytest.mark.parametrize(("program", "wanted"), [
    (("x exp a", "return x"), 0),                                # the caller's
    (("x exp a", "y neg x", "return y"), 1),
    (("x exp a", "y neg x", "z neg y", "return z"), 2),
    (("x exp a", "y neg x", "z sub x y", "return z"), 1),        # x is read later, then dies
    (("x exp a", "y sub x x", "return y"), 0),                   # read twice by the op itself
    (("x exp a", "y neg x", "return x y"), 0),                   # a result
    (("x exp a", "y add a x", "return y"), 1),                   # over the second operand
    (("x exp a", "y mul x x", "return y"), 0),                   # an op that does not say so
])
def test_a_place_is_taken_by_the_last_reader(program, wanted):
    assert taken(main(1, *program)) == wanted


LAYER = ("x neg a", "y sub x b", "return y")


@pytest.mark.parametrize(("program", "inside", "outside"), [
    (("x exp a", "y layer x b", "z layer y b", "return z"), 2, 2),
    (("x exp a", "y layer x b", "z layer y b", "w add x z", "return w"), 1, 1),  # x lives on
    (("y layer a b", "z layer y b", "return z"), 1, 0),                          # a is the caller's
    (("x exp a", "y layer x x", "return y"), 1, 0),                              # given twice
])
def test_a_call_takes_the_place_of_an_argument_if_every_caller_is_done_with_it(
    program, inside, outside
):
    module = function(function(Module(), "layer", 2, *LAYER), "main", 2, *program)
    assert taken(module, "layer") == inside
    assert taken(module) == outside


def test_constants_and_views():
    builder = Builder("main")
    a = builder.arg(X, "a")
    (fixed,) = builder.emit("constant", value=1.0, shape=(1, 4, 8), dtype="f32").results
    (x,) = builder.emit("neg", fixed).results
    (flat,) = builder.emit("reshape", x, shape=(1, 32)).results
    (y,) = builder.emit("neg", flat).results
    (again,) = builder.emit("reshape", y, shape=(1, 4, 8)).results
    (z,) = builder.emit("sub", again, a).results
    module = Module({"main": builder.finish(z)})
    assert taken(module) == 2, "y over x and z over y, through views; x not over the constant"


@pytest.mark.parametrize("seed", range(40))
def test_no_value_is_lost(seed):
    """Random programs of three levels of calls, executed by their plan and by the interpreter."""
    random, module = np.random.default_rng(seed), Module()
    for name, count in (("leaf", 2), ("layer", 2), ("main", 3)):
        known, lines, seen = list("abc"[:count]), [], set()
        for number in range(int(random.integers(4, 10))):
            op = str(random.choice(["neg", "sub", "add", *module.functions]))
            operands = random.choice(known[-3:], size=1 if op == "neg" else 2).tolist()
            if (op, *sorted(operands)) in seen:     # would be the same value
                continue
            seen.add((op, *sorted(operands)))
            results = [f"v{number}", f"w{number}"][: 2 if op in module.functions else 1]
            lines.append(f"{','.join(results)} {op} {' '.join(operands)}")
            known += results
        module = function(module, name, count, *lines, f"return {known[-1]} {known[count]}")
    arrays = [random.standard_normal((1, 4, 8)).astype(np.float32) for _ in range(3)]
    want = run(module, "main", arrays, {})
    inputs = {name: 128 * i for i, name in enumerate("abc")}
    plan = PlanMemory({}, first).plan(module, "main", inputs, (384, 512), 640)
    arena = run_plan(plan, module, {}, {}, dict(zip(inputs.values(), arrays, strict=True)), {})
    for offset, value in zip((384, 512), want, strict=True):
        np.testing.assert_array_equal(arena[offset:offset + 128].view(np.float32),
                                      value.reshape(-1))
    apart = PlanMemory({}).plan(module, "main", inputs, (384, 512), 640)
    assert plan.arena_bytes <= apart.arena_bytes
