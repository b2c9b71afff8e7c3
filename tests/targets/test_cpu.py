"""The CPU family's manifest agrees with its kernels."""

from firstlight.targets import cpu
from firstlight.targets.cpu.overrides import FACTORIES


def test_native_ops_are_those_with_a_factory():
    assert cpu.NATIVE == set(FACTORIES)
    assert all(target.capabilities.native == cpu.NATIVE for target in cpu.TARGETS)
