"""Numerics `released`: every row of the table of specification section 7, on recorded values.

A model is run once with all operands of all ops recorded. What the roundings give is computed here
a second time, from the specification's formulas and tables of every representable number.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from firstlight.frontend.interpret import InterpreterModel
from firstlight.ir.core import Op
from firstlight.ir.interpreter import Interpreter
from firstlight.ir.parser import parse
from firstlight.ir.types import BLOCK_FP8, GROUP_FP4
from firstlight.ir.verifier import verify
from firstlight.runtime.errors import FirstlightError
from support.random_models import random_config, random_tensors, token_ids, write_checkpoint

ROUNDINGS = {"round_bf16", "round_e4m3", "round_e2m1", "hadamard"}
E4M3 = np.array([m * 2.0**-9 for m in range(8)]
                + [(8 + m) * 2.0 ** (e - 10) for e in range(1, 16) for m in range(8)][:-1])
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
SHAPES = {
    # K of 160 is one block of 128 and a short one; keys of 24 + 8 are shorter than a block of 64
    "short": dict(layers="wchc", hidden_size=160, moe_intermediate_size=32, head_dim=32,
                  qk_rope_head_dim=8, index_head_dim=16, num_hash_layers=1, q_lora_rank=24),
    # keys of 144 + 16: two blocks of 64 and a short one; index keys of two blocks of 32
    "long": dict(layers="ch", hidden_size=64, moe_intermediate_size=160, head_dim=160,
                 qk_rope_head_dim=16, index_head_dim=64, num_hash_layers=0, q_lora_rank=130),
    # rope values only: nothing of a key is rounded to e4m3
    "rope": dict(layers="c", head_dim=16, qk_rope_head_dim=16, index_head_dim=32),
}


def nearest(x: np.ndarray, magnitudes: np.ndarray) -> np.ndarray:
    """The nearest of the magnitudes by searching them all; ties go to the even code."""
    gap = np.abs(np.abs(x)[..., None] - magnitudes)
    even, odd = gap[..., 0::2], gap[..., 1::2]
    place = np.where(even.min(-1) <= odd.min(-1), 2 * even.argmin(-1), 2 * odd.argmin(-1) + 1)
    return np.copysign(magnitudes[place], x)


def by_the_book(x: np.ndarray, block: int, magnitudes: np.ndarray, floor: float) -> np.ndarray:
    """Section 7 block by block: amax, scale from the float's bits, clamp, nearest code."""
    out, top = np.empty_like(x), magnitudes[-1]
    for start in range(0, x.shape[-1], block):
        part = x[..., start:start + block]
        amax = np.maximum(np.abs(part).max(-1, keepdims=True), np.float32(floor))
        bits = (amax / np.float32(top)).view(np.uint32).astype(np.int64)
        scale = 2.0 ** ((bits >> 23) - 127 + ((bits & 0x7FFFFF) != 0))
        out[..., start:start + block] = nearest(np.clip(part / scale, -top, top),
                                                magnitudes) * scale
    return out


def e4m3(x: np.ndarray, block: int) -> np.ndarray:
    return by_the_book(x, block, E4M3, 1e-4)


def e2m1(x: np.ndarray, block: int) -> np.ndarray:
    return by_the_book(x, block, E2M1, 6 * 2.0**-126)


def bf16(x: np.ndarray) -> np.ndarray:
    """Eight significant bits, ties to even (values here are far from the subnormals)."""
    fraction, exponent = np.frexp(x.astype(np.float64))
    return np.ldexp(np.rint(np.ldexp(fraction, 8)), exponent - 8).astype(np.float32)


def sylvester(n: int) -> np.ndarray:
    h = np.ones((1, 1))
    while len(h) < n:
        h = np.block([[h, h], [h, -h]])
    return h * n**-0.5


class Recorder(Interpreter):
    """Keeps (op, operands, results) of all that runs."""

    def op(self, op: Op, args: list[np.ndarray]) -> list[np.ndarray]:
        out = super().op(op, args)
        self.seen.append((op, args, out))
        return out


class Run:
    """One prefill, recorded."""

    def __init__(self, folder: Path, length: int = 21) -> None:
        self.model = InterpreterModel(folder, context=64, numerics="released")
        self.config = json.loads((folder / "config.json").read_text())
        session = self.model.session()
        ids = np.array([token_ids(self.config, length, 1)], np.int32)
        known = {"tokens": ids, "pos": session.pos, "slot": session.slot}
        known |= self.model.weights | session.states
        recorder = Recorder(self.model.module, {"B": 1, "S": length, "C": 64})
        recorder.seen = []
        results = recorder.function(self.model.module["score"],
                                    [known[v.loc] for v in self.model.args])
        self.seen, self.logits = recorder.seen, results[0]
        self.states = dict(zip(session.states, results[1:], strict=True))

    def of(self, name: str, loc: str = "") -> Iterator[tuple]:
        """Ops of a name, at a module path; at least one."""
        found = [(op, args, out[0]) for op, args, out in self.seen
                 if op.name == name and op.loc.endswith(loc)]
        assert found, f"no {name} at {loc}"
        yield from found


@pytest.fixture(scope="module", params=SHAPES)
def run(request, tmp_path_factory) -> Run:
    """A random model of each shape, with released codecs."""
    config = random_config(7, csa=4, hca=8, **SHAPES[request.param])
    folder = tmp_path_factory.mktemp(request.param) / "checkpoint"
    return Run(write_checkpoint(folder, config, random_tensors(config, 3)))


def is_bf16(x: np.ndarray) -> bool:
    return np.array_equal(x, bf16(x))


def test_each_rounding_is_by_the_book(run):
    """Code by code, on everything that this run rounds."""
    for op, (x,), y in run.of("round_bf16"):
        np.testing.assert_array_equal(y, bf16(x), err_msg=op.loc)
    for op, (x,), y in run.of("round_e2m1"):
        np.testing.assert_array_equal(y, e2m1(x, op.attrs["block"]), err_msg=op.loc)
    for op, (x,), y in run.of("round_e4m3"):
        np.testing.assert_array_equal(y, e4m3(x, op.attrs["block"]), err_msg=op.loc)
    for _, (x,), y in run.of("hadamard"):
        np.testing.assert_allclose(y, x @ sylvester(x.shape[-1]), rtol=0,
                                   atol=1e-6 * np.abs(x).max() * x.shape[-1] ** 0.5)


def test_inputs_of_fp8_and_fp4_matrices(run):
    """Blocks of 128 of the inner axis, from bf16 values; what is stored otherwise takes bf16."""
    codecs = set()
    products = [*run.of("linear"), *run.of("expert_linear")]
    for op, (x, *_), _ in products:
        codec = op.operands[1].type.codec
        codecs.add(codec)
        if codec in (BLOCK_FP8, GROUP_FP4):
            np.testing.assert_array_equal(x, e4m3(x, 128), err_msg=op.loc)
        elif codec == "bf16":
            assert is_bf16(x), op.loc
    assert {BLOCK_FP8, "bf16"} <= codecs
    rounded = [(op, x) for op, (x,), _ in run.of("round_e4m3") if op.attrs["block"] == 128]
    assert rounded
    assert all(is_bf16(x) for _, x in rounded)


def test_results_of_matrices(run):
    """bf16, but for the compressors, the router, the mHC and the vocabulary head."""
    exact = ("compressor.wkv", "compressor.wgate", "gate", "head", "hc_attn", "hc_ffn", "hc_head")
    read = {v: op.name for op, _, _ in run.seen for v in op.operands}
    for name in ("linear", "expert_linear", "group_linear"):
        for op, _, _ in run.of(name):
            is_exact = op.loc.endswith(exact)
            assert (read.get(op.result) == "round_bf16") != is_exact, op.loc


def test_wo_a_takes_what_attention_gives(run):
    """bf16, not e4m3, even where the weight is stored as fp8."""
    for op, (x, _), _ in run.of("group_linear", "wo_a"):
        assert op.operands[1].type.codec == BLOCK_FP8
        assert is_bf16(x)
        assert not np.array_equal(x, e4m3(x, 128))


def test_keys_in_the_states(run):
    """Window and compressed keys: e4m3 in blocks of 64, rope values bf16; index keys: fp4."""
    kept = run.config["head_dim"] - run.config["qk_rope_head_dim"]
    blocks = {op.attrs["block"] for op, _, _ in run.of("round_e2m1")}
    blocks |= {op.attrs["block"] for op, _, _ in run.seen if op.name == "round_e4m3"
               and op.loc in ("attn", "attn.compressor")}
    assert blocks == ({32, 64} if kept else {32})
    kinds = set()
    for name, state in run.states.items():
        if name.endswith("partial"):
            continue
        assert state.any(), name
        kinds.add(name.split(".", 3)[-1])
        if ".indexer." in name:
            np.testing.assert_array_equal(state, e2m1(state, 32))
            continue
        assert is_bf16(state), name
        if kept:
            np.testing.assert_array_equal(state[..., :kept], e4m3(state[..., :kept], 64), name)
        assert not np.array_equal(state[..., kept:], e4m3(state[..., kept:], 64)), name
    assert {"window", "compressor.entries", "indexer.compressor.entries"} <= kinds


def test_index_queries_are_rounded_after_rope_and_hadamard(run):
    for _, (x,), y in run.of("hadamard"):
        assert is_bf16(x)
        assert any(np.array_equal(bf16(y), z) for _, (z,), _ in run.of("round_e2m1"))


def test_compressors_stay_float32_until_the_entry_is_pooled(run):
    """Partial rows are not rounded, what is pooled of them is, before its norm."""
    partial = [state for name, state in run.states.items() if name.endswith("partial")]
    assert partial
    assert not any(is_bf16(state) for state in partial)
    producers = {v: (op, args) for op, args, _ in run.seen for v in op.results}
    for op, _, _ in run.of("entries_append"):
        names, value = [], op.operands[1]
        while value in producers and producers[value][0].name != "softmax":
            names.append(producers[value][0].name)
            value = producers[value][0].operands[0]
        pooled = names.index("reduce_sum", names.index("rsqrt") if "rsqrt" in names else 0)
        assert names[pooled - 1] == "round_bf16"
        assert names[pooled:] == ["reduce_sum", "mul"]


def test_probabilities(run):
    """bf16 in the product with the values, float32 in the sum that divides."""
    products = [(op, x) for op, (x, _), _ in run.of("matmul", "attn")
                if not op.attrs["transpose_b"] and op.loc == "attn"]
    assert products
    for op, x in products:
        assert is_bf16(x)
        assert ((x >= 0) & (x <= 1)).all(), op.loc
    for _, (x,), _ in run.of("reduce_sum", "attn"):
        assert not is_bf16(x)


def test_streams_and_what_lies_between_ops(run):
    """Streams after every sublayer and the normed input of every sublayer are bf16."""
    for op, args, results in run.seen:
        if op.name == "call":
            assert is_bf16(args[0]), op.loc
            if "head" not in op.attrs["callee"]:
                assert is_bf16(results[0]), op.loc
    for op, (x, *_), _ in [*run.of("linear", "compressor.wkv"), *run.of("linear", "ffn.gate")]:
        assert is_bf16(x), op.loc
    assert not is_bf16(run.logits)


def test_what_norms_and_rope_and_streams_take(run):
    """The values on which norms, the inverse rope and the mixing of streams work are bf16."""
    means = {id(x[0]) for _, x, _ in run.of("reduce_mean")}
    squared = [(op, args[0]) for op, args, y in run.of("mul") if id(y) in means]
    paths = {op.loc for op, _ in squared}
    assert paths >= {"attn", "attn_norm", "ffn_norm", "norm", "hc_attn", "attn.compressor"}
    for op, x in squared:
        assert is_bf16(x), op.loc
    read = {v: op.name for op, _, _ in run.seen for v in op.operands}
    outputs = [op for op, _, _ in run.of("div", "attn") if op.loc == "attn"]
    assert outputs
    assert {read[op.result] for op in outputs} == {"round_bf16"}
    for site in ("hc_attn", "hc_ffn"):
        mixed = [args[1] for _, args, _ in run.of("mul", site) if args[1].shape[-2:-1] == (1,)]
        assert len(mixed) == len(run.config["layer_types"])
        assert all(is_bf16(y) for y in mixed)


def test_experts_are_weighted_before_w2(run):
    """f * g_e is rounded to bf16 and then to e4m3; the sum over experts is of what w2 gives."""
    limit = np.float32(run.config["swiglu_limit"])
    by_loc = {name: list(run.of("expert_linear", f"experts.{name}")) for name in ("w1", "w3", "w2")}
    routes = [y for _, (_, _), y in run.of("mul", "ffn") if y.ndim == 3 and
              y.shape[-1] == run.config["num_experts_per_tok"]]
    for (_, _, gate), (_, _, up), (op, (f, _, _), _), g in zip(
            by_loc["w1"], by_loc["w3"], by_loc["w2"], routes, strict=True):
        gate, up = np.minimum(bf16(gate), limit), np.clip(bf16(up), -limit, limit)
        want = bf16((gate / (1 + np.exp(-gate)) * up * g[..., None]).astype(np.float32))
        if op.operands[1].type.codec in (BLOCK_FP8, GROUP_FP4):
            want = e4m3(want, 128)
        # float32 sigmoid in another form may move a value across a rounding boundary
        assert (f != want).mean() < 0.01
        np.testing.assert_allclose(f, want, rtol=0.13, atol=1e-6)


def test_modules_verify_print_and_parse(run):
    verify(run.model.module)
    text = str(run.model.module)
    assert str(parse(text)) == text


def test_numerics_float_rounds_nothing(tmp_path):
    config = random_config(7, csa=4, hca=8, **SHAPES["short"])
    model = InterpreterModel(write_checkpoint(tmp_path / "c", config, random_tensors(config, 3)))
    assert {op.name for f in model.module for op in f.ops}.isdisjoint(ROUNDINGS)


def test_unknown_numerics_are_refused(tiny_checkpoint):
    with pytest.raises(FirstlightError, match="there are no numerics 'exact'"):
        InterpreterModel(tiny_checkpoint, numerics="exact")


@pytest.mark.parametrize("codecs", ["bf16", "f32", "fp8"])
def test_other_codecs(codecs, tmp_path):
    """Inputs are rounded for fp8 and fp4 matrices only; the rest of the table holds everywhere."""
    config = random_config(5, csa=4, hca=8, **SHAPES["short"])
    tensors = random_tensors(config, 3, codecs)
    run = Run(write_checkpoint(tmp_path / "c", config, tensors), 9)
    blocks = {op.attrs["block"] for op, _, _ in run.of("round_e4m3")}
    assert blocks == ({64, 128} if codecs == "fp8" else {64})
    assert np.isfinite(run.logits).all()


def nats(logits: np.ndarray, targets: list[int]) -> float:
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    return float((np.log(np.exp(wide).sum(-1)) - wide[np.arange(len(targets)), targets]).mean())


def test_trained_example(tiny_folder):
    """Loss as in float; prefill, chunks and decode alike in the median, not in the maximum."""
    text = json.loads((tiny_folder / "validation_tokens.json").read_text())["sequences"][0][:257]
    released, exact = (InterpreterModel(tiny_folder / "checkpoint", 320, numerics)
                       for numerics in ("released", "float"))
    ours, theirs = (m.session().prefill(text[:-1], all_logits=True) for m in (released, exact))
    # measured: 3.7313 and 3.7258 nats, median of the rows' largest differences 0.22
    assert abs(nats(ours, text[1:]) - nats(theirs, text[1:])) < 0.03
    assert 0.01 < np.median(np.abs(ours - theirs).max(-1)) < 0.5
    assert (ours.argmax(-1) == theirs.argmax(-1)).mean() > 0.93
    session = released.session()
    rows = [session.prefill(text[:57], all_logits=True), session.prefill(text[57:70], True)]
    rows += [session.decode(token)[None] for token in text[70:80]]
    assert np.median(np.abs(np.concatenate(rows) - ours[:80]).max(-1)) < 0.5
