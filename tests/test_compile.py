"""`compile` from end to end: what it refuses, what an interrupt leaves, what it writes."""

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from firstlight import targets
from firstlight.cli import run_command_line
from firstlight.codegen import weights
from firstlight.compiler import CompileOptions, compile_checkpoint, plan_checkpoint
from firstlight.runtime import load
from firstlight.runtime.errors import FirstlightError
from support.backends import ArtifactBackend, InterpreterBackend, compare
from support.random_models import random_config, random_tensors, token_ids, write_checkpoint
from support.stored import Stored, dequantise, store_bf16, store_fp4, store_fp8

ROOT = Path(__file__).parents[1]
TOLERANCE = 5e-5
CONTEXT = 48
SMALL = random_config(5, layers="ch", csa=4, hca=8, hidden_size=96, moe_intermediate_size=32,
                      num_hash_layers=1)  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model in the released layout; ratios 4 and 8."""
    folder = tmp_path_factory.mktemp("small") / "checkpoint"
    return write_checkpoint(folder, SMALL, random_tensors(SMALL, 5))


@pytest.fixture
def no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's target with kernels of three bytes: nothing is lowered, nothing is linked."""
    def build(kernels: Mapping[str, Any], folder: Path, jobs: int | None) -> list[Path]:
        (folder / "code").mkdir()
        (folder / "code" / "model.so").write_bytes(b"ELF")
        return [folder / "code" / "model.so"]

    target = dataclasses.replace(targets.find("cpu"), build=build)
    monkeypatch.setattr(targets, "find", lambda name: target)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes()
            for p in sorted(folder.rglob("*")) if p.is_file()}  # fmt: skip


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("code", "options"),
    [
        ("F402", {"context": 0}),
        ("F402", {"context": -1}),
        ("F402", {"context": 4097}),
        ("F402", {"chunk": 0}),
        ("F402", {"context": 8, "chunk": 9}),
        ("F402", {"kernels": "fastest"}),
        ("F106", {"numerics": "exact"}),
        ("F403", {"numerics": "fast", "kernels": "generic"}),
        ("F403", {"numerics": "fast", "target": "cpu-aarch64"}),
        ("F301", {"pipeline": "canonicalize,make-coffee"}),
        ("F301", {"pipeline": "canonicalize{"}),
        ("F301", {"pipeline": "legalize{ops=nope}"}),
        ("F402", {"pipeline": "canonicalize,specialize{tokens=1}"}),
        ("F430", {"target": "abacus"}),
    ],
    ids=lambda value: str(value),
)
def test_options_are_refused_and_nothing_is_written(code, options, checkpoint, tmp_path):
    with pytest.raises(FirstlightError) as caught:
        compile_checkpoint(checkpoint, tmp_path / "out", CompileOptions(**options))
    assert caught.value.code == code
    assert len(str(caught.value).splitlines()) == 4
    with pytest.raises(FirstlightError, match=code):
        plan_checkpoint(checkpoint, CompileOptions(**options))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", [".", "..", "weights"])
def test_an_artifact_cannot_replace_its_checkpoint(out, tmp_path, no_code):
    """Not even by force, and not even where an artifact's manifest lies above it."""
    folder = write_checkpoint(tmp_path / "weights", SMALL, random_tensors(SMALL, 5))
    for place in (folder, tmp_path):
        (place / "manifest.json").write_text('{"kind": "firstlight-artifact"}')
    before = contents(tmp_path)
    path = folder / out if out != "weights" else folder
    with pytest.raises(FirstlightError) as caught:
        compile_checkpoint(folder, path, CompileOptions(force=True))
    assert (caught.value.code, "remove" in caught.value.why) == ("F420", True)
    assert contents(tmp_path) == before


def test_what_is_in_the_way_is_refused_before_the_work(checkpoint, tmp_path, no_code):
    (tmp_path / "out").write_text("a file")
    stages: list[str] = []
    with pytest.raises(FirstlightError, match="in the way"):
        compile_checkpoint(checkpoint, tmp_path / "out", None, lambda s, d, t: stages.append(s))
    assert stages == []


def test_what_cannot_be_written_is_refused_before_the_work(checkpoint, tmp_path, no_code):
    stages: list[str] = []
    for out in ("x" * 300, "file/out"):
        (tmp_path / "file").touch()
        with pytest.raises(FirstlightError, match="F421"):
            compile_checkpoint(checkpoint, tmp_path / out, None, lambda s, d, t: stages.append(s))
    assert stages == []


@pytest.mark.parametrize(
    ("generation", "eos"),
    [
        (None, [1]),
        ({}, [1]),
        ({"eos_token_id": None}, [1]),
        ({"eos_token_id": 7}, [7]),
        ({"eos_token_id": [2, 7]}, [2, 7]),
        *(({"eos_token_id": wrong}, "F104") for wrong in ("x", -1, True, 99999, [1, None], 1.0)),
    ],
)
def test_the_eos_of_a_generation_config(generation, eos, tmp_path, no_code):
    config = {**SMALL, "eos_token_id": 1}
    folder = write_checkpoint(tmp_path / "c", config, random_tensors(config, 5))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    if eos == "F104":
        with pytest.raises(FirstlightError, match=eos) as caught:
            compile_checkpoint(folder, tmp_path / "out", CompileOptions(context=CONTEXT))
        assert caught.value.where.endswith("generation_config.json")
        return
    compile_checkpoint(folder, tmp_path / "out", CompileOptions(context=CONTEXT))
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["model"]["eos_token_ids"] == eos


# ---------------------------------------------------------------- what is written


def test_an_artifact_may_lie_in_the_checkpoints_folder(tmp_path, no_code):
    """And the next compile of that checkpoint does not take it for weights."""
    folder = write_checkpoint(tmp_path / "c", SMALL, random_tensors(SMALL, 5))
    compile_checkpoint(folder, folder / "out", CompileOptions(context=CONTEXT))
    compile_checkpoint(folder, tmp_path / "other", CompileOptions(context=CONTEXT))
    assert contents(folder / "out") == contents(tmp_path / "other")


def test_force_replaces_the_whole_artifact(checkpoint, tmp_path, no_code):
    out = tmp_path / "out"
    compile_checkpoint(checkpoint, out, CompileOptions(context=CONTEXT))
    (out / "of the old one").touch()
    compile_checkpoint(checkpoint, out, CompileOptions(context=CONTEXT - 1, force=True))
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["limits"]["context"] == CONTEXT - 1
    assert set(manifest["files"]) == set(contents(out)) - {"manifest.json"}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_progress_goes_through_the_stages_in_order(checkpoint, tmp_path, no_code):
    seen: list[tuple[str, int, int]] = []
    compile_checkpoint(checkpoint, tmp_path / "out", CompileOptions(context=CONTEXT),
                       lambda *state: seen.append(state))  # fmt: skip
    assert list(dict.fromkeys(stage for stage, *_ in seen)) == [
        "read", "trace", "passes", "plan", "kernels", "weights"]  # fmt: skip
    assert all(0 <= done <= total for _, done, total in seen)
    for stage in ("kernels", "weights"):
        counts = [(done, total) for name, done, total in seen if name == stage]
        assert counts == sorted(counts)
        assert counts[-1][0] == counts[-1][1] > 0


def test_streams(checkpoint, tmp_path, no_code, capsys):
    """Progress on standard error, results on standard output; -q, -v and --json."""
    def run(*more: str) -> tuple[str, str]:
        arguments = ["compile", str(checkpoint), "-o", str(tmp_path / "out"), "--force", *more]
        assert run_command_line(arguments) == 0
        return capsys.readouterr()

    out, err = run()
    assert out.startswith(f"{tmp_path / 'out'}: ")
    assert out.count("\n") == 1
    assert "weights: done in" in err
    assert run("-q") == ("", "")
    out, err = run("-v")
    assert "arena" in out
    assert "weights: done in" in err
    out, err = run("--json")
    assert (json.loads(out)["context"], err) == (4096, "")
    out, err = run("--dry-run", "-q")
    assert "arena" in out


@pytest.fixture(scope="module")
def compiled_here(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model, compiled in this process by one thread."""
    out = tmp_path_factory.mktemp("here") / "out"
    compile_checkpoint(checkpoint, out, CompileOptions(context=CONTEXT, chunk=16, threads=1))
    return out


def test_the_same_input_gives_the_same_bytes(compiled_here, checkpoint, tmp_path):
    """Another copy, folder, hash seed, user's mask of permissions and number of threads."""
    copy = tmp_path / "copied"
    copy.mkdir()
    for name, data in contents(checkpoint).items():
        (copy / name).write_bytes(data)
    subprocess.run(
        [sys.executable, "-m", "firstlight.cli", "compile", "copied", "-o", "a b/out", "-q",
         "--context", str(CONTEXT), "--chunk", "16", "--threads", "3"],
        cwd=tmp_path, env=os.environ | {"PYTHONHASHSEED": "7"}, check=True, umask=0o077,
    )  # fmt: skip
    here, there = contents(compiled_here), contents(tmp_path / "a b" / "out")
    assert list(here) == list(there)
    assert [name for name in here if here[name] != there[name]] == []


def test_no_file_names_a_place_of_this_machine(compiled_here, checkpoint):
    places = [str(p).encode() for p in (ROOT, checkpoint.parent, compiled_here.parent, Path.home())
              if len(str(p)) > 1] + [b"/tmp/", b"firstlight-link"]  # fmt: skip
    found = [(name, place) for name, data in contents(compiled_here).items() for place in places
             if place in data]  # fmt: skip
    assert found == []


# ---------------------------------------------------------------- interrupts and full disks

SLOW = '''
import dataclasses, pathlib, subprocess, sys, time
from firstlight import cli, targets
from firstlight.codegen import weights

where, here = sys.argv[1], pathlib.Path(sys.argv[2])
SLEEP = [sys.executable, "-c", "import time; time.sleep(90)"]

def build(kernels, folder, jobs):
    (folder / "code").mkdir()
    (folder / "code" / "half.o").touch()
    if where == "kernels":
        sleeper = subprocess.Popen(SLEEP)
        (here / "reached").touch()
        sleeper.wait()

def write(*rest):
    (here / "reached").touch()
    time.sleep(90)

target = dataclasses.replace(targets.find("cpu"), build=build)
targets.find = lambda name: target
if where == "weights":
    weights._write = write
sys.argv[1:] = ["compile", sys.argv[3], "-o", str(here / "deep" / "out"), "--threads", "2"]
cli.main()
'''


def processes(mark: str) -> list[int]:
    """Processes that have `mark` in their environment and have not ended."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state = (folder / "stat").read_text().rsplit(")", 1)[1].split()[0]
            if mark.encode() in (folder / "environ").read_bytes() and state != "Z":
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("where", "whom", "number", "status"),
    [("kernels", "group", signal.SIGINT, 130), ("weights", "group", signal.SIGINT, 130),
     ("kernels", "process", signal.SIGINT, 130), ("kernels", "process", signal.SIGTERM, 143),
     ("weights", "process", signal.SIGINT, 130), ("weights", "process", signal.SIGTERM, 143)],
)  # fmt: skip
def test_an_interrupt_leaves_nothing(where, whom, number, status, checkpoint, tmp_path):
    """Ctrl+C reaches the whole group, `kill` one process; no file, process or traceback stays."""
    mark = f"FIRSTLIGHT_TEST={tmp_path.name}.{os.getpid()}"
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, where, str(tmp_path), str(checkpoint)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        env=os.environ | dict([mark.split("=")]),
    )  # fmt: skip
    for _ in range(1200):
        if (tmp_path / "reached").exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    assert len(processes(mark)) >= 1
    for _ in range(2):  # impatient people press it twice
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if whom == "group" else os.kill)(process.pid, number)
        time.sleep(0.05)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert (out, b"Traceback" in err) == (b"", False)
    if number == signal.SIGINT:
        assert err.splitlines()[-1] == b"interrupted"
    assert [p.name for p in tmp_path.iterdir()] == ["reached"]
    assert processes(mark) == []


def test_a_disk_that_fills_up_with_weights(checkpoint, tmp_path, no_code, monkeypatch, capsys):
    emit = weights.SafetensorsWriter._emit

    def full(self: weights.SafetensorsWriter, data: Any) -> None:
        if self._bytes > 10_000:
            raise OSError(28, "No space left on device", str(self.path))
        emit(self, data)

    monkeypatch.setattr(weights.SafetensorsWriter, "_emit", full)
    out = tmp_path / "deep" / "out"
    assert run_command_line(["compile", str(checkpoint), "-o", str(out), "-q"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "error[F421]: the artifact cannot be written"
    assert (len(lines), "No space left on device" in lines[2]) == (4, True)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_with_code(checkpoint, tmp_path):
    """LLVM aborts then; no file may grow beyond 4 kB here, so it meets that first."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "from firstlight import cli; cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "compile", str(checkpoint), "-o", str(tmp_path / "out"), "-q"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = done.stderr.splitlines()
    assert (done.returncode, len(lines)) == (1, 4)
    assert lines[0] == "error[F421]: the artifact cannot be written"
    assert "File too large" in lines[2]
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- what the artifact computes


def gaps(config: dict[str, Any], tensors: Mapping[str, Stored], work: Path, context: int = CONTEXT,
         chunk: int = 16, **options: Any) -> tuple[float, float]:  # fmt: skip
    """Largest logit differences of an artifact by every route: to the interpreter, to itself."""
    folder = write_checkpoint(work / "checkpoint", config, tensors)
    ids = token_ids(config, context, seed=1)
    # the interpreter does not run a capacity of no entries
    want = InterpreterBackend().open(folder, 64, 64).session().prefill(ids, all_logits=True)
    model = ArtifactBackend(work, options).open(folder, context, chunk)
    seen = compare(model, ids, want, config)
    return seen.reference, seen.itself


def mixed(tensors: Mapping[str, Stored], seed: int) -> Iterator[tuple[str, Stored]]:
    """Every tensor in a codec of its own (experts of one matrix in the same), drawn by its name."""
    for name, value in dequantise(tensors).items():
        key = re.sub(r"experts\.\d+", "experts", name)
        draw = ("fp8", "fp4", "bf16", "f16", "f32")[zlib.crc32(f"{seed} {key}".encode()) % 5]
        if draw in ("fp8", "fp4") and not (value.ndim == 2 and name.endswith(".weight")):
            draw = "f16"
        if value.dtype == np.int64:
            yield name, tensors[name]
        elif draw in ("fp8", "fp4"):
            packs = draw == "fp4" and value.shape[1] % 32 == 0
            codes, scales = (store_fp4 if packs else store_fp8)(value)
            yield name, codes
            yield name.removesuffix("weight") + "scale", scales
        elif draw == "bf16":
            yield name, store_bf16(value)
        else:
            dtype = np.float16 if draw == "f16" else np.float32
            yield name, Stored(draw.upper(), value.astype(dtype))


ODD = random_config(7, layers="cwh", csa=4, hca=16, num_experts_per_tok=8, n_routed_experts=16,
                    hc_mult=3, num_hash_layers=2, q_lora_rank=50, o_lora_rank=20, hidden_size=72,
                    vocab_size=509, moe_intermediate_size=40)  # fmt: skip
TILES = random_config(9, layers="wch", csa=2, hca=4, num_experts_per_tok=1, hc_mult=2,
                      num_hash_layers=1, q_lora_rank=130, hidden_size=200, o_lora_rank=33,
                      moe_intermediate_size=144)  # fmt: skip
PACKED = random_config(21, layers="wch", csa=4, hca=8, hidden_size=160, num_experts_per_tok=6,
                       n_routed_experts=8, hc_mult=4, num_hash_layers=1, q_lora_rank=64,
                       moe_intermediate_size=96)  # fmt: skip


@pytest.mark.parametrize(
    ("config", "tensors"),
    [
        pytest.param(ODD, random_tensors(ODD, 3, "f16"), id="f16, 8 experts, odd sizes"),
        pytest.param(TILES, random_tensors(TILES, 3, "fp8"), id="fp8, 1 expert, several tiles"),
        pytest.param(PACKED, dict(mixed(random_tensors(PACKED, 3), 1)), id="every codec at once"),
    ],
)
def test_codecs_and_sizes(config, tensors, tmp_path):
    """Prefill, chunks and decode of the default kernels against the interpreter."""
    assert max(gaps(config, tensors, tmp_path)) <= TOLERANCE


@pytest.mark.parametrize(
    ("context", "chunk", "options"),
    [(24, 5, {"pipeline": ""}), (3, 2, {}), (7, 1, {})],
    ids=["nothing is fused", "shorter than every ratio", "one token at a time"],
)
def test_limits_and_pipelines(context, chunk, options, tmp_path):
    """A context below the ratios has no entries at all; no pass is needed for a right result."""
    tensors = random_tensors(SMALL, 5)
    assert max(gaps(SMALL, tensors, tmp_path, context, chunk, **options)) <= TOLERANCE


def test_a_context_of_one_token(checkpoint, tmp_path):
    compile_checkpoint(checkpoint, tmp_path / "out", CompileOptions(context=1))
    with load(tmp_path / "out", threads=1) as model:
        session = model.session()
        assert np.isfinite(session.prefill([3])).all()
        with pytest.raises(FirstlightError) as caught:
            session.decode(3)
    assert caught.value.code.startswith("F6")
