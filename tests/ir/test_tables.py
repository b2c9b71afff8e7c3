"""Every op has every cell of its row: an op is described once, in tables."""

import pytest

from firstlight.codegen.generic import LOWERINGS
from firstlight.ir.registry import TABLE, OpInfo

CELLS = ("ins", "outs", "shape", "reference", "cost")
COMPOSITE_CELLS = ("decomposition", "examples")
WITHOUT_KERNEL = {"call"}
"""A call is flattened by the planner into the steps of its callee."""


def empty_cells(info: OpInfo) -> list[str]:
    """Names of the cells of a row that nothing stands in; an op of constants has no operands."""
    wanted = CELLS + COMPOSITE_CELLS * info.composite
    empty = [cell for cell in wanted if not getattr(info, cell)]
    if not info.ins and info.attrs:
        empty.remove("ins")
    if not info.composite and info.name not in {*LOWERINGS, *WITHOUT_KERNEL}:
        empty.append("generic lowering")
    return empty


@pytest.mark.parametrize("name", sorted(TABLE))
def test_row_is_complete(name: str) -> None:
    assert empty_cells(TABLE[name]) == []


def test_composites_are_lowered_by_their_decomposition_only() -> None:
    assert [name for name in LOWERINGS if TABLE[name].composite] == []


def test_an_empty_cell_is_noticed() -> None:
    bare = OpInfo("bare", ("x",), ("y",), composite=True)
    assert empty_cells(bare) == ["shape", "reference", "cost", "decomposition", "examples"]
    assert "generic lowering" in empty_cells(OpInfo("bare", ("x",), ("y",)))
