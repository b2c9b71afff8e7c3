"""From kernels to the abacus' language, and from there to something that runs here."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from firstlight.codegen.c_compiler import compile_c
from firstlight.codegen.emulator import CEmulator
from firstlight.codegen.kernel import Kernel
from firstlight.codegen.sources import write_sources
from firstlight.codegen.target import Source

SCRATCH = 64 * 1024
WORDS = Path(__file__).with_name("abacus.h")


def emit(kernel: Kernel) -> Source:
    """One kernel as text."""
    from firstlight.codegen.printer import VectorPrinter  # TVM is imported when code is made

    class AbacusPrinter(VectorPrinter):
        """The shared printer, with the chip's words."""

        header = "abacus.h"
        head = "__bead__ void {name}({parameters})"

        def header_text(self) -> bytes:
            return WORDS.read_bytes() + super().header_text()

        def word(self, operation: str, element: str = "") -> str:
            return operation.replace("vec_", "bead_").replace("dma_", "rod_")

    return AbacusPrinter(SCRATCH // 2).source(kernel)


def build(kernels: Mapping[str, Kernel], folder: Path, jobs: int | None = None) -> Sequence[Path]:
    """Sources, the command that the chip's host would run, and the code it gives."""
    written = write_sources(kernels, emit, folder, lambda path: "")
    code = folder / "code"
    names = sorted(path.name for path in written if path.suffix == ".c")
    (code / "kernels.c").write_text("".join(f'#include "{name}"\n' for name in names))
    return [*written, code / "kernels.c", compile_c(code / "kernels.c", code / "kernels.so")]


def emulate(kernels: Mapping[str, Kernel], scratch: Path) -> CEmulator:
    """The emitted text, compiled for this machine."""
    return CEmulator({name: emit(kernel) for name, kernel in kernels.items()}, scratch)
