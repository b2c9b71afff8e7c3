"""What must hold before the first pass and after each one."""

from __future__ import annotations

from firstlight.ir.builder import infer
from firstlight.ir.core import Function, Module, Op, Value
from firstlight.runtime.errors import FirstlightError


def verify(module: Module) -> None:
    """Raise an error that shows the guilty op: values defined before use, types as inferred."""
    seen: dict[str, Function] = {}
    for name, function in module.functions.items():
        if function.name != name:
            raise _error(f"function @{function.name} is filed as @{name}", f"@{name}", "", "")
        _verify_function(function, Module(seen))
        seen[name] = function


def _verify_function(function: Function, callees: Module) -> None:
    known: set[Value] = set()
    for arg in function.args:
        if arg in known:
            raise _error("an argument stands twice", f"@{function.name}", "values are unique", "")
        known.add(arg)
    for op in function.ops:
        _verify_op(op, function, known, callees)
        known.update(op.results)
    for value in function.results:
        if value not in known:
            raise _error("a result is not defined", f"@{function.name}",
                         "every result is an argument or comes from an op", "")


def _verify_op(op: Op, function: Function, known: set[Value], callees: Module) -> None:
    from firstlight.ir.printer import print_op

    where = f"@{function.name}: {print_op(op)}"
    if any(v not in known for v in op.operands):
        raise _error(f"fl.{op.name} reads a value that is not defined before it", where,
                     "ops stand in the order of definition", op.loc)
    if any(v in known for v in op.results):
        raise _error(f"fl.{op.name} defines a value twice", where, "values are assigned once",
                     op.loc)
    try:
        expected = infer(op.name, op.operands, op.attrs, callees, op.loc)
    except FirstlightError as e:
        raise _error(e.what, where, e.why, op.loc) from e
    found = tuple(v.type for v in op.results)
    if expected != found:
        raise _error(f"fl.{op.name} has results ({', '.join(map(str, found))})", where,
                     f"its shape rule gives ({', '.join(map(str, expected))})", op.loc)


def _error(what: str, where: str, why: str, loc: str) -> FirstlightError:
    return FirstlightError("F206", what, where=f"{where}  [{loc}]" if loc else where, why=why,
                           try_="--dump-ir DIR shows the module after each pass")
