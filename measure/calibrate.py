"""What a text feeds into each weight: the columns that matter most get the best scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.frontend.checkpoint import read_checkpoint
from firstlight.frontend.interpret import InterpreterModel
from firstlight.ir.core import Module, Op
from firstlight.ir.interpreter import Interpreter
from firstlight.measure.quality import read_ids, windows
from firstlight.runtime.text import Tokenizer

Array = NDArray[Any]
TOKENS, WINDOW = 1024, 256
PRODUCTS = ("linear", "group_linear", "expert_linear")
"""Ops (x [.., K], weight [.., K], ...). Experts of a layer, and groups, share their importance."""


def importance(checkpoint: Path, text: Path, tokens: int = TOKENS) -> dict[str, Array]:
    """By weight, the mean square float32 [K] of what each column is multiplied with.

    The checkpoint is interpreted: exact, and slow for a large one.

    Args:
        text: UTF-8 text, or .json with ``sequences`` of token ids; F709 for neither.
        tokens: most tokens to read.
    """
    source = read_checkpoint(checkpoint)
    names: dict[int, str] = {}
    sums: dict[str, tuple[int, Array]] = {}
    model = InterpreterModel(source, WINDOW, interpreter=partial(_Watching, names, sums))
    names.update((id(weight), name) for name, weight in model.weights.items())
    sequences = read_ids(text, model.vocab_size, lambda text: Tokenizer(
        source.path / "tokenizer.json").encode(text), tokens)
    for ids in windows(sequences, WINDOW, tokens):
        model.session().prefill(ids)
    return {name: (total / count).astype(np.float32) for name, (count, total) in sums.items()}


class _Watching(Interpreter):
    """Adds up the squares that meet the columns of each weight, known by its array."""

    def __init__(self, names: Mapping[int, str], sums: dict[str, tuple[int, Array]],
                 module: Module, sizes: Mapping[str, int]) -> None:
        super().__init__(module, sizes)
        self._names, self._sums = names, sums

    def op(self, op: Op, args: Sequence[Array]) -> list[Array]:
        if op.name in PRODUCTS and (name := self._names.get(id(args[1]))):
            squares = np.square(args[0].reshape(-1, args[0].shape[-1]), dtype=np.float64)
            count, total = self._sums.get(name, (0, np.zeros(squares.shape[1])))
            self._sums[name] = count + len(squares), total + squares.sum(0)
        return super().op(op, list(args))
