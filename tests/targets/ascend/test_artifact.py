"""The artifact's folder `code`, finished by its own build.sh and launched through pyACL's fake."""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from firstlight import targets
from firstlight.codegen.generic import generic_kernel
from firstlight.codegen.kernel import Kernel
from firstlight.compiler import CompileOptions, compile_checkpoint
from firstlight.ir.array import trace
from firstlight.ir.core import Module
from firstlight.ir.dims import S
from firstlight.ir.types import TensorType
from firstlight.runtime import acl, load
from firstlight.runtime.device import Call, Pointer
from firstlight.runtime.launchers.acl import AclDriver, Memory
from firstlight.runtime.launches import table_of
from firstlight.runtime.sizes import value
from firstlight.targets.ascend import build as build_module
from firstlight.targets.ascend import compiler
from firstlight.targets.ascend.emulator_build import lacking
from support.ascend_artifact import by_emulator, finish_with_stand_in
from support.fake_acl import FakeAcl

pytestmark = pytest.mark.chip
needs_compiler = pytest.mark.skipif(
    compiler.compiler() is None, reason=f"not here: bishengir-compile-a5; {compiler.PACKAGE}")
needs_emulator = pytest.mark.skipif(bool(lacking()), reason=(
    f"not here: {', '.join(lacking())}; pip install 'firstlight[ascend]' and make ascend-tools"))
HERE = re.compile(r"/(work|tmp|root|home|usr|opt)/")


def kernels() -> dict[str, Kernel]:
    """A norm, and a product with an FP8 weight."""
    x = TensorType((1, S, 128), "f32")
    made = {}
    for name, body, types in (
        ("norm", lambda x, w: x.emit("rms_norm", w, eps=1e-6), (x, TensorType((128,), "f32"))),
        ("product", lambda x, w: x.emit("linear", w),
         (x, TensorType((128, 128), "f32", "fp8e4m3/128x128:ue8m0"))),
    ):
        module = Module({"main": trace("main", body, types)})
        made[name] = generic_kernel(name, module["main"].ops[-1], module)
    return made


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes()
            for p in sorted(folder.rglob("*")) if p.is_file()}


@dataclass(frozen=True)
class Stub:
    """As much of a manifest as the driver looks at."""

    directory: Path
    requires: dict[str, str]

    def path(self, name: str) -> Path:
        return self.directory / name


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAcl]:
    """A machine with a chip, as far as a launcher can tell."""
    fake = FakeAcl()
    monkeypatch.setitem(sys.modules, "acl", fake.module)
    acl.api.cache_clear()
    yield fake
    acl.api.cache_clear()


def launched(driver: AclDriver, folder: Path, name: str, inputs: list[np.ndarray],
             shape: tuple[int, ...]) -> np.ndarray:
    """The float32 result of a kernel of 5 tokens: memory, launches, and a read of the result."""
    table, queue = table_of(json.loads((folder / "code/launch.json").read_text())), driver.queue()
    kernel, got = table.kernels[name], np.empty(shape, np.float32)
    memories: dict[int | str, Memory] = {"w": queue.allocate(max(value(kernel.workspace, 5), 64))}
    for i, array in enumerate((*inputs, np.zeros_like(got))):
        memories[i] = queue.allocate(array.nbytes)
        queue.write(memories[i], 0, array.reshape(-1).view(np.uint8))
    calls = []
    for launch in kernel.launches:
        path = folder / table.modules[launch.module]
        function = driver.load(path, [launch.entry])[launch.entry]
        args = tuple(5 if a == "S" else Pointer(memories[a]) for a in launch.args)
        calls.append(Call(function, tuple(value(n, 5) for n in launch.grid), (1,), 0, args))
    queue.run(queue.bind(calls))
    queue.read(memories[len(inputs)], 0, got.view(np.uint8).reshape(-1))
    return got


@needs_compiler
def test_the_same_bytes_twice_and_no_paths_of_this_machine(tmp_path, monkeypatch):
    target, written = targets.find("ascend-950pr"), []
    for folder in (tmp_path / "a", tmp_path / "b"):
        (folder / "cache").mkdir(parents=True)      # each is lowered anew
        monkeypatch.setattr(compiler, "cache", lambda kept=folder / "cache": kept)
        target.build(kernels(), folder, 1)
        written.append(files(folder / "code"))
    assert written[0] == written[1]
    for name, content in written[0].items():
        assert not HERE.search(content.decode()), name
    table = json.loads(written[0]["launch.json"])
    assert {Path(m).stem for m in table["modules"]} == set(table["chip"]["cores"])
    for module in table["modules"]:
        assert {f"mlir/{Path(module).name}", module} <= set(written[0])
    script = written[0]["build.sh"].decode().splitlines()
    for module in table["modules"]:         # one command for each, with paths of the artifact
        name = Path(module).stem
        (line,) = [x for x in script if f"-o objects/{name}.o" in x]
        assert f"hivmc-a5 lowered/{name}.mlir --target=Ascend950PR_9589 " in line


@needs_emulator
@pytest.mark.parametrize(("lowered_here", "finish"), [(True, ()), (True, ("mlir",)), (False, ())])
def test_finished_kernels_are_launched_and_compute(machine, tmp_path, monkeypatch, lowered_here,
                                                   finish):
    """From kernels to numbers: build, build.sh, pyACL; also where only texts were written."""
    target = targets.find("ascend-950pr")
    with monkeypatch.context() as patch:
        if not lowered_here:
            patch.setattr(build_module, "compiler", lambda: None)
        target.build(kernels(), tmp_path / "artifact", 1)
    folder = tmp_path / "artifact"
    assert (folder / "code/lowered").exists() == lowered_here
    commands = finish_with_stand_in(folder, tmp_path / "scratch", *finish)
    table = json.loads((folder / "code/launch.json").read_text())
    assert len(commands) == len(table["modules"])
    driver = AclDriver(Stub(folder, dict(target.requires)))
    machine.executor = by_emulator(folder)
    rng = np.random.default_rng(2)
    x, w = rng.standard_normal((5, 128), np.float32), rng.standard_normal(128).astype(np.float32)
    got = launched(driver, folder, "norm", [x, w], x.shape)
    want = x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-6) * w
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    codes = rng.integers(0, 0x7F, (128, 128)).astype(np.uint8)      # finite, of either sign
    codes |= rng.integers(0, 2, codes.shape).astype(np.uint8) << 7
    got = launched(driver, folder, "product", [x, codes, np.full((1, 1), 125, np.uint8)], x.shape)
    want = x.astype(np.float64) @ codes.view(ml_dtypes.float8_e4m3fn).astype(np.float64).T / 4
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())
    driver.close()
    assert machine.refused == []


@pytest.mark.slow
@needs_emulator
def test_the_trained_example_through_the_launcher(machine, tiny_checkpoint, tiny_folder, tmp_path):
    """The whole model: every kernel from its lowered form, launched as on a card would be."""
    folder = tmp_path / "artifact"
    compile_checkpoint(tiny_checkpoint, folder,
                       CompileOptions(target="ascend-950pr", context=256, chunk=32))
    finish_with_stand_in(folder, tmp_path / "scratch")
    machine.executor = by_emulator(folder)
    prompt = json.loads((tiny_folder / "expected.json").read_text())["prompts"][0]
    with load(folder) as model:
        tokens = list(model.session().generate(prompt["prompt_ids"], max_new_tokens=8,
                                               ignore_eos=True))
    assert tokens == prompt["greedy_ids"][:8]
    assert machine.refused == []
