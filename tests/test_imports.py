"""Dependencies point one way: frontend -> ir <- passes <- codegen <- targets; runtime stands alone.

Read from the source with `ast`, so that imports inside functions count, too.
"""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ALLOWED = {
    "ir": set(),
    "frontend": {"ir"},
    "passes": {"ir"},
    "codegen": {"ir", "passes"},
    "targets": {"ir", "passes", "codegen", "runtime"},
    # the conformance kit judges the whole road from a checkpoint to tokens
    "targets/conform": {"targets", "frontend", "ir", "codegen", "passes", "runtime", "compiler",
                        "examples"},
    "runtime": set(),
    "examples": {"runtime"},
    "console": {"targets"},
    "inspection": {"frontend", "passes", "codegen", "targets", "runtime"},
    "estimation": {"frontend", "ir", "passes", "codegen", "targets"},
    "comparison": {"frontend", "ir", "passes", "codegen", "targets", "runtime"},
    "compiler": {"frontend", "ir", "passes", "codegen", "targets"},
    "onnx_compiler": {"frontend", "ir", "codegen", "targets"},
    "measure": {"console", "compiler", "estimation", "frontend", "inspection", "ir", "passes",
                "runtime"},
    "cli": {"console", "inspection", "comparison", "compiler", "onnx_compiler", "measure",
            "targets", "runtime"},
}
"""What each part may import besides itself and the leaves."""

LEAVES = {"firstlight.runtime.errors", "firstlight.runtime.safetensors"}
"""Modules of the runtime that everybody may import."""

OTHER = ROOT / "examples/plugin-target"
"""A distribution of its own."""

BRIDGE = "codegen/tvm_bridge.py"
COMPILER_PACKAGES = {"tvm", "tvm_ffi", "networkx", "ml_dtypes", "onnx", "torch"}


def sources() -> list[str]:
    """Every Python file of the package, relative to the root."""
    files = [p for part in ALLOWED for p in (ROOT / part).rglob("*.py") if OTHER not in p.parents]
    files += [ROOT / f"{part}.py" for part in ALLOWED if (ROOT / f"{part}.py").is_file()]
    return sorted({p.relative_to(ROOT).as_posix() for p in files})


def imported(path: Path) -> Iterator[str]:
    """Absolute dotted names that a file imports; `from a import b` gives a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def wrong_imports(source: str, names: Iterable[str]) -> list[str]:
    """The names that `source` must not import."""
    part = source.split("/")[0].removesuffix(".py")
    part = "targets/conform" if source.startswith("targets/conform/") else part
    allowed = {part} | ALLOWED[part]
    wrong = []
    for name in names:
        top, _, rest = name.partition(".")
        leaf = any(name == leaf or name.startswith(leaf + ".") for leaf in LEAVES)
        if top == "firstlight" and rest and not leaf:
            inside = rest.split(".")[0]
            if inside in ALLOWED and inside not in allowed:
                wrong.append(name)
        if top in ("tvm", "tvm_ffi") and source != BRIDGE:
            wrong.append(name)
        if part == "runtime" and top in COMPILER_PACKAGES:
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("source", sources())
def test_imports_point_one_way(source: str):
    assert wrong_imports(source, imported(ROOT / source)) == []


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("ir/core.py", "firstlight.passes.fuse"),
        ("frontend/model.py", "firstlight.codegen.compile"),
        ("passes/fuse.py", "firstlight.targets"),
        ("codegen/select.py", "firstlight.targets.find"),
        ("codegen/select.py", "firstlight.runtime.load"),
        ("codegen/select.py", "tvm"),
        ("runtime/model.py", "firstlight.ir.core"),
        ("runtime/model.py", "networkx"),
        ("targets/cpu/toolchain.py", "firstlight.cli"),
    ],
)
def test_a_wrong_direction_is_found(source: str, name: str):
    assert wrong_imports(source, [name]) == [name]


def test_every_folder_with_code_is_checked():
    found = {p.parent.name for p in ROOT.glob("*/__init__.py")}
    assert found <= set(ALLOWED)
