"""Emitted BANG C: its text, and what a launch of it moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from firstlight.codegen.target import Array, Source
from firstlight.targets.cambricon.executor import BangExecutor


def text(made: Source) -> str:
    """A kernel's file."""
    return made.files[f"{made.entry}.mlu"].decode()


class Counting(BangExecutor):
    """Keeps what a launch moved."""

    moved: Mapping[str, int]

    def run(self, symbol: str, buffers: Sequence[Array], tokens: int) -> None:
        """See `Executor.run`."""
        done = self.outcome(symbol, buffers, tokens, self.settings)
        assert done.problem == ""
        self.moved = done.moved
