"""Bytes against divergence, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from firstlight.measure.tune import Point
from firstlight.runtime.errors import FirstlightError

SUFFIXES = (".png", ".svg", ".pdf")


def plot(points: Sequence[Point], path: Path, chosen: Point | None = None) -> None:
    """Write a picture of policies: weight bytes across, KL divergence up (logarithmic).

    Policies without divergence (the shipped weights) are a line at their bytes. Raises F712 for a
    file that is no picture, and without matplotlib.
    """
    if path.suffix not in SUFFIXES:
        raise FirstlightError("F712", f"{path.name} is no picture", where="--plot",
                              why=f"it can be one of {', '.join(SUFFIXES)}", try_="--plot kl.svg")
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise FirstlightError("F712", "pictures need matplotlib", where="--plot", why=str(error),
                              try_="pip install 'firstlight[plot]'") from error
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for point in points:
        size = point.bytes / 1e6
        if point.kl <= 0:
            axes.axvline(size, color="grey", linestyle=":")
            axes.annotate(point.policy, (size, 1), xycoords=("data", "axes fraction"),
                          fontsize=7, rotation=90, va="top", ha="right")
            continue
        axes.plot(size, point.kl, "o", color="tab:red" if point == chosen else "tab:blue")
        axes.annotate(point.policy, (size, point.kl), fontsize=6, xytext=(3, 3),
                      textcoords="offset points")
    axes.set_yscale("log")
    axes.set_xlabel("weights, MB")
    axes.set_ylabel("KL divergence to the reference, nats a token")
    axes.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)
