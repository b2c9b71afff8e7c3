"""Cubins made here, with no GPU: by NVRTC, by nvcc, or not at all."""

import ctypes
import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from firstlight.codegen.c_compiler import compile_c
from firstlight.runtime.errors import FirstlightError
from firstlight.targets import find
from firstlight.targets.cuda import CHIPS, cubin, toolchain

from .conftest import kernels


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (folder / "code").iterdir()}


def test_twice_gives_the_same_bytes(built: Path, tmp_path: Path) -> None:
    find("cuda-sm90").build(kernels(), tmp_path, 2)
    assert files(tmp_path) == files(built)
    assert set(files(built)) == {"launch.json", "model-0.cubin", "model-0.ptx"}


@pytest.mark.parametrize("arch", CHIPS)
def test_a_cubin_says_what_its_kernels_use(arch: str, built: Path, tmp_path: Path) -> None:
    folder = built
    if arch != "90":
        folder = tmp_path
        find(f"cuda-sm{arch}").build(kernels(), folder, 1)
    code = (folder / "code/model-0.cubin").read_bytes()
    assert int.from_bytes(code[48:52], "little") >> 8 & 255 == int(arch)
    found = cubin.kernels(code)
    table = json.loads((folder / "code/launch.json").read_text())["kernels"]
    launches = {x["entry"]: x for k in table.values() for x in k["launches"]}
    assert found.keys() == launches.keys()
    for name, info in found.items():
        assert info.parameters == [4 if a == "S" else 8 for a in launches[name]["args"]]
        assert 0 < info.registers <= 255
        assert info.stack_bytes == 0              # nothing spilled
    ptx = (folder / "code/model-0.ptx").read_text()
    assert f".target sm_{arch}" in ptx


@pytest.mark.parametrize("data", [b"", b"\x7fELF" + bytes(60), b"\x7fELF" + b"\xbe" * 200])
def test_other_files_are_no_cubins(data: bytes) -> None:
    with pytest.raises(ValueError, match="no cubin"):
        cubin.kernels(data)


def test_weights_stay_packed() -> None:
    """FP4 codes are read as the bytes that they are, and decoded in registers."""
    text = find("cuda-sm90").emit(kernels()["linear"]).files["linear.cu"].decode()
    head = next(line for line in text.splitlines() if "linear_0(" in line)
    assert "uchar* w" in head


def test_the_text_needs_no_header_of_the_vendor() -> None:
    source = find("cuda-sm90").emit(kernels()["rms_norm"])
    included = {line for text in source.files.values() for line in text.decode().splitlines()
                if line.startswith("#include")}
    assert included == {'#include "prelude.cuh"', "#include <stdint.h>"}
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert [r.split(">")[0] for r in project["optional-dependencies"]["cuda"]] == [
        "nvidia-cuda-nvrtc"]


def test_a_refused_source_is_four_lines(built: Path) -> None:
    compiler = toolchain.compiler()
    with pytest.raises(FirstlightError) as caught:
        compiler.compile("__global__ void f() { g(); }", "model-0.cu", "90")
    assert caught.value.code == "F412"
    assert "model-0.cu(1): error: identifier \"g\" is undefined" in caught.value.why
    with pytest.raises(FirstlightError, match="F412"):
        compiler.compile("", "model-0.cu", "17")


def test_nvcc_is_the_second_choice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = shutil.which("nvcc")
    if not found:
        pytest.skip("nvcc is not here")
    monkeypatch.setattr(toolchain, "_nvrtc_libraries", list)
    toolchain.compiler.cache_clear()
    try:
        assert isinstance(toolchain.compiler(), toolchain.Nvcc)
        target = find("cuda-sm80")
        target.build(kernels(), tmp_path, 1)
        assert target.requires["cuda"] == f"{toolchain.compiler().version[0]}.0"
        assert "relu_0" in cubin.kernels(files(tmp_path)["model-0.cubin"])
        assert b".target sm_80" in files(tmp_path)["model-0.ptx"]
    finally:
        toolchain.compiler.cache_clear()


def test_without_a_compiler_the_commands_are_written(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("firstlight.targets.cuda.code.compiler", lambda: None)
    find("cuda-sm100").build(kernels(), tmp_path, 1)
    made = files(tmp_path)
    assert set(made) == {"launch.json", "model-0.cu", "commands.txt"}
    lines = made["commands.txt"].decode().splitlines()
    assert lines == [
        "nvcc -cubin -arch=sm_100 -std=c++17 -w model-0.cu -o model-0.cubin",
        "nvcc -ptx -arch=compute_100 -std=c++17 -w model-0.cu -o model-0.ptx",
    ]
    if shutil.which("nvcc"):                      # and they are right
        subprocess.run(lines[0].split(), cwd=tmp_path / "code", check=True)
        assert "relu_0" in cubin.kernels((tmp_path / "code/model-0.cubin").read_bytes())


def test_the_target_tells_its_tool_and_how_to_get_it(built: Path, monkeypatch) -> None:
    (tool,) = find("cuda-sm90").tools()
    assert tool.found == toolchain.compiler().name
    monkeypatch.setattr("firstlight.targets.cuda.compiler", lambda: None)
    (tool,) = find("cuda-sm90").tools()
    assert tool.found is None
    assert "pip install 'firstlight[compile,cuda]'" in tool.get


EMIT = """
import hashlib
from firstlight.codegen.tvm_bridge import tvm
from firstlight.targets.cuda import TARGETS
from targets.cuda.conftest import kernels
print(tvm.get_global_func("device_api.cuda", allow_missing=True) is not None)
files = TARGETS[1].emit(kernels()["rms_norm"]).files
print(hashlib.sha256(files["rms_norm.cu"]).hexdigest())
"""


def test_a_machine_with_a_gpu_gives_the_same_text(tmp_path: Path) -> None:
    """TVM finds a driver there, and would call a compiler of its own."""
    cudart = [p for folder in sys.path for p in Path(folder).glob("nvidia/*/lib/libcudart.so.13")]
    if not cudart:
        pytest.skip("needs libcudart, which TVM asks for: pip install nvidia-cuda-runtime")
    names = ("cuDeviceGetName cuFuncSetAttribute cuGetErrorName cuGetErrorString cuLaunchKernelEx "
             "cuModuleGetFunction cuModuleLoadData cuModuleUnload cuTensorMapEncodeTiled").split()
    (tmp_path / "driver.c").write_text("".join(f"int {n}(void) {{ return 1; }}\n" for n in names))
    library = compile_c(tmp_path / "driver.c", tmp_path / "libcuda.so.1")
    ctypes.CDLL(str(library))
    tests = Path(__file__).parents[2]
    said = []
    for path in ("", f"{tmp_path}:{cudart[0].parent}"):
        done = subprocess.run([sys.executable, "-c", EMIT], capture_output=True, text=True,
                              cwd=tests, env={"PATH": "", "HOME": str(tmp_path),
                                              "LD_LIBRARY_PATH": path, "PYTHONPATH": str(tests)})
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.split())
    assert [gpu for gpu, _ in said] == ["False", "True"]
    assert said[0][1] == said[1][1]
