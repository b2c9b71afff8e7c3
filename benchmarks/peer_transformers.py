"""Tokens/s of Hugging Face transformers on a checkpoint, float32, one JSON line for every test.

    python benchmarks/peer_transformers.py CHECKPOINT --prefill 512 --decode 128 --threads 2

A peer of compare.py; needs the extra [oracle] and `accelerate`. The checkpoint is dequantised when
it is loaded.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM
from transformers.cache_utils import DynamicCache


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--prefill", type=int, nargs="*", default=[])
    parser.add_argument("--decode", type=int, nargs="*", default=[])
    parser.add_argument("--generate", type=int, default=16)
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    start = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(args.checkpoint, dtype=torch.float32).eval()
    model.float()       # what is dequantised when it is loaded is bf16
    loaded = time.perf_counter() - start

    def ids(n: int) -> torch.Tensor:
        return torch.randint(0, model.config.vocab_size, (1, n))

    def emit(test: str, n: int, samples: list[float]) -> None:
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"test": test, "n": n, "samples": samples, "load_s": loaded, "rss": rss}),
              flush=True)

    with torch.inference_mode():
        model(ids(8))
        for n in args.prefill:
            samples = []
            for _ in range(args.samples):
                start = time.perf_counter()
                model(ids(n), logits_to_keep=1)
                samples.append(n / (time.perf_counter() - start))
            emit("prefill", n, samples)
        for depth in args.decode:
            cache = DynamicCache(config=model.config)
            model(ids(depth), past_key_values=cache, use_cache=True, logits_to_keep=1)
            samples = []
            for _ in range(args.samples):
                start = time.perf_counter()
                for _ in range(args.generate):
                    model(ids(1), past_key_values=cache, use_cache=True)
                samples.append(args.generate / (time.perf_counter() - start))
            emit("decode", depth, samples)


if __name__ == "__main__":
    main()
