"""What a pipe of a core does, and the bytes it does it to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from firstlight.targets.ascend.rewrite_ops import Op

PIPES = ("S", "V", "M", "MTE1", "MTE2", "MTE3", "FIX")
"""Scalar, vector, cube, L1 to L0, in from global memory, out to it, and out of L0C."""


Part = int | tuple[int, str]
"""What a test may leave out: an op by its id, or an event of it by id and slot."""


@dataclass(frozen=True)
class Memory:
    """A piece of a memory: bits from the start, or None where unknown; strides in elements.

    `width` is that of an element, in bits: masks lie in memory bit by bit.
    """

    space: str
    offset: int | None
    shape: tuple[int | None, ...]
    strides: tuple[int | None, ...]
    width: int

    def bits(self) -> Bits:
        """Which bits it has."""
        if self.offset is None or None in self.shape or None in self.strides:
            return Bits(self.space, None)
        run, starts = self.width, np.array([self.offset], np.int64)
        sides = list(zip(self.shape, self.strides, strict=True))
        while sides and (sides[-1][1] * self.width == run or sides[-1][0] == 1):
            side = sides.pop()[0]
            run *= side
        for side, stride in sides:
            starts = (starts[:, None] + np.arange(side, dtype=np.int64) * stride * self.width
                      ).reshape(-1)
        return Bits(self.space, np.sort(starts), run) if starts.size and run else Bits(
            self.space, np.empty(0, np.int64))


@dataclass(frozen=True)
class Either:
    """One of several pieces: a choice by something that is not known."""

    memories: tuple[Memory, ...]


@dataclass(frozen=True)
class Bits:
    """Bits of a memory: runs of one length; `starts` None for all of it."""

    space: str
    starts: NDArray[np.int64] | None
    run: int = 0

    def overlaps(self, other: Bits) -> bool:
        """Whether the two share a bit."""
        if self.space != other.space:
            return False
        if self.starts is None or other.starts is None:
            return (self.starts is None or self.starts.size > 0) and (
                other.starts is None or other.starts.size > 0)
        if not self.starts.size or not other.starts.size:
            return False
        after = np.searchsorted(other.starts, self.starts + self.run)
        before = np.searchsorted(other.starts, self.starts - other.run, "right")
        return bool((after > before).any())


@dataclass(frozen=True)
class Event:
    """One thing that a pipe does.

    kind   "access", "set", "wait", "barrier", "core_set" or "core_wait"
    pipe   where; "ALL" for a barrier of all
    other  the other pipe of a flag
    flag   its number, of a flag; None where unknown
    op     the op that says so; `slot` tells what each of several events of one op is
    after  slots of earlier events of the core that come first without a flag
    """

    kind: str
    pipe: str
    op: Op
    slot: str = ""
    other: str = ""
    flag: int | None = 0
    reads: tuple[Bits, ...] = ()
    writes: tuple[Bits, ...] = ()
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Core:
    """A core of a block: ``name`` is "aic", "aiv0" or "aiv1"."""

    name: str
    events: list[Event]
