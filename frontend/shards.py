"""The safetensors files of a checkpoint folder: found, and kept inside the folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.safetensors import parse_json

INDEX = "model.safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
MAX_JSON = 100_000_000
_SHARD = re.compile(r"(\w[\w.\- ]*/)*\w[\w.\- ]*\.safetensors", re.ASCII)
_NUMBERED = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.safetensors", re.ASCII)


def read_json(path: Path, code: str) -> dict[str, Any]:
    """A JSON object from a file; FirstlightError `code` if it is not there or not one."""
    try:
        if not path.is_file():
            raise FileNotFoundError("there is no such file")
        if path.stat().st_size > MAX_JSON:
            raise OSError(f"it is larger than {MAX_JSON} bytes")
        text = path.read_bytes()
    except OSError as e:
        raise FirstlightError(code, f"{path.name} cannot be read", where=str(path),
                              why=e.strerror or str(e),
                              try_="give the folder of a checkpoint") from e
    return parse_json(text, where=str(path), code=code)


def find_shards(folder: Path) -> dict[str, list[str]]:
    """Shard names in order, each with the tensors that the index puts there (none without index).

    Errors: F110 no safetensors, F111 index unusable, F112 shard outside the folder, F113 absent.
    """
    if (folder / INDEX).exists():
        shards = _indexed(folder, read_json(folder / INDEX, "F111"))
    else:
        shards = {path.name: [] for path in sorted(folder.glob("*.safetensors"))}
        _complete(folder, shards)
    if not shards:
        _no_weights(folder)
    for name in shards:
        _check_place(folder, name)
    return shards


def _indexed(folder: Path, index: Mapping[str, Any]) -> dict[str, list[str]]:
    table = index.get("weight_map")
    if not (isinstance(table, dict) and all(isinstance(v, str) for v in table.values())):
        raise FirstlightError("F111", "the index has no weight_map of file names",
                              where=str(folder / INDEX), why="it must map every tensor to its file",
                              try_="fetch the index again, or delete it: it is optional")
    shards: dict[str, list[str]] = {}
    for tensor, shard in table.items():
        shards.setdefault(shard, []).append(tensor)
    return dict(sorted(shards.items()))


def _complete(folder: Path, shards: Mapping[str, list[str]]) -> None:
    """Without an index the names themselves say how many shards there are."""
    for match in filter(None, map(_NUMBERED.fullmatch, shards)):
        for i in range(1, int(match[3]) + 1):
            name = f"{match[1]}-{i:05d}-of-{match[3]}.safetensors"
            if name not in shards:
                _absent(folder, name)
        return


def _check_place(folder: Path, name: str) -> None:
    if name.endswith(PICKLED):
        _no_weights(folder)
    path = folder / name
    if len(name) > 255 or not _SHARD.fullmatch(name):
        _outside(folder, name, "a shard is named by a plain relative path")
    try:
        real, home = path.resolve(), folder.resolve()
    except (OSError, RuntimeError):            # a loop of links
        _absent(folder, name)
    # The hub's cache keeps snapshots/<commit>/x as a link to blobs/<hash> of the same model.
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    if not (real.is_relative_to(home) or real.is_relative_to(blobs)):
        _outside(folder, name, f"it leads to {real}")
    if not path.is_file():
        _absent(folder, name)


def _absent(folder: Path, name: str) -> None:
    raise FirstlightError("F113", f"shard {name} is absent", where=str(folder),
                          why="the checkpoint names a file that is not there",
                          try_="finish the download")


def _outside(folder: Path, name: str, why: str) -> None:
    raise FirstlightError("F112", f"shard {name[:200]!r} is not inside the checkpoint folder",
                          where=str(folder), why=why,
                          try_="copy the files into one folder; do not trust this index")


def _no_weights(folder: Path) -> None:
    pickled = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLED)
    if pickled:
        raise FirstlightError("F110", f"the weights are pickled: {pickled[0]}", where=str(folder),
                              why="loading a pickle runs whatever code is in it",
                              try_="convert them to safetensors where you trust them")
    raise FirstlightError("F110", "no safetensors files", where=str(folder),
                          why="a checkpoint is config.json and *.safetensors",
                          try_="download the weights into this folder")
