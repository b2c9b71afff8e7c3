"""The machine's own limits, read where and when the model is measured.

Reads go through a buffer as large as the artifact's weights, so both have the same luck with
caches; a stick takes about as long as what it is compared with, so both have the same luck with
other processes.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from firstlight.runtime.engine import Engine
from firstlight.runtime.errors import FirstlightError

_BLOCK = 1024       # what fl_read reads in whole
_REGIONS = 128      # about as many as a token needs
_WORDS = 1 << 16    # of regions and steps of a call


class Sticks:
    """Plain reads, multiply-adds and byte products on the engine's own threads.

    An engine without a native library (a device's) measures itself.
    """

    def __init__(self, engine: Engine, weight_bytes: int, clock: Callable[[], float]) -> None:
        self._engine, self._clock = engine, clock
        self._library: Any = getattr(engine, "library", None)
        self._pool: Any = getattr(engine, "pool", None)
        self._size = max(weight_bytes, 1 << 22)
        self._buffer: npt.NDArray[np.uint8] | None = None
        self._at = 0
        self._spent: npt.NDArray[np.int64] | None = None    # code writes to it

    @property
    def resident(self) -> int:
        """Bytes of memory that the sticks themselves take."""
        return 0 if self._buffer is None else self._size

    def read(self, nbytes: float) -> float:
        """Bytes per second of one read of `nbytes`, going on where the last one ended."""
        if self._library is None:
            return self._engine.read_bandwidth(int(nbytes), 1)
        if self._buffer is None:
            self._buffer = np.empty(self._size, np.uint8)
            self._buffer.fill(1)        # untouched pages are all one page of zeros
        size = max(min(int(nbytes), self._size) // _BLOCK, 1) * _BLOCK
        if self._at + size > self._size:
            self._at = 0
        start = self._clock()
        self._library.fl_read(self._pool, self._buffer.ctypes.data + self._at, size)
        self._at += size
        return size / (self._clock() - start)

    def multiply_add(self, flops: float) -> float:
        """Float32 operations per second of a loop of about so many."""
        return self._loop("fl_fma", 8 * 12, flops) or self._engine.flops(1)

    def byte_products(self, ops: float) -> float:
        """Operations per second on 8-bit integers, of a loop of about so many; 0 if there is no
        such stick."""
        return self._loop("fl_int8", 32 * 12, ops)

    def region(self) -> float:
        """Seconds of starting and ending a parallel region without work, the best of several.

        Raises F713 for code without that stick.
        """
        function = self._newer("fl_region", [ctypes.c_void_p, ctypes.c_int64])
        spent = []
        for _ in range(32):
            start = self._clock()
            function(self._pool, _REGIONS)
            spent.append((self._clock() - start) / _REGIONS)
        return min(spent)

    def steps(self, call: Callable[[], None]) -> npt.NDArray[np.float64] | None:
        """Seconds of each step of a call on this engine, as the native loop times them: without
        Python in between. None where there is no such loop, or another clock counts."""
        if self._clock is not time.perf_counter or not hasattr(self._library, "fl_watch"):
            return None
        spent = self.watch()
        try:
            call()
        finally:
            self._library.fl_watch(self._pool, None, 0)
        words = spent[1 : 1 + spent[0]]
        return None if len(words) == _WORDS else -1e-9 * words[words <= 0]   # others are regions

    def watch(self) -> npt.NDArray[np.int64]:
        """What the engine writes from now on: [0] is how many words since it was set to 0, then, on
        one thread, the nanoseconds of every region, and behind those of a step the negative of its
        own. Raises F713 as `region` does."""
        self._spent = np.zeros(1 + _WORDS, np.int64)
        watch = self._newer("fl_watch", [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64])
        watch(self._pool, self._spent.ctypes.data, _WORDS)
        return self._spent

    def _newer(self, name: str, arguments: list[Any]) -> Any:
        function = getattr(self._library, name, None)
        if function is None:
            raise FirstlightError(
                "F713", "parallel regions cannot be measured", where="bench --scale",
                why=f"the artifact's code has no {name}: it is a device's, or older than that",
                try_="compile the checkpoint again for a CPU, or leave --scale out")
        function.restype, function.argtypes = ctypes.c_int64, arguments
        return function

    def _loop(self, name: str, lanes: int, operations: float) -> float:
        function = getattr(self._library, name, None) if self._library is not None else None
        if function is None:
            return 0.0
        function.restype, function.argtypes = ctypes.c_int64, [ctypes.c_void_p, ctypes.c_int64]
        rounds = max(4, int(operations / (2 * lanes * self._engine.threads)))
        start = self._clock()
        done = function(self._pool, rounds)
        return int(done) / (self._clock() - start)
