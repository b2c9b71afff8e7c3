"""The backend suite of the package `onnx`, through our importer: what passes, and why not.

    python -m support.onnx_suite            three numbers, and the reasons for the rest
    python -m support.onnx_suite -v NAME    what happens to cases whose name has NAME
    python -m support.onnx_suite --onnxruntime      how far each operator is from onnxruntime, too

A case is a model with inputs and outputs that are not ours. Its model is stamped with the opset in
which its operator last changed; where that is not one of ours, and the operator is the same in the
nearest opset that is, it is read as that.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from firstlight.frontend.onnx.apart import Apart
from firstlight.frontend.onnx.importer import Graph, import_model
from firstlight.frontend.onnx.reading import OPSETS, parse_model
from firstlight.ir.interpreter import run
from firstlight.runtime.errors import FirstlightError

Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """One case: `given` and `wanted` by name."""

    name: str
    model: Any
    given: dict[str, Array]
    wanted: dict[str, Array]
    rtol: float
    atol: float


@dataclass(frozen=True)
class Outcome:
    """What became of a case: passed, refused (with the error), or wrong (with the reason)."""

    case: Case
    what: str
    why: str = ""
    graph: Graph | None = None
    off: float = 0.0


QUICK = ("add", "attention", "cast", "cumsum", "dequantizelinear", "div", "einsum", "equal",
         "gather", "gathernd", "gelu", "gemm", "layernormalization", "matmul", "mod", "pow",
         "quantizelinear", "reduce_log_sum_exp", "reducesum", "reshape", "rmsnormalization",
         "rotaryembedding", "scatternd", "slice", "softmax", "split", "topk", "trilu", "where")
"""Files of the suite that are quickly made, and have what transformers use."""


def cases(name: str = "", files: tuple[str, ...] = ()) -> list[Case]:
    """All node cases whose name has `name`, or those of some `files`; one for each set of data."""
    from onnx.backend.test.case import node
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for file in files:
            importlib.import_module(f"onnx.backend.test.case.node.{file}")
        found = list(node._NodeTestCases) if files else load_model_tests(kind="node")
    out = []
    for test in found:
        if name not in test.name:
            continue
        model = restamped(test.model)
        for given, wanted in test.data_sets:
            feeds = {i.name: _array(v) for i, v in zip(model.graph.input, given, strict=False)}
            out.append(Case(test.name, model, feeds, {
                o.name: _array(v) for o, v in zip(model.graph.output, wanted, strict=False)},
                test.rtol, test.atol))
    return out


def _array(value: Any) -> Any:
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def restamped(model: Any) -> Any:
    """The model under the nearest opset that we read, if it is a model of that opset, too."""
    stamps = [o for o in model.opset_import if o.domain in ("", "ai.onnx")]
    if len(stamps) != 1 or stamps[0].version in OPSETS:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for stamp in copy.opset_import:
        if stamp.domain in ("", "ai.onnx"):
            stamp.version = min(max(stamp.version, OPSETS.start), OPSETS.stop - 1)
    try:
        onnx.checker.check_model(copy, full_check=True)
    except Exception:       # the operator or its types are not there in that opset
        return model
    return copy


def frozen(case: Case) -> Case:
    """The case with its small inputs of integers, and all empty ones, as constants of the model."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    kept = list(model.graph.input)
    del model.graph.input[:]
    for i, value in enumerate(kept):
        array = case.given.get(value.name)
        if isinstance(array, np.ndarray) and array.dtype.kind in "ib" and array.ndim < 2 and (
                i or model.graph.node[0].op_type in ("ConstantOfShape", "Range")):
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
        else:
            model.graph.input.append(value)
    return replace(case, model=model)


def imported(case: Case, apart: Apart) -> Graph:
    """The case's graph, from its bytes."""
    model = parse_model(case.model.SerializeToString(), case.name, apart)
    return import_model(model, Path(), {}, case.name, apart)


def interpreted(graph: Graph, given: dict[str, Any], size: int = 1) -> dict[str, Array]:
    """Outputs by our references, as the runtime would give them; `size` is the open one."""
    args = []
    for value in graph.function.args:
        array = (given[value.loc[3:]] if value.loc.startswith("in.") else
                 graph.weights[value.loc])
        kept = {"f32": np.float32, "i32": np.int32, "bool": np.bool_}[value.type.dtype]
        args.append(np.asarray(array).astype(kept))
    with np.errstate(all="ignore"):
        results = run(graph.module, "graph", args, {"B": 1, "S": size, "C": 1})
    return {p.name: results[i].astype("float32" if p.dtype == "bfloat16" else p.dtype)
            for p, i in graph.outputs}


def difference(case: Case, found: dict[str, Array]) -> tuple[str, float]:
    """Why the outputs are wrong ("" if they are right), and the largest relative difference."""
    off = 0.0
    for name, wanted in case.wanted.items():
        got, want = np.asarray(found[name]), np.asarray(wanted)
        if got.shape != want.shape:
            return f"{name}: shape {got.shape}, not {want.shape}", off
        if str(want.dtype) != "bfloat16" and got.dtype != want.dtype:
            return f"{name}: {got.dtype}, not {want.dtype}", off
        a, b = got.astype(np.float64), want.astype(np.float64)
        # types with 8 or 11 bits: the suite computes in them, we in float32
        rtol = max(case.rtol, {"bfloat16": 2e-2, "float16": 4e-3}.get(str(want.dtype), 0))
        good = np.isclose(a, b, rtol, max(case.atol, 1e-6 if rtol < 4e-3 else 1e-3),
                          equal_nan=True)
        if want.dtype.kind in "iub":
            good = a == b
        both = np.isfinite(a) & np.isfinite(b)
        if both.any():
            a_, b_ = a[both], b[both]
            off = max(off, float((np.abs(a_ - b_) / np.maximum(np.abs(b_), 1)).max()))
        if not good.all():
            at = tuple(int(i) for i in np.argwhere(~good)[0])
            return f"{name}{list(at)}: {a[at]}, not {b[at]}", off
    return "", off


def outcome(case: Case, apart: Apart) -> Outcome:
    """Import, interpret, compare; with small integers as constants where they must be known."""
    try:
        graph = imported(case, apart)
    except FirstlightError as error:
        first = f"{error.code} {error.why}"
        case = frozen(case)
        try:
            graph = imported(case, apart)
        except FirstlightError as again:
            return Outcome(case, "refused", f"{again.code} {again.why}")
        what = "passed, frozen"
    else:
        first, what = "", "passed"
    why, off = difference(case, interpreted(graph, case.given))
    return Outcome(case, "wrong" if why else what, why or first, graph, off)


def opset_of(case: Case) -> int:
    """The opset of the standard operators in the case's model."""
    return next(int(o.version) for o in case.model.opset_import if not o.domain)


def joined(chosen: list[Case]) -> tuple[Any, dict[str, Array]]:
    """One model of the graphs of several cases side by side, and its inputs; all of one opset.

    Names have the prefix ``cN.`` of the case's place in the list.
    """
    model, given = onnx.ModelProto(ir_version=10), dict[str, Array]()
    model.opset_import.extend(o for o in chosen[0].model.opset_import if not o.domain)
    model.graph.name = "joined"
    for i, case in enumerate(chosen):
        one = onnx.compose.add_prefix_graph(case.model.graph, f"c{i}.")
        for name in ("node", "input", "output", "initializer"):
            getattr(model.graph, name).extend(getattr(one, name))
        given.update({f"c{i}.{name}": array for name, array in case.given.items()
                      if f"c{i}.{name}" in {v.name for v in one.input}})
    return model, given


def numbers(found: list[Outcome]) -> str:
    """What the docs say of the whole suite."""
    count = Counter(o.what for o in found)
    good = count["passed"] + count["passed, frozen"]
    return (f"{good} passed / {len(found) - count['refused']} supported / {len(found)} in all; "
            f"{count['passed, frozen']} of them")


def apart_from_onnxruntime(found: list[Outcome]) -> dict[str, float]:
    """For each operator the largest difference between our references and onnxruntime.

    Relative where values are larger than 1; cases that onnxruntime refuses, and those of float16,
    are left out.
    """
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    largest: dict[str, float] = {}
    for o in found:
        nodes = o.case.model.graph.node
        if o.graph is None or len(nodes) > 1 or any(
                "float16" in str(a.dtype) for a in o.case.wanted.values()):
            continue
        try:
            session = onnxruntime.InferenceSession(o.case.model.SerializeToString())
            names = {i.name for i in session.get_inputs()}
            results = session.run(None, {k: v for k, v in o.case.given.items() if k in names})
        except Exception:       # not implemented there
            continue
        theirs = dict(zip([v.name for v in session.get_outputs()], results, strict=True))
        _, off = difference(replace(o.case, wanted=theirs), interpreted(o.graph, o.case.given))
        largest[nodes[0].op_type] = max(largest.get(nodes[0].op_type, 0.0), off)
    return largest


def main(arguments: list[str]) -> None:
    """Print the numbers."""
    name = arguments[arguments.index("-v") + 1] if "-v" in arguments else ""
    found, reasons = [], Counter[str]()
    with Apart() as apart:
        for case in cases(name):
            o = outcome(case, apart)
            found.append(o)
            ops = "+".join(sorted({n.op_type for n in case.model.graph.node}))
            if name or o.what == "wrong":
                print(case.name, ops, o.what, o.why)
            if o.what == "refused":
                reasons[f"{o.why[:100]} ({ops})"] += 1
    if "--onnxruntime" in arguments:
        for op, off in sorted(apart_from_onnxruntime(found).items(), key=lambda item: -item[1]):
            print(f"{op:24} {off:.1e}")
    print(numbers(found), "with constants for inputs that must be known")
    for why, n in reasons.most_common():
        print(f"{n:5} {why}")


if __name__ == "__main__":
    main(sys.argv[1:])
