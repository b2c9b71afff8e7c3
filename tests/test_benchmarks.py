"""The benchmark runs end to end on a very small model, and counts what the model has."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from firstlight.frontend.checkpoint import read_checkpoint

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SMALL = {
    "hidden_size": 128, "vocab_size": 256, "num_hidden_layers": 3, "compress_ratios": [0, 4, 8],
    "num_hash_layers": 1, "num_attention_heads": 4, "head_dim": 64, "qk_rope_head_dim": 16,
    "q_lora_rank": 64, "o_groups": 2, "o_lora_rank": 32, "n_routed_experts": 4,
    "num_experts_per_tok": 2, "moe_intermediate_size": 64, "index_n_heads": 2,
    "index_head_dim": 64, "index_topk": 4, "sliding_window": 16, "max_position_embeddings": 256,
}  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.json"
    path.write_text(json.dumps(json.loads((BENCHMARKS / "bench_config.json").read_text()) | SMALL))
    return path


def script(name: str, *arguments: object, status: int = 0) -> str:
    command = [sys.executable, str(BENCHMARKS / name), *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done.stdout


GOOD = (
    {"test": "compile", "seconds": 44.0, "rss": 1.4 * 2**30},
    {"test": "prefill", "n": 128, "samples": [1.0], "of_limit": [0.1]},
    {"test": "prefill", "n": 512, "samples": [1.0, 21.0, 90.0], "of_limit": [0.1]},
    {"test": "decode", "n": 128, "samples": [9.0, 10.0, 99.0], "of_limit": [0.1, 0.61, 0.9]},
)


@pytest.mark.parametrize(("test", "change", "says"), [
    (None, {}, None),
    ("compile", {"seconds": 46.0}, "compile took 46 s"),
    ("compile", {"rss": 1.6 * 2**30}, "compile held 1.60 GiB"),
    ("compile", {"test": "none"}, "compile was not measured"),
    ("decode", {"of_limit": [0.9, 0.49, 0.1]}, "decode at 128 reached 49% of the read bandwidth"),
    ("decode", {"samples": [10.6]}, "prefill 512 is 1.98 times as fast as decode at 128"),
    ("decode", {"test": "none"}, "decode was not measured"),
    ("prefill", {"n": 500}, "prefill 512 was not measured"),
])  # fmt: skip
def test_check_names_the_limit_that_is_missed(test, change, says, monkeypatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    shortfalls = importlib.import_module("limits").shortfalls
    missed = shortfalls([r | change if r["test"] == test else r for r in GOOD])
    assert [line.startswith(says) for line in missed] == ([True] if says else [])


def test_checkpoint_is_sane_and_the_same_for_a_seed(config: Path, tmp_path: Path) -> None:
    for out in ("a", "b"):
        script("checkpoint.py", "--config", config, "--out", tmp_path / out)
    shards = [(tmp_path / out / "model.safetensors").read_bytes() for out in ("a", "b")]
    assert shards[0] == shards[1]
    source = read_checkpoint(tmp_path / "a")
    for name, weight in source.tensors.items():
        values = weight.decode()
        assert np.isfinite(values).all(), name
        if name.endswith(("w1.weight", "w2.weight", "wq_b.weight", "wo_a.weight")):
            assert 0.8 < values.std() * np.sqrt(values.shape[-1]) < 1.2, name
    chosen = source.tensors["layers.0.ffn.gate.tid2eid"].decode()
    assert all(len(set(row)) == len(row) for row in chosen.tolist())


def test_benchmark_measures_and_profiles(config: Path, tmp_path: Path) -> None:
    checkpoint, artifact, lines = (tmp_path / n for n in ("checkpoint", "artifact", "out.jsonl"))
    text = script("bench.py", "--compile", "--config", config, "--checkpoint", checkpoint,
                  "--artifact", artifact, "--compile-option=--chunk=8", "--prefill", "12",
                  "--decode", "20", "--samples", "2", "--generate", "2", "--profile",
                  "--threads", "1", "--jsonl", lines, "--check", status=1)
    assert "FAILED  prefill 512 was not measured" in text
    assert "expert_ffn ffn.experts.w1.weight" in text
    compiled, prefill, decode = map(json.loads, lines.read_text().splitlines())
    assert compiled["test"] == "compile"
    assert compiled["rss"] > 10 << 20
    for record in (prefill, decode):
        assert {"peer", "variant", "samples", "rss", "load_s"} <= record.keys()
        assert min(record["samples"]) > 0

    # one read of everything but the experts, of which half are chosen, and one embedding row
    weights = read_checkpoint(checkpoint).tensors
    routed = sum(w.nbytes for n, w in weights.items() if ".experts." in n)
    tables = sum(w.nbytes for n, w in weights.items() if n.endswith(("embed.weight", "tid2eid")))
    least = sum(w.nbytes for w in weights.values()) - tables - routed / 2
    assert least <= decode["bytes_per_token"] <= 1.25 * least
    assert prefill["bytes_per_token"] < decode["bytes_per_token"]


def test_states_are_measured_side_by_side(config: Path, tmp_path: Path) -> None:
    checkpoint, rows = tmp_path / "checkpoint", tmp_path / "rows.json"
    script("checkpoint.py", "--config", config, "--out", checkpoint)
    text = script("long_context.py", "--checkpoint", checkpoint, "--work", tmp_path, "--context",
                  "256", "--depths", "40,250", "--states", "f32,released", "--samples", "2",
                  "--threads", "1", "--json", rows)
    assert text.count("compiled in") == 2
    plain, released = json.loads(rows.read_text())[2:]
    assert plain["depth"] == released["depth"] == 250
    # entries of 64 columns, 16 of them rope: 48 + 32 + 1 bytes in words of four; keys 32 + 2
    assert released["bytes"] < plain["bytes"]
    assert plain["flops"] == released["flops"]
    for row in (plain, released):
        assert min(row["of_bound"], row["index"], row["attention"]) > 0
    ring, entries = 3 * 16, 62 + 31
    partial = plain["state_bytes"] - 256 * (ring + entries + 62)
    assert released["state_bytes"] == partial + 84 * (ring + entries) + 36 * 62


def test_the_gate_compares_shares_of_the_bound_by_processor(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    baseline = importlib.import_module("baseline")
    cpuinfo = "processor : 0\nvendor_id : X\ncpu family : 23\nmodel\t: 1\nmodel name : any\n"
    manifest = {"target": {"name": "cpu"}, "numerics": "fast"}
    where = baseline.key(manifest, 2, cpuinfo)
    assert where == "X 23 1, 2 threads, cpu, fast, shipped"
    file = tmp_path / "baseline.json"
    sticks = {"flops": [200e9, 230e9, 240e9], "bandwidth": [33e9, 34e9, 60e9]}
    then = [{"test": "decode", "n": 128, "of_bound": [0.1, 0.8, 0.9]} | sticks, {"test": "compile"}]
    baseline.record(where, then, file)
    assert json.loads(file.read_text())[where] == {"decode 128": {"8 FLOP/B": 0.8}}
    assert baseline.judge(where, then, file) == []
    now = [{"test": "decode", "n": 128, "of_bound": [0.69]} | sticks]
    assert baseline.judge(where, now, file) == []
    now[0]["of_bound"] = [0.67]
    lost = ["decode 128 reached 67% of its bound, 80% before"]
    assert baseline.judge(where, now, file) == lost
    faster = [now[0] | {"bandwidth": [60e9]}]
    assert baseline.judge(where, faster, file) == lost, "held against what is there"
    baseline.record(where, faster, file)
    assert baseline.judge(where, faster, file) == []
    assert baseline.judge(where, now, file) == lost, "the other balance has a share of its own"
    other = [{"test": "prefill", "n": 8, "of_bound": [1.0]} | sticks]
    assert len(baseline.judge(where, other, file)) == 2, "one is missing, the other new"
    near = {"decode 128": {"4 FLOP/B": 0.5, "16 FLOP/B": 0.9, "unknown": 0.1}}
    for balance, kept in (("2 FLOP/B", "50%"), ("32 FLOP/B", "90%")):
        assert baseline.losses({"decode 128": {balance: 0.2}}, near) == [
            f"decode 128 reached 20% of its bound, {kept} before"], "the nearest"
    baseline.record(where, now, file)
    baseline.record(where, then, file)
    assert json.loads(file.read_text())[where]["decode 128"]["8 FLOP/B"] == pytest.approx(
        ((0.8 + 0.67) / 2 + 0.8) / 2, abs=2e-3), "both count"
    assert baseline.judge("elsewhere", now, file) == [
        "there is no baseline for elsewhere: --write-baseline"]
    committed = json.loads((BENCHMARKS / "baseline.json").read_text())
    assert all(0 < share < 1.5 for row in committed.values() for shares in row.values()
               for share in shares.values())


def test_engines_are_compared_in_turn_and_absent_ones_say_why(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    compare = importlib.import_module("compare")
    rates = iter([10.0, 30.0, 20.0])

    class Fake(compare.Engine):
        def run(self, test, threads, generate):
            return {"samples": [next(rates)], "of_bound": [0.5], "load_s": 1.0}

    ours = Fake("ours")
    args = ["compare.py", "ours=x"]
    monkeypatch.setattr(sys, "argv", args)
    *_, none = compare._engines(compare._arguments())
    assert (none.name, none.line()) == (
        "llama.cpp", "no llama-bench (--llama-bin, --llama-source)")
    monkeypatch.setattr(sys, "argv", [*args, "--llama-source", str(tmp_path / "none")])
    *_, none = compare._engines(compare._arguments())
    assert none.line().startswith("it could not be built")
    llama = compare.Llama("llama", program=tmp_path / "llama-bench", file=tmp_path / "x.gguf")
    for _ in range(3):
        for engine in (ours, llama):
            engine.sample(("decode", 128), 2, 4)
    assert llama.line().startswith("decode 128 failed: FileNotFoundError")
    assert compare.table([ours, llama], [("decode", 128)]).splitlines()[-1] == (
        "| decode 128 | 20.0 | absent |  | 50% |")
    program = tmp_path / "llama-bench"
    program.write_text("#!/bin/sh\necho '[{\"samples_ts\": [5.0]}]'\n")
    program.chmod(0o755)
    llama = compare.Llama("llama", program=program, file=tmp_path / "x.gguf")
    llama.sample(("decode", 128), 2, 4)
    assert compare.table([ours, llama], [("decode", 128)]).splitlines()[-1] == (
        "| decode 128 | 20.0 | 5.0 | 4.00 | 50% |")
