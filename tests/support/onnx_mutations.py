"""Models that are wrong in one or more places, made from whole ones by a seed.

A third has bytes of the file changed, a third bytes of one node, tensor or input, the rest is
changed as a graph: what no exporter writes, and an attacker or a damaged disk does.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper, parser

TEXTS = ("""
<ir_version: 8, opset_import: ["" : 17]>
mlp (float[n, 8] x, int64[n] ids) => (float[n, 4] y, float[n, 8] z)
<float[8, 4] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22,
 23, 24, 25, 26, 27, 28, 29, 30, 31, 32}, int64[2] two = {0, -1}>
{
  e = Gather<axis = 0>(table, ids)
  h = Add(x, e)
  r = Relu(h)
  y = MatMul(r, w)
  s = Shape(h)
  t = Reshape(h, s)
  z = Softmax<axis = 1>(t)
}
""", """
<ir_version: 10, opset_import: ["" : 23]>
heads (float[1, 6, 16] x, bool[6, 6] seen) => (float[1, 6, 16] y, int64[1, 6, 2] i)
<float[16] scale = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, int64[1] k = {2},
 int64[4] split = {1, 6, 4, 4}, int64[3] join = {1, 6, 16}, float low = {-1e30},
 int64[2] pads = {0, 3}, int64[1] start = {1}, int64[1] end = {5}, int64[1] axis = {1}>
{
  n = RMSNormalization<axis = -1, epsilon = 0.001>(x, scale)
  q = Reshape(n, split)
  qt = Transpose<perm = [0, 2, 1, 3]>(q)
  kt = Transpose<perm = [0, 2, 3, 1]>(q)
  p = MatMul(qt, kt)
  m = Where(seen, p, low)
  a = Softmax(m)
  c = MatMul(a, qt)
  b = Transpose<perm = [0, 2, 1, 3]>(c)
  y = Reshape(b, join)
  v, i = TopK(y, k)
  part = Slice(y, start, end, axis)
  wide = Pad(part, pads, low, axis)
  one, two = Split<axis = 2, num_outputs = 2>(wide)
  both = Concat<axis = 2>(one, two)
}
""", """
<ir_version: 9, opset_import: ["" : 20]>
mixed (float[2, 3, 4] x, uint8[2, 3, 4] q) => (float[2, 3] y, uint8[2, 3, 4] back)
<float scale = {0.5}, uint8 zero = {3}, int64[1] last = {2}, int64[2] shape = {6, 4},
 int64 n = {4}, int64 one = {1}, int64 nought = {0}, float[4] bias = {1, 2, 3, 4},
 float[4, 4] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}>
{
  d = DequantizeLinear(q, scale, zero)
  s = Add(x, d)
  flat = Reshape(s, shape)
  g = Gemm<alpha = 0.5, transB = 1>(flat, w, bias)
  l = Gelu<approximate = "tanh">(g)
  c = Cast<to = 1>(l)
  r = Range(nought, n, one)
  f = Cast<to = 1>(r)
  t = Mul(c, f)
  u = Shape(x)
  o = Reshape(t, u)
  y = ReduceSum<keepdims = 0>(o, last)
  back = QuantizeLinear(o, scale, zero)
  e = Einsum<equation = "abc,adc->abd">(o, o)
  const = ConstantOfShape(shape)
  cond = Less(nought, n)
}
""")
NUMBERS = (0, 1, -1, 2, 3, 7, 64, 1 << 20, 1 << 31, (1 << 31) - 1, 1 << 40, (1 << 62) + 3,
           -(1 << 63), (1 << 63) - 1)
OPS = ("Add", "MatMul", "Reshape", "Transpose", "Slice", "Gather", "Expand", "Tile", "Range",
       "ConstantOfShape", "Split", "Concat", "TopK", "Pad", "Softmax", "Cast", "Where", "Squeeze",
       "Unsqueeze", "ReduceSum", "ReduceProd", "CumSum", "ScatterND", "ScatterElements", "GatherND",
       "OneHot", "Einsum", "Gemm", "Conv", "Resize", "Loop", "If", "Scan", "Attention", "Identity",
       "RotaryEmbedding", "RMSNormalization", "LayerNormalization", "DequantizeLinear", "EyeLike",
       "QuantizeLinear", "NonZero", "Constant", "Shape", "Size", "Trilu", "Compress",
       "MatMulInteger", "HannWindow", "BitShift", "Pow", "Mod", "CenterCropPad",
       "GroupNormalization", "Col2Im", "StringSplit", "SequenceAt", "Optional", "Nonsense",
       "Celu", "DFT", "MelWeightMatrix")


def originals() -> list[Any]:
    """The whole models: a small network, an attention layer, and one with many operators."""
    models = [parser.parse_model(text) for text in TEXTS]
    models[0].graph.initializer.append(
        helper.make_tensor("table", TensorProto.FLOAT, (5, 8), [0.5] * 40))
    outside = onnx.ModelProto()     # the first again, with a matrix in another file
    outside.CopyFrom(models[0])
    w = next(t for t in outside.graph.initializer if t.name == "w")
    w.ClearField("float_data")
    w.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "w.bin"), ("offset", "0"), ("length", "128")):
        w.external_data.add(key=key, value=value)
    return [*models, outside]


def write_external(folder: Path) -> None:
    """The file that the last of `originals` reads."""
    (folder / "w.bin").write_bytes(bytes(128))


def mutant(seed: int, wholes: list[bytes]) -> bytes:
    """A model's bytes, changed in one, two or four places."""
    rng = random.Random(seed)
    data = rng.choice(wholes)
    if seed % 3 == 0:
        for _ in range(rng.choice((1, 1, 2, 4))):
            data = rng.choice(BYTES)(rng, data)
        return data
    model = onnx.ModelProto.FromString(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        rng.choice((_inside,) if seed % 3 == 1 else STRUCTURE)(rng, model)
    return bytes(model.SerializeToString())


# -- bytes ---------------------------------------------------------------------------------------

def _flip(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1:]


def _set(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([rng.choice((0, 1, 127, 128, 255))]) + data[at + 1:]


def _cut(rng: random.Random, data: bytes) -> bytes:
    a, n = rng.randrange(len(data)), rng.choice((1, 1, 2, 8, 64))
    return data[:a] + data[a + n:] if len(data) > n else data


def _repeat(rng: random.Random, data: bytes) -> bytes:
    a, n = rng.randrange(len(data)), rng.choice((1, 2, 8, 64))
    return data[:a] + data[a:a + n] * rng.randint(2, 3) + data[a + n:]


def _end(rng: random.Random, data: bytes) -> bytes:
    return data[:rng.randrange(1, len(data))] if len(data) > 1 else data


BYTES: tuple[Callable[[random.Random, bytes], bytes], ...] = (_flip, _flip, _set, _cut, _repeat,
                                                             _end)


def _inside(rng: random.Random, model: Any) -> None:
    """Bytes of one node, tensor or input, where the whole can still be read."""
    part = rng.choice((*model.graph.node, *model.graph.initializer, *model.graph.input))
    for _ in range(8):
        data = part.SerializeToString()
        for _ in range(rng.choice((1, 1, 3))):
            data = rng.choice((_flip, _set, _cut, _repeat))(rng, data) if data else data
        try:
            part.CopyFrom(type(part).FromString(data))
            return
        except Exception:   # not a message any more: once more
            continue


# -- structure -----------------------------------------------------------------------------------

def _node(rng: random.Random, model: Any) -> Any:
    return rng.choice(model.graph.node) if model.graph.node else model.graph.node.add()


def _names(model: Any) -> list[str]:
    graph = model.graph
    return [v.name for v in (*graph.input, *graph.output, *graph.initializer)] + [
        n for node in graph.node for n in node.output] + [""]


def _rewire(rng: random.Random, model: Any) -> None:
    node = _node(rng, model)
    if node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(_names(model))


def _rename(rng: random.Random, model: Any) -> None:
    node = _node(rng, model)
    if node.output:
        node.output[rng.randrange(len(node.output))] = rng.choice(_names(model))


def _other(rng: random.Random, model: Any) -> None:
    _node(rng, model).op_type = rng.choice(OPS)


def _more(rng: random.Random, model: Any) -> None:
    """A new node, at any place."""
    names = _names(model)
    node = helper.make_node(rng.choice(OPS), rng.choices(names, k=rng.randint(0, 4)),
                            [f"new{rng.randrange(9)}" for _ in range(rng.randint(1, 2))])
    nodes = list(model.graph.node)
    nodes.insert(rng.randrange(len(nodes) + 1), node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _drop(rng: random.Random, model: Any) -> None:
    part = rng.choice((model.graph.node, model.graph.initializer, model.graph.input,
                       model.graph.output))
    if part:
        del part[rng.randrange(len(part))]


def _shuffle(rng: random.Random, model: Any) -> None:
    nodes = list(model.graph.node)
    rng.shuffle(nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _size(rng: random.Random, model: Any) -> None:
    """Another size of an input, an output, or a tensor."""
    shapes = [v.type.tensor_type.shape.dim for v in (*model.graph.input, *model.graph.output)]
    if rng.random() < 0.5 and model.graph.initializer:
        dims = rng.choice(model.graph.initializer).dims
        if dims:
            dims[rng.randrange(len(dims))] = rng.choice(NUMBERS)
        return
    dim = rng.choice(shapes) if shapes else []
    if dim:
        one = rng.choice(dim)
        if rng.random() < 0.3:
            one.dim_param = rng.choice(("n", "m", "", "n*2", "\x00"))
        else:
            one.dim_value = rng.choice(NUMBERS)


def _number(rng: random.Random, model: Any) -> None:
    """Another value in a small tensor of integers: shapes, axes, places."""
    tensors = [t for t in model.graph.initializer if t.data_type == TensorProto.INT64]
    if tensors:
        t = rng.choice(tensors)
        values = [rng.choice(NUMBERS) for _ in range(max(len(t.int64_data), 1))]
        t.ClearField("raw_data")
        del t.int64_data[:]
        t.int64_data.extend(values)


def _kind(rng: random.Random, model: Any) -> None:
    """Another element type."""
    values = [*model.graph.input, *model.graph.output]
    if rng.random() < 0.5 and model.graph.initializer:
        rng.choice(model.graph.initializer).data_type = rng.randrange(30)
    elif values:
        rng.choice(values).type.tensor_type.elem_type = rng.randrange(30)


def _attribute(rng: random.Random, model: Any) -> None:
    node = _node(rng, model)
    name = rng.choice(("axis", "perm", "to", "epsilon", "keepdims", "equation", "num_outputs",
                       "alpha", "allowzero", "k", "value", "block_size", "approximate", "body",
                       "num_heads", "q_num_heads", "kv_num_heads", "size", "kernel_shape"))
    for old in list(node.attribute):
        if old.name == name:
            node.attribute.remove(old)
    graph = onnx.GraphProto()
    graph.CopyFrom(model.graph)
    value = rng.choice((rng.choice(NUMBERS), [rng.choice(NUMBERS) for _ in range(3)], 0.5,
                        float("nan"), "tanh", "a->", [0.5], ["x"], graph,
                        helper.make_tensor("t", TensorProto.INT64, (1,), [rng.choice(NUMBERS)])))
    node.attribute.append(helper.make_attribute(name, value))


def _place(rng: random.Random, model: Any) -> None:
    """External data elsewhere, or where there was none."""
    if not model.graph.initializer:
        return
    t = rng.choice(model.graph.initializer)
    t.data_location = TensorProto.EXTERNAL
    del t.external_data[:]
    for key, value in (("location", rng.choice(("w.bin", "../w.bin", "/etc/passwd", "", "w.bin/x",
                                                "a\\b", "w\x00.bin", "./w.bin", "."))),
                       ("offset", rng.choice(("0", "-1", "128", "1", str(1 << 62), "x", "1e3"))),
                       ("length", rng.choice(("128", "0", "-1", str(1 << 62), "7")))):
        if rng.random() < 0.8:
            t.external_data.add(key=key, value=value)


def _stamp(rng: random.Random, model: Any) -> None:
    if model.opset_import:
        rng.choice(model.opset_import).version = rng.choice((0, -1, 13, 17, 18, 20, 22, 23, 24, 25,
                                                             1 << 40))
    if rng.random() < 0.3:
        model.opset_import.add(domain=rng.choice(("", "ai.onnx", "com.example")), version=18)


STRUCTURE: tuple[Callable[[random.Random, Any], None], ...] = (
    _rewire, _rename, _other, _more, _drop, _shuffle, _size, _number, _kind, _attribute, _place,
    _stamp, _number, _number, _number, _size, _size, _other, _attribute)
