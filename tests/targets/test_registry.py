"""The target registry: plug-ins that work, that are broken, that collide."""

from dataclasses import dataclass
from importlib.metadata import EntryPoint
from types import ModuleType, SimpleNamespace

import pytest

from firstlight.runtime.errors import FirstlightError
from firstlight.targets import GROUP, available, find, tools_of


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
        ("TARGETS = ('one-c',)", "no attribute 'name'"),
        ("TARGETS = (Chip('x'), Chip('x'))", "two of one name: x, x"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("from firstlight.codegen.target import Target\n"
         "Target('x', '', 'D', None, {}, None, None, 'none', api=99)", "is written for API 99"),
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
    with pytest.raises(FirstlightError, match="F431"):
        available([ONE, plugin("three", "TARGETS = (Chip('one'),)")])
    assert find("own", available([plugin("own", "TARGETS = (Chip('own'),)")])).name == "own"


REFUSES = plugin("a", """
from firstlight.runtime.errors import FirstlightError
TARGETS = (Chip('a-1'),)
def detect(): raise FirstlightError('F432', 'no', where='', why='it has no a', try_='')
""")
FAILS = plugin("b", "TARGETS = (Chip('b-1'),)\ndef detect(): 1 / 0")


def test_without_a_name_the_first_family_that_knows_this_machine_is_asked():
    assert find(None, available([TWO, ONE])).name == "one-b"
    assert find(None, available([REFUSES, FAILS, ONE])).name == "one-b"
    with pytest.raises(FirstlightError, match="F432") as caught:
        find(None, available([REFUSES, FAILS, TWO, plugin("c", "1 / 0")]))
    for why in ("a: it has no a", "b: ", "ZeroDivisionError", "c does not load"):
        assert why in caught.value.why
    with pytest.raises(FirstlightError, match="F432"):
        find("b", available([FAILS]))


def test_a_plug_in_that_cannot_tell_its_tools_is_still_described():
    def tools():
        raise OSError("no such disk")

    for said, why in ((tools, "no such disk"), (lambda: ("cc",), "they are no Tool")):
        (tool,) = tools_of(SimpleNamespace(tools=said))
        assert tool.found is None
        assert why in tool.get


def test_one_package_twice_on_the_path_counts_once():
    assert available([ONE, ONE]).targets == available([ONE]).targets
