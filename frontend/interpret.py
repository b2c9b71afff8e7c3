"""Running a checkpoint by interpreting its IR: slow, and the reference for everything compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.frontend.checkpoint import Checkpoint, read_checkpoint
from firstlight.frontend.model import trace_model, weight_types
from firstlight.ir import dims
from firstlight.ir.core import Module
from firstlight.ir.interpreter import Interpreter
from firstlight.ir.types import StateType

Array = NDArray[Any]


class InterpreterModel:
    """A checkpoint and its module; weights are decoded once, to float32."""

    def __init__(self, checkpoint: Checkpoint | str | Path, context: int = 256,
                 numerics: str = "float", module: Module | None = None,
                 interpreter: Callable[[Module, Mapping[str, int]], Interpreter] = Interpreter,
                 ) -> None:
        self.interpreter = interpreter
        if not isinstance(checkpoint, Checkpoint):
            checkpoint = read_checkpoint(checkpoint)
        self.module = module or trace_model(checkpoint.config, weight_types(checkpoint), numerics)
        ratios = [layer.ratio for layer in checkpoint.config.layers]
        self.context = max(context, *ratios)     # states hold at least one block, as compiled ones
        self.vocab_size = checkpoint.config.vocab_size
        self.args = self.module["score"].args
        self.weights = {
            v.loc: checkpoint.tensors[v.loc].decode() for v in self.args[3:]
            if not isinstance(v.type, StateType)
        }

    def session(self, batch: int = 1) -> InterpreterSession:
        """Fresh state for `batch` sequences."""
        return InterpreterSession(self, batch)


class InterpreterSession:
    """`batch` sequences, each at its own position."""

    def __init__(self, model: InterpreterModel, batch: int) -> None:
        self.model = model
        self.pos = np.zeros(batch, np.int32)
        self.slot = np.arange(batch, dtype=np.int32)
        self.states = {
            v.loc: np.zeros((batch, dims.evaluate(v.type.capacity, {"C": model.context}),
                             v.type.width), np.float32)
            for v in model.args if isinstance(v.type, StateType)
        }

    def step(self, tokens: Array, sequences: Sequence[int] | None = None) -> Array:
        """Logits [b, S, V] of tokens [b, S], which continue `sequences` (b of them; default: all).

        The other sequences stay where they are, so that each may be at a position of its own.
        """
        tokens = np.asarray(tokens, np.int32)
        slot = self.slot if sequences is None else np.asarray(sequences, np.int32)
        inputs = {"tokens": tokens, "pos": self.pos[slot], "slot": slot}
        known = inputs | self.model.weights | self.states
        sizes = {"B": len(tokens), "S": tokens.shape[1], "C": self.model.context}
        out = self.model.interpreter(self.model.module, sizes).function(
            self.model.module["score"], [known[v.loc] for v in self.model.args])
        self.states.update(zip(self.states, out[1:], strict=True))
        self.pos[slot] += np.int32(tokens.shape[1])
        return out[0]

    def prefill(self, ids: Sequence[int], all_logits: bool = False) -> Array:
        """As `firstlight.runtime` sessions: logits of the last token, or of all (one sequence)."""
        logits = self.step(np.array([ids]))[0]
        return logits if all_logits else logits[-1]

    def decode(self, token: int) -> Array:
        """Logits [V] after one more token."""
        return self.step(np.array([[token]]))[0, 0]
