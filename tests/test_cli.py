"""The command line: what it prints where, and its exit statuses."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from firstlight import __version__, inspection
from firstlight.cli import run_command_line
from firstlight.console import Progress, render, size
from support.fake_artifact import SLEEP, seal, write_fake_artifact

FIRSTLIGHT = [sys.executable, "-m", "firstlight.cli"]
COMMANDS = ("compile", "run", "inspect", "compare", "targets", "new-target", "doctor", "verify")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact made by hand: these tests need no compiler."""
    return write_fake_artifact(tmp_path_factory.mktemp("toy") / "artifact", tokenizer=True)


def start(*arguments: str | Path, **variables: str) -> subprocess.Popen[bytes]:
    """The command line in a process of its own, both streams piped."""
    return subprocess.Popen(
        [*FIRSTLIGHT, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | variables,
    )


def json_of(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Any:
    """What a command that must succeed prints with --json; nothing may come beside it."""
    status = run_command_line([*map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    assert (status, err) == (0, "")
    return json.loads(out)


def refusal_of(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The code of the error a command must end in: four lines, status 1."""
    assert run_command_line(list(map(str, arguments))) == 1
    lines = capsys.readouterr().err.splitlines()[-4:]
    assert [line[:11] for line in lines[1:]] == ["  --> " + lines[1][6:11], "  because: ",
                                                "  try:     "]  # fmt: skip
    assert lines[0].startswith("error[F")
    return lines[0][6:10]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_the_exit_statuses(command: str, capsys: pytest.CaptureFixture[str]):
    assert run_command_line([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert "--json" in out
    assert "130  interrupted" in out


def test_version(capsys: pytest.CaptureFixture[str]):
    assert run_command_line(["--version"]) == 0
    assert capsys.readouterr().out.split()[-1] == __version__


@pytest.mark.parametrize(
    "line",
    [
        "frobnicate",
        "run",
        "run DIR",
        "run DIR --prompt x --tokens 1",
        "run DIR --tokens 1,two",
        "run DIR --tokens 1,1_0",
        "run DIR --tokens \N{ARABIC-INDIC DIGIT ONE},2",
        "run DIR --tokens 1,,2",
        "run DIR --tokens 1,--2",
        f"run DIR --tokens {'9' * 5000}",
        "run DIR --tokens 1 -n 0",
        "run DIR --tokens 1 -n many",
        "compile",
        "compile CHECKPOINT",
        "compile CHECKPOINT -o OUT --context 0",
        "compile CHECKPOINT -o OUT --numerics exact",
        "verify",
        "targets --unknown",
    ],
)
def test_a_wrong_command_line_is_status_2(line: str, capsys: pytest.CaptureFixture[str]):
    assert run_command_line(line.split()) == 2
    out, err = capsys.readouterr()
    assert (out, "Usage:" in err) == ("", True)


def test_a_prompt_that_is_no_text_is_a_wrong_command_line(toy: Path):
    assert run_command_line(["run", str(toy), "--prompt", "\udcff"]) == 2


# ---------------------------------------------------------------- run


def test_run_prints_token_ids(toy: Path, capsys: pytest.CaptureFixture[str]):
    assert run_command_line(["run", str(toy), "--tokens", "1,2,3", "-n", "6"]) == 0
    out, err = capsys.readouterr()
    assert len([int(t) for t in out.strip().split(",")]) == 6
    assert "tokens/s" in err


def test_run_streams_the_text_of_the_same_tokens(toy: Path, capsys: pytest.CaptureFixture[str]):
    assert run_command_line(["run", str(toy), "--prompt", "abc", "-n", "9", "-q"]) == 0
    out, err = capsys.readouterr()
    document = json_of(capsys, "run", toy, "--prompt", "abc", "-n", "9")
    assert (out, err) == (document["text"] + "\n", "")
    ids = ",".join(map(str, document["prompt_ids"]))
    assert json_of(capsys, "run", toy, "--tokens", ids, "-n", "9")["ids"] == document["ids"]
    assert len(document["ids"]) == 9


def test_run_draws_the_same_tokens_from_the_same_seed(
    toy: Path, capsys: pytest.CaptureFixture[str]
):
    how = ["--tokens", "1,2", "-n", "20", "--temperature", "3", "--top-k", "20", "--seed"]
    first, again, other = (json_of(capsys, "run", toy, *how, seed)["ids"] for seed in "778")
    assert first == again != other


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--tokens", "1,99999"], "F605"),
        (["--tokens", "1, -5"], "F605"),
        (["--tokens", "1", "--temperature", "nan"], "F620"),
        (["--tokens", "1", "--top-p", "7"], "F620"),
        (["--tokens", "1", "--seed", "-1"], "F620"),
        (["--prompt", "abc" * 40], "F607"),
    ],
)
def test_run_refuses_before_it_prints(
    arguments: list[str], code: str, toy: Path, capsys: pytest.CaptureFixture[str]
):
    assert run_command_line(["run", str(toy), *arguments]) == 1
    assert capsys.readouterr().out == ""
    assert refusal_of(capsys, "run", toy, *arguments) == code


def test_an_empty_prompt_is_refused_where_the_tokenizer_adds_bos(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    from tokenizers import Tokenizer, processors

    artifact = write_fake_artifact(tmp_path / "artifact", tokenizer=True)
    tokenizer = Tokenizer.from_file(str(artifact / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing("b $A", special_tokens=[("b", 1)])
    tokenizer.save(str(artifact / "tokenizer.json"))
    seal(artifact)
    assert json_of(capsys, "run", artifact, "--prompt", "a", "-n", "1")["prompt_ids"] == [1, 0]
    assert refusal_of(capsys, "run", artifact, "--prompt", "") == "F606"


def test_run_keeps_what_was_written_when_the_context_is_full(
    toy: Path, capsys: pytest.CaptureFixture[str]
):
    assert run_command_line(["run", str(toy), "--tokens", "1", "-n", "1000"]) == 1
    out, err = capsys.readouterr()
    assert len(out.split(",")) == 64  # the toy's context
    assert err.startswith("error[F607]")


def test_text_needs_a_tokenizer_and_tokens_do_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    bare = write_fake_artifact(tmp_path / "artifact")
    assert refusal_of(capsys, "run", bare, "--prompt", "x") == "F630"
    assert json_of(capsys, "run", bare, "--tokens", "1", "-n", "2")["ids"]


def test_run_survives_a_terminal_that_is_not_utf8(toy: Path):
    process = start("run", toy, "--prompt", "abc", "-n", "30", PYTHONIOENCODING="ascii")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.isascii()


def test_run_needs_no_compiler(toy: Path):
    blocked = ("tvm", "tvm_ffi", "networkx", "ml_dtypes", "onnx", "torch", "firstlight.ir",
               "firstlight.frontend", "firstlight.passes", "firstlight.codegen")  # fmt: skip
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked!r}))\n"
        "from firstlight.cli import run_command_line\n"
        f"sys.exit(run_command_line(['run', {str(toy)!r}, '--prompt', 'abc', '-n', '3']))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---------------------------------------------------------------- statuses


@pytest.mark.parametrize(
    ("number", "status", "says"), [(signal.SIGINT, 130, "interrupted\n"), (signal.SIGTERM, 143, "")]
)
def test_signals_have_a_status_and_no_traceback(number: int, status: int, says: str, toy: Path):
    process = start("run", toy, "--tokens", ",".join([str(SLEEP)] * 40))
    time.sleep(1.5)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err.decode()) == (status, says)


def test_a_reader_that_goes_away_is_status_141(tiny_checkpoint: Path):
    process = start("inspect", tiny_checkpoint)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    assert (process.wait(timeout=30), err) == (141, b"")


@pytest.mark.parametrize(
    ("error", "status", "first"),
    [
        (ValueError("oops"), 70, "firstlight has a bug: ValueError: oops"),
        (OSError(28, "No space left on device", "/x"), 1, "error[F702]: the operating system"),
        (MemoryError(), 1, "error[F703]: there is not enough memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_whatever_is_raised_has_a_status_and_no_traceback(
    error: BaseException, status: int, first: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    def broken() -> dict[str, Any]:
        raise error

    monkeypatch.delenv("FIRSTLIGHT_DEBUG", raising=False)
    monkeypatch.setattr(inspection, "inspect_machine", broken)
    assert run_command_line(["doctor"]) == status
    err = capsys.readouterr().err
    assert err.strip().startswith(first)
    assert "Traceback" not in err
    monkeypatch.setenv("FIRSTLIGHT_DEBUG", "1")
    assert run_command_line(["doctor"]) == status
    assert ("Traceback" in capsys.readouterr().err) == isinstance(error, Exception)


def test_compile_says_which_extra_to_install(tmp_path: Path, tiny_checkpoint: Path):
    code = (
        "import sys; sys.modules['tvm'] = None\n"
        "from firstlight.cli import run_command_line\n"
        f"sys.exit(run_command_line(['compile', {str(tiny_checkpoint)!r}, '-o', 'out']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error[F701]")
    assert "pip install 'firstlight[compile]'" in done.stderr
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- inspect, verify, doctor, targets


def test_inspect_a_checkpoint(tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]):
    document = json_of(capsys, "inspect", tiny_checkpoint)
    assert document["kind"] == "checkpoint"
    assert {(row["kind"], row["ratio"], row["layers"]) for row in document["layers"]} == {
        ("window", 0, "0"), ("csa", 4, "1, 3, 5"), ("hca", 32, "2, 4")}  # fmt: skip
    numbers = {row["codec"]: row["numbers"] for row in document["codecs"]}
    # Its model card counts what was trained: without the expert biases of the 5 scored layers.
    assert sum(n for codec, n in numbers.items() if codec != "i64") == 13_300_681 + 5 * 16
    assert document["left_aside"][0]["tensors"] > 0


def test_inspect_a_bare_config(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
):
    config = tmp_path / "config.json"
    config.write_bytes((tiny_checkpoint / "config.json").read_bytes())
    for path in (tmp_path, config):
        document = json_of(capsys, "inspect", path)
        assert document["weights"] == "none here"
        assert document["number_of_layers"] == 6


def test_inspect_an_artifact(toy: Path, capsys: pytest.CaptureFixture[str]):
    document = json_of(capsys, "inspect", toy)
    assert document["target"] == "cpu-toy"
    assert "do not prove origin" in document["note"]
    assert {f["file"] for f in document["files"]} > {"program.json", "code/model.so"}
    assert run_command_line(["inspect", str(toy)]) == 0
    assert "an artifact is native code" in capsys.readouterr().out


def test_inspect_refuses_other_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert refusal_of(capsys, "inspect", tmp_path) == "F704"
    assert refusal_of(capsys, "inspect", tmp_path / "nowhere") == "F704"


def test_inspect_draws_the_graph_of_a_checkpoint(
    tmp_path: Path, toy: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out.dot"
    assert refusal_of(capsys, "inspect", toy, "--graph", out) == "F705"
    assert run_command_line(["inspect", str(tiny_checkpoint), "--graph", str(out)]) == 0
    text = out.read_text()
    assert text.startswith("digraph firstlight {")
    assert "hybrid_attention" in text
    assert text.count("{") == text.count("}")


def test_verify_finds_one_changed_byte(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    artifact = write_fake_artifact(tmp_path / "artifact")
    assert json_of(capsys, "verify", artifact)["ok"] is True
    weights = artifact / "weights/global.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    assert refusal_of(capsys, "verify", artifact) == "F504"
    assert run_command_line(["verify", str(artifact), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert [d["file"] for d in document["damaged"]] == ["weights/global.safetensors"]


def test_doctor(capsys: pytest.CaptureFixture[str]):
    document = json_of(capsys, "doctor")
    assert document["cpu"]["usable_cores"] >= 1
    assert document["memory"]["free_disk_here_bytes"] > 0
    assert document["packages"]["numpy"]
    assert document["targets"]


def test_targets(capsys: pytest.CaptureFixture[str]):
    document = json_of(capsys, "targets")
    assert document["broken"] == []
    assert {row["target"] for row in document["targets"]} >= {"cpu-x86-64-v3", "cpu-x86-64-v4"}


# ---------------------------------------------------------------- compile


def test_compile_prints_plain_progress_and_a_report(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "artifact"
    arguments = ["compile", str(tiny_checkpoint), "-o", str(out), "--context", "256"]
    assert run_command_line([*arguments, "--dump-ir", str(tmp_path / "ir")]) == 0
    captured = capsys.readouterr()
    assert "weights: done in" in captured.err
    assert captured.out.startswith(f"{out}: ")
    assert len(list((tmp_path / "ir").iterdir())) > 3
    assert refusal_of(capsys, *arguments) == "F420"
    assert json_of(capsys, "run", out, "--prompt", "import", "-n", "4")["text"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["artifact", "ir"]


def test_compile_plans_without_writing(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
):
    config = tmp_path / "config.json"
    config.write_bytes((tiny_checkpoint / "config.json").read_bytes())
    whole = json_of(capsys, "compile", tiny_checkpoint, "--dry-run")
    alone = json_of(capsys, "compile", tmp_path, "--dry-run")
    assert whole["state_bytes"] == alone["state_bytes"] > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--target", "abacus"], "F430"),
        (["--numerics", "fast", "--target", "cpu-riscv64"], "F4"),
        (["--context", "99999999"], "F4"),
        (["--pipeline", "make-coffee"], "F3"),
    ],
)
def test_compile_refuses(
    arguments: list[str], code: str, tmp_path: Path, tiny_checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    out = tmp_path / "artifact"
    assert refusal_of(capsys, "compile", tiny_checkpoint, "-o", out, *arguments).startswith(code)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- console


def test_render():
    document = {
        "name": "x",
        "weight_bytes": 13_000_000,
        "rows": [{"a": 1, "b": "y"}, {"a": 10}],
        "nested": {"flag": True, "empty": [], "counts": {"add": 2, "mul": 3}},
        "named": {"linear": {"count": 7, "how": "native"}, "rope": {"count": 1, "how": "generic"}},
    }
    assert render(document) == """\
name    x
weight  13.0 MB

rows
   a  b
   1  y
  10

nested
  flag    yes
  empty   -
  counts  add 2, mul 3

named
  name    count  how
  linear      7  native
  rope        1  generic"""


def test_sizes():
    assert [size(n) for n in (0, 999, 1000, 8.65e11, 2e15)] == [
        "0 B", "999 B", "1.0 kB", "865.0 GB", "2000.0 TB"]  # fmt: skip


def test_progress_says_each_stage_once(capsys: pytest.CaptureFixture[str]):
    with Progress() as progress:
        for stage, total in (("plan", 3), ("weights", 50)):
            for done in range(total):
                progress(stage, done, total)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" in ")[0] for line in lines] == ["plan: done", "weights: done"]
    with Progress(quiet=True) as progress:
        progress("plan", 0, 1)
    assert capsys.readouterr().err == ""
