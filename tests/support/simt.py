"""Kernels of chips with threads, run by whatever OpenCL device is here."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from firstlight.codegen.generic import generic_kernel
from firstlight.codegen.kernel import Kernel
from firstlight.codegen.simt import Scheduled, scheduled
from firstlight.codegen.target import Executor, Tool
from firstlight.ir.core import Module
from firstlight.passes.capabilities import Capabilities, MemorySpace, Threads
from firstlight.targets import find


def chip(scratch: int = 32 << 10, **threads: int) -> Capabilities:
    """Some chip: bytes of group memory, and fields of `Threads`."""
    return Capabilities(memory=(MemorySpace("device"), MemorySpace("shared", scratch)),
                        threads=replace(Threads(), **threads))


def generic(name: str, module: Module) -> Kernel:
    """The generic kernel of the last op of `main`."""
    return generic_kernel(name, module["main"].ops[-1], module)


def needs_opencl() -> None:
    """Skip the test where no OpenCL device works."""
    tool = _device()
    if tool.found is None:
        pytest.skip(f"needs an OpenCL device that works: {tool.get}")


@cache
def _device() -> Tool:
    (tool,) = find("opencl").tools()
    return tool


def executor(folder: Path, *launches: Scheduled) -> Executor:
    """What runs them; the test is skipped where nothing does."""
    needs_opencl()
    target = find("opencl")
    scratch = Path(tempfile.mkdtemp(dir=folder))
    made = target.execute({one.name: one for one in launches}.__getitem__, scratch)
    assert made is not None
    return made


def call(folder: Path, kernel: Kernel, capabilities: Capabilities, operands: Sequence[np.ndarray],
         result: tuple[tuple[int, ...], type], tokens: int) -> np.ndarray:
    """The one result (shape, dtype) of a kernel, scheduled for a chip."""
    out = np.full(*result[:1], 77, result[1])
    executor(folder, scheduled(kernel, capabilities)).run(
        kernel.name, [*map(np.ascontiguousarray, operands), out], tokens)
    return out
