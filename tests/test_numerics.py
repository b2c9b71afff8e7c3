"""`--numerics`: what `fast` and `released` artifacts compute, against the exact `float`."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from firstlight.codegen.select import KernelSet
from firstlight.compiler import CompileOptions, compile_checkpoint
from firstlight.frontend.interpret import InterpreterModel
from firstlight.runtime import load
from support.random_models import random_config, random_tensors, token_ids, write_checkpoint

CONTEXT = 40
CONFIG = random_config(11, layers="cwh", csa=4, hca=8, hidden_size=128, moe_intermediate_size=64,
                       num_hash_layers=1)  # fmt: skip
IDS = token_ids(CONFIG, CONTEXT, seed=3)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model in the released layout, of every layer pattern."""
    folder = tmp_path_factory.mktemp("numerics") / "checkpoint"
    return write_checkpoint(folder, CONFIG, random_tensors(CONFIG, 11))


@pytest.fixture(scope="module")
def logits(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory):
    """A function of the numerics: logits of every token, fed as one prompt and one by one."""
    @cache
    def run(numerics: str) -> tuple[np.ndarray, np.ndarray]:
        out = tmp_path_factory.mktemp(numerics) / "model"
        compile_checkpoint(checkpoint, out, CompileOptions(context=CONTEXT, numerics=numerics))
        with load(out, threads=2) as model:
            assert model.manifest.document["numerics"] == numerics
            whole = model.session().prefill(IDS, all_logits=True)
            session = model.session()
            steps = [session.prefill(IDS[:1]), *(session.decode(t) for t in IDS[1:])]
            return whole, np.stack(steps)
    return run


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Root mean square, relative to b's."""
    return float(np.sqrt(np.square(a - b).mean() / np.square(b).mean()))


def test_fast_rounds_activations_alike_alone_and_in_a_chunk(logits) -> None:
    """16 bits for each 128 values: an error of 1.6e-5 of the largest, before sums."""
    (whole, steps), (exact, _) = logits("fast"), logits("float")
    assert 1e-7 < distance(whole, exact) < 1e-4
    assert distance(whole, steps) < distance(whole, exact)


@pytest.mark.slow
def test_released_is_what_the_interpreter_computes(logits, checkpoint: Path) -> None:
    """Sums in another order flip few roundings: far nearer to the interpreter than to `float`."""
    want = InterpreterModel(checkpoint, 64, "released").session().prefill(IDS, all_logits=True)
    for got in logits("released"):
        to_float = distance(logits("float")[0], want)
        assert distance(got, want) < to_float / 3
        assert to_float > 1e-3, "the roundings can be seen"


def test_fast_has_kernels_of_its_own_for_weights_of_few_bits(checkpoint: Path) -> None:
    """Those of FP8 weights are the same ones."""
    from firstlight import targets
    from firstlight.codegen.compile import plans, prepare
    from firstlight.frontend.checkpoint import read_checkpoint
    from firstlight.frontend.model import trace_model, weight_types

    source = read_checkpoint(checkpoint)
    module = trace_model(source.config, weight_types(source))
    job = prepare(module, 4096, targets.find("cpu-x86-64-v3"), CompileOptions(context=CONTEXT))
    differ = {"decode": set(), "prefill": set()}
    for entry, specialized, plan, _, _ in plans(job, KernelSet(job.target)):
        sets = [KernelSet(job.target, numerics=n) for n in ("float", "fast")]
        for step in plan.steps if entry.name in differ else ():
            texts = [s.kernel(step.op, specialized, entry.tokens).func.script() for s in sets]
            if texts[0] != texts[1]:
                differ[entry.name].add(step.op.name)
    assert differ == {"decode": {"expert_ffn"}, "prefill": {"expert_ffn"}}
