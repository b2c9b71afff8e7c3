"""Operators whose meaning ONNX itself gives as a function body: that body, for one node."""

from __future__ import annotations

from typing import Any

from firstlight.frontend.onnx.errors import Refused
from firstlight.frontend.onnx.values import Held
from firstlight.ir.dims import Dim


def function_body(onnx: Any, node: Any, ins: list[Held | None], version: int
                  ) -> tuple[list[Any], list[str], list[str], int]:
    """The nodes of the body, names of its inputs and outputs, and the opset it is written in.

    Some bodies depend on the types of the inputs, which are those of `ins`. Raises Refused.
    """
    schema = onnx.defs.get_schema(node.op_type, version, "")
    function = onnx.FunctionProto()
    if schema.has_context_dependent_function:
        at = _newest(schema.context_dependent_function_opset_versions, version)
        function.ParseFromString(schema.get_context_dependent_function_with_opset_version(
            at, node.SerializeToString(), [_type(onnx, held) for held in ins]))
    elif schema.has_function:
        at = _newest(schema.function_opset_versions, version)
        function.ParseFromString(schema.get_function_with_opset_version(at))
    else:
        raise Refused(f"opset {version} gives no function body for it")
    given = {a.name: a for a in node.attribute}
    for name, attribute in schema.attributes.items():
        if name not in given and attribute.default_value.type:
            given[name] = attribute.default_value
    for default in function.attribute_proto:
        given.setdefault(default.name, default)
    written = [o.version for o in function.opset_import if o.domain in ("", "ai.onnx")]
    return ([_bound(onnx, inner, given) for inner in function.node], list(function.input),
            list(function.output), max(17, *written) if written else version)


def _newest(versions: list[int], version: int) -> int:
    """The newest body that is not newer than the model, or the oldest there is."""
    return max([v for v in versions if v <= version], default=min(versions))


def _bound(onnx: Any, inner: Any, given: dict[str, Any]) -> Any:
    """A node of the body with attributes of the outer node where it names them."""
    out = onnx.NodeProto()
    out.CopyFrom(inner)
    del out.attribute[:]
    for attribute in inner.attribute:
        if not attribute.ref_attr_name:
            out.attribute.append(attribute)
        elif attribute.ref_attr_name in given:
            copy = out.attribute.add()
            copy.CopyFrom(given[attribute.ref_attr_name])
            copy.name = attribute.name
    return out


def _type(onnx: Any, held: Held | None) -> bytes:
    """A TypeProto, serialised; without a type for an input that is left out."""
    proto = onnx.TypeProto()
    if held is not None:
        import numpy as np

        tensor = proto.tensor_type
        tensor.elem_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(held.dtype))
        tensor.shape.SetInParent()
        for size in held.shape:
            dim = tensor.shape.dim.add()
            if isinstance(size, Dim):
                dim.dim_param = str(size)
            else:
                dim.dim_value = size
    return bytes(proto.SerializeToString())
