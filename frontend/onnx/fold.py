"""Folding: nodes whose inputs are known are evaluated now, by onnx's own reference evaluator.

Nodes on shapes with an open size are evaluated here, where sizes can be put together.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.frontend.onnx.errors import Refused
from firstlight.frontend.onnx.reading import onnx_package
from firstlight.frontend.onnx.values import Held, compact, plus, product, times
from firstlight.ir import dims
from firstlight.ir.dims import Dim

LIMIT = 1 << 16
"""Most elements of an input or a result that are folded; what is larger is computed at run time."""
KEEPING = frozenset({"Cast", "DequantizeLinear", "Transpose", "Reshape", "Squeeze", "Unsqueeze",
                     "Flatten", "Identity"})
"""Folded whatever their size, since they make no more elements: weights as exporters write them."""
NEVER = frozenset({"If", "Loop", "Scan", "RandomNormal", "RandomNormalLike", "RandomUniform",
                   "RandomUniformLike", "Bernoulli", "Multinomial", "Dropout", "ImageDecoder",
                   "StringNormalizer", "StringSplit", "StringConcat", "RegexFullMatch",
                   "TfIdfVectorizer"})


def fold(node: Any, ins: list[Held | None], version: int, attrs: dict[str, Any]
         ) -> list[NDArray[Any]] | None:
    """The results of a node on known inputs, or None where it is not to be evaluated now.

    Raises Refused where it cannot be evaluated.
    """
    known = [v.known if v is not None else None for v in ins]
    if node.op_type == "Shape" and ins[0] is not None:
        return [_shape(ins[0].shape, attrs)]
    if node.op_type == "Size" and ins[0] is not None:
        return [compact(np.array(product(ins[0].shape), object))]
    if any(v is not None and v.known is None for v in ins) or node.op_type in NEVER:
        return None
    if any(v is not None and v.symbolic for v in ins):
        return _symbolic(node.op_type, [k for k in known if k is not None], attrs)
    if node.op_type not in KEEPING and (
            any(k is not None and k.size > LIMIT for k in known) or _many(node.op_type, known)):
        return None
    onnx = onnx_package()
    from onnx.reference import ReferenceEvaluator

    names = list(node.input)
    feeds = {n: k for n, k in zip(names, known, strict=True) if n and k is not None}
    infos = [onnx.helper.make_tensor_value_info(
        n, onnx.helper.np_dtype_to_tensor_dtype(k.dtype), k.shape) for n, k in feeds.items()]
    outs = [onnx.ValueInfoProto(name=n) for n in node.output if n]
    try:
        graph = onnx.helper.make_graph([node], "fold", infos, outs)
        model = onnx.helper.make_model(graph, opset_imports=[
            onnx.helper.make_opsetid("", version)])
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(model).run(None, feeds)
    except Exception as error:
        raise Refused(f"its constant inputs make no sense: {' '.join(str(error).split())[:120]}"
                      ) from error
    found = iter(results)
    arrays = [np.asarray(next(found)) if n else np.empty(0) for n in node.output]
    if any(a.dtype.kind in "OUS" for a in arrays):
        raise Refused("its result is no tensor of numbers")
    return arrays


def _many(op: str, known: list[NDArray[Any] | None]) -> bool:
    """Whether the result would be too large to be kept, for operators that can make it so."""
    def first(i: int) -> NDArray[Any]:
        value = known[i]
        return np.zeros(0) if value is None else value

    try:
        if op == "ConstantOfShape":
            return math.prod(map(int, first(0))) > LIMIT
        if op == "Expand":
            return math.prod(map(int, first(1))) * max(first(0).size, 1) > LIMIT
        if op == "Tile":
            return math.prod(map(int, first(1))) * max(first(0).size, 1) > LIMIT
        if op == "Range":
            start, stop, step = (float(first(i)) for i in range(3))
            return step == 0 or not abs((stop - start) / step) <= LIMIT
        if op in ("EyeLike", "Constant"):
            return False
        if op == "OneHot":
            return first(0).size * int(np.max(first(1))) > LIMIT
        if op in ("Pad", "Resize", "Upsample", "CenterCropPad", "MelWeightMatrix", "BlackmanWindow",
                  "HammingWindow", "HannWindow", "Col2Im", "Conv", "ConvTranspose", "DFT", "STFT",
                  "AffineGrid", "GridSample", "MaxUnpool", "BitShift", "Pow", "TensorScatter"):
            return sum(k.size for k in known if k is not None) > 64 or any(
                k is not None and k.size and not np.all(np.abs(k.astype(np.float64)) <= 64)
                for k in known)
        total = math.prod(max(k.size, 1) for k in known if k is not None)
        return total > LIMIT * 64
    except (TypeError, ValueError, OverflowError):
        return True


def _shape(shape: tuple[dims.Size, ...], attrs: dict[str, Any]) -> NDArray[Any]:
    part = shape[slice(attrs.get("start", 0), attrs.get("end"))]
    out = np.empty(len(part), object)
    out[:] = part
    return compact(out) if len(part) else np.empty(0, np.int64)


def _symbolic(op: str, xs: list[NDArray[Any]], attrs: dict[str, Any]
              ) -> list[NDArray[Any]] | None:
    """Operators on shapes of which some sizes are open; None where they are left to run time."""
    x = xs[0]
    if op in ("Identity", "Cast"):
        return [x]
    if op == "Concat":
        return [compact(np.concatenate([v.astype(object) for v in xs], attrs["axis"]))]
    if op == "Gather":
        return [compact(np.asarray(np.take(x, xs[1].astype(np.int64), attrs.get("axis", 0)),
                                   object))]
    if op == "Slice":
        starts, ends = xs[1], xs[2]
        steps = xs[4] if len(xs) > 4 else np.ones(1, np.int64)
        if x.ndim == 1 and starts.size == 1:
            return [compact(x[int(starts[0]):int(ends[0]):int(steps[0])])]
    if op in ("Unsqueeze", "Squeeze", "Reshape") and x.size == 1:
        rank = {"Unsqueeze": x.ndim + 1, "Squeeze": 0}.get(op, xs[-1].size)
        return [x.reshape((1,) * rank)]
    if op in ("Squeeze",) and x.size > 1:
        return [x.reshape(-1)]
    if op in ("Add", "Sub", "Mul", "Div"):
        a, b = np.broadcast_arrays(x, xs[1])
        out = np.empty(a.shape, object)
        for i in np.ndindex(a.shape):
            left, right = _size(a[i]), _size(b[i])
            out[i] = {"Add": plus, "Mul": times, "Sub": _minus, "Div": _over}[op](left, right)
        return [compact(out)]
    if op == "Equal":
        a, b = np.broadcast_arrays(x, xs[1])
        # an open size is at least 1, and equal to nothing but itself
        same = [bool(left == right) for left, right in zip(a.reshape(-1), b.reshape(-1),
                                                           strict=True)]
        if any(isinstance(v, Dim) and isinstance(w, int) and w >= 1
               for p in (a, b) for v, w in zip(p.reshape(-1), (b if p is a else a).reshape(-1),
                                               strict=True)):
            return None
        return [np.array(same).reshape(a.shape)]
    if op == "Where":
        c, a, b = np.broadcast_arrays(*[v.astype(object) for v in xs])
        out = np.empty(c.shape, object)
        for i in np.ndindex(c.shape):
            out[i] = a[i] if c[i] else b[i]
        return [compact(out)]
    return None


def _size(value: Any) -> dims.Size:
    return value if isinstance(value, Dim) else int(value)


def _minus(a: dims.Size, b: dims.Size) -> dims.Size:
    if a == b:
        return 0
    if isinstance(b, int):
        return plus(a, -b)
    raise Refused(f"the size {a} - {b}")


def _over(a: dims.Size, b: dims.Size) -> dims.Size:
    if a == b:
        return 1
    if isinstance(b, int) and b > 0:
        return dims.floordiv(a, b)
    raise Refused(f"the size {a} / {b}")
