"""Huawei Ascend 950: compiled by the vendor's own compiler as far as it goes without CANN.

Generic kernels become tiles in MLIR (`nests`, `schedule`, `functions`), ``bishengir-compile-a5``
lowers them to the chip's intrinsics (`compiler`, `build`), and the lowered code runs here
(`emulator`) without a card.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.target import Executor, Source, Target, Tool
from firstlight.passes.capabilities import Capabilities, MemorySpace
from firstlight.targets.ascend.skus import L0A, L0B, L0C, L1, UB, sku

DEFAULT = {"ascend-950pr": "Ascend950PR_9589", "ascend-950dt": "Ascend950DT_9582"}


def _emit(kernel: Kernel) -> Source:
    from firstlight.targets.ascend.emit import source

    return source(kernel)


def _build(chip: str, kernels: Mapping[str, Kernel], folder: Path,
           jobs: int | None = None) -> Sequence[Path]:
    from firstlight.targets.ascend.build import build

    return build(chip, kernels, folder, jobs)


def _emulate(chip: str, kernels: Mapping[str, Kernel], folder: Path) -> Executor | None:
    from firstlight.targets.ascend.execute import emulate

    return emulate(chip, kernels)


def _tools() -> Sequence[Tool]:
    from firstlight.targets.ascend.compiler import PACKAGE, compiler
    from firstlight.targets.ascend.emulator_build import tools

    found = compiler()
    return (Tool("bishengir-compile-a5", None if found is None else str(found),
                 f"pip install 'firstlight[ascend]' ({PACKAGE})"), *tools(),
            Tool("hivmc-a5", None, "CANN 9.1 or later, on the machine with the card"))


def _versions() -> Mapping[str, str]:
    from firstlight.codegen.tvm_bridge import versions
    from firstlight.targets.ascend.compiler import compiler, digest

    found = compiler()
    return {**versions(), **({} if found is None else {"bishengir-compile-a5": digest(found)})}


def _target(name: str, chip: str) -> Target:
    series = sku(chip)
    return Target(
        name=name,
        summary=f"{chip}: {series.cube} cube and {series.vector} vector cores",
        tier="B+",
        capabilities=Capabilities(vector_bytes=256, memory=(
            MemorySpace("gm", series.memory, 512), MemorySpace("l1", L1, 32),
            MemorySpace("l0a", L0A, 32), MemorySpace("l0b", L0B, 32), MemorySpace("l0c", L0C, 512),
            MemorySpace("ub", UB, 32))),
        requires={"chip": chip, "cann": ">= 9.1"},
        emit=_emit,
        build=partial(_build, chip),
        emulate=partial(_emulate, chip),
        launcher="acl",
        tools=_tools,
        versions=_versions,
    )


TARGETS = tuple(_target(name, chip) for name, chip in DEFAULT.items())
