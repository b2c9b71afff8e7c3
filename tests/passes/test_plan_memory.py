"""The plan is proven by executing it: one poisoned arena, states in place, same logits."""

import numpy as np
import pytest

from firstlight.frontend.interpret import InterpreterModel
from firstlight.ir import dims
from firstlight.ir.array import trace
from firstlight.ir.builder import Builder
from firstlight.ir.core import Module
from firstlight.ir.types import StateType, TensorType
from firstlight.passes.pipeline import PIPELINE, run_pipeline
from firstlight.passes.plan_memory import PlanMemory, assign_offsets
from firstlight.passes.specialize import Specialize
from firstlight.runtime.errors import FirstlightError
from support.random_models import random_config, random_tensors, write_checkpoint
from support.run_plan import run_plan

CONTEXT, CHUNK = 64, 9


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small model with every layer kind."""
    config = random_config(5, layers="wch", csa=4, hca=8)
    folder = tmp_path_factory.mktemp("plan") / "model"
    write_checkpoint(folder, config, random_tensors(config, 5))
    return InterpreterModel(folder, context=CONTEXT)


def over_the_first(op):
    """As if every kernel worked in place that could."""
    return 0 if op.operands else None


@pytest.mark.parametrize("in_place", [lambda op: None, over_the_first], ids=["apart", "over"])
@pytest.mark.parametrize("pipeline", ["", PIPELINE], ids=["primitives", "fused"])
def test_executing_the_plan_gives_the_interpreters_logits(model, pipeline, in_place):
    module = run_pipeline(model.module, pipeline)
    session, ids = model.session(), np.arange(2, 2 + 3 * CHUNK + 5, dtype=np.int32) % 60
    states = {n: s.copy() for n, s in session.states.items()}
    weights, at = model.weights, 0
    offsets = {"tokens": 192, "pos": 0, "slot": 64}
    for count in (CHUNK, 4, CHUNK, 1, CHUNK):
        tokens = 1 if count == 1 else 0
        one = Specialize(tokens=tokens, context=CONTEXT).run(module)
        memory = PlanMemory({"S": CHUNK}, in_place)
        plan = memory.plan(one, "score", offsets, 256, 256 + 64 * 1024)
        part = ids[at:at + count]
        inputs = {192: part, 0: np.array([at], np.int32), 64: np.array([0], np.int32)}
        arena = run_plan(plan, one, weights, states, inputs, {"S": count})
        want = session.step(part[None])[0]
        got = arena[256:256 + want.nbytes].view(np.float32).reshape(want.shape)
        np.testing.assert_allclose(got, want, atol=2e-5)
        at += count


def test_offsets_of_values_alive_together_do_not_overlap():
    rng = np.random.default_rng(0)
    lives = {}
    for i in range(60):
        start = int(rng.integers(0, 50))
        lives[i] = (start, start + int(rng.integers(0, 9)))
    sizes = {i: 64 * int(rng.integers(1, 9)) for i in lives}
    offsets, total = assign_offsets(lives, sizes)
    for a in lives:
        assert offsets[a] % 64 == 0
        assert offsets[a] + sizes[a] <= total
        for b in lives:
            if a < b and lives[a][0] <= lives[b][1] and lives[b][0] <= lives[a][1]:
                assert offsets[a] + sizes[a] <= offsets[b] or offsets[b] + sizes[b] <= offsets[a]
    assert total < sum(sizes.values()) / 2, "lifetimes are used"


def test_reading_a_state_after_its_replacement_is_refused():
    ring = StateType("ring", 4, 3)
    slot = TensorType((1,), "i32")

    def body(state, x, slot, pos):
        written = state.emit("ring_write", x, slot, pos)
        return state.emit("ring_read", slot, pos), written

    function = trace("f", body, (ring, TensorType((1, 1, 4)), slot, slot), Builder("f"))
    with pytest.raises(FirstlightError, match="F304"):
        PlanMemory().plan(Module({"f": function}), "f", {}, 0, 256)


def test_the_plan_reads_as_text(model):
    one = Specialize(tokens=1, context=CONTEXT).run(model.module)
    plan = PlanMemory().plan(one, "score", {"tokens": 0, "pos": 64, "slot": 128}, 192, 8192)
    text = str(plan)
    assert text.startswith(f"arena {plan.arena_bytes} bytes, {len(plan.steps)} steps")
    assert "weight layers.0.attn.wq_a.weight" in text
    assert "state layers.0.attn.window" in text
    assert dims.C not in {d for s in plan.steps for v in s.op.results
                          for d in getattr(v.type, "shape", ())}
