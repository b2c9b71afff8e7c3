"""The whole compiler on chips that do not exist."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from firstlight import targets
from firstlight.codegen.compile import prepare
from firstlight.codegen.generic import generic_kernel
from firstlight.codegen.sources import write_sources
from firstlight.codegen.target import Source
from firstlight.compiler import CompileOptions, compile_checkpoint, plan_checkpoint
from firstlight.frontend.checkpoint import read_checkpoint
from firstlight.frontend.model import trace_model, weight_types
from firstlight.ir import dims
from firstlight.ir.types import GROUP_FP4, TensorType
from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.manifest import read_manifest, verify_artifact
from firstlight.runtime.safetensors import SafetensorsFile
from firstlight.targets.conform import conform, table
from firstlight.targets.conform.cases import Case
from firstlight.targets.conform.data import stored
from firstlight.targets.null import MISSING, SCRATCH
from firstlight.targets.null.widen import WideningPacker
from support.linked import Linked, aligned

CHECKPOINT = Path(__file__).parents[3] / "examples/tiny-v4/checkpoint"
NAMES = ("null", "null-pretend")


@pytest.fixture(scope="module", params=NAMES)
def artifact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained example, compiled for one of the two."""
    out = tmp_path_factory.mktemp("null") / request.param
    compile_checkpoint(CHECKPOINT, out, CompileOptions(target=request.param, context=256))
    return out


def test_the_example_compiles_to_text_and_commands(artifact: Path) -> None:
    program = json.loads((artifact / "program.json").read_text())
    lines = (artifact / "code/commands.txt").read_text().splitlines()
    assert [line.split()[-1] for line in lines] == sorted(f"{k}.c" for k in program["kernels"])
    for name in program["kernels"]:
        assert f"{name}_workspace" in (artifact / f"code/{name}.c").read_text()
    assert verify_artifact(artifact, lambda n: None).ok
    assert read_manifest(artifact).target == artifact.name


def test_the_text_is_the_same_the_next_time(artifact: Path, tmp_path: Path) -> None:
    options = CompileOptions(target=artifact.name, context=256)
    compile_checkpoint(CHECKPOINT, tmp_path / "again", options)
    for path in sorted(artifact.rglob("code/*")):
        assert path.read_bytes() == (tmp_path / "again/code" / path.name).read_bytes(), path.name


def test_an_awkward_chip_gets_no_bf16_and_no_missing_op(artifact: Path) -> None:
    report = json.loads((artifact / "report.json").read_text())
    ops = {op for census in report["ops"].values() for op in census}
    program = json.loads((artifact / "program.json").read_text())
    read = {name: file for file, name in program["weights"]}
    dtypes = {SafetensorsFile(artifact / file).tensors[name].dtype for name, file in read.items()}
    assert ("BF16" in dtypes or "U16" in dtypes) == (artifact.name == "null")
    assert (ops & MISSING.keys() == set()) == (artifact.name == "null-pretend")


def test_the_dry_run_says_what_is_missing_and_why_and_every_byte(artifact: Path) -> None:
    name = artifact.name
    plan = plan_checkpoint(CHECKPOINT, CompileOptions(target=name, context=256))
    assert {row["how"] for row in plan["ops"].values()} == {"generic"}
    assert plan["decomposed"] | plan["missing"] == (MISSING if name == "null-pretend" else {})
    assert set(plan["missing"]) == ({"hadamard"} if name == "null-pretend" else set())
    files = [SafetensorsFile(path) for path in artifact.glob("weights/*.safetensors")]
    assert plan["packed_bytes"] == sum(t.nbytes for f in files for t in f.tensors.values())
    assert (plan["packed_bytes"] > plan["weight_bytes"] * 1.2) == (name == "null-pretend")
    report = json.loads((artifact / "report.json").read_text())
    assert [plan[key] for key in ("arena_bytes", "state_bytes")] == [
        report[key] for key in ("arena_bytes", "state_bytes")]
    work = plan["per_token"]
    assert work["decode"]["flops"] > 1e7
    assert plan["weight_bytes"] > work["decode"]["weight_bytes"] > 3 * work["prefill"][
        "weight_bytes"], "experts that are not chosen are not read, a chunk shares what is"


def test_a_chip_without_a_primitive_is_refused_early() -> None:
    target = targets.find("null")
    lame = dataclasses.replace(target, name="lame", missing={"top_k": "it cannot compare"})
    source = read_checkpoint(CHECKPOINT)
    module = trace_model(source.config, weight_types(source))
    # a composite that the chip has hides the primitive; without composites it is needed
    with pytest.raises(FirstlightError, match="F404") as caught:
        prepare(module, 256, lame, CompileOptions(pipeline="canonicalize"))
    assert "it cannot compare" in str(caught.value)


def test_nothing_here_runs_the_text() -> None:
    for name in NAMES:
        target = targets.find(name)
        assert (target.tier, target.emulate) == ("D", None)
        assert [tool.found for tool in target.tools()] == [None]


def test_a_kernel_beyond_the_scratch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = TensorType((dims.B, dims.S, 32), "f32"), TensorType((512, 32), "f32", GROUP_FP4)
    module = Case("linear", (x, w)).module({"B": 1})
    kernel = generic_kernel("k", module["main"].ops[-1], module)
    emit = targets.find("null-pretend").emit
    assert 0 < emit(kernel).resources["scratch_bytes"] <= SCRATCH
    monkeypatch.setattr("firstlight.targets.null.SCRATCH", 300)
    with pytest.raises(FirstlightError, match="F407") as caught:
        emit(kernel)
    assert "of 300 bytes" in str(caught.value)


def test_widened_weights_compute_the_same(tmp_path: Path) -> None:
    types = (TensorType((dims.B, dims.S, 32), "f32"), TensorType((48, 32), "f32", "bf16"))
    op = Case("linear", types).module({"B": 1})["main"].ops[-1]
    kernel = targets.find("null-pretend").overrides()["linear"]("wide", op, 1)
    assert kernel is not None
    assert kernel.layouts == (None, "f32")
    random = np.random.default_rng(0)
    w = stored(random, random.standard_normal((48, 32)), types[1])
    x = random.standard_normal((1, 3, 32)).astype(np.float32)
    codes, scales = WideningPacker().pack("f32", w.codes, None, "bf16", (48, 32))
    assert scales is None
    assert WideningPacker().shapes("f32", "bf16", (48, 32)) == ((codes.shape, "float32"), None)
    out = aligned(np.zeros((1, 3, 48), np.float32))
    linked = Linked([kernel], tmp_path)
    linked("wide", [aligned(x), aligned(codes), out], 3)
    linked.close()
    np.testing.assert_allclose(out, x @ w.value.T, atol=1e-5)


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    kernels = {name: type("K", (), {"name": name})() for name in ("a", "b")}

    def emit(kernel) -> Source:
        return Source({"same.c": kernel.name.encode()}, kernel.name, {}, {})

    with pytest.raises(FirstlightError, match="F406"):
        write_sources(kernels, emit, tmp_path, lambda path: "")


@pytest.mark.parametrize("name", NAMES)
def test_every_op_is_emitted_within_the_limits(name: str) -> None:
    report = conform(targets.find(name), "emit")
    assert report.clean, table(report)
