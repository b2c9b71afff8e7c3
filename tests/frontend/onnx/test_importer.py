"""From an ONNX graph to a module: sizes, folding, the second opinion, what is refused, fuzzing."""

from collections import Counter

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the [onnx] extra")

from onnx import helper, parser  # noqa: E402

from firstlight.frontend.onnx import importer, read_graph  # noqa: E402
from firstlight.frontend.onnx.apart import Apart  # noqa: E402
from firstlight.frontend.onnx.importer import import_model  # noqa: E402
from firstlight.frontend.onnx.reading import parse_model  # noqa: E402
from firstlight.frontend.onnx.table import REFUSED, ROWS  # noqa: E402
from firstlight.ir.parser import parse  # noqa: E402
from firstlight.ir.printer import print_module  # noqa: E402
from firstlight.runtime.errors import FirstlightError  # noqa: E402
from support import onnx_mutations as mutations  # noqa: E402
from support.onnx_suite import interpreted  # noqa: E402


@pytest.fixture(scope="module")
def apart():
    with Apart() as one:
        yield one


def graph_of(text, apart, tmp_path, sizes=None, opset=17):
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]>\n' + text)
    return import_model(parse_model(model.SerializeToString(), "m", apart), tmp_path, sizes or {},
                        "m", apart)


def refused(text, apart, tmp_path, code, *words, **more):
    with pytest.raises(FirstlightError) as caught:
        graph_of(text, apart, tmp_path, **more)
    assert caught.value.code == code, caught.value
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("opset", range(17, 25))
def test_every_opset_from_17_to_24(opset, apart, tmp_path):
    axes = "axes = [1]" if opset < 18 else ""
    more, known = (", one", "<int64[1] one = {1}>") if opset >= 18 else ("", "")
    graph = graph_of(f"g (float[2, 4] x) => (float[2, 1] y) {known} "
                     f"{{ y = ReduceMax<keepdims = 1{', ' + axes if axes else ''}>(x{more}) }}",
                     apart, tmp_path, opset=opset)
    x = np.array([[1, 5, 2, 3], [-4, -3, -2, -9]], np.float32)
    assert interpreted(graph, {"x": x})["y"].tolist() == [[5], [-2]]
    assert graph.opset == opset


@pytest.mark.parametrize("opset", [7, 16, 25, 28])
def test_other_opsets_are_refused(opset, apart, tmp_path):
    refused("g (float[2] x) => (float[2] y) { y = Relu(x) }", apart, tmp_path, "F151",
            f"opset {opset}", "17 to 24", opset=opset)


SHAPES = """g (float[b, n, 8] x) => (float[b, n, 2, 4] y, float[b, 2, n, n] z)
<int64[1] two = {2}, int64[1] four = {4}, int64 nought = {0}, int64 one = {1}, int64[1] none = {0}>
{
  s = Shape(x)
  b0 = Gather(s, nought)
  n0 = Gather(s, one)
  b1 = Unsqueeze(b0, none)
  n1 = Unsqueeze(n0, none)
  t = Concat<axis = 0>(b1, n1, two, four)
  y = Reshape(x, t)
  q = Transpose<perm = [0, 2, 1, 3]>(y)
  k = Transpose<perm = [0, 2, 3, 1]>(y)
  p = MatMul(q, k)
  r = Range(nought, n0, one)
  c = Unsqueeze(r, one1)
  m = LessOrEqual(r, c)
  z = Where(m, p, low)
}""".replace("int64[1] none = {0}>", "int64[1] none = {0}, int64[1] one1 = {1}, float low = {-9}>")


@pytest.mark.parametrize("n", [1, 5, 9])
def test_a_size_may_stay_open(n, apart, tmp_path):
    graph = graph_of(SHAPES, apart, tmp_path, {"b": "1", "n": "..16"})
    assert (graph.symbol, graph.most) == ("n", 16)
    x = np.random.default_rng(n).standard_normal((1, n, 8)).astype(np.float32)
    found = interpreted(graph, {"x": x}, size=n)
    y = x.reshape(1, n, 2, 4)
    p = np.einsum("bnhd,bmhd->bhnm", y, y)
    assert np.array_equal(found["y"], y)
    assert np.allclose(found["z"], np.where(np.tri(n, dtype=bool), p, -9), atol=1e-5)
    text = print_module(graph.module)
    assert print_module(parse(text)) == text


def test_sizes_are_asked_for_by_name(apart, tmp_path):
    refused(SHAPES, apart, tmp_path, "F152", "'x', axis 0", "--dim b=1")
    refused(SHAPES, apart, tmp_path, "F152", "'x', axis 1", "--dim n=", sizes={"b": "1"})
    refused(SHAPES, apart, tmp_path, "F152", "there are: b, n",
            sizes={"b": "1", "n": "2", "m": "1"})
    refused(SHAPES, apart, tmp_path, "F152", "one can be", sizes={"b": "..2", "n": "..2"})
    refused(SHAPES, apart, tmp_path, "F152", "a size is", sizes={"b": "1.5"})


def test_what_is_constant_is_folded(apart, tmp_path):
    graph = graph_of("""g (float[2] x) => (float[2] y, int64[2] s)
<float[2] a = {1, 2}, float[2] b = {3, 4}, int64[2] k = {5, 6}>
{ c = Add(a, b) d = Mul(c, c) e = Cast<to = 1>(k) f = Add(d, e) y = Add(x, f) s = Add(k, k) }""",
                     apart, tmp_path)
    assert Counter(op.name for op in graph.function.ops) == {"constant": 2, "add": 1, "copy": 2}
    found = interpreted(graph, {"x": np.zeros(2, np.float32)})
    assert found["y"].tolist() == [21, 42]
    assert found["s"].tolist() == [10, 12]
    assert found["s"].dtype == np.int64


def test_equal_weights_are_kept_once(apart, tmp_path):
    weight = ", ".join(map(str, range(100)))
    graph = graph_of(f"""g (float[1, 10] x) => (float[1, 10] z) <float[10, 10] w = {{{weight}}}>
{{ y = Add(x, w) v = Sub(y, w) z = ReduceSum<keepdims = 0>(v, n) }}""".replace(
        "}>", "}, int64[1] n = {0}>").replace("float[1, 10] z", "float[10] z"), apart, tmp_path)
    assert [a.loc for a in graph.function.args] == ["in.x", "w0"]
    graph = graph_of(f"""g (float[1, 10] x) => (float[1, 10] z) <float[10, 10] w = {{{weight}}}>
{{ y = MatMul(x, w) u = MatMul(y, w) z = Gemm(u, w) }}""", apart, tmp_path)
    assert [a.loc for a in graph.function.args] == ["in.x", "w0"]


BRANCHES = """g (float[2] x%s) => (float[2] y) %s {
  y = If <then_branch = t () => (float[2] a) { a = Relu(x) },
          else_branch = e () => (float[2] b) { b = Neg(x) }> (c)
}"""


def test_branches_are_taken_when_compiling_or_refused(apart, tmp_path):
    graph = graph_of(BRANCHES % ("", "<bool c = {0}>"), apart, tmp_path)
    assert [op.name for op in graph.function.ops] == ["neg", "copy"]
    refused(BRANCHES % (", bool c", ""), apart, tmp_path, "F151", "If", "condition")


def test_loops_are_refused(apart, tmp_path):
    refused("""g (float[2] x) => (float[2] y) <int64 n = {3}, bool c = {1}> {
  y = Loop <body = l (int64 i, bool go, float[2] a) => (bool on, float[2] b)
            { on = Identity(go) b = Add(a, a) }> (n, c, x)
}""", apart, tmp_path, "F151", "Loop", "unroll")
    refused("""g (float[2] x, float[3, 2] s) => (float[2] y) {
  y = Scan <num_scan_inputs = 1, body = l (float[2] a, float[2] e) => (float[2] b)
            { b = Add(a, e) }> (x, s)
}""", apart, tmp_path, "F151", "Scan")


@pytest.mark.parametrize(("text", "words"), [
    ("g (float[2] x) => (float[3] y) { y = Relu(x) }", ("y",)),
    ("g (float[2] x) => (int64[2] y) { y = Relu(x) }", ("y", "type")),
    ("g (float[2] x, float[3] z) => (float[2] y) { y = Add(x, z) }", ("Add",)),
])
def test_what_the_file_claims_is_held_against_inference(text, words, apart, tmp_path):
    refused(text, apart, tmp_path, "F153", *words)


def test_a_rule_of_ours_that_disagrees_is_an_error_that_names_the_value(
        apart, tmp_path, monkeypatch):
    from dataclasses import replace

    row = ROWS["Transpose"]
    wrong = replace(row, emit=lambda c: c.out(c.x()))       # forgets to move the axes
    monkeypatch.setitem(importer.ROWS, "Transpose", wrong)
    refused("g (float[2, 3] x) => (float[3, 2] other) { other = Transpose(x) }", apart, tmp_path,
            "F153", "'other'", "[3, 2]", "[2, 3]")


@pytest.mark.parametrize(("text", "words"), [
    ("g (double[2] x) => (double[2] y) { y = Relu(x) }", ("float64",)),
    ("g (string[2] x) => (string[2] y) { y = Identity(x) }", ("string",)),
    ("g (uint64[2] x) => (uint64[2] y) { y = Add(x, x) }", ("uint64",)),
    ("g (float[2] x) => (float[n] y) { m = NonZero(x) c = Cast<to = 1>(m) y = Squeeze(c) }",
     ("NonZero",)),
    ("g (float[2] x) => (float[2] y) { y = RandomNormalLike(x) }", ("random",)),
])
def test_what_is_not_supported_says_so(text, words, apart, tmp_path):
    refused(text, apart, tmp_path, "F151", *words)


def test_there_is_a_row_for_every_operator_of_these_opsets():
    versions = [s for s in onnx.defs.get_all_schemas_with_history() if s.domain == ""]
    names = {s.name for s in versions if s.since_version <= 24}
    assert set(ROWS) == names
    assert all(row.note for row in ROWS.values() if row.how == REFUSED)


@pytest.mark.parametrize("seeds", [
    range(600), pytest.param(range(600, 10_000), marks=pytest.mark.slow)], ids=["600", "10000"])
def test_mutated_models_end_in_four_lines(seeds, tmp_path):
    """No traceback, no crash, no hang, whatever bytes and structure are."""
    mutations.write_external(tmp_path)
    wholes = [m.SerializeToString() for m in mutations.originals()]
    ends = Counter()
    with Apart() as apart:
        for whole in wholes:
            parse_model(whole, "whole", apart)
        for seed in seeds:
            end = _end(mutations.mutant(seed, wholes), tmp_path, apart)
            assert isinstance(end, str) or str(end).count("\n") == 3, (seed, str(end))
            ends[getattr(end, "code", end)] += 1
    assert ends["imported"] > len(seeds) / 10               # some changes are harmless,
    assert len(ends) == 6, ends                             # and every error has its turn


def _end(data, folder, apart):
    try:
        model = parse_model(data, "m", apart)
        names = {d.dim_param for i in model.graph.input for d in i.type.tensor_type.shape.dim}
        import_model(model, folder, {"n": "3"} if "n" in names else {}, "m", apart)
    except FirstlightError as error:
        return error
    return "imported"


def test_a_model_that_the_helper_makes(apart, tmp_path):
    """Not only text: inputs that are initialisers, too, as old exporters write them."""
    info = helper.make_tensor_value_info
    model = helper.make_model(helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g",
        [info("x", 1, [1, 2, 3]), info("w", 1, [3, 2])], [info("y", 1, [1, 2, 2])],
        [helper.make_tensor("w", 1, [3, 2], range(6))]),
        opset_imports=[helper.make_opsetid("", 17)])
    checked = parse_model(model.SerializeToString(), "m", apart)
    graph = import_model(checked, tmp_path, {}, "m", apart)
    assert [p.name for p in graph.inputs] == ["x"]
    assert [op.name for op in graph.function.ops] == ["linear", "copy"]


def test_read_graph_is_the_door(tmp_path):
    onnx.save(parser.parse_model('<ir_version: 8, opset_import: ["" : 17]>'
                                 "g (float[2] x) => (float[2] y) { y = Relu(x) }"),
              tmp_path / "m.onnx")
    assert read_graph(tmp_path / "m.onnx").name == "g"
