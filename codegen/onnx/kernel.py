"""One op as a model of its own: what stands for a kernel where a target writes whole graphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.onnx.coded import STORED, Coded
from firstlight.codegen.onnx.export import Exporter
from firstlight.codegen.onnx.graph import Graph, extents
from firstlight.codegen.onnx.values import Val
from firstlight.ir.core import Module, Op, Value
from firstlight.ir.dims import Dim
from firstlight.ir.registry import lookup
from firstlight.ir.types import CODECS, StateType

TOKENS = "S"


@dataclass(frozen=True)
class Port:
    """An input or output: its name, ONNX element type and shape ("S": tokens of the call).

    `state` is the input that a state output replaces.
    """

    name: str
    kind: int
    shape: tuple[int | str, ...]
    state: str = ""


@dataclass(frozen=True)
class OnnxKernel(Kernel):
    """A kernel that is a model; `inputs` are in the order of a kernel's pointers.

    Where no input has as many rows as tokens, the last one is the number of tokens.
    """

    model: bytes = b""
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()


def op_kernel(symbol: str, op: Op, module: Module) -> OnnxKernel:
    """The model of one op of `module`; B is 1 and the context a number, S may be a symbol."""
    info, graph = lookup(op.name), Graph()
    names = info.bind(len(op.operands))
    operands, inputs, infos = [], [], []
    for name, value in zip(names, op.operands, strict=True):
        operand, ports = _operand(graph, name, value)
        operands.append(operand)
        for port in ports:
            inputs.append(port)
            infos.append(graph.onnx.helper.make_tensor_value_info(port.name, port.kind, port.shape))
    if not any(TOKENS in map(str, port.shape) for port in inputs):
        inputs.append(Port(TOKENS, 7, (1,)))
        infos.append(graph.onnx.helper.make_tensor_value_info(TOKENS, 7, [1]))
        graph.given[TOKENS] = TOKENS
    results = Exporter(graph).op(op, operands, module)
    outs = _result_names(info.outs, len(results))
    outputs, out_infos = [], []
    for name, result, value in zip(outs, results, op.results, strict=True):
        final = graph("Identity", result.name)
        state = isinstance(value.type, StateType)
        shape = _slots(value) if state else tuple(map(_size, extents(value.type)))
        element = 1 if state else graph.info("", value.type).type.tensor_type.elem_type
        outputs.append(Port(final, element, shape, name if state else ""))
        out_infos.append(graph.onnx.helper.make_tensor_value_info(final, element, shape))
    model = graph.model(symbol, infos, out_infos)
    return OnnxKernel(symbol, None, (None,) * len(operands),  # type: ignore[arg-type]
                      model.SerializeToString(deterministic=True), tuple(inputs), tuple(outputs))


def _operand(graph: Graph, name: str, value: Value) -> tuple[Val, Sequence[Port]]:
    """An operand, and the inputs that it is: a weight with scales has two."""
    type_ = value.type
    if isinstance(type_, StateType) or not type_.codec:
        graph.know(name, type_)
        shape = _slots(value) if isinstance(type_, StateType) else tuple(map(_size, type_.shape))
        return Val(name, type_), [Port(name, graph.info(name, type_).type.tensor_type.elem_type,
                                       shape)]
    form, kinds = CODECS[type_.codec], STORED[type_.codec]
    shape = tuple(d for d in type_.shape if isinstance(d, int))
    ports = [Port(name, kinds[0], (*shape[:-1], shape[-1] // form.dense))]
    if form.scales:
        ports.append(Port(f"{name}.scales", kinds[1], form.grid(shape)))
    return Coded(name, type_, type_.codec, ports[-1].name if form.scales else ""), ports


def _slots(value: Value) -> tuple[int | str, ...]:
    """A state with all its sequences."""
    assert isinstance(value.type, StateType)
    return ("slots", *map(_size, extents(value.type)[1:]))


def _size(size: int | Dim) -> int | str:
    return size if isinstance(size, int) else str(size)


def _result_names(names: Sequence[str], count: int) -> list[str]:
    if names[-1].endswith("*"):
        return [f"{names[-1][:-1]}{i}" for i in range(count)]
    return list(names)


__all__ = ["OnnxKernel", "Port", "op_kernel"]
