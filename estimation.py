"""`firstlight estimate`: what a model would do on chips that are not here, by a model of them.

Nothing in the document is measured, and each table says so.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from firstlight import targets
from firstlight.codegen.estimate import Point, prefill, step
from firstlight.codegen.estimate_launches import emitted_launches
from firstlight.codegen.rates import MEANINGS, Rates
from firstlight.frontend.checkpoint import read_config
from firstlight.frontend.config import ModelConfig
from firstlight.frontend.model import config_types, trace_model
from firstlight.ir.core import Module
from firstlight.passes.pipeline import PIPELINE, parse, run_pipeline
from firstlight.runtime.errors import FirstlightError

__all__ = ["Point", "estimate"]

TERM_OF = {"memory": "memory", "vector": "vector", "lanes": "lanes", "link": "sent",
           "launch": "launch"}
"""The term that a rate belongs to; all others are products."""

ASSUMED = (
    "every number is estimated: a kernel takes as long as the slowest of memory, products, and "
    "vector and lane work, plus a launch",
    "weights as released, values between kernels in 16 bits; a fused op is one kernel",
    "sequences are dealt out to chips, and experts; each chip has all other weights",
    "the time of drafting is not in it, nor sampling, nor the host",
    "a rate that nobody has published is left out: then times are at least, tokens at most",
)


def estimate(config: Path, target: str, point: Point, chunk: int, way: str = "", card: str = "",
             given: Mapping[str, float] | None = None, emitted: bool = False) -> dict[str, Any]:
    """The document of `firstlight estimate`. Reads the config only.

    Args:
        given: rates of the card by name, in the place of what its target knows of it.
        emitted: count the launches that the target's emitter makes today, too.

    Raises F430 for an unknown target and F478 for one whose rates, card or way is unknown.
    """
    chosen = targets.find(target)
    book = _books()
    if chosen.name not in book:
        raise FirstlightError(
            "F478", f"nothing is known of how fast '{chosen.name}' is", where=f"--target {target}",
            why=f"there are rates of {', '.join(sorted(book)) or 'no target'}",
            try_="firstlight estimate --target NAME    with one of these")
    model = read_config(config)
    module = run_pipeline(trace_model(model, config_types(model)), parse(PIPELINE))
    cards = _cards(book, chosen.name, card)
    first = cards[0] = _given(cards[0], given or {})
    if way and way not in first.ways:
        raise FirstlightError(
            "F478", f"experts cannot be multiplied in the way {way!r}", where=f"--experts {way}",
            why=f"{first.name} has {', '.join(first.ways) or 'one way only'}",
            try_=f"--experts {next(iter(first.ways), '')}".strip())
    ways = {name: step(module, first.using(name), point) for name in first.ways}
    cards = [card.using(way) for card in cards]
    steps = {card.name: step(module, card, point) for card in cards}
    own = steps[first.name]
    document = {
        "kind": "estimate", "model": str(config), "target": chosen.name, "card": first.name,
        "source": first.source, "given": dict(given or {}), "unknown": first.unknown,
        "experts": way or next(iter(first.ways), "as stored"), "context": point.context,
        "batch": point.batch, "chips": point.chips, "drafts": point.tokens - 1,
        "accepted": point.accepted, "state_format": point.state, "assumed": list(ASSUMED),
        "decode_estimated": {name: _decode(one) for name, one in steps.items()},
        "prefill_estimated": {
            card.name: _prefill(prefill(module, card, replace(point, batch=point.chips), chunk))
            for card in cards},
        "ways_estimated": {name: _decode(one) for name, one in ways.items()},
        "layers_estimated": {name: {"calls": f["calls"], "kernels": f["kernels"],
                                    "microseconds_each": round(f["seconds"] * 1e6, 1)}
                             for name, f in own["functions"].items()},
        "operations_estimated": {name: {"milliseconds": round(s * 1e3, 3),
                                        "share": round(s / max(own["seconds"], 1e-30), 3)}
                                 for name, s in own["ops"].items()},
        "work_estimated": {f"{name} of a step": float(f"{n:.4g}")
                           for name, n in own["work"].items() if n},
        "published": list(_published(module, model, book, chosen.name)),
    }
    if emitted:
        rows = emitted_launches(trace_model(model, config_types(model)),
                                min(point.context, model.max_position_embeddings), chosen,
                                getattr(book[chosen.name], "TRAFFIC", None))
        alone = step(module, first, replace(point, batch=1, chips=1, tokens=1, accepted=0.0))
        document["one_sequence_as_emitted_estimated"] = _emitted(rows, alone["ops"], first)
    return document


def _emitted(rows: Mapping[str, Mapping[str, float]], fused: Mapping[str, float], card: Rates
             ) -> dict[str, dict[str, Any]]:
    """Rows with what each op takes fused, and as it is emitted: its bytes, and its launches."""
    launch = 0.0 if math.isnan(card.launch) else card.launch
    memory = math.inf if math.isnan(card.memory) else card.memory
    shown: dict[str, dict[str, Any]] = {}
    total = {"calls": 0, "launches": 0, "bytes": 0.0, "ms_fused": 0.0, "ms_as_emitted": 0.0}
    for name, row in rows.items():
        ideal = fused.get(name, 0.0)
        work = max(ideal - row["calls"] * launch, row["bytes"] / memory)
        one = {**row, "ms_fused": 1e3 * ideal,
               "ms_as_emitted": 1e3 * (work + row["launches"] * launch)}
        total = {key: total[key] + one[key] for key in total}
        shown[name] = one
    return {name: {k: v if isinstance(v, int) else round(v, 3) for k, v in row.items()}
            for name, row in {**shown, "all": total}.items()}


def _given(card: Rates, given: Mapping[str, float]) -> Rates:
    try:
        return card.having(given)
    except KeyError as error:
        known = ", ".join([*MEANINGS, *card.products])
        raise FirstlightError(
            "F478", f"a rate {error.args[0]!r} is not known", where=f"--rate {error.args[0]}=...",
            why=f"{card.name} has {known}", try_="--rate memory=1.2e12") from error


def _decode(one: Mapping[str, Any]) -> dict[str, Any]:
    """A row; a term whose rate is unknown is empty, and named."""
    unknown = {TERM_OF.get(name, "product") for name in one["left_out"]}
    parts = {f"{name}_ms": None if name in unknown and not s else round(s * 1e3, 3)
             for name, s in one["terms"].items()}
    return {"tokens_per_second_of_a_chip": _rounded(one["tokens_per_second"], 1),
            "ms_per_token": _rounded(one["seconds_per_token"] * 1e3 or None, 3), **parts,
            "memory_filled": _rounded(one["room"], 3), "left_out": one["left_out"]}


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _prefill(one: Mapping[str, Any]) -> dict[str, Any]:
    return {"tokens_per_second_of_a_chip": _rounded(one["tokens_per_second"], 1),
            "seconds": _rounded(one["seconds"] or None, 3), "left_out": one["left_out"]}


def _published(module: Module, model: ModelConfig, book: Mapping[str, ModuleType], target: str
               ) -> Iterator[dict[str, Any]]:
    """What others measured for this model on the target's family, beside the same estimated."""
    family = book[target]
    known = {c.name: c for some in family.CARDS.values() for c in some}
    for row in family.PUBLISHED:
        if any(getattr(model, name) != value for name, value in row["model"].items()):
            continue
        point = Point(row["context"], row["batch"], 1 + row["drafts"], row["chips"],
                      row["accepted"])
        one = step(module, known[row["rates"]].using(row["way"]), point)
        yield {"card": row["rates"], "chips": row["chips"], "batch": row["batch"],
               "context": row["context"], "drafts": row["drafts"],
               "published_tokens_per_second": row["tokens_per_second"],
               "estimated": round(one["tokens_per_second"], 1),
               "ratio": round(one["tokens_per_second"] / row["tokens_per_second"], 2),
               "published_ms": round(row["seconds_per_token"] * 1e3, 2),
               "estimated_ms": round(one["seconds_per_token"] * 1e3, 2)}


def _books() -> dict[str, ModuleType]:
    """Modules of rates, by target."""
    registry = targets.available()
    found: dict[str, ModuleType] = {}
    for name, family in registry.modules.items():
        try:
            book = importlib.import_module(f"{family.partition(':')[0]}.rates")
        except ModuleNotFoundError:
            continue
        if name in book.CARDS:
            found[name] = book
    return found


def _cards(book: Mapping[str, ModuleType], target: str, card: str) -> list[Rates]:
    """The card that is asked for, the target's others, then what is known of other targets."""
    own = list(book[target].CARDS[target])
    name = card or book[target].DEFAULTS[target]
    if name not in {c.name for c in own}:
        raise FirstlightError(
            "F478", f"there are no rates of a card {name!r}", where=f"--card {name}",
            why=f"'{target}' has {', '.join(c.name for c in own)}", try_=f"--card {own[0].name}")
    own.sort(key=lambda c: c.name != name)
    seen = {c.name for c in own}
    others = [c for other in sorted(book) for c in book[other].CARDS[other]]
    return own + [c for c in others if c.name not in seen and not math.isnan(c.memory)]
