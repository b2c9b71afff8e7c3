"""Kernels held against the references, on the cases of the conformance kit."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.codegen.generic import generic_kernel
from firstlight.codegen.kernel import Kernel
from firstlight.ir.core import Module
from firstlight.ir.decompose import decompose
from firstlight.ir.interpreter import run
from firstlight.ir.rows import decode
from firstlight.ir.types import StateType
from firstlight.targets.conform import composites, primitives
from firstlight.targets.conform.cases import CONTEXT, Case
from firstlight.targets.conform.data import Operand
from firstlight.targets.conform.run import RELATIVE
from support.errors import error
from support.linked import Linked, aligned

FIXED = {"B": 1, "C": CONTEXT}
KINDS = {"prefill": FIXED, "decode": FIXED | {"S": 1}}
FAMILIES = primitives.FAMILIES | composites.FAMILIES


def judge_family(family: str, folder: Path,
                 link: Callable[[Iterable[Kernel], Path], Any] = Linked,
                 coded: bool = True) -> None:
    """Generic kernels of a family, on its data, against references and decompositions.

    `link` makes them callable: link(kernels, folder)(name, buffers, tokens). Without `coded` states
    are float32 only.
    """
    cases = [case for case in FAMILIES[family]() if coded or not case.coded]
    kernels = {}
    for (i, case), (kind, fixed) in itertools.product(enumerate(cases), KINDS.items()):
        if kind == "decode" and family == "examples":
            continue  # compiling takes long; the wide composites have both kinds
        module = case.module(fixed)
        name = f"{case.op}_{i}_{kind}"
        kernels[name] = generic_kernel(name, module["main"].ops[-1], module)
    linked = link(kernels.values(), folder)
    for i, case in enumerate(cases):
        module = case.module(FIXED)
        decomposed = decompose(module)
        for tokens in (1, 2, 7):
            _check(linked, f"{case.op}_{i}", case, module, decomposed, tokens)
    linked.close()


def _check(linked: Any, name: str, case: Case, module: Module, decomposed: Module,
           tokens: int) -> None:
    sizes = {"B": 1, "S": tokens, "C": CONTEXT}
    random = np.random.default_rng(tokens)
    for pos, change in itertools.product(case.positions, case.changes):
        operands = list(case.operands(random, sizes, pos, change))
        values = [o.value for o in operands]
        want = run(module, "main", values, sizes)
        meant = run(decomposed, "main", values, sizes)
        for kind in KINDS if tokens == 1 else ("prefill",):
            if f"{name}_{kind}" not in linked.names:
                continue
            got = call(linked, f"{name}_{kind}", case, operands, module, want, tokens)
            where = f"{name}_{kind} S={tokens} pos={pos} {change.__name__}"
            assert error(got, want) <= RELATIVE, where
            assert error(got, meant) <= RELATIVE, where


def call(linked: Any, name: str, case: Case, operands: Sequence[Operand], module: Module,
         want: Sequence[np.ndarray], tokens: int) -> list[np.ndarray]:
    """Results of a kernel; state results are what the operands' arrays hold then."""
    memory = [[aligned(a) for a in o.stored] for o in operands]
    states = [m[0] for m, t in zip(memory, case.types, strict=True) if isinstance(t, StateType)]
    results = module["main"].ops[-1].results
    outs = [states.pop(0) if isinstance(r.type, StateType) else aligned(np.full_like(w, 77))
            for r, w in zip(results, want, strict=True)]
    new = [o for r, o in zip(results, outs, strict=True) if not isinstance(r.type, StateType)]
    linked(name, [*(a for m in memory for a in m), *new], tokens)
    return [decode(out, r.type.width, r.type.codec)
            if isinstance(r.type, StateType) and r.type.codec != "f32" else out
            for r, out in zip(results, outs, strict=True)]
