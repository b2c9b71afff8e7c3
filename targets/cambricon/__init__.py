"""Cambricon MLU: BANG C text for every op, executed in an emulator. No vendor compiler is here.

Generic kernels become tiles in NRAM (`emit`, `body`, `values`), read by a linter (`lint`) and run
by the emulator (`executor`, `emulator/`). What a card's owner builds is in `build`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.target import Option, Source, Target, Tool
from firstlight.passes.capabilities import Capabilities, MemorySpace
from firstlight.targets.cambricon.chips import CHIPS, RESERVED, Chip

if TYPE_CHECKING:
    from firstlight.targets.cambricon.executor import BangExecutor


MATMUL = Option({"matrix": "products by the matrix unit: reshape_filter, NRAM2WRAM, matmul",
                 "vector": "products by vector instructions, should WRAM not be as we believe"})


CLUSTERS = Option({"1": "four cores work on a kernel", "2": "eight", "4": "sixteen",
                   "8": "thirty-two: a chip must have as many clusters"})


STAGING = Option({"sram": "what the cores of a cluster share is fetched once, by its memory core",
                  "none": "each core fetches what it needs"})

OPTIONS = {"clusters": CLUSTERS, "matmul": MATMUL, "staging": STAGING}


@dataclass(frozen=True)
class How:
    """What options choose: the matrix unit or vectors, how many clusters, SRAM or not."""

    matrix: bool
    clusters: int
    staging: bool


def _emit(chip: Chip, how: How, kernel: Kernel) -> Source:
    from firstlight.targets.cambricon.emit import source
    from firstlight.targets.cambricon.lint import check

    made = source(chip, kernel, how.matrix, how.clusters, how.staging)
    check(made.files[f"{kernel.name}.mlu"].decode(), kernel.name, made.launch)
    return made


def _build(chip: Chip, how: How, kernels: Mapping[str, Kernel], folder: Path,
           jobs: int | None = None) -> Sequence[Path]:
    from firstlight.targets.cambricon.build import build

    return build(chip, partial(_emit, chip, how), kernels, folder)


def _emulate(chip: Chip, how: How, kernels: Mapping[str, Kernel], scratch: Path) -> BangExecutor:
    from firstlight.targets.cambricon.executor import BangExecutor

    sources = {name: _emit(chip, how, kernel) for name, kernel in kernels.items()}
    return BangExecutor(chip, sources, scratch)


def _tools() -> tuple[Tool, ...]:
    import shutil

    from firstlight.targets.cambricon.executor import compilers

    found = compilers()
    return (
        Tool("cncc", shutil.which("cncc"), "CNToolkit, from Cambricon"),
        Tool("C++ compiler", " ".join(found[0]) if found else None, "apt-get install g++"),
    )


def _target(chip: Chip, chosen: Mapping[str, str]) -> Target:
    how = How(chosen["matmul"] == "matrix", int(chosen["clusters"]), chosen["staging"] == "sram")
    return Target(
        name=chip.name,
        summary=f"Cambricon {chip.product}: BANG C, executed in an emulator, never on a card",
        tier="C",
        capabilities=Capabilities(
            vector_bytes=64,
            memory=(MemorySpace("gdram"), MemorySpace("sram", chip.sram - RESERVED),
                    MemorySpace("wram", chip.wram), MemorySpace("nram", chip.nram - RESERVED)),
        ),
        requires={"arch": f"mtp_{chip.arch}"},
        emit=partial(_emit, chip, how),
        build=partial(_build, chip, how),
        emulate=partial(_emulate, chip, how),
        launcher="cnrt",
        options=OPTIONS,
        configured=partial(_target, chip),
        tools=_tools,
    )


TARGETS = tuple(_target(chip, {name: option.default for name, option in OPTIONS.items()})
                for chip in CHIPS)
