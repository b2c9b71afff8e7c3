"""Two ways to run one model, value by value: behind `firstlight compare`."""

from firstlight.comparison.compare import Report, compare
from firstlight.comparison.opening import open_sides, token_ids

__all__ = ["Report", "compare", "open_sides", "token_ids"]
