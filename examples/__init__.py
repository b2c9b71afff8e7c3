"""The trained example, as package data: `tiny-v4/` beside this file.

>>> import firstlight.examples
>>> (firstlight.examples.TINY_V4 / "checkpoint" / "config.json").is_file()
True
"""

from pathlib import Path

TINY_V4 = Path(__file__).parent / "tiny-v4"
"""Holds checkpoint/, MODEL_CARD.md, expected.json, validation_tokens.json and generate.py."""
