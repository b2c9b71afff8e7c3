"""legalize: what a target lacks becomes what it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from firstlight.ir.core import Module, census
from firstlight.ir.decompose import decompose
from firstlight.ir.registry import TABLE
from firstlight.passes.base import Pass
from firstlight.runtime.errors import FirstlightError


@dataclass(frozen=True)
class Legalize(Pass):
    """Composites that are not in `ops` are decomposed, as far as needed.

    before   %0 = norm_rope(%x, %w, %positions, %freqs)                     (ops=rms_norm)
    after    %0 = rms_norm(%x, %w) ; ... cos, sin, slices, concat of %0

    ops: names of the composites a target has (`Capabilities.native`); F301 for names of no op,
    which would decompose everything.
    """

    name: ClassVar[str] = "legalize"
    ops: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = sorted(set(self.ops) - set(TABLE))
        if unknown:
            raise FirstlightError(
                "F301", f"pass 'legalize' names unknown ops: {', '.join(unknown)}", where=str(self),
                why="no row of the op table has these names",
                try_="legalize{ops=" + "+".join(n for n, i in TABLE.items() if i.composite) + "}",
            )

    def run(self, module: Module) -> Module:
        """The module with nothing but primitives and composites of `ops`."""
        return decompose(module, frozenset(self.ops))

    def lacking(self, module: Module) -> dict[str, int]:
        """The composites in `module` that will be decomposed, and how often each stands there."""
        return {name: n for name, n in census(module).items()
                if TABLE[name].composite and name not in self.ops}
