"""Cambricon MLU: BANG C text for every op, executed in an emulator. No vendor compiler is here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.sources import write_sources
from firstlight.codegen.target import Source, Target, Tool
from firstlight.passes.capabilities import Capabilities, MemorySpace
from firstlight.targets.cambricon.chips import CHIPS, RESERVED, Chip

if TYPE_CHECKING:
    from firstlight.targets.cambricon.executor import BangExecutor

CNCC = "cncc {path} -c --bang-mlu-arch=mtp_{arch} -O3 -std=c++17 -fPIC -o {stem}.o"


def emit(chip: Chip, kernel: Kernel) -> Source:
    """One kernel as BANG C, which the linter has read."""
    from firstlight.targets.cambricon.lint import check
    from firstlight.targets.cambricon.printer import BangPrinter

    source = BangPrinter(chip).source(kernel)
    check(source.files[f"{kernel.name}.mlu"].decode(), kernel.name)
    return source


def build(chip: Chip, kernels: Mapping[str, Kernel], folder: Path,
          jobs: int | None = None) -> Sequence[Path]:
    """Sources, and the command lines for a machine that has cncc."""
    def command(path: str) -> str:
        stem = path.removesuffix(".mlu")
        return CNCC.format(path=path, arch=chip.arch, stem=stem) if stem != path else ""

    return write_sources(kernels, partial(emit, chip), folder, command)


def emulate(chip: Chip, kernels: Mapping[str, Kernel], scratch: Path) -> BangExecutor:
    """The emitted text in the emulator."""
    from firstlight.targets.cambricon.executor import BangExecutor

    sources = {name: emit(chip, kernel) for name, kernel in kernels.items()}
    return BangExecutor(chip, sources, scratch)


def tools() -> tuple[Tool, ...]:
    """The vendor's compiler, which is not public, and a C++ compiler for the emulator."""
    import shutil

    from firstlight.targets.cambricon.executor import compilers

    found = compilers()
    return (
        Tool("cncc", shutil.which("cncc"), "CNToolkit, from Cambricon"),
        Tool("C++ compiler", " ".join(found[0]) if found else None, "apt-get install g++"),
    )


def _target(chip: Chip) -> Target:
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
        emit=partial(emit, chip),
        build=partial(build, chip),
        emulate=partial(emulate, chip),
        launcher="cnrt",
        tools=tools,
    )


TARGETS = tuple(map(_target, CHIPS))
