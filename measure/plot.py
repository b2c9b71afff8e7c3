"""Bytes against divergence, as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from firstlight.measure.tune import Point
from firstlight.runtime.errors import FirstlightError

SUFFIXES = (".png", ".svg", ".pdf", ".html")


_PAGE = b"<!doctype html>\n<meta charset=utf-8>\n<title>bytes and divergence</title>\n%s"


def check_picture(path: Path) -> None:
    """Raises F712 for a file that is no picture, and without matplotlib."""
    if path.suffix not in SUFFIXES:
        raise FirstlightError("F712", f"{path.name} is no picture", where="--plot",
                              why=f"it can be one of {', '.join(SUFFIXES)}", try_="--plot kl.svg")
    if find_spec("matplotlib") is None:
        raise FirstlightError("F712", "pictures need matplotlib", where="--plot",
                              why="it is not installed", try_="pip install 'firstlight[plot]'")


def plot(points: Sequence[Point], path: Path, chosen: Point | None = None) -> None:
    """Write a picture of policies: bytes of weights and state across, KL divergence up.

    The latter is logarithmic. Policies without divergence (the shipped weights) are a line at
    their bytes. Raises F712 as `check_picture` does.
    """
    check_picture(path)
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for point in points:
        size = point.size / 1e6
        if point.kl <= 0:
            axes.axvline(size, color="grey", linestyle=":")
            axes.annotate(point.policy, (size, 1), xycoords=("data", "axes fraction"),
                          fontsize=7, rotation=90, va="top", ha="right")
            continue
        axes.plot(size, point.kl, "o", color="tab:red" if point == chosen else "tab:blue")
        axes.annotate(point.policy, (size, point.kl), fontsize=6, xytext=(3, 3),
                      textcoords="offset points")
    axes.set_yscale("log")
    axes.set_xlabel("weights and the state of a sequence, MB")
    axes.set_ylabel("KL divergence to the reference, nats a token")
    axes.grid(alpha=0.3)
    drawn = io.BytesIO()
    form = path.suffix[1:].replace("html", "svg")
    figure.savefig(drawn, format=form, metadata={"Date": None} if form == "svg" else None)
    pyplot.close(figure)
    picture = drawn.getvalue()
    if path.suffix == ".html":
        picture = _PAGE % picture[picture.index(b"<svg") :]
    path.write_bytes(picture)
