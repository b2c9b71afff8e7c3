"""Comparing arrays: errors in three measures, and what must be equal bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass
class Errors:
    """The largest errors of many calls.

    Attributes:
        calls: kernel calls measured.
        max_abs: |got - want|.
        max_rel: the same over the largest |want| of that result: what is judged.
        max_ulp: the same over the spacing of floats at each `want`. Where sums cancel it is large
            for every arithmetic, so it informs and is not judged.
        worst: where `max_rel` was, and the two values.
    """

    calls: int = 0
    max_abs: float = 0.0
    max_rel: float = 0.0
    max_ulp: float = 0.0
    worst: str = ""

    def compare(self, got: Array, want: Array, where: str) -> str:
        """Note a result; what is wrong with it, beside the size of its error, or ""."""
        if got.shape != want.shape:
            return f"{where}: the shape is {got.shape}, not {want.shape}"
        if want.dtype != np.float32:
            return _different(got, want, where)
        special = ~np.isfinite(want)
        wrong = _different(got[special], want[special], f"{where}, not finite")
        if wrong:
            return wrong
        far, true = got.astype(np.float64), want.astype(np.float64)
        far[special] = true[special] = 0
        if not np.isfinite(far).all():
            at = tuple(map(int, np.argwhere(~np.isfinite(far))[0]))
            return f"{where}: {far[at]} at {list(at)}, not {true[at]:.9g}"
        gap = np.abs(far - true)
        if gap.size:
            self._note(gap, far, true, where)
        return ""

    def _note(self, gap: Array, got: Array, want: Array, where: str) -> None:
        self.max_abs = max(self.max_abs, float(gap.max()))
        spacing = np.spacing(np.abs(want).astype(np.float32)).astype(np.float64)
        self.max_ulp = max(self.max_ulp, float((gap / spacing).max()))
        relative = float(gap.max() / (np.abs(want).max() or 1.0))
        if relative > self.max_rel or not self.worst:
            at = np.unravel_index(int(gap.argmax()), gap.shape)
            place = [int(i) for i in at]
            self.max_rel = max(self.max_rel, relative)
            self.worst = f"{where} at {place}: {got[at]:.9g}, not {want[at]:.9g}"


def _different(got: Array, want: Array, where: str) -> str:
    """Where two arrays are not equal bit for bit (any NaN equals any other)."""
    same = (got == want) | ((got != got) & (want != want))
    if same.all():
        return ""
    at = np.argwhere(~same)[0]
    place = tuple(int(i) for i in at)
    return (f"{where}: {int((~same).sum())} of {same.size} differ, the first at {list(place)}: "
            f"{got[place]}, not {want[place]}")


GUARD = 128


class Memory:
    """A 64-byte aligned array with guards on both sides: who writes there is found out."""

    def __init__(self, array: Array) -> None:
        size = -(-array.nbytes // 64) * 64       # the planner rounds up, so a tail may be written
        self.room = np.full(size + 2 * GUARD + 64, 0xA5, np.uint8)
        start = -self.room.ctypes.data % 64 + GUARD
        self.array: Array = self.room[start : start + array.nbytes].view(array.dtype).reshape(
            array.shape)
        self.array[...] = array
        self.before = self.array.copy()
        self.sides = (self.room[start - GUARD : start], self.room[start + size : start + size
                                                                 + GUARD])

    def problem(self, name: str, written: bool) -> str:
        """What was written that should not be, or ""."""
        if any((side != 0xA5).any() for side in self.sides):
            return f"memory beside {name} was overwritten"
        if not written and self.array.tobytes() != self.before.tobytes():
            return f"the operand {name} was overwritten"
        return ""
