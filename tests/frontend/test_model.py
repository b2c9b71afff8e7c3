"""The model definition as a module: what is traced, how often, under which names and types."""

import numpy as np
import pytest

from firstlight.frontend.checkpoint import read_checkpoint
from firstlight.frontend.config import ModelConfig, parse_config
from firstlight.frontend.interpret import InterpreterModel
from firstlight.frontend.model import config_types, trace_model, weight_types
from firstlight.ir import dims
from firstlight.ir.core import Module, census
from firstlight.ir.interpreter import run
from firstlight.ir.parser import parse
from firstlight.ir.registry import TABLE
from firstlight.ir.types import BLOCK_FP8, GROUP_FP4, StateType, TensorType
from firstlight.ir.verifier import verify
from support.random_models import random_config, random_tensors, token_ids, write_checkpoint
from support.sparse import FLASH, PRO

RELEASED = {"flash": FLASH, "pro": PRO}
FUNCTIONS = {
    "flash": ["sinkhorn", "attn_window", "ffn_hash", "attn_csa_4", "attn_hca_128", "ffn", "head",
              "score", "head_last", "prefill"],
    "pro": ["sinkhorn", "attn_hca_128", "ffn_hash", "attn_csa_4", "ffn", "head", "score",
            "head_last", "prefill"],
}


def traced(raw: dict, numerics: str = "float") -> tuple[ModelConfig, Module]:
    """From the config alone, weights stored as in the released checkpoints."""
    config = parse_config(raw)
    return config, trace_model(config, config_types(config), numerics)


@pytest.fixture(scope="module", params=RELEASED)
def released(request) -> tuple[str, ModelConfig, Module]:
    """Flash and Pro."""
    return request.param, *traced(RELEASED[request.param])


def test_layer_kinds_are_traced_once(released):
    """Functions per kind; two calls a layer, so that depth costs two ops a layer."""
    name, config, module = released
    assert list(module.functions) == FUNCTIONS[name]
    calls = 2 * config.num_hidden_layers + 1
    assert census(module["score"]) == {"broadcast": 1, "call": calls, "embedding": 1, "reshape": 1}
    assert census(module["prefill"])["call"] == calls
    called = [op.attrs["callee"] for op in module["score"].ops if op.name == "call"]
    assert called.count("attn_csa_4") == {"flash": 21, "pro": 30}[name]
    assert called.count("attn_hca_128") == {"flash": 20, "pro": 31}[name]
    assert called.count("attn_window") == {"flash": 2, "pro": 0}[name]
    assert called.count("ffn_hash") == 3


def test_a_few_hundred_ops(released):
    """No function beyond 400; without the second entry, less than 1100 in all."""
    _, _, module = released
    sizes = {f.name: len(f.ops) for f in module}
    assert max(sizes.values()) <= 400
    assert sum(n for name, n in sizes.items() if name not in ("head_last", "prefill")) <= 1100


def test_depth_costs_two_calls_a_layer():
    """Twice the layers, the same functions."""
    half = {"num_hidden_layers": 31, "compress_ratios": [*PRO["compress_ratios"][:31], 0]}
    _, short = traced(PRO | half)
    _, long = traced(PRO)
    assert list(short.functions) == list(long.functions)
    assert {f.name: len(f.ops) for f in long} == {
        f.name: len(f.ops) + (60 if f.name in ("score", "prefill") else 0) for f in short}


@pytest.mark.parametrize("numerics", ["float", "released"])
@pytest.mark.parametrize("name", RELEASED)
def test_only_primitives(name, numerics):
    """Composites appear because a pass recognises them, never because the model says so."""
    _, module = traced(RELEASED[name], numerics)
    assert [op.name for f in module for op in f.ops if TABLE[op.name].composite] == []
    verify(module)
    text = str(module)
    assert str(parse(text)) == text
    assert parse(text).hash == module.hash == traced(RELEASED[name], numerics)[1].hash


PATHS = {
    "embed", "head", "norm", "hc_head", "sinkhorn", "hc_attn", "hc_ffn", "attn_norm", "ffn_norm",
    "attn", "attn.wq_a", "attn.wq_b", "attn.wkv", "attn.wo_a", "attn.wo_b", "attn.compressor",
    "attn.compressor.wkv", "attn.compressor.wgate", "attn.indexer", "attn.indexer.wq_b",
    "attn.indexer.weights_proj", "attn.indexer.compressor", "attn.indexer.compressor.wkv",
    "attn.indexer.compressor.wgate", "ffn", "ffn.gate", "ffn.experts", "ffn.experts.w1",
    "ffn.experts.w2", "ffn.experts.w3", "ffn.shared_experts", "ffn.shared_experts.w1",
    "ffn.shared_experts.w2", "ffn.shared_experts.w3",
}


def test_every_value_has_a_module_path(released):
    """Relative to the layer in a body; layers and globals in the entries."""
    _, config, module = released
    layers = {f"layers.{i}" for i in range(config.num_hidden_layers)}
    for function in module:
        paths = {op.loc for op in function.ops}
        assert "" not in paths
        assert paths <= PATHS | layers
        assert all(v.loc == op.loc for op in function.ops for v in op.results)
        assert all(arg.loc for arg in function.args) or function.name == "sinkhorn"
    assert {op.loc for f in module for op in f.ops} == PATHS | layers
    linears = [op for f in module for op in f.ops if op.name in ("linear", "expert_linear",
                                                                "group_linear")]
    for op in linears:
        weight = op.operands[1].loc
        assert weight in (f"{op.loc}.weight", f"{op.loc}_fn"), weight


def test_entries(released):
    """Inputs, weights of all layers in the names of the checkpoint, states; logits and states."""
    _, config, module = released
    b, s, v = dims.B, dims.S, config.vocab_size
    i32 = lambda *shape: TensorType(shape, "i32")  # noqa: E731
    for name, inputs, rows in (
            ("score", {"tokens": i32(b, s), "pos": i32(b), "slot": i32(b)}, s),
            ("prefill", {"tokens": i32(b, s), "pos": i32(b), "slot": i32(b), "last": i32(b)}, 1)):
        function = module[name]
        assert {a.loc: a.type for a in function.args[:len(inputs)]} == inputs
        rest = {a.loc: a.type for a in function.args[len(inputs):]}
        weights = {n: t for n, t in rest.items() if isinstance(t, TensorType)}
        assert weights == config_types(config)
        states = [t for t in rest.values() if isinstance(t, StateType)]
        assert [r.type for r in function.results] == [TensorType((b, rows, v)), *states]


def test_states_of_each_kind(released):
    """Section 6.1: a ring everywhere, entries and partial blocks where there is a compressor."""
    _, config, module = released
    states = {a.loc: a.type for a in module["score"].args if isinstance(a.type, StateType)}
    c, ci, n = config.head_dim, config.index_head_dim, config.sliding_window
    want = {}
    for i, layer in enumerate(config.layers):
        p, m = f"layers.{i}.attn.", layer.ratio
        want[f"{p}window"] = StateType("ring", c, n)
        if layer.kind == "hca":
            want[f"{p}compressor.partial"] = StateType("partial", 2 * c, m, m)
        if layer.kind == "csa":
            want[f"{p}compressor.partial"] = StateType("partial", 4 * c, 2 * m, m)
            want[f"{p}indexer.compressor.partial"] = StateType("partial", 4 * ci, 2 * m, m)
            want[f"{p}indexer.compressor.entries"] = StateType("entries", ci, ratio=m)
        if layer.kind != "window":
            want[f"{p}compressor.entries"] = StateType("entries", c, ratio=m)
    assert states == want
    growing = sum(t.nbytes(1 << 20) for t in states.values() if t.kind == "entries") / (1 << 20)
    csa, hca = (sum(layer.kind == k for layer in config.layers) for k in ("csa", "hca"))
    assert growing == csa * (512 + 128) * 4 / 4 + hca * 512 * 4 / 128     # 6.5, in float32


def test_ratios_and_codecs_are_data():
    """Two CSA ratios are two functions; a layer stored otherwise is a third."""
    raw = random_config(1, layers="ccc", csa=4)
    raw["compress_ratios"] = [4, 2, 4, 0]
    config = parse_config(raw)
    types = config_types(config)
    names = lambda types: {f for f in trace_model(config, types).functions  # noqa: E731
                           if f.startswith("attn")}
    assert names(types) == {"attn_csa_4", "attn_csa_2"}
    changed = types["layers.2.attn.wq_a.weight"]
    assert changed.codec == BLOCK_FP8
    other = types | {"layers.2.attn.wq_a.weight": TensorType(changed.shape, "f32", "bf16")}
    assert names(other) == {"attn_csa_4", "attn_csa_2", "attn_csa_4_1"}


def test_types_of_a_checkpoint_are_those_of_its_config(tmp_path):
    """Where it is stored as released."""
    config = random_config(0, hidden_size=64, moe_intermediate_size=32)
    folder = write_checkpoint(tmp_path / "c", config, random_tensors(config, 0))
    checkpoint = read_checkpoint(folder)
    found = weight_types(checkpoint)
    assert found == config_types(checkpoint.config)
    assert {t.codec for t in found.values()} >= {BLOCK_FP8, GROUP_FP4, "bf16", "f32"}


def test_prefill_gives_the_row_of_last(tmp_path):
    """The entry `prefill` is row `last` of the entry `score`."""
    config = random_config(4, layers="wch", hc_sinkhorn_iters=2)
    model = InterpreterModel(write_checkpoint(tmp_path / "c", config, random_tensors(config, 4)))
    session, size = model.session(2), {"B": 2, "S": 9, "C": model.context}
    tokens = np.array([token_ids(config, 9, seed) for seed in (1, 2)], np.int32)
    known = {"tokens": tokens, "pos": session.pos, "slot": session.slot,
             "last": np.array([8, 3], np.int32)} | model.weights | session.states
    every, one = (run(model.module, name, [known[a.loc] for a in model.module[name].args], size)
                  for name in ("score", "prefill"))
    assert one[0].shape == (2, 1, config["vocab_size"])
    np.testing.assert_allclose(one[0][:, 0], every[0][[0, 1], [8, 3]], atol=2e-5)
    for a, b in zip(every[1:], one[1:], strict=True):
        np.testing.assert_array_equal(a, b)
