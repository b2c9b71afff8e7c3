"""The artifact folder: written under a temporary name and renamed at the end."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.safetensors import Written

DIGEST = "0" * 64


@contextmanager
def artifact_folder(out: Path, force: bool = False) -> Iterator[Path]:
    """A temporary folder beside `out` that becomes `out` when the block ends without an error.

    An existing artifact is replaced only with `force`; anything else in the way is refused.
    """
    out = Path(os.path.abspath(out))
    _refuse_occupied(out, force)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    except OSError as e:
        raise _cannot_write(out, e) from e
    try:
        partial.chmod(0o755)
        yield partial
        if out.exists():
            old = partial.with_suffix(".old")
            out.rename(old)
            partial.rename(out)
            shutil.rmtree(old)
        else:
            partial.rename(out)
    except OSError as e:
        raise _cannot_write(out, e) from e
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _refuse_occupied(out: Path, force: bool) -> None:
    if not out.exists() and not out.is_symlink():
        return
    if out.is_dir() and not any(out.iterdir()):
        return
    if (out / "manifest.json").is_file() and force:
        return
    mine = (out / "manifest.json").is_file()
    raise FirstlightError(
        "F420", f"{out} is in the way", where=str(out),
        why="an artifact is there already" if mine else "it exists and is not an artifact",
        try_="--force to replace it, or another folder" if mine else "another folder",
    )


def _cannot_write(out: Path, error: OSError) -> FirstlightError:
    return FirstlightError(
        "F421", "the artifact cannot be written", where=str(error.filename or out),
        why=error.strerror or str(error), try_="a folder with enough free space and write access",
    )


def write_json(path: Path, document: Any) -> None:
    """Sorted, readable JSON."""
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")


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
