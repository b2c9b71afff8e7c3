"""Typed access to an untrusted config.json: every wrong value is an error that names its field."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

from firstlight.runtime.errors import FirstlightError

REQUIRED: Any = object()
"""Default of a field that must be there."""

ALIASES = {"n_routed_experts": "num_local_experts", "moe_intermediate_size": "intermediate_size"}
"""Second spellings that transformers accepts, used where the first is absent."""


class Fields:
    """Reads fields of a JSON object by name; `where` is the file, `path` the nested object.

    A field that is null counts as absent, as in transformers. Errors: F103 absent, F104 a value
    of the wrong type or out of range, F105 a contradiction (raised by the caller through
    `contradiction`), F106 a setting that is understood and not supported.
    """

    def __init__(self, raw: Mapping[str, Any], where: str, path: str = "") -> None:
        self.raw, self.where, self.path = raw, where, path

    def get(self, name: str, default: Any = None) -> Any:
        """The raw value; `default` when absent or null; F103 when that is REQUIRED."""
        value = self.raw.get(name)
        if value is None and name in ALIASES:
            value = self.raw.get(ALIASES[name])
        if value is None and default is REQUIRED:
            raise FirstlightError(
                "F103", f"config field {self.path + name!r} is missing", where=self.where,
                why="the model cannot be built without it",
                try_="use the config.json that came with the weights (the Hugging Face one, "
                     "not inference/config.json)")
        return default if value is None else value

    def integer(self, name: str, low: int, high: int, default: Any = REQUIRED) -> Any:
        """A whole number in [low, high]; true and 4.0 are none."""
        value = self.get(name, default)
        if value is not default and not (type(value) is int and low <= value <= high):
            self.bad(name, value, f"it must be a whole number from {low} to {high}")
        return value

    def number(self, name: str, low: float, high: float, default: Any = REQUIRED) -> Any:
        """A finite float in (low, high]."""
        value = self.get(name, default)
        if value is default:
            return value
        if type(value) not in (int, float) or not math.isfinite(value) or not low < value <= high:
            self.bad(name, value, f"it must be a number above {low:g} and at most {high:g}")
        return float(value)

    def integers(self, name: str, low: int, high: int,
                 count: int | None = None) -> list[int] | None:
        """A list of whole numbers in [low, high], or None when absent; the first `count` of it."""
        value = self.get(name)
        head = value[:count] if isinstance(value, list) else None
        if value is not None and (head is None or
                                  not all(type(v) is int and low <= v <= high for v in head)):
            self.bad(name, value, f"it must be a list of whole numbers from {low} to {high}")
        return head

    def words(self, name: str, known: Collection[str],
              count: int | None = None) -> list[str] | None:
        """A list of words out of `known`, or None when absent; the first `count` of it."""
        value = self.get(name)
        head = value[:count] if isinstance(value, list) else None
        if value is not None and (head is None or
                                  not all(isinstance(v, str) and v in known for v in head)):
            self.bad(name, value, "it must be a list of " + ", ".join(known))
        return head

    def table(self, name: str) -> Fields | None:
        """A nested object, or None when absent."""
        value = self.get(name)
        if value is not None and not isinstance(value, dict):
            self.bad(name, value, "it must be an object")
        return None if value is None else Fields(value, self.where, f"{self.path}{name}.")

    def only(self, name: str, supported: Any) -> None:
        """A setting with one supported value; absent means that value."""
        value = self.get(name, supported)
        if type(value) is not type(supported) or value != supported:
            self.unsupported(name, value, f"only {supported!r} is supported")

    def bad(self, name: str, value: object, why: str) -> NoReturn:
        """Refuse a value of the wrong type or size."""
        raise FirstlightError("F104", f"config field {self.path + name!r} is {_show(value)}",
                              where=self.where, why=why,
                              try_="compare with the config.json that came with the weights")

    def contradiction(self, what: str, why: str) -> NoReturn:
        """Refuse fields that cannot all be true."""
        raise FirstlightError("F105", what, where=self.where, why=why,
                              try_="compare with the config.json that came with the weights")

    def unsupported(self, name: str, value: object, why: str) -> NoReturn:
        """Refuse a setting that no released DeepSeek-V4 has."""
        raise FirstlightError("F106", f"config field {self.path + name!r} is {_show(value)}",
                              where=self.where, why=why,
                              try_="use a checkpoint of the released DeepSeek-V4 form")


def _show(value: object) -> str:
    text = repr(value) if not isinstance(value, (list, dict)) else f"a {type(value).__name__}"
    if isinstance(value, list):
        text = f"a list of {len(value)}"
    return text if len(text) <= 60 else text[:57] + "..."
