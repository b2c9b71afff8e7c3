"""ONNX graphs: every primitive has a row, weights come back bit for bit, sizes are found."""

import json
from collections.abc import Iterator

import numpy as np
import pytest

from firstlight.ir import codecs, dims
from firstlight.ir.array import emit, iota, trace
from firstlight.ir.core import Module
from firstlight.ir.registry import TABLE
from firstlight.ir.types import (
    BLOCK_FP8,
    CODECS,
    GROUP_FP4,
    GROUP_INT4,
    GROUP_INT8,
    REAL,
    StateType,
    TensorType,
)
from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.safetensors import SafetensorsFile, SafetensorsWriter, TensorPlan
from firstlight.targets.conform.data import stored

onnx = pytest.importorskip("onnx", reason="needs the [onnx] extra")
pytest.importorskip("onnxruntime", reason="needs the [onnx] extra")

from firstlight.codegen.onnx import packages, storing  # noqa: E402
from firstlight.codegen.onnx.export import ROWS, Exporter  # noqa: E402
from firstlight.codegen.onnx.forms import CHOICES, FORMS  # noqa: E402
from firstlight.codegen.onnx.graph import Graph  # noqa: E402
from firstlight.codegen.onnx.library import Library, Parameter  # noqa: E402
from firstlight.codegen.onnx.running import open_session  # noqa: E402
from firstlight.codegen.onnx.values import Val  # noqa: E402

B, S, C = dims.B, dims.S, dims.C


def test_every_primitive_has_a_row():
    primitives = {name for name, info in TABLE.items() if not info.composite}
    assert set(ROWS) == primitives - {"call", "repeat"}


# -- sizes ---------------------------------------------------------------------------------------

def sizes_of(types, size) -> int:
    """What a graph says of a size for a call with five tokens and states of seven rows."""
    graph = Graph()
    shapes = {}
    for i, type_ in enumerate(types):
        graph.know(f"x{i}", type_)
        shapes[f"x{i}"] = graph.info(f"x{i}", type_)
    out = graph("Identity", graph.size(size))
    result = onnx.helper.make_tensor_value_info(out, 7, [1])
    model = graph.model("g", list(shapes.values()), [result])
    onnx.checker.check_model(model, full_check=True)
    feed = {n: np.zeros([_given(d) for d in info.type.tensor_type.shape.dim], np.float32)
            for n, info in shapes.items()}
    return int(open_session(model.SerializeToString()).run(None, feed)[0][0])


def _given(dim) -> int:
    known = {"S": 5, "S+3": 8, "C//4": 7}
    return known[dim.dim_param] if dim.dim_param else dim.dim_value


@pytest.mark.parametrize(("types", "size", "expected"), [
    ((TensorType((1, S)),), S, 5),
    ((TensorType((1, dims.add(S, 3))),), S, 5),
    ((TensorType((1, dims.add(S, 3))),), dims.add(S, 3), 8),
    ((TensorType((1, S)),), dims.ceildiv(dims.add(S, 2), 4), 2),
    ((TensorType((1, S)),), dims.floordiv(dims.add(S, 2), 4), 1),
    ((StateType("entries", 3, ratio=4),), dims.floordiv(C, 4), 7),
])
def test_sizes_are_read_from_inputs(types, size, expected):
    assert sizes_of(types, size) == expected


def test_a_size_that_no_input_has_is_refused():
    with pytest.raises(FirstlightError, match="F461") as caught:
        Graph().size(dims.ceildiv(S, 4))
    assert "S" in caught.value.what


def test_a_row_finds_sizes_inside_a_function():
    function = trace("f", lambda x: x.cast("i32") + iota(x.builder, (1, S), 1),
                     (TensorType((1, S)),))
    graph = Graph()
    graph.know("x", function.args[0].type)
    (out,) = Exporter(graph).function(function, [Val("x", function.args[0].type)], Module())
    model = graph.model("g", [graph.info("x", out.type, 1)], [graph.info(out.name, out.type)])
    (got,) = open_session(model.SerializeToString()).run(None, {"x": np.ones((1, 4), np.float32)})
    assert got.tolist() == [[1, 2, 3, 4]]


# -- loops ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("tokens", [1, 3, 40])
def test_experts_by_copies_and_by_a_loop_agree(shared, tokens):
    """One token copies matrices; an open number of tokens goes through the loop."""
    x = TensorType((1, S, 8)) if shared else TensorType((1, S, 3, 8))
    random = np.random.default_rng(tokens)
    arrays = {"x": random.standard_normal([tokens if d is S else d for d in x.shape], np.float32),
              "w": random.standard_normal((9, 5, 8), np.float32),
              "index": random.integers(2, 8, (1, tokens, 3)).astype(np.int32)}
    got = []
    for count in (S, tokens):
        types = [TensorType(tuple(count if d is S else d for d in t.shape), t.dtype) for t in
                 (x, TensorType((9, 5, 8)), TensorType((1, S, 3), "i32"))]
        function = trace("f", lambda *a: emit(a[0].builder, "expert_linear", *a), tuple(types))
        graph = Graph()
        vals = [Val(n, t) for n, t in zip(arrays, types, strict=True)]
        for val in vals:
            graph.know(val.name, val.type)
        (out,) = Exporter(graph).function(function, vals, Module())
        model = graph.model("g", [graph.info(v.name, v.type) for v in vals],
                            [graph.info(out.name, out.type)])
        onnx.checker.check_model(model, full_check=True)
        got.append(open_session(model.SerializeToString()).run(None, arrays)[0])
        loops = [n.op_type for n in model.graph.node].count("Loop")
        assert loops == (1 if count is S or 3 * tokens > 32 else 0)
    np.testing.assert_allclose(got[0], got[1], rtol=0, atol=1e-5)
    want = TABLE["expert_linear"].reference(*arrays.values())
    np.testing.assert_allclose(got[0], want, rtol=0, atol=1e-5)


# -- weights -------------------------------------------------------------------------------------

class Source:
    """A weight in memory, as the artifact writer reads it."""

    def __init__(self, codec: str, shape: tuple[int, ...]) -> None:
        self.shape, self.codec = shape, codec
        value = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
        operand = stored(np.random.default_rng(4), value, TensorType(shape, "f32", codec))
        self.value, self.codes, self.scales = operand.value, operand.codes, operand.scales

    def pieces(self, rows: int) -> Iterator[tuple[int, np.ndarray, np.ndarray | None]]:
        stack = self.codes.reshape(-1, *self.codes.shape[-2:])
        grids = None if self.scales is None else self.scales.reshape(-1, *self.scales.shape[-2:])
        for number, matrix in enumerate(stack):
            for first in range(0, len(matrix), rows):
                part = slice(first, first + rows)
                grid = None if grids is None else grids[number]
                whole = CODECS[self.codec].block[0] > 1 or grid is None
                yield first, matrix[part], grid if whole else grid[part]


def read_back(tmp_path, source: Source, choice: str, ask) -> tuple[np.ndarray, Library]:
    """What a graph makes of a weight; `ask` says which question."""
    library, graph = Library(choice), Graph()
    out = ask(Parameter("w", TensorType(source.shape, "f32", source.codec), library), graph)
    out = graph("Identity", out)
    data = tmp_path / "w.safetensors"
    storing.write_data(data, library, {"w": source}, lambda done, total: None)
    model = graph.model("g", [], [onnx.helper.make_tensor_value_info(out, 1, None)])
    model.graph.initializer.extend(storing.initializers(onnx, library.of(graph), data, data.name))
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    from onnxruntime import InferenceSession

    session = InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {})[0], library


SHAPES = [(140, 288), (6, 32), (3, 150, 64), (2, 128, 256)]


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("codec", REAL)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_weight_comes_back_bit_for_bit(tmp_path, choice, codec, shape):
    source = Source(codec, shape)
    index = np.array([len(source.value) - 1, 0, 1, 1])
    questions = {
        "plain": (lambda w, g: w.plain(g), source.value),
        "swapped": (lambda w, g: w.swapped(g), np.swapaxes(source.value, -1, -2)),
        "rows": (lambda w, g: w.rows(g, g.constant(index), 1), source.value[index]),
    }
    if len(shape) == 2:
        groups = source.value.reshape(2, -1, shape[1])
        questions["groups"] = (lambda w, g: w.swapped(g, 2), np.swapaxes(groups, -1, -2))
    else:
        questions["picked"] = (lambda w, g: w.picked(g, g.constant(index), 1),
                               np.swapaxes(source.value[index], -1, -2))
    for name, (ask, want) in questions.items():
        got, library = read_back(tmp_path, source, choice, ask)
        np.testing.assert_array_equal(got, want, err_msg=f"{name} {list(library.wanted)}")


def test_packed_weights_are_as_small_as_they_were(tmp_path):
    expected = {BLOCK_FP8: "fp8", GROUP_FP4: "fp4-table", GROUP_INT8: "int8", GROUP_INT4: "int4",
                "bf16": "bf16", "f16": "f16", "f32": "f32"}
    for codec, form in expected.items():
        source = Source(codec, (256, 256))
        _, library = read_back(tmp_path, source, "packed", lambda w, g: w.swapped(g))
        (item,) = library.wanted.values()
        assert item.form == form
        codes = SafetensorsFile(tmp_path / "w.safetensors").tensors[item.name]
        assert codes.nbytes == source.codes.nbytes


def test_small_pieces_write_the_same_bytes(tmp_path, monkeypatch):
    for choice in CHOICES:
        source = Source(BLOCK_FP8, (300, 520))
        read_back(tmp_path, source, choice, lambda w, g: w.swapped(g))
        whole = (tmp_path / "w.safetensors").read_bytes()
        monkeypatch.setattr(storing, "ELEMENTS", 100)
        read_back(tmp_path, source, choice, lambda w, g: w.swapped(g))
        monkeypatch.undo()
        assert (tmp_path / "w.safetensors").read_bytes() == whole


def test_data_beyond_two_gigabytes_are_found(tmp_path):
    """A file with a hole: what lies behind it is read as written."""
    data, hole = tmp_path / "w.safetensors", (1 << 31) + 640
    with SafetensorsWriter(data, [TensorPlan("w", "F32", (2, 3))]) as out:
        out.write("w", np.arange(6, dtype=np.float32).reshape(2, 3))
    header = json.dumps({"hole": {"dtype": "U8", "shape": [hole], "data_offsets": [0, hole]},
                         "w": {"dtype": "F32", "shape": [2, 3],
                               "data_offsets": [hole, hole + 24]}}).encode()
    header += b" " * (-(8 + len(header)) % 64)
    with data.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.seek(hole, 1)
        file.write(np.arange(6, dtype=np.float32).tobytes())
    library, graph = Library("float32"), Graph()
    name = graph("Identity", Parameter("w", TensorType((2, 3), "f32", "f32"), library).plain(graph))
    model = graph.model("g", [], [onnx.helper.make_tensor_value_info(name, 1, [2, 3])])
    model.graph.initializer.extend(storing.initializers(onnx, library.of(graph), data, data.name))
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(path), full_check=True)
    from onnxruntime import InferenceSession

    (got,) = InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {})
    assert got.tolist() == [[0, 1, 2], [3, 4, 5]]


# -- the packages --------------------------------------------------------------------------------

def test_a_missing_package_is_said_with_its_line():
    with pytest.raises(FirstlightError, match="F460") as caught:
        packages.need("firstlight_has_no_such_package")
    assert caught.value.try_ == "pip install 'firstlight[onnx]'"


@pytest.mark.parametrize(("form", "kind"), [("fp8", "FLOAT8E4M3FN"), ("int8", "INT8"),
                                            ("int4", "INT4")])
def test_forms_have_the_element_types_they_say(form, kind):
    assert FORMS[form].kind == getattr(onnx.TensorProto, kind)


def test_codes_of_fp8_are_those_of_the_other_engine():
    codes = np.arange(256, dtype=np.uint8)
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT8E4M3FN, dims=[256],
                              raw_data=codes.tobytes())
    node = onnx.helper.make_node("Cast", ["w"], ["y"], to=1)
    model = onnx.helper.make_model(onnx.helper.make_graph(
        [node], "g", [], [onnx.helper.make_tensor_value_info("y", 1, [256])], [tensor]),
        opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    (got,) = open_session(model.SerializeToString()).run(None, {})
    np.testing.assert_array_equal(got, codecs.decode_e4m3(codes))
