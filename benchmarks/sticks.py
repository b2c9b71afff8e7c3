"""The machine's own limits, read where and when the model is measured.

Reads go through a buffer as large as the artifact's weights, so both have the same luck with
caches; a stick takes about as long as what it is compared with, so both have the same luck with
other processes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from firstlight.runtime.launchers.cpu import CpuEngine, _anonymous

_BLOCK = 1024       # what fl_read reads in whole


class Sticks:
    """Plain reads and multiply-adds on the engine's own threads."""

    def __init__(self, engine: CpuEngine, weight_bytes: int, clock: Callable[[], float]) -> None:
        self._engine, self._clock = engine, clock
        self._buffer: npt.NDArray[np.uint8] = _anonymous(weight_bytes, "a buffer to read")
        self._buffer.fill(1)        # untouched pages are all one page of zeros
        self._at = 0

    def read(self, nbytes: float) -> float:
        """Bytes per second of one read of `nbytes`, going on where the last one ended."""
        size = min(int(nbytes), self._buffer.size) // _BLOCK * _BLOCK
        if self._at + size > self._buffer.size:
            self._at = 0
        start = self._clock()
        self._engine.library.fl_read(self._engine.pool, self._buffer.ctypes.data + self._at, size)
        self._at += size
        return size / (self._clock() - start)

    def multiply_add(self, flops: float) -> float:
        """Float32 operations per second of a loop of about so many."""
        per_round = 2 * 8 * 12 * self._engine.threads       # two, eight lanes, twelve chains
        start = self._clock()
        done = self._engine.library.fl_fma(self._engine.pool, max(4, int(flops / per_round)))
        return int(done) / (self._clock() - start)
