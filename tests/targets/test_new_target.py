"""`firstlight new-target NAME`: what it writes is installable, listed, and passes its own tests."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from firstlight.cli import run_command_line
from firstlight.codegen.target import Target
from firstlight.runtime.errors import FirstlightError
from firstlight.targets.new_target import FILES, new_target

NAME, PACKAGE = "my-chip2", "firstlight_my_chip2"


def run(folder: Path, site: Path, *command: str | Path) -> str:
    """Standard output of a Python command that sees what is installed in `site`."""
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *map(str, command)], env=environment, cwd=folder,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package that was just made."""
    return new_target(NAME, tmp_path_factory.mktemp("new"))


@pytest.fixture(scope="module")
def site(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder it is installed in."""
    folder = tmp_path_factory.mktemp("site")
    copy = shutil.copytree(package, tmp_path_factory.mktemp("source") / NAME)
    run(folder, folder, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation",
        "--no-index", "--target", folder, copy)
    return folder


def test_every_file_is_there_and_nothing_is_left_to_fill_in(package: Path) -> None:
    files = {p.relative_to(package).as_posix(): p for p in package.rglob("*") if p.is_file()}
    assert set(files) == {name.replace("$package", PACKAGE) for name in FILES}
    for path in files.values():
        assert "$" not in path.read_text(), path
    assert 'name = "firstlight-my-chip2"' in files["pyproject.toml"].read_text()
    assert list(package.parent.iterdir()) == [package]


def test_every_field_of_the_manifest_is_explained(package: Path) -> None:
    lines = (package / PACKAGE / "__init__.py").read_text().splitlines()
    for field in fields(Target):
        (at,) = [i for i, line in enumerate(lines) if line.startswith(f"    {field.name}=")]
        before = lines[at - 1].strip()
        assert before.startswith("#") or field.name == "summary", field.name


def test_it_is_clean(package: Path) -> None:
    run(package, package, "-m", "ruff", "check", "--isolated", "--line-length", "100",
        "--select", "E,F,I,UP,B,PT,RUF", ".")


def test_it_is_installed_and_listed(site: Path) -> None:
    listed = json.loads(run(site, site, "-m", "firstlight.cli", "targets", "--json"))
    assert NAME in [row["target"] for row in listed["targets"]]
    assert listed["broken"] == []
    assert "scratch" in run(site, site, "-m", "firstlight.cli", "targets", NAME)


def test_its_own_tests_pass(package: Path, site: Path) -> None:
    out = run(package, site, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert "2 passed" in out


@pytest.mark.parametrize("name", ["", "My-Chip", "2chip", "-chip", "chip-", "a--b", "a_b", "a/b",
                                  "../up", "a b", "é", "x" * 41])
def test_a_bad_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(FirstlightError, match="F433"):
        new_target(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "chip").mkdir()
    (tmp_path / "other").symlink_to("nowhere")
    for name in ("chip", "other"):
        with pytest.raises(FirstlightError, match="F434"):
            new_target(name, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"chip", "other"}
    assert list((tmp_path / "chip").iterdir()) == []


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                     capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command_line(["new-target", "null"]) == 1
    assert "an installed target has this name" in capsys.readouterr().err
    assert run_command_line(["new-target", "chip", "--json"]) == 0
    assert "pyproject.toml" in json.loads(capsys.readouterr().out)["files"]
    assert run_command_line(["new-target", "chip"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 4
    assert run_command_line(["new-target", "chip2"]) == 0
    assert "pip install -e './chip2[test]'" in capsys.readouterr().out
