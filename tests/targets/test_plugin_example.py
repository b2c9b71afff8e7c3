"""The out-of-tree example: installed by pip, found by its entry point, run by its emulator."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/plugin-target"
CHECKPOINT = ROOT / "examples/tiny-v4/checkpoint"


def run(site: Path, *command: str | Path, status: int = 0) -> str:
    """Standard output of a command that sees the installed example."""
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *map(str, command)], env=environment,
                          cwd=site, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def firstlight(site: Path, *arguments: str | Path, status: int = 0) -> str:
    return run(site, "-m", "firstlight.cli", *arguments, status=status)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example's package, and nothing else."""
    folder = tmp_path_factory.mktemp("site")
    run(folder, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index",
        "--target", folder, _copy(tmp_path_factory.mktemp("source")))
    return folder


def _copy(folder: Path) -> Path:
    """pip builds in the source folder, which should stay as it is."""
    return Path(shutil.copytree(EXAMPLE, folder / "plugin", ignore=shutil.ignore_patterns(
        "build", "*.egg-info", "__pycache__")))


def test_it_is_small() -> None:
    lines = sum(len(path.read_text().splitlines()) for path in EXAMPLE.rglob("*.py"))
    assert lines <= 200


def test_it_is_listed(site: Path) -> None:
    rows = {r["target"]: r for r in json.loads(firstlight(site, "targets", "--json"))["targets"]}
    assert (rows["abacus"]["tier"], rows["abacus"]["tools"]) == ("C", "here")
    text = firstlight(site, "targets", "abacus")
    assert "leave all beads but four idle" in text


def test_its_kernels_are_right_in_its_emulator(site: Path) -> None:
    """By the kit: native, generic and decomposed ops, on hostile data."""
    out = firstlight(site, "conform", "abacus", "--level", "run", "-q", "--ops",
                     "hyper_post,hyper_pre,rms_norm,index_select,top_k")
    assert " 0 failed, 0 skipped" in out.splitlines()[-1]


def test_the_dry_run_explains_it(site: Path) -> None:
    plan = json.loads(firstlight(site, "compile", CHECKPOINT, "--dry-run", "--target", "abacus",
                                 "--json"))
    assert plan["ops"]["hyper_post"]["how"] == "native"
    assert set(plan["decomposed"]) == {"hyper_pre", "norm_rope"}


RELU = """
from abacus import ABACUS
from firstlight.codegen.generic import generic_kernel
from firstlight.ir.array import trace
from firstlight.ir.core import Module
from firstlight.ir.dims import S
from firstlight.ir.types import TensorType

main = trace("main", lambda x: x.emit("relu"), (TensorType((1, S, 64), "f32"),))
kernel = generic_kernel("relu", main.ops[-1], Module())
print(ABACUS.emit(kernel).files["relu.c"].decode().partition("}")[2].strip())
"""


def test_the_guide_shows_what_is_emitted(site: Path) -> None:
    emitted = run(site, "-c", RELU)
    guide = (ROOT / "docs/porting.md").read_text()
    assert f"```c\n{emitted}```" in guide
    emit = (EXAMPLE / "abacus/emit.py").read_text()
    start = emit.index("def emit(")
    assert f"```python\n{emit[start : emit.index('def build(')].rstrip()}\n```" in guide


@pytest.mark.slow
def test_the_example_model_compiles_for_it(site: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    firstlight(site, "compile", CHECKPOINT, "--target", "abacus", "-o", out, "--context", "256")
    (post,) = [p for p in (out / "code").glob("hyper_post_*.c") if "v < S" in p.read_text()]
    assert "bead_mul(" in post.read_text()
    assert (out / "code/kernels.so").is_file()
