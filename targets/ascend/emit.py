"""Kernels as sources: a module of MLIR for each launch, and how they are launched."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.nests.nodes import Node, const, make
from firstlight.codegen.nests.program import Program, Step, program
from firstlight.codegen.target import Source
from firstlight.targets.ascend.attention import Attention, Fused
from firstlight.targets.ascend.functions import ALIGN, CORES, Emitter, Function
from firstlight.targets.ascend.fuse import Joined, fused
from firstlight.targets.ascend.mx import Extern

BUDGETS = (4096, 2048, 1024, 512, 256, 128)
FORMS = [(budget, cube) for cube in (True, False) for budget in BUDGETS]
"""(most elements of a tile, whether products are the cube core's), in the order they are tried:
the first for everything, others where the chip's compiler does not take that."""
ENTRY = "entry"
OPS = {"add": "add", "mul": "mul", "floordiv": "floordiv", "max": "max", "min": "min"}


@dataclass(frozen=True)
class Module:
    """The text of one launch. Equal texts have one name, whatever kernel they are of."""

    name: str
    text: str


@dataclass(frozen=True)
class Emitted:
    """A kernel's modules, and its row of ``launch.json``; `extern` if it is the vendor's op."""

    modules: tuple[Module, ...]
    record: dict[str, Any]
    notes: tuple[str, ...] = ()
    extern: Mapping[str, Any] | None = None


def emitted(kernel: Kernel, accept: Callable[[Module, bool], str] | None = None) -> Emitted:
    """Write a kernel's functions.

    Args:
        accept: says why the chip's compiler does not take a module, or "": a smaller tile is tried
            then, and products on vector cores. It raises what it says of the last one. Without it
            the first form is taken, and nothing but the kernel decides the text.
    """
    if isinstance(kernel, Extern):
        pointers = len(kernel.func.params) - 1
        launch = {"entry": kernel.name, "module": 0, "grid": [1], "group": [1], "shared": 0,
                  "args": [*range(pointers), "S"]}
        return Emitted((), {"pointers": pointers, "workspace": 0, "launches": [launch]},
                       extern=kernel.binding)
    steps, notes = best(kernel), []
    while True:
        try:
            made = _emitted(steps, accept)
        except Refused as why:
            notes.append(f"{why}; now as {why.count} launches")
            steps = apart(kernel, steps, why.step)
        else:
            return replace(made, notes=(*notes, *made.notes))


def best(kernel: Kernel) -> Program:
    """A kernel's steps, fused as far as we can."""
    plain = program(kernel)
    return fused((kernel.fuse(plain) if isinstance(kernel, Fused) else None) or plain)


def apart(kernel: Kernel, steps: Program, step: Step | Attention) -> Program:
    """The steps with those that a fused one stands for."""
    if isinstance(step, Attention):
        return fused(program(kernel))
    assert isinstance(step, Joined)
    return replace(steps, steps=[one for s in steps.steps
                                 for one in (step.apart if s is step else (s,))])


class Refused(Exception):
    """The chip's compiler takes no form of a fused step with the cube core."""

    def __init__(self, name: str, why: str, step: Joined | Attention) -> None:
        super().__init__(f"{name}: {why}")
        self.step, self.count = step, len(step.apart)


def _emitted(steps: Program, accept: Callable[[Module, bool], str] | None) -> Emitted:
    modules, launches, notes = [], [], []
    for i, step in enumerate(steps.steps):
        function, module = _function(steps, i, *FORMS[0])
        whole = isinstance(step, Joined | Attention)
        left, cube = [form for form in FORMS[1:] if form[1] or not whole], True
        while accept and (why := accept(module, not left and not whole)):
            if "F475" not in why:       # not its size: another size would not help
                left = [form for form in left if cube and not form[1]]
            if not left:
                if isinstance(step, Joined | Attention):
                    raise Refused(module.name, why, step)
                accept(module, True)
            (budget, cube), *left = left
            notes.append(f"{module.name}: {why}; now tiles of {budget} elements"
                         + ", without the cube core" * (not cube))
            function, module = _function(steps, i, budget, cube)
        modules.append(module)
        launches.append({"entry": module.name, "module": 0, "grid": [_blocks(function.rounds)],
                         "group": [1], "shared": 0, "args": [*function.arguments, "S"]})
    workspace = _size(make("mul", "int32", Emitter(steps, BUDGETS[0]).end, const(ALIGN)))
    record = {"pointers": len(steps.pointers), "workspace": workspace, "launches": launches}
    return Emitted(tuple(modules), record, tuple(notes))


def _function(steps: Program, number: int, budget: int, cube: bool) -> tuple[Function, Module]:
    function = Emitter(steps, budget, cube).function(ENTRY, steps.steps[number])
    kind = getattr(steps.steps[number], "name", "repeat")
    name = f"{kind}_{hashlib.sha256(function.text.encode()).hexdigest()[:12]}"
    text = function.text.replace(f"@{ENTRY}(", f"@{name}(", 1)
    return function, Module(name, f"module {{\n{text}}}\n")


def source(kernel: Kernel) -> Source:
    """A kernel as the target contract wants it."""
    made = emitted(kernel)
    files = {f"mlir/{m.name}.mlir": m.text.encode() for m in made.modules}
    used = max((_tile_bytes(m.text) for m in made.modules), default=0)
    return Source(files, made.modules[0].name if made.modules else kernel.name, made.record,
                  {"ub_bytes": used})


def _tile_bytes(text: str) -> int:
    """Bytes of the largest tile that is read; what else there is, the chip's compiler plans."""
    widths = {"f32": 4, "i32": 4, "i8": 1, "i16": 2, "f16": 2, "i64": 8, "bf16": 2}
    most = 0
    for sizes, element in re.findall(r"memref\.alloc\(\) : memref<([\dx]+)x([a-z]+\d+)>", text):
        count = widths[element]
        for size in sizes.split("x"):
            count *= int(size)
        most = max(most, count)
    return most


def _blocks(rounds: Node) -> Any:
    """How many blocks are launched: no more than have something to do, no more than cores."""
    return _size(make("min", "int32", rounds, const(CORES)))


def _size(node: Node) -> Any:
    """A size of ``launch.json``."""
    if node.number is not None:
        return node.number
    if node.op == "var":
        return "S"
    a, b = (_size(x) for x in node.args)
    return ["sub", a, b] if node.op == "sub" else [OPS[node.op], a, b]
