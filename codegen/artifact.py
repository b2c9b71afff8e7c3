"""The artifact folder: written under a temporary name and renamed at the end."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.safetensors import Written

KIND = "firstlight-artifact"
DIGEST = "0" * 64
SCRATCH = ".firstlight-"
"""How the names of temporary folders begin."""


@contextmanager
def artifact_folder(out: Path, force: bool = False) -> Iterator[Path]:
    """A temporary folder beside `out` that becomes `out` when the block ends without an error.

    An existing artifact is replaced only with `force`; anything else in the way is refused (F420).
    A folder that cannot be written is F421. Missing parents are made, and unmade after an error.
    """
    refuse_occupied(out, force)
    with _writing(out):
        out = _final(out)
        partial = out.with_name(f"{SCRATCH}{secrets.token_hex(8)}.partial")
        missing = [p for p in out.parents if not p.exists()]
        try:
            partial.mkdir(parents=True)
            yield partial
            refuse_occupied(out, force)                  # compiling took a while
            _put(partial, out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)   # after an exchange: the old artifact
            for folder in missing:
                with suppress(OSError):                  # refused where the artifact is inside
                    folder.rmdir()


def refuse_occupied(out: Path, force: bool) -> None:
    """Raise F420 unless `out` is free, an empty folder, or with `force` an artifact."""
    with _writing(out):
        mine = _is_artifact(out)
        free = not os.path.lexists(out) or (out.is_dir() and not any(out.iterdir()))
    if free or (mine and force):
        return
    raise FirstlightError(
        "F420", f"{out} is in the way", where=str(out),
        why="an artifact is there already" if mine else "it exists and is not an artifact",
        try_="--force to replace it, or another folder" if mine else "another folder",
    )


def refuse_impossible(out: Path) -> None:
    """Raise F421 for an `out` that could not be made: a name too long, no right to write there.

    The parent is asked by making a folder in it: permissions alone do not tell (/proc, root).
    """
    with _writing(out):
        out = _final(out)
        parent = next(p for p in out.parents if p.exists())
        for part in out.relative_to(parent).parts:
            with suppress(FileNotFoundError):
                (parent / part).lstat()
        with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=parent):
            pass


def _is_artifact(folder: Path) -> bool:
    """Whether its manifest says so: --force must not replace what merely has a manifest.json."""
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and manifest.get("kind") == KIND


def _final(out: Path) -> Path:
    """The absolute path; a link to a folder stands for that folder."""
    return Path(os.path.realpath(out) if out.is_dir() else os.path.abspath(out))


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise FirstlightError(
            "F421", "the artifact cannot be written", where=str(e.filename or out),
            why=e.strerror or str(e), try_="a folder with enough free space and write access",
        ) from e


def _put(partial: Path, out: Path) -> None:
    """`partial` becomes `out`; an artifact there takes its place, in one step where possible."""
    if out.exists() and _exchange(partial, out):
        return
    if not out.exists() or not any(out.iterdir()):
        partial.rename(out)
        return
    old = partial.with_suffix(".old")
    out.rename(old)
    try:
        partial.rename(out)
    except BaseException:
        old.rename(out)
        raise
    shutil.rmtree(old)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two folders in one step; False where the system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    at_cwd, exchange = -100, 2
    return renameat2(at_cwd, os.fsencode(a), at_cwd, os.fsencode(b), exchange) == 0


def write_json(path: Path, document: Any) -> None:
    """Sorted, readable JSON."""
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def write_debug(path: Path, document: Any) -> None:
    """Sorted JSON without spaces: long tables that few people read."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    path.write_text(text + "\n", encoding="utf-8")


def file_records(folder: Path, weights: Mapping[str, Written]) -> dict[str, Any]:
    """The `files` section of a manifest: sizes and hashes of everything in the folder."""
    records: dict[str, Any] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if name in weights:
            w = weights[name]
            records[name] = {"bytes": w.bytes, "sha256": w.sha256,
                             "header_sha256": w.header_sha256}
        else:
            data = path.read_bytes()
            records[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return records


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """manifest.json with its own digest (taken with the digest's digits replaced by zeros)."""
    text = json.dumps({**manifest, "digest": DIGEST}, indent=1, sort_keys=True) + "\n"
    digest = hashlib.sha256(text.encode()).hexdigest()
    (folder / "manifest.json").write_text(text.replace(f'"digest": "{DIGEST}"',
                                                       f'"digest": "{digest}"'), encoding="utf-8")
