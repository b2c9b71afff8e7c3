"""Loads artifacts and runs them; needs numpy, and nothing of the compiler.

from firstlight.runtime import load
model = load("artifacts/tiny-v4")
for token in model.session().generate(ids, max_new_tokens=64): ...
"""

from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.manifest import Report, verify_artifact
from firstlight.runtime.model import Model, load
from firstlight.runtime.session import Session
from firstlight.runtime.text import TextStream, Tokenizer

__all__ = [
    "FirstlightError",
    "Model",
    "Report",
    "Session",
    "TextStream",
    "Tokenizer",
    "load",
    "verify_artifact",
]
