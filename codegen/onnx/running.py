"""Models of single ops on arrays, by onnxruntime's CPU provider."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.codegen.onnx.coded import BFLOAT16, FLOAT8E4M3FN, INT8
from firstlight.codegen.onnx.kernel import TOKENS, OnnxKernel, Port
from firstlight.codegen.onnx.packages import need

Array = NDArray[Any]
NOT_NUMPY = (BFLOAT16, FLOAT8E4M3FN)


def open_session(model: bytes, threads: int = 1) -> Any:
    """A session for a model held in memory."""
    ort = need("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class Runner:
    """An executor (`firstlight.codegen.target.Executor`) of models by their symbols."""

    def __init__(self, kernels: Mapping[str, OnnxKernel]) -> None:
        self.kernels = kernels
        self._symbol, self._session = "", None

    def run(self, symbol: str, buffers: Sequence[Array], tokens: int) -> None:
        """Call a model; states, and results behind the operands, are written."""
        kernel = self.kernels[symbol]
        if symbol != self._symbol:       # some thousand models; a unit's calls follow each other
            self._symbol, self._session = symbol, open_session(kernel.model)
        given = {port.name: array for port, array in zip(kernel.inputs, buffers, strict=False)}
        results = iter(buffers[sum(port.name != TOKENS for port in kernel.inputs):])
        for port, got in zip(kernel.outputs, run(self._session, kernel, given, tokens),
                             strict=True):
            (given[port.state] if port.state else next(results))[...] = got


def run(session: Any, kernel: OnnxKernel, given: Mapping[str, Array], tokens: int) -> list[Array]:
    """The outputs of a model for inputs by name (codes as they are stored)."""
    given = {**given, TOKENS: np.array([tokens])}
    values = {port.name: _value(port, given[port.name]) for port in kernel.inputs}
    names = [port.name for port in kernel.outputs]
    return [value.numpy() for value in session.run_with_ort_values(names, values)]


def _value(port: Port, array: Array) -> Any:
    ort = need("onnxruntime")
    array = np.ascontiguousarray(array).reshape(array.shape)
    if port.kind in NOT_NUMPY:
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, port.kind)
    return ort.OrtValue.ortvalue_from_numpy(array.view(np.int8) if port.kind == INT8 else array)
