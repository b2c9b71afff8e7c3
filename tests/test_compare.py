"""`compare`: equal sides are equal; a planted fault is named by layer and op."""

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from firstlight import targets
from firstlight.cli import run_command_line
from firstlight.codegen.artifact import file_records, write_manifest
from firstlight.codegen.kernel import Kernel
from firstlight.comparison import Report, compare, open_sides, token_ids
from firstlight.comparison.align import common_keys, pairs
from firstlight.comparison.measure import gap
from firstlight.comparison.side import Event, Key, numbered
from firstlight.compiler import CompileOptions, compile_checkpoint
from firstlight.ir.core import Op
from firstlight.runtime import load
from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.safetensors import SafetensorsFile
from firstlight.runtime.trace import Tracer
from support.fake_artifact import write_fake_artifact
from support.random_models import random_config, random_tensors, write_checkpoint

SMALL = random_config(5, layers="ch", csa=4, hca=8, hidden_size=96, moe_intermediate_size=32,
                      num_hash_layers=1)  # fmt: skip
OPTIONS = CompileOptions(context=48, chunk=16)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSA layer routed by hash and an HCA layer."""
    folder = tmp_path_factory.mktemp("small") / "checkpoint"
    return write_checkpoint(folder, SMALL, random_tensors(SMALL, 5))


@pytest.fixture(scope="module")
def artifact(checkpoint: Path) -> Path:
    """The small model with the target's kernels."""
    compile_checkpoint(checkpoint, checkpoint.parent / "artifact", OPTIONS)
    return checkpoint.parent / "artifact"


@pytest.fixture
def copy(artifact: Path, tmp_path: Path) -> Path:
    """An artifact to damage."""
    return Path(shutil.copytree(artifact, tmp_path / "copy"))


def report_of(*sides: str | Path, checkpoint: Path | None = None, **choices: Any) -> Report:
    with open_sides([str(s) for s in sides], checkpoint, threads=1) as opened:
        return compare(*opened, token_ids(opened, None, None), **choices)


def rewrite_program(folder: Path, change: Any) -> None:
    """Change program.json and make the artifact whole again."""
    program = json.loads((folder / "program.json").read_text())
    change(program)
    (folder / "program.json").write_text(json.dumps(program))
    sign(folder)


def sign(folder: Path) -> None:
    """A manifest whose hashes are those of the files there."""
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").unlink()
    records = file_records(folder, {})
    for name, record in manifest["files"].items():
        if "header_sha256" in record and name in records:
            records[name]["header_sha256"] = record["header_sha256"]
    manifest.pop("digest")
    write_manifest(folder, manifest | {"files": records})


def rows_of(folder: Path, entry: str) -> list[Any]:
    """The steps of an entry in debug.json, without the ends of functions."""
    rows = json.loads((folder / "debug.json").read_text())["entries"][entry]
    return [row for row in rows if row[0] != "return"]


# ---------------------------------------------------------------- nothing to find


def test_an_artifact_means_what_the_interpreter_says(artifact: Path, checkpoint: Path):
    """Every step and every state, through three prefill calls and a decode."""
    report = report_of(artifact, "interpreter", checkpoint=checkpoint, tolerance=2e-5)
    assert report.first is None
    steps = len(rows_of(artifact, "decode")) + 3 * len(rows_of(artifact, "prefill"))
    assert report.steps >= steps
    assert {"layers.0", "layers.1", "head"} <= set(report.layers)


def test_the_trained_example_as_the_command_line_shows_it(
    tiny_artifact: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
):
    line = ["compare", str(tiny_artifact), str(tiny_checkpoint), "--prompt", "def main():"]
    assert run_command_line([*line, "--json"]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert (document["equal"], err) == (True, "")
    assert [row["layer"] for row in document["layers"]] == ["embed", *(
        f"layers.{i}" for i in range(6)), "head"]  # fmt: skip
    assert run_command_line([*line, "--tolerance", "0"]) == 1
    out, err = capsys.readouterr()
    assert "first difference" in out
    assert err.startswith("error[F708]: the two sides differ from layers.0")


def test_differently_fused_artifacts_are_compared_by_sublayers(
    artifact: Path, checkpoint: Path, tmp_path: Path
):
    """Without fusion every primitive is a step, with shapes such as [1, S + 8, 64]."""
    options = dataclasses.replace(OPTIONS, pipeline="canonicalize")
    compile_checkpoint(checkpoint, tmp_path / "plain", options)
    report = report_of(tmp_path / "plain", "interpreter", checkpoint=checkpoint)
    assert report.first is None
    assert report.steps > 2000
    report = report_of(tmp_path / "plain", artifact)
    assert (report.first, report.steps) == (None, 0)
    assert set(report.layers) == {"layers.0", "layers.1", "head"}


def test_two_artifacts_are_compared_without_the_compiler(artifact: Path):
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({sorted(targets.COMPILER_PACKAGES)}))\n"
        "from firstlight.cli import run_command_line\n"
        f"sys.exit(run_command_line(['compare', {str(artifact)!r}, {str(artifact)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_both_sublayers_of_transformers(artifact: Path, checkpoint: Path):
    pytest.importorskip("torch", reason="the oracle needs PyTorch: make oracle")
    pytest.importorskip("transformers", reason="the oracle needs transformers 5.23: make oracle")
    report = report_of("transformers", artifact, checkpoint=checkpoint)
    assert (report.first, report.steps, report.compared) == (None, 0, 4 * (2 * 2 + 1))


# ---------------------------------------------------------------- planted faults


def test_a_damaged_weight_is_named(copy: Path, checkpoint: Path):
    """One byte in a matrix that only the second layer's output projection reads."""
    path = copy / "weights" / "layers.1.safetensors"
    names = [n for n in SafetensorsFile(path).tensors if n.startswith("layers.1.attn.wo_b.weight")]
    (name,) = (n for n in names if not n.endswith(".scales"))
    tensor = SafetensorsFile(path).tensors[name]
    data = bytearray(path.read_bytes())
    data[tensor.offset + 3] ^= 0x40
    path.write_bytes(bytes(data))
    first = report_of(copy, "interpreter", checkpoint=checkpoint).first
    assert first is not None
    assert (first.key.path, first.key.op) == ("layers.1.attn.wo_b", "linear")
    assert first.values[0] != first.values[1]
    assert first.inputs
    assert all(i["relative"] < 2e-5 for i in first.inputs)


def test_a_neighbours_weight_is_named(copy: Path, artifact: Path):
    """A norm that reads the weight of the other layer: two artifacts, no checkpoint."""
    def change(program: Any) -> None:
        steps = program["entries"]["prefill"]["steps"]
        rows = [row[:2] for row in rows_of(copy, "prefill")]
        one, other = (steps[rows.index(["rms_norm", f"layers.{i}.attn"])][1] for i in range(2))
        other[1] = one[1]

    rewrite_program(copy, change)
    first = report_of(artifact, copy).first
    assert first is not None
    assert (*first.key, first.entry) == ("layers.1.attn", "rms_norm", 0, "prefill")
    assert [(i["path"], i["op"], i["largest"]) for i in first.inputs] == [
        ("layers.1.attn.wq_a", "linears", 0.0)]  # fmt: skip


def test_a_state_row_in_the_wrong_place_is_named(copy: Path, artifact: Path):
    """The second layer writes its window where its compressor's blocks are."""
    def change(program: Any) -> None:
        for step, row in zip(program["entries"]["decode"]["steps"], rows_of(copy, "decode"),
                             strict=True):  # fmt: skip
            if row[:2] == ["norm_rope_attention", "layers.1.attn"]:
                states = [i for i, word in enumerate(step[1]) if word.startswith("s:")]
                step[1][states[0]] = step[1][states[1]]

    rewrite_program(copy, change)
    first = report_of(artifact, copy).first
    assert first is not None
    assert (first.entry, first.key.path) == ("decode", "layers.1.attn")
    assert first.key.op == "norm_rope_attention"
    assert first.position == 47


def test_a_wrong_kernel_is_named(
    artifact: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    """A kernel whose epsilon is a hundred times too large."""
    from firstlight.codegen.generic import generic_kernel
    from firstlight.ir.core import Module

    def wrong(symbol: str, op: Op, tokens: int) -> Kernel:
        attrs = {**op.attrs, "eps": 0.01}
        return generic_kernel(symbol, dataclasses.replace(op, attrs=attrs), Module())

    target = targets.find("cpu")
    overrides = {**target.overrides(), "rms_norm": wrong}
    broken = dataclasses.replace(target, overrides=lambda: overrides)
    with monkeypatch.context() as patch:
        patch.setattr(targets, "find", lambda name: broken)
        compile_checkpoint(checkpoint, tmp_path / "out", OPTIONS)
    line = ["compare", str(tmp_path / "out"), "interpreter", "--checkpoint", str(checkpoint)]
    assert run_command_line([*line, "--json"]) == 1
    first = json.loads(capsys.readouterr().out)["first_difference"]
    assert (first["path"], first["op"]) == ("layers.0.attn", "rms_norm")


# ---------------------------------------------------------------- sides and errors


def test_a_trace_is_what_a_session_computes(artifact: Path):
    with load(artifact, threads=1) as model:
        traced, plain = model.session(), model.session()
        *_, (row, values) = Tracer(model).feed(traced, "prefill", [1, 2, 3, 4, 5])
        assert (row.op, row.path) == ("return", "head")
        assert np.array_equal(values[0][0, 0], plain.prefill([1, 2, 3, 4, 5]))
        assert np.array_equal(traced.decode(6), plain.decode(6))
        next(Tracer(model).feed(traced, "decode", [7]))
        with pytest.raises(FirstlightError, match="F610"):
            traced.decode(8)


def test_an_artifact_without_a_table_cannot_be_traced(tmp_path: Path):
    with pytest.raises(FirstlightError, match="F613"), open_sides(
        [str(write_fake_artifact(tmp_path / "toy"))] * 2
    ):
        pass


def test_a_table_of_another_program_is_damage(copy: Path):
    document = json.loads((copy / "debug.json").read_text())
    document["entries"]["decode"].pop(0)
    (copy / "debug.json").write_text(json.dumps(document))
    sign(copy)
    with load(copy, threads=1) as model, pytest.raises(FirstlightError, match="F502"):
        Tracer(model)


@pytest.mark.parametrize(
    ("code", "sides", "choices"),
    [
        ("F704", ["{artifact}", "nowhere"], []),
        ("F707", ["{artifact}", "interpreter"], []),
        ("F607", ["{artifact}", "{artifact}"], ["--tokens", ",".join(["1"] * 49)]),
        ("F605", ["{artifact}", "{artifact}"], ["--tokens", "1000000"]),
        ("F706", ["{artifact}", "{tiny}"], []),
    ],
)
def test_what_cannot_be_compared(code, sides, choices, artifact, tiny_checkpoint, capsys):
    words = [s.format(artifact=artifact, tiny=tiny_checkpoint) for s in sides]
    assert run_command_line(["compare", *words, *choices]) == 1
    assert capsys.readouterr().err.startswith(f"error[{code}]")


@pytest.mark.parametrize("line", ["interpreter interpreter", "A", "A B --prompt x --tokens 1"])
def test_a_wrong_command_line_is_status_2(line, capsys):
    assert run_command_line(["compare", *line.split()]) == 2


# ---------------------------------------------------------------- alignment and measure


def test_functions_of_unlike_steps_are_compared_by_their_results():
    ends = [("x", "return"), ("y", "return")]
    a = numbered([("x", "add"), ends[0], ("y", "add"), ("y", "add"), ends[1]])
    b = numbered([("x", "add"), ends[0], ("y", "add"), ends[1], ("z", "linear")])
    assert common_keys(a, b) == {Key("x", "add", 0), Key("x", "return", 0), Key("y", "return", 0)}


def test_pairs_meet_in_any_order_and_both_sides_end():
    keys = [Key("x", "add", i) for i in range(4)]
    ended = []

    def side(*order: int) -> Iterator[Event]:
        for i in order:
            yield Event(keys[i], (np.array([i]),))
        ended.append(order)

    met = list(pairs(side(0, 1, 2), side(2, 3, 0, 1, 3), {keys[0], keys[2]}))
    assert [(a.key, b.key) for a, b in met] == [(keys[0], keys[0]), (keys[2], keys[2])]
    assert len(ended) == 2


def test_a_gap_is_measured_against_the_array():
    big = np.array([[1000.0, 1.0]], np.float32)
    found = gap(big, big + np.array([[0.0, 0.05]], np.float32), 1e-4)
    assert found.count == 0
    assert found.relative == pytest.approx(5e-5, rel=1e-2)
    found = gap(big, big + np.array([[0.0, 0.5]], np.float32), 1e-4)
    assert (found.count, found.index) == (1, (0, 1))


@pytest.mark.parametrize(
    ("a", "b", "count"),
    [
        ([np.inf, 1], [np.inf, 1], 0),
        ([np.nan, 1], [np.nan, 1], 0),
        ([np.nan, 1], [0, 1], 1),
        ([-np.inf, 1], [np.inf, 1], 1),
        ([0, 0], [0, 0], 0),
    ],
)
def test_numbers_that_are_not_finite(a, b, count):
    assert gap(np.array(a, np.float32), np.array(b, np.float32), 1e-4).count == count


def test_integers_must_be_equal_and_sizes_too():
    assert gap(np.array([1000, 2]), np.array([1001, 2]), 1.0).count == 1
    assert gap(np.zeros(3), np.zeros(4), 1.0).largest == np.inf
    assert gap(np.zeros((0, 4)), np.zeros((0, 4)), 0.0).count == 0
