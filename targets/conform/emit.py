"""Level emit: every kernel becomes text, the same each time, within what the chip has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.target import Source, Target
from firstlight.ir.registry import TABLE
from firstlight.passes.capabilities import Capabilities
from firstlight.targets.conform.report import Check
from firstlight.targets.conform.units import Unit, again


def check_manifest(target: Target, versions: dict[str, str]) -> Iterator[Check]:
    """A check, which fails, for each function that says what a target has and raises instead.

    What `versions` says is added to `versions`.
    """
    asked: dict[str, Callable[[], object]] = {
        "tools": lambda: [(tool.name, tool.found) for tool in target.tools()],
        "versions": lambda: versions.update(target.versions()),
        "overrides": lambda: [TABLE[name] for name in target.overrides()],
    }
    for name, ask in asked.items():
        try:
            ask()
        except Exception as error:      # whatever a port raises is a finding about the port
            yield Check(f"manifest: {name}", "emit",
                        problems=[f"it raises {type(error).__name__}: {error}"])


def check_emit(target: Target, units: Mapping[str, Sequence[Unit]]) -> Iterator[Check]:
    """A check per op. Kernels are emitted, made anew, and emitted once more."""
    limits = resource_limits(target.capabilities)
    seen: dict[str, list[str]] = {}
    for op, some in units.items():
        check = Check(op, "emit", missing=target.lacking.get(op, ""))
        for unit in some:
            if unit.problem:
                check.problems.append(f"{unit.name}: {unit.problem}")
                continue
            fresh = {kernel.name for kernel in unit.kernels} - set(seen)
            if fresh:
                seen |= _emitted(target, unit, fresh, limits)
            for kernel in unit.kernels:
                check.problems += [f"{unit.name}: {text}" for text in seen[kernel.name]]
                check.count += 1
        native = op in target.capabilities.native
        if native and not any(u.how == "native" for u in some):
            check.problems.append("it is declared native, and no override fits any case")
        yield check


def _emitted(target: Target, unit: Unit, fresh: Iterable[str],
             limits: Mapping[str, int]) -> dict[str, list[str]]:
    """Problems by kernel."""
    out: dict[str, list[str]] = {}
    try:
        second = {kernel.name: kernel for kernel in again(target, unit)}
    except Exception as error:
        return {name: [f"made once, but not again: {error}"] for name in fresh}
    for kernel in unit.kernels:
        if kernel.name in fresh and kernel.name not in out:
            other = second.get(kernel.name)
            out[kernel.name] = (["made again, it has another name"] if other is None
                                else _problems(target, kernel, other, limits))
    return out


def _problems(target: Target, kernel: Kernel, made_again: Kernel,
              limits: Mapping[str, int]) -> list[str]:
    try:
        return list(_differences(target.emit(kernel), target.emit(made_again), limits))
    except (Exception, SystemExit) as error:    # whatever a port does is a finding about the port
        return [f"emit raises {type(error).__name__}: {error}"]


def _differences(first: Source, second: Source, limits: Mapping[str, int]) -> Iterator[str]:
    if not isinstance(first, Source):
        yield f"emit gives no Source, but {first!r:.60}"
        return
    if _plain(first) != _plain(second):
        yield "emitted twice, it is not the same"
    if not first.files or not all(isinstance(b, bytes) for b in first.files.values()):
        yield "emit gives no files of bytes"
    for name, used in first.resources.items():
        if 0 < limits.get(name, 0) < used:
            yield f"it uses {used} {name}, the chip has {limits[name]}"


def _plain(source: Source) -> tuple[object, ...]:
    return dict(source.files), source.entry, dict(source.launch), dict(source.resources)


def resource_limits(capabilities: Capabilities) -> dict[str, int]:
    """What there is of each limited thing: `<space>_bytes` of its memory spaces.

    A capability `limits` (a mapping), where there is one, adds others. 0, or no entry: no limit.
    """
    spaces = {f"{space.name}_bytes": space.bytes for space in capabilities.memory}
    return {**spaces, **getattr(capabilities, "limits", {})}
