"""Chips that do not exist: the compiler is tested on them.

`null` has everything, and its kernels are SIMT-like text. `null-pretend` is as awkward as a chip
may be: 4 KiB of scratch for a core, launches in one dimension only, no bf16 in memory (such weights
are widened), and no way to do some ops. Neither runs anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.sources import write_sources
from firstlight.codegen.target import Override, Source, Target, Tool
from firstlight.ir.registry import TABLE
from firstlight.passes.capabilities import Capabilities, MemorySpace
from firstlight.runtime.errors import FirstlightError
from firstlight.targets.null.widen import WIDENED, WideningPacker, widened

if TYPE_CHECKING:
    from firstlight.codegen.printer import CPrinter

SCRATCH = 4096
NO_COMPILER = (Tool("compiler", None, "there is none: the chip does not exist"),)
MISSING = {
    "compress": "a whole compressor does not fit 4 KiB of scratch",
    "expert_ffn": "no indirect calls: experts are chosen op by op",
    "hybrid_attention": "window and entries together do not fit 4 KiB of scratch",
    "hyper_pre": "the Sinkhorn rounds need a barrier between cores",
    "norm_rope": "sines and a reduction cannot be in one kernel",
    "hadamard": "no instruction counts bits",
}


def _emit(kernel: Kernel) -> Source:
    from firstlight.codegen.printer import SimtPrinter

    return SimtPrinter().source(kernel)


def _emit_pretend(kernel: Kernel) -> Source:
    from firstlight.codegen.printer import VectorPrinter

    printer: CPrinter = VectorPrinter(SCRATCH // 4)
    source = printer.source(kernel)
    if source.resources["scratch_bytes"] > SCRATCH:
        raise FirstlightError(
            "F407", f"{kernel.name} does not fit the scratch memory", where=kernel.name,
            why=f"it needs {source.resources['scratch_bytes']} of {SCRATCH} bytes",
            try_="declare the op missing, so that it is decomposed",
        )
    return source


def _build(kernels: Mapping[str, Kernel], folder: Path, jobs: int | None = None) -> Sequence[Path]:
    return write_sources(kernels, _emit, folder, lambda path: _command(path, "simt"))


def _build_pretend(kernels: Mapping[str, Kernel], folder: Path,
                   jobs: int | None = None) -> Sequence[Path]:
    return write_sources(kernels, _emit_pretend, folder, lambda path: _command(path, "tasks"))


def _command(path: str, language: str) -> str:
    return f"nullcc -x {language} -c {path}" if path.endswith(".c") else ""


def _overrides() -> Mapping[str, Override]:
    return {name: widened for name in TABLE if name not in ("call", "repeat", *MISSING)}


TARGETS = (
    Target(
        name="null",
        summary="No chip: kernels as SIMT-like text, nothing runs",
        tier="D",
        capabilities=Capabilities(),
        requires={},
        emit=_emit,
        build=_build,
        launcher="none",
        tools=lambda: NO_COMPILER,
    ),
    Target(
        name="null-pretend",
        summary=f"No chip, an awkward one: {SCRATCH // 1024} KiB scratch, no bf16, one dimension",
        tier="D",
        capabilities=Capabilities(memory=(MemorySpace("host"), MemorySpace("scratch", SCRATCH))),
        requires={"grid_dimensions": 1, "storage": WIDENED},
        emit=_emit_pretend,
        build=_build_pretend,
        launcher="none",
        missing=MISSING,
        overrides=_overrides,
        packer=WideningPacker(),
        tools=lambda: NO_COMPILER,
    ),
)
