"""Walking an ONNX graph: each node is folded, or becomes the primitives of its row.

The types of our own shape rules are held against those of `onnx.shape_inference` at every node.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.frontend.onnx import elementwise, movement, products, quantized, reductions  # noqa
from firstlight.frontend.onnx.apart import Apart, Disliked
from firstlight.frontend.onnx.bodies import function_body
from firstlight.frontend.onnx.call import Call, Weights
from firstlight.frontend.onnx.errors import (
    Refused,
    broken,
    disagree,
    open_size,
    unsupported,
)
from firstlight.frontend.onnx.fold import fold
from firstlight.frontend.onnx.reading import (
    node_name,
    onnx_package,
    opset,
    read_model,
    tensor,
    text_is_utf8,
    without_data,
)
from firstlight.frontend.onnx.table import BODY, FOLDED, REFUSED, ROWS
from firstlight.frontend.onnx.values import FLOATS, INTEGERS, Held, kind
from firstlight.ir import dims
from firstlight.ir.array import Array
from firstlight.ir.builder import Builder
from firstlight.ir.core import Function, Module
from firstlight.ir.dims import Dim, Size
from firstlight.ir.types import TensorType
from firstlight.runtime.errors import FirstlightError

ENTRY = "graph"
DEEPEST = 8
"""Levels of function bodies that call one another; the standard has two."""
OPEN = re.compile(r"\.\.(\d{1,9})")
Sizes = Mapping[str, str]


@dataclass(frozen=True)
class Port:
    """An input or output: `shape` may have the open size S; `dtype` is what the model declares."""

    name: str
    dtype: str
    shape: tuple[Size, ...]


@dataclass(frozen=True)
class Graph:
    """An imported model.

    module      one function, `graph`: arguments are inputs (``in.NAME``) and weights (``wN...``)
    inputs      in the model's order; those without elements are not arguments
    outputs     with the index of the function's result that each is
    weights     arrays by argument name
    symbol      name of the size that stays open, "" if none; it is the IR's S
    most        its largest value (1 if there is none)
    sizes       the sizes that were given
    """

    module: Module
    inputs: tuple[Port, ...]
    outputs: tuple[tuple[Port, int], ...]
    weights: Mapping[str, NDArray[Any]]
    symbol: str
    most: int
    sizes: Mapping[str, int]
    name: str
    opset: int

    @property
    def function(self) -> Function:
        """The graph's function."""
        return self.module[ENTRY]


def read_graph(path: Path | str, sizes: Sizes | None = None) -> Graph:
    """Import the model at `path`.

    Args:
        sizes: for each symbolic size its number, or for one of them ``..N``: open, at most N.

    Raises F150 for a file that is no model, F151 for what cannot be imported, F152 for a size that
    is open, F153 where ONNX infers other types, F154 for tensors that cannot be read.
    """
    path = Path(path)
    onnx_package()
    with Apart() as apart:
        return import_model(read_model(path, apart), path.parent, sizes or {}, str(path), apart)


def import_model(model: Any, folder: Path, sizes: Sizes, where: str, apart: Apart) -> Graph:
    """Import a parsed model; `folder` is where its external data lies."""
    with text_is_utf8(where):
        version = opset(model, where)
        symbol, most, given = _chosen(sizes)
        model = _sized(model, given, symbol, most, where)
        return _Importer(model, folder, version, symbol, most, given, where, apart).graph()


def _chosen(sizes: Sizes) -> tuple[str, int, dict[str, int]]:
    symbol, most, given = "", 1, {}
    for name, text in sizes.items():
        found = OPEN.fullmatch(text)
        if found and int(found[1]) >= 1:
            if symbol:
                raise open_size(f"--dim {name}={text}", f"{symbol!r} is open already, and one can "
                                "be", f"--dim {name}=1")
            symbol, most = name, int(found[1])
        elif text.isascii() and text.isdecimal() and len(text) < 10:
            given[name] = int(text)
        else:
            raise open_size(f"--dim {name}={text}", "a size is a number, or ..N for any up to N",
                            f"--dim {name}=1    or    --dim {name}=..512")
    return symbol, most, given


def _sized(model: Any, given: Mapping[str, int], symbol: str, most: int, where: str) -> Any:
    """The model with the given sizes in its inputs. Raises F152 for names that are still open."""
    names = set()
    for value in model.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.HasField("dim_param"):
                name = dim.dim_param
                names.add(name)
                if name in given:
                    dim.dim_value = given[name]
                elif name != symbol:
                    raise open_size(
                        f"input {value.name[:80]!r}, axis {axis}",
                        f"its size is {name[:80]!r}, and kernels are made for known sizes",
                        f"--dim {name[:80]}=1    or, for one of them,    --dim {name[:80]}=..512")
            elif not dim.HasField("dim_value"):
                raise open_size(f"input {value.name[:80]!r}, axis {axis}", "its size has no name",
                                "name it in the export (dynamic_axes or dynamic_shapes)")
    unknown = sorted({*given, *filter(None, [symbol])} - names)
    if unknown:
        raise open_size(f"--dim {unknown[0]}", "no input has a size of this name; there are: "
                        f"{', '.join(sorted(names))[:200] or 'none'}", "leave it out")
    # sizes of results follow; what the file says of them may have other names
    del model.graph.value_info[:]
    return model


class _Importer:
    def __init__(self, model: Any, folder: Path, version: int, symbol: str, most: int,
                 given: Mapping[str, int], where: str, apart: Apart) -> None:
        self.model, self.folder, self.version = model, folder, version
        self.symbol, self.most, self.given, self.where = symbol, most, given, where
        self.builder = Builder(ENTRY)
        self.weights = Weights(self.builder)
        self.values: dict[str, Held | None] = {}
        self.depth = 0
        self.inferred = self._infer(apart)

    def graph(self) -> Graph:
        """The whole graph, imported."""
        onnx = onnx_package()
        constants = {t.name: t for t in self.model.graph.initializer}
        ports = []
        for value in self.model.graph.input:
            if value.name not in constants:
                ports.append(self._input(value))
        for name, proto in constants.items():
            array = tensor(proto, self.folder)
            self.values[name] = Held(str(array.dtype), array)
        if self.model.graph.sparse_initializer:
            raise unsupported(self.where, "it has sparse initialisers")
        for node in self.model.graph.node:
            self._guarded(onnx, node)
        outputs, results = [], list[Array]()
        for value in self.model.graph.output:
            held = self._given(value.name)
            try:
                array = self.weights.array(held).emit("copy")
            except Refused as error:
                raise unsupported(f"output {value.name[:80]!r}", str(error)) from error
            index = next((i for i, r in enumerate(results) if r.value is array.value), len(results))
            if index == len(results):
                results.append(array)
            outputs.append((Port(value.name, held.dtype, held.shape), index))
        function = self.builder.finish(*[r.value for r in results])
        function = Function(function.name, tuple(self.builder.args), function.ops,
                            function.results)
        return Graph(Module({ENTRY: function}), tuple(ports), tuple(outputs), self.weights.arrays,
                     self.symbol, self.most, dict(self.given),
                     self.model.graph.name[:80] or "graph", self.version)

    # -- inputs ---------------------------------------------------------------------------------

    def _input(self, value: Any) -> Port:
        onnx = onnx_package()
        where = f"input {value.name[:80]!r}"
        if not value.type.HasField("tensor_type"):
            raise unsupported(where, "it is no tensor")
        proto = value.type.tensor_type
        if not proto.HasField("shape"):
            raise open_size(where, "it has no shape", "export it with a shape")
        try:
            dtype = str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(proto.elem_type)))
            which = kind(dtype)
        except Refused as error:
            raise unsupported(where, str(error)) from error
        except Exception as error:
            raise unsupported(where, f"element type {proto.elem_type}") from error
        shape: list[Size] = [dims.S if d.HasField("dim_param") else int(d.dim_value)
                             for d in proto.shape.dim]
        if any(isinstance(d, int) and d < 0 for d in shape):
            raise broken(where, f"its shape is {shape}")
        if any(isinstance(d, int) and d > 1 << 31 for d in shape):
            raise unsupported(where, f"its shape is {shape}")
        port = Port(value.name, dtype, tuple(shape))
        if 0 in shape:
            sizes = [d if isinstance(d, int) else 0 for d in shape]
            self.values[value.name] = Held(dtype, np.empty(
                sizes, np.float32 if dtype in FLOATS else dtype))
        else:
            type_ = TensorType(port.shape, which)
            array = Array(self.builder, self.builder.arg(type_, f"in.{value.name}"))
            self.values[value.name] = Held(dtype, None, array)
        return port

    # -- nodes ----------------------------------------------------------------------------------

    def _guarded(self, onnx: Any, node: Any) -> None:
        try:
            with np.errstate(all="ignore"):
                self._node(onnx, node)
        except Refused as error:
            raise unsupported(node_name(node), str(error)) from error
        except FirstlightError as error:
            if error.code in ("F201", "F205"):
                why = f"{error.what}: {error.why}"
                if self.symbol:
                    raise open_size(node_name(node), why[:300],
                                    f"--dim {self.symbol}={min(self.most, 128)}") from error
                raise unsupported(node_name(node), why[:300]) from error
            raise
        except (IndexError, KeyError, TypeError, ValueError, AttributeError, AssertionError,
                OverflowError, ZeroDivisionError, MemoryError) as error:
            raise unsupported(node_name(node), "its inputs or attributes do not fit: "
                              f"{type(error).__name__} {' '.join(str(error).split())[:160]}",
                              "if onnx.checker and onnxruntime accept the model, please report it"
                              ) from error

    def _node(self, onnx: Any, node: Any) -> None:
        if node.domain not in ("", "ai.onnx"):
            raise Refused(f"operators of the domain {node.domain[:40]!r} are not standard")
        ins = [self.values[name] if name else None for name in node.input]
        attrs = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute
                 if a.type not in (a.GRAPH, a.GRAPHS)}
        row = ROWS.get(node.op_type)
        if row is None:
            raise Refused("there is no row for this operator")
        if node.op_type == "If":
            self._branch(onnx, node, ins)
            return
        if row.how == BODY and any(v is not None and v.known is None for v in ins):
            results = self._body(onnx, node, ins)
            self._define(node, results)
            return
        if any(v is not None and _unheld(v.dtype) for v in ins) and row.emit is None:
            raise Refused(f"element type {next(v.dtype for v in ins if v and _unheld(v.dtype))}")
        folded = None if row.how == REFUSED else fold(node, ins, self.version, attrs)
        results: list[Held]
        if folded is not None:
            results = [Held("int64" if a.dtype == object else str(a.dtype), a) for a in folded]
        elif row.emit is None:
            raise Refused("it is only known for constants" if row.how == FOLDED else row.note)
        else:
            with self.builder.scope(_loc(node)):
                out = row.emit(Call(node.op_type, self.version, attrs, ins, self.weights,
                                    len(node.output)))
            results = list(out) if isinstance(out, (list, tuple)) else [out]
        self._define(node, results)

    def _define(self, node: Any, results: Sequence[Held | None]) -> None:
        """Name the results of a node, after a look at what ONNX thinks they are."""
        for i, name in enumerate(node.output):
            if name:
                held = results[i] if i < len(results) else None
                if held is None:
                    raise Refused(f"its output {i} is not supported")
                self._check(node, name, held)
                self.values[name] = held

    def _branch(self, onnx: Any, node: Any, ins: list[Held | None]) -> None:
        """The branch of an If whose condition is known; its names are the graph's."""
        condition = ins[0].known if ins and ins[0] is not None else None
        if condition is None or condition.dtype == object:
            raise Refused("the condition of If is not known when compiling; both branches cannot "
                          "be one flat program")
        name = "then_branch" if bool(condition.reshape(-1)[0]) else "else_branch"
        body = next((a.g for a in node.attribute if a.name == name), None)
        if body is None:
            raise Refused(f"it has no {name}")
        outer = dict(self.values)
        for proto in body.initializer:
            array = tensor(proto, self.folder)
            self.values[proto.name] = Held(str(array.dtype), array)
        for inner in body.node:
            for read in inner.input:
                if read and read not in self.values:
                    raise Refused(f"a branch reads {read[:60]!r}, which is made nowhere")
            self._guarded(onnx, inner)
        results = [self._given(o.name) for o in body.output]
        self.values = outer
        self.values.update(zip(node.output, results, strict=True))

    def _body(self, onnx: Any, node: Any, ins: list[Held | None]) -> list[Held | None]:
        """The results of an operator by the function body that the standard gives it."""
        nodes, names, results, version = function_body(onnx, node, ins, self.version)
        if self.depth == DEEPEST:
            raise Refused("function bodies in function bodies")
        kept = self.values, self.inferred, self.version
        self.values = {n: v for n, v in zip(names, [*ins, *[None] * len(names)], strict=False)}
        self.inferred, self.version, self.depth = {}, version, self.depth + 1
        try:
            for inner in nodes:
                self._node(onnx, inner)
            return [self.values.get(name) for name in results]
        finally:
            self.values, self.inferred, self.version = kept
            self.depth -= 1

    def _given(self, name: str) -> Held:
        held = self.values[name]
        if held is None:
            raise Refused(f"{name[:40]!r} is left out")
        return held

    # -- the other opinion ----------------------------------------------------------------------

    def _infer(self, apart: Apart) -> dict[str, Any]:
        onnx = onnx_package()
        bare = without_data(onnx, self.model)
        for value in bare.graph.output:     # the file's own claim is checked, not believed
            if value.type.HasField("tensor_type"):
                value.type.tensor_type.ClearField("shape")
        try:
            bare = apart.ask("t", bare, self.where)
        except Disliked as error:
            raise disagree(self.where, str(error)) from error
        declared = list(self.model.graph.output)
        found = {v.name: v.type for v in (*bare.graph.value_info, *bare.graph.output)}
        for value in declared:
            if value.type.HasField("tensor_type"):
                self._compatible(value.name, value.type, found.get(value.name))
        return found

    def _compatible(self, name: str, declared: Any, found: Any) -> None:
        """Hold what the file says of an output against what shape inference finds."""
        if found is None or not found.HasField("tensor_type"):
            return
        a, b = declared.tensor_type, found.tensor_type
        if a.elem_type and b.elem_type and a.elem_type != b.elem_type:
            raise disagree(f"output {name[:80]!r}", "it is declared with another element type than "
                           "shape inference gives")
        if not a.HasField("shape") or not b.HasField("shape"):
            return
        said, sizes = self._sizes(a.shape), self._sizes(b.shape)
        if len(said) != len(sizes) or any(
                isinstance(m, int) and isinstance(n, int) and m != n
                for m, n in zip(said, sizes, strict=True)):
            raise disagree(f"output {name[:80]!r}", f"the file says {_spell(said)}, "
                           f"onnx.shape_inference {_spell(sizes)}")

    def _sizes(self, shape: Any) -> list[Size | None]:
        """Sizes as inference or the file gives them; None for one that has another name."""
        return [d.dim_value if d.HasField("dim_value") else
                dims.S if d.HasField("dim_param") and d.dim_param == self.symbol else
                self.given.get(d.dim_param) if d.HasField("dim_param") else None
                for d in shape.dim]

    def _check(self, node: Any, name: str, held: Held) -> None:
        onnx = onnx_package()
        type_ = self.inferred.get(name)
        if type_ is None or not type_.HasField("tensor_type"):
            return
        proto = type_.tensor_type
        if proto.elem_type:
            theirs = str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(proto.elem_type)))
            if theirs != held.dtype and (theirs in FLOATS or theirs in INTEGERS
                                         or theirs == "bool"):
                raise disagree(f"{node_name(node)}: {name[:80]!r}",
                               f"onnx.shape_inference says {theirs}, our rule {held.dtype}")
        if not proto.HasField("shape"):
            return
        sizes = self._sizes(proto.shape)
        same = len(sizes) == len(held.shape) and all(
            a is None or a == b or (isinstance(b, Dim) and b != dims.S)
            for a, b in zip(sizes, held.shape, strict=True))
        if not same:
            raise disagree(f"{node_name(node)}: {name[:80]!r}",
                           f"onnx.shape_inference says {_spell(sizes)}, our rule "
                           f"{_spell(held.shape)}")


def _unheld(dtype: str) -> bool:
    return dtype not in (*FLOATS, *INTEGERS, "bool", "float64", "uint32", "uint64")


def _spell(shape: Any) -> str:
    return "[" + ", ".join("?" if d is None else str(d) for d in shape)[:120] + "]"


def _loc(node: Any) -> str:
    """A path for errors and traces: the node's name, in characters that the text form can hold."""
    name = node.name or (node.output[0] if node.output else "") or node.op_type
    return re.sub(r"[^A-Za-z0-9_.]+", ".", name).strip(".")[:80] or node.op_type
