"""From kernels to object files: compiled side by side, and kept for the next artifact."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from firstlight.codegen import tvm_bridge
from firstlight.codegen.cache import user_cache
from firstlight.codegen.side_by_side import side_by_side
from firstlight.codegen.tvm_bridge import PrimFunc, build_object, fingerprint


def build_objects(
    prim_funcs: Mapping[str, PrimFunc], options: Mapping[str, Any], folder: Path,
    jobs: int | None = None,
) -> list[Path]:  # fmt: skip
    """Write an object for each kernel to a folder, in the order of their names.

    The bytes of an object depend on the kernel, the options and the compiler alone. Objects that
    were made before are copied from the user's cache.

    Args:
        jobs: processes; by default one for each usable core.
    """
    cache = user_cache("kernels")
    names = sorted(prim_funcs)
    paths = {name: folder / f"{name}.o" for name in names}
    keys = {name: _key(name, prim_funcs[name], options) for name in names}
    missing = [name for name in names if not cache.fetch(keys[name], paths[name])]

    def build(name: str) -> Iterator[None]:
        yield build_object({name: prim_funcs[name]}, options, paths[name])

    side_by_side(build, missing, lambda name, _: None, jobs)
    for name in missing:
        cache.keep(keys[name], paths[name])
    if missing:
        cache.trim()
    return [paths[name] for name in names]


def _key(name: str, func: PrimFunc, options: Mapping[str, Any]) -> str:
    made_by = Path(tvm_bridge.__file__).read_bytes()     # the passes are chosen there
    parts = [tvm_bridge.versions(), dict(options), name, fingerprint(func)]
    text = json.dumps(parts, sort_keys=True).encode()
    return hashlib.sha256(made_by + text).hexdigest()
