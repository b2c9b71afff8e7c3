"""The CPU family's manifest agrees with its kernels, and its launcher is C for every machine."""

from pathlib import Path

import pytest

from firstlight.codegen.c_compiler import drivers
from firstlight.targets import cpu
from firstlight.targets.cpu.overrides import FACTORIES
from firstlight.targets.cpu.toolchain import MACHINES, link


def test_native_ops_are_those_with_a_factory():
    assert cpu.NATIVE == set(FACTORIES)
    assert all(target.capabilities.native == cpu.NATIVE for target in cpu.TARGETS)


@pytest.mark.parametrize("march", [name for name, m in MACHINES.items() if m.arch != "x86_64"])
def test_the_launcher_is_compiled_for_machines_that_are_not_here(march: str, tmp_path: Path):
    if not any("ziglang" in driver for driver in drivers()):
        pytest.skip("ziglang is not installed, which compiles for other machines")
    link([], tmp_path / "model.so", march)
    assert (tmp_path / "model.so").read_bytes()[:4] == b"\x7fELF"
