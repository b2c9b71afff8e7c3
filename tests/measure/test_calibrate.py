"""Calibration: which columns matter is what the text says, and better scales follow from it."""

import json
from pathlib import Path

import numpy as np
import pytest

from firstlight.cli import run_command_line
from firstlight.frontend.checkpoint import read_checkpoint
from firstlight.frontend.interpret import InterpreterModel
from firstlight.ir.codecs import decode_weight
from firstlight.ir.scales import quantize
from firstlight.measure.calibrate import importance
from support.random_models import random_config, random_tensors, token_ids, write_checkpoint

CONFIG = random_config(31, layers="ch", csa=4, hca=8, hidden_size=64, moe_intermediate_size=32,
                       num_hash_layers=1)  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrate") / "checkpoint"
    return write_checkpoint(folder, CONFIG, random_tensors(CONFIG, 31))


def test_importance_is_the_mean_square_of_what_meets_a_column(checkpoint, tmp_path) -> None:
    """Of the head, whose input can be had from the logits; every product has a row."""
    ids = token_ids(CONFIG, 20, seed=1)
    text = tmp_path / "text.json"
    text.write_text(json.dumps({"sequences": [list(map(int, ids))]}))
    found = importance(checkpoint, text, tokens=1000)
    source = read_checkpoint(checkpoint)
    products = {n for n, ref in source.tensors.items() if len(ref.shape) > 1 and any(
        part in n for part in ("wq", "wkv", "wo", "experts", "head.weight"))}
    assert products <= set(found), products - set(found)
    assert all(row.shape == (source.tensors[name].shape[-1],) for name, row in found.items())
    logits = InterpreterModel(checkpoint, 64).session().prefill(ids, all_logits=True)
    head = source.tensors["head.weight"].decode().astype(np.float64)
    x = np.linalg.lstsq(head, logits.astype(np.float64).T, rcond=None)[0].T
    np.testing.assert_allclose(found["head.weight"], np.square(x).mean(0), rtol=2e-3)


def test_what_is_fed_decides_the_scales() -> None:
    """A weight's error on activations of uneven size is smaller with their importance."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((64, 96)).astype(np.float32)
    size = np.where(rng.random(96) < 0.1, 10, 0.3).astype(np.float32)
    x = rng.standard_normal((500, 96)).astype(np.float32) * size
    errors = []
    for weigh in (None, np.square(x).mean(0)):
        left = decode_weight(*quantize(w, "int4/32:bf16", weigh), "int4/32:bf16")
        errors.append(np.square(x @ (left - w).T).mean())
    assert errors[1] < 0.9 * errors[0]


def test_calibrate_wants_a_policy(checkpoint, tmp_path, capsys) -> None:
    command = ["compile", str(checkpoint), "-o", str(tmp_path / "out"), "--calibrate"]
    for policy in ("shipped", "fp8", "kv=bf16"):
        assert run_command_line([*command, str(tmp_path / "no.txt"), "--quantize", policy]) == 1
        assert capsys.readouterr().err.startswith("error[F306]: a calibration would change nothing")
    assert run_command_line([*command, str(tmp_path / "no.txt"), "--quantize", "int4-g32"]) == 1
    assert capsys.readouterr().err.startswith("error[F709]")
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine").touch()
    assert run_command_line(["compile", str(checkpoint), "-o", str(taken), "--quantize", "mxfp4",
                             "--calibrate", "no.txt"]) == 1
    assert capsys.readouterr().err.startswith("error[F420]")
    (taken / "mine").unlink()
    taken.rmdir()
    assert list(tmp_path.iterdir()) == []
