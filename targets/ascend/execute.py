"""Kernels as the artifact would launch them, run from their lowered form by the emulator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.target import Array, Executor
from firstlight.targets.ascend.build import Builder
from firstlight.targets.ascend.emulator import Emulator, evaluate
from firstlight.targets.ascend.emulator_build import lacking

ALIGN = 512
POISON = 0xEE


class Launches:
    """An Executor: each module is built once, a kernel is the launches of its record."""

    def __init__(self, chip: str, kernels: Mapping[str, Kernel]) -> None:
        made = Builder(chip).kernels(kernels)
        self.records = {name: one.record for name, one in made.items()}
        texts = {m.name: m.text for one in made.values() for m in one.modules}
        self.emulator = Emulator({name: (text, self._record(name)) for name, text in texts.items()},
                                 chip)

    def _record(self, module: str) -> Mapping[str, Any]:
        """A module as a kernel of its own: all of its memories are pointers."""
        launch = next(one for record in self.records.values() for one in record["launches"]
                      if one["entry"] == module)
        memories = [i for i, a in enumerate(launch["args"]) if a != "S"]
        return {"pointers": len(memories), "workspace": 0,
                "launches": [{**launch, "args": [*range(len(memories)), "S"]}]}

    def run(self, symbol: str, buffers: Sequence[Array], tokens: int) -> None:
        """Call a kernel: its pointers in order, then S; its workspace begins as garbage."""
        record = self.records[symbol]
        size = evaluate(record["workspace"], tokens)
        room = np.full(size + ALIGN, POISON, np.uint8)
        start = -room.ctypes.data % ALIGN
        workspace = room[start: start + size]
        for launch in record["launches"]:
            memories = [workspace if a == "w" else buffers[a] for a in launch["args"] if a != "S"]
            self.emulator.run(launch["entry"], memories, tokens)


def emulate(chip: str, kernels: Mapping[str, Kernel]) -> Executor | None:
    """Run kernels here; None where a tool for that is not here."""
    return None if lacking() else Launches(chip, kernels)
