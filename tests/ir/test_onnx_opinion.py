"""A second opinion on the numpy references: the same primitives spelled in ONNX, run by ORT."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from firstlight.ir.registry import TABLE
from support.primitive_cases import SIZES, PrimitiveCase, primitive_cases

onnx = pytest.importorskip("onnx", reason="needs the [onnx] extra")
ort = pytest.importorskip("onnxruntime", reason="needs the [onnx] extra")

OPSET = 23
NOT_IN_ONNX = {
    "call": "functions are not ops", "repeat": "a call", "size": "a number known to the compiler",
    "round_e2m1": "onnxruntime has no cast to 4-bit floats on the CPU",
}
F32, I32, I64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT32, onnx.TensorProto.INT64
DTYPES = {"f32": F32, "i32": I32, "bool": onnx.TensorProto.BOOL}


class Graph:
    """ONNX nodes under construction; everything is called by the name of its value."""

    def __init__(self, case: PrimitiveCase) -> None:
        self.case, self.nodes, self.initializers = case, [], []
        self.inputs = [f"x{i}" for i in range(len(case.arrays))]

    def __call__(self, name: str, *operands: "str | np.ndarray | Sequence[int]", outputs: int = 1,
                 **attrs: Any) -> Any:
        """A node; operands that are arrays or lists become constants."""
        ins = [o if isinstance(o, str) else self.constant(o) for o in operands]
        outs = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(onnx.helper.make_node(name, ins, outs, **attrs))
        return outs[0] if outputs == 1 else outs

    def constant(self, value: "np.ndarray | Sequence[int]") -> str:
        """An initializer; plain lists are int64."""
        array = value if isinstance(value, np.ndarray) else np.array(value, np.int64)
        name = f"c{len(self.initializers)}"
        self.initializers.append(onnx.numpy_helper.from_array(array, name))
        return name

    def run(self, result: str) -> np.ndarray:
        """What onnxruntime says."""
        info = [onnx.helper.make_tensor_value_info(
            n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in zip(self.inputs, self.case.arrays, strict=True)]
        out = onnx.helper.make_empty_tensor_value_info(result)
        graph = onnx.helper.make_graph(self.nodes, self.case.op, info, [out], self.initializers)
        model = onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=10)
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = ort.InferenceSession(model.SerializeToString(), options,
                                       providers=["CPUExecutionProvider"])
        return session.run(None, dict(zip(self.inputs, self.case.arrays, strict=True)))[0]


Spelling = Callable[..., str]
SPELLINGS: dict[str, Spelling] = {}


def spelled(function: Spelling) -> Spelling:
    """Register how ONNX says the primitive of the function's name."""
    SPELLINGS[function.__name__.rstrip("_")] = function
    return function


def plain(name: str, **attrs: Any) -> Spelling:
    """The same op under another name."""
    return lambda g, *x, **_: g(name, *x, **attrs)


SPELLINGS |= {name: plain(other) for name, other in {
    "neg": "Neg", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "abs": "Abs", "tanh": "Tanh",
    "sigmoid": "Sigmoid", "softplus": "Softplus", "relu": "Relu", "cos": "Cos", "sin": "Sin",
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "maximum": "Max", "minimum": "Min",
    "lt": "Less", "le": "LessOrEqual", "eq": "Equal", "logical_and": "And", "logical_or": "Or",
    "select": "Where", "mod": "Mod"}.items()}
SPELLINGS |= {
    "copy": lambda g, x: g("Identity", x),
    "rsqrt": lambda g, x: g("Reciprocal", g("Sqrt", x)),
    "cast": lambda g, x, dtype: g("Cast", x, to=DTYPES[dtype]),
    "transpose": lambda g, x, perm: g("Transpose", x, perm=perm),
    "concat": lambda g, *xs, axis: g("Concat", *xs, axis=axis),
    "softmax": lambda g, x, axis: g("Softmax", x, axis=axis),
    "reshape": lambda g, x, shape: g("Reshape", x, shape),
    "broadcast": lambda g, x, shape: g("Expand", x, shape),
    "slice": lambda g, x, axis, start, stop: g("Slice", x, [start], [stop], [axis]),
    "embedding": lambda g, table, ids: g("Gather", table, ids, axis=0),
    "entries_read": lambda g, state, slot: g("Gather", state, slot, axis=0),
    "reduce_sum": lambda g, x, axis, keepdims: g("ReduceSum", x, [axis], keepdims=keepdims),
    "reduce_max": lambda g, x, axis, keepdims: g("ReduceMax", x, [axis], keepdims=keepdims),
    "reduce_mean": lambda g, x, axis, keepdims: g("ReduceMean", x, [axis], keepdims=keepdims),
    "round_bf16": lambda g, x: g("Cast", g("Cast", x, to=onnx.TensorProto.BFLOAT16), to=F32),
    # the data of these cases has a scale of one in every row
    "round_e4m3": lambda g, x, block: g("Cast", g("Cast", x, to=onnx.TensorProto.FLOAT8E4M3FN),
                                        to=F32),
}


@spelled
def floordiv(g: Graph, a: str, b: str) -> str:
    """ONNX's integer division cuts towards zero: divide doubles, exact for 32 bits."""
    a, b = (g("Cast", x, to=onnx.TensorProto.DOUBLE) for x in (a, b))
    return g("Cast", g("Floor", g("Div", a, b)), to=I32)


@spelled
def constant(g: Graph, value: Any, shape: tuple[int, ...], dtype: str) -> str:
    kind = np.float32 if dtype == "f32" else np.int32
    if isinstance(value, tuple):
        return g("Reshape", np.array(value, kind), shape)
    if not shape:
        return g("Identity", np.array(value, kind))
    fill = onnx.helper.make_tensor("value", DTYPES[dtype], [1], [value])
    return g("ConstantOfShape", shape, value=fill)


@spelled
def iota(g: Graph, shape: tuple[Any, ...], axis: int) -> str:
    sizes = [s if isinstance(s, int) else SIZES[str(s)] for s in shape]
    line = g("Range", *(np.array(v, np.int32) for v in (0, sizes[axis], 1)))
    return g("Expand", g("Reshape", line, [-1 if i == axis else 1 for i in range(len(sizes))]),
             sizes)


@spelled
def gather_rows(g: Graph, x: str, index: str) -> str:
    last = np.array(g.case.arrays[0].shape[1] - 1, np.int32)
    near = g("Cast", g("Clip", index, np.array(0, np.int32), last), to=I64)
    return g("GatherND", x, g("Unsqueeze", near, [-1]), batch_dims=1)


@spelled
def take_along(g: Graph, x: str, index: str) -> str:
    return g("GatherElements", x, index, axis=-1)


@spelled
def matmul(g: Graph, a: str, b: str, transpose_b: bool) -> str:
    rank = g.case.arrays[1].ndim
    swapped = [*range(rank - 2), rank - 1, rank - 2]
    return g("MatMul", a, g("Transpose", b, perm=swapped) if transpose_b else b)


@spelled
def linear(g: Graph, x: str, w: str) -> str:
    return g("MatMul", x, g("Transpose", w, perm=[1, 0]))


@spelled
def group_linear(g: Graph, x: str, w: str) -> str:
    groups, k = g.case.arrays[0].shape[-2:]
    return g("Einsum", x, g("Reshape", w, [groups, -1, k]), equation="bsgk,gnk->bsgn")


@spelled
def expert_linear(g: Graph, x: str, w: str, index: str) -> str:
    """Every chosen matrix in full, times its token."""
    axis = [-1] if g.case.arrays[0].ndim > g.case.arrays[2].ndim else [-1, -3]
    column = g("Unsqueeze", x, [-1]) if axis == [-1] else g("Unsqueeze", x, [2, 4])
    return g("Squeeze", g("MatMul", g("Gather", w, index, axis=0), column), [-1])


@spelled
def top_k(g: Graph, x: str, k: int) -> str:
    """TopK gives ties in the order of their places, as we do; -inf and what is not there: -1."""
    have = min(k, g.case.arrays[0].shape[-1])
    values, places = g("TopK", x, [have], outputs=2, axis=-1, largest=1, sorted=1)
    nothing = g("Equal", values, np.array(-np.inf, np.float32))
    found = g("Where", nothing, np.array(-1, np.int64), places)
    padding = np.full((*g.case.arrays[0].shape[:-1], k - have), -1, np.int64)
    return g("Cast", g("Concat", found, padding, axis=-1), to=I32)


@spelled
def hadamard(g: Graph, x: str) -> str:
    n = g.case.arrays[0].shape[-1]
    ones = [[(-1.0) ** (i & j).bit_count() for j in range(n)] for i in range(n)]
    return g("MatMul", x, (np.array(ones) * n**-0.5).astype(np.float32))


def _places(case: PrimitiveCase, slot: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """[B, n, 2] pairs (slot, row)."""
    return np.stack([np.broadcast_to(slot[:, None], rows.shape), rows], -1).astype(np.int64)


@spelled
def ring_read(g: Graph, state: str, slot: str, pos: str) -> str:
    (_, slots, at), rows = g.case.arrays, g.case.arrays[0].shape[1]
    positions = at[:, None] - rows + np.arange(rows)
    read = g("GatherND", state, _places(g.case, slots, positions % rows))
    before = g("Less", positions[..., None].astype(np.int32), np.array(0, np.int32))
    return g("Where", before, np.array(0, np.float32), read)


@spelled
def ring_write(g: Graph, state: str, x: str, slot: str, pos: str) -> str:
    (_, new, slots, at), rows = g.case.arrays, g.case.arrays[0].shape[1]
    first = max(0, new.shape[1] - rows)
    positions = at[:, None] + np.arange(first, new.shape[1])
    kept = g("Slice", x, [first], [new.shape[1]], [1])
    return g("ScatterND", state, _places(g.case, slots, positions % rows), kept)


@spelled
def entries_append(g: Graph, state: str, x: str, slot: str, first: str, count: str) -> str:
    _, new, slots, start, counts = g.case.arrays
    chosen = [(b, i) for b in range(len(new)) for i in range(counts[b])]
    if not chosen:
        return g("Identity", state)
    places = [(slots[b], start[b] + i) for b, i in chosen]
    return g("ScatterND", state, places, g("GatherND", x, chosen))


def test_every_primitive_is_spelled_or_excused():
    primitives = {name for name, info in TABLE.items() if not info.composite}
    assert primitives == SPELLINGS.keys() | NOT_IN_ONNX.keys()
    assert not SPELLINGS.keys() & NOT_IN_ONNX.keys()


@pytest.mark.parametrize("name", sorted(SPELLINGS))
def test_onnxruntime_says_the_same(name):
    """Whole numbers and moved data exactly, arithmetic to a few units in the last place."""
    for case in (c for c in primitive_cases() if c.op == name):
        graph, want = Graph(case), case.result()
        got = graph.run(SPELLINGS[name](graph, *graph.inputs, **case.attrs))
        where = f"{name} {case.attrs} {[a.shape for a in case.arrays]}"
        assert got.shape == want.shape, where
        assert got.dtype == want.dtype, where
        if want.dtype != np.float32:
            np.testing.assert_array_equal(got, want, where)
        else:
            top = np.abs(want[np.isfinite(want)]).max(initial=0)
            np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6 * min(float(top), 1e4),
                                       err_msg=where)
