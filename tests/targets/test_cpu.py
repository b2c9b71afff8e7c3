"""The CPU family's manifest agrees with its kernels, and its launcher is C for every machine."""

from pathlib import Path

import pytest

from firstlight.codegen.c_compiler import drivers
from firstlight.codegen.select import KernelSet
from firstlight.ir import dims
from firstlight.ir.builder import Builder
from firstlight.ir.core import Module
from firstlight.ir.dims import B, S
from firstlight.ir.types import TensorType
from firstlight.targets import cpu
from firstlight.targets.cpu.overrides import FACTORIES
from firstlight.targets.cpu.toolchain import MACHINES, link


def test_native_ops_are_those_with_a_factory():
    assert cpu.NATIVE == set(FACTORIES)
    assert all(target.capabilities.native == cpu.NATIVE for target in cpu.TARGETS)


@pytest.mark.parametrize(("rows", "fits"), [(S, True), (1, False), (8, True), (5, False),
                                            (dims.floordiv(S, 4), False), (dims.add(S, 3), False)])
def test_kernels_are_for_a_row_of_each_token(rows, fits):
    """The blocks of a compressor that is not fused are fewer: S rows would be past them."""
    builder = Builder("main")
    x = builder.arg(TensorType((B, rows, 16)), "x")
    op = builder.emit("rms_norm", x, loc="a", eps=1e-6)
    (target,) = [t for t in cpu.TARGETS if t.name == "cpu-x86-64-v3"]
    assert (KernelSet(target).override(op, Module(), 8) is not None) == fits


@pytest.mark.parametrize("march", [name for name, m in MACHINES.items() if m.arch != "x86_64"])
def test_the_launcher_is_compiled_for_machines_that_are_not_here(march: str, tmp_path: Path):
    if not any("ziglang" in driver for driver in drivers()):
        pytest.skip("ziglang is not installed, which compiles for other machines")
    link([], tmp_path / "model.so", march)
    assert (tmp_path / "model.so").read_bytes()[:4] == b"\x7fELF"
