"""Whole models, every kernel executed from its lowered form, against the interpreter.

What the chip's compiler lowered is kept in the user's cache: the first run takes minutes, any other
seconds.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from firstlight import targets
from firstlight.codegen.compile import job_kernels
from firstlight.compiler import CompileOptions, prepare_checkpoint
from firstlight.examples import TINY_V4
from firstlight.frontend.interpret import InterpreterModel
from firstlight.runtime.manifest import read_manifest
from firstlight.targets.ascend.emulator_build import lacking
from firstlight.targets.conform.checkpoints import write_checkpoint
from firstlight.targets.conform.engine import emulated_model

pytestmark = [pytest.mark.chip, pytest.mark.skipif(
    bool(lacking()), reason=f"not here: {', '.join(lacking())}; make ascend-tools")]
CHUNK, CONTEXT = 16, 64


def opened(checkpoint: Path, folder: Path, context: int, **values: str):
    """The model of an artifact whose kernels the emulator runs."""
    target = targets.find("ascend-950pr")
    options = CompileOptions(context=context, chunk=CHUNK, options=values)
    prepared = prepare_checkpoint(checkpoint, target, options)
    prepared.write(folder / "artifact")
    job = prepared.job
    executor = job.target.emulate(job_kernels(job), folder)
    return emulated_model(read_manifest(folder / "artifact"), executor)


def test_two_random_layers(tmp_path):
    write_checkpoint(tmp_path / "random", "ww")
    ids = np.random.default_rng(2).integers(0, 101, 23).tolist()
    session = opened(tmp_path / "random", tmp_path, CONTEXT).session()
    got = [session.prefill(ids[:20], all_logits=True)]
    got += [session.decode(token)[None] for token in ids[20:]]
    want = InterpreterModel(tmp_path / "random", CONTEXT).session().prefill(ids, all_logits=True)
    np.testing.assert_allclose(np.concatenate(got), want, atol=5e-5)


@pytest.mark.slow
def test_the_trained_example_says_what_it_says_elsewhere(tmp_path):
    expected = json.loads((TINY_V4 / "expected.json").read_text())
    model = opened(TINY_V4 / "checkpoint", tmp_path, 512)
    for prompt in expected["prompts"]:
        greedy = prompt["greedy_ids"][:32]
        assert len(greedy) == 32
        assert list(model.session().generate(prompt["prompt_ids"], max_new_tokens=32,
                                             ignore_eos=True)) == greedy


@pytest.mark.slow
def test_weights_as_mxfp8_are_the_same_weights(tmp_path):
    write_checkpoint(tmp_path / "random", "w")
    ids = np.random.default_rng(3).integers(0, 101, 9).tolist()
    model = opened(tmp_path / "random", tmp_path, CONTEXT, experts="mxfp8", fp8="mxfp8")
    want = InterpreterModel(tmp_path / "random", CONTEXT).session().prefill(ids, all_logits=True)
    np.testing.assert_allclose(model.session().prefill(ids, all_logits=True), want, atol=5e-5)
