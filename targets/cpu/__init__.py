"""The CPU family: x86-64 by feature level, `--target cpu` picks the one of this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.target import Override, Source, Target, Tool
from firstlight.passes.capabilities import Capabilities
from firstlight.runtime import cpu
from firstlight.runtime.errors import FirstlightError
from firstlight.targets.cpu.packer import TilePacker
from firstlight.targets.cpu.toolchain import drivers, link

# What each level of the x86-64 psABI adds, in the spelling of /proc/cpuinfo.
V3 = ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe")
V4 = (*V3, "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl")


# The ops with a hand-written kernel: the keys of `overrides.FACTORIES`, known without TVM.
NATIVE = frozenset({
    "compress", "embedding", "expert_ffn", "group_linear", "hybrid_attention", "hyper_head",
    "hyper_post", "hyper_pre", "index_select", "linear", "linears", "norm_rope", "rms_norm", "rope",
    "route", "route_hash",
})


def _versions() -> Mapping[str, str]:
    from firstlight.codegen.tvm_bridge import versions

    return versions()


def _tools() -> Sequence[Tool]:
    found = drivers()
    where = " ".join(found[0]) if found else None
    return (Tool("C compiler and linker", where, "pip install 'firstlight[compile]'"),)


def _target(level: str, features: tuple[str, ...], lanes: int) -> Target:
    march = f"x86-64-{level}"

    # LLVM spills 512-bit vectors unless it is told that they are welcome
    options = {"mcpu": march, "vector-width": 32 * lanes}

    def hand_written() -> Mapping[str, Override]:
        from firstlight.targets.cpu.overrides import overrides

        return overrides(lanes)

    def build(kernels: Mapping[str, Kernel], folder: Path,
              jobs: int | None = None) -> Sequence[Path]:
        from firstlight.codegen.tvm_bridge import build_objects

        code = folder / "code"
        code.mkdir()
        functions = {name: kernel.func for name, kernel in kernels.items()}
        built = build_objects(functions, options, code, jobs)
        link(built, code / "model.so", march)
        for path in built:
            path.unlink()
        return [code / "model.so"]

    def emit(kernel: Kernel) -> Source:
        from firstlight.codegen.tvm_bridge import compile_module

        text = compile_module({kernel.name: kernel.func}, options).inspect_source("ll")
        return Source({f"{kernel.name}.ll": text.encode()}, f"__tvm_ffi_{kernel.name}", {}, {})

    return Target(
        name=f"cpu-{march}",
        summary=f"x86-64 CPUs with {'AVX-512' if level == 'v4' else 'AVX2 and FMA'}",
        tier="A",
        capabilities=Capabilities(native=NATIVE, vector_bytes=4 * lanes),
        requires={"arch": "x86_64", "features": sorted(features)},
        emit=emit,
        build=build,
        launcher="cpu",
        overrides=hand_written,
        packer=TilePacker(),
        tools=_tools,
        versions=_versions,
    )


TARGETS = (_target("v3", V3, 8), _target("v4", V4, 16))


def detect() -> Target:
    """The best target of this machine."""
    have = cpu.features()
    for target in reversed(TARGETS):
        if cpu.architecture() == "x86_64" and have.issuperset(target.requires["features"]):
            return target
    raise FirstlightError(
        "F432", "no CPU target fits this machine", where="--target cpu",
        why=f"it is {cpu.architecture()}, and the targets need x86-64 with AVX2 and FMA",
        try_="--target cpu-x86-64-v3 to compile for another machine",
    )
