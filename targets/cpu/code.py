"""From kernels to machine code, for every instruction set of the family."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.target import Source
from firstlight.targets.cpu.toolchain import RUNNER, link, link_executable

if TYPE_CHECKING:
    from firstlight.codegen.tvm_bridge import PrimFunc


def _without_addresses(text: str) -> str:
    """LLVM text with buffers named by their order: TVM's alias metadata names them by address."""
    names: dict[str, str] = {}
    return re.sub(r'(?<=!")0x[0-9a-f]+', lambda m: names.setdefault(m[0], f"b{len(names)}"), text)


@dataclass(frozen=True)
class Code:
    """One instruction set: LLVM's options, and its name in `toolchain.MACHINES`.

    `change`, if there is one, is applied to every kernel.
    """

    options: Mapping[str, Any]
    march: str
    change: Callable[[PrimFunc], PrimFunc] | None = None

    def emit(self, kernel: Kernel) -> Source:
        """LLVM text of one kernel."""
        from firstlight.codegen.tvm_bridge import compile_module

        text = compile_module(self._functions({kernel.name: kernel}), self.options
                              ).inspect_source("ll")
        text = _without_addresses(text)
        return Source({f"{kernel.name}.ll": text.encode()}, f"__tvm_ffi_{kernel.name}", {}, {})

    def build(self, kernels: Mapping[str, Kernel], folder: Path,
              jobs: int | None = None) -> Sequence[Path]:
        """``code/model.so``: all kernels and the launcher."""
        return self._build(kernels, folder, jobs, False)

    def runner(self, kernels: Mapping[str, Kernel], folder: Path,
               jobs: int | None = None) -> Sequence[Path]:
        """``code/model.so`` and ``firstlight-run``, from the same objects."""
        return self._build(kernels, folder, jobs, True)

    def executable(self, kernels: Mapping[str, Kernel], main: Path, out: Path,
                   jobs: int | None = None) -> None:
        """Kernels and a C source with `main` as one static executable; objects lie beside it."""
        link_executable(self._objects(kernels, out.parent, jobs), kernels, main, out, self.march)

    def _build(self, kernels: Mapping[str, Kernel], folder: Path, jobs: int | None,
               runner: bool) -> Sequence[Path]:
        code = folder / "code"
        code.mkdir()
        built = self._objects(kernels, code, jobs)
        written = [code / "model.so"]
        link(built, written[0], self.march)
        if runner:
            written.append(folder / "firstlight-run")
            link_executable(built, kernels, RUNNER, written[1], self.march)
        for path in built:
            path.unlink()
        return written

    def _objects(self, kernels: Mapping[str, Kernel], folder: Path,
                 jobs: int | None) -> Sequence[Path]:
        from firstlight.codegen.objects import build_objects

        return build_objects(self._functions(kernels), self.options, folder, jobs)

    def _functions(self, kernels: Mapping[str, Kernel]) -> dict[str, PrimFunc]:
        change = self.change or (lambda func: func)
        return {name: change(kernel.func) for name, kernel in kernels.items()}
