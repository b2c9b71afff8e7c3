"""A model of one layer, compiled for the device that is here."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from firstlight.compiler import CompileOptions, compile_checkpoint
from firstlight.runtime import Model, load
from firstlight.targets import find
from firstlight.targets.conform.checkpoints import write_checkpoint


@pytest.fixture(scope="session", autouse=True)
def device() -> str:
    """The device's name; without one, the tests are skipped."""
    (tool,) = find("opencl").tools()
    if tool.found is None:
        pytest.skip(f"needs an OpenCL device: {tool.get}")
    return tool.found


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer of compressed sparse attention, random weights."""
    folder = tmp_path_factory.mktemp("opencl") / "checkpoint"
    write_checkpoint(folder, "c")
    return folder


@pytest.fixture(scope="session")
def artifact(checkpoint: Path) -> Path:
    """It, compiled."""
    out = checkpoint.with_name("artifact")
    compile_checkpoint(checkpoint, out, CompileOptions(target="opencl", context=64, chunk=8))
    return out


@pytest.fixture(scope="module")
def model(artifact: Path) -> Iterator[Model]:
    """The artifact, loaded."""
    with load(artifact) as loaded:
        yield loaded
