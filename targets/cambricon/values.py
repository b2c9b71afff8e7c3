"""Nodes as vector instructions on dense tiles in NRAM; scalars where nothing varies."""

from __future__ import annotations

from dataclasses import dataclass, field

from firstlight.codegen.nests.linear import linear
from firstlight.codegen.nests.nodes import Node
from firstlight.targets.cambricon.codes import Tables, decoded
from firstlight.targets.cambricon.legal import Legal
from firstlight.targets.cambricon.scalars import Place
from firstlight.targets.cambricon.text import times
from firstlight.targets.cambricon.tiles import Value, stored
from firstlight.targets.cambricon.transfers import Transfers

ARITHMETIC = {"add": "add", "sub": "sub", "mul": "mul", "max": "maxequal", "min": "minequal",
              "div": "div"}
BITS = {"and": "band", "or": "bor", "xor": "bxor"}
WITH_SCALAR = {"add": "add_scalar", "sub": "sub_scalar", "mul": "mul_scalar",
               "max": "maxeq_scalar", "min": "mineq_scalar", "and": "band_scalar",
               "or": "bor_scalar", "xor": "bxor_scalar"}
CYCLED = {"add": "cycle_add", "sub": "cycle_sub", "mul": "cycle_mul", "max": "cycle_maxequal",
          "min": "cycle_minequal", "and": "cycle_band", "or": "cycle_bor", "xor": "cycle_bxor"}
SWAPS = ("add", "mul", "max", "min", "and", "or", "xor")
COMPARE = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le", "eq": "eq", "ne": "ne"}
"""Comparisons, and what each is with its operands swapped."""
FUNCTIONS = {"sqrt": "sqrt", "recip": "recip", "pow2": "pow2", "log2": "log2", "fabs": "abs",
             "floor": "floor"}
ONE_BITS = 0x3F800000
"""1.0f as an integer: a mask and it are the float of a truth value."""


@dataclass(kw_only=True)
class Values(Transfers):
    """Writes what one root node computes, in one block of C.

    Attributes:
        tables: what codes mean.
        acc: what the node ``acc`` is.
    """

    legal: Legal
    tables: Tables
    acc: Value | None = None
    done: dict[Node, Value] = field(default_factory=dict)
    left: dict[Node, int] = field(default_factory=dict)

    def root(self, node: Node) -> Value:
        """The value of a node and of all it is made of; its place is the caller's to give back."""
        node = self.legal.node(node)
        self.left[node] = self.left.get(node, 0) + 1
        for here in self.tiles(node):
            for part in here.parts() if here.op != "load" else ():
                self.left[part] = self.left.get(part, 0) + 1
        return self.value(node)

    def tiles(self, node: Node) -> list[Node]:
        """All nodes that a legal one is made of and that vary; what loads index with is not."""
        stack, seen = [node], {node}
        found = []
        while stack:
            here = stack.pop()
            if not self.legal.varies(here):
                continue
            found.append(here)
            for part in here.parts() if here.op != "load" else ():
                if part not in seen:
                    seen.add(part)
                    stack.append(part)
        return found

    def value(self, node: Node) -> Value:
        """A node's value, written once."""
        if node not in self.done:
            self.done[node] = self.make(node)
        return self.done[node]

    def make(self, node: Node) -> Value:
        if not self.legal.varies(node):
            return Value(self.scalars.text(node), node.dtype)
        if node.op == "load":
            return self.widened(self.raw(node))
        if node.op == "var":
            return self.steps(str(node.args[0]))
        if node.op == "acc":
            assert self.acc is not None
            return self.acc
        if node.op == "bf16":
            return self.convert("bfloat162float", "float32", self.raw(node.args[0]), "bfloat16_t")
        if node.op == "lut":
            result = decoded(self, node, self.tables)
        else:
            result = self.apply(node, [self.value(a) for a in node.args])
        for part in node.parts():
            self.left[part] -= 1
            if not self.left[part] and part in self.done:
                self.give(self.done[part])
        return result

    def apply(self, node: Node, args: list[Value]) -> Value:
        op, dtype = node.op, node.dtype
        if op == "cast":
            return self.cast(args[0], dtype)
        if op == "reinterpret":
            return self.alias(args[0], dtype)
        if op in ("select", "if_then_else"):
            return self.select(*args)
        if op == "not":
            to = self.new("bool", args[0].axes)
            self.bits("bnot", to, args[0])
            return to
        if op in COMPARE:
            return self.compare(op, *args)
        if op in FUNCTIONS:
            return self.do(FUNCTIONS[op], dtype, args[0].axes, args[0].text)
        if op in ("shl", "shr"):
            return self.shift(op, dtype, *args)
        if op in ARITHMETIC or op in BITS:
            return self.binary(op, dtype, *args)
        raise self.out.refuse(f"{op} of {dtype} in a tile")

    def binary(self, op: str, dtype: str, a: Value, b: Value) -> Value:
        if not a.axes and op in SWAPS:
            a, b = b, a
        if not b.axes and op in WITH_SCALAR:
            return self.do(WITH_SCALAR[op], dtype, a.axes, a.text, self.literal(b))
        if not a.axes and op == "sub":      # a - b = -b + a
            turned = self.do("mul_scalar", dtype, b.axes, b.text,
                             "-1.0f" if dtype == "float32" else "-1")
            self.out.call("__bang_add_scalar", turned.text, turned.text, a.text,
                          self.count(b.axes))
            return turned
        axes = self.joint(a, b)
        if a.axes != axes and b.axes == axes and op in SWAPS:
            a, b = b, a
        if (op in CYCLED and a.axes == axes and b.axes and b.axes != axes
                and axes[-len(b.axes):] == b.axes):
            to = self.new(dtype, axes)
            if op in BITS:
                self.bits(CYCLED[op], to, a, b, times(4, self.count(b.axes)))
            else:
                self.out.call(f"__bang_{CYCLED[op]}", to.text, a.text, b.text, self.count(axes),
                              self.count(b.axes))
            return to
        with_ = [self.spread(x, axes) for x in (a, b)]
        if op in BITS:
            result = self.new(dtype, axes)
            self.bits(BITS[op], result, *with_)
        else:
            result = self.do(ARITHMETIC[op], dtype, axes, *(x.text for x in with_))
        for x in with_:
            self.give(x)
        return result

    def compare(self, op: str, a: Value, b: Value) -> Value:
        """A mask: -1 where it holds."""
        if not a.axes:
            a, b, op = b, a, COMPARE[op]
        if not b.axes:
            mask = self.do(f"{op}_scalar", a.dtype, a.axes, a.text, b.text)
        else:
            axes = self.joint(a, b)
            with_ = [self.spread(x, axes) for x in (a, b)]
            mask = self.do(op, a.dtype, axes, *(x.text for x in with_))
            for x in with_:
                self.give(x)
        count, old = self.count(mask.axes), mask
        mask = self.alias(old, "bool")
        if stored(a.dtype) == "float32":
            self.out.call("__bang_float2int32_tz", mask.text, old.text, count, 0)
        self.out.call("__bang_mul_scalar", mask.text, mask.text, -1, count)
        self.give(old)
        return mask

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        """Bits of a where the mask is set, of b elsewhere: no arithmetic, so infinities stay."""
        dtype, axes = a.dtype, self.joint(condition, a, b)
        mask = self.spread(condition, axes)
        parts = []
        for x in (a, b):
            part = self.spread(x, axes)
            as_bits = self.alias(part, "int32")
            self.give(part)
            parts.append(as_bits)
        to, other = (self.new("int32", axes) for _ in range(2))
        self.bits("band", to, parts[0], mask)
        self.bits("bnot", other, mask)
        self.bits("band", other, other, parts[1])      # the first operand alone may be the result
        self.bits("bor", to, to, other)
        for x in (mask, *parts, other):
            self.give(x)
        result = self.alias(to, dtype)
        self.give(to)
        return result

    def shift(self, op: str, dtype: str, a: Value, by: Value) -> Value:
        """A shift by the same number of bits everywhere."""
        to = self.new(dtype, a.axes)
        if op == "shr" and dtype.startswith("u"):
            self.out.call("__bang_srl", f"(uint32_t *){to.text}", f"(uint32_t *){a.text}", by.text,
                          self.count(a.axes))
        else:
            word = "sll" if op == "shl" else "sra"
            self.out.call(f"__bang_{word}", to.text, a.text, by.text, self.count(a.axes))
        return to

    def cast(self, x: Value, dtype: str) -> Value:
        if x.dtype == "float16":
            return self.convert("half2float", "float32", x, "half")
        if x.dtype == "bool" and dtype != "bool":
            one = ONE_BITS if dtype == "float32" else 1
            bits = self.do("band_scalar", "int32", x.axes, x.text, one)
            result = self.alias(bits, dtype)
            self.give(bits)
            return result
        if dtype == "bool":
            return self.compare("ne", x, Value("0.0f" if x.dtype == "float32" else "0", x.dtype))
        if stored(dtype) == stored(x.dtype):
            return self.alias(x, dtype)
        word = "int322float_rn" if dtype == "float32" else "float2int32_tz"
        to = self.new(dtype, x.axes)
        self.out.call(f"__bang_{word}", to.text, x.text, self.count(x.axes), 0)
        return to

    def store(self, value: Value, index: Node, place: Place, staged: bool = False) -> None:
        """Write a tile, or one number, to global memory.

        Args:
            staged: the copy is not waited for; the caller does that before the next round.
        """
        start, steps = self.start(linear(index, self.extents), place)
        axes = tuple(a.name for a in self.axes if a.name in steps)
        whole = self.spread(value, axes) if axes else self.spread_one(value)
        if value.dtype == "bool":
            whole, old = self.cast(whole, "int32"), whole
            self.give(old)
        if place.memory.dtype == "uint8":
            real, old = self.cast(whole, "float32"), whole
            whole = self.new("uint8", real.axes, raw=True)
            self.out.call("__bang_float2uchar_tz", whole.text, real.text, self.count(real.axes))
            self.give(old)
            self.give(real)
        if staged:
            self.out.line("__sync_compute();")
        self.copy(place, start, [(self.sizes[a], steps[a]) for a in axes], whole.text,
                  "__memcpy_async" if staged else "__memcpy", "NRAM2GDRAM")
        self.give(whole)
