"""Steps that became one: what they stand for, what is left apart, and that numbers are the same."""

from dataclasses import replace

import numpy as np
import pytest

from firstlight import targets
from firstlight.codegen.generic import generic_kernel
from firstlight.codegen.kernel import Kernel
from firstlight.codegen.nests.program import Nest, program
from firstlight.ir import dims
from firstlight.ir.core import Module, Op
from firstlight.ir.interpreter import run
from firstlight.ir.types import StateType, TensorType
from firstlight.targets.ascend.attention import Attention, hybrid_attention
from firstlight.targets.ascend.compiler import lower
from firstlight.targets.ascend.emit import best, emitted
from firstlight.targets.ascend.emulator_build import lacking
from firstlight.targets.ascend.execute import emulate
from firstlight.targets.ascend.fuse import Joined, fused
from firstlight.targets.ascend.hazards import check
from firstlight.targets.conform.cases import Case, all_cases
from firstlight.targets.conform.data import plain
from firstlight.targets.conform.execute import Run
from firstlight.targets.conform.units import Unit, units

CHIP = "Ascend950PR_9589"
B, S = dims.B, dims.S
PLACES = TensorType((B,), "i32")


def generic(op: str, number: int = -1) -> Kernel:
    """A generic kernel of the kit's, by op."""
    found = [k for u in units(targets.find("ascend-950pr"), all_cases((op,)))
             if u.how == "generic" for k in u.kernels]
    return found[number]


def attention(heads: int, width: int, rows: int, chosen: int = 0, ratio: int = 0) -> Case:
    """One attention: of the window, and of all entries or of chosen ones."""
    shapes = ((B, S, heads, width), (B, S, width), (heads,), (4,))
    rest: tuple[TensorType | StateType, ...] = ()
    if ratio:
        rest = (StateType("entries", width, ratio=ratio),)
        rest += (TensorType((B, S, chosen), "i32"),) if chosen else ()
    types = (*map(TensorType, shapes), StateType("ring", width, rows), PLACES, PLACES, *rest)
    return Case("hybrid_attention", types, {"scale": 0.2})


def attention_op(case: Case, **sizes: int) -> Op:
    return case.module({"B": 1, "C": 64, **sizes})["main"].ops[-1]


def test_gate_and_up_with_their_unit_are_one_step_twice():
    kernel = generic("expert_ffn", 2)       # FP4 experts, a shared one in FP8
    steps = best(kernel).steps
    assert len(steps) < len(program(kernel).steps)
    pairs = [s for s in steps if isinstance(s, Joined) and s.totals == 2]
    assert sorted(s.name for s in pairs[0].apart) == ["expert_linear"] * 2 + ["minimum", "mul"]
    assert sorted(s.name for s in pairs[1].apart) == ["linear"] * 2 + ["minimum", "mul"]
    text = emitted(kernel).modules[steps.index(pairs[1])].text
    assert text.count("linalg.matmul") >= 2
    assert "math.exp" in text
    assert text.count("bufferization.materialize_in_destination") == 1


def test_what_several_steps_read_stays_in_memory():
    kernel = generic("hyper_pre")
    plain_, short = program(kernel), best(kernel)
    product = next(s for s in plain_.steps if isinstance(s, Nest) and s.name == "linear")
    assert any(s.buffer.name == product.buffer.name for s in short.steps if isinstance(s, Nest))
    assert fused(short) is short


def test_a_step_that_overwrites_what_is_read_keeps_the_order():
    """`linear` then `mul`, with a step in between that writes what `linear` reads."""
    kernel = generic("expert_ffn")
    steps = [s for s in program(kernel).steps if isinstance(s, Nest)]
    at = next(i for i, s in enumerate(steps) if s.name == "linear")
    read = next(n for n in steps[at].parts[0].term.parts())
    while read.op != "load":
        read = next(read.parts())
    memory = program(kernel).memories[read.args[0]]
    between = replace(steps[at + 2], name="between", buffer=memory, join="", parts=(),
                      value=steps[at + 2].index)
    made = program(kernel)
    made.steps = [*steps[: at + 1], between, *steps[at + 1:]]
    names = [s.name for s in fused(made).steps if isinstance(s, Nest)]
    assert "linear" in names[: names.index("between")]


def test_a_joined_step_that_is_refused_comes_apart():
    kernel = generic("expert_ffn")
    count = len(program(kernel).steps)
    first = emitted(kernel)
    bad = {m.name for m in first.modules}

    made = emitted(kernel, lambda module, last: "F474: no" if module.name in bad and (
        module.name.startswith(("mul_", "add_"))) else "")
    assert len(first.modules) < len(made.modules) <= count
    assert any("launches" in note for note in made.notes)


@pytest.mark.parametrize("sizes", [{}, {"S": 1}], ids=["prefill", "decode"])
@pytest.mark.parametrize("chosen", [0, 5], ids=["all", "chosen"])
def test_attention_is_one_step_and_comes_apart(chosen, sizes):
    kernel = hybrid_attention("a", attention_op(attention(4, 32, 8, chosen, 4), **sizes), 1)
    assert kernel is not None
    short = best(kernel)
    (step,) = [s for s in short.steps if isinstance(s, Attention)]
    assert {"matmul", "exp", "div"} <= {s.name for s in step.apart if isinstance(s, Nest)}
    text = emitted(kernel).modules[short.steps.index(step)].text
    assert text.count("linalg.matmul") == 4         # two for the window, two for entries
    made = emitted(kernel, lambda module, last: "F474: no" * module.name.startswith("attention"))
    assert len(made.modules) > len(short.steps)
    assert "attention" not in {m.name.rsplit("_", 1)[0] for m in made.modules}


def test_fewer_entries_than_a_block_are_left_to_the_plain_steps():
    op = attention_op(attention(4, 32, 8, 0, 16))       # 4 entries
    kernel = hybrid_attention("a", op, 1)
    assert kernel is not None
    assert not any(isinstance(s, Attention) for s in best(kernel).steps)


def test_narrow_heads_are_not_the_cube_cores():
    assert hybrid_attention("a", attention_op(attention(3, 8, 8)), 1) is None


@pytest.mark.chip
@pytest.mark.skipif(bool(lacking()), reason=f"not here: {', '.join(lacking())}")
@pytest.mark.parametrize(("chosen", "ratio"), [(0, 0), (0, 4), (20, 4)],
                         ids=["window", "all", "chosen"])
def test_attention_over_several_blocks_is_attention(chosen, ratio):
    """More keys than a block has, and a window that is no multiple of one."""
    case = attention(20, 64, 75, chosen, ratio)
    sizes = {"B": 1, "S": 3, "C": 1200}
    module = case.module({"B": 1, "C": 1200})
    op = module["main"].ops[-1]
    kernel = hybrid_attention("a", op, 3)
    assert kernel is not None
    executor = emulate(CHIP, {"a": kernel})
    assert any("attention" in e for e in _entries(executor))
    random = np.random.default_rng(1)
    unit = Unit(op.name, case, "prefill", "native", module, (kernel,), module)
    for pos in (0, 90, 1100):
        operands = list(case.operands(random, sizes, pos, plain))
        if chosen:
            operands[8].value[...] = random.permutation(300)[: 3 * chosen].reshape(1, 3, chosen)
            operands[8].value[0, 1, 4:] = -1
        want = run(module, "main", [o.value for o in operands], sizes)
        done = Run(executor, None, unit, operands, sizes)
        assert not done.problems
        for got, true in zip(done.results, want, strict=True):
            np.testing.assert_allclose(got, true, atol=4e-6 * np.abs(true).max())


def _entries(executor) -> list[str]:
    return [launch["entry"] for record in executor.records.values()
            for launch in record["launches"]]


def test_the_generic_kernel_is_what_is_left_where_nothing_fits():
    op = attention_op(attention(3, 8, 8))
    kernel = generic_kernel("g", op, Module())
    assert not any(isinstance(s, Attention) for s in best(kernel).steps)


@pytest.mark.chip
@pytest.mark.skipif(bool(lacking()), reason=f"not here: {', '.join(lacking())}")
@pytest.mark.parametrize(("chosen", "ratio"), [(0, 0), (0, 4), (5, 4)],
                         ids=["window", "all", "chosen"])
def test_attention_as_the_compiler_plans_it_is_in_order(chosen, ratio):
    kernel = hybrid_attention("a", attention_op(attention(20, 64, 75, chosen, ratio)), 1)
    assert kernel is not None
    (module,) = [m for m in emitted(kernel).modules if m.name.startswith("attention")]
    snapshot = lower(module.text, CHIP, module.name).snapshot
    assert check(snapshot) == []
    # a flag less between the cores is seen
    lines = snapshot.splitlines()
    at = next(i for i, line in enumerate(lines) if "sync_block_set[<CUBE>, <PIPE_FIX>" in line)
    assert check("\n".join(lines[:at] + lines[at + 1:])) != []
