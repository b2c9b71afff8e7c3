"""From kernels to object files: compiled side by side, and kept for the next artifact."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
from collections.abc import Mapping, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any

from firstlight.codegen import tvm_bridge
from firstlight.codegen.cache import user_cache
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

    def build(name: str) -> None:
        build_object({name: prim_funcs[name]}, options, paths[name])

    jobs = min(jobs or len(os.sched_getaffinity(0)), len(missing))
    # An exception in a process: one process again, so that it surfaces here.
    if jobs <= 1 or not _side_by_side(build, missing, jobs):
        for name in missing:
            build(name)
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


def _side_by_side(build: Any, names: Sequence[str], jobs: int) -> bool:
    """Whether every name was built, by forked processes that take one after the other.

    They inherit the kernels, which cannot be sent, and the imported compiler.
    """
    context = multiprocessing.get_context("fork")
    waiting = context.SimpleQueue()
    children = [context.Process(target=_take, args=(build, waiting)) for _ in range(jobs)]
    try:
        for child in children:
            child.start()
        for name in (*names, *[None] * jobs):
            waiting.put(name)
        # One that is killed may take the queue's lock along: the others are not waited for then.
        while ((alive := [c.sentinel for c in children if c.is_alive()])
               and min(map(_status, children)) >= 0):
            connection.wait(alive)
    finally:
        for child in children:
            if child.is_alive():
                child.terminate()
        for child in children:
            child.join()
    codes = [_status(child) for child in children]
    if killed := [c for c in codes if c < 0 and -c != signal.SIGTERM]:
        raise RuntimeError(f"a compiling process was ended by signal {-killed[0]}")
    return not any(codes)


def _status(child: Any) -> int:
    return child.exitcode or 0


def _take(build: Any, waiting: Any) -> None:
    while (name := waiting.get()) is not None:
        build(name)
