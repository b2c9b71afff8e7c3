"""Rope frequencies against transformers, to the bit but for its float32 power function."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="the oracle needs PyTorch: make oracle")
pytest.importorskip("transformers", reason="the oracle needs transformers 5.23: make oracle")

import torch
from transformers import DeepseekV4Config
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4RotaryEmbedding

from firstlight.frontend.config import parse_config, rope_frequencies
from support.random_models import random_config


@pytest.mark.parametrize("seed", range(12))
def test_frequencies_equal_those_of_transformers(seed: int) -> None:
    raw = random_config(seed, layers="wch", head_dim=128, qk_rope_head_dim=64, index_head_dim=64,
                        yarn=seed % 3 != 0)
    accepted = {k: v for k, v in raw.items() if k not in ("compress_ratios", "torch_dtype")}
    with torch.no_grad():
        theirs = DeepseekV4RotaryEmbedding(DeepseekV4Config(**accepted))
    for label, compressed in (("main", False), ("compress", True)):
        want = getattr(theirs, f"{label}_inv_freq").numpy()
        got = rope_frequencies(parse_config(raw), compressed)
        steps = np.abs(got.view(np.int32) - want.view(np.int32))
        assert steps.max() <= 1
        assert (steps > 0).sum() <= 1
