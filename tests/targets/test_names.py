"""Nothing outside a chip's own folder names the chip. Which names there are, the registry says."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from firstlight.targets import available

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
OURS = {name: value.removeprefix("firstlight.").replace(".", "/")
        for name, value in PROJECT["firstlight.targets"].items()}
"""Entry -> the folder of its chips, which alone may name them."""
FORMATS = {"onnx"}
"""Targets that are a file format, which others may read and write, and so say its name."""
NOT_CODE = ("tests", "docs", "build", "dist")


def names() -> dict[str, str]:
    """Target -> the folder of its plug-in, for all of ours."""
    from importlib.metadata import entry_points

    found = {}
    for entry in entry_points(group="firstlight.targets"):
        if entry.name in OURS:
            found |= {t.name: OURS[entry.name] for t in available([entry]).targets.values()}
    return found


def sources() -> Iterator[Path]:
    """All code: Python, C, and what is not hidden."""
    for path in sorted(p for kind in ("*.py", "*.c", "*.h") for p in ROOT.rglob(kind)):
        top = path.relative_to(ROOT).parts[0]
        if top not in NOT_CODE and not top.startswith("."):
            yield path


def words(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of each string that is no docstring, and each import; all lines of C."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from enumerate(re.sub(r"/\*.*?\*/|//.*", "", text, flags=re.DOTALL).splitlines(), 1)
        return
    tree = ast.parse(text)
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in documents:
                yield node.lineno, node.value
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, str(node.module)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)


def namings(path: Path, chips: dict[str, str], root: Path = ROOT) -> list[str]:
    """Where a file names a chip, or imports a chip's folder, that is not its own."""
    here = path.relative_to(root).as_posix()
    found = []
    for line, text in words(path):
        for name, folder in chips.items():
            module = f"firstlight.{folder.replace('/', '.')}"
            named = re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text)
            imported = f"{text}.".startswith(f"{module}.")
            if (named or imported) and not here.startswith(f"{folder}/"):
                found.append(f"{here}:{line} {name}")
    return found


def test_the_registry_knows_our_chips() -> None:
    assert set(names().values()) == set(OURS.values())
    assert len(names()) >= len(OURS)


def test_nothing_outside_its_folder_names_a_chip() -> None:
    chips = {name: folder for name, folder in names().items() if name not in FORMATS}
    assert [hit for path in sources() for hit in namings(path, chips)] == []


@pytest.mark.parametrize("line", [
    'target = "{name}"', 'print("use {name}, please")', "import {module}",
    "from {module}.kernels import x",
])
def test_a_naming_is_found(line: str, tmp_path: Path) -> None:
    name, folder = next(iter(names().items()))
    module = f"firstlight.{folder.replace('/', '.')}"
    path = tmp_path / "codegen.py"
    path.write_text(line.format(name=name, module=module))
    assert namings(path, names(), tmp_path)
    path.write_text(f'"""The {name} of a docstring."""\nx = "my-{name}-2"')
    assert namings(path, names(), tmp_path) == []
