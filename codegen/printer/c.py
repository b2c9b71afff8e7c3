"""Kernels as plain C: readable, the same text every time, and it runs anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.printer.expressions import CExpressions
from firstlight.codegen.target import Source
from firstlight.codegen.tvm_bridge import flat
from firstlight.codegen.walk import dtype

ALIGN = 64
PRELUDE = Path(__file__).with_name("prelude.h")
"""Helper functions that the text calls; a chip's own header may define them otherwise."""


class CPrinter(CExpressions):
    """One kernel, one C function of its pointers, a workspace and S.

    Buffers of the kernel that are not larger than `local_bytes` and have a fixed size become
    arrays of the function; the others lie in the workspace, ``NAME_workspace(S)`` bytes that the
    caller brings (64-byte aligned). A printer is used for one kernel.

    Args:
        local_bytes: all local arrays together are not larger.
    """

    header = "prelude.h"
    head = "void {name}({parameters})"

    def __init__(self, local_bytes: int = 1 << 14) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.depth = 0
        self.local_bytes, self.used = local_bytes, 0
        self.fixed, self.sized = 0, ""
        self.where = ""

    def source(self, kernel: Kernel) -> Source:
        """The text of one kernel, and what it needs."""
        self.where = kernel.name
        func = flat(kernel.func)
        parameters = [self.parameter(p) for p in func.params]
        parameters.insert(-1, "uint8_t *workspace")
        self.body(kernel.name, parameters, func.body)
        text = "\n".join([f'#include "{self.header}"', "", *self.workspace(kernel.name),
                          *self.lines, ""])
        files = {f"{kernel.name}.c": text.encode(), self.header: self.header_text()}
        return Source(files, kernel.name, self.launch(), {"scratch_bytes": self.used})

    def header_text(self) -> bytes:
        """The file that the text includes."""
        return PRELUDE.read_bytes()

    def launch(self) -> dict[str, Any]:
        """How the kernel is started: plain data."""
        return {"workspace_bytes": self.workspace_bytes}

    @property
    def workspace_bytes(self) -> str:
        """The size of the workspace as a C expression of S."""
        text = f"{self.fixed}{self.sized}"
        return text.removeprefix("0 + ")

    def workspace(self, name: str) -> list[str]:
        """The function that says how large a workspace is."""
        return [f"int64_t {name}_workspace(int64_t S) {{",
                f"    return {self.workspace_bytes};", "}", ""]

    def parameter(self, var: Any) -> str:
        """A parameter of the function."""
        element = getattr(var.ty, "element_type", None)
        if element is None:
            return f"{self.ctype(dtype(var))} {self.name(var)}"
        return f"{self.ctype(str(element.dtype))} *{self.name(var)}"

    def body(self, name: str, parameters: list[str], stmt: Any) -> None:
        """Write the function or functions."""
        with self.braces(self.head.format(name=name, parameters=", ".join(parameters))):
            self.stmt(stmt)

    # -- lines ----------------------------------------------------------------------------------

    def line(self, text: str) -> None:
        """One line at the current depth."""
        self.lines.append("    " * self.depth + text)

    @contextmanager
    def braces(self, head: str) -> Iterator[None]:
        """``head { ... }`` around what is written inside."""
        self.line(f"{head} {{".lstrip())
        self.depth += 1
        yield
        self.depth -= 1
        self.line("}")

    # -- statements -----------------------------------------------------------------------------

    def s_SeqStmt(self, s: Any) -> None:
        for part in s.seq:
            self.stmt(part)

    def s_For(self, s: Any) -> None:
        self.serial(s)

    def serial(self, s: Any) -> None:
        """A loop of one thread."""
        i, kind = self.name(s.loop_var), self.ctype(dtype(s.loop_var))
        first, count = self.expr(s.min), self.operand(s.extent)
        end = count if first == "0" else f"{self.operand(s.min)} + {count}"
        with self.braces(f"for ({kind} {i} = {first}; {i} < {end}; ++{i})"):
            self.stmt(s.body)

    def s_IfThenElse(self, s: Any) -> None:
        with self.braces(f"if ({self.expr(s.condition)})"):
            self.stmt(s.then_case)
        if s.else_case is not None:
            with self.braces("else"):
                self.stmt(s.else_case)

    def s_Bind(self, s: Any) -> None:
        value = self.expr(s.value)
        self.line(f"const {self.ctype(dtype(s.value))} {self.name(s.var)} = {value};")

    def s_BufferStore(self, s: Any) -> None:
        place = self.at(s.indices, s.buffer.shape)
        self.line(f"{self.name(s.buffer)}[{place}] = {self.expr(s.value)};")

    def s_Evaluate(self, s: Any) -> None:
        if type(s.value).__name__ != "IntImm":
            self.line(f"{self.expr(s.value)};")

    def s_AttrStmt(self, s: Any) -> None:
        self.stmt(s.body)

    def s_DeclBuffer(self, s: Any) -> None:
        """The memory behind a pointer: the pointer's own name serves."""
        self.names[s.buffer] = self.expr(s.data)

    def s_AllocBuffer(self, s: Any) -> None:
        size = self.bytes(s.buffer)
        if isinstance(size, int) and self.fits(size):
            self.used += size
            self.line(f"{self.ctype(str(s.buffer.dtype))} {self.name(s.buffer)}"
                      f"[{self.elements(s.buffer)}];")
        else:
            self.carve(s.buffer, size)

    # -- memory ---------------------------------------------------------------------------------

    def fits(self, size: int) -> bool:
        """Whether a buffer of a fixed size becomes a local array."""
        return self.used + size <= self.local_bytes

    def carve(self, buffer: Any, size: int | str) -> None:
        """Give a buffer its place in the workspace."""
        kind = self.ctype(str(buffer.dtype))
        self.line(f"{kind} *{self.name(buffer)} = ({kind} *)(workspace + {self.workspace_bytes});")
        if isinstance(size, int):
            self.fixed += -(-size // ALIGN) * ALIGN
        else:
            self.sized += f" + ({size} + {ALIGN - 1}) / {ALIGN} * {ALIGN}"

    def elements(self, buffer: Any) -> int | str:
        """How many elements a buffer has: a number, or a C expression of S."""
        count, text = 1, ""
        for size in buffer.shape:
            if type(size).__name__ == "IntImm":
                count *= int(size.value)
            else:
                text += f" * {self._size(size)}"
        return (f"{count}{text}" if count > 1 else text[3:]) if text else count

    def bytes(self, buffer: Any) -> int | str:
        """How large a buffer is."""
        each, count = width(str(buffer.dtype)), self.elements(buffer)
        return count * each if isinstance(count, int) else f"{each} * {count}"

    def _size(self, e: Any) -> str:
        """A size without helper functions: sizes are not negative, so C's division serves."""
        kind = type(e).__name__
        if kind in ("Add", "Sub", "Mul", "FloorDiv"):
            sign = {"Add": "+", "Sub": "-", "Mul": "*", "FloorDiv": "/"}[kind]
            return f"({self._size(e.a)} {sign} {self._size(e.b)})"
        if kind == "Cast":
            return self._size(e.value)
        if kind == "IntImm":
            return str(int(e.value))
        return "S" if kind == "Var" and self.name(e) == "S" else self.refuse(f"the size {e}")


def width(element: str) -> int:
    """Bytes of an element type."""
    return 1 if element == "bool" else int("".join(c for c in element if c.isdigit())) // 8
