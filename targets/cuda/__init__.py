"""NVIDIA GPUs by compute capability: cubins made offline, launched through the driver's library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.simt.overrides import NATIVE, overrides
from firstlight.codegen.target import Executor, Target, Tool
from firstlight.passes.capabilities import Capabilities, MemorySpace, Threads
from firstlight.runtime.errors import FirstlightError
from firstlight.targets.cuda.code import Code
from firstlight.targets.cuda.toolchain import compiler, requirements

__all__ = ["TARGETS", "detect"]

# "Technical Specifications per Compute Capability" of the CUDA C++ Programming Guide; these are
# the same from 8.0 to 10.0. Shared memory: of a group, declared statically.
LIMITS = {
    "group_threads": 1024, "shared_bytes": 48 << 10, "stack_bytes": 512 << 10,
    "registers": 255, "group_registers": 64 << 10,
}
CAPABILITIES = Capabilities(
    native=NATIVE,
    vector_bytes=16,        # the widest load of a thread
    memory=(MemorySpace("device", align=256), MemorySpace("shared", LIMITS["shared_bytes"]),
            MemorySpace("stack", LIMITS["stack_bytes"])),
    threads=Threads(group=128, most=LIMITS["group_threads"], warp=32),
)
CHIPS = {"80": "A100", "90": "H100, H200", "100": "B200"}
"""Compute capability without its dot -> who has it."""


class Requirements(Mapping[str, Any]):
    """What an artifact needs. The compiler is looked for when somebody wants to know."""

    def __init__(self, arch: str) -> None:
        self.arch = arch

    def __getitem__(self, key: str) -> Any:
        return requirements(self.arch)[key]

    def __iter__(self) -> Iterator[str]:
        return iter(requirements(self.arch))

    def __len__(self) -> int:
        return len(requirements(self.arch))


def _target(arch: str, chips: str) -> Target:
    code, needs = Code(arch, CAPABILITIES, LIMITS), Requirements(arch)

    def emulate(kernels: Mapping[str, Kernel], folder: Path) -> Executor | None:
        from firstlight.targets.cuda.executor import elsewhere, on_gpu

        return on_gpu(code, needs, kernels, folder) or elsewhere(code, kernels, folder)

    return Target(
        name=f"cuda-sm{arch}",
        summary=f"NVIDIA GPUs of compute capability {arch[:-1]}.{arch[-1]} ({chips})",
        tier="B", capabilities=CAPABILITIES, requires=needs,
        emit=code.emit, build=code.build, emulate=emulate, launcher="libcuda",
        overrides=lambda: overrides(CAPABILITIES), tools=_tools, versions=_versions,
    )


def _tools() -> Sequence[Tool]:
    found = compiler()
    return (Tool("CUDA compiler", found.name if found else None,
                 "pip install 'firstlight[compile,cuda]'    or nvcc of the CUDA toolkit"),)


def _versions() -> Mapping[str, str]:
    from firstlight.codegen.tvm_bridge import versions

    found = compiler()
    return {**versions(), **({"cuda": "{}.{}".format(*found.version)} if found else {})}


TARGETS = tuple(_target(arch, chips) for arch, chips in CHIPS.items())


def detect() -> Target:
    """The target of the GPU here. Raises F432 without one."""
    from firstlight.targets.cuda.executor import capability

    have = capability()
    for target in reversed(TARGETS):
        major, minor = map(int, target.requires["compute_capability"].split("."))
        if have is not None and have[0] == major and have[1] >= minor:
            return target
    raise FirstlightError(
        "F432", "no target of this family fits this machine", where="--target cuda",
        why=f"its GPU has compute capability {have[0]}.{have[1]}" if have
            else "there is no driver or no GPU here, and none is needed to compile",
        try_=f"--target {TARGETS[1].name}    or another of {', '.join(t.name for t in TARGETS)}",
    )
