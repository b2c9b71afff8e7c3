"""What every step of a program must read and compute, counted from the artifact's own tables.

Bytes are those of weights as stored (of the routed experts only the chosen ones, of tables only
the rows looked up) and of the states that the positions can see. Activations, a few kilobytes per
token, are left out: they stay in the cache. Operations are two for each multiply-add.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.runtime.program import STATE, WEIGHT, Entry, Program
from firstlight.runtime.safetensors import SafetensorsFile, TensorInfo

TABLES = ("embed.weight", "tid2eid")        # a row for each token, and no arithmetic
LAST_ONLY = ("head.weight", "hc_head_fn")   # a prefill needs the logits of its last token only
F32_BYTES = 4


@dataclass(frozen=True)
class Cost:
    """One step: which op, on which weights, and what it costs at least."""

    op: str
    label: str
    bytes: float
    flops: float

    def limit(self, bandwidth: float, peak: float) -> float:
        """Seconds that the bytes or the operations need, whichever are more."""
        return max(self.bytes / bandwidth, self.flops / peak)


@dataclass(frozen=True)
class _Weight:
    name: str
    bytes: int
    elements: int       # 0 for scales


class Counter:
    """Counts the steps of an artifact.

    Args:
        artifact: its folder.
        program: its program as the runtime reads it.
    """

    def __init__(self, artifact: Path, program: Program) -> None:
        manifest = json.loads((artifact / "manifest.json").read_text())
        self.config: dict[str, Any] = manifest["provenance"]["config"]
        self.chunk: int = manifest["limits"]["chunk"]
        self._states = {s["offset"]: s for s in manifest["state"]["tensors"]}
        self._state_names = {s["name"] for s in manifest["state"]["tensors"]}
        self._program = program
        self._weights = _weights(artifact, program)

    def steps(self, entry: str, tokens: int, depth: int) -> list[Cost]:
        """Costs of a call of `entry` with `tokens` tokens at positions from `depth` on."""
        return [self._step(op, words, tokens, depth, self._program.entries[entry].every_row)
                for op, words in _calls(self._program, self._program.entries[entry])]

    def prefill(self, tokens: int) -> list[Cost]:
        """All steps of a prefill of an empty session, chunk by chunk."""
        return [step for at in range(0, tokens, self.chunk)
                for step in self.steps("prefill", min(self.chunk, tokens - at), at)]

    def _step(self, op: str, words: list[tuple[int, int]], tokens: int, depth: int,
              every_row: bool) -> Cost:
        nbytes, flops = 0.0, 0.0
        weights = [self._weights[value] for space, value in words if space == WEIGHT]
        for weight in weights:
            rows = tokens if every_row or not weight.name.startswith(LAST_ONLY) else 1
            read, used = self._shares(weight.name, rows)
            nbytes += weight.bytes * read
            flops += 2 * weight.elements * used
        for space, value in words:
            if space == STATE and op != "compress":     # it reads a row or two, and writes
                rows_read, work = self._state(op, self._states[value], tokens, depth)
                state = self._states[value]
                nbytes += rows_read * state.get("row_bytes", F32_BYTES * state["width"])
                flops += work
        return Cost(op, f"{op} {_leaf(weights)}".strip(), nbytes, flops)

    def _shares(self, name: str, tokens: int) -> tuple[float, float]:
        """(part of a weight that must be read, times every element is multiplied)."""
        if name.endswith(TABLES):
            return min(1.0, tokens / self.config["vocab_size"]), 0.0
        if ".experts." in name:
            chosen = self.config["num_experts_per_tok"] / self.config["n_routed_experts"]
            return 1 - (1 - chosen) ** tokens, chosen * tokens    # expected, for random routing
        return 1.0, float(tokens)

    def _state(self, op: str, state: dict[str, Any], tokens: int,
               depth: int) -> tuple[int, float]:
        """(rows read at least once, operations) of a state that attention or an indexer reads."""
        seen = np.arange(depth, depth + tokens) + 1
        if state["kind"] == "ring":
            visible = np.minimum(seen, state["rows"])
            rows = min(depth, state["rows"])
        else:
            visible = seen // state["ratio"]
            rows = int(visible[-1])
            if op != "index_select" and self._is_picked(state["name"]):
                visible = np.minimum(visible, self.config["index_topk"])
                rows = min(rows, tokens * self.config["index_topk"])
        if op == "index_select":
            each = 2 * self.config["index_n_heads"] * state["width"]
        else:
            each = 4 * self.config["num_attention_heads"] * state["width"]   # scores and sums
        return rows, float(each * visible.sum())

    def _is_picked(self, name: str) -> bool:
        """Whether an indexer chooses among these entries."""
        return name.replace(".compressor.", ".indexer.compressor.") in self._state_names


def _calls(program: Program, entry: Entry) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """(op, argument words) of every step; kernels are named op_hash."""
    for kernel, first, count in zip(entry.kernel, entry.first, entry.count, strict=True):
        words = slice(first, first + count)
        yield (program.kernels[kernel].rsplit("_", 1)[0],
               list(zip(entry.space[words].tolist(), entry.value[words].tolist(), strict=True)))


def _weights(artifact: Path, program: Program) -> list[_Weight]:
    """Every weight of the program: its stored name without the layout, bytes, elements."""
    files = {file: SafetensorsFile(artifact / file, "F5").tensors for file, _ in program.weights}
    out = []
    for file, name in program.weights:
        tensor, scales = files[file][name], files[file].get(f"{name}.scales")
        plain = name.split("@")[0]
        out.append(_Weight(plain, tensor.nbytes, _elements(name, tensor, scales)))
    return out


def _elements(name: str, tensor: TensorInfo, scales: TensorInfo | None) -> int:
    """Weights in a tensor of codes; 0 for scales.

    A scale for 32 weights means a group of 32, of half a byte or of one; fp8 has far fewer.
    """
    if name.endswith(".scales"):
        return 0
    if scales is not None:
        groups = 32 * math.prod(scales.shape)
        return groups if tensor.nbytes <= 1.1 * groups else tensor.nbytes
    sizes = {"F32": 4, "U16": 2, "F16": 2, "I32": 4, "I64": 8}
    return tensor.nbytes // sizes.get(tensor.dtype, 1)


def _leaf(weights: list[_Weight]) -> str:
    """The first weight's name without its layer."""
    names = [w.name for w in weights if not w.name.startswith("constant.")]
    if not names:
        return ""
    return names[0].split(".", 2)[2] if names[0].startswith("layers.") else names[0]
