"""The process in which the C++ of the package `onnx` looks at models that may be hostile.

Run by path (``apart.py`` starts it), so that it imports nothing but onnx. A request is a letter and
the length of a model as eight bytes, then the model; a reply is ``+`` or ``-``, a length, and a
model or a message.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from typing import Any

MEMORY = 3 << 30
"""Bytes of address space besides eight times the model: what honest models need, and no bomb."""


def check(onnx: Any, model: Any) -> Any:
    """The model as it is, if onnx.checker accepts it."""
    onnx.checker.check_model(model, full_check=False)
    return model


def inline(onnx: Any, model: Any) -> Any:
    """Without functions of its own."""
    return onnx.inliner.inline_local_functions(model)


def infer(onnx: Any, model: Any) -> Any:
    """With the types of all values."""
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True,
                                             data_prop=True)


TASKS: dict[bytes, Callable[[Any, Any], Any]] = {b"c": check, b"i": inline, b"t": infer}


def main() -> None:
    """Answer until the input ends."""
    import onnx
    import onnx.inliner
    import onnx.shape_inference

    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while head := source.read(9):
        data = source.read(int.from_bytes(head[1:], "little"))
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = MEMORY + 8 * len(data)
        resource.setrlimit(resource.RLIMIT_AS,
                           (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
        try:
            model = onnx.ModelProto.FromString(data)
            reply, good = TASKS[head[:1]](onnx, model).SerializeToString(), b"+"
        except Exception as error:      # whatever onnx raises is the answer
            text = (f"needs more than {limit >> 20} MiB" if "bad_alloc" in str(error)
                    or isinstance(error, MemoryError) else str(error).strip())
            text = text or type(error).__name__
            reply, good = text.encode("utf-8", "replace"), b"-"
        sink.write(good + len(reply).to_bytes(8, "little") + reply)
        sink.flush()


if __name__ == "__main__":
    main()
