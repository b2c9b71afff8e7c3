"""The oracle itself: the mapping is complete, transformers agrees with itself, weights matter."""

import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="the oracle needs PyTorch: make oracle")
pytest.importorskip("transformers", reason="the oracle needs transformers 5.23: make oracle")

import torch
from oracle.cases import CASES
from oracle.hf import Oracle
from oracle.live import MIN_GAP, SELF_TOLERANCE, TOLERANCE, draw, measure, verdict
from safetensors import safe_open

from support.checkpoint_writer import module_tensors, saved_tensors, transformers_config_json
from support.random_models import dequantise

BY_NAME = {case.name: case for case in CASES}
COMPARED = [case for case in CASES if not case.tied]


@pytest.mark.parametrize("case", COMPARED, ids=lambda case: case.name)
def test_transformers_agrees_with_itself(case):
    """By every route that a backend is measured by, at the magnitude the tolerances mean."""
    drawn = draw(case)
    assert min(drawn.gaps) >= MIN_GAP
    assert 3 <= np.abs(drawn.logits).max() <= 12
    assert drawn.rounding <= SELF_TOLERANCE
    assert not verdict(measure(drawn.oracle, drawn), case)


def test_a_wrong_model_is_found():
    """The checker can fail: a window one token too wide is seen, and where."""
    drawn = draw(BY_NAME["window_only"])
    config = drawn.case.config | {"sliding_window": drawn.case.config["sliding_window"] + 1}
    wrong = Oracle(config, dequantise(drawn.tensors))
    lines = verdict(measure(wrong, drawn), drawn.case)
    assert len(lines) == 1
    assert "off transformers" in lines[0]


@pytest.mark.parametrize("case", COMPARED, ids=lambda case: case.name)
def test_mapping_covers_every_parameter(case):
    """The mapped names are exactly the model's, and no tensor has kept a trivial value."""
    drawn = draw(case)
    theirs = drawn.oracle.model.state_dict()
    assert set(module_tensors(dequantise(drawn.tensors))) == set(theirs)
    for name, value in theirs.items():
        assert value.numel() == 1 or value.float().std() > 0, name


@pytest.mark.parametrize("name", ["flash", "odd_sides"])
def test_every_kind_of_weight_moves_the_logits(name):
    """A mistake of 2 % in one kind of weight is far above the tolerance."""
    drawn = draw(BY_NAME[name])
    state = drawn.oracle.model.state_dict()
    leaves = {".".join(p for p in n.split(".") if not p.isdigit()): n for n in state}
    for leaf, key in leaves.items():
        if leaf.endswith("tid2eid"):
            continue
        weight = state[key]
        kept = weight.clone()
        noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
        # A router bias acts only by changing a choice.
        size = 1.0 if leaf.endswith("bias") else 0.02
        weight += size * noise * kept.abs().max().clamp(min=0.5)
        moved = np.abs(drawn.oracle.logits(drawn.ids) - drawn.logits).max()
        weight.copy_(kept)
        assert moved > 5 * TOLERANCE, leaf
    assert np.array_equal(drawn.oracle.logits(drawn.ids), drawn.logits)


@pytest.mark.parametrize("original", [True, False], ids=["saved", "module"])
@pytest.mark.parametrize("name", ["flash", "saved_names"])
def test_our_names_are_those_save_pretrained_writes(name, original, tmp_path):
    """The writer's schemes "saved" and "module" against the real thing, config.json included."""
    drawn = draw(BY_NAME[name])
    drawn.oracle.model.save_pretrained(tmp_path, save_original_format=original)
    rename = saved_tensors if original else module_tensors
    ours = rename(dequantise(drawn.tensors))
    with safe_open(tmp_path / "model.safetensors", "np") as file:
        assert set(file.keys()) == set(ours)
        for key, value in ours.items():
            assert np.array_equal(file.get_tensor(key), value), key
    theirs = json.loads((tmp_path / "config.json").read_text())
    config = transformers_config_json(drawn.case.config)
    assert config == {key: theirs.get(key, "missing") for key in config}
