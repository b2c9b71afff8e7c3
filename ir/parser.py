"""Reading the text form back; errors give line and column."""

from __future__ import annotations

import json
import re
import struct
from typing import Any

from firstlight.ir import dims
from firstlight.ir.core import Attr, Function, Module, Op, Value
from firstlight.ir.registry import TABLE
from firstlight.ir.types import CODECS, DTYPES, STATE_KINDS, StateType, TensorType, Type
from firstlight.ir.verifier import verify
from firstlight.runtime.errors import FirstlightError

_TOKEN = re.compile(
    r'(?P<space>(?:\s|//[^\n]*)+)|(?P<type>!fl\.\w+<[^<>\n]*>)|(?P<string>"(?:[^"\\\n]|\\.)*")'
    r"|(?P<arrow>->)|(?P<value>%[\w?]+)|(?P<block>\^\w+)|(?P<symbol>@)"
    r"|(?P<number>0x[0-9A-F]{16}|-?\d+(?:\.\d+)?(?:e[-+]?\d+)?)|(?P<word>[A-Za-z_]\w*)"
    r"|(?P<mark>[(){}\[\]:,=])"
)
_MAX_DEPTH = 64
_MAX_DIGITS = 20


class Parser:
    """Recursive descent over tokens."""

    def __init__(self, text: str, name: str = "<text>") -> None:
        self.text, self.name = text, name
        self.tokens: list[tuple[str, str, int]] = []
        at = 0
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise self.error("unexpected character", at)
            if match.lastgroup != "space":
                assert match.lastgroup is not None
                self.tokens.append((match.lastgroup, match.group(), at))
            at = match.end()
        self.tokens.append(("end", "end of text", len(text)))
        self.at = 0

    # -- tokens ---------------------------------------------------------------------------------

    def error(self, message: str, at: int | None = None) -> FirstlightError:
        """An error at a token (by default the next one)."""
        at = self.tokens[self.at][2] if at is None else at
        line = self.text.count("\n", 0, at) + 1
        column = at - self.text.rfind("\n", 0, at)
        shown = self.text[at:at + 40].split("\n")[0]
        return FirstlightError(
            "F207", f"{message} at line {line}, column {column}",
            where=f"{self.name}:{line}:{column}", why=f"the text there is `{shown}`",
            try_="the text form is what --dump-ir writes; docs/ir.md describes it",
        )

    @property
    def next(self) -> str:
        """Text of the next token."""
        return self.tokens[self.at][1]

    def take(self, kind: str, text: str | None = None) -> str:
        """The next token, which must be of this kind (and text)."""
        found, value, _ = self.tokens[self.at]
        if found != kind or (text is not None and value != text):
            raise self.error(f"expected {text or kind}, found {value}")
        self.at += 1
        return value

    def marks(self, texts: str) -> None:
        """A run of punctuation."""
        for text in texts:
            self.take("mark", text)

    def listed(self, item: Any, stop: str) -> list[Any]:
        """Comma-separated items up to the mark `stop`."""
        out: list[Any] = []
        while self.next != stop:
            if out:
                self.take("mark", ",")
            out.append(item())
        self.take("mark", stop)
        return out

    # -- grammar --------------------------------------------------------------------------------

    def module(self) -> Module:
        """The whole text."""
        self.take("string", '"builtin.module"')
        self.marks("()({")
        module = Module()
        while self.next != "}":
            start = self.tokens[self.at][2]
            function = self.function()
            if function.name in module.functions:
                raise self.error(f"function @{function.name} stands twice", start)
            module = module.with_function(function)
        self.marks("}):()")
        self.take("arrow")
        self.marks("()")
        self.take("end")
        return module

    def function(self) -> Function:
        self.take("string", '"func.func"')
        self.marks("()({")
        self.take("block")
        self.marks("(")
        self.values: dict[str, Value] = {}
        args = self.listed(self.argument, ")")
        self.marks(":")
        ops = []
        while self.tokens[self.at][0] == "value":
            ops.append(self.op())
        self.take("string", '"func.return"')
        self.marks("(")
        results = self.listed(self.value, ")")
        self.marks(":")
        self.types()
        self.take("arrow")
        self.marks("()})")
        self.marks("{")
        self.take("word", "function_type")
        self.marks("=")
        self.types()
        self.take("arrow")
        self.types()
        self.marks(",")
        self.take("word", "sym_name")
        self.marks("=")
        name = self.string()
        self.marks("}:()")
        self.take("arrow")
        self.marks("()")
        return Function(name, tuple(args), tuple(ops), tuple(results))

    def argument(self) -> Value:
        name = self.take("value")
        self.marks(":")
        return self.define(name, self.type(), self.loc())

    def define(self, name: str, type_: Type, loc: str) -> Value:
        if name in self.values:
            raise self.error(f"{name} is defined twice")
        self.values[name] = Value(type_, loc)
        return self.values[name]

    def value(self) -> Value:
        at = self.tokens[self.at][2]
        name = self.take("value")
        if name not in self.values:
            raise self.error(f"{name} is not defined", at)
        return self.values[name]

    def op(self) -> Op:
        names = [self.take("value")]
        while self.next == ",":
            self.take("mark")
            names.append(self.take("value"))
        self.marks("=")
        at = self.tokens[self.at][2]
        name = self.string()
        if not name.startswith("fl.") or name[3:] not in TABLE:
            raise self.error(f"unknown op {name}", at)
        self.marks("(")
        operands = self.listed(self.value, ")")
        attrs: dict[str, Attr] = {}
        if self.next == "{":
            self.take("mark")
            attrs = dict(self.listed(self.attribute, "}"))
        self.marks(":")
        ins = self.types()
        if [v.type for v in operands] != ins:
            raise self.error(f"operand types of {name} do not match their definitions", at)
        self.take("arrow")
        outs = self.types() if self.next == "(" else [self.type()]
        if len(outs) != len(names):
            raise self.error(f"{name} has {len(names)} results and {len(outs)} types", at)
        loc = self.loc()
        try:
            attrs = {k: _typed(name[3:], k, v) for k, v in attrs.items()}
        except FirstlightError as e:
            raise self.error(f"malformed dimension in the attributes of {name}", at) from e
        results = tuple(self.define(n, t, loc) for n, t in zip(names, outs, strict=True))
        return Op(name[3:], tuple(operands), attrs, results, loc)

    def attribute(self) -> tuple[str, Attr]:
        name = self.take("word")
        self.marks("=")
        return name, self.attr(0)

    def attr(self, depth: int) -> Any:
        kind, text, _ = self.tokens[self.at]
        if depth > _MAX_DEPTH:
            raise self.error("attributes are nested too deeply")
        if kind == "symbol":
            self.take("symbol")
            return self.string()
        if text == "[":
            self.take("mark")
            return tuple(self.listed(lambda: self.attr(depth + 1), "]"))
        if kind == "string":
            return self.string()
        if kind == "word" and text in ("true", "false"):
            return self.take("word") == "true"
        number = self.take("number")
        if number.startswith("0x"):
            self.marks(":")
            self.take("word", "f64")
            return struct.unpack(">d", bytes.fromhex(number[2:]))[0]
        if "." in number or "e" in number:
            return float(number)
        if len(number) > _MAX_DIGITS:
            raise self.error("a number is too long", self.tokens[self.at - 1][2])
        return int(number)

    def string(self) -> str:
        at = self.tokens[self.at][2]
        try:
            return str(json.loads(self.take("string")))
        except ValueError as e:
            raise self.error("malformed string", at) from e

    def loc(self) -> str:
        if self.next != "loc":
            return ""
        self.take("word")
        self.marks("(")
        text = self.string()
        self.marks(")")
        return text

    def types(self) -> list[Type]:
        self.marks("(")
        return self.listed(self.type, ")")

    def type(self) -> Type:
        at = self.tokens[self.at][2]
        text = self.take("type")
        try:
            return parse_type(text)
        except (ValueError, KeyError, TypeError, FirstlightError) as e:
            raise self.error(f"malformed type {text[:60]}", at) from e


def parse_type(text: str) -> Type:
    """Inverse of ``str(type)``."""
    head, _, body = text.removesuffix(">").partition("<")
    first, *rest = [part.strip() for part in re.split(r",(?![^(]*\))", body)]
    if head == "!fl.tensor":
        *shape, dtype = first.split("x")
        codec = rest[0] if rest else ""
        if dtype not in DTYPES or len(rest) > 1 or (rest and codec not in CODECS):
            raise ValueError(text)
        return TensorType(tuple(dims.parse(d) for d in shape), dtype, codec)
    if head != "!fl.state" or first not in STATE_KINDS:
        raise ValueError(text)
    fields = dict(part.split("=") for part in rest)
    codec = fields.pop("codec", "f32")
    state = StateType(first, codec=codec, **{k: int(v) for k, v in fields.items()})
    if str(state) != text:
        raise ValueError(text)
    return state


def _typed(op: str, name: str, value: Attr) -> Attr:
    """Strings inside shapes, and those of dim attributes, are dimensions."""
    if isinstance(value, tuple):
        return tuple(dims.parse(v) if isinstance(v, str) else v for v in value)
    if isinstance(value, str) and TABLE[op].attrs.get(name) is dims.Dim:
        return dims.parse(value)
    return value


def parse(text: str, name: str = "<text>") -> Module:
    """A verified module from its text."""
    module = Parser(text, name).module()
    verify(module)
    return module
