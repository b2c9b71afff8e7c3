"""Random DeepSeek-V4 models for tests: a config.json and the tensors of a released checkpoint.

The weights are shaped like real ones where it matters: outlier channels, hot expert rows, sinks of
which some dominate, position biases, router biases, distinct experts in hash tables, mHC base and
scale away from their initial values, scales that differ from block to block. Logits come out at
magnitude 3 to 10. numpy only, and bit-stable: values come from raw PCG64 words by integer
arithmetic, so no release of numpy and no CPU's `log` can move them.
"""

import random
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from support.checkpoint_writer import write_checkpoint
from support.stored import Stored, dequantise, digest, store_bf16, store_fp4, store_fp8

__all__ = [
    "CSA",
    "HCA",
    "WINDOW",
    "Stored",
    "dequantise",
    "digest",
    "random_config",
    "random_tensors",
    "token_ids",
    "write_checkpoint",
]

WINDOW = "sliding_attention"
CSA = "compressed_sparse_attention"
HCA = "heavily_compressed_attention"
_LETTERS = {"w": WINDOW, "c": CSA, "h": HCA}
Config = dict[str, Any]


def random_config(
    seed: int = 0,
    layers: str | None = None,
    csa: int | None = None,
    hca: int | None = None,
    yarn: bool | None = None,
    **fields: Any,
) -> Config:
    """A config.json in the released spelling, plus `layer_types` and `compress_rates`.

    layers: one letter per layer, `w` window, `c` CSA, `h` HCA ("wwchc" is the Flash pattern,
    "hhchc" the Pro pattern). csa, hca: the ratios. yarn: whether `rope_scaling` is there. Anything
    left out is drawn from `seed`; `fields` overrides any field of the file by its name.
    """
    r = random.Random(seed)
    pick = r.choice
    drawn_layers = pick(["wwchc", "hhchc", "wchch", "w", "cc", "hh", "ch"])
    drawn_csa, drawn_hca, drawn_yarn = pick([2, 4, 8]), pick([8, 16]), pick([True, False])
    heads = pick([2, 4, 6, 8])
    experts = pick([3, 4, 6, 8, 16])
    rope = pick([4, 8, 16])
    drawn: Config = {
        "vocab_size": pick([64, 100, 256, 509]),
        "hidden_size": pick([32, 48, 72, 96, 128]),
        "num_attention_heads": heads,
        "head_dim": rope * pick([1, 2, 4]),
        "qk_rope_head_dim": rope,
        "q_lora_rank": pick([24, 32, 50, 64]),
        "o_groups": pick([g for g in range(1, heads + 1) if heads % g == 0]),
        "o_lora_rank": pick([8, 20, 32]),
        "sliding_window": pick([4, 7, 16, 24]),
        "index_n_heads": pick([16, 24, 32]),
        "index_head_dim": rope * pick([1, 2]),
        "index_topk": pick([2, 5, 8]),
        "hc_mult": pick([2, 3, 4]),
        "hc_sinkhorn_iters": pick([2, 3, 20]),
        "hc_eps": pick([1e-6, 1e-3]),
        "n_routed_experts": experts,
        "num_experts_per_tok": pick([a for a in (1, 2, 3, 6, 8) if a <= experts]),
        "moe_intermediate_size": pick([16, 32, 40, 64]),
        "num_hash_layers": pick([0, 1]),
        "routed_scaling_factor": pick([1.0, 1.5, 2.5]),
        "swiglu_limit": pick([0.7, 3.0, 10.0]),
        "rms_norm_eps": pick([1e-6, 1e-5]),
        "rope_theta": 10000,
        "compress_rope_theta": pick([40000, 160000]),
    }
    letters = drawn_layers if layers is None else layers
    csa = drawn_csa if csa is None else csa
    hca = drawn_hca if hca is None else hca
    scaling = {
        "type": "yarn",
        "factor": 16,
        "original_max_position_embeddings": pick([64, 256]),
        "beta_fast": 32,
        "beta_slow": 1,
    }
    config: Config = {
        "architectures": ["DeepseekV4ForCausalLM"],
        "model_type": "deepseek_v4",
        **drawn,
        "num_hidden_layers": len(letters),
        "num_key_value_heads": 1,
        "compress_ratios": [{"w": 0, "c": csa, "h": hca}[x] for x in letters] + [0],
        "layer_types": [_LETTERS[x] for x in letters],
        "compress_rates": {CSA: csa, HCA: hca},
        "n_shared_experts": 1,
        "scoring_func": "sqrtsoftplus",
        "topk_method": "noaux_tc",
        "norm_topk_prob": True,
        "rope_scaling": scaling if (drawn_yarn if yarn is None else yarn) else None,
        "max_position_embeddings": 4096,
        "num_nextn_predict_layers": 1,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    } | fields
    _check(config)
    return config


def _check(config: Config) -> None:
    head, rope = config["head_dim"], config["qk_rope_head_dim"]
    assert rope % 2 == 0
    assert rope <= min(head, config["index_head_dim"])
    assert int(head * (rope / head)) == rope, "transformers would truncate the rope dims"
    assert config["num_attention_heads"] % config["o_groups"] == 0
    assert config["num_experts_per_tok"] <= config["n_routed_experts"]


class _Spec(NamedTuple):
    name: str
    shape: tuple[int, ...]
    store: str  # in the released layout: bf16, f32, fp8, expert or i64
    law: str
    gain: float = 1.0


def _block_specs(config: Config, p: str, kind: str, ratio: int, hashed: bool) -> Iterator[_Spec]:
    """Every tensor of one block, prefix `p`, in the released names of specification 3.1."""
    d, dq, h = config["hidden_size"], config["q_lora_rank"], config["num_attention_heads"]
    c, g, do = config["head_dim"], config["o_groups"], config["o_lora_rank"]
    n, e, i = config["hc_mult"], config["n_routed_experts"], config["moe_intermediate_size"]
    hi, ci = config["index_n_heads"], config["index_head_dim"]
    for site in ("attn", "ffn"):
        yield _Spec(f"{p}{site}_norm.weight", (d,), "bf16", "norm")
        yield _Spec(f"{p}hc_{site}_fn", ((2 + n) * n, n * d), "f32", "matrix")
        yield _Spec(f"{p}hc_{site}_base", ((2 + n) * n,), "f32", "hc_base")
        yield _Spec(f"{p}hc_{site}_scale", (3,), "f32", "hc_scale")
    yield _Spec(f"{p}attn.wq_a.weight", (dq, d), "fp8", "matrix")
    yield _Spec(f"{p}attn.q_norm.weight", (dq,), "bf16", "norm")
    yield _Spec(f"{p}attn.wq_b.weight", (h * c, dq), "fp8", "matrix")
    yield _Spec(f"{p}attn.wkv.weight", (c, d), "fp8", "matrix")
    yield _Spec(f"{p}attn.kv_norm.weight", (c,), "bf16", "norm", 1.3)
    yield _Spec(f"{p}attn.attn_sink", (h,), "f32", "sink")
    yield _Spec(f"{p}attn.wo_a.weight", (g * do, h * c // g), "fp8", "matrix", 1.5)
    yield _Spec(f"{p}attn.wo_b.weight", (d, g * do), "fp8", "matrix", 1.5)
    if kind != WINDOW:
        wide = 2 if kind == CSA else 1
        yield from _compressor_specs(f"{p}attn.compressor.", d, wide * c, c, ratio)
    if kind == CSA:
        q = f"{p}attn.indexer."
        yield _Spec(f"{q}wq_b.weight", (hi * ci, dq), "fp8", "matrix")
        yield _Spec(f"{q}weights_proj.weight", (hi, d), "bf16", "matrix")
        yield from _compressor_specs(f"{q}compressor.", d, 2 * ci, ci, ratio)
    yield _Spec(f"{p}ffn.gate.weight", (e, d), "bf16", "matrix")
    if hashed:
        shape = (config["vocab_size"], config["num_experts_per_tok"])
        yield _Spec(f"{p}ffn.gate.tid2eid", shape, "i64", "table", e)
    else:
        yield _Spec(f"{p}ffn.gate.bias", (e,), "f32", "bell", 0.3)
    homes = {"shared_experts.": "fp8"} | {f"experts.{x}.": "expert" for x in range(e)}
    for home, store in homes.items():
        yield _Spec(f"{p}ffn.{home}w1.weight", (i, d), store, "hot_rows")
        yield _Spec(f"{p}ffn.{home}w3.weight", (i, d), store, "hot_rows")
        yield _Spec(f"{p}ffn.{home}w2.weight", (d, i), store, "matrix", 0.7)


def _compressor_specs(p: str, d: int, width: int, c: int, ratio: int) -> Iterator[_Spec]:
    yield _Spec(f"{p}wkv.weight", (width, d), "bf16", "matrix")
    yield _Spec(f"{p}wgate.weight", (width, d), "bf16", "matrix", 1.5)
    yield _Spec(f"{p}ape", (ratio, width), "f32", "bell", 0.7)
    yield _Spec(f"{p}norm.weight", (c,), "bf16", "norm", 1.3)


def _head_specs(config: Config, p: str) -> Iterator[_Spec]:
    d, n = config["hidden_size"], config["hc_mult"]
    yield _Spec(f"{p}norm.weight", (d,), "bf16", "norm")
    yield _Spec(f"{p}hc_head_fn", (n, n * d), "f32", "matrix")
    yield _Spec(f"{p}hc_head_base", (n,), "f32", "bell", 1.0)
    yield _Spec(f"{p}hc_head_scale", (1,), "f32", "hc_scale")


def _specs(config: Config) -> Iterator[_Spec]:
    d, v = config["hidden_size"], config["vocab_size"]
    yield _Spec("embed.weight", (v, d), "bf16", "embed")
    yield _Spec("head.weight", (v, d), "bf16", "bell", 1.5 / d**0.5)
    yield from _head_specs(config, "")
    for layer, kind in enumerate(config["layer_types"]):
        hashed = layer < config["num_hash_layers"]
        ratio = config["compress_ratios"][layer]
        yield from _block_specs(config, f"layers.{layer}.", kind, ratio, hashed)
    for stage in range(config["num_nextn_predict_layers"]):
        p = f"mtp.{stage}."
        yield from _block_specs(config, p, WINDOW, 0, False)
        yield from _head_specs(config, p)
        for leaf in ("enorm", "hnorm"):
            yield _Spec(f"{p}{leaf}.weight", (d,), "bf16", "norm")
        for leaf in ("e_proj", "h_proj"):
            yield _Spec(f"{p}{leaf}.weight", (d, d), "fp8", "matrix")


class _Stream:
    """Random numbers of one tensor, from raw PCG64 words."""

    def __init__(self, seed: int, name: str) -> None:
        self.bits = np.random.PCG64(np.random.SeedSequence([seed, zlib.crc32(name.encode())]))

    def words(self, shape: tuple[int, ...]) -> np.ndarray:
        """uint64 of this shape."""
        return self.bits.random_raw(int(np.prod(shape))).astype(np.uint64).reshape(shape)

    def bell(self, shape: tuple[int, ...]) -> np.ndarray:
        """float32 with mean 0 and deviation 1: the sum of four 16-bit uniforms."""
        parts = self.words(shape).reshape(-1, 1).view(np.uint16).astype(np.int64).sum(-1)
        return ((parts - 131070) / 37837.2).astype(np.float32).reshape(shape)

    def rare(self, shape: tuple[int, ...], one_in: int) -> np.ndarray:
        """bool, true about once in `one_in`."""
        return self.words(shape) % np.uint64(one_in) == 0


def _matrix(r: _Stream, shape: tuple[int, ...], gain: float) -> np.ndarray:
    """Variance-preserving, with outliers, and louder and quieter 128 x 128 tiles if several."""
    w = r.bell(shape) * np.float32(gain / shape[1] ** 0.5)
    w = np.where(r.rare(shape, 500), w * 5, w)
    tiles = tuple(-(-side // 128) for side in shape)
    jitter = np.ldexp(np.float32(1), (r.words(tiles) % np.uint64(3)).astype(np.int64) - 1)
    spread = jitter.repeat(128, 0)[: shape[0]].repeat(128, 1)[:, : shape[1]]
    return (w * spread if max(tiles) > 1 else w).astype(np.float32)


def _draw(spec: _Spec, seed: int, config: Config, sink_shift: float) -> np.ndarray:
    r, shape = _Stream(seed, spec.name), spec.shape
    match spec.law:
        case "matrix":
            return _matrix(r, shape, spec.gain)
        case "hot_rows":  # pre-activations beyond a swiglu_limit of 10
            return _matrix(r, shape, spec.gain) * np.where(r.rare((shape[0], 1), 12), 6, 1)
        case "embed":
            return r.bell(shape) * np.where(r.rare((1, shape[1]), 24), 6, 1)
        case "norm":
            w = np.float32(spec.gain) * (1 + 0.2 * r.bell(shape))
            return np.where(r.rare(shape, 20), w * -2, w)
        case "sink":
            return 1.5 * r.bell(shape) + np.where(r.rare(shape, 4), 5, 0) + sink_shift
        case "hc_scale":
            return 0.6 + 0.3 * r.bell(shape)
        case "hc_base":
            n = config["hc_mult"]
            diagonal = np.concatenate((np.zeros(2 * n), 1.5 * np.eye(n).ravel()))
            return r.bell(shape) + diagonal
        case "table":
            keys = r.words((shape[0], int(spec.gain)))
            return np.argsort(keys, axis=1, kind="stable")[:, : shape[1]].astype(np.int64)
    return np.float32(spec.gain) * r.bell(shape)


def random_tensors(
    config: Config, seed: int, codecs: str = "released", sink_shift: float = 0.0
) -> dict[str, Stored]:
    """Released tensor names to stored tensors, `.scale` tensors included.

    codecs: "released" (FP8 matrices, FP4 experts where both inner dims are multiples of 32, else
    FP8 ones), "fp8" (the layout of the Base checkpoints), "bf16", "f16" or "f32" for everything.
    sink_shift is added to every attention sink: 8 makes them all dominate.
    """
    inner = (config["hidden_size"], config["moe_intermediate_size"])
    fp4 = codecs == "released" and all(side % 32 == 0 for side in inner)
    tensors: dict[str, Stored] = {}
    for spec in _specs(config):
        value = _draw(spec, seed, config, sink_shift)
        value = np.ascontiguousarray(value, np.int64 if spec.store == "i64" else np.float32)
        quantised = spec.store in ("fp8", "expert") and codecs in ("released", "fp8")
        if spec.store == "i64":
            tensors[spec.name] = Stored("I64", value)
        elif quantised:
            store = store_fp4 if fp4 and spec.store == "expert" else store_fp8
            tensors[spec.name], scale = store(value)
            tensors[spec.name.removesuffix("weight") + "scale"] = scale
        elif codecs == "f16":
            tensors[spec.name] = Stored("F16", value.astype(np.float16))
        elif codecs == "f32" or (spec.store == "f32" and codecs != "bf16"):
            tensors[spec.name] = Stored("F32", value)
        else:
            tensors[spec.name] = store_bf16(value)
    return tensors


def token_ids(config: Config, count: int, seed: int) -> list[int]:
    """`count` ids over the whole vocabulary, the same on every machine."""
    raw = np.random.PCG64(np.random.SeedSequence([seed, 0x1D5])).random_raw(count)
    return (raw % np.uint64(config["vocab_size"])).astype(int).tolist()
