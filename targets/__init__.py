"""Chips as plug-ins: ours and others' are found through the same door, an entry-point group.

An entry of the group `firstlight.targets` names a module. Its `TARGETS` are the targets it brings;
its `detect()`, if it has one, picks the one for this machine when the entry's own name is asked for
(`--target cpu`). A module that cannot be imported is reported by name and skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from firstlight.runtime.errors import FirstlightError

if TYPE_CHECKING:
    from firstlight.codegen.target import Target, Tool

GROUP = "firstlight.targets"
COMPILER_PACKAGES = frozenset({"tvm", "tvm_ffi", "networkx", "ml_dtypes"})
"""What the extra [compile] brings, by import name."""


@dataclass(frozen=True)
class Registry:
    """What is installed.

    `targets` by name; `families`: how an entry's own name chooses among its targets; `broken`: why
    an entry could not be loaded, by its name. `modules`: which module brings a target. `detecting`:
    the families that know which of their targets fits this machine, if one does.
    """

    targets: Mapping[str, Target] = field(default_factory=dict)
    families: Mapping[str, Callable[[], Target]] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)
    modules: Mapping[str, str] = field(default_factory=dict)
    detecting: tuple[str, ...] = ()


def available(entries: Iterable[EntryPoint] | None = None) -> Registry:
    """Load every target plug-in (or the given entries).

    Raises F431 if two plug-ins bring a target, or a family, of the same name.
    """
    targets: dict[str, Target] = {}
    families: dict[str, Callable[[], Target]] = {}
    broken: dict[str, str] = {}
    owner: dict[str, str] = {}
    values: dict[str, str] = {}
    detecting: list[str] = []
    found = entry_points(group=GROUP) if entries is None else entries
    # one package may be on the path twice (installed, and as a checkout): the same line counts once
    for entry in sorted({(e.name, e.value): e for e in found}.values()):
        if entry.name in values:
            raise _twice(entry.name, entry.value, values[entry.name])
        values[entry.name] = entry.value
        try:
            module = entry.load()
            brought: tuple[Target, ...] = tuple(module.TARGETS)
            names = [target.name for target in brought]
            if len(set(names)) < len(names):
                raise ValueError(f"it brings two of one name: {', '.join(names)}")
            detect = getattr(module, "detect", None)
            families[entry.name] = _detecting(entry, detect) if detect else _only(entry, brought)
        except (Exception, SystemExit) as error:    # whatever a stranger's module does
            broken[entry.name] = _why(entry, error)
            continue
        for name, target in zip(names, brought, strict=True):
            if name in targets:
                raise _twice(name, entry.value, owner[name])
            targets[name], owner[name] = target, entry.value
        detecting += [entry.name] if detect else []
    for name in sorted(targets.keys() & values.keys()):
        if owner[name] != values[name]:             # one's target, the other's family
            raise _twice(name, owner[name], values[name])
    return Registry(targets, families, broken, owner, tuple(detecting))


def find(name: str | None, registry: Registry | None = None) -> Target:
    """The target of this name; for the name of a family, its target for this machine.

    None asks for the one to take where nothing is said: see `default`. Raises F430 for an unknown
    name (saying which are known, and which plug-ins are broken).
    """
    registry = registry or available()
    if name is None:
        return default(registry)
    if name in registry.targets:
        return registry.targets[name]
    if name in registry.families:
        return registry.families[name]()
    known = ", ".join(sorted({*registry.families, *registry.targets})) or "none"
    if name in registry.broken:
        why = f"its plug-in does not load: {registry.broken[name]}"
    else:
        skipped = "".join(f"; {n} does not load" for n in registry.broken)
        why = f"installed targets are: {known}{skipped}"
    raise FirstlightError(
        "F430",
        f"there is no target {name!r}",
        where=f"--target {name}",
        why=why,
        try_="firstlight targets    lists them",
    )


def default(registry: Registry | None = None) -> Target:
    """This machine's target: of the first family, by name, that detects one here.

    Raises F432 if no family does.
    """
    registry = registry or available()
    refused = [f"{name} does not load" for name in registry.broken]
    for name in registry.detecting:
        try:
            return registry.families[name]()
        except FirstlightError as error:
            refused.append(f"{name}: {error.why}")
    raise FirstlightError(
        "F432",
        "no installed target fits this machine",
        where="--target, which was not given",
        why="; ".join(refused) or "no plug-in can tell which machine this is",
        try_="firstlight targets    lists what can be compiled for other machines",
    )


def tools_of(target: Target) -> tuple[Tool, ...]:
    """The target's tools; one that is missing, with the reason, if it cannot tell."""
    from firstlight.codegen.target import Tool

    try:
        tools = tuple(target.tools())
        if not all(isinstance(tool, Tool) for tool in tools):
            raise TypeError("they are no Tool")
        return tools
    except Exception as error:          # whatever a stranger's plug-in raises
        return (Tool("tools", None, f"mend the plug-in, whose `tools` raises "
                                    f"{type(error).__name__}: {error}"),)


def _detecting(entry: EntryPoint, detect: Callable[[], Target]) -> Callable[[], Target]:
    """`detect` of a plug-in, whose own failures are reported under its name (F432)."""
    def choose() -> Target:
        try:
            return detect()
        except FirstlightError:
            raise
        except Exception as error:
            raise FirstlightError(
                "F432", f"the plug-in '{entry.name}' cannot tell which target fits this machine",
                where=f"--target {entry.name}", why=_why(entry, error),
                try_="firstlight targets    lists targets to ask for by name",
            ) from error

    return choose


def _only(entry: EntryPoint, brought: tuple[Target, ...]) -> Callable[[], Target]:
    """Without `detect()`, a family's name means its first target."""
    if not brought:
        raise ValueError(f"{entry.value}.TARGETS is empty")
    return lambda: brought[0]


def _why(entry: EntryPoint, error: BaseException) -> str:
    """One line on why an entry does not load; a missing compiler is the user's to mend."""
    if isinstance(error, ModuleNotFoundError) and error.name in COMPILER_PACKAGES:
        return f"the compiler is not installed ({error}): pip install 'firstlight[compile]'"
    if isinstance(error, FirstlightError):
        return f"{error.what}: {error.why}"
    return f"{entry.value}: {type(error).__name__}: {' '.join(str(error).split())}"


def _twice(name: str, one: str, other: str) -> FirstlightError:
    return FirstlightError(
        "F431",
        f"two plug-ins bring a target named {name!r}",
        where=f"entry-point group {GROUP}",
        why=f"{one} and {other} both have it",
        try_="uninstall one of the two packages",
    )
