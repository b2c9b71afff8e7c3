"""The command line: `firstlight compile | run | inspect | compare | targets | ...`.

Nothing imports this file. It imports what a command needs when the command runs, so that `run`
works where the compiler is not installed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from firstlight import __version__
from firstlight.console import (
    FOLDER,
    STATUSES,
    Progress,
    compiler_needed,
    emit,
    json_option,
    new_file,
    no_compiler,
    size,
)
from firstlight.measure.commands import bench_command, quality_command, tune_command
from firstlight.measure.estimate import estimate_command
from firstlight.runtime.errors import FirstlightError
from firstlight.targets import COMPILER_PACKAGES

if TYPE_CHECKING:
    from firstlight.runtime.session import Session

REFUSED, WRONG_USE, BUG, INTERRUPTED, BROKEN_PIPE, TERMINATED = 1, 2, 70, 130, 141, 143


def main() -> NoReturn:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that is not UTF-8 gets "?", not an error
            stream.reconfigure(errors="replace")
    # As Ctrl+C does, a polite kill and a closed terminal remove half-made files on the way out.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or in the background
            signal.signal(number, _stop)
    sys.exit(run_command_line(sys.argv[1:]))


def _stop(number: int, _: object) -> NoReturn:
    """End by a signal, once: a second one must not interrupt the cleaning up."""
    signal.signal(number, signal.SIG_IGN)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def run_command_line(arguments: Sequence[str]) -> int:
    """Run one command line; its exit status, as `STATUSES` lists them. Never raises Exception."""
    try:
        # Not `cli.main`: it has its own idea of what a broken pipe and Ctrl+C mean.
        with cli.make_context("firstlight", list(arguments)) as context:
            cli.invoke(context)
        sys.stdout.flush()
        return 0
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.ClickException as error:
        error.show()
        return WRONG_USE
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        # Python would flush once more at exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except Exception as error:
        if os.environ.get("FIRSTLIGHT_DEBUG"):
            traceback.print_exc()
        click.echo(_explain(error), err=True)
        return BUG if _is_bug(error) else REFUSED


def _is_bug(error: Exception) -> bool:
    return not isinstance(error, FirstlightError | OSError | MemoryError)


def _explain(error: Exception) -> str:
    """The four lines for an error; for one that should not have come, a short apology."""
    if isinstance(error, MemoryError):
        error = FirstlightError(
            "F703",
            "there is not enough memory",
            where="this process",
            why=str(error) or "an allocation failed",
            try_="a smaller --context, or a machine with more memory (see `firstlight doctor`)",
        )
    elif isinstance(error, OSError):
        error = FirstlightError(
            "F702",
            "the operating system refused",
            where=str(error.filename or "this process"),
            why=error.strerror or str(error),
            try_="check the path, its permissions and the free space",
        )
    if isinstance(error, FirstlightError):
        return str(error)
    return (
        f"firstlight has a bug: {type(error).__name__}: {str(error)[:500]}\n"
        "  please report it with the output of the same command under FIRSTLIGHT_DEBUG=1"
    )


@click.group(epilog=STATUSES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="firstlight")
def cli() -> None:
    """Compile DeepSeek-V4 checkpoints ahead of time, and run what was compiled."""


def _pairs(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    if not all(key and sign for key, sign, _ in pairs):
        raise click.BadParameter("expected KEY=VALUE")
    return {key: value for key, _, value in pairs}


@cli.command("compile", epilog=STATUSES)
@click.argument("checkpoint", type=FOLDER)
@click.option("--target", help="See `firstlight targets`. [default: this machine's]")
@click.option("-o", "--out", type=FOLDER, help="Folder to write the artifact to.")
@click.option("--context", type=click.IntRange(min=1), metavar="N",
              help="Most tokens of a sequence. [default: what the model has, at most 32768]")
@click.option("--chunk", type=click.IntRange(min=1), metavar="N",
              help="Tokens per prefill call.")
@click.option("--numerics", type=click.Choice(["float", "fast", "released"]), default="float",
              show_default=True, help="Arithmetic: all float32; the target's fastest kernels, some "
              "of which round activations to 16 bits; or float32 with the released roundings.")
@click.option("--kernels", type=click.Choice(["default", "generic"]), default="default",
              show_default=True, help="`generic` leaves the target's own kernels out.")
@click.option("--quantize", default="shipped", show_default=True, metavar="POLICY",
              help="How weights are stored: int8-g32, or by role, experts=int4-g32,head=fp8.")
@click.option("--calibrate", type=FOLDER, metavar="FILE",
              help="A text (or .json, see `quality`) that tells which columns of a weight matter "
              "most where --quantize chooses scales; the checkpoint is interpreted on it, slowly.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", callback=_pairs,
              help="A choice that the target offers (see `firstlight targets NAME`).")
@click.option("--dim", "dims", multiple=True, metavar="NAME=N", callback=_pairs,
              help="A symbolic size of an ONNX model: a number, or ..N (any up to N) for one.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads of the compiler.")
@click.option("--pipeline", metavar="TEXT", help="Passes to run, instead of the usual ones.")
@click.option("--dump-ir", type=FOLDER, metavar="DIR", help="Write the module after each pass.")
@click.option("--runner", is_flag=True,
              help="Also write firstlight-run, which runs the artifact without Python.")
@click.option("--force", is_flag=True, help="Replace an artifact that is already there.")
@click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")
@click.option("-v", "--verbose", is_flag=True, help="Print the whole report.")
@click.option("-q", "--quiet", is_flag=True, help="Print no progress and no summary.")
@json_option
def compile_command(
    checkpoint: Path, out: Path | None, dry_run: bool, verbose: bool, quiet: bool, as_json: bool,
    dims: dict[str, str], calibrate: Path | None, **choices: Any,
) -> None:  # fmt: skip
    """Compile a CHECKPOINT folder, or a model.onnx.

    The artifact is written under a temporary name and renamed at the end.
    """
    if out is None and not dry_run:
        raise click.UsageError("Missing option '-o' / '--out' (or give --dry-run).")
    with compiler_needed("compile"):
        from firstlight.compiler import (
            CompileOptions,
            compile_checkpoint,
            plan_checkpoint,
            refuse_calibrating,
        )
        from firstlight.onnx_compiler import compile_onnx

        options: CompileOptions = CompileOptions(**choices)
        from_onnx = checkpoint.suffix == ".onnx"
        if dims and not from_onnx:
            raise click.UsageError("--dim is for ONNX models.")
        if calibrate and from_onnx:
            raise click.UsageError("--calibrate is for checkpoints.")
        if out is None or dry_run:
            emit(compile_onnx(checkpoint, None, options, dims) if from_onnx
                 else plan_checkpoint(checkpoint, options), as_json)
            return
        for package in sorted(COMPILER_PACKAGES):  # now, not after the passes
            if find_spec(package) is None:
                raise no_compiler("compile", package)
        began = time.perf_counter()
        with Progress(quiet or as_json) as progress:
            if calibrate:
                from firstlight.measure.calibrate import importance

                refuse_calibrating(checkpoint, out, options)
                progress("calibrate", 0, 1)
                options = replace(options, importance=importance(checkpoint, calibrate))
            report = (compile_onnx(checkpoint, out, options, dims, progress) if from_onnx
                      else compile_checkpoint(checkpoint, out, options, progress))
    report = {**report, "seconds": round(time.perf_counter() - began, 2)}
    if as_json or verbose:
        emit(report, as_json)
    elif not quiet:
        total = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
        click.echo(f"{out}: {size(total)}, in {report['seconds']:.1f} s")


def _token_ids(_: click.Context, __: click.Parameter, text: str | None) -> list[int] | None:
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    try:
        if all(w.isascii() and w.removeprefix("-").isdecimal() for w in words):  # no 1_0
            return list(map(int, words))
    except ValueError:  # thousands of digits
        pass
    raise click.BadParameter("expected token ids such as 1,2,3")


def _prompt(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise click.BadParameter("the text is not valid UTF-8") from error
    return text


@cli.command("run", epilog=STATUSES)
@click.argument("artifact", metavar="DIR", type=FOLDER)
@click.option("--prompt", metavar="TEXT", callback=_prompt, help="Text to continue.")
@click.option("--tokens", metavar="1,2,3", callback=_token_ids,
              help="Token ids to continue, instead of text; ids are printed, too.")
@click.option("-n", "--max-new-tokens", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--temperature", type=float, default=0.0, show_default=True,
              help="0 always takes the most likely token.")
@click.option("--top-k", type=int, help="Draw from the k most likely tokens.")
@click.option("--top-p", type=float, help="Draw from the most likely tokens of this probability.")
@click.option("--seed", type=int, help="Equal seeds draw equal tokens.")
@click.option("--ignore-eos", is_flag=True, help="Go on after the model's end-of-text token.")
@click.option("--threads", type=click.IntRange(min=1), help="[default: all usable cores]")
@click.option("--inputs", type=FOLDER, metavar="IN.npz",
              help="Arrays by name, for what was compiled from ONNX.")
@click.option("--outputs", type=FOLDER, callback=new_file, metavar="OUT.npz",
              help="Where its outputs go.")
@click.option("--profile", type=FOLDER, callback=new_file, metavar="F.json",
              help="Run kernel by kernel, which is slower, and write a timeline for Perfetto.")
@click.option("-q", "--quiet", is_flag=True, help="Print no timing on standard error.")
@json_option
def run_command(
    artifact: Path, prompt: str | None, tokens: list[int] | None, threads: int | None,
    inputs: Path | None, outputs: Path | None, profile: Path | None, quiet: bool, as_json: bool,
    **sampling: Any,
) -> None:  # fmt: skip
    """Continue a prompt with the artifact in DIR, or run what was compiled from ONNX.

    The text streams to standard output, timing goes to standard error.
    """
    if (inputs is None) != (outputs is None) or [prompt, tokens, inputs].count(None) != 2:
        raise click.UsageError("Give either --prompt, or --tokens, or --inputs and --outputs.")
    if inputs is not None and outputs is not None:
        from firstlight.runtime.graph import run_file

        emit(run_file(artifact, inputs, outputs, threads), as_json)
        return
    from firstlight.runtime import load

    with load(artifact, threads=threads) as model:
        if model.manifest.graph is not None:
            model.session()  # says what to do instead
        # BOS alone would be no empty prompt any more: refused as by `Session.generate`.
        ids = tokens if prompt is None else model.tokenizer.encode(prompt) if prompt else []
        assert ids is not None
        timeline = None
        if profile is not None:
            from firstlight.measure.timeline import Timeline

            timeline = Timeline(model)
        session = model.session() if timeline is None else timeline.session()
        try:
            result = _generate(session, ids, prompt is not None, not as_json, sampling)
        finally:
            if timeline is not None and profile is not None and timeline.events:
                timeline.write(profile)     # of what was run, also where the context became full
    if as_json:
        emit(result, as_json)
    elif not quiet:
        click.echo(f"[{result['prompt_tokens']} tokens read and the first written in "
                   f"{result['first_token_seconds']:.3f} s, then "
                   f"{result['tokens_per_second']:.1f} tokens/s on {result['threads']} threads]",
                   err=True)


def _generate(
    session: Session, ids: list[int], as_text: bool, stream: bool, sampling: Mapping[str, Any]
) -> dict[str, Any]:
    """Generate, printing while it goes if `stream`; what was written, and how fast."""
    model = session.model
    new: list[int] = []
    pieces: list[str] = []

    def write(piece: str) -> None:
        pieces.append(piece)
        if stream:
            click.echo(piece, nl=False)  # click flushes

    text = model.tokenizer.stream() if as_text else None
    generated = session.generate(ids, **sampling)  # refuses here, before any output
    began = first = time.perf_counter()
    try:
        for token in generated:
            first = first if new else time.perf_counter()
            new.append(token)
            write(text.push(token) if text else f"{',' if new[1:] else ''}{token}")
        write(text.finish() if text else "")
    finally:
        if stream:
            click.echo()
    later = time.perf_counter() - first
    return {
        "prompt_tokens": len(ids),
        "prompt_ids": ids,
        "ids": new,
        **({"text": "".join(pieces)} if as_text else {}),
        "first_token_seconds": round(first - began, 6),
        "tokens_per_second": round((len(new) - 1) / later, 2) if len(new) > 1 else 0.0,
        "threads": model.threads,
    }


@cli.command("inspect", epilog=STATUSES)
@click.argument("path", metavar="DIR|CHECKPOINT", type=FOLDER)
@click.option("--graph", type=FOLDER, callback=new_file, metavar="OUT.dot",
              help="Write the fused graph of a checkpoint for Graphviz.")
@click.option("--onnx", "onnx_file", type=FOLDER, callback=new_file, metavar="OUT.onnx",
              help="Write the fused graph as ONNX functions, to be looked at in a viewer.")
@json_option
def inspect_command(
    path: Path, graph: Path | None, onnx_file: Path | None, as_json: bool
) -> None:  # fmt: skip
    """Describe an artifact or a checkpoint.

    Only the artifact's manifest, or the checkpoint's config and headers, are read.
    """
    from firstlight.inspection import checkpoint_graph, inspect_path, readable_onnx

    document = inspect_path(path)
    if graph is not None:
        with compiler_needed("inspect --graph"):
            graph.write_text(checkpoint_graph(path), encoding="utf-8")
    if onnx_file is not None:
        with compiler_needed("inspect --onnx"):
            onnx_file.write_bytes(readable_onnx(path))
    emit(document, as_json)


@cli.command("compare", epilog=STATUSES)
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--prompt", metavar="TEXT", callback=_prompt, help="Text to read.")
@click.option("--tokens", metavar="1,2,3", callback=_token_ids,
              help="Token ids to read. [default: 48 that are always the same]")
@click.option("--checkpoint", type=FOLDER, metavar="CHECKPOINT",
              help="What `interpreter` and `transformers` read.")
@click.option("--tolerance", type=click.FloatRange(min=0), default=1e-4, show_default=True,
              help="Allowed difference, as a part of the largest number in an array.")
@click.option("--threads", type=click.IntRange(min=1), help="[default: all usable cores]")
@json_option
def compare_command(
    a: str, b: str, prompt: str | None, tokens: list[int] | None, checkpoint: Path | None,
    tolerance: float, threads: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Find the first value that A and B disagree about.

    Each is the folder of an artifact, `interpreter` (what the model means) or `transformers` (with
    PyTorch). A checkpoint folder stands for its interpreter. The exit status is 1 if they differ.
    """
    if prompt is not None and tokens is not None:
        raise click.UsageError("Give --prompt or --tokens, not both.")
    if a == b and a in ("interpreter", "transformers"):
        raise click.UsageError("A and B are the same.")
    with compiler_needed("compare"):
        from firstlight.comparison import compare, open_sides, token_ids

        with open_sides((a, b), checkpoint, threads) as sides:
            ids = token_ids(sides, prompt, tokens)
            report = compare(*sides, ids, tolerance)
            names = {"a": sides[0].name, "b": sides[1].name, "tokens": len(ids)}
    emit({**names, **report.document()}, as_json)
    if (first := report.first) is not None:
        at = ", ".join(map(str, first.gap.index))
        raise FirstlightError(
            "F708",
            f"the two sides differ from {first.key} on",
            where=f"result {first.result}, element [{at}], {first.entry} at {first.position}",
            why=f"a has {first.values[0]}, b has {first.values[1]}",
            try_="a larger --tolerance if that is rounding; else look at this op's kernel, weights",
        )


cli.add_command(bench_command)
cli.add_command(estimate_command)
cli.add_command(quality_command)
cli.add_command(tune_command)


@cli.command("targets", epilog=STATUSES)
@click.argument("name", required=False)
@json_option
def targets_command(name: str | None, as_json: bool) -> None:
    """List the installed targets, or describe the target NAME.

    The list says what can be shown on a machine without the chip, and whether the tool chain is
    here. NAME prints what the chip has, how it does each op (native, generic, decomposed, missing,
    with the reason), and where to get what is missing. Plug-ins that do not load are listed with
    the reason.
    """
    with compiler_needed("targets"):
        from firstlight.inspection import inspect_target, inspect_targets

        document = inspect_targets() if name is None else inspect_target(name)
    emit({k: v for k, v in document.items() if v or as_json}, as_json)


@cli.command("conform", epilog=STATUSES)
@click.argument("names", metavar="TARGET", nargs=-1, required=True)
@click.option("--level", type=click.Choice(["emit", "build", "run", "model"]), default="run",
              show_default=True, help="How far to go; a level includes those before it.")
@click.option("--oracle", type=click.Choice(["onnxruntime"]),
              help="Instead: what does this engine think of the references of all ops?")
@click.option("--ops", metavar="a,b", help="Only these ops.")
@click.option("--json", "report_file", type=FOLDER, callback=new_file, metavar="F",
              help="Write the report to F.")
@click.option("--matrix", is_flag=True,
              help="The names are reports: print them as markdown tables.")
@click.option("-q", "--quiet", is_flag=True, help="Print no progress.")
def conform_command(
    names: tuple[str, ...], level: str, oracle: str | None, ops: str | None,
    report_file: Path | None, matrix: bool, quiet: bool,
) -> None:  # fmt: skip
    """Hold a TARGET against its contract, on this machine.

    The last line printed is the summary. The exit status is 1 if anything failed or was skipped.
    """
    if not matrix and len(names) != 1:
        raise click.UsageError("Give one target (or --matrix and report files).")
    with compiler_needed("conform"):
        from firstlight import targets
        from firstlight.targets import conform as kit

        if matrix:
            click.echo(kit.matrix([kit.read_report(Path(name)) for name in names]))
            return
        with Progress(quiet) as progress:
            report = kit.conform(targets.find(names[0]), "oracle" if oracle else level,
                                 [op.strip() for op in ops.split(",")] if ops else (), progress)
    click.echo(kit.table(report))
    if report_file is not None:
        report_file.write_text(json.dumps(report.document(), indent=1) + "\n", encoding="utf-8")
    if not report.clean:
        raise click.exceptions.Exit(REFUSED)


@cli.command("new-target", epilog=STATUSES)
@click.argument("name")
@json_option
def new_target_command(name: str, as_json: bool) -> None:
    """Write a package to start a port from.

    The folder NAME is made here, with the distribution firstlight-NAME: a manifest with every field
    explained, an emitter, tests that call the conformance kit, and a CI file.
    """
    from firstlight.targets import available
    from firstlight.targets.new_target import new_target

    registry = available()
    taken = frozenset({*registry.targets, *registry.families, *registry.broken})
    folder = new_target(name, Path(), taken)
    if as_json:
        files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
        emit({"path": str(folder), "files": files}, True)
        return
    click.echo(f"{folder}: a package for the target {name}\n"
               f"  pip install -e './{folder}[test]'\n"
               f"  firstlight targets {name}\n"
               f"  firstlight conform {name} --ops rms_norm")


@cli.command("doctor", epilog=STATUSES)
@json_option
def doctor_command(as_json: bool) -> None:
    """Describe this machine.

    CPU, memory, disk, linkers, versions, and which targets' artifacts run here.
    """
    from firstlight.inspection import inspect_machine

    emit(inspect_machine(), as_json)


@cli.command("verify", epilog=STATUSES)
@click.argument("artifact", metavar="DIR", type=FOLDER)
@click.option("-q", "--quiet", is_flag=True, help="Print no progress.")
@json_option
def verify_command(artifact: Path, quiet: bool, as_json: bool) -> None:
    """Hash every file of an artifact.

    One changed byte is found; the exit status is then 1.
    """
    from firstlight.runtime.manifest import read_manifest, verify_artifact

    total = sum(f.bytes for f in read_manifest(artifact).files)
    done = 0
    with Progress(quiet or as_json) as progress:

        def read(nbytes: int) -> None:
            nonlocal done
            done += nbytes
            progress("hash", done, total)

        report = verify_artifact(artifact, read)
    emit({"path": str(artifact), "ok": report.ok, "files": report.files, "bytes": report.bytes,
           "damaged": [{"file": f, "problem": p} for f, p in report.damaged.items()],
           "unlisted": list(report.unlisted)}, as_json)
    if not report.ok:
        name, problem = next(iter(report.damaged.items()))
        raise FirstlightError(
            "F504",
            f"the artifact is damaged: {name} {problem}",
            where=str(artifact / name),
            why=f"{len(report.damaged)} of {report.files} files are not what the compiler wrote",
            try_="copy the artifact again, or compile it again",
        )


if __name__ == "__main__":
    main()
