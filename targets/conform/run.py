"""Level run: every kernel is called with hostile data and held against the numpy reference.

Kernels run in a process of their own: one that crashes, or never ends, is reported, and the others
still run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path

import numpy as np

from firstlight.codegen.apart import Died
from firstlight.codegen.kernel import Kernel
from firstlight.codegen.target import Executor, Target
from firstlight.ir.interpreter import run
from firstlight.ir.types import StateType, Type, row_codec
from firstlight.runtime.errors import FirstlightError
from firstlight.targets import tools_of
from firstlight.targets.conform.cases import CONTEXT, LONG, SLOTS
from firstlight.targets.conform.data import Operand
from firstlight.targets.conform.execute import Run
from firstlight.targets.conform.measure import Errors
from firstlight.targets.conform.report import Check
from firstlight.targets.conform.units import Unit
from firstlight.targets.conform.watch import LIMIT, Doing, Give, Watched, checks_apart

RELATIVE = 4e-6
"""Most that a result may differ, relative to its largest value: sums of some hundred float32
products in another order, beside an outlier of 1e4."""
ULP, SHARE, MOST = 2.0**-23, 2, 1e-5
"""Where a result is further off, the reference is asked how much it moves itself when each float32
input moves by an ulp: sums of sums, cut where they cancel (an outlier before a clamp), amplify
rounding. `SHARE` times that is allowed on top, `MOST` in all."""
STEPS = {"f32": 0.0, "bf16": 2.0**-8, "e4m3": 2.0**-3, "e2m1": 2.0**-1}
FLIPPED = 1e-3
"""A row of a state that differs in its last bits may be rounded to the next code: by so much of its
largest value, and so rarely."""
TOKENS = {"prefill": (1, 2, 7, 19), "decode": (1,)}
"""Tokens of a call; 19 are more than the rings hold, and no multiple of any vector."""

REFUSED = ("F408", "F411", "F412", "F471", "F472", "F474", "F475", "F476", "F513", "F517")
"""What an executor says whose code is not taken by a tool that is here: no skip, but a failure."""


def check_run(target: Target, units: Mapping[str, Sequence[Unit]], scratch: Path,
              limit: float = LIMIT) -> Iterator[Check]:
    """A check per op, in order. A call may take `limit` seconds."""
    left = [op for op, some in units.items() if any(u.kernels for u in some)]
    for op in units:
        if op not in left:
            yield Check(op, "run", missing=target.lacking.get(op, ""))
    if target.emulate is None:
        yield from (Check(op, "run", skips=["not here: the target has no way to run kernels here"])
                    for op in left)
        return
    while left:
        found = _apart(target, {op: units[op] for op in left}, scratch, limit)
        yield from found
        left = left[len(found):]       # one that ends after its last op gives a check too many


def _apart(target: Target, units: Mapping[str, Sequence[Unit]], scratch: Path,
           limit: float) -> list[Check]:
    """Checks of the first ops, up to one whose kernel ends the process; at least one."""
    done, error = checks_apart(
        lambda doing, give, folder: _run_all(target, units, doing, give, folder), scratch, limit)
    if isinstance(error, FirstlightError) and not done:     # the executor itself
        text = " ".join(line.strip() for line in str(error).splitlines()[:3:2])
        if error.code in REFUSED:
            return [Check(op, "run", problems=[text]) for op in units]
        return [Check(op, "run", skips=[f"not here: {text}"]) for op in units]
    if error is not None:
        why = (f"the process died: {error}" if isinstance(error, Died)
               else f"{type(error).__name__}: {error}")
        done.append(Check(list(units)[min(len(done), len(units) - 1)], "run", 0, [why]))
    return done


def _run_all(target: Target, units: Mapping[str, Sequence[Unit]], doing: Doing, give: Give,
             folder: Path) -> None:
    """In the child: give a check for each op that is done."""
    executor = executor_of(target, {k.name: k for some in units.values() for u in some
                                    for k in u.kernels}, folder)
    for op, some in units.items():
        give(_check(target, Watched(executor, doing), op, some))


def executor_of(target: Target, kernels: Mapping[str, Kernel], folder: Path) -> Executor:
    """What runs `kernels` here; F442, or what the target raises, if nothing does."""
    work = folder / "emulate"
    work.mkdir()
    executor = target.emulate(kernels, work) if target.emulate else None
    if executor is None:
        raise _nothing_runs(target)
    return executor


def _nothing_runs(target: Target) -> FirstlightError:
    lacking = [tool for tool in tools_of(target) if tool.found is None]
    return FirstlightError(
        "F442", "nothing on this machine runs the kernels", where=f"target {target.name}",
        why="; ".join(f"{t.name} is missing (to get it: {t.get})" for t in lacking) or "it says so",
        try_="firstlight targets    shows the tool chains",
    )


def _check(target: Target, executor: Watched, op: str, units: Sequence[Unit]) -> Check:
    check = Check(op, "run", missing=target.lacking.get(op, ""),
                  note=getattr(executor, "note", ""))
    errors: dict[str, Errors] = {}
    for unit in units:
        if not unit.kernels:
            continue
        errors.setdefault(unit.how, Errors())
        longer = (LONG,) if unit.case.long and unit.shape == "prefill" else ()
        for tokens in (*TOKENS[unit.shape], *longer):
            try:
                check.problems += _measure(target, executor, unit, tokens, errors[unit.how])
            except Exception as error:  # whatever a port raises is a finding about the port
                check.problems.append(f"{unit.name} S={tokens}: {type(error).__name__}: {error}")
    check.count = sum(e.calls for e in errors.values())
    check.numbers = {how: asdict(e) for how, e in errors.items()}
    return check


def _measure(target: Target, executor: Watched, unit: Unit, tokens: int,
             total: Errors) -> Iterator[str]:
    """Run a unit on all its data; what is wrong."""
    case = unit.case
    sizes = {"B": 1, "S": tokens, "C": CONTEXT}
    random = np.random.default_rng(tokens)
    # one kernel: of several, a later one may read what the first writes over
    once = len(unit.kernels) == 1 and unit.kernels[0].in_place is not None
    places = (False, True) if once else (False,)
    for pos, change, over in itertools.product(case.positions, case.changes, places):
        if case.states and pos + tokens > CONTEXT:
            continue
        where = f"{unit.name} S={tokens} pos={pos} {change.__name__}{' in place' * over}"
        operands = list(case.operands(random, sizes, pos, change))
        want = run(unit.meaning, "main", [o.value for o in operands], sizes)
        executor.where = where
        done = Run(executor, target.packer, unit, operands, sizes, over)
        total.calls += 1
        yield from (f"{where}: {text}" for text in done.problems)
        shaken = cache(partial(_shaken, unit, operands, sizes))
        for number, (result, got, true) in enumerate(zip(unit.meaning["main"].results,
                                                         done.results, want, strict=True)):
            yield from _judge(f"{where} result {number}", got, true, result.type, total,
                              lambda shaken=shaken, number=number: shaken()[number])


def _shaken(unit: Unit, operands: Sequence[Operand], sizes: Mapping[str, int]) -> list[np.ndarray]:
    """The reference's results where plain float32 operands are an ulp up or down."""
    random = np.random.default_rng(0)
    values = [o.value if o.codes is not None or o.value.dtype != np.float32 else
              (o.value * (1 + ULP * random.choice((-1, 1), o.value.shape))).astype(np.float32)
              for o in operands]
    return run(unit.meaning, "main", values, sizes)


def _judge(where: str, got: np.ndarray, want: np.ndarray, type_: Type, total: Errors,
           shaken: Callable[[], np.ndarray]) -> Iterator[str]:
    one, moved = Errors(), Errors()
    state = isinstance(type_, StateType)
    if isinstance(type_, StateType) and got.shape == want.shape:
        got = _without_flips(got, want, row_codec(type_.codec).codes)
    wrong = one.compare(got, want, where)
    if not wrong and one.max_rel > RELATIVE:
        moved.compare(shaken(), want, where)
    if wrong:
        yield wrong
    elif one.max_rel > min(RELATIVE + SHARE * moved.max_rel, MOST):
        yield f"off by {one.max_rel:.2g} of the largest value: {one.worst}"
    if state and got.shape == want.shape and not np.array_equal(got[: SLOTS - 1],
                                                                want[: SLOTS - 1]):
        yield f"{where}: the state of another sequence was overwritten"
    total.compare(got, want, where)


def _without_flips(got: np.ndarray, want: np.ndarray, codes: str) -> np.ndarray:
    """`got` with the values of `want` where a rounding may have fallen on the other side."""
    step = STEPS[codes] * np.abs(want).max(-1, keepdims=True, initial=0)
    flipped = (got != want) & (np.abs(got - want) <= step)
    return np.where(flipped, want, got) if flipped.mean() <= FLIPPED else got
