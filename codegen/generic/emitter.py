"""Recipes become TIR: buffers, loops, blocks, and the default schedule.

Every computation is a block with spatial and reduce axes, which is what emitters for other chips
start from. The schedule is safe everywhere: the outermost loop is parallel where there is enough
work, the innermost one a vector where its length allows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from firstlight.codegen.generic.recipe import Expr, Fill, Recipe, Reduction, Tensor
from firstlight.codegen.generic.scalars import DTYPES, const, load, store
from firstlight.codegen.tvm_bridge import T, named
from firstlight.ir import dims
from firstlight.ir.core import Module
from firstlight.ir.dims import Dim, Size
from firstlight.ir.types import TensorType
from firstlight.runtime.errors import FirstlightError

LANES = 16
"""Elements of a vector loop: one or more registers on every chip."""
PARALLEL_WORK = 1 << 14
"""Operations from which on a parallel region pays."""
ASSUMED = 64
"""Stands for the number of tokens when work is estimated."""
NO_CONTEXT = {"C": 0}
"""Specialised states have rows instead of C // ratio, unless the context holds no block."""
RUNS = (128, 32)
"""Reduced axes are cut into such runs first, so that all lanes of a vector have one codec scale."""


class Emitter:
    """Emits the body of one kernel.

    Args:
        tokens: the parameter `S`.
        module: the functions that `repeat` applies.
    """

    def __init__(self, tokens: Expr, module: Module) -> None:
        self.tokens, self.module = tokens, module

    # -- sizes ----------------------------------------------------------------------------------

    def extent(self, size: Size) -> Expr:
        """A dimension as an integer, or as an expression of `S`."""
        size = dims.substitute(size, NO_CONTEXT)
        if not isinstance(size, Dim):
            return size
        if size.base is None:
            if size.head != "S":
                raise FirstlightError(
                    "F451", f"the size {size} is not known to a kernel", where="codegen.generic",
                    why="kernels have one size that is open: the number of tokens S",
                    try_="run the pass specialize first",
                )
            return self.tokens
        base = self.extent(size.base)
        if size.head == "add":
            return base + size.amount
        return T.floordiv(base + (size.amount - 1) * (size.head == "ceildiv"), size.amount)

    def extents(self, type_: TensorType) -> tuple[Expr, ...]:
        """The shape of a type."""
        return tuple(self.extent(d) for d in type_.shape)

    # -- placing --------------------------------------------------------------------------------

    def allocate(self, name: str, type_: TensorType) -> Any:
        """A buffer inside the kernel."""
        return named(name, T.alloc_buffer(self.extents(type_) or (1,), DTYPES[type_.dtype]))

    def view(self, type_: TensorType, buffer: Any) -> Tensor:
        """The tensor that a buffer holds."""
        return Tensor(type_, lambda *index: load(buffer, index, type_.dtype))

    def place(self, name: str, recipe: Recipe, buffer: Any = None) -> Tensor:
        """Compute a recipe's elements into `buffer` (or into a new one)."""
        buffer = self.allocate(name, recipe.type) if buffer is None else buffer
        if isinstance(recipe, Fill):
            recipe.emit(buffer)
        elif isinstance(recipe, Reduction):
            self._reduce(name, recipe, buffer)
        else:
            self.write(name, buffer, recipe)
        return self.view(recipe.type, buffer)

    def write(self, name: str, buffer: Any, tensor: Tensor, axis: int = 0,
              offset: Expr = 0) -> None:
        """Write a tensor's elements into a buffer, from `offset` on along `axis`."""
        with self.block(name, self.extents(tensor.type)) as index:
            value = tensor.read(*index)
            at = [i + offset if a == axis else i for a, i in enumerate(index)]
            store(buffer, value, tuple(at), tensor.type.dtype)

    # -- loops ----------------------------------------------------------------------------------

    @contextmanager
    def loops(self, extents: Sequence[Expr], work: float) -> Iterator[list[Expr]]:
        """A loop for each extent, 0 where it is 1.

        `work` is the number of operations of an innermost step; 0 means that the loops reduce, so
        that none of them may be parallel.
        """
        heavy = work * _steps(extents)
        index: list[Expr] = []
        with ExitStack() as stack:
            kind = T.parallel if heavy >= PARALLEL_WORK else T.serial
            for extent in extents:
                if isinstance(extent, int) and extent == 1:
                    index.append(T.int32(0))
                else:
                    index.append(stack.enter_context(kind(extent)))
                    kind = T.serial
            yield index

    @contextmanager
    def block(self, name: str, extents: Sequence[Expr],
              work: float = 1) -> Iterator[tuple[Expr, ...]]:
        """A block with one spatial axis for each extent, the last one as vectors where it fits."""
        lanes = vector(extents[-1]) if extents else 1
        outer = [*extents[:-1], extents[-1] // lanes] if lanes > 1 else extents
        with ExitStack() as stack:
            index = stack.enter_context(self.loops(outer, work * lanes))
            if lanes > 1:
                index[-1] = index[-1] * lanes + stack.enter_context(vectors(lanes))
            stack.enter_context(T.sblock(name))
            yield tuple(T.axis.spatial(e, i) for e, i in zip(extents, index, strict=True))

    def _reduce(self, name: str, r: Reduction, buffer: Any) -> None:
        """A start, an update and a write block; `total` has one place for each lane.

        Lanes are consecutive k whose totals are joined at the end, or consecutive results.
        """
        extents = self.extents(r.type)
        inner: tuple[Expr, ...] = _runs(r.extent) if r.rows else (r.extent,)
        across = not r.rows and bool(extents) and vector(extents[-1]) > 1
        lanes = LANES if across or len(inner) > 1 else 1
        if across:
            extents = (*extents[:-1], extents[-1] // lanes)

        def result(at: Sequence[Expr], lane: Expr) -> tuple[Expr, ...]:
            axes = tuple(T.axis.spatial(e, i) for e, i in zip(extents, at, strict=True))
            return (*axes[:-1], axes[-1] * lanes + lane) if across else axes

        with self.loops(extents, lanes * _steps(inner)) as at:
            total = named("total", T.alloc_buffer((lanes,), DTYPES[r.type.dtype]))
            with vectors(lanes) as i, T.sblock(f"{name}_start"):
                T.buffer_store(total, _start(r), [_lane(lanes, i)])
            with self.loops(inner, 0) as steps, vectors(lanes) as i, T.sblock(name):
                lane = _lane(lanes, i)
                index = result(at, lane)
                k: Expr = 0
                for extent, step in zip(inner, steps, strict=True):
                    k = k * extent + T.axis.reduce(extent, step)
                k = k if across or lanes == 1 else k * lanes + lane
                T.buffer_store(total, _join(r, total[lane], r.term(index, k)), [lane])
            kept = lanes if across else 1
            with vectors(kept) as i, T.sblock(f"{name}_write"):
                lane = _lane(kept, i)
                value = total[lane] if across else _tree(r, [total[j] for j in range(lanes)])
                store(buffer, r.finish(value), result(at, lane), r.type.dtype)


@contextmanager
def vectors(lanes: int) -> Iterator[Expr]:
    """The loop over the lanes of a vector."""
    if lanes == 1:
        yield T.int32(0)
        return
    with T.vectorized(lanes) as lane:
        yield lane


def _lane(lanes: int, loop: Expr) -> Expr:
    """The block's axis over its lanes."""
    return T.axis.spatial(lanes, loop) if lanes > 1 else T.int32(0)


def _steps(extents: Sequence[Expr]) -> int:
    """Steps of a nest of loops, about."""
    return math.prod(e if isinstance(e, int) else ASSUMED for e in extents)


def vector(extent: Expr) -> int:
    """Lanes of the vectors that a loop of `extent` steps is cut into; 1 where it is not."""
    return LANES if isinstance(extent, int) and extent and extent % LANES == 0 else 1


def _runs(extent: Expr) -> tuple[Expr, ...]:
    """The loops of a reduction over consecutive elements, without its lanes."""
    if vector(extent) == 1:
        return (extent,)
    run = next((n for n in RUNS if extent % n == 0), LANES)
    return extent // run, run // LANES


def _start(r: Reduction) -> Expr:
    dtype = r.type.dtype
    if r.join == "sum":
        return const(0, dtype)
    return const(-math.inf, dtype) if dtype == "f32" else const(-(2**31), dtype)


def _join(r: Reduction, a: Expr, b: Expr) -> Expr:
    return a + b if r.join == "sum" else T.max(a, b)


def _tree(r: Reduction, values: list[Expr]) -> Expr:
    half = len(values) // 2
    return values[0] if not half else _join(r, _tree(r, values[:half]), _tree(r, values[half:]))
