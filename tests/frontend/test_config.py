"""config.json in every spelling, its contradictions, and the rope tables of specification 4.4."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from firstlight.frontend.checkpoint import read_config
from firstlight.frontend.config import LayerSpec, parse_config, rope_frequencies
from firstlight.runtime.errors import FirstlightError
from support.checkpoint_writer import transformers_config_json
from support.random_models import CSA, HCA, WINDOW, random_config
from support.sparse import FLASH, PRO

BASE = random_config(3, layers="wchch", csa=4, hca=16)
TYPES = [WINDOW, CSA, HCA, CSA, HCA]


def without(*names: str, **more: Any) -> dict[str, Any]:
    return {k: v for k, v in (BASE | more).items() if k not in names}


def kinds(raw: dict[str, Any]) -> list[tuple[str, int]]:
    return [(layer.kind, layer.ratio) for layer in parse_config(raw).layers]


def test_released_patterns() -> None:
    flash, pro = parse_config(FLASH), parse_config(PRO)
    assert [layer.kind for layer in flash.layers].count("csa") == 21
    assert [layer.kind for layer in flash.layers].count("hca") == 20
    assert [layer.kind for layer in pro.layers].count("hca") == 31
    assert [layer.kind for layer in pro.layers].count("csa") == 30
    assert flash.layers[2] == LayerSpec(2, "csa", 4, hash_routed=True)
    assert flash.layers[2].overlap
    assert flash.layers[2].indexer
    assert flash.layers[3] == LayerSpec(3, "hca", 128, hash_routed=False)
    assert flash.eos_token_ids == (1,)


@pytest.mark.parametrize("seed", range(12))
def test_both_spellings_say_the_same(seed: int) -> None:
    raw = random_config(seed)
    assert parse_config(raw) == parse_config(transformers_config_json(raw))
    mixed = transformers_config_json(raw) | {"qk_rope_head_dim": raw["qk_rope_head_dim"],
                                             "compress_ratios": raw["compress_ratios"]}
    assert parse_config(raw) == parse_config(mixed)


def test_where_kind_and_ratio_come_from() -> None:
    want = [("window", 0), ("csa", 4), ("hca", 16), ("csa", 4), ("hca", 16)]
    assert kinds(without("layer_types", "compress_rates")) == want
    assert kinds(without("compress_ratios")) == want
    by_kind = without("compress_ratios", "compress_rates", compress_rate_csa=3, compress_rate_hca=1)
    assert kinds(by_kind) == [("window", 0), ("csa", 3), ("hca", 1), ("csa", 3), ("hca", 1)]
    first = without("compress_rates", compress_ratios=[0, 7, 4, 1, 9, 0, 0], compress_rate_csa=3)
    assert kinds(first) == [("window", 0), ("csa", 7), ("hca", 4), ("csa", 1), ("hca", 9)]
    halves = without("compress_ratios", compress_rates={CSA: 5}, compress_rate_hca=6)
    assert kinds(halves)[1:3] == [("csa", 5), ("hca", 6)]
    assert kinds(without("layer_types", compress_ratios=[2, 4, 128, 0, 1]))[0] == ("hca", 2)


@pytest.mark.parametrize(("name", "more"), [
    ("layer_types", ["mtp_attention"]), ("layer_types", [None]), ("compress_ratios", [None]),
    ("compress_ratios", [-1, "x"]), ("mlp_layer_types", ["mtp"])])
def test_entries_past_the_last_layer_are_not_read(name: str, more: list[Any]) -> None:
    raw = BASE | {"layer_types": TYPES, "mlp_layer_types": ["hash_moe"] + ["moe"] * 4,
                  "num_hash_layers": 1}
    assert parse_config(raw | {name: [*raw[name], *more]}) == parse_config(raw)


def test_routing_tables() -> None:
    hashed = parse_config(BASE | {"num_hash_layers": 2}).layers
    assert [layer.hash_routed for layer in hashed] == [True, True, False, False, False]
    own = without("num_hash_layers", mlp_layer_types=["moe", "hash_moe", "moe", "moe", "moe"])
    assert [layer.hash_routed for layer in parse_config(own).layers][:2] == [False, True]
    assert all(layer.hash_routed for layer in parse_config(BASE | {"num_hash_layers": 99}).layers)


def test_optional_fields() -> None:
    assert parse_config(BASE | {"eos_token_id": [1, 3]}).eos_token_ids == (1, 3)
    none = parse_config(without("eos_token_id", "bos_token_id"))
    assert (none.eos_token_ids, none.bos_token_id) == ((), None)
    windows = random_config(1, layers="ww")
    for name in ("index_n_heads", "index_head_dim", "index_topk", "compress_rope_theta"):
        windows.pop(name)
    assert parse_config(windows).index_topk == 0
    renamed = without("n_routed_experts", num_local_experts=BASE["n_routed_experts"])
    assert parse_config(renamed) == parse_config(BASE)


def test_rope_dims_from_the_factor() -> None:
    base = random_config(2, head_dim=80, qk_rope_head_dim=16, index_head_dim=32)
    base.pop("qk_rope_head_dim")
    assert parse_config(base | {"partial_rotary_factor": 0.2}).qk_rope_head_dim == 16
    nested = {"main": {"rope_theta": 10000, "partial_rotary_factor": 0.2},
              "compress": {"rope_theta": 160000}}
    assert parse_config(base | {"rope_parameters": nested}).qk_rope_head_dim == 16


def test_rope_check_values_of_the_specification() -> None:
    flash = parse_config(FLASH)
    f = rope_frequencies(flash, compressed=True)
    assert (f.dtype, f.shape) == (np.float32, (32,))
    want = {1: 0.68765606, 15: 3.6355386e-3, 16: 2.265625e-3, 20: 2.9697778e-4, 24: 1.953125e-5,
            31: 5.6805290e-7}
    for i, value in want.items():
        assert f[i] == pytest.approx(value, rel=1e-6)
    plain = rope_frequencies(flash, compressed=False)
    np.testing.assert_allclose(plain, 10000.0 ** (-np.arange(32) / 32), rtol=3e-7)


@pytest.mark.parametrize("scaling", [
    None, {"type": "yarn"}, {"rope_type": "yarn"}, {"type": "default"},
    {"type": "yarn", "attention_factor": 1.0, "mscale": 1.0}])
def test_yarn_on_and_off(scaling: dict[str, Any] | None) -> None:
    more = {"factor": 4, "original_max_position_embeddings": 64}
    given = scaling and (scaling | more)
    config = parse_config(BASE | {"rope_scaling": given})
    on = bool(scaling) and "yarn" in scaling.values()
    assert (config.rope_compress.yarn is not None) == on
    assert config.rope_main.yarn is None
    flat = parse_config(without("rope_scaling", rope_parameters=given))
    assert flat == config


BAD: dict[str, tuple[str, dict[str, Any]]] = {
    "no model type": ("F103", without("model_type")),
    "model type": ("F102", without(model_type="deepseek_v3")),
    "model type list": ("F102", without(model_type=["deepseek_v4"])),
    "missing": ("F103", without("hidden_size")),
    "null": ("F103", without(q_lora_rank=None)),
    "no pattern": ("F103", without("compress_ratios", "layer_types")),
    "no ratio": ("F103", without("compress_ratios", "compress_rates")),
    "no hash": ("F103", without("num_hash_layers")),
    "no rope dims": ("F103", without("qk_rope_head_dim")),
    "no theta": ("F103", without("rope_theta")),
    "no index": ("F103", without("index_topk")),
    "yarn without factor": ("F103", without(rope_scaling={"type": "yarn"})),
    "a billion layers": ("F104", without(num_hidden_layers=10**9)),
    "huge": ("F104", without(hidden_size=10**30)),
    "zero": ("F104", without(vocab_size=0)),
    "negative": ("F104", without(num_attention_heads=-8)),
    "float": ("F104", without(hidden_size=64.0)),
    "bool": ("F104", without(num_hidden_layers=True)),
    "text": ("F104", without(hidden_size="64")),
    "NaN": ("F104", without(rms_norm_eps=float("nan"))),
    "infinite": ("F104", without(swiglu_limit=float("inf"))),
    "zero eps": ("F104", without(hc_eps=0)),
    "bool eps": ("F104", without(hc_eps=True)),
    "unknown kind": ("F104", without(layer_types=["linear_attention"] * 5)),
    "types no list": ("F104", without(layer_types="sliding_attention")),
    "negative ratio": ("F104", without(compress_ratios=[0, -4, 16, 4, 16])),
    "rates no object": ("F104", without("compress_ratios", compress_rates=[4])),
    "zero rate": ("F104", without("compress_ratios", compress_rates={CSA: 0, HCA: 8})),
    "eos outside": ("F104", without(eos_token_id=BASE["vocab_size"])),
    "eos bool": ("F104", without(eos_token_id=[True])),
    "scaling no object": ("F104", without(rope_scaling="yarn")),
    "theta one": ("F104", without(rope_theta=1)),
    "short ratios": ("F105", without(compress_ratios=[0, 4, 16, 4])),
    "short types": ("F105", without(layer_types=TYPES[:3])),
    "short mlp types": ("F105", without("num_hash_layers", mlp_layer_types=["moe"])),
    "kind against ratio": ("F105", without(compress_ratios=[0, 0, 16, 4, 16])),
    "window with ratio": ("F105", without(compress_ratios=[4, 4, 16, 4, 16])),
    "two routing tables": ("F105", without(num_hash_layers=3, mlp_layer_types=["moe"] * 5)),
    "groups": ("F105", without(num_attention_heads=6, o_groups=4)),
    "odd rope": ("F105", without(qk_rope_head_dim=7, head_dim=16, index_head_dim=16)),
    "rope over head": ("F105", without(qk_rope_head_dim=64, head_dim=32)),
    "rope over index": ("F105", without(qk_rope_head_dim=16, head_dim=32, index_head_dim=8)),
    "rope twice": ("F105", without(head_dim=32, qk_rope_head_dim=8, partial_rotary_factor=0.5)),
    "too many active": ("F105", without(n_routed_experts=4, num_experts_per_tok=5)),
    "experts": ("F105", BASE | {"num_hidden_layers": 4096, "n_routed_experts": 60000,
                                "layer_types": [WINDOW] * 4096, "compress_ratios": None}),
    "yarn ends": ("F105", without(rope_scaling={
        "type": "yarn", "factor": 4, "original_max_position_embeddings": 64, "beta_fast": 1,
        "beta_slow": 32})),
    "tied": ("F106", without(tie_word_embeddings=True)),
    "shared": ("F106", without(n_shared_experts=2)),
    "kv heads": ("F106", without(num_key_value_heads=8)),
    "scoring": ("F106", without(scoring_func="sigmoid")),
    "not normed": ("F106", without(norm_topk_prob=False)),
    "group topk": ("F106", without(topk_method="group_limited_greedy")),
    "gelu": ("F106", without(hidden_act="gelu")),
    "bias": ("F106", without(attention_bias=True)),
    "linear rope": ("F106", without(rope_scaling={"type": "linear", "factor": 4})),
    "magnitude": ("F106", without(rope_scaling={
        "type": "yarn", "factor": 4, "original_max_position_embeddings": 64,
        "attention_factor": 1.2})),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_configs(case: str) -> None:
    code, raw = BAD[case]
    with pytest.raises(FirstlightError) as caught:
        parse_config(raw, "some/config.json")
    assert caught.value.code == code, str(caught.value)
    assert caught.value.where == "some/config.json"
    assert len(str(caught.value).splitlines()) == 4
    assert len(str(caught.value)) < 1000


def test_unknown_model_lists_the_known_ones() -> None:
    with pytest.raises(FirstlightError, match="supported are deepseek_v4"):
        parse_config({"model_type": "llama"})


def test_read_config_needs_no_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(BASE))
    assert read_config(tmp_path) == read_config(tmp_path / "config.json") == parse_config(BASE)


@pytest.mark.parametrize(("text", "code"), [
    ("[" * 100_000, "F101"), ('{"a":' * 100_000, "F101"), ("", "F101"), ("[]", "F101"),
    ('{"a": 1, "a": 2}', "F101"), ('{"hidden_size": ' + "9" * 10_000 + "}", "F101"),
    ('{"model_type": "\\ud800"}', "F102"), (None, "F100")])
def test_unreadable_config_files(tmp_path: Path, text: str | None, code: str) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(FirstlightError) as caught:
        read_config(tmp_path)
    assert caught.value.code == code
    str(caught.value).encode()


def test_path_that_is_no_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", "deepseek-ai/DeepSeek-V4-Flash", "x" * 10_000, "\0"):
        with pytest.raises(FirstlightError) as caught:
            read_config(path)
        assert caught.value.code == "F100"
