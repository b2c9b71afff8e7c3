"""The commands that measure models: `firstlight bench`, `quality` and `tune`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from firstlight.console import (
    FOLDER,
    STATUSES,
    Progress,
    compiler_needed,
    emit,
    json_option,
    new_file,
)
from firstlight.runtime.errors import FirstlightError

if TYPE_CHECKING:
    from firstlight.measure.speed import Bench
    from firstlight.measure.tune import Point

text_option = click.option(
    "--text", "text", type=FOLDER, required=True, metavar="FILE",
    help='What to predict: a UTF-8 text, or .json with {"sequences": [[ids], ...]}.')
tokens_option = click.option("--tokens", type=click.IntRange(min=2), default=8192,
                             show_default=True, metavar="N", help="Most tokens to read.")
window_option = click.option("--window", type=click.IntRange(min=2), default=512,
                             show_default=True, metavar="N", help="Most tokens of a sequence.")


def _picture(context: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    path = new_file(context, option, path)
    if path is not None:
        from firstlight.measure.plot import check_picture

        check_picture(path)
    return path


plot_option = click.option("--plot", type=FOLDER, callback=_picture, metavar="FILE",
                           help="Draw bytes against divergence (.png, .svg, .pdf, .html).")


def _numbers(_: click.Context, option: click.Parameter, text: str | None) -> list[int]:
    if text is None:
        return []
    try:
        numbers = [int(word) for word in text.split(",") if word.strip()]
    except ValueError:
        numbers = [0]
    if any(n < 1 for n in numbers):
        raise click.BadParameter("expected numbers such as 128,512")
    return numbers


@click.command("bench", epilog=STATUSES)
@click.argument("artifact", metavar="DIR", type=FOLDER)
@click.option("-p", "--prefill", default="128,512,2048", show_default=True, metavar="N,N",
              callback=_numbers, help="Lengths of prompts.")
@click.option("-d", "--decode", default="128,2048", show_default=True, metavar="N,N",
              callback=_numbers, help="Tokens before the ones that are decoded.")
@click.option("-r", "--samples", type=click.IntRange(min=1), default=5, show_default=True,
              help="Of every test.")
@click.option("-n", "--generate", type=click.IntRange(min=1), default=16, show_default=True,
              help="Tokens of a decode sample.")
@click.option("--threads", type=click.IntRange(min=1), help="[default: all usable cores]")
@click.option("--breakdown", is_flag=True, help="Also where the time of each test goes.")
@click.option("--scale", metavar="N,N", callback=_numbers,
              help="Also what so many threads could do at most, and what bounds them.")
@click.option("--bandwidth", metavar="GB/s,...", callback=_numbers,
              help="Of the machine that --scale thinks of: one for all, or one for each N.")
@click.option("--csv", type=FOLDER, callback=new_file, metavar="FILE",
              help="Write the rows to FILE.")
@json_option
def bench_command(
    artifact: Path, prefill: list[int], decode: list[int], samples: int, generate: int,
    threads: int | None, breakdown: bool, scale: list[int], bandwidth: list[int],
    csv: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """How fast the artifact in DIR is, beside what this machine could do.

    Read bandwidth and multiply-adds are measured between the samples. `of stick` is the share of
    the one that fits the test (reads for decode, multiply-adds for prefill); `of bound` counts for
    every step the longer of the times that its bytes and its operations need.
    """
    from firstlight.measure.scale import ASSUMED, Scale
    from firstlight.measure.scale import table as scale_table
    from firstlight.measure.speed import Bench, table
    from firstlight.measure.steps import breakdown as breakdown_table

    asked = _asked(scale, bandwidth)
    bench = Bench(artifact, threads, samples)
    if breakdown:
        bench.refuse_steps()
    plan = Scale(bench, asked) if asked else None
    context = bench.model.manifest.context
    wanted = [("prefill", n) for n in prefill] + [("decode", d) for d in decode]
    tests = [(test, n) for test, n in wanted
             if n + (generate + 2 if test == "decode" else 0) <= context]
    if wanted and not tests:
        raise FirstlightError(
            "F715", "no test fits the context", where=str(artifact),
            why=f"the artifact was compiled for {context} tokens, a decoding test needs "
                f"{generate + 2} more than its depth",
            try_="smaller numbers, or firstlight compile CHECKPOINT --context N")
    rows: list[dict[str, Any]] = []
    tables, steps, planned = [], [], []
    with Progress(as_json) as progress:
        for done, (test, n) in enumerate(tests):
            progress("bench", done, len(tests))
            rows.append(bench.prefill(n) if test == "prefill" else bench.decode(n, generate))
            if breakdown:
                steps.append(bench.prefill_steps(n) if test == "prefill" else bench.decode_steps(n))
                tables.append(breakdown_table(steps[-1]))
            if plan is not None:
                planned += (lines := getattr(plan, test)(n, max(rows[-1]["samples"])))
                tables.append(scale_table(lines))
    facts = {**_facts(artifact, bench), "machine": bench.machine()}
    if csv is not None:
        csv.write_text(_csv(rows, facts))
    if as_json:
        scaled = {"scale": {**plan.facts, "rows": planned}} if plan is not None else {}
        broken = {"breakdown": [asdict(call) for call in steps]} if breakdown else {}
        emit({**facts, "rows": rows, **broken, **scaled}, True)
        return
    left = [f"{test} {n}" for test, n in wanted if (test, n) not in tests]
    units = {"read": "GB/s", "multiply_add": "GFLOP/s", "byte_products": "GOP/s"}
    sticks = {name: f"{facts['machine'][name] / 1e9:.1f} {unit}" for name, unit in units.items()}
    emit({**facts, "machine": sticks, "left_out": left}, False)
    click.echo("\n" + table(rows))
    for text in tables:
        click.echo("\n" + text)
    if plan is not None:
        click.echo("\n" + ASSUMED)


def _facts(artifact: Path, bench: Bench) -> dict[str, Any]:
    """What was measured, where, by which versions."""
    import platform

    from firstlight import __version__
    from firstlight.inspection import inspect_machine

    machine, manifest = inspect_machine(), bench.model.manifest
    made = manifest.document.get("created_by", {})
    return {
        "artifact": str(artifact), "target": manifest.target,
        "numerics": manifest.document.get("numerics"),
        "quantize": manifest.document.get("quantize", "shipped"),
        "threads": bench.model.threads, "load_s": round(bench.load_s, 3),
        "cpu": machine["cpu"]["model"], "cores": machine["cpu"]["usable_cores"],
        "memory_bytes": machine["memory"]["total_bytes"], "system": machine["system"],
        "versions": ", ".join([f"firstlight {__version__}", f"python {platform.python_version()}",
                               f"numpy {version('numpy')}"]),
        "compiled_by": ", ".join(f"{name} {number}" for name, number in made.items()),
    }


def _asked(scale: list[int], bandwidth: list[int]) -> list[tuple[int, float | None]]:
    """(threads, most bytes per second) of `--scale` and `--bandwidth`."""
    if bandwidth and len(bandwidth) not in {1 if scale else 0, len(scale)}:
        raise click.UsageError("--bandwidth has one number, or one for each number of --scale")
    rates: list[float | None] = [1e9 * rate for rate in bandwidth] or [None]
    return list(zip(scale, rates * (len(scale) if len(rates) == 1 else 1), strict=True))


def _csv(rows: list[dict[str, Any]], facts: dict[str, Any]) -> str:
    """A line for each test, with every sample; other lists become mean and standard deviation."""
    import csv
    import io
    from statistics import fmean, pstdev

    out = io.StringIO()
    flat = [{**{k: v for k, v in facts.items() if k != "machine"}, **facts["machine"],
             "all_samples": " ".join(map(repr, row["samples"])),
             **{k: v for k, v in row.items() if not isinstance(v, list)},
             **{f"{k}_{name}": f(v) for k, v in row.items()
                if isinstance(v, list) and v and k != "samples"
                for name, f in (("mean", fmean), ("spread", pstdev))}} for row in rows]
    writer = csv.DictWriter(out, sorted({k for row in flat for k in row}))
    writer.writeheader()
    writer.writerows(flat)
    return out.getvalue()


@click.command("quality", epilog=STATUSES)
@click.argument("artifacts", metavar="DIR...", type=FOLDER, nargs=-1, required=True)
@click.option("--against", type=FOLDER, required=True, metavar="REF",
              help="The artifact that is right by definition: weights as shipped.")
@text_option
@tokens_option
@window_option
@click.option("--decode", is_flag=True,
              help="Feed one token a call: judges the kernels that generate, not those of prefill.")
@plot_option
@click.option("--threads", type=click.IntRange(min=1), help="[default: all usable cores]")
@json_option
def quality_command(
    artifacts: tuple[Path, ...], against: Path, text: Path, tokens: int, window: int, decode: bool,
    plot: Path | None, threads: int | None, as_json: bool,
) -> None:  # fmt: skip
    """What the artifacts in DIR predict on a text, held against the artifact REF.

    Cross-entropy and perplexity, KL divergence from the reference's distribution, agreement of the
    most likely token; and by layer, how many of the reference's experts and index entries were
    chosen again and how far the residual streams are apart.
    """
    rows, points = [], []
    with Progress(as_json) as progress:
        for done, folder in enumerate(artifacts):
            progress("quality", done, len(artifacts))
            row, point = _measured(folder, against, text, tokens, window, threads, decode)
            rows.append(row)
            points.append(point)
    if plot is not None:
        from firstlight.measure.plot import plot as draw

        draw(points, plot)
    reference = {"against": _described(against)}
    if as_json:
        emit({**reference, "artifacts": rows}, True)
    elif len(rows) == 1:
        emit({**rows[0], **reference}, False)
    else:       # a line each
        emit({**reference, "artifacts": [{k: v for k, v in row.items()
                                          if k not in ("layers", "roles")} for row in rows]}, False)


def _described(folder: Path) -> dict[str, Any]:
    from firstlight.runtime.manifest import read_manifest

    manifest = read_manifest(folder)
    return {"artifact": str(folder), "policy": str(manifest.document.get("quantize", "shipped")),
            "numerics": manifest.document.get("numerics"), "target": manifest.target}


def _measured(folder: Path, against: Path, text: Path, tokens: int, window: int,
              threads: int | None, decode: bool = False) -> tuple[dict[str, Any], Point]:
    """The quality of one artifact, and its place in a table of policies."""
    from firstlight.measure.quality import comparable, measure, read_ids
    from firstlight.measure.tune import Point
    from firstlight.runtime import load

    with ExitStack() as stack:
        model, reference = (stack.enter_context(load(f, threads=threads))
                            for f in (folder, against))
        for opened in (model, reference):
            if opened.manifest.graph is not None:
                opened.session()    # says that it is no language model
        comparable(model, reference)
        ids = read_ids(text, model.vocab_size, lambda text: model.tokenizer.encode(text), tokens)
        quality = measure(model, reference, ids, window, tokens, decode).document()
        manifest = model.manifest
        size = sum(f.bytes for f in manifest.files if f.name.startswith("weights/"))
    described = _described(folder)
    name = described["policy"]
    if manifest.document.get("numerics") != reference.manifest.document.get("numerics"):
        name += f", {described['numerics']}"
    point = Point(name, size, quality["kl_mean"], quality["cross_entropy_difference"],
                  quality["top1_agreement"], manifest.state_bytes)
    return {**described, "weight_bytes": size, "state_bytes": manifest.state_bytes, **quality,
            "roles": _roles(folder)}, point


def _roles(folder: Path) -> list[dict[str, Any]]:
    """What the compiler's report says of the weights by role; older artifacts say nothing."""
    try:
        rows = json.loads((folder / "report.json").read_bytes())["weights"]
        names = ("role", "shipped", "stored", "weights", "bytes", "rms_error")
        return [{name: row[name] for name in names if name in row} for row in rows]
    except (OSError, ValueError, KeyError, TypeError):
        return []


@click.command("tune", epilog=STATUSES)
@click.argument("checkpoint", type=FOLDER)
@click.option("--budget", required=True, metavar="NATS",
              help="Most divergence, such as 0.02nats: mean KL a token.")
@text_option
@tokens_option
@window_option
@click.option("--codecs", default="int8-g32,fp8,mxfp4,int4-g32", show_default=True, metavar="A,B",
              help="Codecs to try.")
@click.option("--roles", default="experts,attn,head,embedding", show_default=True, metavar="A,B",
              help="Roles to try them in.")
@click.option("--target", help="See `firstlight targets`; it must run here.")
@click.option("--context", type=click.IntRange(min=1), metavar="N",
              help="Tokens whose state counts, too, beside the weights. "
                   "[default and least: 512 and --window]")
@plot_option
@json_option
def tune_command(
    checkpoint: Path, budget: str, text: Path, tokens: int, window: int, codecs: str, roles: str,
    target: str | None, context: int | None, plot: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Find the smallest quantization policy of CHECKPOINT whose divergence is within a budget.

    Every codec is compiled and measured in every role alone; then mixes, from the smallest that
    should fit on: weights and the state of a sequence. `policy` is what to give to
    `firstlight compile --quantize`.
    """
    with compiler_needed("tune"):
        from firstlight.compiler import CompileOptions, compile_checkpoint
        from firstlight.frontend.checkpoint import read_config
        from firstlight.measure.tune import parse_budget, tune
        from firstlight.passes.policy import parse_policy

        most = parse_budget(budget)
        names = [n.strip() for n in roles.split(",")], [n.strip() for n in codecs.split(",")]
        for role in names[0]:
            for codec in names[1]:
                parse_policy(f"{role}={codec}")
        fits = min(max(window, 512), read_config(checkpoint).max_position_embeddings)
        fits = max(fits, context or 0)
        options = CompileOptions(context=fits, chunk=min(256, fits))
        options = replace(options, **({"target": target} if target else {}))
        with tempfile.TemporaryDirectory() as scratch, Progress(as_json) as progress:
            count = 0

            def compiled(policy: str) -> Path:
                nonlocal count
                progress("policies", count, 1 + len(names[0]) * len(names[1]))
                folder, count = Path(scratch) / f"{count}", count + 1
                compile_checkpoint(checkpoint, folder, replace(options, quantize=policy))
                return folder

            reference = compiled("shipped")
            result = tune(_measurer(compiled, reference, text, tokens, window), *names, most)
    if plot is not None:
        from firstlight.measure.plot import plot as draw

        draw(result.points, plot, result.chosen)
    emit({"policies": [asdict(p) for p in result.points], "budget": most,
          "kl": result.chosen.kl, "weight_bytes": result.chosen.bytes,
          "state_bytes": result.chosen.state_bytes,
          "policy": result.chosen.policy}, as_json)


def _measurer(compiled: Callable[[str], Path], reference: Path, text: Path, tokens: int,
              window: int) -> Callable[[str], Point]:
    def measure(policy: str) -> Point:
        folder = reference if policy == "shipped" else compiled(policy)
        _, point = _measured(folder, reference, text, tokens, window, None)
        return replace(point, policy=policy)

    return measure
