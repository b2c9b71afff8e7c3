"""ONNX as a target: a model as graphs of standard operators, for onnxruntime or any other engine.

`compile --target onnx` writes `prefill.onnx`, `decode.onnx` and `score.onnx` with one data file;
here they run on onnxruntime's CPU provider. Single ops become models of their own, which is how
the conformance kit looks at them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.target import Assembly, Executor, Option, Source, Target, Tool
from firstlight.ir.core import Module, Op
from firstlight.passes.capabilities import Capabilities
from firstlight.runtime.safetensors import Written

if TYPE_CHECKING:
    from firstlight.codegen.onnx.kernel import OnnxKernel

GET = "pip install 'firstlight[onnx]'"
PACKAGES = ("onnx", "onnxruntime")
WEIGHTS = Option(
    values={
        "float32": "as float32: lossless and large",
        "bf16": "as bf16 what bf16 holds exactly (bf16, FP8 and FP4 weights), the rest as float32",
        "packed": "in the bytes of their codecs: DequantizeLinear in blocks, tables for 4-bit codes"
                  " and for what is gathered; lossless",
    },
    refused={
        "float4": "onnxruntime's CPU provider has no DequantizeLinear and no Cast of FLOAT4E2M1 "
                  "(opset 23 has the type); weights=packed keeps the 4-bit codes, as bytes",
        "int2": "INT2 needs opset 25, and no codec has two bits",
        "e8m0": "no DequantizeLinear takes FLOAT8E8M0, Cast from opset 24 on; models are in opset "
                "21, with float32 scales, which hold powers of two exactly",
        "int8": "this is what --quantize int8-g32 makes of weights; weights=packed then keeps it",
        "int4": "this is what --quantize int4-g32 makes of weights; weights=packed then keeps it",
        "fp8": "FP8 weights of a checkpoint stay FP8 with weights=packed",
    },
)


def _generic(symbol: str, op: Op, module: Module) -> Kernel:
    from firstlight.codegen.onnx.kernel import op_kernel

    return op_kernel(symbol, op, module)


def _onnx(kernel: Kernel) -> OnnxKernel:
    from firstlight.codegen.onnx.kernel import OnnxKernel

    assert isinstance(kernel, OnnxKernel)
    return kernel


def _emit(kernel: Kernel) -> Source:
    model = _onnx(kernel)
    return Source({f"{model.name}.onnx": model.model}, model.name, {}, {})


def _build(kernels: Mapping[str, Kernel], folder: Path, jobs: int | None = None) -> Sequence[Path]:
    from firstlight.codegen.onnx.checking import check_bytes

    (folder / "code").mkdir(exist_ok=True)
    written = []
    for name, kernel in kernels.items():
        path = folder / "code" / f"{name}.onnx"
        model = _onnx(kernel).model
        check_bytes(model)
        path.write_bytes(model)
        written.append(path)
    return written


def _emulate(kernels: Mapping[str, Kernel], folder: Path) -> Executor:
    from firstlight.codegen.onnx.running import Runner

    return Runner({name: _onnx(kernel) for name, kernel in kernels.items()})


def _assemble(assembly: Assembly) -> Mapping[str, Written]:
    from firstlight.codegen.onnx.assemble import assemble

    return assemble(assembly)


def _tools() -> Sequence[Tool]:
    return tuple(Tool(name, _version(name), GET) for name in PACKAGES)


def _versions() -> Mapping[str, str]:
    return {name: found for name in PACKAGES if (found := _version(name))}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


TARGETS = (
    Target(
        name="onnx",
        summary="ONNX graphs of standard operators, run by onnxruntime",
        tier="A",
        capabilities=Capabilities(),
        requires={},
        emit=_emit,
        build=_build,
        emulate=_emulate,
        launcher="onnxruntime",
        generic=_generic,
        assemble=_assemble,
        options={"weights": WEIGHTS},
        tools=_tools,
        versions=_versions,
    ),
)
