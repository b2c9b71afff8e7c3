"""What the series do in a second, for estimates; and what others have published, to compare.

Rates follow from the data in `skus`. Measured by others on this family: rows of 1 KB come at an
eighth of the rate of rows of 8 KB; moving a 64-lane register across lanes takes 16 to 20 ns. The
launch is not published; 2 us is assumed.
"""

from __future__ import annotations

from typing import Any

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.nests.traffic import step_traffic
from firstlight.codegen.rates import UNKNOWN, Product, Rates
from firstlight.targets.ascend.skus import CLOCK, SKUS, Sku

LAUNCH, LANE = 2e-6, 18e-9
LINK = 1e12
"""Bytes a second in each direction (2 TB/s of interconnect, both together, are said)."""
CODECS = {
    "fp8e4m3": Product("fp8"), "fp4e2m1": Product("fp8", unpack=6), "bf16": Product("bf16"),
    "f32": Product("f32"), "state": Product("bf16"), "": Product("bf16"),
}
"""FP8 weights are multiplied as MXFP8, FP4 ones after the vector cores unpacked them."""
WAYS = {
    "fp4-unpack": {}, "extern": {"fp4e2m1": Product("fp8")},
    "mxfp8": {"fp4e2m1": Product("fp8", grow=33 / 17)},
}
"""Of the FP4 experts: unpacked here, by CANN's own operator, or stored in 8 bits."""


def rates(sku: Sku) -> Rates:
    """One series."""
    cube = sku.cube * CLOCK * 2
    return Rates(
        name=f"{sku.line}_{sku.chips[0]}", memory=sku.bandwidth,
        products={"bf16": cube * 16 * 16 * 16, "fp8": cube * 16 * 32 * 16,
                  "f32": cube * 16 * 8 * 16},
        codecs=CODECS, ways=WAYS, vector=sku.vector * 64 * CLOCK, lane_registers=sku.vector / LANE,
        launch=LAUNCH, link=LINK, room=float(sku.memory) or UNKNOWN,
        source="derived from cores and clock; rows and lanes as others measured; a launch of 2 us "
        "is assumed", rows=((1024, 0.125), (8192, 1.0)))


CARDS: dict[str, tuple[Rates, ...]] = {
    name: tuple(rates(s) for s in SKUS if s.line == line)
    for name, line in (("ascend-950pr", "Ascend950PR"), ("ascend-950dt", "Ascend950DT"))
}
DEFAULTS = {"ascend-950pr": "Ascend950PR_9589", "ascend-950dt": "Ascend950DT_9581"}
"""The series that the targets compile for."""

_FLASH = {"hidden_size": 4096, "num_hidden_layers": 43}
_PRO = {"hidden_size": 7168, "num_hidden_layers": 61}


def traffic(kernel: Kernel) -> list[float]:
    """Of each launch of a kernel, bytes that it must read and write for one token."""
    from firstlight.targets.ascend.emit import best

    made = best(kernel)
    return [step_traffic(step, made) for step in made.steps]


TRAFFIC = traffic


def _row(model: dict[str, int], chips: int, batch: int, context: int, rate: float, ms: float,
         drafts: int) -> dict[str, Any]:
    return {"model": model, "rates": "Ascend950DT_9581", "chips": chips, "batch": batch,
            "context": context, "way": "extern", "tokens_per_second": rate,
            "seconds_per_token": ms / 1000, "drafts": drafts, "accepted": {1: 0.7, 3: 1.44}[drafts]}


PUBLISHED = (
    _row(_FLASH, 16, 256, 8192, 1822, 8.8, 3), _row(_FLASH, 16, 1536, 8192, 5831, 16.5, 1),
    _row(_FLASH, 16, 2880, 8192, 7047, 25.5, 1), _row(_FLASH, 16, 256, 131072, 1656, 9.7, 3),
    _row(_FLASH, 16, 16, 1048576, 124, 8.0, 3), _row(_PRO, 16, 16, 8192, 57, 17.6, 3),
    _row(_PRO, 16, 128, 8192, 388, 20.6, 3), _row(_PRO, 64, 3072, 8192, 1727, 27.8, 1),
)
"""Decode on 950DT by its maker's recipes (cann-recipes-infer): offline, forced expert balance, an
assumed number of accepted drafts, MXFP8 weights and MXFP4 experts. Which rows were drafted by one
and which by three is not said; three are taken for up to 256 sequences."""
