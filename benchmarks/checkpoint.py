"""Write the bench checkpoint: random weights in the released FP8/FP4 layout, for speed only.

    python benchmarks/checkpoint.py --out build/bench/checkpoint [--config CONFIG] [--seed 0]

FP8 weights are `X.weight` and `X.scale` (one E8M0 for each 128x128 block), routed experts packed
FP4 with one E8M0 for 32 columns, the rest bf16 or float32. Weights are drawn so that activations
keep a sane scale; nothing is learned. The same configuration and seed give the same bytes. Needs
numpy only, and a few hundred MB less memory than the model has.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.ir.codecs import E4M3_MAX, encode_bf16, encode_e2m1, encode_e4m3
from firstlight.runtime.safetensors import SafetensorsWriter, TensorPlan

CONFIG = Path(__file__).with_name("bench_config.json")
DRAWS = 1 << 16
Array = NDArray[Any]
Fill = Callable[[np.random.Generator], Array]


@dataclass(frozen=True)
class Tensor:
    """One tensor of the file: how it is stored, and how it is drawn."""

    plan: TensorPlan
    fill: Fill


def write_checkpoint(config: Mapping[str, Any], out: Path, seed: int = 0) -> int:
    """Make `out` a checkpoint folder of one shard; returns the bytes of the shard."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tensors = list(model_tensors(config))
    with SafetensorsWriter(out / "model.safetensors", [t.plan for t in tensors]) as file:
        for number, tensor in enumerate(tensors):
            file.write(tensor.plan.name, tensor.fill(np.random.default_rng([seed, number])))
    assert file.written is not None
    return file.written.bytes


# -- how a tensor is drawn -------------------------------------------------------------------------
#
# Encoding 800 million normal numbers takes minutes; so 65,536 of them are encoded, and a tensor
# draws from those codes. `unit` is the standard deviation of values in units of the block's scale:
# a real block has its largest value just below the format's largest.

_tables: dict[tuple[str, float], Array] = {}


def _table(kind: str, unit: float) -> Array:
    """Codes of 65,536 normal numbers of standard deviation `unit` (pairs of them for fp4)."""
    if (kind, unit) not in _tables:
        draw = np.random.default_rng(0).standard_normal(2 * DRAWS).astype(np.float32)
        draw *= np.float32(unit)
        encode = {
            "fp8": lambda x: encode_e4m3(np.clip(x[:DRAWS], -E4M3_MAX, E4M3_MAX)),
            "fp4": encode_e2m1,
            "bf16": lambda x: encode_bf16(x[:DRAWS]),
        }[kind]
        _tables[kind, unit] = encode(draw)
    return _tables[kind, unit]


def _codes(kind: str, unit: float, shape: tuple[int, ...]) -> Fill:
    def fill(rng: np.random.Generator) -> Array:
        return _table(kind, unit)[rng.integers(0, DRAWS, shape, np.uint16)]

    return fill


def _split(deviation: float, most: float) -> tuple[float, int]:
    """deviation = unit * 2^exponent with unit in (most / 2, most], and the exponent's E8M0 code."""
    exponent = math.ceil(math.log2(deviation / most))
    return deviation / 2.0**exponent, exponent + 127


def _scaled(name: str, kind: str, rows: int, cols: int) -> Iterator[Tensor]:
    """Codes and scales of a [rows, cols] matrix whose product keeps the scale of its input."""
    if kind == "fp8":
        dtype, most, stored = "F8_E4M3", 112.0, (rows, cols)
        grid = (-(-rows // 128), -(-cols // 128))
    else:
        dtype, most, stored, grid = "I8", 3.0, (rows, cols // 2), (rows, cols // 32)
    unit, code = _split(cols**-0.5, most)
    yield Tensor(TensorPlan(f"{name}.weight", dtype, stored), _codes(kind, unit, stored))
    yield Tensor(TensorPlan(f"{name}.scale", "F8_E8M0", grid),
                 lambda rng: np.full(grid, code, np.uint8))


def _bf16(name: str, *shape: int, deviation: float | None = None) -> Tensor:
    unit = shape[-1] ** -0.5 if deviation is None else deviation
    return Tensor(TensorPlan(name, "BF16", shape), _codes("bf16", unit, shape))


def _norm(name: str, width: int) -> Tensor:
    return Tensor(TensorPlan(name, "BF16", (width,)),
                  lambda rng: encode_bf16(1 + 0.05 * rng.standard_normal(width)))


def _f32(name: str, *shape: int, deviation: float, mean: float = 0.0) -> Tensor:
    return Tensor(TensorPlan(name, "F32", shape),
                  lambda rng: (mean + deviation * rng.standard_normal(shape)).astype(np.float32))


def _hash_table(name: str, vocab: int, experts: int, chosen: int) -> Tensor:
    """For each token id some experts, none of them twice."""
    def fill(rng: np.random.Generator) -> Array:
        return rng.random((vocab, experts)).argsort(1)[:, :chosen].astype(np.int64)

    return Tensor(TensorPlan(name, "I64", (vocab, chosen)), fill)


# -- which tensors there are (specification 3) -----------------------------------------------------

def model_tensors(config: Mapping[str, Any]) -> Iterator[Tensor]:
    """All tensors of a model in the order of the file, under their released names."""
    width, vocab, streams = config["hidden_size"], config["vocab_size"], config["hc_mult"]
    yield _bf16("embed.weight", vocab, width, deviation=1.0)
    yield _bf16("head.weight", vocab, width)
    yield _norm("norm.weight", width)
    yield from _hyper("hc_head", streams, streams * width, 1)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"layers.{layer}"
        for part in ("attn", "ffn"):
            yield _norm(f"{prefix}.{part}_norm.weight", width)
            yield from _hyper(f"{prefix}.hc_{part}", (2 + streams) * streams, streams * width, 3)
        yield from _attention(f"{prefix}.attn", config, config["compress_ratios"][layer])
        yield from _experts(f"{prefix}.ffn", config, layer < config["num_hash_layers"])


def _hyper(prefix: str, rows: int, width: int, scales: int) -> Iterator[Tensor]:
    yield _f32(f"{prefix}_fn", rows, width, deviation=width**-0.5)
    yield _f32(f"{prefix}_base", rows, deviation=0.1)
    yield _f32(f"{prefix}_scale", scales, deviation=0.0, mean=0.5)


def _attention(prefix: str, config: Mapping[str, Any], ratio: int) -> Iterator[Tensor]:
    width, heads, head = (config[k] for k in ("hidden_size", "num_attention_heads", "head_dim"))
    rank, groups, out = (config[k] for k in ("q_lora_rank", "o_groups", "o_lora_rank"))
    yield from _scaled(f"{prefix}.wq_a", "fp8", rank, width)
    yield _norm(f"{prefix}.q_norm.weight", rank)
    yield from _scaled(f"{prefix}.wq_b", "fp8", heads * head, rank)
    yield from _scaled(f"{prefix}.wkv", "fp8", head, width)
    yield _norm(f"{prefix}.kv_norm.weight", head)
    yield from _scaled(f"{prefix}.wo_a", "fp8", groups * out, heads * head // groups)
    yield from _scaled(f"{prefix}.wo_b", "fp8", width, groups * out)
    yield _f32(f"{prefix}.attn_sink", heads, deviation=0.5)
    if ratio == 0:
        return
    indexed = ratio == 4        # the released CSA layers; the others attend to every entry
    overlap = 2 if indexed else 1
    yield from _compressor(f"{prefix}.compressor", overlap * head, head, ratio, width)
    if indexed:
        heads, head = config["index_n_heads"], config["index_head_dim"]
        yield from _scaled(f"{prefix}.indexer.wq_b", "fp8", heads * head, rank)
        yield _bf16(f"{prefix}.indexer.weights_proj.weight", heads, width)
        yield from _compressor(f"{prefix}.indexer.compressor", overlap * head, head, ratio, width)


def _compressor(prefix: str, rows: int, head: int, ratio: int, width: int) -> Iterator[Tensor]:
    yield _bf16(f"{prefix}.wkv.weight", rows, width)
    yield _bf16(f"{prefix}.wgate.weight", rows, width)
    yield _f32(f"{prefix}.ape", ratio, rows, deviation=0.1)
    yield _norm(f"{prefix}.norm.weight", head)


def _experts(prefix: str, config: Mapping[str, Any], hashed: bool) -> Iterator[Tensor]:
    width, inner = config["hidden_size"], config["moe_intermediate_size"]
    count, chosen = config["n_routed_experts"], config["num_experts_per_tok"]
    yield _bf16(f"{prefix}.gate.weight", count, width)
    if hashed:
        yield _hash_table(f"{prefix}.gate.tid2eid", config["vocab_size"], count, chosen)
    else:
        yield _f32(f"{prefix}.gate.bias", count, deviation=0.05)
    for name, kind in (*((f"experts.{e}", "fp4") for e in range(count)), ("shared_experts", "fp8")):
        yield from _scaled(f"{prefix}.{name}.w1", kind, inner, width)
        yield from _scaled(f"{prefix}.{name}.w2", kind, width, inner)
        yield from _scaled(f"{prefix}.{name}.w3", kind, inner, width)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    config = json.loads(args.config.read_text())
    print(f"{args.out}: {write_checkpoint(config, args.out, args.seed) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
