"""What passes may know about a chip: plain data, never its name."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from firstlight.ir.registry import TABLE
from firstlight.runtime.errors import FirstlightError


@dataclass(frozen=True)
class MemorySpace:
    """A kind of memory: `bytes` of it (0: what the machine has), starts aligned to `align`."""

    name: str
    bytes: int = 0
    align: int = 64


@dataclass(frozen=True)
class Threads:
    """How a chip of many threads is launched.

    Attributes:
        group: threads of a group in a kernel that is not written for a number of its own.
        most: threads that a group may have.
        warp: threads of a group that run in step; 1 where none do.
        resident: threads that may run at a time, about; more of them take turns.
        private_bytes: of a thread's own arrays.
    """

    group: int = 64
    most: int = 256
    warp: int = 1
    resident: int = 1 << 14
    private_bytes: int = 1024


@dataclass(frozen=True)
class Capabilities:
    """What a target brings of its own.

    Attributes:
        native: ops that it has kernels for; what is missing gets a generic kernel, or is
            decomposed by `legalize`.
        vector_bytes: width of a vector register.
        memory: its memory spaces, nearest last.
        threads: None for chips that a host does not launch threads on.
        states: what states may be kept as (`ir.types.RowCodec.codes`).

    Raises F305 for an op that no table lists.
    """

    native: frozenset[str] = frozenset()
    vector_bytes: int = 32
    memory: tuple[MemorySpace, ...] = (MemorySpace("host"),)
    threads: Threads | None = None
    states: tuple[str, ...] = ("f32",)

    def __post_init__(self) -> None:
        unknown = sorted(self.native - set(TABLE))
        if unknown:
            raise FirstlightError(
                "F305", f"capabilities name unknown ops: {', '.join(unknown)}",
                where="capabilities.native", why="no row of the op table has these names",
                try_="`firstlight.ir.registry.TABLE` lists the known ops",
            )

    def to_json(self) -> str:
        """The same as text; `from_json` reads it back."""
        plain = dataclasses.asdict(self) | {"native": sorted(self.native)}
        return json.dumps(plain, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Capabilities:
        """Inverse of `to_json`."""
        plain: Mapping[str, Any] = json.loads(text)
        threads = Threads(**plain["threads"]) if plain["threads"] else None
        return cls(frozenset(plain["native"]), plain["vector_bytes"],
                   tuple(MemorySpace(**space) for space in plain["memory"]), threads,
                   tuple(plain["states"]))
