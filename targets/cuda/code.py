"""From kernels to cubins: TVM's text of scheduled kernels, compiled for one architecture."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.sources import COMMANDS
from firstlight.codegen.target import Source
from firstlight.passes.capabilities import Capabilities
from firstlight.runtime.errors import FirstlightError
from firstlight.targets.cuda.cubin import kernels as read_cubin
from firstlight.targets.cuda.toolchain import Compiled, commands, compiler

if TYPE_CHECKING:
    from firstlight.codegen.simt import Scheduled

PRELUDE = Path(__file__).with_name("prelude.cuh")
KERNELS_PER_MODULE = 8
"""So many compile in a few seconds, and a model has a module for each process."""
FLOAT_OF = "__uint_as_float"
RECENT = 1 << 10
"""Kernels whose text is kept: one is emitted, and then built."""
FIRST = 'extern "C" __global__'
"""Where kernels begin in TVM's text; what stands before needs the vendor's headers."""


@dataclass(frozen=True)
class Code:
    """One architecture, such as "90", what its chips have, and the most that a kernel may use."""

    arch: str
    capabilities: Capabilities
    limits: Mapping[str, int]

    def emit(self, kernel: Kernel) -> Source:
        """CUDA text of one kernel, and how it is launched. Raises F407 if the chip has less."""
        launches = self.schedule(kernel)
        resources = launches.resources()
        self._check(kernel.name, resources)
        text = f'#include "{PRELUDE.name}"\n{body(launches, self.arch)}'
        files = {f"{kernel.name}.cu": text.encode(), PRELUDE.name: PRELUDE.read_bytes()}
        return Source(files, launches.phases[0].entry, launches.record(), resources)

    def build(self, kernels: Mapping[str, Kernel], folder: Path,
              jobs: int | None = None) -> Sequence[Path]:
        """``code/model-N.cubin`` and ``.ptx``, and ``code/launch.json``.

        Without a compiler ``code/model-N.cu`` and ``code/commands.txt`` instead. Which kernel goes
        into which module depends on the names only. Raises F407, F412.
        """
        from firstlight.codegen.simt.manifest import write_launches

        code = folder / "code"
        code.mkdir(parents=True, exist_ok=True)
        launches = {name: self.schedule(kernels[name]) for name in sorted(kernels)}
        count = -(-len(launches) // KERNELS_PER_MODULE)
        bodies = [body(launch, self.arch) for launch in launches.values()]
        texts = [PRELUDE.read_text() + "".join(bodies[i::count]) for i in range(count)]
        modules = [f"model-{i}" for i in range(count)]
        written = [write_launches(code, launches.values(), [f"{m}.cubin" for m in modules])]
        if compiler() is None:
            return [*written, *self._sources(code, modules, texts)]
        for module, made in zip(modules, self._compile(modules, texts, jobs), strict=True):
            self._check_cubin(made.cubin, launches)
            for suffix, data in (("cubin", made.cubin), ("ptx", made.ptx)):
                written.append(code / f"{module}.{suffix}")
                written[-1].write_bytes(data)
        return written

    def schedule(self, kernel: Kernel) -> Scheduled:
        """The launches of a kernel."""
        from firstlight.codegen.simt import scheduled

        return scheduled(kernel, self.capabilities)

    def _compile(self, modules: Sequence[str], texts: Sequence[str],
                 jobs: int | None) -> list[Compiled]:
        names = [f"{module}.cu" for module in modules]
        work = list(zip(texts, names, [self.arch] * len(names), strict=True))
        jobs = min(jobs or len(os.sched_getaffinity(0)), len(work))
        if jobs <= 1:
            return [_compile(*one) for one in work]
        # processes: the compiler does one thing at a time in each; fork, as everywhere
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(jobs, context) as pool:
            return list(pool.map(_compile, *zip(*work, strict=True)))

    def _sources(self, code: Path, modules: Sequence[str], texts: Sequence[str]) -> list[Path]:
        written, lines = [], []
        for module, text in zip(modules, texts, strict=True):
            written.append(code / f"{module}.cu")
            written[-1].write_text(text)
            lines += [" ".join(line) for line in commands(f"{module}.cu", self.arch)]
        written.append(code / COMMANDS)
        written[-1].write_text("".join(f"{line}\n" for line in lines))
        return written

    def _check_cubin(self, cubin: bytes, launches: Mapping[str, Scheduled]) -> None:
        """What the compiler gave each kernel is there, for a whole group of its threads."""
        made = read_cubin(cubin)
        for launch in launches.values():
            for phase in launch.phases:
                if phase.entry in made:
                    info, threads = made[phase.entry], math.prod(phase.group)
                    self._check(phase.entry, {
                        "shared_bytes": info.shared_bytes, "stack_bytes": info.stack_bytes,
                        "registers": info.registers, "group_registers": info.registers * threads,
                    })

    def _check(self, name: str, used: Mapping[str, int]) -> None:
        for what, amount in used.items():
            if amount > self.limits[what]:
                raise FirstlightError(
                    "F407", f"{name} does not fit the chip", where=name,
                    why=f"it needs {amount} of {self.limits[what]} {what.replace('_', ' ')}",
                    try_="--kernels generic    leaves hand-written kernels out",
                )


@lru_cache(RECENT)
def body(launches: Scheduled, arch: str) -> str:
    """The text of a kernel's functions, without what goes before them."""
    from firstlight.codegen.simt import text

    whole = text(launches, {"kind": "cuda", "arch": f"sm_{arch}"}, FLOAT_OF)
    return whole[whole.index(FIRST):]


def _compile(text: str, name: str, arch: str) -> Compiled:
    """In a child process."""
    found = compiler()
    assert found is not None
    return found.compile(text, name, arch)
