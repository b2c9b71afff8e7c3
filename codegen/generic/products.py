"""Lowerings of the matrix products. A weight is decoded where it is read, whatever its codec."""

from __future__ import annotations

from firstlight.codegen.generic.elementwise import broadcast_index
from firstlight.codegen.generic.emitter import Emitter
from firstlight.codegen.generic.recipe import Expr, Reduction, Tensor
from firstlight.codegen.generic.scalars import wrap
from firstlight.codegen.generic.table import lower
from firstlight.codegen.tvm_bridge import T
from firstlight.ir.core import Op


@lower("matmul")
def _(e: Emitter, op: Op, a: Tensor, b: Tensor) -> Reduction:
    transposed = bool(op.attrs["transpose_b"])

    def term(index: tuple[Expr, ...], k: Expr) -> Expr:
        *lead, m, n = index
        left, right = (*lead, m, k), (*lead, n, k) if transposed else (*lead, k, n)
        return a.read(*_batched(a, left)) * b.read(*_batched(b, right))

    return Reduction(op.result.type, e.extent(a.type.shape[-1]), term, rows=transposed)


def _batched(tensor: Tensor, index: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """The index of an operand of matmul: its leading axes broadcast, its last two do not."""
    own = index[len(index) - len(tensor.type.shape):]
    return (*broadcast_index(tensor, own)[:-2], *own[-2:])


@lower("linear")
def _(e: Emitter, op: Op, x: Tensor, w: Tensor) -> Reduction:
    return Reduction(op.result.type, e.extent(w.type.shape[1]),
                     lambda index, k: x.read(*index[:-1], k) * w.read(index[-1], k))


@lower("group_linear")
def _(e: Emitter, op: Op, x: Tensor, w: Tensor) -> Reduction:
    rows = e.extent(op.result.type.shape[-1])

    def term(index: tuple[Expr, ...], k: Expr) -> Expr:
        group, n = index[-2:]
        return x.read(*index[:-1], k) * w.read(group * rows + n, k)

    return Reduction(op.result.type, e.extent(w.type.shape[1]), term)


@lower("expert_linear")
def _(e: Emitter, op: Op, x: Tensor, w: Tensor, index: Tensor) -> Reduction:
    shared = x.type.rank == index.type.rank
    experts = T.int32(w.type.shape[0])

    def term(place: tuple[Expr, ...], k: Expr) -> Expr:
        *lead, chosen, n = place
        token = (*lead, k) if shared else (*lead, chosen, k)
        return x.read(*token) * w.read(wrap(index.read(*lead, chosen), experts), n, k)

    return Reduction(op.result.type, e.extent(w.type.shape[2]), term)
