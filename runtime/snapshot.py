"""Sessions on disk: a safetensors file with the used part of the state, and what it belongs to."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from firstlight.runtime.engine import Context
from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.manifest import Manifest, StateTensor
from firstlight.runtime.safetensors import SafetensorsFile, SafetensorsWriter, TensorPlan

_KIND = "firstlight-session"
_SCHEMA = "1"
_NUMPY = {"F32": np.float32, "U8": np.uint8}


def _stored(tensor: StateTensor, position: int) -> tuple[str, tuple[int, int]]:
    """dtype and shape of the used rows: float32 [rows, width], or in a codec bytes of each row."""
    rows = tensor.used_rows(position)
    return ("F32", (rows, tensor.width)) if tensor.codec == "f32" else (
        "U8", (rows, tensor.row_bytes))


def used_state(
    manifest: Manifest, context: Context, position: int
) -> Iterator[tuple[StateTensor, npt.NDArray[Any]]]:
    """The state tensors of a sequence and what it has written of each, see `_stored`."""
    for tensor in manifest.state:
        dtype, shape = _stored(tensor, position)
        raw = context.read_state(tensor.offset, shape[0] * tensor.row_bytes)
        yield tensor, raw.view(_NUMPY[dtype]).reshape(shape)


def copy_state(manifest: Manifest, source: Context, target: Context) -> None:
    """Make a fresh context continue where another stands; only used rows are touched."""
    position = source.position
    for tensor, rows in used_state(manifest, source, position):
        target.write_state(tensor.offset, rows.reshape(-1).view(np.uint8))
    target.position = position


def write_snapshot(path: Path, manifest: Manifest, context: Context) -> None:
    """Write a session to exactly ``path``: whole or not at all. Raises F640 if it cannot.

    A regular file there is replaced; a device, pipe or folder is not ours to replace.

    Its metadata hold the artifact's identity, the position, and the sha256 of position and state.
    """
    state = list(used_state(manifest, context, context.position))
    digest = hashlib.sha256(str(context.position).encode())
    for _, rows in state:
        digest.update(rows.reshape(-1).view(np.uint8).data)
    metadata = {
        "kind": _KIND,
        "schema": _SCHEMA,
        "artifact": manifest.identity,
        "name": manifest.name,
        "position": str(context.position),
        "sha256": digest.hexdigest(),
    }
    scratch = path.parent / f".firstlight-{secrets.token_hex(8)}.tmp"
    try:
        if path.exists() and not path.is_file():
            raise OSError("something that is not a regular file is there already")
        plan = [TensorPlan(t.name, *_stored(t, context.position)) for t, _ in state]
        with SafetensorsWriter(scratch, plan, metadata) as out:
            for tensor, rows in state:
                out.write(tensor.name, rows)
        os.replace(scratch, path)
    except OSError as error:
        raise FirstlightError(
            "F640",
            "the session cannot be saved",
            where=str(path),
            why=error.strerror or str(error),
            try_="save to a file in an existing folder with enough space",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)  # gone already if all went well


def read_snapshot(path: Path, manifest: Manifest, context: Context) -> None:
    """Fill a fresh context from a saved session.

    Raises F520 to F524 for a file that cannot be read, F641 for another artifact's session, F642
    for a damaged one.
    """
    file = SafetensorsFile(path, "F5")
    meta = file.metadata
    if meta.get("kind") != _KIND or meta.get("schema") != _SCHEMA:
        raise _damaged(path, f"it is no {_KIND} file of schema {_SCHEMA}")
    if meta.get("artifact") != manifest.identity:
        raise FirstlightError(
            "F641",
            "this session was saved by another artifact",
            where=str(path),
            why=f"it belongs to {meta.get('name')!r} {meta.get('artifact', '')[:12]}, the loaded "
            f"artifact is {manifest.name!r} {manifest.identity[:12]}",
            try_="load the artifact that saved it",
        )
    position = int(meta["position"]) if meta.get("position", "").isdecimal() else -1
    if not 0 <= position <= manifest.context:
        raise _damaged(path, f"its position {meta.get('position')!r} is out of range")
    digest = hashlib.sha256(str(position).encode())
    for tensor in manifest.state:
        info = file.tensors.get(tensor.name)
        if info is None or (info.dtype, info.shape) != _stored(tensor, position):
            raise _damaged(path, f"tensor {tensor.name} is missing or of another shape")
        data = np.ascontiguousarray(file.array(info)).reshape(-1).view(np.uint8)
        context.write_state(tensor.offset, data)
        digest.update(data.data)
    if digest.hexdigest() != meta.get("sha256"):
        raise _damaged(path, "its contents do not match its own sha256")
    context.position = position


def _damaged(path: Path, why: str) -> FirstlightError:
    return FirstlightError(
        "F642",
        "the saved session is damaged",
        where=str(path),
        why=why,
        try_="prefill the sequence again and save it again",
    )
