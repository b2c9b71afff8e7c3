"""A second opinion: the numpy reference of every op against onnxruntime, by decomposition.

No kernel of any target is involved: what is held against each other is what our ops mean and what
an engine that we did not write makes of their decompositions, on the data of the kit.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

import numpy as np

from firstlight.codegen.onnx.kernel import OnnxKernel, op_kernel
from firstlight.codegen.onnx.packages import need
from firstlight.codegen.onnx.running import open_session, run
from firstlight.ir import interpreter
from firstlight.targets.conform.cases import CONTEXT, Case
from firstlight.targets.conform.data import Array, Operand
from firstlight.targets.conform.measure import Errors
from firstlight.targets.conform.report import ORACLE, Check
from firstlight.targets.conform.run import RELATIVE, TOKENS
from firstlight.targets.conform.units import SHAPES

ORACLES = ("onnxruntime",)


def check_oracle(cases: Mapping[str, Sequence[Case]]) -> Iterator[Check]:
    """A check per op: calls compared, and every disagreement with both values. Raises F460."""
    for package in ("onnx", *ORACLES):
        need(package)
    for op, some in cases.items():
        check, errors = Check(op, ORACLE), Errors()
        plain = [case for case in some if not case.coded]     # its states are float32
        for case, (shape, sizes) in itertools.product(plain, SHAPES.items()):
            try:
                check.problems += _disagreements(case, shape, sizes, errors)
            except Exception as error:      # whatever the other engine raises is an answer, too
                check.problems.append(f"{shape}: {case}: {type(error).__name__}: {error}")
        check.count, check.numbers = errors.calls, {ORACLES[0]: asdict(errors)}
        yield check


def _disagreements(case: Case, shape: str, sizes: Mapping[str, int], total: Errors
                   ) -> Iterator[str]:
    module = case.module(sizes)
    op = module["main"].ops[-1]
    kernel = op_kernel(op.name, op, module)
    session = open_session(kernel.model)
    for tokens in TOKENS[shape]:
        random, full = np.random.default_rng(tokens), {**sizes, "S": tokens}
        for pos, change in itertools.product(case.positions, case.changes):
            if case.states and pos + tokens > CONTEXT:
                continue
            where = f"{shape}: {case} S={tokens} pos={pos} {change.__name__}"
            operands = list(case.operands(random, full, pos, change))
            ours = interpreter.run(module, "main", [o.value for o in operands], full)
            theirs = run(session, kernel, _stored(kernel, operands), tokens)
            total.calls += 1
            for number, (got, want) in enumerate(zip(theirs, ours, strict=True)):
                yield from _compare(f"{where} result {number}", got, np.asarray(want), total)


def _stored(kernel: OnnxKernel, operands: Sequence[Operand]) -> dict[str, Array]:
    """Arrays by input name, weights as they are stored: decoding is part of the question."""
    arrays = [array for operand in operands for array in operand.stored]
    return {port.name: array for port, array in zip(kernel.inputs, arrays, strict=False)}


def _compare(where: str, theirs: Array, ours: Array, total: Errors) -> Iterator[str]:
    one = Errors()
    wrong = one.compare(theirs, ours, where)
    if wrong:
        yield wrong
    elif one.max_rel > RELATIVE:
        yield f"off by {one.max_rel:.2g} of the largest value: {one.worst}"
    total.compare(theirs, ours, where)
