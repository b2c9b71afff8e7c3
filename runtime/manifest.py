"""``manifest.json``: what an artifact is, what it needs, and whether its files are whole."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.paths import checked_path
from firstlight.runtime.safetensors import parse_json

SCHEMA = 1
"""The newest artifact schema this runtime reads."""

Verify = Literal["quick", True, False]
Progress = Callable[[int], None]
"""Called with the number of bytes just read."""

_BLOCK = 1 << 20
_DIGEST = re.compile(rb'("digest"\s*:\s*")([0-9a-f]{64})(")')


@dataclass(frozen=True)
class File:
    """One file of an artifact as the manifest records it."""

    name: str
    bytes: int
    sha256: str
    header_sha256: str | None
    """Of a safetensors file: the hash of its first 8 + N bytes, so that quick checks stay quick."""


@dataclass(frozen=True)
class StateTensor:
    """One state array of a session: [rows, row_bytes] at a byte offset of the state block.

    ``codec`` says how the ``width`` numbers of a row are stored (``firstlight.ir.rows``).
    """

    name: str
    kind: str
    rows: int
    ratio: int
    width: int
    offset: int
    bytes: int
    codec: str
    row_bytes: int

    def used_rows(self, position: int) -> int:
        """Rows a sequence of ``position`` tokens may have written.

        Rings and partial blocks fill up row by row (row ``p % rows``); entries get a row for every
        complete block of ``ratio`` tokens.
        """
        wanted = position // self.ratio if self.kind == "entries" else position
        return min(wanted, self.bytes // self.row_bytes)


@dataclass(frozen=True)
class Manifest:
    """A checked manifest.

    ``identity`` is the sha256 of ``manifest.json``: since the manifest holds the hash of every
    file, it names the whole artifact. Saved sessions carry it.
    """

    directory: Path
    identity: str
    document: Mapping[str, Any]
    name: str
    launcher: str
    requires: Mapping[str, Any]
    vocab_size: int
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    context: int
    chunk: int
    files: tuple[File, ...]
    state_bytes: int
    state: tuple[StateTensor, ...]
    graph: Mapping[str, Any] | None = None
    """Of an artifact with named inputs and outputs: its open size. None for a language model."""

    @property
    def target(self) -> str:
        """Name of the target the artifact was compiled for."""
        return str(self.document["target"]["name"])

    def path(self, name: str) -> Path:
        """Where a file of the artifact lies. Raises F502 if the manifest does not list it."""
        if not any(f.name == name for f in self.files):
            raise malformed(self.directory, f"it does not list {name}")
        return self.directory / name


@dataclass(frozen=True)
class Report:
    """What ``verify_artifact`` found.

    ``damaged`` maps a file's name to what is wrong with it; ``unlisted`` are files in the folder
    that the manifest does not know (they are never read).
    """

    directory: Path
    files: int
    bytes: int
    damaged: Mapping[str, str]
    unlisted: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every file is what the manifest says."""
        return not self.damaged


def malformed(where: Path, why: str) -> FirstlightError:
    """The error for an artifact whose own description makes no sense."""
    return FirstlightError(
        "F502",
        "the artifact's description is damaged",
        where=str(where),
        why=why,
        try_="compile the artifact again, or copy it again from where it came",
    )


def read_manifest(directory: Path) -> Manifest:
    """Read and check ``manifest.json`` (not the files it lists).

    Raises F501 if ``directory`` is no artifact, F502 if the manifest is damaged, F503 if a newer
    firstlight wrote it.
    """
    directory = directory.absolute()  # the current folder may change while a model is loaded
    path = directory / "manifest.json"
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise FirstlightError(
            "F501",
            "this is not a compiled artifact",
            where=str(directory),
            why=f"cannot read its manifest.json: {error.strerror}",
            try_="firstlight compile CHECKPOINT -o DIR    makes one",
        ) from error
    document = parse_json(raw, where=str(path), code="F502")
    schema = document.get("schema")
    if schema != SCHEMA:
        raise FirstlightError(
            "F503",
            f"this artifact has schema {schema!r}; this runtime reads schema {SCHEMA}",
            where=str(path),
            why="another version of firstlight wrote it",
            try_="install that version, or compile the artifact again with this one",
        )
    _check_digest(path, raw)
    try:
        return _from_document(directory, raw, document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise malformed(path, f"manifest.json lacks or misspells a field: {error!r}") from error


def check_files(manifest: Manifest, verify: Verify) -> None:
    """Raise F504 for the first file that is missing or not what the manifest says.

    ``verify`` as in ``load``: "quick" reads of weights only size and header, True reads every
    byte, False looks at sizes alone.
    """
    for file in manifest.files:
        problem = _problem(manifest.directory, file, verify)
        if problem:
            raise FirstlightError(
                "F504",
                f"the artifact is damaged: {file.name} {problem}",
                where=str(manifest.directory / file.name),
                why="the file is not the one that the compiler wrote",
                try_="copy the artifact again, or compile it again",
            )


def verify_artifact(directory: str | Path, progress: Progress | None = None) -> Report:
    """Hash every file of an artifact and report all damage at once.

    ``progress(n)`` is called after every n bytes; the sum of all calls is the artifact's size
    where nothing is missing. Raises as ``read_manifest`` does if the manifest itself is unusable.
    """
    directory = checked_path(directory, "F501", "the artifact")
    manifest = read_manifest(directory)
    found = ((f.name, _problem(manifest.directory, f, True, progress)) for f in manifest.files)
    listed = {"manifest.json", *(f.name for f in manifest.files)}
    present = {p.relative_to(directory).as_posix() for p in directory.rglob("*")
               if not p.is_dir()}  # fmt: skip
    return Report(
        directory=manifest.directory,
        files=len(manifest.files),
        bytes=sum(f.bytes for f in manifest.files),
        damaged={name: problem for name, problem in found if problem},
        unlisted=tuple(sorted(present - listed)),
    )


def _problem(
    directory: Path, file: File, verify: Verify, progress: Progress | None = None
) -> str | None:
    path = directory / file.name
    try:
        size = path.stat().st_size
        if not path.is_file():
            return "is not a regular file"
        if size != file.bytes:
            return f"has {size} bytes instead of {file.bytes}"
        if verify is True or (verify == "quick" and file.header_sha256 is None):
            if _sha256(path, size, progress) != file.sha256:
                return "has other contents (its sha256 differs)"
        elif verify == "quick" and _sha256(path, _header_bytes(path)) != file.header_sha256:
            return "has another header (its sha256 differs)"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None


def _sha256(path: Path, n: int, progress: Progress | None = None) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while n > 0 and (block := f.read(min(n, _BLOCK))):
            digest.update(block)
            n -= len(block)
            if progress is not None:
                progress(len(block))
    return digest.hexdigest()


def _header_bytes(path: Path) -> int:
    with open(path, "rb") as f:
        return 8 + int.from_bytes(f.read(8), "little")


def _check_digest(path: Path, raw: bytes) -> None:
    """A manifest holds its own hash, taken with the hash's 64 digits replaced by zeros."""
    found = _DIGEST.search(raw)
    if found is None:
        raise malformed(path, "manifest.json has no digest of itself")
    blank = raw[: found.start(2)] + b"0" * 64 + raw[found.end(2) :]
    if hashlib.sha256(blank).hexdigest().encode() != found[2]:
        raise malformed(path, "manifest.json was changed: it does not match its own digest")


def _from_document(directory: Path, raw: bytes, document: dict[str, Any]) -> Manifest:
    model, limits, state = document["model"], document["limits"], document["state"]
    graph = document.get("graph")
    bos = model.get("bos_token_id")
    manifest = Manifest(
        directory=directory,
        identity=hashlib.sha256(raw).hexdigest(),
        document=document,
        name=str(document["name"]),
        launcher=str(document["target"]["launcher"]),
        requires=dict(document["target"].get("requires", {})),
        vocab_size=0 if graph is not None else _count(model["vocab_size"]),
        bos_token_id=None if bos is None else int(bos),
        eos_token_ids=tuple(int(i) for i in model.get("eos_token_ids") or ()),
        context=_count(limits["context"]),
        chunk=_count(limits["chunk"]),
        files=tuple(_files(document["files"])),
        state_bytes=_count(state["bytes"], 0),
        state=tuple(_state_tensor(t) for t in state["tensors"]),
        graph=None if graph is None else dict(graph),
    )
    str(document["target"]["name"])
    for t in manifest.state:
        if t.offset % 64 or t.bytes % t.row_bytes or t.offset + t.bytes > manifest.state_bytes:
            raise ValueError(f"state tensor {t.name} does not fit the state block")
    return manifest


def _state_tensor(record: Mapping[str, Any]) -> StateTensor:
    entries, width = record["kind"] == "entries", _count(record["width"])
    return StateTensor(
        name=str(record["name"]),
        kind=str(record["kind"]),
        rows=_count(record["rows"], 0),
        ratio=_count(record.get("ratio", 0), int(entries)),
        width=width,
        offset=_count(record["offset"], 0),
        bytes=_count(record["bytes"], 0),
        codec=str(record.get("codec", "f32")),
        row_bytes=_count(record.get("row_bytes", 4 * width)),
    )


def _files(records: Mapping[str, Mapping[str, Any]]) -> Iterator[File]:
    for name, record in records.items():
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\\" in name:
            raise ValueError(f"file name {name!r} leads out of the artifact")
        header = record.get("header_sha256")
        yield File(
            name,
            _count(record["bytes"], 0),
            str(record["sha256"]),
            None if header is None else str(header),
        )


def _count(value: object, least: int = 1) -> int:
    if not isinstance(value, int) or value is True or not least <= value < 1 << 62:
        raise ValueError(f"{value!r} is not a whole number >= {least}")
    return value
