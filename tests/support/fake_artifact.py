"""An artifact made by hand: a toy model in C (toy_kernels.c) with every kind of state.

The runtime's own tests use it, so that they need no compiler but a C compiler.
"""

import functools
import hashlib
import importlib.util
import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.runtime import cpu
from firstlight.runtime.safetensors import SafetensorsWriter, TensorPlan

# Loaded by its path: importing its package would import the whole compiler, and TVM with it.
_spec = importlib.util.spec_from_file_location(
    "toolchain", Path(cpu.__file__).parents[1] / "targets" / "cpu" / "toolchain.py"
)
toolchain = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toolchain)

VOCAB, HIDDEN, RING, RATIO = 32, 4, 4, 3
SLEEP, FAIL_IN_WORKER, FAIL = 29, 30, 31
"""Tokens that make the toy sleep for 0.2 s, fail on a worker, fail; it never produces them."""

MARCH = {"x86_64": "x86-64-v3", "aarch64": "armv8-a"}


@functools.cache
def toy_library() -> Path:
    """The toy kernels and the native launcher, linked by the real tool chain."""
    folder = Path(tempfile.mkdtemp(prefix="firstlight-toy-"))
    source, object_ = Path(__file__).with_name("toy_kernels.c"), folder / "toy.o"
    driver = toolchain.drivers()[0]
    subprocess.run([*driver, "-O2", "-fPIC", "-c", str(source), "-o", str(object_)], check=True)
    toolchain.link([object_], folder / "model.so", MARCH[cpu.architecture()])
    return folder / "model.so"


def weights() -> dict[str, np.ndarray]:
    """The toy's weights: an embedding table [VOCAB] and an output head [VOCAB, HIDDEN]."""
    random = np.random.default_rng(61)
    return {
        "table": random.normal(size=VOCAB).astype(np.float32),
        "head": random.normal(size=(VOCAB, HIDDEN)).astype(np.float32),
    }


def expected_logits(ids: Sequence[int]) -> np.ndarray:
    """What the toy computes after each token, in numpy: float64 [n, VOCAB]."""
    table, head = (weights()[k].astype(np.float64) for k in ("table", "head"))
    values, total, rows = table[list(ids)], 0.0, []
    for p in range(len(ids)):
        total = 0.5 * total + values[p]
        mean = sum(values[q] * (1 + 0.1 * (p - q)) for q in range(max(0, p - RING + 1), p + 1))
        far = 0.0
        for w in range((p + 1) // RATIO):
            far = 0.9 * far + values[RATIO * w : RATIO * (w + 1)].sum() * RATIO
        logits = head @ [total, mean, far, 0.01 * p]
        logits[SLEEP:] = -100
        rows.append(logits)
    return np.array(rows)


def write_fake_artifact(
    folder: Path,
    *,
    context: int = 64,
    chunk: int = 5,
    eos: Sequence[int] = (),
    tokenizer: bool = False,
    entries: Sequence[str] = ("decode", "prefill", "score"),
    changes: dict[str, Any] | None = None,
) -> Path:
    """Write the toy as an artifact.

    ``changes`` maps dotted paths in the manifest to other values ({"target.launcher": "x"}).
    """
    for sub in ("code", "weights"):
        (folder / sub).mkdir(parents=True)
    (folder / "code/model.so").write_bytes(toy_library().read_bytes())
    plan = [TensorPlan(name, "F32", array.shape) for name, array in weights().items()]
    with SafetensorsWriter(folder / "weights/global.safetensors", plan) as out:
        for name, array in weights().items():
            out.write(name, array)
    (folder / "program.json").write_text(json.dumps(program(chunk, entries)))
    if tokenizer:
        (folder / "tokenizer.json").write_text(tokenizer_json())
    manifest = {
        "schema": 1,
        "kind": "firstlight-artifact",
        "name": "toy",
        "target": {
            "name": "cpu-toy",
            "launcher": "cpu",
            "requires": {"arch": cpu.architecture(), "features": []},
        },
        "model": {"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_ids": list(eos)},
        "limits": {"context": context, "chunk": chunk},
        "state": state_plan(context),
    }
    for path, value in (changes or {}).items():
        *parents, last = path.split(".")
        functools.reduce(dict.__getitem__, parents, manifest)[last] = value
    seal(folder, manifest)
    return folder


def seal(folder: Path, manifest: dict[str, Any] | None = None) -> None:
    """Write manifest.json with the files as they are now (and everything else as it was)."""
    manifest = manifest or json.loads((folder / "manifest.json").read_text())
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or path.name == "manifest.json":
            continue
        raw = path.read_bytes()
        record = {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
        if path.suffix == ".safetensors":
            header = raw[: 8 + int.from_bytes(raw[:8], "little")]
            record["header_sha256"] = hashlib.sha256(header).hexdigest()
        files[path.relative_to(folder).as_posix()] = record
    write_manifest(folder, **{**manifest, "files": files})


def write_manifest(folder: Path, **changes: Any) -> None:
    """Change fields of manifest.json (or write all of them) and its digest."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text()) if path.exists() else {}
    text = json.dumps({**manifest, **changes, "digest": "0" * 64}, indent=1)
    digest = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(text.replace("0" * 64, digest))


def state_plan(context: int) -> dict[str, Any]:
    """The state block: a ring, a partial block, a running sum (a ring of one), entries."""
    tensors, offset = [], 0
    for name, kind, rows, ratio, width, stored in (
        ("sum", "ring", 1, 0, 1, 1),
        ("ring", "ring", RING, 0, 2, RING),
        ("partial", "partial", RATIO, RATIO, 2, RATIO),
        ("entries", "entries", 0, RATIO, 2, context // RATIO),
    ):
        tensors.append(
            {"name": f"layers.0.{name}", "kind": kind, "rows": rows, "ratio": ratio}
            | {"width": width, "offset": offset, "bytes": 4 * width * stored}
        )
        offset += -(-4 * width * stored // 64) * 64
    return {"bytes": offset, "bytes_per_token": 8 / RATIO, "tensors": tensors}


def program(chunk: int, entries: Sequence[str]) -> dict[str, Any]:
    """program.json of the toy."""
    place, arena = {}, 0
    for name, nbytes in (
        ("tokens", 4 * chunk), ("pos", 4), ("slot", 4), ("last", 4),
        ("hidden", 4 * HIDDEN * chunk), ("logits", 4 * VOCAB * chunk),
    ):  # fmt: skip
        place[name] = arena
        arena += -(-nbytes // 64) * 64
    a = {name: f"a:{offset}" for name, offset in place.items()}
    step = [a["tokens"], a["pos"], "w:0", "s:0", "s:64", "s:128", "s:192", a["hidden"], "t"]
    guard = [a["tokens"], "t"]
    last = [a["hidden"], "w:1", a["last"], a["logits"]]
    every = [a["hidden"], "w:1", a["logits"], "t"]

    def entry(n: int, rows: int, head: list[Any]) -> dict[str, Any]:
        shapes = {"tokens": [n], "pos": [1], "slot": [1], "last": [1]}
        inputs = {k: {"offset": place[k], "shape": s} for k, s in shapes.items()}
        outputs = {"logits": {"offset": place["logits"], "shape": [rows, VOCAB]}}
        steps = [[0, step], [1, guard], head]
        return {"inputs": inputs, "outputs": outputs, "max_tokens": n, "steps": steps}

    all_entries = {
        "decode": entry(1, 1, [2, last]),
        "prefill": entry(chunk, 1, [2, last]),
        "score": entry(chunk, chunk, [3, every]),
    }
    file = "weights/global.safetensors"
    return {
        "schema": 1,
        "arena_bytes": arena,
        "kernels": ["step", "guard", "head_last", "head_all"],
        "signatures": [
            [*[["mul", "S", 4], 4, 4 * VOCAB], 4, 8 * RING, 8 * RATIO, 0, ["mul", "S", 16], "t"],
            [["mul", "S", 4], "t"],
            [["mul", "S", 16], 16 * VOCAB, 4, 4 * VOCAB],
            [["mul", "S", 16], 16 * VOCAB, ["mul", "S", 4 * VOCAB], "t"],
        ],
        "weights": [[file, "table"], [file, "head"]],
        "entries": {name: all_entries[name] for name in entries},
    }


def tokenizer_json() -> str:
    """A byte-level tokenizer of VOCAB tokens: letters, a space, and the two bytes of "é"."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = [chr(ord("a") + i) for i in range(VOCAB - 3)]
    tokens = [*letters[:26], "Ġ", "Ã", "©", "<sleep>", "<worker>", "<fail>"]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer.to_str()
