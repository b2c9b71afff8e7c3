"""Language rules that a host compiler does not know, checked on emitted text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from firstlight.runtime.errors import FirstlightError

Found = Iterator[tuple[int, str]]
"""Lines, from 1, with the rule that each breaks."""
FLOAT = re.compile(r"(?<![\w.])(?:\d+\.\d*(?:e[-+]?\d+)?|\.\d+|\d+e[-+]?\d+)(?![\w.])")
ARRAY = re.compile(r"^\s+(?:const )?(?:float|u?int\d+_t|half|bfloat16_t|bool|char) (\w+)\[")
GLOBAL = re.compile(r"^(?:static )?(?:const )?(?:float|u?int\d+_t|half|char) \w+(?:\[|;| =)")
CALL = re.compile(r"^\s*(?:\w+ = )?(__(?:bang|memcpy|sync)\w*)\((.*)\);")
MOST_SEGMENTS = 65535
BYTES_32 = 1 << 32
UNITS = {"block": 0, "union1": 4, "union2": 8, "union4": 16, "union8": 32}
"""Cores of a launch by its type: a multiple of them is the number of tasks along x."""


def arguments(text: str) -> list[str]:
    """The arguments of a call, split at commas outside brackets.

    >>> arguments("a, f(b, c), d[e, 1]")
    ['a', 'f(b, c)', 'd[e, 1]']
    """
    found, depth, begin = [], 0, 0
    for place, letter in enumerate(text):
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and not depth:
            found.append(text[begin:place].strip())
            begin = place + 1
    return [*found, text[begin:].strip()]


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"-?\d+", text) else None


def _literals(lines: list[str]) -> Found:
    yield from ((n, "a floating literal without f is a half") for n, line in enumerate(lines, 1)
                if FLOAT.search(line.partition("//")[0]))


def _stack(lines: list[str]) -> Found:
    """An array or a scalar's address on the stack as an operand."""
    local: set[str] = set()
    for n, line in enumerate(lines, 1):
        if not line.startswith(" "):
            local.clear()
        if (array := ARRAY.match(line)) is not None:
            local.add(array[1])
        call = CALL.match(line)
        if call and not call[1].startswith("__sync"):
            words = [re.match(r"(?:\([\w *]+\))?(&?)(\w+)", a) for a in arguments(call[2])]
            if any(w and (w[1] or w[2] in local) for w in words):
                yield n, "memory on the stack cannot be an operand of an instruction"


def _globals(lines: list[str]) -> Found:
    yield from ((n, "a device global needs a word for its memory")
                for n, line in enumerate(lines, 1) if GLOBAL.match(line))


def _memory_core(lines: list[str]) -> Found:
    """The memory core has neither vectors nor NRAM: a kernel begins by sending it away, or, where
    it stages through SRAM, gives it a branch of its own."""
    for n, line in enumerate(lines):
        if "__mlu_global__" in line and line.endswith("{"):
            first = lines[n + 1].strip() if n + 1 < len(lines) else ""
            if not first.startswith("if (__is_mpu())"):
                yield n + 2, "the memory core leaves first"


def _copies(lines: list[str]) -> Found:
    for n, line in enumerate(lines, 1):
        call = CALL.match(line)
        if not call or not call[1].startswith("__memcpy"):
            continue
        args = arguments(call[2])
        size = _number(args[2]) if len(args) > 2 else None
        if size is not None and not 0 < size < BYTES_32:
            yield n, "a copy's size is more than zero and fits in 32 bits"
        if len(args) == 7 and (rows := _number(args[6])) is not None:
            if not 0 <= rows <= MOST_SEGMENTS:
                yield n, "a copy has at most 65536 segments, counted from zero"
        if "WRAM" in args[3]:
            if size is not None and size % 16:
                yield n, "copies to and from WRAM are multiples of 16 bytes"
            if "+" in args[0 if args[3].endswith("2WRAM") else 1]:
                yield n, "no arithmetic on WRAM pointers: its layout is not known"


def _products(lines: list[str]) -> Found:
    """Only the chain reshape_filter, NRAM2WRAM, matmul is known to be right."""
    reshaped, copied = "", ""
    halves: set[str] = set()
    for n, line in enumerate(lines, 1):
        if (half := re.match(r"\s*bfloat16_t \*(\w+) =", line)) is not None:
            halves.add(half[1])
        call = CALL.match(line)
        if not call:
            continue
        args = arguments(call[2])
        if call[1] == "__bang_reshape_filter":
            reshaped = args[0]
            count = _number(args[2])
            if count is not None and count % 64:
                yield n, "reshape_filter takes a multiple of 64 columns"
        elif call[1].startswith("__memcpy") and args[3] == "NRAM2WRAM":
            if args[1] != reshaped:
                yield n, "what goes to WRAM comes from reshape_filter"
            copied = args[0]
        elif call[1] == "__bang_matmul":
            if args[2] != copied:
                yield n, "matmul's right side was reshaped and copied to WRAM"
            depth = _number(args[4])
            if depth is not None and depth * (2 if args[1] in halves else 4) % 64:
                yield n, "matmul's inner side is a multiple of 64 bytes"


def _counts(lines: list[str]) -> Found:
    for n, line in enumerate(lines, 1):
        call = CALL.match(line)
        if call and call[1].startswith("__bang_"):
            args = arguments(call[2])
            if call[1] == "__bang_move":
                args = args[:3]     # strides and rows less one may follow
            last = args[-2] if len(args) > 2 and call[1].endswith(
                ("_tz", "_rn", "2uchar", "2int32", "162float")) else args[-1]
            count = _number(last)
            signed = "scalar" in call[1] or "write_value" in call[1]
            if count is not None and count <= 0 and not signed:
                yield n, "a count is more than zero"


def _barriers(lines: list[str]) -> Found:
    """All tasks meet at a barrier: none may stand where only some of them come by."""
    depth: list[bool] = []
    for n, line in enumerate(lines, 1):
        text = line.strip()
        if text.startswith(("__sync_all", "__sync_cluster")) and any(depth):
            yield n, "a barrier where not every task comes by"
        if text.endswith("{"):
            depth.append("taskId" in text or "coreId" in text)
        if text.startswith("}") and depth:
            depth.pop()


def _asynchronous(lines: list[str]) -> Found:
    """A copy that does not wait is waited for: below it, or above it in a loop around both."""
    stack: list[tuple[int, bool]] = []
    copies: list[tuple[int, int, str]] = []
    waits: dict[str, int] = {}
    for n, line in enumerate(lines, 1):
        text = line.strip()
        if text.startswith("__memcpy_async"):
            loops = [begin for begin, loop in stack if loop]
            onchip = "DRAM" not in arguments(text.partition("(")[2])[3]
            copies.append((n, loops[0] if loops else n, "move" if onchip else "io"))
        elif sync := re.match(r"__sync(?:_(io|move|io_move_compute))?\(\)", text):
            for queue in ("io", "move"):    # a barrier of cores does not say that it waits for them
                if sync[1] in (None, queue, "io_move_compute"):
                    waits[queue] = n
        if text.endswith("{"):
            stack.append((n, text.startswith(("for", "while"))))
        if text.startswith("}") and stack:
            stack.pop()
        if line.startswith("}"):
            yield from ((at, "a copy that nobody waits for") for at, begin, queue in copies
                        if waits.get(queue, 0) < begin)
            copies, waits = [], {}


def _recursion(lines: list[str]) -> Found:
    name = ""
    for n, line in enumerate(lines, 1):
        head = re.search(r"__mlu_(?:func|global)__ [\w *]+?(\w+)\(", line)
        if head:
            name = head[1]
            if line.count(f"{name}(") > 1:
                yield n, "no recursion"
        elif name and re.search(rf"\b{name}\(", line):
            yield n, "no recursion"
        if line.startswith("}"):
            name = ""


RULES: tuple[Callable[[list[str]], Found], ...] = (
    _literals, _stack, _globals, _memory_core, _copies, _products, _counts, _barriers,
    _asynchronous, _recursion)


def broken(text: str) -> list[tuple[int, str]]:
    """(line, rule) of every violation.

    >>> broken("    x = 1.0;\\n    y = 1.0f;")
    [(1, 'a floating literal without f is a half')]
    """
    lines = text.splitlines()
    return sorted(found for rule in RULES for found in rule(lines))


def broken_launch(launch: Mapping[str, Any]) -> str:
    """The rule that a launch breaks, or ""."""
    cores, tasks = UNITS.get(str(launch["type"])), launch["dim"]
    if cores is None:
        return f"there is no launch type {launch['type']}"
    if cores and tasks[0] % cores:
        return f"tasks along x are a multiple of {cores} for {launch['type']}"
    return "" if all(n > 0 for n in tasks) else "no tasks"


def check(text: str, name: str, launch: Mapping[str, Any] | None = None) -> None:
    """Raises F408 with the first violation, and the kernel's line."""
    found = broken(text)
    if launch is not None and (why := broken_launch(launch)):
        found.append((1, why))
    for line, rule in found:
        raise FirstlightError("F408", f"{name} is not BANG C", where=f"{name}.mlu:{line}",
                              why=rule, try_="report it: the emitter must not write this")
