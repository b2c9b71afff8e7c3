"""What a pass is: a frozen dataclass whose fields are its options."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from firstlight.ir.core import Module


@dataclass(frozen=True)
class Pass:
    """A rewrite of a module.

    A pass may assume a valid module and leaves a valid one. `name` is its spelling in a pipeline,
    its fields are its options, and ``str(pass)`` is text that `firstlight.passes.pipeline.parse`
    reads back.
    """

    name: ClassVar[str] = ""

    def run(self, module: Module) -> Module:
        """The rewritten module."""
        raise NotImplementedError

    def __str__(self) -> str:
        changed = [f"{field.name}={_option(getattr(self, field.name))}"
                   for field in dataclasses.fields(self)
                   if getattr(self, field.name) != field.default]
        return f"{self.name}{{{','.join(changed)}}}" if changed else self.name


def _option(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "+".join(map(str, value)) if isinstance(value, tuple) else str(value)
