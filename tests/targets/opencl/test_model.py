"""Whole models on the device: what they compute, and what a token costs the host."""

import json
from pathlib import Path

import numpy as np
import pytest

from firstlight.compiler import CompileOptions, compile_checkpoint
from firstlight.frontend.interpret import InterpreterModel
from firstlight.runtime import Model, load

IDS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8]


def test_every_route_gives_the_interpreters_logits(model: Model, checkpoint: Path) -> None:
    want = InterpreterModel(checkpoint, 64).session().prefill(IDS, all_logits=True)
    session = model.session()
    pieces = [session.prefill(IDS[:7], all_logits=True)]
    pieces += [session.decode(token)[None] for token in IDS[7:]]
    assert np.abs(np.concatenate(pieces) - want).max() < 5e-5
    assert np.abs(model.session().prefill(IDS) - want[-1]).max() < 5e-5


class Counted:
    """Copies and waits of the host, and buffers it makes, from now on."""

    def __init__(self, cl, monkeypatch: pytest.MonkeyPatch) -> None:
        self.up, self.down, self.waits, self.buffers = [], [], 0, 0
        copy, finish, buffer = cl.enqueue_copy, cl.CommandQueue.finish, cl.Buffer

        def copied(queue, to, source, **options):
            to_host = isinstance(to, np.ndarray)
            (self.down if to_host else self.up).append((to if to_host else source).nbytes)
            self.waits += bool(options.get("is_blocking", True))
            return copy(queue, to, source, **options)

        def finished(queue):
            self.waits += 1
            return finish(queue)

        def made(*arguments, **options):
            self.buffers += 1
            return buffer(*arguments, **options)

        monkeypatch.setattr(cl, "enqueue_copy", copied)
        monkeypatch.setattr(cl.CommandQueue, "finish", finished)
        monkeypatch.setattr(cl, "Buffer", made)


def test_a_token_is_one_wait_and_buffers_stay_on_the_device(model: Model, monkeypatch) -> None:
    session, tokens = model.session(), 6
    session.prefill(IDS[:5])
    session.decode(IDS[5])                        # binds the launches of a decoded token
    counted = Counted(pytest.importorskip("pyopencl"), monkeypatch)
    for token in IDS[6 : 6 + tokens]:
        logits = session.decode(token)
    assert counted.waits == tokens
    assert counted.down == [logits.nbytes] * tokens
    assert sum(counted.up) <= 16 * tokens, "token, position, slot, last"
    assert counted.buffers == 0
    session.prefill(IDS[:5])                      # a chunk is one wait, too
    assert counted.waits == tokens + 1


def test_weights_stay_packed_in_memory(model: Model) -> None:
    stored = sum(f.bytes for f in model.manifest.files if f.name.startswith("weights/"))
    held = sum(weight.memory.size for weight in model.engine.weights)
    assert held < 1.02 * stored + 64 * len(model.engine.weights)


def test_sessions_are_apart_and_can_be_saved(model: Model, tmp_path: Path) -> None:
    one, other = model.session(), model.session()
    one.prefill(IDS[:6])
    other.prefill(IDS[::-1])
    fork = one.fork()
    one.save(tmp_path / "session")
    want = one.decode(7)
    assert (fork.decode(7) == want).all()
    assert (model.restore(tmp_path / "session").decode(7) == want).all()


@pytest.mark.slow
def test_the_trained_example_gives_its_tokens(tiny_checkpoint: Path, tiny_folder: Path,
                                              tmp_path: Path) -> None:
    compile_checkpoint(tiny_checkpoint, tmp_path / "artifact",
                       CompileOptions(target="opencl", context=512, chunk=16))
    with load(tmp_path / "artifact") as model:
        for prompt in json.loads((tiny_folder / "expected.json").read_text())["prompts"]:
            tokens = list(model.session().generate(
                prompt["prompt_ids"], max_new_tokens=len(prompt["greedy_ids"]), ignore_eos=True))
            assert tokens == prompt["greedy_ids"]
