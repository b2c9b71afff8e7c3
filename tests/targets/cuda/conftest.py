"""Three kernels as cubins, and a driver's library that has no device behind it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from firstlight.codegen.generic import generic_kernel
from firstlight.codegen.kernel import Kernel
from firstlight.ir.array import trace
from firstlight.ir.core import Module
from firstlight.ir.dims import S
from firstlight.ir.types import TensorType
from firstlight.runtime.launchers.libcuda import LibcudaDriver
from firstlight.runtime.libcuda import DEVICE, LIBRARY
from firstlight.targets import find
from firstlight.targets.cuda import toolchain
from support.fake_libcuda import Fake, fake

X = TensorType((1, S, 64), "f32")
FP4 = TensorType((32, 64), "f32", "fp4e2m1/32:ue8m0")
OPS = {
    "relu": (lambda x: x.emit("relu"), (X,)),
    "rms_norm": (lambda x, w: x.emit("rms_norm", w, eps=1e-6), (X, TensorType((64,), "f32"))),
    "linear": (lambda x, w: x.emit("linear", w), (X, FP4)),
}


def kernels() -> dict[str, Kernel]:
    """relu, rms_norm, and linear with an FP4 weight, by name."""
    made = {}
    for name, (body, types) in OPS.items():
        module = Module({"main": trace("main", body, types)})
        made[name] = generic_kernel(name, module["main"].ops[-1], module)
    return made


@dataclass(frozen=True)
class Stub:
    """As much of a manifest as the driver looks at: whatever lies in the folder is listed."""

    directory: Path
    requires: dict[str, str]

    def path(self, name: str) -> Path:
        return self.directory / name


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `code` as an artifact has it: the three kernels for compute capability 9.0."""
    if not isinstance(toolchain.compiler(), toolchain.Nvrtc):
        pytest.skip("needs NVRTC: pip install 'firstlight[cuda]'")
    folder = tmp_path_factory.mktemp("cuda")
    find("cuda-sm90").build(kernels(), folder, 1)
    return folder


@pytest.fixture
def launches(built: Path) -> dict:
    """The kernels of its launch.json."""
    return json.loads((built / "code/launch.json").read_text())["kernels"]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    """A machine with a GPU of compute capability 9.0, as far as a launcher can tell."""
    library = fake()
    library.reset()
    monkeypatch.setenv(LIBRARY, library.path)
    monkeypatch.delenv(DEVICE, raising=False)
    yield library
    library.reset()


@pytest.fixture
def driver(machine: Fake, built: Path) -> Iterator[LibcudaDriver]:
    """The launcher's driver on that machine."""
    made = LibcudaDriver(Stub(built, dict(find("cuda-sm90").requires)))
    yield made
    made.close()
