"""Quantizing weights well: by the scales with the least error, not those that clip nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.ir.codecs import F32, FP4_GROUP, GROUPED, decode_weight, encode_weight
from firstlight.ir.types import GROUP_FP4, GROUP_INT4

SHRINK = tuple(1 - i / 48 for i in range(13))
"""Fractions of the scale that clips nothing. Four-bit groups of 32 rarely gain below three
quarters: what is clipped then costs more than the finer steps save."""
LEAST = np.float32(1e-30)


def quantize(w: F32, codec: str, importance: F32 | None = None,
             ) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Codes and scales of a float32 matrix [N, K], as `codecs.decode_weight` takes them.

    Args:
        importance: [K], how much a column's error counts: the mean square of the activation that
            it is multiplied with. None counts all alike.
    """
    if codec not in GROUPED:
        return encode_weight(w, codec)
    form = GROUPED[codec]
    groups = w.reshape(w.shape[0], -1, FP4_GROUP)
    weight = (np.ones((1, *groups.shape[1:]), np.float32) if importance is None
              else importance.astype(np.float32).reshape(1, *groups.shape[1:]))
    best: NDArray[Any] | None = None
    for candidate in _candidates(groups, codec):
        scales = form.encode_scale(candidate)
        unit = form.decode_scale(scales)[..., None]
        steps = np.divide(groups, unit, out=np.zeros_like(groups), where=unit != 0)
        values = form.decode(form.encode(steps)) * unit
        error = (weight * np.square(values - groups)).sum(-1)
        if best is None:
            best, least = scales, error
        else:
            better = error < least
            best, least = np.where(better, scales, best), np.where(better, error, least)
    assert best is not None
    unit = form.decode_scale(best)[..., None]
    steps = np.divide(groups, unit, out=np.zeros_like(groups), where=unit != 0)
    return form.encode(steps).reshape(w.shape[0], -1), best


def _candidates(groups: F32, codec: str) -> list[F32]:
    """Scales to try, the one that clips nothing first: [N, K/32] each."""
    size = np.maximum(np.abs(groups).max(-1), LEAST)
    whole = size / np.float32(GROUPED[codec].top)
    if codec == GROUP_FP4:       # powers of two
        return [whole, whole / 2]
    if codec != GROUP_INT4:      # of 255 steps, clipping never saves enough
        return [whole]
    # The other way round, the largest value is the code -8.
    at = np.abs(groups).argmax(-1, keepdims=True)
    largest = np.take_along_axis(groups, at, -1)[..., 0]
    other = np.where(largest > 0, -size, size) / np.float32(8)
    return [scale * np.float32(f) for f in SHRINK for scale in (whole, other)]


def requantized(w: F32, codec: str) -> F32:
    """What `quantize` leaves of a weight [..., N, K], one matrix at a time."""
    matrices = w.reshape(-1, *w.shape[-2:])
    return np.stack([decode_weight(*quantize(m, codec), codec) for m in matrices]).reshape(w.shape)
