"""What a side of a comparison is: something that runs tokens and shows every value it makes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

Array = NDArray[Any]
RETURN = "return"
"""The op of an event that is the end of a function of the IR: a sublayer, the head."""


class Key(NamedTuple):
    """Names a step of a call on every side: the number-th op of this name at this module path."""

    path: str
    op: str
    number: int

    def __str__(self) -> str:
        return f"{self.path} {self.op}" + (f" #{self.number + 1}" if self.number else "")


class Event(NamedTuple):
    """A step that just ran, or a function that ended, and its results.

    Values have the IR's shape [1, S, ...]; a state is [rows, width], the rows written so far.
    `inputs`: the results it read, as (key, which result), where a side knows.
    """

    key: Key
    results: tuple[Array, ...]
    inputs: tuple[tuple[Key, int], ...] = ()


class Side(Protocol):
    """One way to run a model: one sequence, from position 0 on."""

    name: str
    vocab_size: int
    context: int | None
    """Most tokens, if there is a limit."""
    chunk: int | None
    """Most tokens of a call, if there is a limit."""
    tokenizer: Path

    def keys(self, entry: str) -> list[Key]:
        """The keys of the events of a call, in order. Entries: `prefill`, `decode`."""

    def run(self, entry: str, ids: Sequence[int]) -> Iterator[Event]:
        """Feed tokens; read it to its end."""

    def close(self) -> None:
        """Give memory and threads back."""


def numbered(rows: Iterable[tuple[str, str]]) -> list[Key]:
    """Keys of (path, op) pairs in the order in which they run."""
    seen: Counter[tuple[str, str]] = Counter()
    keys = []
    for row in rows:
        keys.append(Key(*row, seen[row]))
        seen[row] += 1
    return keys
