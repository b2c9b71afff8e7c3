"""The CPU family: x86-64 by feature level, 64-bit Arm, RISC-V; `--target cpu` picks this machine's.

Kernels for another architecture are cross-built, and run here by qemu's user mode.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.target import Executor, Target
from firstlight.runtime import cpu
from firstlight.runtime.errors import FirstlightError
from firstlight.targets.cpu import emulator
from firstlight.targets.cpu.code import Code
from firstlight.targets.cpu.manifest import NATIVE, cpu_target

__all__ = ["NATIVE", "TARGETS", "detect"]

# What each level of the x86-64 psABI adds, in the spelling of /proc/cpuinfo.
V3 = ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe")
V4 = (*V3, "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl")
VNNI = (*V4, "avx512_vnni", "avx512vbmi")
FOUR_BITS = ("fp4e2m1/32:ue8m0", "int4/32:bf16")
FP8 = "fp8e4m3/128x128:ue8m0"


def _x86(name: str, summary: str, features: tuple[str, ...], lanes: int, march: str,
         *attributes: str, extra: str = "", exact: str = "", fast: str) -> Target:
    # LLVM spills 512-bit vectors unless it is told that they are welcome
    code = Code({"mcpu": march, "vector-width": 32 * lanes}
                | ({"mattr": list(attributes)} if attributes else {}), march + extra)
    requires = {"arch": "x86_64", "features": sorted(features)}
    return cpu_target(name, f"x86-64 CPUs with {summary}", code, lanes, requires,
                      partial(_run_here, code, requires), exact=exact, fast=fast)


def _run_here(code: Code, requires: Mapping[str, Any], kernels: Mapping[str, Kernel],
              folder: Path) -> Executor:
    from firstlight.targets.cpu.executor import emulate

    return emulate(code.build, requires, kernels, folder)


def _foreign(name: str, summary: str, code: Code, arch: str, features: tuple[str, ...],
             leave: tuple[str, ...]) -> Target:
    """Vectors of eight float32 are two registers of 128 bits here, and these machines have 32
    registers: as many pairs as AVX2 has registers, so the same kernels fit."""
    return cpu_target(
        name, summary, code, 8, {"arch": arch, "features": sorted(features)},
        partial(emulator.emulate, code), lambda: (emulator.tool(arch),), leave,
    )


def _settled(func: Any) -> Any:
    """`riscv.settled`; TVM is imported when code is made."""
    from firstlight.targets.cpu.riscv import settled

    return settled(func)


ARM = Code({"mtriple": "aarch64-linux-gnu", "mattr": ["+v8.2a", "+dotprod"]}, "armv8.2-a+dotprod")
RISC_V = Code({"mtriple": "riscv64-linux-gnu", "mcpu": "generic-rv64", "mabi": "lp64d",
               "mattr": ["+m", "+a", "+f", "+d", "+c", "+v"]}, "rv64gcv", _settled)

TARGETS = (
    _x86("cpu-x86-64-v3", "AVX2 and FMA", V3, 8, "x86-64-v3", fast="words"),
    # the one feature that tells AMD's cores apart, which multiply subnormal numbers at full speed
    _x86("cpu-x86-64-v3-zen", "AVX2 and FMA, AMD Zen", (*V3, "clzero"), 8, "x86-64-v3",
         exact="lifted", fast="lifted words"),
    _x86("cpu-x86-64-v4", "AVX-512", V4, 16, "x86-64-v4", fast="words"),
    _x86("cpu-x86-64-v4-vnni", "AVX-512 and VNNI (from Ice Lake on)", VNNI, 16,
         "x86-64-v4", "+avx512vnni", "+avx512vbmi", extra="+vnni", fast="vnni"),
    _x86("cpu-x86-64-v4-vnni-zen", "AVX-512 and VNNI, AMD Zen", (*VNNI, "clzero"), 16,
         "x86-64-v4", "+avx512vnni", "+avx512vbmi", extra="+vnni", exact="lifted",
         fast="lifted vnni"),
    # four bits are decoded by an instruction of x86
    _foreign("cpu-aarch64", "64-bit Arm CPUs with dotprod", ARM, "aarch64",
             ("asimd", "asimddp"), FOUR_BITS),
    # and RISC-V has no conversion of float16 without Zvfhmin
    _foreign("cpu-riscv64", "64-bit RISC-V CPUs with vectors (RVV 1.0)", RISC_V, "riscv64", (),
             (*FOUR_BITS, FP8, "f16")),
)


def detect() -> Target:
    """The best target of this machine."""
    have = cpu.features()
    for target in reversed(TARGETS):
        requires = target.requires
        if cpu.architecture() == requires["arch"] and have.issuperset(requires["features"]):
            return target
    raise FirstlightError(
        "F432", "no CPU target fits this machine", where="--target cpu",
        why=f"it is {cpu.architecture()}, and the targets need x86-64 with AVX2 and FMA, 64-bit "
            "Arm with dotprod, or RISC-V with vectors",
        try_="--target cpu-x86-64-v3 to compile for another machine",
    )
