"""The artifact folder: it appears whole or not at all, and nothing else changes."""

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from firstlight.codegen import artifact
from firstlight.codegen.artifact import (
    KIND,
    artifact_folder,
    file_records,
    refuse_impossible,
    write_manifest,
)
from firstlight.runtime.errors import FirstlightError


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def write(out: Path, text: str = "new", force: bool = False) -> None:
    """An artifact with one file besides its manifest."""
    with artifact_folder(out, force) as folder:
        (folder / "file").write_text(text)
        write_manifest(folder, {"kind": KIND})


def test_the_folder_appears_at_the_end(tmp_path):
    out = tmp_path / "deep" / "down" / "out"
    with artifact_folder(out) as folder:
        assert folder.parent == out.parent
        assert not out.exists()
        (folder / "file").touch()
    assert names(tmp_path) == ["deep", "deep/down", "deep/down/out", "deep/down/out/file"]


def fail(out: Path, error: BaseException, *touched: Path, force: bool = False) -> None:
    """Begin an artifact, write a little of it, and fail."""
    with artifact_folder(out, force) as folder:
        (folder / "code").mkdir()
        (folder / "code" / "half").touch()
        for path in touched:
            path.touch()
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143), ValueError("bug")])
def test_nothing_stays_after_an_error(error, tmp_path):
    with pytest.raises(type(error)):
        fail(tmp_path / "deep" / "down" / "out", error)
    assert names(tmp_path) == []


def test_parents_that_hold_something_else_stay(tmp_path):
    with pytest.raises(ValueError, match="bug"):
        fail(tmp_path / "deep" / "out", ValueError("bug"), tmp_path / "deep" / "other")
    assert names(tmp_path) == ["deep", "deep/other"]


def test_a_full_disk_is_four_lines(tmp_path):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "weights/global.safetensors")
    with pytest.raises(FirstlightError) as caught:
        fail(tmp_path / "out", full)
    assert caught.value.code == "F421"
    assert "No space left" in caught.value.why
    assert len(str(caught.value).splitlines()) == 4
    assert names(tmp_path) == []


def test_a_parent_that_cannot_be_written(tmp_path, monkeypatch):
    """Simulated, because root may write anywhere."""
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(FirstlightError) as caught:
        write(tmp_path / "out")
    assert (caught.value.code, caught.value.why) == ("F421", "Permission denied")


def test_a_parent_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FirstlightError) as caught:
        write(tmp_path / "file" / "out")
    assert caught.value.code == "F421"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("out", ["file/out", "file/no/out", "x" * 300, "no/" + "x" * 300 + "/out"])
def test_the_impossible_is_refused_at_once(out, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FirstlightError) as caught:
        refuse_impossible(tmp_path / out)
    assert caught.value.code == "F421"
    assert names(tmp_path) == ["file"]


def test_the_possible_is_not_refused_and_leaves_nothing(tmp_path):
    for out in ("out", "a/b/out", "x" * 255):
        refuse_impossible(tmp_path / out)
        assert names(tmp_path) == []
        write(tmp_path / out)
        shutil.rmtree(tmp_path / Path(out).parts[0])


def occupy(out: Path, how: str) -> None:
    match how:
        case "file":
            out.write_text("mine")
        case "folder":
            out.mkdir()
            (out / "thesis.tex").write_text("mine")
        case "folder with another manifest":
            out.mkdir()
            (out / "manifest.json").write_text('{"name": "an extension for a browser"}')
        case "folder with a broken manifest":
            out.mkdir()
            (out / "manifest.json").write_text('{"kind": "firstlight-artifact"')
        case "dangling link":
            out.symlink_to(out.parent / "nowhere")


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("how", ["file", "folder", "folder with another manifest",
                                 "folder with a broken manifest", "dangling link"])  # fmt: skip
def test_what_is_no_artifact_is_never_replaced(how, force, tmp_path):
    occupy(tmp_path / "out", how)
    before = [(n, os.lstat(tmp_path / n).st_mtime_ns) for n in names(tmp_path)]
    with pytest.raises(FirstlightError) as caught:
        write(tmp_path / "out", force=force)
    assert caught.value.code == "F420"
    assert "not an artifact" in caught.value.why
    assert [(n, os.lstat(tmp_path / n).st_mtime_ns) for n in names(tmp_path)] == before


def test_what_came_while_compiling_is_not_replaced(tmp_path):
    with pytest.raises(FirstlightError) as caught, artifact_folder(tmp_path / "out"):
        occupy(tmp_path / "out", "folder")
    assert caught.value.code == "F420"
    assert names(tmp_path) == ["out", "out/thesis.tex"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    write(tmp_path / "out")
    assert names(tmp_path) == ["out", "out/file", "out/manifest.json"]


@pytest.fixture(params=["exchange", "two renames"])
def way(request, monkeypatch):
    """Systems without renameat2 replace in two steps."""
    if request.param == "two renames":
        monkeypatch.setattr(artifact, "_exchange", lambda a, b: False)
    return request.param


@pytest.mark.parametrize("linked", [False, True])
def test_an_artifact_is_replaced_by_force_only(way, linked, tmp_path):
    """A link to it goes on leading to it."""
    out, real = tmp_path / "out", tmp_path / ("real" if linked else "out")
    write(real, "old")
    if linked:
        out.symlink_to(real)
    with pytest.raises(FirstlightError, match="--force"):
        write(out, "new")
    assert (out / "file").read_text() == "old"
    write(out, "new", force=True)
    assert (out / "file").read_text() == "new"
    assert out.is_symlink() == linked
    assert sorted(os.listdir(tmp_path)) == sorted({"out", real.name})


def test_the_old_artifact_stays_until_the_new_one_is_whole(way, tmp_path):
    write(tmp_path / "out", "old")
    with pytest.raises(KeyboardInterrupt):
        fail(tmp_path / "out", KeyboardInterrupt(), force=True)
    assert (tmp_path / "out" / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["out"]


def test_a_rename_that_fails_brings_the_old_artifact_back(tmp_path, monkeypatch):
    write(tmp_path / "out", "old")
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.suffix == ".partial":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(self))
        return rename(self, target)

    monkeypatch.setattr(artifact, "_exchange", lambda a, b: False)
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(FirstlightError) as caught:
        write(tmp_path / "out", "new", force=True)
    assert caught.value.code == "F421"
    assert (tmp_path / "out" / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["out"]


def test_exchange_is_one_step(tmp_path):
    """Neither name is ever free: this is what the kernel promises, and what we ask for."""
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not artifact._exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot exchange")
    assert names(tmp_path) == ["a", "a/b", "b", "b/a"]


def test_manifest_digest_and_records(tmp_path):
    """The digest is that of the text with the digest's own digits zero."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "x").write_bytes(b"abc")
    records = file_records(tmp_path, {})
    assert records["code/x"]["bytes"] == 3
    assert records["code/x"]["sha256"].startswith("ba7816bf")
    write_manifest(tmp_path, {"kind": KIND, "files": records})
    text = (tmp_path / "manifest.json").read_text()
    digest = json.loads(text)["digest"]
    assert hashlib.sha256(text.replace(digest, artifact.DIGEST).encode()).hexdigest() == digest
