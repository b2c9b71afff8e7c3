"""The command `firstlight estimate`: models on chips that are not here."""

from __future__ import annotations

from pathlib import Path

import click

from firstlight.console import FOLDER, STATUSES, compiler_needed, emit, json_option


@click.command("estimate", epilog=STATUSES)
@click.argument("config", type=FOLDER)
@click.option("--target", required=True, help="See `firstlight targets`.")
@click.option("--card", default="", metavar="NAME", help="One of the target's cards.")
@click.option("--context", type=click.IntRange(min=1), default=8192, show_default=True,
              metavar="N", help="Tokens of a sequence so far.")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, metavar="B",
              help="Sequences at a time, on all chips together.")
@click.option("--chips", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
              help="Sequences and experts are dealt out to so many.")
@click.option("--drafts", type=click.IntRange(0, 16), default=0, show_default=True, metavar="N",
              help="Tokens that a step checks besides its own.")
@click.option("--accepted", type=click.FloatRange(min=0), default=0.0, show_default=True,
              help="How many of them are kept, on average.")
@click.option("--experts", "way", default="", metavar="WAY",
              help="How products with the experts are made, e.g. fp4-unpack, mxfp8, extern.")
@click.option("--state", type=click.Choice(["f32", "released"]), default="released",
              show_default=True, help="How kept rows are stored.")
@click.option("--chunk", type=click.IntRange(min=1), default=4096, show_default=True, metavar="N",
              help="Tokens of a prefill call.")
@click.option("--rate", "rates", multiple=True, metavar="NAME=NUMBER", help="A rate of the card "
              "that you know better: memory, vector, lanes, launch, link, room, or a product's.")
@click.option("--emitted", is_flag=True, help="Count the launches that the target emits today, "
              "too (takes a minute or two for a large model).")
@json_option
def estimate_command(
    config: Path, target: str, card: str, context: int, batch: int, chips: int, drafts: int,
    accepted: float, way: str, state: str, chunk: int, rates: tuple[str, ...], emitted: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Estimate what a model does on a chip that is not here. CONFIG is a config.json, or a folder.

    Every number is estimated from the chip's rates and the fused ops' work; none is measured. Cards
    of other targets are estimated beside, and what others have published, with the ratio. A rate
    that nobody has published is left out, and the output says which.
    """
    if accepted > drafts:
        raise click.UsageError("--accepted is at most --drafts.")
    with compiler_needed("estimate"):
        from firstlight.estimation import Point, estimate

        point = Point(context, batch, 1 + drafts, chips, accepted, state)
        emit(estimate(config, target, point, chunk, way, card, _numbers(rates), emitted), as_json)


def _numbers(rates: tuple[str, ...]) -> dict[str, float]:
    """NAME=NUMBER of each."""
    found = {}
    for text in rates:
        name, _, number = text.partition("=")
        try:
            found[name] = float(number)
        except ValueError:
            found[name] = 0.0
        if not 0 < found[name] < float("inf"):
            raise click.BadParameter(f"{text!r} is not NAME=NUMBER, e.g. memory=1.2e12",
                                     param_hint="--rate")
    return found
