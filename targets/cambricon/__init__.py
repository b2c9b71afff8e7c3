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
from firstlight.codegen.target import Option, Override, Source, Target, Tool
from firstlight.passes.capabilities import Capabilities, MemorySpace
from firstlight.targets.cambricon.chips import CHIPS, RESERVED, Chip

if TYPE_CHECKING:
    from firstlight.targets.cambricon.executor import BangExecutor


MATMUL = {"matrix": "products by the matrix unit: reshape_filter, NRAM2WRAM, matmul",
          "vector": "products by vector instructions, should WRAM not be as we believe",
          "bf16": "products by the matrix unit, of bf16 numbers where that rounds nothing"}
NO_BF16 = "reshape_filter has no bf16 before mtp_500, and no other way to the matrix unit is known"


CLUSTERS = Option({"1": "four cores work on a kernel", "2": "eight", "4": "sixteen",
                   "8": "thirty-two: a chip must have as many clusters"})


STAGING = Option({"sram": "what the cores of a cluster share is fetched once, by its memory core",
                  "none": "each core fetches what it needs"})


def options(chip: Chip) -> Mapping[str, Option]:
    """What can be chosen for a chip."""
    refused = {} if chip.bf16 else {"bf16": NO_BF16}
    return {"clusters": CLUSTERS, "matmul": Option(MATMUL, refused), "staging": STAGING}


@dataclass(frozen=True)
class How:
    """What options choose: the matrix unit or vectors, how many clusters, SRAM or not, bf16."""

    matrix: bool
    clusters: int
    staging: bool
    bf16: bool


def _emit(chip: Chip, how: How, kernel: Kernel) -> Source:
    from firstlight.targets.cambricon.emit import source
    from firstlight.targets.cambricon.lint import check

    made = source(chip, kernel, how.matrix, how.clusters, how.staging, how.bf16)
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


def _overrides() -> Mapping[str, Override]:
    from firstlight.targets.cambricon.attention import hybrid_attention

    return {"hybrid_attention": hybrid_attention}


def _tools() -> tuple[Tool, ...]:
    import shutil

    from firstlight.targets.cambricon.executor import compilers

    found = compilers()
    return (
        Tool("cncc", shutil.which("cncc"), "CNToolkit, from Cambricon"),
        Tool("C++ compiler", " ".join(found[0]) if found else None, "apt-get install g++"),
    )


def _target(chip: Chip, chosen: Mapping[str, str]) -> Target:
    how = How(chosen["matmul"] != "vector", int(chosen["clusters"]), chosen["staging"] == "sram",
              chosen["matmul"] == "bf16")
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
        options=options(chip),
        overrides=_overrides,
        configured=partial(_target, chip),
        tools=_tools,
    )


TARGETS = tuple(_target(chip, {name: option.default for name, option in options(chip).items()})
                for chip in CHIPS)
