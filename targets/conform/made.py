"""What a report says of itself: when and on what machine it was made, and how large the port is."""

from __future__ import annotations

import ast
import importlib
import io
import platform
import re
import tokenize
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from firstlight import __version__
from firstlight.codegen.target import Target
from firstlight.runtime import cpu
from firstlight.targets import tools_of

C_LIKE = (".c", ".h", ".cpp", ".cuh")


def made(target: Target) -> dict[str, Any]:
    """Date (UTC), processor, system, Python, this package, and the target's tools."""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "cpu": f"{cpu.model()}, {cpu.usable_cores()} cores",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(), "firstlight": __version__,
        "tools": {tool.name: (tool.version or "found") if tool.found else "missing"
                  for tool in tools_of(target)},
    }


def lines_of(target: Target, modules: Mapping[str, str]) -> int:
    """Lines of code in the package that brings a target, its relatives' included.

    Counted are lines of Python and C that are neither blank, nor comments, nor docstrings.
    `modules` is the registry's; 0 for a target that no plug-in brings.
    """
    if target.name not in modules:
        return 0
    module = importlib.import_module(modules[target.name])
    folders = [Path(p) for p in getattr(module, "__path__", ())]
    if not folders:
        return code_lines(Path(str(module.__file__)))
    return sum(code_lines(path) for folder in folders for path in folder.rglob("*")
               if path.suffix in (".py", *C_LIKE))


def code_lines(path: Path) -> int:
    """Lines of a file that are code."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        without = re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL)
        return sum(bool(line.strip()) for line in without.splitlines())
    skip = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
            tokenize.ENDMARKER}
    used: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skip:
            used.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            if isinstance(node.value.value, str):
                used.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(used)
