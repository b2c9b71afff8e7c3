"""The wheel: it builds, installs into an empty environment, and brings `firstlight` alone."""

import os
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NOT_PACKAGES = ("tests", "docs", "benchmarks", "build", "dist")
OTHER = "examples/plugin-target"
"""A distribution of its own."""


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """Standard output of a command that must succeed."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | variables
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that the tree stays clean; no network is needed."""
    folder = tmp_path_factory.mktemp("wheel")
    ignore = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist")
    shutil.copytree(ROOT, folder / "tree", ignore=ignore)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation",
        "-w", folder, folder / "tree", cwd=folder)  # fmt: skip
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty environment with the wheel in it, and none of its dependencies."""
    folder = tmp_path_factory.mktemp("empty")
    venv.create(folder, with_pip=False)
    run(sys.executable, "-m", "pip", "--python", folder / "bin/python", "install", "-q",
        "--no-deps", "--no-index", wheel, cwd=folder)  # fmt: skip
    return folder


def site_packages(environment: Path) -> Path:
    """Where the environment's packages lie."""
    (found,) = environment.glob("lib/python*/site-packages")
    return found


def test_the_package_list_names_every_folder():
    declared = set(PROJECT["tool"]["setuptools"]["packages"])
    inits = (p.parent.relative_to(ROOT) for p in ROOT.rglob("__init__.py"))
    folders = {
        ".".join(("firstlight", *folder.parts))
        for folder in inits
        if not folder.parts or not folder.parts[0].startswith((".", *NOT_PACKAGES))
        if not folder.is_relative_to(OTHER)
    }
    assert declared == folders


def test_every_python_file_is_in_a_package():
    stray = [
        str(path.relative_to(ROOT))
        for part in ROOT.iterdir()
        if part.is_dir() and (part / "__init__.py").is_file()
        for path in part.rglob("*.py")
        if not (path.parent / "__init__.py").is_file() and path.parent.name != "tiny-v4"
    ]
    assert stray == []


def test_nothing_but_firstlight_becomes_importable(installed: Path):
    names = {p.name for p in site_packages(installed).iterdir()}
    assert {n for n in names if not n.endswith(".dist-info")} == {"firstlight"}
    code = (
        "from importlib.util import find_spec\n"
        "wrong = 'frontend ir passes codegen runtime targets tests examples cli docs benchmarks'\n"
        "print([name for name in wrong.split() if find_spec(name)])"
    )
    assert run(installed / "bin/python", "-c", code, cwd=installed).strip() == "[]"


def test_data_travels_and_tests_do_not(installed: Path):
    root = site_packages(installed) / "firstlight"
    tracked = (p for p in (ROOT / "examples/tiny-v4").rglob("*") if p.is_file())
    wanted = [p.relative_to(ROOT) for p in tracked if p.suffix != ".pyc"]
    native = [p.relative_to(ROOT) for p in (ROOT / "runtime/native").glob("*.[ch]")]
    wanted += [*native, Path("targets/cpu/server.c"), Path("py.typed")]
    wanted += [p.relative_to(ROOT) for p in (ROOT / "targets/template").iterdir()]
    assert [str(p) for p in wanted if not (root / p).is_file()] == []
    extra = {p.name for p in root.iterdir()} & set(NOT_PACKAGES)
    assert extra == set()
    assert not list(root.rglob("test_*.py"))


def test_the_version_and_the_scripts(installed: Path):
    code = (
        "import firstlight, sys\n"
        "from importlib.metadata import entry_points\n"
        "heavy = {'numpy', 'tvm', 'click', 'networkx'} & set(sys.modules)\n"
        "groups = ('console_scripts', 'firstlight.targets', 'firstlight.launchers')\n"
        "print(firstlight.__version__, sorted(heavy),"
        " *(e.value for g in groups for e in entry_points(group=g)))"
    )
    out = run(installed / "bin/python", "-c", code, cwd=installed)
    version = PROJECT["project"]["version"]
    points = PROJECT["project"]["entry-points"]
    values = [*points["firstlight.targets"].values(), *points["firstlight.launchers"].values()]
    assert out.split()[:3] == [version, "[]", "firstlight.cli:main"]
    assert sorted(out.split()[3:]) == sorted(values)


def test_every_module_imports_from_the_wheel(installed: Path, tmp_path: Path):
    """With this environment's dependencies, but the wheel's firstlight, in a foreign folder."""
    code = (
        "import importlib, pkgutil, firstlight\n"
        "for m in pkgutil.walk_packages(firstlight.__path__, 'firstlight.'):\n"
        "    m.name.endswith('__main__') or importlib.import_module(m.name)\n"
        "print(firstlight.__file__)"
    )
    site = site_packages(installed)
    out = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(site))
    assert Path(out.splitlines()[-1]) == site / "firstlight" / "__init__.py"
