"""States in codecs, end to end: bytes as the specification counts them, and what sessions do."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from firstlight import targets
from firstlight.codegen.compile import state_plan
from firstlight.comparison import compare, open_sides
from firstlight.compiler import CompileOptions, compile_checkpoint, prepare_checkpoint
from firstlight.frontend.config import parse_config
from firstlight.frontend.interpret import InterpreterModel
from firstlight.frontend.model import config_types, trace_model
from firstlight.frontend.names import ROLES
from firstlight.ir.types import KEYS_FP4, kv_fp8
from firstlight.passes.policy import quantizer
from firstlight.runtime import load
from firstlight.runtime.errors import FirstlightError
from support.random_models import random_config, random_tensors, write_checkpoint
from support.sparse import FLASH, PRO

RELEASED = "kv=released,index-keys=released"
SMALL = random_config(5, layers="wch", csa=4, hca=8, hidden_size=96, moe_intermediate_size=32,
                      num_hash_layers=1, head_dim=80, qk_rope_head_dim=16, index_head_dim=32,
                      sliding_window=6)  # fmt: skip
OPTIONS = CompileOptions(context=64, chunk=16, quantize=RELEASED)


@pytest.mark.parametrize(("raw", "policy", "per_token", "entries", "rings"), [
    (FLASH, "kv=bf16,index-keys=bf16", 6880, 7.214e9, 5.64e6),
    (FLASH, RELEASED, 3514.25, 3.685e9, 3.21e6),
    (PRO, RELEASED, 5031.4, 5.276e9, 4.56e6),
])  # fmt: skip
def test_bytes_of_a_session(raw: dict[str, Any], policy: str, per_token: float, entries: float,
                            rings: float) -> None:
    """Specification 6.5, a million tokens."""
    config = parse_config(raw)
    step = quantizer(policy, ROLES, config.qk_rope_head_dim)
    assert step is not None
    plan = state_plan(step.run(trace_model(config, config_types(config))), 1 << 20)
    size = {kind: sum(t["bytes"] for t in plan["tensors"] if t["kind"] == kind)
            for kind in ("entries", "ring")}
    assert plan["bytes_per_token"] == pytest.approx(per_token, rel=1e-5)
    assert size["entries"] == pytest.approx(entries, rel=2e-4)
    assert size["ring"] == pytest.approx(rings, rel=2e-3)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layer of each kind."""
    folder = tmp_path_factory.mktemp("small") / "checkpoint"
    return write_checkpoint(folder, SMALL, random_tensors(SMALL, 5))


@pytest.fixture(scope="module")
def artifact(checkpoint: Path) -> Path:
    """The small model with states in the released formats."""
    out = checkpoint.parent / "artifact"
    compile_checkpoint(checkpoint, out, OPTIONS)
    return out


def test_the_manifest_says_how_states_are_kept(artifact: Path) -> None:
    tensors = json.loads((artifact / "manifest.json").read_text())["state"]["tensors"]
    kept = {t["name"]: (t.get("codec", "f32"), t.get("row_bytes")) for t in tensors}
    assert {v for n, v in kept.items() if n.endswith("partial")} == {("f32", None)}
    assert kept["layers.1.attn.window"] == (kv_fp8(16), 100)
    assert kept["layers.2.attn.compressor.entries"] == (kv_fp8(16), 100)
    assert kept["layers.1.attn.indexer.compressor.entries"] == (KEYS_FP4, 20)


def test_kernels_do_what_the_module_means(artifact: Path, checkpoint: Path) -> None:
    """In several calls, states decoded from their bytes. A rounding that falls on the other side
    moves a value by a code, a wrong byte by everything."""
    ids = np.random.default_rng(0).integers(0, SMALL["vocab_size"], 40).tolist()
    with open_sides([str(artifact), "interpreter"], checkpoint, threads=2) as sides:
        report = compare(*sides, ids, tolerance=0.1)
    assert report.first is None


def test_sessions_continue_byte_for_byte(artifact: Path, tmp_path: Path) -> None:
    ids = np.random.default_rng(1).integers(0, SMALL["vocab_size"], 33)
    with load(artifact, threads=1) as model:
        session = model.session()
        session.prefill(ids)
        session.save(tmp_path / "saved")
        want = [session.decode(3), session.decode(5)]
        for again in (model.restore(tmp_path / "saved"), model.restore(tmp_path / "saved").fork()):
            for token, logits in zip((3, 5), want, strict=True):
                np.testing.assert_array_equal(again.decode(token), logits)


def test_released_numerics_lose_nothing(checkpoint: Path) -> None:
    """They round the same rows the same way."""
    plain = InterpreterModel(checkpoint, 64, "released")
    step = quantizer(RELEASED, ROLES, SMALL["qk_rope_head_dim"], transformed=True)
    assert step is not None
    kept = InterpreterModel(checkpoint, 64, "released", step.run(plain.module))
    sessions, ids = [plain.session(), kept.session()], list(range(1, 22))
    for part in (ids[:9], ids[9:]):
        one, two = (session.prefill(part, all_logits=True) for session in sessions)
        np.testing.assert_array_equal(one, two)


def test_other_targets_say_no(checkpoint: Path) -> None:
    target = targets.find("null")
    with pytest.raises(FirstlightError, match="F413"):
        prepare_checkpoint(checkpoint, target, OPTIONS)
