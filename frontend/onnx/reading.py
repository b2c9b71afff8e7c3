"""From a file to a checked `onnx.ModelProto`, and from a TensorProto to an array.

External data is read by ourselves, because where it lies is the file's claim: relative, below the
model's folder, a regular file, no link, and as long as the tensor's shape says.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.frontend.onnx.apart import Apart, Disliked
from firstlight.frontend.onnx.errors import bad_data, broken, unsupported
from firstlight.runtime.errors import FirstlightError

Array = NDArray[Any]
OPSETS = range(17, 25)
MOST_BYTES = 1 << 31
"""A protobuf message is never longer."""
MOST_NODES = 1 << 17
MOST_KNOWN = 1 << 16
"""Bytes of an initialiser that onnx may look into."""


def onnx_package() -> Any:
    """The package `onnx`. Raises F701 if it is not installed."""
    try:
        import onnx
    except ImportError as error:
        raise FirstlightError(
            "F701", "the package onnx is missing", where="this Python",
            why=str(error), try_="pip install 'firstlight[compile,onnx]'") from error
    return onnx


def read_model(path: Path, apart: Apart) -> Any:
    """A ModelProto whose graph is acyclic and whose functions are inlined. Reads no tensor data."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise broken(str(path), "it is not a regular file")
        if path.stat().st_size > MOST_BYTES:
            raise broken(str(path), "it is longer than a protobuf message can be (2 GiB)")
        data = path.read_bytes()
    except OSError as error:
        raise broken(str(path), error.strerror or str(error)) from error
    return parse_model(data, str(path), apart)


def parse_model(data: bytes, where: str, apart: Apart) -> Any:
    """A checked model from its bytes."""
    onnx = onnx_package()
    try:
        model = onnx.ModelProto.FromString(data)
    except Exception as error:      # what protobuf raises depends on its implementation
        raise broken(where, f"it cannot be parsed: {_line(error)}") from error
    with text_is_utf8(where):
        if not model.HasField("graph") or not model.graph.node:
            raise broken(where, "it has no graph, or a graph without nodes")
        if len(model.graph.node) > MOST_NODES:
            raise unsupported(where, f"it has {len(model.graph.node)} nodes")
        opset(model, where)
        try:
            if model.functions:
                model = apart.ask("i", model, where)
            _check_names(model.graph, where)
            apart.ask("c", without_data(onnx, model), where)
        except Disliked as error:
            raise broken(where, str(error)) from error
    return model


@contextmanager
def text_is_utf8(where: str) -> Iterator[None]:
    """Strings of a message are decoded when they are read: F150 for those that cannot be."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise broken(where, f"it has text that is not UTF-8: {error.object[:40]!r}") from error


def opset(model: Any, where: str = "") -> int:
    """The version of the standard operators. Raises F151 for one that we do not know."""
    versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    if not versions:
        names = ", ".join(sorted(o.domain[:40] for o in model.opset_import)) or "none"
        raise unsupported(where, f"it has no standard operators; its domains: {names}")
    if len(versions) != 1:
        raise broken(where, "it does not say once which opset it uses")
    if versions[0] not in OPSETS:
        raise unsupported(where, f"it uses opset {versions[0]}; known are {OPSETS.start} to "
                          f"{OPSETS.stop - 1}", "export with another opset_version, or convert it "
                          "with onnx.version_converter")
    return int(versions[0])


def tensor(proto: Any, folder: Path) -> Array:
    """The array of a TensorProto, of numpy's (or ml_dtypes') element type."""
    onnx = onnx_package()
    where = f"tensor {proto.name[:80]!r}"
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(proto.data_type)
    except Exception as error:
        raise bad_data(where, f"its element type {proto.data_type} is not known") from error
    shape = tuple(proto.dims)
    if any(n < 0 for n in shape):
        raise bad_data(where, f"its shape is {list(shape)}")
    if math.prod(shape) > 1 << 40:
        raise bad_data(where, f"its shape is {list(shape)[:8]}, more than any memory")
    try:
        if proto.data_location == onnx.TensorProto.EXTERNAL:
            return _external(proto, dtype, shape, folder, where)
        if math.prod(shape) > proto.ByteSize() * 8:
            raise bad_data(where, f"it has {proto.ByteSize()} bytes for the shape {list(shape)}")
        return np.asarray(onnx.numpy_helper.to_array(proto))
    except FirstlightError:
        raise
    except Exception as error:
        raise bad_data(where, _line(error)) from error


def _external(proto: Any, dtype: Any, shape: tuple[int, ...], folder: Path, where: str) -> Array:
    fields = {e.key: e.value for e in proto.external_data}
    location = fields.get("location", "")
    pure = PurePosixPath(location)
    if (not location or pure.is_absolute() or ".." in pure.parts or "\\" in location
            or "\0" in location):
        raise bad_data(where, f"its data lies in {location[:80]!r}, which leads out of the "
                       "model's folder")
    path = folder / pure
    for part in (path, *path.parents):
        if part == folder:
            break
        if part.is_symlink():
            raise bad_data(where, f"{location[:80]!r} is a symbolic link")
    # a subtype smaller than a byte is packed
    bits = {"int4": 4, "uint4": 4, "float4_e2m1fn": 4, "int2": 2, "uint2": 2}
    bits_each = bits.get(str(dtype), 8 * np.dtype(dtype).itemsize)
    nbytes = -(-math.prod(shape) * bits_each // 8)
    numbers = []
    for key, default in (("offset", "0"), ("length", str(nbytes))):
        text = fields.get(key, default)
        if not (text.isascii() and text.isdecimal() and len(text) < 19):
            raise bad_data(where, f"its {key} is {text[:40]!r}")
        numbers.append(int(text))
    offset, length = numbers
    if length != nbytes:
        raise bad_data(where, f"it has {length} bytes for a shape of {nbytes}")
    try:
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode):
            raise bad_data(where, f"{location[:80]!r} is not a regular file")
        if offset + length > status.st_size:
            raise bad_data(where, f"{location[:80]!r} ends at {status.st_size}, before byte "
                           f"{offset + length}")
        if not nbytes:
            return np.empty(shape, dtype)
        raw = np.memmap(path, np.uint8, "r", offset, (length,))
    except OSError as error:
        raise bad_data(where, f"{location[:80]!r}: {error.strerror or error}") from error
    return (_unpacked(raw, math.prod(shape), bits_each, dtype) if bits_each < 8 else
            raw.view(dtype)).reshape(shape)


def _unpacked(raw: Array, count: int, bits: int, dtype: Any) -> Array:
    """One element a byte, from several; the lowest bits first."""
    codes = np.empty((raw.size, 8 // bits), np.uint8)
    for i in range(8 // bits):
        codes[:, i] = raw >> (i * bits) & ((1 << bits) - 1)
    flat = codes.reshape(-1)[:count]
    if str(dtype).startswith("int"):
        half = 1 << (bits - 1)
        return ((flat ^ half).astype(np.int8) - np.int8(half)).astype(dtype)
    return flat.astype(dtype) if str(dtype).startswith("uint") else flat.view(dtype)


def _check_names(graph: Any, where: str) -> None:
    """Every value is defined once, before it is read: what is cyclic is not."""
    known = set()
    declared = [i.name for i in graph.input]
    if len(set(declared)) != len(declared):
        raise broken(where, "two inputs have one name")
    constants = [t.name for t in graph.initializer]
    if len(set(constants)) != len(constants):
        raise broken(where, "two initialisers have one name")
    known.update(declared, constants)
    made = {name for node in graph.node for name in node.output if name}
    for node in graph.node:
        for name in node.input:
            if name and name not in known:
                what = ("is read before it is made: the graph is cyclic, or its nodes are out of "
                        "order" if name in made else "is made nowhere")
                raise broken(node_name(node), f"{name[:80]!r} {what}")
        for name in node.output:
            if name and name in known:
                raise broken(node_name(node), f"{name[:80]!r} is defined twice")
            known.add(name)
    if not graph.output:
        raise broken(where, "it has no outputs")
    names = [value.name for value in graph.output]
    if len(set(names)) != len(names):
        raise broken(where, "two outputs have one name")
    for value in graph.output:
        if value.name not in known:
            raise broken(where, f"output {value.name[:80]!r} is made nowhere")


def without_data(onnx: Any, model: Any) -> Any:
    """The model with initialisers that are large, or elsewhere, as inputs.

    So it can be checked and its shapes inferred whatever its size, and onnx does not look for
    external data in the current folder. Small ones stay: shapes follow from their values.
    """
    graph, bare = model.graph, onnx.ModelProto()
    bare.ir_version = max(model.ir_version, 4)      # initialisers need not be inputs
    bare.opset_import.extend(model.opset_import)
    bare.graph.name = graph.name
    for name in ("node", "input", "output", "sparse_initializer"):
        getattr(bare.graph, name).extend(getattr(graph, name))
    declared = {value.name for value in graph.input}
    for t in graph.initializer:
        if t.data_location == onnx.TensorProto.EXTERNAL or t.ByteSize() > MOST_KNOWN:
            if t.name not in declared:
                bare.graph.input.append(onnx.helper.make_tensor_value_info(
                    t.name, t.data_type, list(t.dims)))
        else:
            bare.graph.initializer.append(t)
    return bare


def node_name(node: Any) -> str:
    """How errors call a node."""
    name = node.name or (node.output[0] if node.output else "")
    return f"{node.op_type[:40]} {name[:80]!r}"


def _line(error: Exception) -> str:
    """The first line of somebody else's message."""
    text = str(error).strip() or type(error).__name__
    return " ".join(text.split())[:200]
