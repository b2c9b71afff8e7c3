"""Rewrites of the IR, one per file. `run_pipeline` runs them by the names that `PASSES` lists."""

from firstlight.passes.pipeline import PASSES, PIPELINE, parse, run_pipeline, spell

__all__ = ["PASSES", "PIPELINE", "parse", "run_pipeline", "spell"]
