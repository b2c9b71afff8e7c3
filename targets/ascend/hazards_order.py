"""Which accesses of a block happen in a known order, and which of the others touch the same bytes.

Every access gets the set of accesses that happen before it, as the bits of an integer. The scalar
unit hands ops to the pipes in order and goes on; V, M and MTE1 finish one thing before the next;
transfers of MTE2, MTE3 and FIX may overtake each other until a barrier. A set flag stands for all
that its pipe was given before; what a pipe is given after a wait happens after that.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from firstlight.targets.ascend.hazards_events import PIPES, Bits, Core, Event
from firstlight.targets.ascend.rewrite_ops import Op

IN_ORDER = frozenset({"S", "V", "M", "MTE1"})


@dataclass(frozen=True)
class Finding:
    """Something a chip would punish.

    kind   "hazard": two accesses to the same bytes in no order; "flag": a wait that nothing ends,
           or a flag that is set while it is set, or left set at the end
    first, second   the ops, as printed; second "" if there is one
    """

    kind: str
    core: str
    what: str
    first: Op
    second: Op | None = None

    def __str__(self) -> str:
        ops = [op.line.strip()[:160] for op in (self.first, self.second) if op is not None]
        return "\n    ".join([f"{self.core}: {self.what}", *ops])


@dataclass
class _Pipe:
    """What later ops of a pipe happen after, and what it was given."""

    ordered: int = 0
    given: int = 0


@dataclass(frozen=True)
class Node:
    """An access, with the accesses before it (and itself) as bits."""

    core: str
    event: Event
    before: int


@dataclass
class Order:
    """The accesses of a block in order, and what is wrong with its flags.

    pairs  ops whose set was awaited by whose wait: ((op, slot), (op, slot))
    """

    nodes: list[Node] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    pairs: set[tuple[tuple[int, str], tuple[int, str]]] = field(default_factory=set)


@dataclass(frozen=True)
class _Token:
    """A flag that is set: what happened before, and who set it."""

    before: int
    event: Event


class _Core:
    """One core on its way through its events."""

    def __init__(self, core: Core, order: Order) -> None:
        self.name, self.events, self.order = core.name, deque(core.events), order
        self.pipes = {name: _Pipe() for name in PIPES}
        self.flags: dict[tuple[str, str, int | None], deque[_Token]] = defaultdict(deque)
        self.slots: dict[str, int] = {}

    def step(self, event: Event) -> None:
        """Anything but flags between cores."""
        if event.kind == "access":
            self._access(event)
        elif event.kind == "barrier":
            some = PIPES if event.pipe == "ALL" else (event.pipe,)
            before = self.all(some)
            for name in some:
                self.pipes[name].ordered |= before
        elif event.kind == "set":
            self._set(event)
        else:
            self._wait(event)

    def all(self, pipes: Sequence[str]) -> int:
        """All that some pipes were given, and what that happens after."""
        before = self.pipes["S"].ordered
        for name in pipes:
            before |= self.pipes[name].ordered | self.pipes[name].given
        return before

    def after(self, pipe: str, before: int) -> None:
        """What the pipe is given from now on happens after `before`."""
        self.pipes[pipe].ordered |= before | self.pipes["S"].ordered

    def _access(self, event: Event) -> None:
        pipe, bit = self.pipes[event.pipe], 1 << len(self.order.nodes)
        before = pipe.ordered | self.pipes["S"].ordered | bit
        for name in event.after:
            before |= self.slots.get(name, 0)
        pipe.given |= before
        if event.pipe in IN_ORDER:
            pipe.ordered |= before
        self.slots[event.slot] = before
        self.order.nodes.append(Node(self.name, event, before))

    def _set(self, event: Event) -> None:
        key = (event.pipe, event.other, event.flag)
        before = self.all((event.pipe,))
        if self.flags[key]:
            self.order.findings.append(Finding(
                "flag", self.name, f"{_named(key)} is set while it is set", event.op,
                self.flags[key][-1].event.op))
        self.flags[key].append(_Token(before, event))

    def _wait(self, event: Event) -> None:
        key = (event.other, event.pipe, event.flag)
        if not self.flags[key]:
            self.order.findings.append(Finding(
                "flag", self.name, f"nothing sets {_named(key)} before it is awaited", event.op))
            return
        token = self.flags[key].popleft()
        self.after(event.pipe, token.before)
        self.order.pairs.add(((id(token.event.op), token.event.slot), (id(event.op), event.slot)))

    def end(self) -> None:
        """What is left at the end of the kernel is there when the next one begins."""
        for key, tokens in self.flags.items():
            for token in tokens:
                self.order.findings.append(Finding(
                    "flag", self.name, f"{_named(key)} is left set", token.event.op))


def _named(key: tuple[str, str, int | None]) -> str:
    return f"flag {key[2]} from {key[0]} to {key[1]}"


def order(cores: Sequence[Core]) -> Order:
    """Order the accesses of a block's cores, as far as they are ordered."""
    found = Order()
    running = [_Core(core, found) for core in cores]
    between: dict[tuple[str, int | None], deque[_Token]] = defaultdict(deque)
    moved = True
    while moved:
        moved = False
        for core in running:
            while core.events and _ready(core, core.events[0], between, running):
                event = core.events.popleft()
                moved = True
                if event.kind == "core_set":
                    for other in _others(core, running):
                        between[_key(core, other), event.flag].append(
                            _Token(core.all((event.pipe,)), event))
                elif event.kind == "core_wait":
                    for other in _others(core, running):
                        token = between[_key(other, core), event.flag].popleft()
                        core.after(event.pipe, token.before)
                        found.pairs.add(((id(token.event.op), ""), (id(event.op), "")))
                else:
                    core.step(event)
    for core in running:
        if core.events:
            found.findings.append(Finding(
                "flag", core.name, f"waits for flag {core.events[0].flag} of another core, which "
                "does not come", core.events[0].op))
        core.end()
    for (ends, flag), tokens in between.items():
        for token in tokens:
            found.findings.append(Finding(
                "flag", ends, f"flag {flag} between cores is left set", token.event.op))
    return found


def _key(sender: _Core, receiver: _Core) -> str:
    return f"{sender.name} to {receiver.name}"


def _others(core: _Core, running: Sequence[_Core]) -> Iterator[_Core]:
    """The cores that a core's flags go to: the cube's to both vector cores, theirs to the cube."""
    return (o for o in running if (o.name == "aic") != (core.name == "aic"))


def _ready(core: _Core, event: Event, between: dict[tuple[str, int | None], deque[_Token]],
           running: Sequence[_Core]) -> bool:
    return event.kind != "core_wait" or all(between[_key(other, core), event.flag]
                                            for other in _others(core, running))


def hazards(found: Order) -> Iterator[Finding]:
    """Pairs of accesses to the same bytes, one of them a write, that are in no order."""
    seen: set[tuple[int, int]] = set()
    by_space: dict[str, list[tuple[int, bool, Bits]]] = defaultdict(list)
    for number, node in enumerate(found.nodes):
        for written, some in ((False, node.event.reads), (True, node.event.writes)):
            for piece in some:
                by_space[piece.space].append((number, written, piece))
    for pieces in by_space.values():
        for at, (late, writes, piece) in enumerate(pieces):
            for early, wrote, other in pieces[:at]:
                if early == late or not (writes or wrote):
                    continue
                a, b = found.nodes[early], found.nodes[late]
                key = (id(a.event.op), id(b.event.op))
                if b.before >> early & 1 or a.before >> late & 1 or key in seen:
                    continue
                if piece.overlaps(other):
                    seen.add(key)
                    yield _hazard(a, b, wrote, writes, piece.space)


def _hazard(a: Node, b: Node, wrote: bool, writes: bool, space: str) -> Finding:
    kind = {(True, True): "both write", (True, False): "is written and read",
            (False, True): "is read and written"}[wrote, writes]
    where = a.core if a.core == b.core else f"{a.core} and {b.core}"
    return Finding("hazard", where, f"{a.event.pipe} and {b.event.pipe}, in no order: memory that "
                   f"{kind}, in {space.upper()}", a.event.op, b.event.op)
