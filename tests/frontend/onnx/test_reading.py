"""What may be wrong with a file and its external data: refused in four lines, before it is read."""

import os
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the [onnx] extra")

from onnx import TensorProto, helper, numpy_helper, parser  # noqa: E402

from firstlight.frontend.onnx import read_graph  # noqa: E402
from firstlight.frontend.onnx.apart import Apart  # noqa: E402
from firstlight.frontend.onnx.reading import parse_model  # noqa: E402
from firstlight.runtime.errors import FirstlightError  # noqa: E402
from support.onnx_suite import interpreted  # noqa: E402

PLAIN = """<ir_version: 8, opset_import: ["" : %d]>
g (float[2, 4] x) => (float[2, 4] y) { %s }"""


def written(tmp_path, nodes, opset=17):
    path = tmp_path / "m.onnx"
    onnx.save(parser.parse_model(PLAIN % (opset, nodes)), path)
    return path


def outside(tmp_path, dtype=TensorProto.FLOAT, dims=(2, 4), result="y = Add(x, v)", **fields):
    """x + w, with w in another file as `fields` say."""
    model = parser.parse_model(PLAIN % (23, result))
    w = model.graph.initializer.add(name="w", data_type=dtype, dims=dims)
    w.data_location = TensorProto.EXTERNAL
    for key, value in fields.items():
        w.external_data.add(key=key, value=str(value))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    if dtype == TensorProto.FLOAT:
        model.graph.node.append(helper.make_node("Identity", ["w"], ["v"]))
    else:
        model.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "s"))
        model.graph.node.append(helper.make_node("DequantizeLinear", ["w", "s"], ["v"]))
    model.graph.node.extend(nodes)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    return tmp_path / "m.onnx"


def refused(path, code, *words, sizes=None):
    with pytest.raises(FirstlightError) as caught:
        read_graph(path, sizes)
    assert caught.value.code.startswith(code)
    assert str(caught.value).count("\n") == 3
    for word in words:
        assert word in str(caught.value)


def test_external_data_is_read_where_it_lies(tmp_path):
    values = np.arange(8, dtype=np.float32).reshape(2, 4)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "w.bin").write_bytes(bytes(3) + values.tobytes())
    graph = read_graph(outside(tmp_path, location="deep/w.bin", offset=3, length=32))
    assert np.array_equal(interpreted(graph, {"x": values})["y"], 2 * values)


@pytest.mark.parametrize("kind", ["int4", "uint4", "float4_e2m1fn", "float8_e4m3fn", "int8"])
def test_quantized_weights_in_another_file_are_unpacked(tmp_path, kind):
    dtype = np.dtype(getattr(ml_dtypes, kind, kind))
    values = np.array([[0, 1, 2, 3], [4, 6, 0, 1]], np.float32).astype(dtype)
    if kind == "int4":
        values = (values.astype(np.int8) - 4).astype(dtype)
    proto = numpy_helper.from_array(values, "w")
    (tmp_path / "w.bin").write_bytes(proto.raw_data)
    graph = read_graph(outside(tmp_path, dtype=proto.data_type, location="w.bin"))
    x = np.ones((2, 4), np.float32)
    assert np.array_equal(interpreted(graph, {"x": x})["y"], x + values.astype(np.float32) * 0.5)


@pytest.mark.parametrize("location", [
    "../secret", "/etc/passwd", "a/../../secret", "", ".", "a\\b", "link", "linked/w.bin",
    "nowhere", "pipe", "w\0"])
def test_external_data_elsewhere_is_not_opened(tmp_path, location):
    folder = tmp_path / "model"
    (folder / "real").mkdir(parents=True)
    for place in (tmp_path / "secret", folder / "real" / "w.bin"):
        place.write_bytes(bytes(32))
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "linked").symlink_to(folder / "real")
    os.mkfifo(folder / "pipe")
    refused(outside(folder, location=location), "F154", "w")


@pytest.mark.parametrize("fields", [
    {"length": 31}, {"length": -1}, {"length": 1 << 62}, {"offset": -4}, {"offset": 1},
    {"offset": "0x0"}, {"offset": "1_0"}, {"length": "٣٢"}])
def test_places_in_external_data_that_are_not_there(tmp_path, fields):
    (tmp_path / "w.bin").write_bytes(bytes(32))
    refused(outside(tmp_path, location="w.bin", **fields), "F154", "w")


@pytest.mark.parametrize("dims", [(1 << 40, 1 << 20), (1 << 38,), (-1, 4), (1 << 62, 1 << 62)])
def test_huge_tensors_are_refused_before_memory_is_asked_for(tmp_path, dims):
    (tmp_path / "w.bin").write_bytes(bytes(32))
    refused(outside(tmp_path, dims=dims, result="y = Relu(x)", location="w.bin"),
            "F154" if dims[0] > 0 else "F15")


def test_a_declared_terabyte_inside_the_file(tmp_path):
    model = parser.parse_model(PLAIN % (17, "y = Identity(x)"))
    model.graph.initializer.add(name="w", data_type=1, dims=[1 << 38], raw_data=bytes(4))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    refused(tmp_path / "m.onnx", "F15")


@pytest.mark.parametrize(("nodes", "words"), [
    ("a = Add(x, b) b = Relu(a) y = Relu(b)", ("cyclic",)),
    ("y = Add(x, nothing)", ("made nowhere",)),
    ("y = Relu(x) y = Relu(x)", ("twice",)),
    ("a = Relu(x)", ("output 'y'",)),
    ("y = Nonsense(x)", ("Nonsense",)),
    ("y = Relu(x, x)", ("Relu",)),
])
def test_broken_graphs(tmp_path, nodes, words):
    refused(written(tmp_path, nodes), "F150", *words)


@pytest.mark.parametrize("data", [b"", b"\xff" * 64, b"no model", bytes(64)])
def test_files_that_are_no_models(tmp_path, data):
    (tmp_path / "m.onnx").write_bytes(data)
    refused(tmp_path / "m.onnx", "F150")
    refused(tmp_path, "F150")
    refused(tmp_path / "nothing", "F150")


def test_names_cannot_write_to_the_terminal(tmp_path):
    model = parser.parse_model(PLAIN % (17, "y = Relu(x)"))
    model.graph.node[0].op_type = "a\n\x1b[2Jb"
    model.graph.node[0].input[0] = "z"
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    refused(tmp_path / "m.onnx", "F150", "a??[2Jb")


def test_functions_of_the_model_are_inlined(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(parser.parse_model("""<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
g (float[2, 4] x) => (float[2, 4] y) { y = own.twice(x) }
<domain: "own", opset_import: ["" : 17]> twice (a) => (b) { b = Add(a, a) }"""), path)
    graph = read_graph(path)
    assert [op.name for op in graph.function.ops] == ["add", "copy"]


def test_a_worker_that_dies_or_never_answers_is_an_error(monkeypatch):
    from firstlight.frontend.onnx import apart as module

    model = parser.parse_model(PLAIN % (17, "y = Relu(x)"))
    with Apart(seconds=2) as apart:
        monkeypatch.setattr(module, "_started", lambda: _process("import os; os.abort()"))
        with pytest.raises(FirstlightError, match="SIGABRT"):
            parse_model(model.SerializeToString(), "m", apart)
        monkeypatch.setattr(module, "_started", lambda: _process("import time; time.sleep(60)"))
        began = time.monotonic()
        with pytest.raises(FirstlightError, match="did not end in 2 s"):
            parse_model(model.SerializeToString(), "m", apart)
        assert time.monotonic() - began < 20
        monkeypatch.undo()
        apart.seconds = 60
        assert parse_model(model.SerializeToString(), "m", apart).graph.name == "g"


def _process(code):
    import subprocess
    import sys

    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def test_nothing_is_left_of_a_compile_that_is_refused(tmp_path):
    from click.testing import CliRunner

    from firstlight.cli import cli

    path: Path = written(tmp_path, "a = Add(x, b) b = Relu(a) y = Relu(b)")
    result = CliRunner().invoke(cli, ["compile", str(path), "--target", "cpu-x86-64-v3", "-o",
                                      str(tmp_path / "out")])
    assert result.exit_code == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx"]
