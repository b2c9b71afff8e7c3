"""The target as a user has it: compile, check, run, save, refuse; and what onnxruntime can do."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from firstlight import targets
from firstlight.cli import cli
from firstlight.compiler import CompileOptions, compile_checkpoint, plan_checkpoint
from firstlight.frontend.interpret import InterpreterModel
from firstlight.ir.registry import TABLE
from firstlight.runtime import load
from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.manifest import read_manifest, verify_artifact
from firstlight.targets.conform import conform
from firstlight.targets.conform.checkpoints import write_checkpoint

onnx = pytest.importorskip("onnx", reason="needs the [onnx] extra")
ort = pytest.importorskip("onnxruntime", reason="needs the [onnx] extra")

TARGET = targets.find("onnx")
CONTEXT, CHUNK, TOKENS = 200, 16, 150
IDS = np.random.default_rng(8).integers(0, 101, TOKENS).tolist()


def options(**choices: object) -> CompileOptions:
    return CompileOptions(target="onnx", context=CONTEXT, chunk=CHUNK, **choices)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Layers of every kind; windows of 7, blocks of 4 and 8, the best 3 entries."""
    folder = tmp_path_factory.mktemp("onnx") / "checkpoint"
    write_checkpoint(folder, "wchc")
    return folder


@pytest.fixture(scope="module")
def artifact(checkpoint) -> Path:
    out = checkpoint.parent / "artifact"
    compile_checkpoint(checkpoint, out, options())
    return out


@pytest.fixture(scope="module")
def wanted(checkpoint) -> np.ndarray:
    """Logits after every token, by the interpreter."""
    return InterpreterModel(checkpoint, CONTEXT).session().prefill(IDS, all_logits=True)


@pytest.fixture(scope="module")
def model(artifact):
    with load(artifact, threads=1) as opened:
        yield opened


# -- the files -----------------------------------------------------------------------------------

def nodes(graph):
    """Every node, those of loops included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from nodes(attribute.g) if attribute.HasField("g") else ()


@pytest.mark.parametrize("entry", ["decode", "prefill", "score"])
def test_a_model_is_standard_and_checked(artifact, entry):
    path = artifact / f"{entry}.onnx"
    onnx.checker.check_model(str(path), full_check=True)
    graph = onnx.load(path, load_external_data=False)
    assert [(o.domain, o.version) for o in graph.opset_import] == [("", 21)]
    assert {node.domain for node in nodes(graph.graph)} == {""}
    assert not graph.functions
    shapes = {i.name: [d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim]
              for i in graph.graph.input}
    assert shapes["tokens"] == [1, 1 if entry == "decode" else "S"]
    assert shapes["layers.1.attn.compressor.entries"] == [1, "C//4", 16]
    states = {t.name for t in read_manifest(artifact).state}
    assert set(shapes) == {"tokens", "pos"} | states
    assert {o.name for o in graph.graph.output} == {"logits"} | {f"{s}.next" for s in states}


def test_one_data_file_holds_the_weights_of_all_models(artifact):
    places = {}
    for entry in ("decode", "prefill", "score"):
        model = onnx.load(artifact / f"{entry}.onnx", load_external_data=False)
        for tensor in model.graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                record = {e.key: e.value for e in tensor.external_data}
                assert record["location"] == "weights/model.safetensors"
                assert int(record["offset"]) % 64 == 0
                assert places.setdefault(tensor.name, record) == record
            else:
                assert tensor.ByteSize() < 1 << 16
    assert len(list((artifact / "weights").iterdir())) == 1
    assert verify_artifact(artifact).ok


def test_metadata_tell_the_state_plan(artifact):
    model = onnx.load(artifact / "decode.onnx", load_external_data=False)
    metadata = {p.key: p.value for p in model.metadata_props}
    manifest = read_manifest(artifact)
    assert json.loads(metadata["firstlight.state_plan"]) == manifest.document["state"]
    assert json.loads(metadata["firstlight.model"])["vocab_size"] == 101
    assert metadata["firstlight.tokenizer"] == "tokenizer.json"
    through = {s["name"]: s for s in json.loads(metadata["firstlight.states"])}
    assert {kind for s in through.values() if s["in_place"] for kind in [s["kind"]]} == {"entries"}
    assert all(s["in_place"] for s in through.values() if s["kind"] == "entries")


def test_the_same_checkpoint_gives_the_same_bytes(artifact, checkpoint, tmp_path):
    compile_checkpoint(checkpoint, tmp_path / "again", options())
    for path in artifact.rglob("*"):
        if path.is_file():
            assert (tmp_path / "again" / path.relative_to(artifact)).read_bytes() \
                == path.read_bytes(), path


# -- running -------------------------------------------------------------------------------------

@pytest.mark.parametrize("cuts", [(TOKENS,), (7, 1, 6, 9, 2), (1,) * 40, (3, 4, 1, 8, 16, 17)])
def test_any_cuts_give_the_interpreters_logits(model, wanted, cuts):
    session, at = model.session(), 0
    for size in cuts:
        piece = IDS[at : at + size]
        got = session.prefill(piece, all_logits=True) if size > 1 or at == 0 else (
            session.decode(piece[0])[None])
        np.testing.assert_allclose(got, wanted[at : at + size], rtol=0, atol=5e-5)
        at += size
    assert session.position == at


def test_a_session_forks_and_comes_back_from_a_file(model, wanted, tmp_path):
    session = model.session()
    session.prefill(IDS[:37])
    session.decode(IDS[37])                     # rings have taken an even and an odd turn
    twin = session.fork()
    session.save(tmp_path / "s")
    other = model.restore(tmp_path / "s")
    for token, want in zip(IDS[38:60], wanted[38:60], strict=True):
        rows = [s.decode(token) for s in (session, twin, other)]
        np.testing.assert_allclose(rows[0], want, rtol=0, atol=5e-5)
        np.testing.assert_array_equal(rows[0], rows[1])
        np.testing.assert_array_equal(rows[0], rows[2])


def test_sessions_share_nothing_but_weights(model, wanted):
    one, two = model.session(), model.session()
    one.prefill(IDS[:20])
    two.prefill(IDS[50:70])
    np.testing.assert_allclose(one.decode(IDS[20]), wanted[20], rtol=0, atol=5e-5)


def test_states_may_be_longer_and_hold_anything_behind_their_end(artifact, wanted):
    """The graph alone, fed by hand: entries of several lengths, junk where none is yet."""
    session = ort.InferenceSession(str(artifact / "score.onnx"),
                                   providers=["CPUExecutionProvider"])
    for length in (24, 40, 97):
        feed = {"tokens": np.array([IDS[:23]], np.int32), "pos": np.zeros(1, np.int32)}
        for info in session.get_inputs()[2:]:
            rows = -(-length // int(info.shape[1][3:])) if isinstance(info.shape[1], str) else (
                info.shape[1])
            feed[info.name] = np.full((1, rows, info.shape[2]), 1e3, np.float32)
        (got,) = session.run(["logits"], feed)
        np.testing.assert_allclose(got[0], wanted[:23], rtol=0, atol=5e-5)


def test_entries_beyond_the_state_are_refused_not_lost(artifact):
    session = ort.InferenceSession(str(artifact / "score.onnx"),
                                   providers=["CPUExecutionProvider"])
    feed = {"tokens": np.array([IDS[:23]], np.int32), "pos": np.zeros(1, np.int32)}
    for info in session.get_inputs()[2:]:
        rows = 1 if isinstance(info.shape[1], str) else info.shape[1]
        feed[info.name] = np.zeros((1, rows, info.shape[2]), np.float32)
    with pytest.raises(ort.capi.onnxruntime_pybind11_state.InvalidArgument):
        session.run(["logits"], feed)


@pytest.mark.parametrize(("choice", "quantize"), [
    ("bf16", "shipped"), ("packed", "shipped"), ("packed", "int4-g32"),
    pytest.param("packed", "int8-g32", marks=pytest.mark.slow),
])
def test_forms_of_weights_change_no_value(checkpoint, wanted, tmp_path, choice, quantize):
    logits = {}
    for weights in {choice, "float32"} if quantize != "shipped" else {choice}:
        out = tmp_path / weights
        compile_checkpoint(checkpoint, out, options(options={"weights": weights},
                                                    quantize=quantize))
        with load(out, threads=1) as model:
            session = model.session()
            rows = [session.prefill(IDS[:33], all_logits=True),
                    session.decode(IDS[33])[None]]
            logits[weights] = np.concatenate(rows)
    want = logits.get("float32", wanted[:34])
    np.testing.assert_allclose(logits[choice], want, rtol=0, atol=5e-5)


# -- refusals ------------------------------------------------------------------------------------

@pytest.mark.parametrize(("option", "why"), [
    ("weights=float4", "FLOAT4E2M1"), ("weights=int4", "--quantize"), ("weights=f64", "values are"),
    ("wieghts=bf16", "options are"),
])
def test_the_dry_run_refuses_what_cannot_be_had(checkpoint, option, why):
    done = CliRunner().invoke(cli, ["compile", str(checkpoint), "--target", "onnx", "--dry-run",
                                    "--option", option])
    assert isinstance(done.exception, FirstlightError)
    assert done.exception.code == "F409"
    assert why in done.exception.why


def test_an_option_without_a_value_is_wrong_use(checkpoint):
    done = CliRunner().invoke(cli, ["compile", str(checkpoint), "--dry-run", "--option", "weights"])
    assert done.exit_code == 2


def test_the_plan_needs_no_weights(checkpoint):
    plan = plan_checkpoint(checkpoint / "config.json", options())
    assert plan["target"] == "onnx"
    assert {row["how"] for row in plan["ops"].values()} == {"generic"}


def test_without_the_package_the_line_to_install_it(artifact, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(FirstlightError, match="F515") as caught:
        load(artifact)
    assert "firstlight[onnx]" in caught.value.try_


def test_compiling_without_the_package_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(FirstlightError, match="F460"):
        compile_checkpoint(checkpoint, tmp_path / "out", options())
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_model_is_four_lines(artifact, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(artifact, copy)
    (copy / "decode.onnx").write_bytes(b"\x08\x0a" + bytes(64))
    with pytest.raises(FirstlightError, match="F504"):
        load(copy, verify=False)
    size = (artifact / "decode.onnx").stat().st_size
    (copy / "decode.onnx").write_bytes(bytes(size))
    with load(copy, verify=False) as model, pytest.raises(FirstlightError, match="F513"):
        model.session().prefill([1])


# -- what onnxruntime can do, which is why the options are what they are ---------------------------

def decodes(kind: int, opset: int, code_bytes: int, cast: bool = False) -> bool:
    """Whether the CPU provider decodes a [32, 4] weight of an element type: in blocks, or cast."""
    weight = onnx.TensorProto(name="w", data_type=kind, dims=[32, 4], raw_data=bytes(code_bytes))
    scale = onnx.numpy_helper.from_array(np.ones((1, 4), np.float32), "s")
    node = onnx.helper.make_node("Cast", ["w"], ["y"], to=1) if cast else (
        onnx.helper.make_node("DequantizeLinear", ["w", "s"], ["y"], axis=0, block_size=32))
    graph = onnx.helper.make_graph(
        [node], "g", [], [onnx.helper.make_tensor_value_info("y", 1, [32, 4])], [weight, scale])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)],
                                   ir_version=11)
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    try:
        ort.InferenceSession(model.SerializeToString(), settings,
                             providers=["CPUExecutionProvider"])
    except Exception:
        return False
    return True


@pytest.mark.parametrize(("kind", "opset", "nbytes", "works"), [
    ("FLOAT8E4M3FN", 21, 128, True), ("INT8", 21, 128, True), ("INT4", 21, 64, True),
    ("FLOAT4E2M1", 23, 64, False), ("FLOAT4E2M1", 25, 64, False), ("FLOAT8E8M0", 24, 128, False),
    ("INT2", 21, 32, False),
])
def test_block_scales_by_element_type(kind, opset, nbytes, works):
    assert decodes(getattr(onnx.TensorProto, kind), opset, nbytes) == works


@pytest.mark.parametrize(("kind", "opset", "nbytes", "works"), [
    ("FLOAT8E4M3FN", 21, 128, True), ("BFLOAT16", 21, 256, True), ("INT4", 21, 64, True),
    ("FLOAT4E2M1", 25, 64, False), ("FLOAT8E8M0", 24, 128, True), ("FLOAT8E8M0", 23, 128, False),
    ("INT2", 25, 32, True),
])
def test_casts_by_element_type(kind, opset, nbytes, works):
    assert decodes(getattr(onnx.TensorProto, kind), opset, nbytes, cast=True) == works


# -- the kit, and the readable model ---------------------------------------------------------------

def test_the_kit_passes_on_some_ops_and_finds_a_wrong_one():
    ops = ("top_k", "ring_write", "embedding", "rms_norm")
    report = conform(TARGET, "run", ops)
    assert report.clean, [c.problems for c in report.of("failed")]
    right = TARGET.generic

    def wrong(symbol, op, module):
        kernel = right(symbol, op, module)
        return replace(kernel, model=kernel.model.replace(b"ReduceMean", b"ReduceSum\x20"))

    report = conform(replace(TARGET, generic=wrong), "run", ("rms_norm",))
    assert report.of("failed")


def test_the_oracle_agrees_and_would_not_with_another_reference(monkeypatch):
    ops = ("softmax", "top_k", "expert_linear", "index_select")
    assert conform(TARGET, "oracle", ops).clean
    right = TABLE["softmax"].reference
    monkeypatch.setattr(TABLE["softmax"], "reference", lambda x, axis: right(x, axis) * 1.001)
    report = conform(TARGET, "oracle", ("softmax",))
    (check,) = report.of("failed")
    assert "not" in check.problems[0]
    assert "[" in check.problems[0]
    assert "DISAGREE" in report.summary


def test_the_readable_model_means_the_same(checkpoint, artifact, wanted, tmp_path):
    files = []
    for path in (checkpoint, artifact):
        files.append(tmp_path / f"{path.name}.onnx")
        done = CliRunner().invoke(cli, ["inspect", str(path), "--onnx", str(files[-1])])
        assert done.exit_code == 0, done.output
    assert files[0].read_bytes() == files[1].read_bytes()
    model = onnx.load(files[0])
    onnx.checker.check_model(model, full_check=True)
    assert {n.domain for n in model.graph.node} == {"", "firstlight"}
    assert {"hyper_pre", "hybrid_attention", "compress", "index_select", "expert_ffn"} <= {
        f.name for f in model.functions}
    assert sum(t.ByteSize() for t in model.graph.initializer) < 4096
    session = ort.InferenceSession(str(files[0]), providers=["CPUExecutionProvider"])
    weights = InterpreterModel(checkpoint, CONTEXT).weights
    feed = {"tokens": np.array([IDS[:19]], np.int32), "pos": np.zeros(1, np.int32),
            "slot": np.zeros(1, np.int32)}
    for info in session.get_inputs():
        rows = [25 if isinstance(d, str) else d for d in info.shape]
        feed.setdefault(info.name, weights[info.name] if info.name in weights
                        else np.zeros(rows, np.float32))
    given = {i.name for i in session.get_inputs()}
    (got,) = session.run(["logits"], {k: v for k, v in feed.items() if k in given})
    np.testing.assert_allclose(got[0], wanted[:19], rtol=0, atol=5e-5)


@pytest.mark.slow
def test_the_target_is_conformant():
    report = conform(TARGET, "model")
    assert report.conformant, report.summary
