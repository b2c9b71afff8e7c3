"""Products of bf16 numbers instead of float32 ones: nothing is rounded. A float32 number is the sum
of three bf16 numbers (8 of its 24 bits each), and so is a product, where the right side is bf16."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from firstlight.codegen.nests.nodes import Node
from firstlight.targets.cambricon.text import Size
from firstlight.targets.cambricon.tiles import Value

if TYPE_CHECKING:
    from firstlight.targets.cambricon.products import Product

PARTS = 3


def exact(right: Node) -> bool:
    """Whether all values of a right side are bf16 numbers: bf16 weights, or bytes that are times
    powers of two (FP8, FP4: 4 bits at most). Integers have bf16 scales, and so 12 or 16 bits."""
    kinds = {n.dtype for n in _loads(right)}
    return kinds == {"uint8"} or (kinds == {"uint16"} and right.op == "reinterpret")


def _loads(node: Node) -> Iterator[Node]:
    """What a value is made of, without what indices are made of."""
    if node.op == "load":
        yield node
        return
    for part in node.parts():
        yield from _loads(part)


def narrowed(product: Product, x: Value, most: int, count: Size) -> Value:
    """A float32 tile as bf16, rounded to the nearest."""
    to = product.values(()).place(most, "bfloat16")
    product.out.call("__bang_float2bfloat16_rn", to.text, x.text, count)
    return to


def parts(product: Product, x: Value, most: int, count: Size) -> Iterator[Value]:
    """The bf16 tiles whose sum a float32 tile is, the largest first; x's place is given back.

    Args:
        most: elements that the tile can have.
        count: those that it has.
    """
    out, give = product.out, product.values(()).give
    for number in range(PARTS):
        part = narrowed(product, x, most, count)
        yield part
        if number + 1 < PARTS:
            upper, rest = (product.values(()).place(most, "float32") for _ in range(2))
            out.call("__bang_bfloat162float", upper.text, part.text, count)
            out.call("__bang_sub", rest.text, x.text, upper.text, count)
            for held in (upper, x):
                give(held)
            x = rest
        give(part)
    give(x)
