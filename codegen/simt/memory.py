"""Where the arrays of a kernel lie on a chip of many threads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from firstlight.codegen.printer.c import width
from firstlight.codegen.simt.sizes import Size, combine, expression, size_of
from firstlight.codegen.tvm_bridge import T, replaced, tirx, transformed

ALIGN = 64


class Workspace:
    """Memory of the device that the host brings for a kernel: arrays that outlive a phase, and
    those of a thread that are too large for it.

    Args:
        tokens: the parameter `S`, which sizes may depend on.
    """

    def __init__(self, tokens: Any) -> None:
        self.tokens = tokens
        self.pointer = tirx.Var("workspace", T.handle("uint8").ty)
        self.size: Size = 0

    def place(self, buffer: Any, threads: Size = 1, thread: Any = 0) -> Any:
        """Room for a buffer, or for one of each thread; its declaration, for `thread`."""
        each = element_bytes(buffer)
        size = combine("ceildiv", combine("mul", elements(buffer), each), ALIGN)
        first = expression(combine("floordiv", self.size, ALIGN), self.tokens)
        self.size = combine("add", self.size, combine("mul", combine("mul", size, threads), ALIGN))
        at = (first + thread * expression(size, self.tokens)) * (ALIGN // each)
        here = tirx.decl_buffer(buffer.shape, buffer.dtype, buffer.name, elem_offset=at)
        return tirx.DeclBuffer(here, data=self.pointer)


def own(buffer: Any) -> Any:
    """An array of one thread."""
    return tirx.decl_buffer(buffer.shape, buffer.dtype, buffer.name, scope="local")


def rehoused(body: Any, declared: Mapping[Any, Any]) -> Any:
    """`body` with buffers, and their declarations, replaced: old buffer -> declaration."""
    def put(statement: Any) -> Any:
        return declared.get(statement.buffer, statement)

    body = transformed(body, tirx.AllocBuffer, put)
    return replaced(body, {old: new.buffer for old, new in declared.items()})


def element_bytes(buffer: Any) -> int:
    """Bytes of an element."""
    return width(str(buffer.dtype))


def elements(buffer: Any) -> Size:
    """How many there are."""
    sizes = [size_of(size) for size in buffer.shape]
    count: Size = math.prod(size for size in sizes if isinstance(size, int))
    for size in sizes:
        if not isinstance(size, int):
            count = combine("mul", count, size)
    return count


def bytes_of(buffer: Any) -> Size:
    """How large it is."""
    return combine("mul", elements(buffer), element_bytes(buffer))
