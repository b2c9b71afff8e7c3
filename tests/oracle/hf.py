"""transformers' DeepseekV4ForCausalLM as the oracle: float32, eager, our own weight loading.

transformers' FP8 loader mis-scales matrices whose sides are not multiples of 128, so the tensors
are dequantised by `support.stored` and put in place by an exact mapping.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional
from transformers import DeepseekV4Config, DeepseekV4ForCausalLM, DynamicCache, logging

from support.checkpoint_writer import module_tensors

torch.set_num_threads(1)
logging.set_verbosity_error()
_NOT_THEIRS = ("architectures", "model_type", "torch_dtype", "quantization_config")


class Gaps(NamedTuple):
    """Smallest lead of the last chosen over the first rejected score, over layers and tokens.

    Below it rounding cannot flip a choice. Infinite where nothing is ever rejected.
    """

    experts: float
    index: float


class OracleSession:
    """One sequence in transformers, a `support.backends.Session`."""

    def __init__(self, model: DeepseekV4ForCausalLM, cache: DynamicCache) -> None:
        self.model, self.past = model, cache

    @torch.no_grad()
    def prefill(self, ids: Sequence[int], all_logits: bool = False) -> np.ndarray:
        """float32 [vocab] of the last token, or [len(ids), vocab]."""
        tokens = torch.tensor([list(ids)])
        logits = self.model(tokens, past_key_values=self.past, use_cache=True).logits[0].numpy()
        return logits if all_logits else logits[-1]

    def decode(self, token: int) -> np.ndarray:
        """float32 [vocab]."""
        return self.prefill([token])


class Oracle:
    """One model in transformers, from a config dict and dequantised released tensors."""

    def __init__(self, config: Mapping[str, Any], values: Mapping[str, np.ndarray]) -> None:
        # A copy: transformers writes into the rope dictionaries it is given.
        fields = {k: deepcopy(v) for k, v in config.items() if k not in _NOT_THEIRS}
        theirs = DeepseekV4Config(**fields, attn_implementation="eager")
        theirs._experts_implementation = "eager"
        # Materialise only now: the fresh initialisation would be thrown away.
        self.model = DeepseekV4ForCausalLM(theirs).float().eval()
        self.ratios = list(config["compress_ratios"][: config["num_hidden_layers"]])
        for layer, ratio in zip(self.model.model.layers, self.ratios, strict=True):
            _set_ratio(layer.self_attn.compressor, ratio)
        state = {name: torch.from_numpy(value) for name, value in module_tensors(values).items()}
        self.model.load_state_dict(state, strict=True)

    def cache(self) -> DynamicCache:
        """An empty cache; transformers knows one ratio a kind, so each layer is told its own."""
        cache = DynamicCache(config=self.model.config)
        for layer, ratio in zip(cache.layers, self.ratios, strict=True):
            if ratio:
                layer.compress_rate = ratio
        return cache

    @torch.no_grad()
    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """float32 [len(ids), vocab] of one prefill without a cache."""
        return self.model(torch.tensor([list(ids)]), use_cache=False).logits[0].numpy()

    def decode(self, ids: Sequence[int]) -> np.ndarray:
        """float32 [len(ids), vocab], token by token through a cache."""
        session = self.session()
        return np.stack([session.decode(token) for token in ids])

    def session(self) -> "OracleSession":
        """A sequence with a cache: transformers as a `support.backends.Model`."""
        return OracleSession(self.model, self.cache())

    @torch.no_grad()
    def gaps(self, ids: Sequence[int]) -> Gaps:
        """The smallest gaps at the choices of experts and index entries while reading `ids`."""
        experts, index, hooks = [float("inf")], [float("inf")], []

        def routed(gate: Any, _: Any, output: Any) -> None:
            scores = functional.softplus(output[0]).sqrt() + gate.e_score_correction_bias
            if scores.shape[-1] > gate.top_k:
                best = scores.topk(gate.top_k + 1, -1).values
                experts.append(float((best[:, -2] - best[:, -1]).min()))

        def watch(indexer: Any) -> Any:
            def scored(_: Any, __: Any, scores: torch.Tensor) -> None:
                count, width = scores.shape[1:]
                visible = (torch.arange(count) + 1) // indexer.compress_rate
                rows = visible > indexer.index_topk
                if rows.any():
                    hidden = torch.arange(width) >= visible[:, None]
                    open_scores = scores.masked_fill(hidden, float("-inf"))[:, rows]
                    best = open_scores.topk(indexer.index_topk + 1, -1).values
                    index.append(float((best[..., -2] - best[..., -1]).min()))

            return indexer.scorer.register_forward_hook(scored)

        for layer in self.model.model.layers:
            if hasattr(layer.mlp.gate, "e_score_correction_bias"):
                hooks.append(layer.mlp.gate.register_forward_hook(routed))
            if hasattr(layer.self_attn.compressor, "indexer"):
                hooks.append(watch(layer.self_attn.compressor.indexer))
        self.logits(ids)
        for hook in hooks:
            hook.remove()
        return Gaps(min(experts), min(index))


def _set_ratio(compressor: Any, ratio: int) -> None:
    """Give a compressor (and its indexer) a ratio of its own."""
    if compressor is None:
        return
    for part in (compressor, getattr(compressor, "indexer", None)):
        if part is not None and part.compress_rate != ratio:
            part.compress_rate = ratio
            width = part.position_bias.shape[1]
            part.position_bias = torch.nn.Parameter(torch.zeros(ratio, width))
