"""Huawei Ascend 950: compiled by the vendor's own compiler as far as it goes without CANN.

Generic kernels become tiles in MLIR (`nests`, `schedule`, `functions`), ``bishengir-compile-a5``
lowers them to the chip's intrinsics (`compiler`, `build`), and the lowered code runs here
(`emulator`) without a card.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.target import Executor, Option, Override, Source, Target, Tool
from firstlight.ir.types import BLOCK_FP8, GROUP_FP4
from firstlight.passes.capabilities import Capabilities, MemorySpace
from firstlight.targets.ascend.attention import hybrid_attention
from firstlight.targets.ascend.mx import EXPERTS, FP8, Extern, MxPacker, extern, overrides
from firstlight.targets.ascend.skus import L0A, L0B, L0C, L1, SKUS, UB, sku

DEFAULT = {"ascend-950pr": "Ascend950PR_9589", "ascend-950dt": "Ascend950DT_9582"}


def _emit(kernel: Kernel) -> Source:
    from firstlight.targets.ascend.emit import source

    return source(kernel)


def _build(chip: str, kernels: Mapping[str, Kernel], folder: Path,
           jobs: int | None = None) -> Sequence[Path]:
    from firstlight.targets.ascend.build import build

    return build(chip, kernels, folder, jobs)


def _emulate(chip: str, kernels: Mapping[str, Kernel], folder: Path) -> Executor | None:
    from firstlight.targets.ascend.execute import emulate

    if any(isinstance(kernel, Extern) for kernel in kernels.values()):
        return None
    return emulate(chip, kernels)


def _tools() -> Sequence[Tool]:
    from firstlight.targets.ascend.compiler import KNOWN, PACKAGE, compiler, digest
    from firstlight.targets.ascend.emulator_build import tools

    found = compiler()
    known = "" if found is None else KNOWN.get(digest(found), "not a known one")
    return (Tool("bishengir-compile-a5", None if found is None else str(found),
                 f"pip install 'firstlight[ascend]' ({PACKAGE})", known), *tools(),
            Tool("hivmc-a5", shutil.which("hivmc-a5"),
                 "CANN 9.1 or later, on the machine with the card"))


def _versions() -> Mapping[str, str]:
    from firstlight.codegen.tvm_bridge import versions
    from firstlight.targets.ascend.compiler import compiler, digest

    found = compiler()
    return {**versions(), **({} if found is None else {"bishengir-compile-a5": digest(found)})}


def _overrides(values: Mapping[str, str]) -> Mapping[str, Override]:
    formats = [codec for codec, name in ((GROUP_FP4, "experts"), (BLOCK_FP8, "fp8"))
               if values[name] == "mxfp8"]
    bound = {"expert_linear": extern} if values["experts"] == "extern" else {}
    return {"hybrid_attention": hybrid_attention, **overrides(formats), **bound}


def _options(chip: str) -> Mapping[str, Option]:
    """What `--option` can choose; `chip` is the default."""
    line = sku(chip).line
    chips = {f"{s.line}_{c}": f"{s.cube} cube and {s.vector} vector cores"
             for s in SKUS if s.line == line for c in s.chips}
    return {"chip": Option({chip: chips[chip], **chips}), "experts": Option(EXPERTS),
            "fp8": Option(FP8)}


def _target(name: str, values: Mapping[str, str]) -> Target:
    """A target with a value for each option."""
    chip = values["chip"]
    series = sku(chip)
    missing = {"expert_ffn": "its products are the vendor's op, one by one (experts=extern)"}
    return Target(
        name=name,
        summary=f"{chip}: {series.cube} cube and {series.vector} vector cores",
        tier="B+",
        capabilities=Capabilities(vector_bytes=256, memory=(
            MemorySpace("gm", series.memory, 512), MemorySpace("l1", L1, 32),
            MemorySpace("l0a", L0A, 32), MemorySpace("l0b", L0B, 32), MemorySpace("l0c", L0C, 512),
            MemorySpace("ub", UB, 32))),
        requires={"chip": chip, "cann": ">= 9.1"},
        emit=_emit,
        build=partial(_build, chip),
        emulate=partial(_emulate, chip),
        launcher="acl",
        options=_options(DEFAULT[name]),
        configured=partial(_target, name),
        missing=missing if values["experts"] == "extern" else {},
        overrides=partial(_overrides, values),
        packer=MxPacker(),
        tools=_tools,
        versions=_versions,
    )


TARGETS = tuple(_target(name, {option: choice.default for option, choice in _options(chip).items()})
                for name, chip in DEFAULT.items())
