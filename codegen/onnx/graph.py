"""ONNX nodes under construction: names, constants, and sizes that are known when it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight import __version__
from firstlight.codegen.onnx.packages import IR_VERSION, OPSET, need
from firstlight.ir import dims
from firstlight.ir.dims import Dim, Size
from firstlight.ir.types import StateType, TensorType, Type
from firstlight.runtime.errors import FirstlightError

Array = NDArray[Any]
KINDS = {"f32": 1, "i32": 6, "bool": 9}
"""ONNX element types."""
INFINITY = 2**31 - 1
"""As the end of a slice: to the end."""


def extents(type_: Type) -> tuple[Size, ...]:
    """The shape of a value in ONNX; of a state for one sequence, [1, rows, width]."""
    return type_.shape if isinstance(type_, TensorType) else (1, type_.capacity, type_.width)


class Graph:
    """The nodes of one graph, function body or loop body; values go by their names.

    Equal nodes are made once. `loc`, the module path of what is being written, is what names begin
    with. In a function constants are nodes, elsewhere initializers.
    """

    def __init__(self, outer: Graph | None = None, *, function: bool = False) -> None:
        self.onnx = need("onnx")
        self.outer, self.function = outer, function
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self.loc = outer.loc if outer else ""
        self._names: dict[str, int] = outer._names if outer else {}
        self._known: dict[Any, tuple[str, ...]] = {}
        self._sizes: dict[str, tuple[str, int]] = {}
        self.given: dict[str, str] = {}
        self._values: dict[str, Array] = {}

    # -- nodes ----------------------------------------------------------------------------------

    def __call__(self, op: str, *inputs: Any, outputs: int = 1, domain: str = "",
                 **attrs: Any) -> Any:
        """A node; its output's name, or a tuple of them. Arrays and lists become constants."""
        names = [i if isinstance(i, str) else self.constant(i) for i in inputs]
        key = (op, domain, tuple(names), outputs, str(sorted(attrs.items())))
        results = self._known.get(key)
        if results is None:
            name = self.unique(f"{self.loc}/{op}" if self.loc else op)
            results = (name,) if outputs == 1 else tuple(f"{name}:{i}" for i in range(outputs))
            self.nodes.append(self.onnx.helper.make_node(op, names, results, name=name,
                                                         domain=domain, **attrs))
            self._known[key] = results
        return results[0] if outputs == 1 else results

    def unique(self, name: str) -> str:
        """A name that no other value or node has."""
        count = self._names[name] = self._names.get(name, 0) + 1
        return name if count == 1 else self.unique(f"{name}_{count}")

    def rename(self, names: Mapping[str, str]) -> None:
        """Give outputs of nodes other names, old -> new (none that a loop's body reads)."""
        for node in self.nodes:
            for values in (node.input, node.output):
                for i, name in enumerate(values):
                    if name in names:
                        values[i] = names[name]

    def constant(self, value: Any) -> str:
        """An array as a value; lists are int64."""
        if self.outer is not None:
            return self.outer.constant(value)
        array = np.ascontiguousarray(value) if isinstance(value, np.ndarray | np.generic) else (
            np.array(value, np.int64))
        array = array.reshape(np.shape(value))       # ascontiguousarray makes scalars [1]
        key = ("constant", array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            tensor = self.onnx.numpy_helper.from_array(array)
            name = self.unique("constant")
            self._values[name] = array
            if self.function:
                self.nodes.append(self.onnx.helper.make_node("Constant", [], [name], value=tensor))
            else:
                tensor.name = name
                self.constants[name] = tensor
            self._known[key] = (name,)
        return self._known[key][0]

    def value(self, name: str) -> Array | None:
        """The array of a constant."""
        return self.outer.value(name) if self.outer else self._values.get(name)

    def inside(self) -> Graph:
        """The body of a loop: it sees everything here."""
        return Graph(self)

    # -- sizes ----------------------------------------------------------------------------------

    def know(self, name: str, type_: Type) -> None:
        """Sizes can be read from an input."""
        for axis, size in enumerate(extents(type_)):
            if isinstance(size, Dim):
                self._sizes.setdefault(str(size), (name, axis))

    def size(self, size: Size) -> str:
        """A size as int64 [1]."""
        if self.outer is not None:
            return self.outer.size(size)
        if isinstance(size, int):
            return self.constant([size])
        if str(size) in self.given:
            return self.given[str(size)]
        if str(size) in self._sizes:
            name, axis = self._sizes[str(size)]
            return str(self("Shape", name, start=axis, end=axis + 1))
        if size.base is None:
            return self._solve(size)
        base = self.size(size.base)
        if size.head == "add":
            return str(self("Add", base, [size.amount]))
        if size.head == "ceildiv":
            base = self("Add", base, [size.amount - 1])
        return str(self("Div", base, [size.amount]))

    def _solve(self, symbol: Dim) -> str:
        """A symbol of which only a sum is an input's size."""
        for text, (name, axis) in self._sizes.items():
            known = dims.parse(text)
            if isinstance(known, Dim) and known.head == "add" and known.base == symbol:
                shape = self("Shape", name, start=axis, end=axis + 1)
                return str(self("Sub", shape, [known.amount]))
        raise FirstlightError(
            "F461", f"the size {symbol} cannot be known when the graph runs",
            where=self.loc or "an ONNX graph", why="no input has it as one of its axes",
            try_="export a function that has an argument of that size",
        )

    def shape(self, shape: Sequence[Size]) -> str:
        """A shape as int64 [rank]."""
        if all(isinstance(d, int) for d in shape):
            return self.constant(list(shape))
        return str(self("Concat", *[self.size(d) for d in shape], axis=0))

    # -- protos ---------------------------------------------------------------------------------

    def info(self, name: str, type_: Type, kind: int = 0) -> Any:
        """The type of an input or output; `kind` is its ONNX element type, if not the IR's."""
        element = kind or KINDS["f32" if isinstance(type_, StateType) else type_.dtype]
        shape = [d if isinstance(d, int) else str(d) for d in extents(type_)]
        return self.onnx.helper.make_tensor_value_info(name, element, shape)

    def model(self, name: str, inputs: Sequence[Any], outputs: Sequence[Any],
              functions: Sequence[Any] = (), domains: Sequence[str] = ()) -> Any:
        """The model whose graph this is; inputs and outputs as `info` gives them."""
        make = self.onnx.helper
        graph = make.make_graph(self.nodes, name, inputs, outputs, list(self.constants.values()))
        imports = [make.make_opsetid("", OPSET), *(make.make_opsetid(d, 1) for d in domains)]
        return make.make_model(graph, opset_imports=imports, ir_version=IR_VERSION,
                               producer_name="firstlight", producer_version=__version__,
                               functions=list(functions))
