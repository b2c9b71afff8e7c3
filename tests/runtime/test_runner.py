"""firstlight-run: an artifact without Python says what the artifact says."""

import json
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from firstlight.runtime import load

EXPECTED = json.loads(
    (Path(__file__).parents[2] / "examples" / "tiny-v4" / "expected.json").read_text()
)
each_prompt = pytest.mark.parametrize("prompt", EXPECTED["prompts"], ids=["code", "prose", "long"])


def runner(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What firstlight-run of this artifact says."""
    command = [str(folder / "firstlight-run"), str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def joined(ids: Sequence[int]) -> str:
    return ",".join(map(str, ids))


@each_prompt
def test_greedy_tokens(tiny_artifact: Path, prompt: dict[str, Any]):
    done = runner(tiny_artifact, "--tokens", joined(prompt["prompt_ids"]), "-n", "48",
                  "--ignore-eos")  # fmt: skip
    assert done.stdout == joined(prompt["greedy_ids"]) + "\n"
    assert done.returncode == 0
    assert done.stderr.startswith(f"[{len(prompt['prompt_ids'])} tokens read")


def test_logits_bit_for_bit(tiny_artifact: Path):
    ids = EXPECTED["prompts"][0]["prompt_ids"]
    done = runner(tiny_artifact, "--tokens", joined(ids), "-n", "3", "--logits", "--threads", "2")
    rows = np.array([line.split() for line in done.stdout.splitlines()], np.float32)
    with load(tiny_artifact, threads=2) as model:
        session = model.session()
        want = [session.prefill(ids)]
        while len(want) < len(rows):
            want.append(session.decode(int(want[-1].argmax())))
    assert len(rows) == 3
    np.testing.assert_array_equal(rows, np.stack(want))


def test_the_binary_program_is_the_program(tiny_artifact: Path):
    """A second reader, written from docs/artifact.md: every step and word of program.json."""
    raw = (tiny_artifact / "program.bin").read_bytes()
    document = json.loads((tiny_artifact / "program.json").read_text())
    manifest = json.loads((tiny_artifact / "manifest.json").read_text())
    assert raw[:8] == b"FLPROG\0\0"
    version, size, arena, state, vocab, context, *counts = struct.unpack_from("<14q", raw, 8)
    assert (version, size, arena) == (1, len(raw), document["arena_bytes"])
    assert (state, context) == (manifest["state"]["bytes"], manifest["limits"]["context"])
    at = 120

    def rows(count: int, width: int) -> Iterator[tuple[int, ...]]:
        nonlocal at
        for _ in range(count):
            yield struct.unpack_from(f"<{width}q", raw, at)
            at += 8 * width

    widths = (1, 2, 2, 1, 10, 3, 2)
    eos, files, weights, kernels, entries, steps, args = (
        list(rows(n, width)) for n, width in zip(counts, widths, strict=False))
    text = raw[at:]
    assert len(text) == counts[-1]

    def word(offset: int) -> str:
        return text[offset : text.index(b"\0", offset)].decode()

    assert [e for (e,) in eos] == manifest["model"]["eos_token_ids"]
    assert {word(n): b for n, b in files} == {
        n: f["bytes"] for n, f in manifest["files"].items() if n.startswith("weights/")}
    assert [word(files[f][0]) for f, _ in weights] == [f for f, _ in document["weights"]]
    assert [word(k) for (k,) in kernels] == document["kernels"]
    assert vocab == manifest["model"]["vocab_size"]
    for name, most, every, tokens, pos, _, _, logits, first, count in entries:
        entry = document["entries"][word(name)]
        assert (tokens, pos) == tuple(entry["inputs"][i]["offset"] for i in ("tokens", "pos"))
        assert (most, logits) == (entry["max_tokens"], entry["outputs"]["logits"]["offset"])
        assert bool(every) == (entry["outputs"]["logits"]["shape"][0] != 1)
        got = [[k, [chr(s) if chr(s) == "t" else f"{chr(s)}:{v}" for s, v in args[a : a + n]]]
               for k, a, n in steps[first : first + count]]
        assert got == entry["steps"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--tokens", "1,999999"], "F605"),
        (["--tokens", joined([1] * 1025)], "F607"),
        (["--tokens", joined([1] * 1020), "-n", "9", "--ignore-eos"], "F607"),
    ],
)
def test_refused(tiny_artifact: Path, words: list[str], code: str):
    done = runner(tiny_artifact, *words)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error[{code}]: ")
    assert len(done.stderr.splitlines()) == 4


@pytest.mark.parametrize("words", [[], ["--tokens", "1,"], ["--tokens", "-1"], ["-n", "0"],
                                   ["--tokens", "1", "--what"], ["--tokens", "1", "-n", "2,3"]])
def test_wrong_command_line(tiny_artifact: Path, words: list[str]):
    done = runner(tiny_artifact, *words)
    assert done.returncode == 2
    assert "usage: firstlight-run" in done.stderr


def test_damage_is_found(tiny_artifact: Path, tmp_path: Path):
    """Cut short, other numbers, another artifact's weights: refused before anything runs."""
    folder = tmp_path / "copy"
    shutil.copytree(tiny_artifact, folder)
    program = folder / "program.bin"
    raw = program.read_bytes()
    for damaged in (b"", raw[:100], raw[:-1], raw[:16], b"X" + raw[1:], raw + b"\0"):
        program.write_bytes(damaged)
        assert runner(folder, "--tokens", "1").stderr.startswith("error[F502]")
    random = np.random.default_rng(3)
    for _ in range(60):  # no number may lead out of a table: an answer or a refusal, never a crash
        changed = bytearray(raw)
        at = 8 * int(random.integers(1, len(raw) // 8 - 1))
        changed[at : at + 8] = struct.pack("<q", int(random.choice([-1, 1 << 62])))
        program.write_bytes(changed)
        assert runner(folder, "--tokens", "1", "-n", "1").returncode in (0, 1), at
    program.write_bytes(raw)
    weights = folder / "weights" / "global.safetensors"
    weights.write_bytes(weights.read_bytes()[:-64])
    assert runner(folder, "--tokens", "1").stderr.startswith("error[F504]")
    weights.unlink()
    assert runner(folder, "--tokens", "1").stderr.startswith("error[F501]")


def test_verify_knows_both_files(tiny_artifact: Path):
    files = json.loads((tiny_artifact / "manifest.json").read_text())["files"]
    assert {"program.bin", "firstlight-run"} <= set(files)
