"""Emitted BANG C in the emulator: compiled once, then called on numpy memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from firstlight.codegen.target import Array, Source
from firstlight.runtime.errors import FirstlightError
from firstlight.targets.cambricon.bang_library import compilers, library, server
from firstlight.targets.cambricon.bang_machine import Outcome, Settings, machine
from firstlight.targets.cambricon.chips import Chip

__all__ = ["BangExecutor", "compilers"]
COMPILERS_AT_ONCE = 2
TOGETHER = 6
"""Kernels of a library: reading the headers costs more than compiling a kernel."""
TYPES = {"block": 0, "union1": 1, "union2": 2, "union4": 4, "union8": 8}
"""Clusters of a launch by its type."""


class BangExecutor:
    """An `firstlight.codegen.target.Executor`; raises F479 where a kernel breaks a rule.

    Args:
        sources: by symbol; `launch` has the type (a key of `TYPES`) and the dim of tasks.
        folder: unused; what is built lies in the compiler's cache.
        check: rules, hazards and races are checked; without, kernels just run.
        order: a key of `bang_machine.ORDERS`: which queues run as late as their syncs allow.
    """

    note = "executed in the emulator, not on a card"

    def __init__(self, chip: Chip, sources: Mapping[str, Source], folder: Path, *,
                 check: bool = True, order: str = "dma late", seed: int = 1) -> None:
        self.chip, self.sources = chip, sources
        self.settings = Settings(chip.arch, order, seed, check)
        self._workspaces: dict[tuple[str, int], Array] = {}
        server()        # made here: a launch has a limit of its own
        names = sorted(sources)
        some = [names[i: i + TOGETHER] for i in range(0, len(names), TOGETHER)]
        with ThreadPoolExecutor(COMPILERS_AT_ONCE) as pool:
            built = list(pool.map(self._build, some))
        self.libraries = {n: path for names, path in zip(some, built, strict=True) for n in names}

    def _build(self, symbols: Sequence[str]) -> Path:
        files: dict[str, bytes] = {}
        for symbol in symbols:
            files |= self.sources[symbol].files
        return library(files, {s: self.sources[s].entry for s in symbols}, self.settings.check,
                       (f"-D__BANG_ARCH__={self.chip.arch}",))

    def run(self, symbol: str, buffers: Sequence[Array], tokens: int) -> None:
        """Call a kernel on its pointers' arrays, in a workspace of its own."""
        problem = self.outcome(symbol, buffers, tokens, self.settings).problem
        if problem:
            raise FirstlightError("F479", f"{symbol} breaks a rule of the chip", where=symbol,
                                  why=problem, try_="read the kernel at that line")

    def outcome(self, symbol: str, buffers: Sequence[Array], tokens: int,
                settings: Settings, seconds: float = 600) -> Outcome:
        """The same with other settings, and without an error; F479 after so many seconds."""
        launch = self.sources[symbol].launch
        return machine().launch(
            self.libraries[symbol], symbol, TYPES[launch["type"]], launch["dim"],
            [*buffers, *self._workspace(symbol, tokens), np.int32(tokens)],
            replace(settings, arch=self.chip.arch), seconds)

    def _workspace(self, symbol: str, tokens: int) -> list[Array]:
        """Memory without a value: the kernel must write what it reads."""
        key = symbol, tokens
        if key not in self._workspaces:
            size = machine().workspace(self.libraries[symbol], symbol, tokens)
            self._workspaces[key] = np.full(size, 0xFF, np.uint8) if size >= 0 else np.empty(0)
        room = self._workspaces[key]
        return [room.copy()] if room.dtype == np.uint8 else []
