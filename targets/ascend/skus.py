"""The chips of the family, as data: cores, rates, memory. Sources: docs/targets/ascend-950.md."""

from __future__ import annotations

from dataclasses import dataclass

CLOCK = 1.65e9
"""Cycles a second of cube and vector cores (the platform file of the 958x)."""
UB, L1, L0A, L0B, L0C = 253952, 524288, 65536, 65536, 262144
"""Bytes of a core's memories; of UB, 8 KiB of the 256 are kept by the chip's software."""
CUBE_TILES = {"float32": (16, 8, 16), "bfloat16": (16, 16, 16), "float16": (16, 16, 16),
              "int8": (16, 32, 16)}
"""Rows, depth and columns that a cube core multiplies in a cycle."""


@dataclass(frozen=True)
class Sku:
    """One series of a line.

    Attributes:
        chips: names that the compiler takes, without the line.
        cube, vector: cores.
        gm_bytes: read from global memory a cycle by each cube core.
        memory: bytes of global memory, 0 where no source says.
    """

    line: str
    chips: tuple[str, ...]
    cube: int
    vector: int
    gm_bytes: int
    memory: int = 0

    @property
    def bandwidth(self) -> float:
        """Bytes a second (derived)."""
        return self.gm_bytes * self.cube * CLOCK


SKUS = (
    Sku("Ascend950PR", ("9579", "957a", "957b", "957c", "957d"), 28, 56, 31, 112 * 10**9),
    Sku("Ascend950PR", ("9589", "958a", "958b", "958c", "958d"), 32, 64, 31, 128 * 10**9),
    Sku("Ascend950PR", ("9599", "959a", "959b"), 36, 72, 31),
    Sku("Ascend950DT", tuple(f"957{n}" for n in range(1, 9)), 28, 56, 61),
    Sku("Ascend950DT", tuple(f"958{n}" for n in range(1, 9)), 32, 64, 61, 96 * 2**30),
    Sku("Ascend950DT", ("9591", "9592", "9595", "9596"), 36, 72, 61, 144 * 10**9),
    Sku("Ascend950DT", ("95A1", "95A2"), 36, 72, 61),
)


def sku(chip: str) -> Sku:
    """The series of a chip, e.g. "Ascend950PR_9589". Raises KeyError for an unknown one."""
    line, _, name = chip.partition("_")
    for one in SKUS:
        if one.line == line and name in one.chips:
            return one
    raise KeyError(chip)
