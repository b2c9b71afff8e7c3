"""Cases on a target: which kernels they need, each made twice."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.select import make_generic
from firstlight.codegen.target import Override, Target
from firstlight.ir.core import Function, Module, Op
from firstlight.ir.decompose import decompose
from firstlight.ir.printer import print_function, print_op
from firstlight.ir.registry import TABLE
from firstlight.ir.types import StateType, row_codec
from firstlight.targets.conform.cases import CONTEXT, LONG, Case

FIXED = {"B": 1, "C": CONTEXT}
SHAPES = {"prefill": FIXED, "decode": FIXED | {"S": 1}}
MOST_TOKENS = LONG
"""Of a prefill call, as overrides are told."""


@dataclass(frozen=True)
class Unit:
    """A case as kernels of one target.

    Attributes:
        shape: "prefill" (S is a symbol) or "decode" (S = 1).
        how: "native", "generic", or "decomposed" where the target misses the composite.
        module: the case, with the ops that `kernels` stand for in its function `main`.
        kernels: one for each op of `main`.
        meaning: the case as one op, which is what the results are held against.
        problem: why there are no kernels.
    """

    op: str
    case: Case
    shape: str
    how: str
    module: Module
    kernels: tuple[Kernel, ...]
    meaning: Module
    problem: str = ""

    @property
    def main(self) -> Function:
        """The ops."""
        return self.module["main"]

    @property
    def name(self) -> str:
        """What reports call it."""
        return f"{self.how} {self.shape}: {self.case}"


def units(target: Target, cases: Mapping[str, Sequence[Case]]) -> Iterator[Unit]:
    """The units of all cases; a composite has native and generic ones.

    An op that the target misses has decomposed ones, a missing primitive none.
    """
    overrides = target.overrides()
    for name, some in cases.items():
        kept = [case for case in some if _kept(case, target)]
        for case, (shape, sizes) in itertools.product(kept, SHAPES.items()):
            module = case.module(sizes)
            if name in target.lacking:
                parts = _parts(target, module)
                if parts is not None:
                    yield _unit(case, shape, "decomposed", parts, module,
                                partial(_generics, target, parts))
                continue
            if name in overrides:
                unit = _unit(case, shape, "native", module, module,
                             partial(_native, overrides[name], shape, module))
                if unit.kernels or unit.problem:
                    yield unit
            yield _unit(case, shape, "generic", module, module,
                        partial(_generics, target, module, 1))


def _kept(case: Case, target: Target) -> bool:
    """Whether the target keeps states as the case does."""
    return all(row_codec(t.codec).codes in target.capabilities.states
               for t in case.types if isinstance(t, StateType))


def _unit(case: Case, shape: str, how: str, module: Module, meaning: Module,
          make: Callable[[], tuple[Kernel, ...]]) -> Unit:
    try:
        kernels, problem = make(), ""
    except Exception as error:          # whatever a port raises is a finding about the port
        kernels, problem = (), f"{type(error).__name__}: {error}"
    return Unit(case.op, case, shape, how, module, kernels, meaning, problem)


def again(target: Target, unit: Unit) -> tuple[Kernel, ...]:
    """The kernels of a unit, made anew from the op."""
    if unit.how == "native":
        return _native(target.overrides()[unit.op], unit.shape, unit.module)
    return _generics(target, unit.module, len(unit.kernels))


def _parts(target: Target, module: Module) -> Module | None:
    """`module` without the composites that the target misses; None if it misses a primitive."""
    kept = frozenset(name for name, info in TABLE.items()
                     if info.composite and name not in target.lacking)
    parts = decompose(module, kept)
    return None if any(op.name in target.lacking for op in parts["main"].ops) else parts


def _native(override: Override, shape: str, module: Module) -> tuple[Kernel, ...]:
    op = module["main"].ops[-1]
    kernel = override(_symbol(op, module, "native"), op, 1 if shape == "decode" else MOST_TOKENS)
    if kernel is not None and not isinstance(kernel, Kernel):
        raise TypeError(f"an override gives a Kernel or None, not {kernel!r:.60}")
    return () if kernel is None else (kernel,)


def _generics(target: Target, module: Module, last: int = 0) -> tuple[Kernel, ...]:
    """A kernel for each op of `main`, or of the `last` of them."""
    return tuple(make_generic(target, _symbol(op, module, "generic"), op, module)
                 for op in module["main"].ops[-last:])


def _symbol(op: Op, module: Module, how: str) -> str:
    """Equal ops share a kernel, as in an artifact."""
    text = how + print_op(op, locs=False)
    if "callee" in op.attrs:
        text += print_function(module[str(op.attrs["callee"])], locs=False)
    return f"{op.name}_{how}_{hashlib.sha256(text.encode()).hexdigest()[:10]}"
