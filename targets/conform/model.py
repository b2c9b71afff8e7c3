"""Level model: whole models, compiled and run as a user would, against the interpreter."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.codegen.target import Target
from firstlight.runtime.errors import FirstlightError
from firstlight.targets.conform.checkpoints import PATTERNS, write_checkpoint
from firstlight.targets.conform.data import Array
from firstlight.targets.conform.measure import Errors
from firstlight.targets.conform.report import Check

TOLERANCE = 5e-5
"""Most that a logit may differ from the interpreter's."""
TOKENS, CONTEXT, CHUNK = 41, 64, 16
CUTS = ((TOKENS,), (7,) * 5 + (6,), (1, 16, 3, 8, 13), (1,) * TOKENS)
"""Whole; in chunks around windows and blocks; in odd ones; token by token."""
NOT_HERE = ("F510", "F511", "F515", "F516")
"""What `load` says of a machine that lacks the launcher, the CPU or the device."""


def check_model(target: Target, scratch: Path) -> Iterator[Check]:
    """A check per model: each layer pattern, then the trained example.

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
        check = _guarded(name, target, folder, scratch, ids, {})
        skips = check.skips
        yield check
    if skips:
        yield Check("tiny-v4", "model", skips=skips)
        return
    from firstlight.examples import TINY_V4

    expected = json.loads((TINY_V4 / "expected.json").read_text())
    first = expected["prompts"][0]
    ids = (first["prompt_ids"] + first["greedy_ids"])[:TOKENS]
    yield _guarded("tiny-v4", target, TINY_V4 / "checkpoint", scratch, ids, expected)


def _guarded(name: str, target: Target, folder: Path, scratch: Path, ids: Sequence[int],
             expected: Mapping[str, Any]) -> Check:
    check = Check(name, "model")
    try:
        _compare(check, target, folder, scratch / f"{name}.artifact", ids, expected)
    except FirstlightError as error:
        text = " ".join(line.strip() for line in str(error).splitlines()[:3])
        skip = error.code in NOT_HERE
        (check.skips if skip else check.problems).append(f"not here: {text}" if skip else text)
    except Exception as error:          # whatever a port raises is a finding about the port
        check.problems.append(f"{type(error).__name__}: {error}")
    return check


def _compare(check: Check, target: Target, folder: Path, out: Path, ids: Sequence[int],
             expected: Mapping[str, Any]) -> None:
    from firstlight.compiler import CompileOptions, compile_checkpoint
    from firstlight.frontend.interpret import InterpreterModel
    from firstlight.runtime import load

    context = 512 if expected else CONTEXT
    compile_checkpoint(folder, out, CompileOptions(target=target.name, context=context,
                                                   chunk=CHUNK))
    with load(out, threads=2) as model:
        want = InterpreterModel(folder, context).session().prefill(ids, all_logits=True)
        for cuts in CUTS:
            errors = Errors()
            route = _route(cuts)
            got = _logits(model.session(), ids, cuts)
            wrong = errors.compare(got, want, route)
            if wrong or errors.max_abs > TOLERANCE:
                check.problems.append(wrong or f"off by {errors.max_abs:.2g}: {errors.worst}")
            errors.calls = len(cuts)
            check.numbers[route] = asdict(errors)
            check.count += len(got)
        for prompt in expected.get("prompts", ()):
            greedy, steps = prompt["greedy_ids"], len(prompt["greedy_ids"])
            ids = list(model.session().generate(prompt["prompt_ids"], max_new_tokens=steps,
                                                ignore_eos=True))
            check.count += steps
            if ids != greedy:
                at = next(i for i in range(steps) if i >= len(ids) or ids[i] != greedy[i])
                check.problems.append(f"greedy token {at} after {prompt['prompt_ids'][:4]}... is "
                                      f"{ids[at:at + 1]}, not {greedy[at]}")


def _route(cuts: Sequence[int]) -> str:
    if len(cuts) == 1:
        return "prefill"
    return "decode" if set(cuts) == {1} else f"chunks of {', '.join(map(str, cuts[:3]))}"


def _logits(session: Any, ids: Sequence[int], cuts: Sequence[int]) -> Array:
    """Logits [tokens, vocabulary] of `ids` read in pieces; pieces of one token by decode."""
    rows, at = [], 0
    for size in cuts:
        piece = ids[at : at + size]
        one = size == 1 and at > 0
        rows.append(session.decode(piece[0])[None] if one
                    else session.prefill(piece, all_logits=True))
        at += size
    return np.concatenate(rows)
