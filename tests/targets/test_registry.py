"""The target registry: plug-ins that work, that are broken, that collide."""

from dataclasses import dataclass
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

from firstlight.runtime.errors import FirstlightError
from firstlight.targets import GROUP, available, find


@dataclass(frozen=True)
class Chip:
    """As much of a target as the registry looks at."""

    name: str


class Plugin(EntryPoint):
    """An entry point whose module is made here."""

    def load(self) -> ModuleType:
        module = ModuleType(self.name)
        module.__dict__["Chip"] = Chip
        exec(self.value, module.__dict__)
        return module


def plugin(name: str, code: str) -> Plugin:
    """A plug-in of this name; `Chip` is in scope of its code."""
    return Plugin(name, code, GROUP)


ONE = plugin("one", "TARGETS = (Chip('one-a'), Chip('one-b'))\ndef detect(): return TARGETS[1]")
TWO = plugin("two", "TARGETS = (Chip('two-a'), Chip('two-b'))")


def test_targets_are_found_by_their_name_and_by_their_family():
    registry = available([ONE, TWO])
    assert list(registry.targets) == ["one-a", "one-b", "two-a", "two-b"]
    assert find("one-a", registry).name == "one-a"
    assert find("one", registry).name == "one-b"  # detect() chooses
    assert find("two", registry).name == "two-a"  # without it, the first


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import no_such_module", "No module named 'no_such_module'"),
        ("1 / 0", "ZeroDivisionError"),
        ("x = 1", "TARGETS"),
        ("TARGETS = ()", "empty"),
        ("raise ModuleNotFoundError('no tvm', name='tvm')", "pip install 'firstlight[compile]'"),
    ],
)
def test_a_broken_plug_in_is_named_and_skipped(code: str, why: str):
    registry = available([ONE, plugin("bad", code)])
    assert list(registry.targets) == ["one-a", "one-b"]
    assert why in registry.broken["bad"]
    with pytest.raises(FirstlightError, match="F430") as caught:
        find("bad", registry)
    assert why in caught.value.why


def test_an_unknown_target_lists_the_known():
    with pytest.raises(FirstlightError, match="F430") as caught:
        find("abacus", available([ONE, TWO]))
    assert "one, one-a, one-b, two, two-a, two-b" in caught.value.why


def test_two_of_one_name_are_an_error():
    with pytest.raises(FirstlightError, match="F431"):
        available([ONE, plugin("three", "TARGETS = (Chip('one-a'),)")])
    with pytest.raises(FirstlightError, match="F431"):
        available([ONE, plugin("one", "TARGETS = ()")])


def test_one_package_twice_on_the_path_counts_once():
    assert available([ONE, ONE]).targets == available([ONE]).targets
