"""OpenCL devices: TVM's OpenCL text, compiled on the machine that runs it by the device's driver.

One target for all devices of version 1.2 and later: group sizes and scratch are what every one of
them has, and the source is what is shipped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.simt.overrides import NATIVE, overrides
from firstlight.codegen.target import Executor, Source, Target, Tool
from firstlight.passes.capabilities import Capabilities, MemorySpace, Threads

if TYPE_CHECKING:
    from firstlight.codegen.simt import Scheduled

# 32 KiB of group memory are the least of a device of the full profile; so are 256 threads in
# practice.
CAPABILITIES = Capabilities(
    native=NATIVE,
    memory=(MemorySpace("host"), MemorySpace("shared", 32 << 10)),
    threads=Threads(group=64, most=256),
)


def _emit(kernel: Kernel) -> Source:
    from firstlight.targets.opencl.source import emit

    return emit(kernel, CAPABILITIES)


def _build(kernels: Mapping[str, Kernel], folder: Path, jobs: int | None = None) -> Sequence[Path]:
    from firstlight.targets.opencl.source import build

    return build(kernels, folder, CAPABILITIES)


def _emulate(kernels: Mapping[str, Kernel], folder: Path) -> Executor | None:
    from firstlight.codegen.simt import scheduled
    from firstlight.targets.opencl.executor import executor

    return executor(lambda name: scheduled(kernels[name], CAPABILITIES), folder)


def _execute(schedule: Callable[[str], Scheduled], folder: Path) -> Executor | None:
    from firstlight.targets.opencl.executor import executor

    return executor(schedule, folder)


def _tools() -> Sequence[Tool]:
    from firstlight.targets.opencl.executor import device

    return (Tool("OpenCL device", *device()),)


def _versions() -> Mapping[str, str]:
    from firstlight.codegen.tvm_bridge import versions

    return versions()


TARGETS = (
    Target(
        name="opencl",
        summary="OpenCL 1.2 devices: GPUs, and CPUs through PoCL",
        tier="A",
        capabilities=CAPABILITIES,
        requires={},
        emit=_emit,
        build=_build,
        emulate=_emulate,
        execute=_execute,
        launcher="opencl",
        overrides=lambda: overrides(CAPABILITIES),
        tools=_tools,
        versions=_versions,
    ),
)
