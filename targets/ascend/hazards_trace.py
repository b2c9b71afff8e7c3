"""A lowered module, walked as the scalar units of a block's cores do.

Loops are walked for a few iterations, enough for every buffer of a rotation to be used twice.
Numbers that are read from memory are unknown: a branch on one is walked both ways, and an address
that depends on one is all of the memory it is in.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping

from firstlight.targets.ascend.hazards_events import Core, Part
from firstlight.targets.ascend.hazards_walk import Walk
from firstlight.targets.ascend.rewrite import Function, function
from firstlight.targets.ascend.rewrite_ops import Op, parse

BRANCHES = 6
"""Most unknown branches of a module that are walked both ways; later ones are taken."""
READS = frozenset({"vector.transfer_read", "vector.load", "vector.maskedload", "vector.gather",
                   "memref.load"})
WRITES = frozenset({"vector.transfer_write", "vector.store", "vector.maskedstore",
                    "vector.scatter", "memref.store"})


class Lowered:
    """A parsed module, ready to be walked with or without some of its flags."""

    def __init__(self, text: str) -> None:
        self.aliases, module = parse(text)
        functions = [(function(op), op) for op in module.regions[0] if op.name == "func.func"]
        self.functions = {head.name: (head, op) for head, op in functions if not head.host}
        self.entries = [(head, op) for head, op in functions if head.entry]
        self.rotation = max([int(m[1]) for op in module.walk() if op.name == "annotation.mark"
                             and (m := re.match(r"(\d+)", op.attributes.get("hivm.multi_buffer",
                                                                            "")))] or [2])
        self.touched: dict[str, tuple[set[int], set[int]]] = {}
        self.rotated: dict[str, dict[int, int]] = {}

    def flags(self) -> list[Op]:
        """Every op that orders something, in the order of the text."""
        names = {f"hivm.hir.{n}" for n in ("set_flag", "wait_flag", "pipe_barrier",
                                           "sync_block_set", "sync_block_wait")}
        return [op for _, entry in self.entries for op in entry.walk() if op.name in names]

    def cores(self, launch: str, choices: Mapping[int, bool], without: frozenset[Part] = frozenset()
              ) -> list[Core]:
        """The cores of one launch's block.

        Args:
            launch: entry, without ``_mix_aic``.
            choices: how the nth unknown branch goes; see `walks`.
            without: ids of ops that are left out.
        """
        cores = []
        mixed = any(h.name == f"{launch}_mix_aiv" for h, _ in self.entries)
        for head, op in self.entries:
            if head.name.removesuffix("_mix_aic").removesuffix("_mix_aiv") != launch:
                continue
            for i in range(2 if mixed and head.core == "aiv" else 1):
                name = "aic" if head.core == "aic" else f"aiv{i}"
                walk = Walk(self, name, i, choices, without)
                walk.enter(head, op)
                cores.append(Core(name, walk.events))
        return cores

    def launches(self) -> list[str]:
        """Entries, the two of a mixed kernel as one."""
        names = [h.name.removesuffix("_mix_aic").removesuffix("_mix_aiv") for h, _ in self.entries]
        return list(dict.fromkeys(names))

    def walks(self, launch: str, without: frozenset[Part] = frozenset()) -> Iterator[list[Core]]:
        """The cores, once for each way through the unknown branches."""
        seen: set[int] = set()
        first = _Choices(seen, {})
        yield self.cores(launch, first, without)
        names = sorted(seen)[:BRANCHES]
        for ways in itertools.product((True, False), repeat=len(names)):
            if not all(ways):
                yield self.cores(launch, _Choices(seen, dict(zip(names, ways, strict=True))),
                                 without)

    def uses(self, name: str) -> tuple[set[int], set[int]]:
        """Numbers of a vector function's arguments that it reads, and that it writes."""
        if name not in self.touched:
            head, op = self.functions[name]
            self.touched[name] = _uses(self, head, op)
        return self.touched[name]


    def slots(self, name: str) -> dict[int, int]:
        """Of a vector function's memories that are buffers in rotation, the number of the argument
        that says which one is meant, wherever the memory is used."""
        if name not in self.rotated:
            head, op = self.functions[name]
            self.rotated[name] = _slots(head, op)
        return self.rotated[name]


class _Choices(dict[int, bool]):
    """Which way a branch (by the id of its op) goes; unknown branches are noted, and taken."""

    def __init__(self, seen: set[int], known: Mapping[int, bool]) -> None:
        super().__init__(known)
        self.seen = seen

    def __missing__(self, key: int) -> bool:
        self.seen.add(key)
        return True


def _slots(head: Function, op: Op) -> dict[int, int]:
    places = {name: i for i, (name, type_) in enumerate(head.arguments) if type_ == "index"}
    texts = [o.text for o in op.walk() if o is not op and o.name != "annotation.mark"]
    found: dict[int, int] = {}
    for i, (name, _) in enumerate(head.arguments):
        if name in places:
            continue
        whole = re.compile(re.escape(name) + r"(?![\w.$-])(?:\[(%[\w.$-]+), )?")
        uses = {m[1] for text in texts for m in whole.finditer(text)}
        if len(uses) == 1 and (place := uses.pop()) in places:
            found[i] = places[place]
    return found


def _uses(lowered: Lowered, head: Function, op: Op) -> tuple[set[int], set[int]]:
    roots = {name: {i} for i, (name, type_) in enumerate(head.arguments)
             if type_.startswith("memref")}
    reads: set[int] = set()
    writes: set[int] = set()
    for inner in op.walk():
        names = re.findall(r"%[\w.$-]+(?:#\d+)?", inner.text)
        found = [roots.get(n, set()) for n in names]
        if inner.name in WRITES:
            writes |= set().union(*found)
        elif inner.name == "func.call":
            callee = re.match(r"@([\w.$-]+)", inner.text)
            assert callee is not None
            more_reads, more_writes = lowered.uses(callee[1])
            for i, root in enumerate(found):
                reads |= root if i in more_reads else set()
                writes |= root if i in more_writes else set()
        elif inner.name in READS:
            reads |= set().union(*found)
        elif inner.name.startswith("memref.") or inner.name == "arith.select":
            for result in inner.results:
                roots[result] = set().union(*found)
    return reads, writes
