"""quantize, and the policies that name it."""

from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np
import pytest

from firstlight.frontend.config import parse_config
from firstlight.frontend.expected import expected_tensors
from firstlight.frontend.model import config_types, trace_model
from firstlight.frontend.names import ROLES
from firstlight.ir.array import emit, trace
from firstlight.ir.core import Module
from firstlight.ir.decompose import decompose
from firstlight.ir.interpreter import run
from firstlight.ir.types import (
    GROUP_FP4,
    GROUP_INT4,
    GROUP_INT8,
    KEYS_FP4,
    StateType,
    TensorType,
    kv_fp8,
)
from firstlight.ir.verifier import verify
from firstlight.passes import run_pipeline
from firstlight.passes.pipeline import parse, spell
from firstlight.passes.policy import COMMON, quantizer
from firstlight.passes.policy import ROLES as KNOWN
from firstlight.passes.quantize import Quantize
from firstlight.runtime.errors import FirstlightError
from support.random_models import random_config

CONFIG = parse_config(random_config(3, layers="wchch", csa=4, hca=8, num_hash_layers=1), "here")


@pytest.fixture(scope="module")
def model() -> Module:
    return run_pipeline(trace_model(CONFIG, config_types(CONFIG)))


def stored(module: Module) -> dict[str, TensorType]:
    return {v.loc: v.type for v in module["score"].args
            if isinstance(v.type, TensorType) and v.type.codec}


def test_only_the_named_weights_change(model) -> None:
    step = Quantize((f"*.ffn.experts.*={GROUP_INT4}", f"head.weight={GROUP_INT8}"))
    before, after = stored(model), stored(step.run(model))
    verify(step.run(model))
    for name, type_ in after.items():
        codec = (GROUP_INT8 if name == "head.weight" else
                 GROUP_INT4 if ".ffn.experts." in name else before[name].codec)
        assert (type_.codec, type_.shape) == (codec, before[name].shape), name


def test_a_function_of_two_kinds_of_layers_becomes_two(model) -> None:
    """Layers 1 and 3 are equal; a pattern that means one of them must not change the other."""
    after = Quantize((f"layers.3.attn.*={GROUP_INT8}",)).run(model)
    verify(after)
    assert len(list(after)) == len(list(model)) + 1, "`score` and `prefill` share it"
    types = stored(after)
    assert types["layers.3.attn.wq_b.weight"].codec == GROUP_INT8
    assert types["layers.1.attn.wq_b.weight"].codec != GROUP_INT8


def test_what_fills_no_groups_stays(model) -> None:
    step = Quantize((f"*={GROUP_FP4}",))
    assert step.codec("x", TensorType((8, 48), codec="bf16")) == "bf16"
    assert step.codec("x", TensorType((8, 64), codec="bf16")) == GROUP_FP4
    assert step.codec("x", TensorType((64,), codec="bf16")) == "bf16", "a vector"
    assert step.codec("x", TensorType((8, 64), "i32", "i64")) == "i64", "a table"


def test_it_is_text_in_a_pipeline(model) -> None:
    step = quantizer("experts=int4-g32,attn=int8-g32,head=mxfp4", ROLES)
    assert step is not None
    (again,) = parse(spell([step]))
    assert again == step
    assert str(again.run(model)) == str(step.run(model))
    with pytest.raises(FirstlightError, match="F301"):
        parse("quantize{codecs=head.weight=int3}")


def test_first_pattern_decides() -> None:
    step = Quantize(("a.*=bf16", f"*={GROUP_INT8}"))
    assert step.codec("a.b", TensorType((8, 64), codec="f32")) == "bf16"
    assert step.codec("b.b", TensorType((8, 64), codec="f32")) == GROUP_INT8


def test_roles_name_the_matrices_of_the_model() -> None:
    """Every matrix but routers, mixing coefficients and position tables has exactly one role."""
    assert set(ROLES) == set(KNOWN)
    matrices = {n for n, e in expected_tensors(CONFIG).items() if len(e.shape) > 1}
    role = {n: [r for r, ps in ROLES.items() if any(fnmatchcase(n, p) for p in ps)]
            for n in matrices}
    assert all(len(r) <= 1 for r in role.values())
    left = {n for n, r in role.items() if not r}
    assert {n.rpartition(".attn.")[2].rpartition(".ffn.")[2] for n in left} <= {
        "gate.weight", "gate.tid2eid", "compressor.ape", "indexer.compressor.ape",
        *(n for n in matrices if "hc_" in n)}


@pytest.mark.parametrize("text", ["", "int3", "experts", "experts=", "experts=int3", "foo=bf16",
                                  "experts=bf16,experts=fp8", "experts=bf16,,", "=bf16"])
def test_no_policy(text) -> None:
    with pytest.raises(FirstlightError, match="F306"):
        quantizer(text, ROLES)


def test_policies() -> None:
    assert quantizer("shipped", ROLES) is None
    assert quantizer("experts=shipped", ROLES) is None
    one, named = quantizer("fp8", ROLES), quantizer(",".join(f"{r}=fp8" for r in COMMON), ROLES)
    assert one == named


def states(module: Module) -> dict[str, StateType]:
    return {v.loc: v.type for v in module["score"].args if isinstance(v.type, StateType)}


@pytest.mark.parametrize("numerics", ["float", "released"])
def test_states_change_by_role(numerics) -> None:
    """Fused or not: rows of the window are rounded for the queries of the same call, too."""
    config = parse_config(random_config(3, layers="wchch", head_dim=24, qk_rope_head_dim=8,
                                        index_head_dim=32), "here")
    step = quantizer("kv=released,index-keys=released", ROLES, config.qk_rope_head_dim,
                     numerics == "released")
    assert step is not None
    (again,) = parse(spell([step]))
    assert again == step
    module = run_pipeline(trace_model(config, config_types(config), numerics))
    after = step.run(module)
    verify(after)
    for name, type_ in states(after).items():
        keys = GROUP_FP4 if numerics == "released" else KEYS_FP4
        codec = keys if "indexer" in name else kv_fp8(8)
        codec = "f32" if type_.kind == "partial" else codec
        assert type_ == replace(states(module)[name], codec=codec), name
    rings = [op for f in after for op in f.ops
             if op.name == "ring_write" and op.operands[0].type.codec != "f32"]
    assert len(rings) == sum(op.name == "round_rows" for f in after for op in f.ops)
    assert bool(rings) == (numerics == "released")


def test_a_chunk_is_seen_as_the_ring_holds_it() -> None:
    """The first query sees its own row rounded, whether the op is one or its parts."""
    codec, random = kv_fp8(8), np.random.default_rng(1)
    ring, pairs = StateType("ring", 24, 4, codec=codec), 4
    kv, q = (TensorType((1, 3, *rest)) for rest in ((24,), (2, 24)))
    types = (q, kv, TensorType((2,)), TensorType((pairs,)), ring, TensorType((1,), "i32"),
             TensorType((1,), "i32"))
    module = Module().with_function(trace("main", lambda *a: emit(
        a[0].builder, "hybrid_attention", *a, scale=0.2), types))
    args = [random.standard_normal((1, 3, 2, 24), np.float32),
            random.standard_normal((1, 3, 24), np.float32), np.zeros(2, np.float32),
            np.ones(pairs, np.float32), np.zeros((1, 4, 24), np.float32),
            np.zeros(1, np.int32), np.zeros(1, np.int32)]
    sizes = {"B": 1, "S": 3, "C": 8}
    o, rows = run(module, "main", args, sizes)
    assert not np.array_equal(rows[0, :3], args[1][0])
    parts = run(decompose(module), "main", args, sizes)
    np.testing.assert_array_equal(parts[1], rows)
    np.testing.assert_allclose(parts[0], o, atol=2e-6)
    args[1] = rows[:, :3]                               # what is rounded already changes nothing
    np.testing.assert_array_equal(run(module, "main", args, sizes)[0], o)


def test_state_codecs_are_checked() -> None:
    with pytest.raises(FirstlightError, match="F301"):
        parse("quantize{states=*.window=fp8e5m2}")
    for text in ("kv=fp8", "index-keys=mxfp4", "attn=released"):
        with pytest.raises(FirstlightError, match="F306"):
            quantizer(text, ROLES)
