"""The target contract: what a chip port provides, as one frozen manifest that checks itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol

from numpy.typing import NDArray

from firstlight.codegen.kernel import Kernel
from firstlight.ir.core import Module, Op
from firstlight.ir.registry import TABLE
from firstlight.passes.capabilities import Capabilities
from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.safetensors import Written

API = 1
Array = NDArray[Any]
ArraySpec = tuple[tuple[int, ...], str]
# An override: (symbol, op, largest number of tokens) -> its kernel, or None where it does not fit.
Override = Callable[[str, Op, int], "Kernel | None"]


class Packer(Protocol):
    """How a target lays weights out; a layout name is what its kernels ask for."""

    def shapes(self, layout: str, codec: str, shape: Sequence[int]) -> tuple[ArraySpec,
                                                                             ArraySpec | None]:
        """Shapes and dtypes of packed codes and scales."""
        ...

    def by_rows(self, layout: str) -> bool:
        """Whether a weight may be packed in pieces of whole row tiles (else all of it at once)."""
        ...

    def pack(self, layout: str, codes: Array, scales: Array | None, codec: str,
             shape: Sequence[int], first_row: int = 0) -> tuple[Array, Array | None]:
        """A weight, or consecutive rows of one, in the packed layout."""
        ...


class Executor(Protocol):
    """Kernels of a target that can be run on this machine: by the chip, or by an emulator.

    An attribute `note`, where there is one, says what was run in place of the chip's own code; the
    conformance report repeats it.
    """

    def run(self, symbol: str, buffers: Sequence[Array], tokens: int) -> None:
        """Call a kernel: its pointers in order (64-byte aligned, results are written), then S.

        An array that is given twice (`place`) is one memory: a kernel may work in place.
        """
        ...


def place(array: Array) -> tuple[int, int]:
    """Where an array lies, and its bytes."""
    return array.__array_interface__["data"][0], array.nbytes


@dataclass(frozen=True)
class Source:
    """What `emit` gives for one kernel: pure text or bytes, the same for the same kernel.

    files      by name, relative to the artifact's `code` folder
    entry      the function to launch
    launch     how (grid, block, task dims): plain data for the launcher
    resources  what it uses of each limited thing (``scratch_bytes``, ...), within the capabilities
    """

    files: Mapping[str, bytes]
    entry: str
    launch: Mapping[str, Any]
    resources: Mapping[str, int]


@dataclass(frozen=True)
class Tool:
    """A program or library that `build` or `emulate` needs: where it is, or how to get it."""

    name: str
    found: str | None
    get: str
    version: str = ""


@dataclass(frozen=True)
class Option:
    """What `compile --option KEY=VALUE` can choose; the first value is the default.

    refused     value -> why it cannot be had; the dry run says so
    """

    values: Mapping[str, str]
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def default(self) -> str:
        """The value without --option."""
        return next(iter(self.values))


@dataclass(frozen=True)
class Entry:
    """One entry of the artifact: which function, how many tokens at most, which logits."""

    name: str
    function: str
    tokens: int
    every_row: bool


@dataclass(frozen=True)
class Assembly:
    """What `assemble` makes an artifact's code and weights of.

    module      the fused module, B, S and C symbols; `entries` are functions of it
    context     most tokens of a sequence; states are planned for as many (the manifest's `state`)
    chunk       most tokens of a prefill call
    options     the value of each of the target's options
    model       the manifest's `model`
    sources     weights by name (`firstlight.codegen.weights.Source`)
    folder      where the artifact is written
    progress    called with a stage, and how much of how much is done
    """

    module: Module
    entries: Sequence[Entry]
    context: int
    chunk: int
    state: Mapping[str, Any]
    options: Mapping[str, str]
    model: Mapping[str, Any]
    sources: Mapping[str, Any]
    folder: Path
    progress: Callable[[str, int, int], None]


@dataclass(frozen=True)
class Support:
    """How a target has an op: `native`, `generic`, `decomposed` or `missing`, with the reason."""

    how: str
    reason: str = ""


TIERS = {
    "A": "executed here",
    "B": "compiled here by the vendor's compiler",
    "B+": "compiled here by the vendor's compiler, and the lowered code executed",
    "C": "emitted, and executed in our emulator",
    "D": "emitted only",
}


@dataclass(frozen=True)
class Target:
    """What a chip port provides: one frozen manifest, plain data and a few functions.

    name            as given to --target
    summary         one line for `firstlight targets`
    tier            a key of `TIERS`: the best that can be shown on a machine without the chip
    capabilities    plain data that passes and schedules read
    requires        what the artifact's machine must have, e.g. CPU features
    missing         op -> why the target cannot have it; composites among them are decomposed
    overrides       gives op name -> factory of a hand-written kernel; called when code is made,
                    so that a plan needs no compiler
    fast            the overrides of numerics `fast`, instead; None where there are none
    packer          weight layouts of the overrides
    emit            kernel -> Source; pure and deterministic
    build           (kernels by symbol, artifact folder, processes or None) -> written files.
                    Where the tool chain is not here, sources and the exact command lines
                    (``code/commands.txt``) are what is written.
    emulate         (kernels by symbol, scratch folder) -> Executor, or None if nothing here can
    execute         (symbol -> its launches, scratch folder) -> Executor, or None: runs what
                    `firstlight.codegen.simt.scheduled` made for any chip of threads, so that chips
                    without hardware here can be tried by a target that has it
    launcher        entry of the group `firstlight.launchers` that runs the artifact
    generic         how an op becomes a kernel where no override does, instead of by TIR:
                    (symbol, op, its module) -> Kernel
    assemble        for a target that takes whole graphs: writes code and weights of an artifact
                    itself, and returns what it wrote as weights, by file name. `emit`, `build` and
                    `emulate` then serve the conformance kit only.
    options         by name, what `compile --option` can choose; `assemble` is told
    configured      the value of each option -> the target as chosen, which then compiles; without
                    it only `assemble` knows of them
    runner          like `build`, and an executable ``firstlight-run`` besides that runs the
                    artifact from its ``program.bin``, without Python; None if there can be none
    tools           the tool chain, found or missing
    versions        compiler packages for the manifest
    api             version of this contract. Version N of firstlight loads targets of N and N-1.
    """

    name: str
    summary: str
    tier: str
    capabilities: Capabilities
    requires: Mapping[str, Any]
    emit: Callable[[Kernel], Source]
    build: Callable[[Mapping[str, Kernel], Path, int | None], Sequence[Path]]
    launcher: str
    emulate: Callable[[Mapping[str, Kernel], Path], Executor | None] | None = None
    execute: Callable[[Callable[[str], Any], Path], Executor | None] | None = None
    runner: Callable[[Mapping[str, Kernel], Path, int | None], Sequence[Path]] | None = None
    generic: Callable[[str, Op, Module], Kernel] | None = None
    assemble: Callable[[Assembly], Mapping[str, Written]] | None = None
    options: Mapping[str, Option] = field(default_factory=dict)
    configured: Callable[[Mapping[str, str]], Target] | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    overrides: Callable[[], Mapping[str, Override]] = dict
    fast: Callable[[], Mapping[str, Override]] | None = None
    packer: Packer | None = None
    tools: Callable[[], Sequence[Tool]] = tuple
    versions: Callable[[], Mapping[str, str]] = dict
    api: int = API

    def __post_init__(self) -> None:
        if self.api not in (API, API - 1):
            self._refuse(f"is written for API {self.api}",
                         f"this firstlight loads {API - 1} and {API}", "update the target plug-in")
        if self.tier not in TIERS:
            self._refuse(f"has tier {self.tier!r}", f"tiers are {', '.join(TIERS)}",
                         "choose the tier that conformance shows")
        unknown = sorted(set(self.missing) - set(TABLE))
        if unknown:
            self._refuse(f"misses unknown ops: {', '.join(unknown)}",
                         "no row of the op table has these names", "firstlight.ir.registry.TABLE")
        both = sorted(self.capabilities.native & set(self.missing))
        if both:
            self._refuse(f"has and misses {', '.join(both)}", "an op is one or the other",
                         "remove it from `missing` or from capabilities.native")
        if not all(self.missing.values()):
            self._refuse("misses ops without a reason", "the dry run prints the reason",
                         "give one for each")
        if not re.fullmatch(r"[a-z0-9][a-z0-9+.-]*", self.name):
            self._refuse("has a name that is no word", "it is given on the command line",
                         "lower-case letters, digits, and - . +")

    def chosen(self, given: Mapping[str, str]) -> dict[str, str]:
        """The value of every option. Raises F409 for one that there is not, or cannot be had."""
        unknown = sorted(set(given) - set(self.options))
        if unknown:
            raise self._no_option(f"has no option {unknown[0]!r}", unknown[0],
                                  f"its options are: {', '.join(self.options) or 'none'}",
                                  f"firstlight targets {self.name}")
        for name, value in given.items():
            option = self.options[name]
            if value in option.refused:
                raise self._no_option(f"cannot do {name}={value}", f"{name}={value}",
                                      option.refused[value], f"{name}={option.default}")
            if value not in option.values:
                raise self._no_option(f"does not know {name}={value}", f"{name}={value}",
                                      f"its values are: {', '.join(option.values)}",
                                      f"{name}={option.default}")
        return {name: given.get(name, option.default) for name, option in self.options.items()}

    def _no_option(self, what: str, where: str, why: str, try_: str) -> FirstlightError:
        return FirstlightError("F409", f"target '{self.name}' {what}", where=f"--option {where}",
                               why=why, try_=try_)

    @property
    def ops(self) -> dict[str, Support]:
        """Every op of the table, and how this target has it; of joints only those it has."""
        return {name: self.support(name) for name, info in sorted(TABLE.items())
                if not info.joint or name in self.capabilities.native}

    @property
    def lacking(self) -> Mapping[str, str]:
        """op -> why the target does not have it: `missing`, and joints that it has no kernel of."""
        joints = {name for name, info in TABLE.items() if info.joint}
        why = "a joint, which only chips with a kernel for it get"
        return {**dict.fromkeys(joints - self.capabilities.native, why), **self.missing}

    def support(self, op: str) -> Support:
        """How the target has one op."""
        if reason := self.lacking.get(op):
            return Support("decomposed" if TABLE[op].composite else "missing", reason)
        return Support("native" if op in self.capabilities.native else "generic")

    def _refuse(self, what: str, why: str, try_: str) -> NoReturn:
        raise FirstlightError("F401", f"target '{self.name}' {what}", where=f"target {self.name}",
                              why=why, try_=try_)
