"""The commands that measure models: `firstlight quality` and `tune`."""

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
    from firstlight.comparison.tune import Point

text_option = click.option(
    "--text", "text", type=FOLDER, required=True, metavar="FILE",
    help='What to predict: a UTF-8 text, or .json with {"sequences": [[ids], ...]}.')
tokens_option = click.option("--tokens", type=click.IntRange(min=2), default=8192,
                             show_default=True, metavar="N", help="Most tokens to read.")
window_option = click.option("--window", type=click.IntRange(min=2), default=512,
                             show_default=True, metavar="N", help="Most tokens of a sequence.")
plot_option = click.option("--plot", type=FOLDER, metavar="FILE",
                           help="Draw bytes against divergence (.png, .svg, .pdf).")


@click.command("quality", epilog=STATUSES)
@click.argument("artifacts", metavar="DIR...", type=FOLDER, nargs=-1, required=True)
@click.option("--against", type=FOLDER, required=True, metavar="REF",
              help="The artifact that is right by definition: weights as shipped.")
@text_option
@tokens_option
@window_option
@plot_option
@click.option("--threads", type=click.IntRange(min=1), help="[default: all usable cores]")
@json_option
def quality_command(
    artifacts: tuple[Path, ...], against: Path, text: Path, tokens: int, window: int,
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
            document, point = _measured(folder, against, text, tokens, window, threads)
            rows[str(folder)] = document
            points.append(point)
    if plot is not None:
        from firstlight.comparison.plot import plot as draw

        draw(points, plot)
    emit(rows if len(rows) > 1 and as_json else _table(rows), as_json)


def _measured(folder: Path, against: Path, text: Path, tokens: int, window: int,
              threads: int | None) -> tuple[dict[str, Any], Point]:
    """The quality of one artifact, and its place in a table of policies."""
    from firstlight.comparison.quality import measure, read_ids
    from firstlight.comparison.tune import Point
    from firstlight.runtime import load

    with ExitStack() as stack:
        model, reference = (stack.enter_context(load(f, threads=threads))
                            for f in (folder, against))
        quality = measure(model, reference, read_ids(text, model), window, tokens).document()
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
        from firstlight.comparison.tune import parse_budget, tune
        from firstlight.compiler import CompileOptions, compile_checkpoint
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
        from firstlight.comparison.plot import plot as draw

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
