"""An imported graph as a user has it: compile, run, what fits and what does not; other chips."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

onnx = pytest.importorskip("onnx", reason="needs the [onnx] extra")
ort = pytest.importorskip("onnxruntime", reason="needs the [onnx] extra")

from onnx import parser  # noqa: E402

from firstlight import targets  # noqa: E402
from firstlight.cli import cli  # noqa: E402
from firstlight.codegen.compile import CompileOptions  # noqa: E402
from firstlight.codegen.graphs import kernel_set, prepare_graph, token_count  # noqa: E402
from firstlight.frontend.onnx import read_graph  # noqa: E402
from firstlight.onnx_compiler import compile_onnx  # noqa: E402
from firstlight.runtime import load  # noqa: E402
from firstlight.runtime.errors import FirstlightError  # noqa: E402
from firstlight.runtime.graph import GraphModel  # noqa: E402
from firstlight.runtime.manifest import read_manifest, verify_artifact  # noqa: E402
from firstlight.runtime.program import read_program  # noqa: E402
from firstlight.targets.conform.engine import ExecutorEngine  # noqa: E402
from support.simt import needs_opencl  # noqa: E402

LIMIT = 1e-4
WEIGHTS = np.random.default_rng(5).standard_normal((3, 32, 32)).astype(np.float32) * 0.2
LAYER = """<ir_version: 10, opset_import: ["" : 23]>
layer (float[b, n, 32] x, int64[b, n] places) => (float[b, n, 32] y, int64[b, n, 2] best)
<int64[4] heads = {0, 0, 4, 8}, int64[3] whole = {0, 0, 32}, int64[1] two = {2}>
{
  t = Gather<axis = 0>(table, places)
  h = Add(x, t)
  n0 = RMSNormalization<axis = -1>(h, scale)
  q = MatMul(n0, wq)
  k = MatMul(n0, wk)
  q0 = Reshape(q, heads)
  k0 = Reshape(k, heads)
  q1 = Transpose<perm = [0, 2, 1, 3]>(q0)
  k1 = Transpose<perm = [0, 2, 1, 3]>(k0)
  a = Attention<is_causal = 1>(q1, k1, k1)
  a1 = Transpose<perm = [0, 2, 1, 3]>(a)
  a2 = Reshape(a1, whole)
  o = Gelu(a2)
  y = Add(h, o)
  v, best = TopK(y, two)
}"""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    model = parser.parse_model(LAYER)
    for name, array in (("wq", WEIGHTS[0]), ("wk", WEIGHTS[1]), ("table", WEIGHTS[2][:9]),
                        ("scale", np.linspace(0.5, 2, 32, dtype=np.float32))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    out = tmp_path_factory.mktemp("layer") / "layer.onnx"
    onnx.save(model, out)
    return out


def feeds(n, batch=1):
    rng = np.random.default_rng(n)
    return {"x": rng.standard_normal((batch, n, 32)).astype(np.float32),
            "places": rng.integers(-9, 9, (batch, n))}


def check(model, path, given):
    wanted = ort.InferenceSession(path).run(None, given)
    found = model.run(given)
    assert list(found) == ["y", "best"]
    assert np.abs(found["y"] - wanted[0]).max() < LIMIT
    assert np.array_equal(found["best"], wanted[1])
    assert found["best"].dtype == np.int64


@pytest.fixture(scope="module")
def opened(path, tmp_path_factory):
    out = tmp_path_factory.mktemp("open") / "out"
    compile_onnx(path, out, CompileOptions(target="cpu-x86-64-v3"), {"b": "1", "n": "..24"})
    verify_artifact(out)
    with load(out) as model:
        yield model


def test_any_number_of_tokens(opened, path):
    for n in (1, 24, 7):
        check(opened, path, feeds(n))


@pytest.mark.parametrize(("batch", "n"), [(1, 5), (3, 4)])
def test_fixed_sizes_and_many_sequences(path, tmp_path, batch, n):
    """Kernels of our own are written for one sequence; three of four tokens are twelve rows."""
    report = compile_onnx(path, tmp_path / "out", CompileOptions(target="cpu-x86-64-v3"),
                          {"b": str(batch), "n": str(n)})
    assert report["kernels"]["overrides"] > 0
    with load(tmp_path / "out") as model:
        check(model, path, feeds(n, batch))


@pytest.mark.parametrize(("change", "word"), [
    ({"x": None}, "missing"), ({"z": np.zeros(1)}, "no such input"),
    ({"x": np.zeros((1, 7, 32))}, "float64"), ({"x": np.zeros((1, 7, 31), np.float32)}, "shape"),
    ({"x": np.zeros((1, 6, 32), np.float32)}, "open size"),
    ({"x": np.zeros((7, 32), np.float32)}, "shape"),
    ({"places": np.full((1, 7), 1 << 40)}, "32 bits")])
def test_inputs_that_do_not_fit(opened, change, word):
    given = {k: v for k, v in {**feeds(7), **change}.items() if v is not None}
    with pytest.raises(FirstlightError, match=word) as caught:
        opened.run(given)
    assert caught.value.code == "F614"


def test_sizes_beyond_the_open_one(opened):
    for n in (0, 25):
        with pytest.raises(FirstlightError, match="1 to 24"):
            opened.run(feeds(n))


def test_the_command_line(opened, path, tmp_path):
    folder = str(opened.manifest.directory)
    np.savez(tmp_path / "in.npz", **feeds(3))

    def run(*words):
        return CliRunner().invoke(cli, list(words))

    result = run("run", folder, "--inputs", str(tmp_path / "in.npz"), "--outputs",
                 str(tmp_path / "out.npz"), "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.output) == {"y": ["float32", 1, 3, 32], "best": ["int64", 1, 3, 2]}
    with np.load(tmp_path / "out.npz") as file:
        assert np.array_equal(file["y"], opened.run(feeds(3))["y"])
    (tmp_path / "no.npz").write_bytes(b"no arrays")
    for words, code in ((("--inputs", str(tmp_path / "no.npz"), "--outputs", "o.npz"), 1),
                        (("--inputs", str(tmp_path / "in.npz")), 2), (("--tokens", "1"), 1),
                        (("--inputs", str(tmp_path / "in.npz"), "--outputs",
                          str(tmp_path / "nowhere" / "o.npz")), 1)):
        result = run("run", folder, *words)
        assert result.exit_code == code, (words, result.output)
    for words in (("bench", folder), ("quality", folder, "--against", folder, "--text",
                                      str(path)), ("compare", folder, folder, "--tokens", "1,2")):
        result = run(*words)
        assert result.exit_code == 1, (words, result.output)
        assert "F615" in str(result.exception)
    plan = run("compile", str(path), "--dry-run", "--target", "cpu-x86-64-v3", "--dim", "b=1",
               "--dim", "n=2", "--json")
    assert json.loads(plan.output)["inputs"]["x"] == ["float32", "1", "2", "32"]


def test_the_same_file_gives_the_same_bytes(opened, path, tmp_path):
    compile_onnx(path, tmp_path / "out", CompileOptions(target="cpu-x86-64-v3"),
                 {"b": "1", "n": "..24"})
    for file in ("manifest.json", "program.json", "weights/global.safetensors"):
        first = opened.manifest.directory / file
        assert (tmp_path / "out" / file).read_bytes() == first.read_bytes()


def test_through_opencl(path, tmp_path):
    needs_opencl()
    compile_onnx(path, tmp_path / "out", CompileOptions(target="opencl"), {"b": "1", "n": "..8"})
    with load(tmp_path / "out") as model:
        for n in (8, 3):
            check(model, path, feeds(n))


@pytest.mark.chip
@pytest.mark.parametrize("name", ["cpu-aarch64", "cpu-riscv64"])
def test_through_an_emulated_cpu(name, path, tmp_path):
    """The artifact of another machine, its kernels called under qemu."""
    target, options = targets.find(name), CompileOptions(target=name)
    sizes = {"b": "1", "n": "..8"}
    compile_onnx(path, tmp_path / "out", options, sizes)
    manifest = read_manifest(tmp_path / "out")
    program = read_program(manifest)
    graph = read_graph(path, sizes)
    module = prepare_graph(graph.module, target, options, graph.most)
    tokens = token_count(module["graph"], graph.most)
    kernels = kernel_set(target, options, graph.most, tokens)
    for op in module["graph"].ops:
        if kernels.symbol(op, module) in program.kernels:
            kernels.kernel(op, module, tokens)
    (tmp_path / "emulate").mkdir()
    executor = target.emulate(kernels.kernels, tmp_path / "emulate")
    if executor is None:
        pytest.skip("needs qemu-user")
    model = GraphModel(manifest, program, ExecutorEngine(manifest, program, executor))
    for n in (8, 3):
        check(model, path, feeds(n))
