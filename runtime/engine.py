"""What a launcher must offer, and how one is found.

A launcher is a module named after a driver API. It opens an artifact's code as an `Engine`; an
engine makes one `Context` per session. A plug-in brings its own through the entry-point group
``firstlight.launchers``.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from pkgutil import iter_modules
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.manifest import Manifest
from firstlight.runtime.program import Program

_BUILT_IN = "firstlight.runtime.launchers"


class Context(Protocol):
    """The memory of one sequence: its state block, its scratch arena, its position."""

    position: int
    """Tokens fed so far. An entry that fails does not move it."""

    def run(
        self, entry: str, tokens: npt.NDArray[np.int32], logits: npt.NDArray[np.float32]
    ) -> None:
        """Feed tokens [S] at the position through an entry and fill ``logits`` [1 or S, vocab].

        Moves the position by S, together with the state: no signal comes between the two. Raises
        FirstlightError F611 if a kernel fails; the state is then undefined.
        """

    def read_state(self, offset: int, nbytes: int) -> npt.NDArray[np.uint8]:
        """The bytes of a part of the state block: to be read before anything else happens."""

    def write_state(self, offset: int, data: npt.NDArray[np.uint8]) -> None:
        """Replace the bytes of the state block from ``offset`` on."""


class Engine(Protocol):
    """An artifact's code and weights, ready to run; shared by its sessions and their threads."""

    threads: int

    def context(self) -> Context:
        """Memory for a new sequence. Raises F514 if there is none."""

    def read_bandwidth(self, nbytes: int, repeats: int) -> float:
        """Bytes per second of the best of several plain reads of ``nbytes``, on all threads."""

    def flops(self, repeats: int) -> float:
        """Float32 operations per second of the best of several multiply-add loops."""

    def close(self) -> None:
        """Stop the threads. No context may be running."""


class Launcher(Protocol):
    """A module that can open artifacts."""

    def open_engine(self, manifest: Manifest, program: Program, threads: int | None) -> Engine:
        """Check what the artifact requires of this machine, then map its code and weights."""


def find_launcher(name: str) -> Launcher:
    """The launcher an artifact's manifest asks for.

    Looks among installed entry points, then among our own (a source tree need not be installed).
    Raises F511 for an unknown name.
    """
    from importlib.metadata import entry_points  # slow to import, and this module is everywhere

    for point in entry_points(group="firstlight.launchers", name=name):
        return cast(Launcher, point.load())
    ours = {module.name for module in iter_modules([str(Path(__file__).parent / "launchers")])}
    if name in ours:
        return cast(Launcher, importlib.import_module(f"{_BUILT_IN}.{name}"))
    known = sorted({*ours, *(p.name for p in entry_points(group="firstlight.launchers"))})
    raise FirstlightError(
        "F511",
        f"there is no launcher {name!r}",
        where="manifest.json, target.launcher",
        why=f"installed launchers are: {', '.join(known)}",
        try_="install the package that brings this launcher",
    )
