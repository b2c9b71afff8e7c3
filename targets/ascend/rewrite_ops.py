"""Lines of printed MLIR as ops: what rewriting and the hazard checker read.

The compiler prints an op a line, and a region between a line that ends in ``{`` and one that begins
with ``}``. That, and balanced brackets, is all of MLIR's grammar that is needed here; a line that
does not fit is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from firstlight.runtime.errors import FirstlightError

OPEN, CLOSE = "([{<", ")]}>"
LINE = re.compile(r"(?P<results>%[\w#:.$, %-]+? = )?"
                  r"(?:\"(?P<quoted>[\w.]+)\"|(?P<name>[a-z_][\w.]*))(?P<rest>.*)")
TYPE = re.compile(r"memref<(?P<inside>.*)>$")
SPACES = {"gm": "gm", "ub": "ub", "cbuf": "l1", "cc": "l0c"}
SPACE = re.compile(r",\s*#hivm\.address_space<(\w+)>")


class Refused(FirstlightError):
    """Lowered code that the emulator or the checker does not know: F-code, with the op's name."""

    def __init__(self, what: str, line: str) -> None:
        super().__init__("F471", what, where=line.strip()[:200],
                         why="lowered code is executed completely or not at all",
                         try_="add the op to targets/ascend/rewrite_hivm.py or rewrite_upstream.py")


@dataclass(eq=False)
class Op:
    """One op: its results, dotted name, text without attribute dictionary, and its regions.

    `text` has the operands and types; `attributes` the dictionary, by key; `regions` the ops of
    each region in order. `line` is what was printed.
    """

    results: list[str]
    name: str
    text: str
    attributes: dict[str, str]
    line: str
    regions: list[list[Op]] = field(default_factory=list)

    def walk(self) -> Iterator[Op]:
        """The op and all ops inside it, in the order of the text."""
        yield self
        for region in self.regions:
            for op in region:
                yield from op.walk()


@dataclass(frozen=True)
class MemRef:
    """A memref type: ``shape`` has None for a dynamic side, ``strides`` likewise.

    ``layout`` is the text between element type and memory space; ``space`` is "gm", "ub", "l1",
    "l0c", or "" for memory of the scalar core.
    """

    shape: tuple[int | None, ...]
    element: str
    layout: str
    space: str

    @property
    def rank(self) -> int:
        """Number of sides."""
        return len(self.shape)


def balanced(text: str, start: int) -> int:
    """Index of the bracket that closes the one at `start`; ``->`` is no bracket."""
    depth = 0
    for i in range(start, len(text)):
        if text[i] in OPEN:
            depth += 1
        elif text[i] in CLOSE and text[i - 1: i + 1] != "->":
            depth -= 1
            if depth == 0:
                return i
    raise Refused("brackets that do not close", text)


def split(text: str, separator: str = ",") -> list[str]:
    """Pieces of a list, split at separators outside of brackets."""
    pieces, depth, start = [], 0, 0
    for i, char in enumerate(text):
        if char in OPEN:
            depth += 1
        elif char in CLOSE and text[i - 1: i + 1] != "->":
            depth -= 1
        elif char == separator and depth == 0:
            pieces.append(text[start:i].strip())
            start = i + 1
    last = text[start:].strip()
    return [*pieces, last] if last or pieces else []


def dictionary(text: str) -> dict[str, str]:
    """``{a = 1, b}`` as a mapping; a unit attribute has the value ""."""
    pairs = (piece.partition(" = ") for piece in split(text.strip()[1:-1]))
    return {key.strip().strip('"'): value.strip() for key, _, value in pairs}


def _take_dictionary(text: str) -> tuple[str, dict[str, str]]:
    """Cut the attribute dictionaries out of an op's text (one before and one after, at most)."""
    found: dict[str, str] = {}
    depth, i = 0, 0
    while i < len(text):
        if text[i] == "{" and depth == 0:
            end = balanced(text, i)
            found |= dictionary(text[i: end + 1])
            text = f"{text[:i].rstrip()} {text[end + 1:].lstrip()}".rstrip()
            continue
        if text[i] in OPEN:
            depth += 1
        elif text[i] in CLOSE and text[i - 1: i + 1] != "->":
            depth -= 1
        i += 1
    return text, found


def parse_line(line: str) -> Op:
    """One line, without a region's brace."""
    match = LINE.fullmatch(line.strip())
    if match is None:
        raise Refused("a line that is no op", line)
    results = [r.strip() for r in (match["results"] or "").removesuffix("= ").split(",")]
    name = match["quoted"] or match["name"]
    name = {"call": "func.call", "return": "func.return"}.get(name, name)
    if name in ("func.func", "vector.mask"):      # with a region, or a function's attributes
        text, attributes = match["rest"], {}
    else:
        text, attributes = _take_dictionary(match["rest"])
    return Op([r for r in results if r], name, text.strip(), attributes, line)


def parse(text: str) -> tuple[dict[str, str], Op]:
    """A printed module: its attribute aliases (``#map`` -> text), and the module op.

    Raises Refused for text of another shape.
    """
    aliases: dict[str, str] = {}
    top = Op([], "", "", {}, "")
    top.regions.append([])
    stack = [top]
    for line in text.splitlines():
        bare = line.strip()
        if not bare or bare.startswith("//"):
            continue
        if bare.startswith("#"):
            name, _, value = bare.partition(" = ")
            aliases[name] = value
            continue
        if bare.startswith("}"):
            bare = bare[1:].strip()
            if bare in ("else {", "do {"):
                stack[-1].regions.append([])
                continue
            closed = stack.pop()
            if bare.startswith("{"):
                closed.attributes |= dictionary(bare)
            elif bare:
                raise Refused("text after a region", line)
            continue
        opens = bare.endswith("{")
        if bare.startswith("module"):
            op = Op([], "module", "", {}, line)
        else:
            op = parse_line(bare[:-1] if opens else bare)
        stack[-1].regions[-1].append(op)
        if opens:
            op.regions.append([])
            stack.append(op)
    if len(stack) != 1 or [op.name for op in top.regions[0]] != ["module"]:
        raise Refused("text that is not one module", text[:200])
    return aliases, top.regions[0][0]


def memref(text: str) -> MemRef:
    """A memref type from its text."""
    match = TYPE.match(text.strip())
    if match is None:
        raise Refused("a type that is no memref", text)
    space = SPACE.search(match["inside"])
    if space and space[1] not in SPACES:
        raise Refused(f"memory space {space[1]}", text)
    first, *layout = split(SPACE.sub("", match["inside"]))
    *sides, element = re.split(r"x(?=[\d?]|[a-z])", first)
    return MemRef(tuple(None if side == "?" else int(side) for side in sides), element,
                  ", ".join(layout), SPACES[space[1]] if space else "")


def plain(text: str) -> str:
    """Text of types without memory spaces."""
    return SPACE.sub("", text)


@dataclass(frozen=True)
class Hivm:
    """An op of the chip's dialect: ``ins(%a : t) outs(%b : t) key = value``.

    groups   name -> [(operand, type)]
    options  name -> value; the first, nameless bracket is under "cores"
    """

    groups: Mapping[str, Sequence[tuple[str, str]]]
    options: Mapping[str, str]


def hivm(op: Op) -> Hivm:
    """The clauses of an op of the chip's dialect."""
    groups: dict[str, list[tuple[str, str]]] = {}
    options: dict[str, str] = {}
    text = op.text
    while text:
        group = re.match(r"(\w+)\s*\(", text)
        if group:
            end = balanced(text, group.end() - 1)
            values, _, types = text[group.end(): end].partition(" : ")
            groups[group[1]] = list(zip(split(values), split(types) or [""] * len(split(values)),
                                        strict=True))
        elif text[0] == "[":
            end = balanced(text, 0)
            options["cores"] = text[1:end]
        else:
            option = re.match(r"(\w+) = (<\w+>|\[[^\]]*\]|[^\s]+)(?: : \w+)?", text)
            if option is None:
                raise Refused(f"clauses of {op.name}", op.line)
            options[option[1]] = option[2]
            end = option.end() - 1
        text = text[end + 1:].strip()
    return Hivm(groups, options)
