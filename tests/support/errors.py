"""How far results are from what they should be."""

from collections.abc import Sequence

import numpy as np


def error(got: Sequence[np.ndarray], want: Sequence[np.ndarray]) -> float:
    """Largest difference relative to the largest magnitude of a result; integers must be equal."""
    worst = 0.0
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape
        if w.dtype != np.float32:
            np.testing.assert_array_equal(g, w)
            continue
        special = ~np.isfinite(w)
        np.testing.assert_array_equal(g[special], w[special])
        if (~special).any():
            g, w = g[~special].astype(np.float64), w[~special].astype(np.float64)
            worst = max(worst, float(np.abs(g - w).max() / (np.abs(w).max() or 1.0)))
    return worst
