"""What is known of each chip. Sizes in bytes; the smallest that any public source gives."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
RESERVED = 128 * KIB
"""Of NRAM and SRAM, left for the compiler's own use."""


@dataclass(frozen=True)
class Chip:
    """One architecture.

    uncertain   fields that no public document states: the conservative value is used
    division    whether vectors have `__bang_div`
    bf16        whether bf16 numbers can be brought to the matrix unit
    segments    elements of four bytes that rows are a multiple of, where NRAM is moved at a stride
    """

    name: str
    product: str
    arch: int
    nram: int
    wram: int
    sram: int
    division: bool
    bf16: bool
    segments: int = 1
    uncertain: tuple[str, ...] = ()


CHIPS = (
    Chip("cambricon-mlu370", "MLU370", 372, 768 * KIB, 1024 * KIB, 4096 * KIB, division=False,
         bf16=False, segments=32),
    Chip("cambricon-mlu590", "MLU590", 592, 512 * KIB, 512 * KIB, 2048 * KIB, division=True,
         bf16=True, uncertain=("nram", "wram", "sram")),
)
