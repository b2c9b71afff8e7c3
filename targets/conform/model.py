"""Level model: whole models, compiled and run as a user would, against the interpreter."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.codegen.compile import Job, job_kernels
from firstlight.codegen.target import Target
from firstlight.runtime import load
from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.manifest import read_manifest
from firstlight.runtime.model import Model
from firstlight.runtime.session import Session
from firstlight.targets.conform.checkpoints import PATTERNS, write_checkpoint
from firstlight.targets.conform.data import Array
from firstlight.targets.conform.engine import emulated_model
from firstlight.targets.conform.measure import Errors
from firstlight.targets.conform.report import Check
from firstlight.targets.conform.run import executor_of
from firstlight.targets.conform.watch import LIMIT, Doing, Give, Watched, checks_apart

TOLERANCE = 5e-5
"""Most that a logit may differ from the interpreter's."""
TOKENS, CONTEXT, CHUNK = 41, 64, 16
CUTS = ((TOKENS,), (7,) * 5 + (6,), (1, 16, 3, 8, 13), (1,) * TOKENS)
"""Whole; in chunks around windows and blocks; in odd ones; token by token."""
NOT_HERE = ("F442", "F510", "F511", "F515", "F516", "F518")
"""What is said of a machine that lacks the launcher, the CPU or the device, and the emulator."""


def check_model(target: Target, scratch: Path, limit: float = LIMIT) -> Iterator[Check]:
    """A check per model: each layer pattern, then the trained example.

    Artifacts run through the target's launcher; where that is not here, through its emulator, call
    by call. A call may take `limit` seconds.
    Where this machine cannot run the first, it cannot run the others.
    """
    skips: list[str] = []
    for name, layers in PATTERNS.items():
        if skips:
            yield Check(name, "model", skips=skips)
            continue
        folder = scratch / name
        write_checkpoint(folder, layers)
        ids = np.random.default_rng(len(layers)).integers(0, 101, TOKENS).tolist()
        check = _guarded(name, target, folder, scratch, ids, {}, limit)
        skips = check.skips
        yield check
    if skips:
        yield Check("tiny-v4", "model", skips=skips)
        return
    from firstlight.examples import TINY_V4

    expected = json.loads((TINY_V4 / "expected.json").read_text())
    first = expected["prompts"][0]
    ids = (first["prompt_ids"] + first["greedy_ids"])[:TOKENS]
    yield _guarded("tiny-v4", target, TINY_V4 / "checkpoint", scratch, ids, expected, limit)


def _guarded(name: str, target: Target, folder: Path, scratch: Path, ids: Sequence[int],
             expected: Mapping[str, Any], limit: float) -> Check:
    """Compile here, run in a process of its own."""
    from firstlight.compiler import CompileOptions, prepare_checkpoint

    artifact, context = scratch / f"{name}.artifact", 512 if expected else CONTEXT
    try:
        prepared = prepare_checkpoint(folder, target, CompileOptions(context=context, chunk=CHUNK))
        prepared.write(artifact)
    except Exception as error:          # whatever a port raises is a finding about the port
        return _found(Check(name, "model"), error)

    def work(doing: Doing, give: Give, temporary: Path) -> None:
        check = Check(name, "model")
        try:
            with _opened(check, target, prepared.job, artifact, temporary, doing) as model:
                _compare(check, model, folder, context, ids, expected, doing)
        except Exception as error:      # the same
            _found(check, error)
        give(check)

    checks, error = checks_apart(work, scratch, limit)
    if error is not None:
        return Check(name, "model", problems=[f"the process died: {error}"])
    return checks[0]


def _found(check: Check, error: Exception) -> Check:
    if isinstance(error, FirstlightError):
        text = " ".join(line.strip() for line in str(error).splitlines()[:3])
        skip = error.code in NOT_HERE
        (check.skips if skip else check.problems).append(f"not here: {text}" if skip else text)
    else:
        check.problems.append(f"{type(error).__name__}: {error}")
    return check


def _opened(check: Check, target: Target, job: Job, artifact: Path, folder: Path,
            doing: Doing) -> Model:
    """The artifact, ready to run; `check` is told by what."""
    try:
        check.through = "launcher"
        return load(artifact, threads=2)
    except FirstlightError as error:
        if error.code not in NOT_HERE or target.emulate is None or job.target.assemble:
            raise
    check.through = "emulator"
    executor = executor_of(target, job_kernels(job), folder)
    check.note = getattr(executor, "note", "")
    return emulated_model(read_manifest(artifact), Watched(executor, doing))


def _compare(check: Check, model: Model, folder: Path, context: int, ids: Sequence[int],
             expected: Mapping[str, Any], doing: Doing) -> None:
    from firstlight.frontend.interpret import InterpreterModel

    want = InterpreterModel(folder, context).session().prefill(ids, all_logits=True)
    for cuts in CUTS:
        errors = Errors()
        route = _route(cuts)
        got = _logits(model.session(), ids, cuts, doing, route)
        wrong = errors.compare(got, want, route)
        if wrong or errors.max_abs > TOLERANCE:
            check.problems.append(wrong or f"off by {errors.max_abs:.2g}: {errors.worst}")
        errors.calls = len(cuts)
        check.numbers[route] = asdict(errors)
        check.count += len(got)
    for prompt in expected.get("prompts", ()):
        greedy, steps = prompt["greedy_ids"], len(prompt["greedy_ids"])
        ids = _greedy(model.session(), prompt["prompt_ids"], steps, doing)
        check.count += steps
        if ids != greedy:
            at = next(i for i in range(steps) if i >= len(ids) or ids[i] != greedy[i])
            check.problems.append(f"greedy token {at} after {prompt['prompt_ids'][:4]}... is "
                                  f"{ids[at:at + 1]}, not {greedy[at]}")


def _greedy(session: Session, prompt: Sequence[int], steps: int, doing: Doing) -> list[int]:
    stream = session.generate(prompt, max_new_tokens=steps, ignore_eos=True)
    ids: list[int] = []
    while len(ids) < steps:
        with doing.call(f"greedy token {len(ids)}"):
            ids.append(next(stream))
    return ids


def _route(cuts: Sequence[int]) -> str:
    if len(cuts) == 1:
        return "prefill"
    return "decode" if set(cuts) == {1} else f"chunks of {', '.join(map(str, cuts[:3]))}"


def _logits(session: Session, ids: Sequence[int], cuts: Sequence[int], doing: Doing,
            route: str) -> Array:
    """Logits [tokens, vocabulary] of `ids` read in pieces; pieces of one token by decode."""
    rows, at = [], 0
    for size in cuts:
        piece = ids[at : at + size]
        one = size == 1 and at > 0
        with doing.call(f"{route}, {size} tokens at {at}"):
            rows.append(session.decode(piece[0])[None] if one
                        else session.prefill(piece, all_logits=True))
        at += size
    return np.concatenate(rows)
