"""transformers' DeepseekV4ForCausalLM: an implementation by other people, layer by layer.

float32, eager, on the CPU. The weights are decoded by our own reader and put in place by name:
transformers' FP8 loader mis-scales matrices whose sides are not multiples of 128.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from firstlight.comparison.side import RETURN, Event, Key
from firstlight.frontend.checkpoint import Checkpoint
from firstlight.frontend.names import STACKED, canonical
from firstlight.runtime.errors import FirstlightError

_NOT_THEIRS = ("architectures", "model_type", "torch_dtype", "dtype", "quantization_config",
               "transformers_version")  # fmt: skip


class TransformersSide:
    """Results of both sublayers of every layer, and the logits.

    Raises F707 where PyTorch or transformers is not installed.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        _require("torch", "transformers")
        torch: Any = import_module("torch")
        theirs: Any = import_module("transformers")
        self.name = f"transformers of {checkpoint.path}"
        self.vocab_size = checkpoint.config.vocab_size
        self.context: int | None = None
        self.chunk: int | None = None
        self.tokenizer = checkpoint.path / "tokenizer.json"
        # A copy: transformers writes into the rope dictionaries it is given.
        fields = {k: deepcopy(v) for k, v in checkpoint.raw_config.items() if k not in _NOT_THEIRS}
        config = theirs.DeepseekV4Config(**fields, attn_implementation="eager")
        config._experts_implementation = "eager"
        self._torch, self._model = torch, theirs.DeepseekV4ForCausalLM(config).float().eval()
        self._layers = self._model.model.layers
        self._cache = theirs.DynamicCache(config=self._model.config)
        # transformers knows one ratio for each kind of layer: every layer is told its own.
        for layer, cache, spec in zip(self._layers, self._cache.layers, checkpoint.config.layers,
                                      strict=True):
            if spec.ratio:
                _set_ratio(torch, layer.self_attn.compressor, spec.ratio)
                cache.compress_rate = spec.ratio
        weights = {name: torch.from_numpy(_weight(checkpoint, name).astype(
                       np.float32 if tensor.is_floating_point() else np.int64))
                   for name, tensor in self._model.state_dict().items()}  # fmt: skip
        self._model.load_state_dict(weights, strict=True)

    def keys(self, entry: str) -> list[Key]:
        """See `Side.keys`."""
        layers = [Key(f"layers.{i}", RETURN, part) for i in range(len(self._layers))
                  for part in range(2)]  # fmt: skip
        return [*layers, Key("head", RETURN, 0)]

    def run(self, entry: str, ids: Sequence[int]) -> Iterator[Event]:
        """See `Side.run`."""
        seen: list[Any] = []
        hooks = []
        for layer in self._layers:
            hooks += [
                layer.ffn_hc.register_forward_pre_hook(lambda _, args: seen.append(args[0])),
                layer.register_forward_hook(lambda _, __, streams: seen.append(streams)),
            ]
        try:
            with self._torch.no_grad():
                out = self._model(self._torch.tensor([list(ids)]), past_key_values=self._cache,
                                  use_cache=True)  # fmt: skip
        finally:
            for hook in hooks:
                hook.remove()
        for key, value in zip(self.keys(entry), [*seen, out.logits[:, -1:]], strict=True):
            yield Event(key, (value.numpy(),))

    def close(self) -> None:
        """See `Side.close`."""


def _require(*packages: str) -> None:
    for package in packages:
        if find_spec(package) is None:
            raise FirstlightError(
                "F707",
                "there is no transformers to compare with",
                where="firstlight compare",
                why=f"the package {package!r} is not installed",
                try_="pip install 'firstlight[oracle]'    or compare with `interpreter`",
            )


def _set_ratio(torch: Any, compressor: Any, ratio: int) -> None:
    """Give a compressor (and its indexer) a ratio of its own."""
    for part in (compressor, getattr(compressor, "indexer", None)):
        if part is not None and part.compress_rate != ratio:
            part.compress_rate = ratio
            part.position_bias = torch.nn.Parameter(torch.zeros(ratio, part.position_bias.shape[1]))


def _weight(checkpoint: Checkpoint, name: str) -> Any:
    """The values of a tensor of transformers; stacked experts are put together."""
    head, _, last = canonical(name).rpartition(".")
    if last in STACKED:
        parts = [checkpoint.tensors[f"{head}.{part}.weight"].decode() for part in STACKED[last]]
        return np.concatenate(parts, 1)
    return checkpoint.tensors[f"{head}.{last}" if head else last].decode()
