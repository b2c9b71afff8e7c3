"""A chunk of a prompt reads each weight once, as a single token does: counted in the plans.

So the bytes that a token costs fall with the length of the chunk, whatever the kernels do.
"""

import json
from collections import Counter
from pathlib import Path

import pytest

from firstlight import targets
from firstlight.codegen.compile import CompileOptions, plans, prepare
from firstlight.codegen.select import KernelSet
from firstlight.frontend.config import parse_config
from firstlight.frontend.model import config_types, trace_model
from firstlight.passes.plan_memory import Plan
from support.random_models import random_config

BENCH = json.loads((Path(__file__).parents[2] / "benchmarks" / "bench_config.json").read_text())


def reads(plan: Plan) -> Counter[str]:
    """How many steps have each weight as an operand."""
    return Counter(place.name for step in plan.steps for place in step.operands
                   if place.kind == "weight")  # fmt: skip


def test_own_kernels_of_norms_streams_and_attention_work_in_place():
    config = parse_config(BENCH)
    job = prepare(trace_model(config, config_types(config)), config.max_position_embeddings,
                  targets.find("cpu-x86-64-v3"), CompileOptions(chunk=32))  # fmt: skip
    names = {"hyper_mix", "hyper_post", "norm_rope_attention", "rms_norm", "rope"}

    def over(plan: Plan) -> Counter[str]:
        return Counter(step.op.name for step in plan.steps
                       if step.results[0].kind == "arena" and step.results[0] in step.operands)

    for _, _, plan, _, _ in plans(job, KernelSet(job.target)):
        assert over(plan) == Counter(s.op.name for s in plan.steps if s.op.name in names)
    for _, _, plan, _, _ in plans(job, KernelSet(job.target, generic_only=True)):
        assert not over(plan)


@pytest.mark.parametrize("raw", [BENCH, random_config(4, layers="wchch", csa=4, hca=8)],
                         ids=["bench", "small"])  # fmt: skip
def test_a_chunk_reads_each_weight_as_often_as_a_token(raw):
    config = parse_config(raw)
    types = config_types(config)
    job = prepare(trace_model(config, types), config.max_position_embeddings, targets.find("cpu"),
                  CompileOptions(chunk=32))  # fmt: skip
    found = {entry.name: reads(plan) for entry, _, plan, _, _ in plans(job, KernelSet(job.target))}
    assert found["prefill"] == found["decode"] == found["score"]
    assert set(found["decode"]) == set(types)
    assert set(found["decode"].values()) == {1}
