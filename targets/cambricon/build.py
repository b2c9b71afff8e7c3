"""What the owner of a card gets: sources, and the commands for the machine with cncc."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.sources import write_sources
from firstlight.codegen.target import Source
from firstlight.targets.cambricon.chips import Chip

CNCC = "cncc {path} -c --bang-mlu-arch=mtp_{arch} -O3 -std=c++17 -fPIC -o {stem}.o"


def build(chip: Chip, emit: Callable[[Kernel], Source], kernels: Mapping[str, Kernel],
          folder: Path) -> Sequence[Path]:
    """Write the sources of all kernels, and how they are compiled."""
    def command(path: str) -> str:
        stem = path.removesuffix(".mlu")
        return CNCC.format(path=path, arch=chip.arch, stem=stem) if stem != path else ""

    return write_sources(kernels, emit, folder, command)
