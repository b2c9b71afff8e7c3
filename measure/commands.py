"""The commands that measure models: `firstlight bench`, `quality` and `tune`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from firstlight.console import FOLDER, STATUSES, Progress, compiler_needed, emit, json_option

if TYPE_CHECKING:
    from firstlight.measure.tune import Point

text_option = click.option(
    "--text", "text", type=FOLDER, required=True, metavar="FILE",
    help='What to predict: a UTF-8 text, or .json with {"sequences": [[ids], ...]}.')
tokens_option = click.option("--tokens", type=click.IntRange(min=2), default=8192,
                             show_default=True, metavar="N", help="Most tokens to read.")
window_option = click.option("--window", type=click.IntRange(min=2), default=512,
                             show_default=True, metavar="N", help="Most tokens of a sequence.")
plot_option = click.option("--plot", type=FOLDER, metavar="FILE",
                           help="Draw bytes against divergence (.png, .svg, .pdf).")


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
@click.option("--csv", type=FOLDER, metavar="FILE", help="Write the rows to FILE.")
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
    from firstlight import __version__
    from firstlight.inspection import inspect_machine
    from firstlight.measure.scale import Scale
    from firstlight.measure.scale import table as scale_table
    from firstlight.measure.speed import Bench, table

    asked = _asked(scale, bandwidth)
    bench = Bench(artifact, threads, samples)
    plan = Scale(bench, asked) if asked else None
    context = bench.model.manifest.context
    tests = [("prefill", n) for n in prefill if n <= context]
    tests += [("decode", d) for d in decode if d + generate + 2 <= context]
    rows, tables, planned = [], [], []
    with Progress(as_json) as progress:
        for done, (test, n) in enumerate(tests):
            progress("bench", done, len(tests))
            rows.append(bench.prefill(n) if test == "prefill" else bench.decode(n, generate))
            if breakdown and test == "prefill":
                chunk = min(n, bench.counter.chunk)
                tables.append(bench.breakdown("prefill", chunk, n - chunk, samples))
            elif breakdown:
                tables.append(bench.breakdown("decode", 1, n, 4 * samples))
            if plan is not None:
                planned += (lines := getattr(plan, test)(n, max(rows[-1]["samples"])))
                tables.append(scale_table(lines))
    machine = inspect_machine()
    facts = {"artifact": str(artifact), "firstlight": __version__, "cpu": machine["cpu"]["model"],
             "system": machine["system"], "target": bench.model.manifest.target,
             "threads": bench.model.threads, "load_s": round(bench.load_s, 3),
             "machine": bench.machine()}
    if csv is not None:
        csv.write_text(_csv(rows, facts))
    if as_json:
        scaled = {"scale": {**plan.facts, "rows": planned}} if plan is not None else {}
        emit({**facts, "rows": rows, **scaled}, True)
        return
    emit({**facts, "left_out": [f"{t} {n}" for t, n in
                                [("prefill", n) for n in prefill] + [("decode", d) for d in decode]
                                if (t, n) not in tests]}, False)
    click.echo("\n" + table(rows))
    for text in tables:
        click.echo("\n" + text)


def _asked(scale: list[int], bandwidth: list[int]) -> list[tuple[int, float | None]]:
    """(threads, most bytes per second) of `--scale` and `--bandwidth`."""
    if bandwidth and len(bandwidth) not in {1 if scale else 0, len(scale)}:
        raise click.UsageError("--bandwidth has one number, or one for each number of --scale")
    rates: list[float | None] = [1e9 * rate for rate in bandwidth] or [None]
    return list(zip(scale, rates * (len(scale) if len(rates) == 1 else 1), strict=True))


def _csv(rows: list[dict[str, Any]], facts: dict[str, Any]) -> str:
    """A line for each test; what has samples becomes mean and standard deviation."""
    import csv
    import io
    from statistics import fmean, pstdev

    out = io.StringIO()
    flat = [{"target": facts["target"], "threads": facts["threads"],
             **{k: v for k, v in row.items() if not isinstance(v, list)},
             **{f"{k}_{name}": f(v) for k, v in row.items() if isinstance(v, list)
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
    rows: dict[str, Any] = {}
    points = []
    with Progress(as_json) as progress:
        for done, folder in enumerate(artifacts):
            progress("quality", done, len(artifacts))
            document, point = _measured(folder, against, text, tokens, window, threads, decode)
            rows[str(folder)] = document
            points.append(point)
    if plot is not None:
        from firstlight.measure.plot import plot as draw

        draw(points, plot)
    emit(rows if len(rows) > 1 and as_json else _table(rows), as_json)


def _measured(folder: Path, against: Path, text: Path, tokens: int, window: int,
              threads: int | None, decode: bool = False) -> tuple[dict[str, Any], Point]:
    """The quality of one artifact, and its place in a table of policies."""
    from firstlight.measure.quality import measure, read_ids
    from firstlight.measure.tune import Point
    from firstlight.runtime import load

    with ExitStack() as stack:
        model, reference = (stack.enter_context(load(f, threads=threads))
                            for f in (folder, against))
        for opened in (model, reference):
            if opened.manifest.graph is not None:
                opened.session()    # says that it is no language model
        ids = read_ids(text, model.vocab_size, lambda text: model.tokenizer.encode(text))
        quality = measure(model, reference, ids, window, tokens, decode).document()
        files = model.manifest.files
        size = sum(f.bytes for f in files if f.name.startswith("weights/"))
        policy = str(model.manifest.document.get("quantize", "shipped"))
    point = Point(policy, size, quality["kl_mean"], quality["cross_entropy_difference"],
                  quality["top1_agreement"])
    return {"policy": policy, "weight_bytes": size, **quality}, point


def _table(rows: dict[str, Any]) -> dict[str, Any]:
    """One artifact in full; of several, a row each, and their layers left out."""
    if len(rows) == 1:
        return next(iter(rows.values()))
    return {"artifacts": {name: {k: v for k, v in row.items() if k != "layers"}
                          for name, row in rows.items()}}


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
@plot_option
@json_option
def tune_command(
    checkpoint: Path, budget: str, text: Path, tokens: int, window: int, codecs: str, roles: str,
    target: str | None, plot: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Find the smallest quantization policy of CHECKPOINT whose divergence is within a budget.

    Every codec is compiled and measured in every role alone; then mixes, from the smallest that
    should fit on. The last line is the policy for `firstlight compile --quantize`.
    """
    with compiler_needed("tune"):
        from firstlight.compiler import CompileOptions, compile_checkpoint
        from firstlight.measure.tune import parse_budget, tune
        from firstlight.passes.policy import parse_policy

        most = parse_budget(budget)
        names = [n.strip() for n in roles.split(",")], [n.strip() for n in codecs.split(",")]
        for role in names[0]:
            for codec in names[1]:
                parse_policy(f"{role}={codec}")
        options = CompileOptions(context=max(window, 512), chunk=256)
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
          "policy": result.chosen.policy}, as_json)


def _measurer(compiled: Callable[[str], Path], reference: Path, text: Path, tokens: int,
              window: int) -> Callable[[str], Point]:
    def measure(policy: str) -> Point:
        folder = reference if policy == "shipped" else compiled(policy)
        _, point = _measured(folder, reference, text, tokens, window, None)
        return replace(point, policy=policy)

    return measure
