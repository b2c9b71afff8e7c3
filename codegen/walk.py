"""Visiting TIR: one method for each kind of node, chosen by its name."""

from __future__ import annotations

from typing import Any, NoReturn

from firstlight.runtime.errors import FirstlightError


class Walker:
    """Calls `s_For`, `s_BufferStore`, ... for statements, `e_Add`, `e_Call`, ... for expressions.

    A subclass has a method for each node it knows; any other node is refused by name (F405), so
    that nothing is dropped silently when TVM gets a new one.
    """

    where = "a kernel"

    def stmt(self, node: Any) -> Any:
        """What the statement's method returns."""
        return self._method("s_", node)(node)

    def expr(self, node: Any) -> Any:
        """What the expression's method returns."""
        return self._method("e_", node)(node)

    def _method(self, prefix: str, node: Any) -> Any:
        kind = type(node).__name__
        method = getattr(self, prefix + kind, None)
        return method if method is not None else self.refuse(f"the TIR node {kind}")

    def refuse(self, what: str) -> NoReturn:
        """Raise F405 for something that this walker has no text for."""
        raise FirstlightError(
            "F405", f"{type(self).__name__} cannot handle {what}", where=self.where,
            why="the emitter has no rule for it", try_="add a method or an entry of its tables",
        )


def dtype(expr: Any) -> str:
    """Element type of an expression, such as ``int32``."""
    return str(expr.ty.dtype)
