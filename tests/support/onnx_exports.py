"""Small transformers that torch's exporters write as ONNX, with inputs to run them on.

A module each: an encoder and a decoder with its cache as inputs and outputs, both of the package
transformers, and a block of experts of our own. Weights are random.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

OPSET = {False: 17, True: 23}


@dataclass(frozen=True)
class Export:
    """A module, example arguments by name (in order), its outputs, and which axes are open.

    `sizes` is what `--dim` gets for the open axis.
    """

    module: nn.Module
    given: dict[str, torch.Tensor]
    outputs: list[str]
    open_axes: dict[str, dict[int, str]]
    sizes: dict[str, str]

    def write(self, path: Path, dynamo: bool) -> None:
        """Export, with the old exporter (traced, opset 17) or the new one (opset 23)."""
        axes: dict[str, Any] = {"dynamic_axes": self.open_axes}
        if dynamo:
            axes = {"dynamic_shapes": {
                name: dict.fromkeys(self.open_axes.get(name, {}), torch.export.Dim.AUTO)
                for name in self.given} if self.open_axes else None}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                self.module.eval(), tuple(self.given.values()), str(path), dynamo=dynamo,
                opset_version=OPSET[dynamo], input_names=list(self.given),
                output_names=self.outputs, **axes)

    @property
    def count(self) -> int:
        """The example's size of the open axis."""
        return next(iter(self.given.values())).shape[1]

    def feeds(self) -> dict[str, np.ndarray[Any, Any]]:
        """The example arguments as arrays."""
        return {k: v.numpy() for k, v in self.given.items()}

    def resized(self, n: int) -> dict[str, np.ndarray[Any, Any]]:
        """The same with n places along open axes, the example's over and over."""
        return {k: np.take(v, np.arange(n) % self.count, 1) if k in self.open_axes else v
                for k, v in self.feeds().items()}


class Encoder(nn.Module):
    """BERT: tokens and mask -> hidden states."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = transformers.BertModel(transformers.BertConfig(
            vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=64, max_position_embeddings=40, attn_implementation="eager"))

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.inner(input_ids=ids, attention_mask=mask).last_hidden_state


class Decoder(nn.Module):
    """Llama: tokens, their positions, and what earlier calls kept -> logits, and all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.config = transformers.LlamaConfig(
            vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, intermediate_size=64, max_position_embeddings=64,
            attn_implementation="eager")
        self.inner = transformers.LlamaForCausalLM(self.config)

    def forward(self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor,
                *past: torch.Tensor) -> tuple[torch.Tensor, ...]:
        cache = transformers.DynamicCache()
        for layer in range(self.config.num_hidden_layers):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        # a mask of four axes is taken as it is: scores are added to it
        out = self.inner(input_ids=ids, position_ids=positions, attention_mask=mask,
                         past_key_values=cache, use_cache=True)
        kept = out.past_key_values
        return (out.logits, *[t for layer in kept.layers for t in (layer.keys, layer.values)])


class Experts(nn.Module):
    """Two of eight experts for each token, gathered, as a residual block after a norm."""

    def __init__(self, width: int = 32, inner: int = 48, count: int = 8, k: int = 2) -> None:
        super().__init__()
        self.k = k
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.gate = nn.Linear(width, count, bias=False)
        self.up = nn.Parameter(torch.randn(count, 2 * inner, width) * width**-0.5)
        self.down = nn.Parameter(torch.randn(count, width, inner) * inner**-0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        weights, picked = torch.topk(torch.softmax(self.gate(y), -1), self.k, dim=-1)
        weights = weights / weights.sum(-1, keepdim=True)
        gate, up = torch.einsum("bsd,bskfd->bskf", y, self.up[picked]).chunk(2, -1)
        out = torch.einsum("bskf,bskdf->bskd", nn.functional.silu(gate) * up, self.down[picked])
        return x + (out * weights.unsqueeze(-1)).sum(2)


def encoder() -> Export:
    """Of any number of tokens."""
    torch.manual_seed(1)
    mask = torch.ones(1, 7, dtype=torch.long)
    mask[0, 5:] = 0
    return Export(Encoder(), {"ids": torch.randint(0, 100, (1, 7)), "mask": mask}, ["hidden"],
                  {name: {1: "n"} for name in ("ids", "mask", "hidden")}, {"n": "..24"})


def decoder() -> Export:
    """Three tokens after five; sizes are fixed."""
    torch.manual_seed(2)
    module, new, old = Decoder(), 3, 5
    seen = torch.arange(old + new)[None] <= torch.arange(old, old + new)[:, None]
    mask = torch.where(seen, 0.0, torch.finfo(torch.float32).min)[None, None]
    past = {f"past.{i}.{what}": torch.randn(1, 2, old, 8) for i in range(2)
            for what in ("key", "value")}
    return Export(
        module, {"ids": torch.randint(0, 100, (1, new)),
                 "positions": torch.arange(old, old + new)[None], "mask": mask, **past},
        ["logits", *[n.replace("past", "present") for n in past]], {}, {})


def experts() -> Export:
    """Of any number of tokens."""
    torch.manual_seed(3)
    return Export(Experts(), {"x": torch.randn(1, 6, 32)}, ["y"],
                  {"x": {1: "n"}, "y": {1: "n"}}, {"n": "..16"})


EXPORTS = {"encoder": encoder, "decoder": decoder, "experts": experts}
