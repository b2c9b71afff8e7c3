"""A target: one frozen manifest that says what a chip has and how code for it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from firstlight.codegen.kernel import Kernel
from firstlight.ir.core import Op
from firstlight.passes.capabilities import Capabilities
from firstlight.runtime.errors import FirstlightError

API = 1
Array = NDArray[Any]
ArraySpec = tuple[tuple[int, ...], str]
# An override: (symbol, op, largest number of tokens) -> its kernel, or None where it does not fit.
Override = Callable[[str, Op, int], "Kernel | None"]


class Packer(Protocol):
    """How a target lays weights out; a layout name is what its kernels ask for."""

    def shapes(self, layout: str, codec: str, shape: Sequence[int]) -> tuple[ArraySpec,
                                                                             ArraySpec | None]:
        """Shapes and dtypes of packed codes and scales."""
        ...

    def pack(self, layout: str, codes: Array, scales: Array | None, codec: str,
             shape: Sequence[int], first_row: int = 0) -> tuple[Array, Array | None]:
        """A weight, or consecutive rows of one, in the packed layout."""
        ...


@dataclass(frozen=True)
class Target:
    """What a chip port provides.

    name            as given to --target
    summary         one line for `firstlight targets`
    tier            A executed here, B compiled by the vendor's compiler, C emulated, D emitted
    capabilities    plain data the passes read
    requires        what the artifact's machine must have, e.g. CPU features
    overrides       gives op name -> factory of a hand-written kernel; called when code is made,
                    so that a plan needs no compiler
    packer          weight layouts of the overrides
    build           (kernels by symbol, output folder, processes or None) -> written files
    launcher        entry of the group `firstlight.launchers` that runs the artifact
    """

    name: str
    summary: str
    tier: str
    capabilities: Capabilities
    requires: Mapping[str, Any]
    build: Callable[[Mapping[str, Kernel], Path, int | None], Sequence[Path]]
    launcher: str
    overrides: Callable[[], Mapping[str, Override]] = dict
    packer: Packer | None = None
    versions: Callable[[], Mapping[str, str]] = dict
    api: int = API

    def __post_init__(self) -> None:
        if self.api != API:
            raise FirstlightError(
                "F401", f"target '{self.name}' is written for API {self.api}", where=self.name,
                why=f"this firstlight provides API {API}", try_="update the target plug-in",
            )
