"""What a chip does in a second, as data: the half of an estimate that a target brings.

A family's module ``rates`` has `CARDS` (`Rates` by the target's name), `DEFAULTS` (the card of a
target that is meant where none is named) and `PUBLISHED` (what others measured, to compare with).
Where its emitter works on nests, `TRAFFIC` is `firstlight.codegen.nests.traffic.kernel_traffic`.
Where no public source has a number it is `UNKNOWN`, and an estimate leaves its term out and says
so; a user who knows it gives it by its name in `MEANINGS`, or by the kind of product.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

UNKNOWN = math.nan
MEANINGS = {
    "memory": "bytes a second from the chip's memory, in long rows",
    "vector": "element-wise float32 operations a second",
    "lanes": "registers of 64 values a second that are moved across lanes",
    "launch": "seconds that a kernel costs besides its work",
    "link": "bytes a second to and from other chips",
    "room": "bytes of the chip's memory",
}
FIELDS = {name: "lane_registers" if name == "lanes" else name for name in MEANINGS}


@dataclass(frozen=True)
class Product:
    """How weights of a codec are multiplied.

    kind    a key of `Rates.products`
    unpack  element-wise operations on each weight before
    grow    bytes read for each byte of the codec, where weights are stored in another one
    """

    kind: str
    unpack: float = 0.0
    grow: float = 1.0


@dataclass(frozen=True)
class Rates:
    """What a chip does in a second, and where that is from.

    Attributes:
        memory: bytes from its memory, in long rows.
        rows: (bytes of a row, share of `memory`), ascending: shorter rows are slower.
        products: floating-point operations of matrix products, by kind.
        codecs: start of a weight's codec -> how it is multiplied; "state" for kept rows.
        ways: other rows of `codecs`, by a name; the first name is what is done otherwise.
        tile: rows that a product is filled up to.
        vector: element-wise float32 operations.
        lane_registers: registers of `lanes` values moved across lanes.
        launch: seconds that a kernel costs besides its work.
        link: bytes to and from other chips.
        room: bytes of memory.
        source: where the numbers are from.
    """

    name: str
    memory: float
    products: Mapping[str, float]
    codecs: Mapping[str, Product]
    vector: float
    lane_registers: float
    launch: float
    link: float
    room: float
    source: str
    rows: tuple[tuple[float, float], ...] = ()
    ways: Mapping[str, Mapping[str, Product]] = field(default_factory=dict)
    tile: int = 16
    lanes: int = 64

    def using(self, way: str) -> Rates:
        """The same with products in another way; a card without this name has one way only."""
        return replace(self, codecs={**self.codecs, **self.ways.get(way, {})})

    @property
    def unknown(self) -> dict[str, str]:
        """Names of the numbers that no source has, and what they mean."""
        found = {name: text for name, text in MEANINGS.items()
                 if math.isnan(getattr(self, FIELDS[name]))}
        return found | {kind: f"operations a second of products of {kind}"
                        for kind, rate in self.products.items() if math.isnan(rate)}

    def having(self, given: Mapping[str, float]) -> Rates:
        """The same with numbers that somebody knows better. Raises KeyError for another name."""
        changed: dict[str, float] = {}
        products = dict(self.products)
        for name, value in given.items():
            if name in FIELDS:
                changed[FIELDS[name]] = value
            elif name in products:
                products[name] = value
            else:
                raise KeyError(name)
        return replace(self, products=products, **changed)      # type: ignore[arg-type]

    def share(self, row: float) -> float:
        """Of `memory`, what is reached with rows of so many bytes (log-linear between)."""
        if not self.rows or row >= self.rows[-1][0]:
            return self.rows[-1][1] if self.rows else 1.0
        for (low, slow), (high, fast) in itertools.pairwise(self.rows):
            if low <= row:
                return slow * (fast / slow) ** (math.log(row / low) / math.log(high / low))
        return self.rows[0][1] * row / self.rows[0][0]
