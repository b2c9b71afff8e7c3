"""Shared fixtures: the trained example, and what it compiles to."""

import os
import signal
from pathlib import Path

import pytest

# Before any BLAS starts: the machines this runs on have few cores, and they are shared.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What is compiled here is compiled: nothing comes from an earlier run.
os.environ["FIRSTLIGHT_CACHE"] = "off"

# A job that a script put into the background starts with Ctrl+C ignored, and so do its children.
signal.signal(signal.SIGINT, signal.default_int_handler)

TINY = Path(__file__).parents[1] / "examples" / "tiny-v4"


@pytest.fixture(scope="session")
def tiny_folder() -> Path:
    """examples/tiny-v4: checkpoint/, expected.json, validation_tokens.json."""
    return TINY


@pytest.fixture(scope="session")
def tiny_checkpoint() -> Path:
    """The trained example's checkpoint folder."""
    return TINY / "checkpoint"


@pytest.fixture(scope="session")
def tiny_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained example compiled once with the default kernels, for the whole test run."""
    return _compile_tiny(tmp_path_factory.mktemp("tiny") / "default", "default")


@pytest.fixture(scope="session")
def tiny_generic_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained example compiled with generic kernels only."""
    return _compile_tiny(tmp_path_factory.mktemp("tiny") / "generic", "generic")


def _compile_tiny(out: Path, kernels: str) -> Path:
    from firstlight.compiler import CompileOptions, compile_checkpoint

    options = CompileOptions(context=1024, kernels=kernels, runner=kernels == "default")
    compile_checkpoint(TINY / "checkpoint", out, options)
    return out
