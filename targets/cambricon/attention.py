"""Attention as one kernel over one list: rows of the window, then entries, fetched row by row.

A round is a token and some of its heads. Its keys, which are its values too, come in blocks, the
next one while this one is multiplied. All tiles have the heads side by side, so that scores are
joined by halves of a tile and what belongs to a head is repeated by `cycle` instructions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.nests.attention import Attention, Attentive, attentive, placed
from firstlight.codegen.nests.nodes import Node, const, make, var
from firstlight.codegen.nests.program import Axis, Program
from firstlight.ir.core import Op
from firstlight.targets.cambricon.products import COLUMNS, to_wram
from firstlight.targets.cambricon.reductions import JOIN, folded
from firstlight.targets.cambricon.text import constant
from firstlight.targets.cambricon.tiles import Value

if TYPE_CHECKING:
    from firstlight.targets.cambricon.body import Body
    from firstlight.targets.cambricon.values import Values

UNIT, MOST = 16, 64
"""Floats of 64 bytes, of which rows of a product are a multiple; most keys or heads of a block."""
KEY, HEAD, WIDE = "key", "head", "wide"
"""Axes of tiles."""
EXACT = 1 << 24
"""Places are floats while they are filtered."""


def hybrid_attention(symbol: str, op: Op, tokens: int) -> Kernel | None:
    """A kernel that `fused` knows."""
    return attentive(symbol, op)


def fused(kernel: Kernel, plain: Program) -> Program:
    """The program with one step of attention, if its kernel has one. It comes first: the ring's old
    rows are read before this call's are written."""
    found = kernel.find(plain) if isinstance(kernel, Attentive) else None
    if found is None or ("entries" in found[1].read and found[1].capacity >= EXACT):
        return plain
    at, step = found
    read = {name: memory for name, memory in step.read.items() if name != "window"}
    return placed(plain, replace(step, read=read), (), (*plain.steps[:at], *plain.steps[at + 1:]))


@dataclass
class Listed:
    """The list of one token's keys, as C: how many there are, and where they lie."""

    first: str
    window: str
    count: str
    places: Value | None = None


class Blocks:
    """The text of one step."""

    def __init__(self, body: Body, step: Attention) -> None:
        self.body, self.step, self.out = body, step, body.out
        self.depth = -(-step.width // UNIT) * UNIT
        most = max(UNIT, min(MOST, 2 * body.budget // self.depth // UNIT * UNIT))
        self.heads = next(n for n in range(min(most, step.heads), 0, -1) if step.heads % n == 0)
        self.across, self.keys = -(-self.heads // UNIT) * UNIT, most
        self.axes = tuple(Axis(name, const(size)) for name, size in
                          ((KEY, most), (WIDE, self.depth), (HEAD, self.across)))
        self.pointer = {name: body.places[m.name].pointer for name, m in step.read.items()}

    def write(self) -> None:
        """All rounds; `bank` says which of two places of keys is read."""
        out, step = self.out, self.step
        axes = [Axis("token", step.tokens), Axis("part", const(step.heads // self.heads))]
        size = 2 * self.keys * self.depth
        both = self.values({}).place(size)
        keys = both.text
        out.call("__bang_write_value", keys, size, "0.0f")
        with self.body.rounds([a for a in axes if a.length != 1]) as at:
            at = {a.name: at.get(a.name, "0") for a in axes}
            out.line("__sync_compute();")
            listed = self.listed(at["token"])
            bank, first = out.fresh("bank"), out.fresh("c")
            out.line(f"int32_t {bank} = 0;")
            self.fetch(listed, "0", keys)
            self.queries(at)
            state = self.start(at)
            with out.braces(f"for (int32_t {first} = 0; {first} < {listed.count}; "
                            f"{first} += {self.keys})"):
                out.line("__sync_io();")
                following = out.scalar("int32", f"{first} + {self.keys}")
                with out.braces(f"if ({following} < {listed.count})"):
                    self.fetch(listed, following, self.bank(keys, f"(1 - {bank})"))
                here = out.scalar("int32", f"fl_min({self.keys}, {listed.count} - {first})")
                self.joined(here, self.bank(keys, bank), *state)
                out.line("__sync_compute();")
                out.line(f"{bank} = 1 - {bank};")
            self.store(at, *state[1:])
            for value in (*state, *([listed.places] if listed.places else [])):
                self.values({}).give(value)
        self.values({}).give(both)

    def bank(self, keys: str, number: str) -> str:
        return f"{keys} + {number} * {self.keys * self.depth}"

    def values(self, sizes: dict[str, str | int]) -> Values:
        """A writer of tiles; `sizes` are those of axes that are not whole."""
        self.body.extents = {a.name: a.length or 0 for a in self.axes} | sizes
        return self.body.values(None, self.axes, {"S": "S"})

    # -- the list of keys -----------------------------------------------------------------------

    def listed(self, token: str) -> Listed:
        """Window rows from `first` on, of the ring's before this call's own; then entries."""
        out, step, pointer = self.out, self.step, self.pointer
        first = out.scalar("int32", f"fl_max({token} + 1, {step.rows} - {pointer['pos']}[0])")
        window = out.scalar("int32", f"{token} + {step.rows + 1} - {first}")
        if "entries" not in step.read:
            return Listed(first, window, window)
        if not step.chosen:
            seen = f"({pointer['pos']}[0] + {token} + 1) / {step.ratio}"
            return Listed(first, window, out.scalar("int32", f"{window} + {seen}"))
        values = self.values({})
        places, known = (values.place(step.chosen, t) for t in ("int32", "float32"))
        mask, kept = (values.place(step.chosen) for _ in range(2))
        index = f"{pointer['index']} + {token} * {step.chosen}"
        out.call("__memcpy", places.text, index, 4 * step.chosen, "GDRAM2NRAM")
        out.call("__bang_int322float_rn", known.text, places.text, step.chosen, 0)
        out.call("__bang_ge_scalar", mask.text, known.text, "0.0f", step.chosen)
        count = out.scalar("int32", f"__bang_filter({kept.text}, {known.text}, {mask.text}, "
                                    f"{step.chosen})")
        with out.braces(f"if ({count} > 0)"):
            out.call("__bang_float2int32_tz", places.text, kept.text, count, 0)
        out.line("__sync_compute();")
        for value in (known, mask, kept):
            values.give(value)
        return Listed(first, window, out.scalar("int32", f"{window} + {count}"), places)

    def fetch(self, listed: Listed, begin: str, to: str) -> None:
        """Start the copies of a block of rows: one of the list each."""
        out, step, pointer, k, at = self.out, self.step, self.pointer, *map(self.out.fresh, "ka")
        source = out.fresh("x")
        end = f"fl_min({self.keys}, {listed.count} - {begin})"
        with out.braces(f"for (int32_t {k} = 0; {k} < {end}; ++{k})"):
            out.line(f"const int32_t {at} = {begin} + {k};")
            out.line(f"const float *{source};")
            with out.braces(f"if ({at} < {listed.window})"):
                row = out.scalar("int32", f"{listed.first} + {at}")
                with out.braces(f"if ({row} < {step.rows})"):
                    old = f"({pointer['pos']}[0] - {step.rows} + {row}) % {step.rows}"
                    self.line(source, "ring", f"{pointer['slot']}[0] * {step.rows} + {old}")
                with out.braces("else"):
                    self.line(source, "kv", f"{row} - {step.rows}")
            if "entries" in step.read:
                with out.braces("else"):
                    place = f"{at} - {listed.window}"
                    place = place if listed.places is None else f"{listed.places.text}[{place}]"
                    self.line(source, "entries",
                              f"{pointer['slot']}[0] * {step.capacity} + {place}")
            out.call("__memcpy_async", f"{to} + {k} * {self.depth}", source, 4 * step.width,
                     "GDRAM2NRAM")

    def line(self, source: str, memory: str, row: str) -> None:
        self.out.line(f"{source} = {self.pointer[memory]} + (int64_t)({row}) * {self.step.width};")

    # -- what is multiplied ---------------------------------------------------------------------

    def queries(self, at: dict[str, str]) -> None:
        """A token's queries to the matrix unit, as columns: rows with zeros behind."""
        step, values = self.step, self.values({})
        q, wide = values.place(self.heads * step.width), values.place(COLUMNS * self.depth)
        self.out.call("__memcpy", q.text, f"{self.pointer['q']} + {self.place(at)}",
                      4 * self.heads * step.width, "GDRAM2NRAM")
        self.out.call("__bang_write_value", wide.text, COLUMNS * self.depth, "0.0f")
        values.rows(wide.text, self.depth, q.text, step.width, step.width, self.heads)
        values.give(q)
        to_wram(values, wide, self.out.matrix(4 * COLUMNS * self.depth), COLUMNS, self.depth)

    def place(self, at: dict[str, str]) -> str:
        """Where a round's first head begins, in queries and results."""
        step = self.step
        return (f"({at['token']} * {step.heads} + {at['part']} * {self.heads}) * {step.width}")

    def start(self, at: dict[str, str]) -> tuple[Value, Value, Value]:
        """Largest score (the sink is the first), sum and weighted rows, of no keys."""
        values = self.values({})
        top, total = (values.new("float32", (HEAD,)) for _ in range(2))
        mixed = values.new("float32", (WIDE, HEAD))
        self.out.call("__bang_write_value", top.text, self.across, "0.0f")
        self.out.line("__sync_compute();")
        self.out.call("__memcpy", top.text, f"{self.pointer['sink']} + {at['part']} * {self.heads}",
                      4 * self.heads, "GDRAM2NRAM")
        self.out.call("__bang_write_value", total.text, self.across, "1.0f")
        self.out.call("__bang_write_value", mixed.text, self.depth * self.across, "0.0f")
        return top, total, mixed

    def joined(self, here: str, keys: str, top: Value, total: Value, mixed: Value) -> None:
        """Those of a block of `here` keys added."""
        out, whole, size = self.out, self.values({}), self.keys * self.across
        scores = whole.new("float32", (KEY, HEAD))
        out.call("__bang_matmul", scores.text, keys, out.matrix(0), self.keys, self.depth,
                 self.across)
        scale = constant(self.step.scale, "float32")
        out.call("__bang_mul_scalar", scores.text, scores.text, scale, size)
        most, now = whole.new("float32", (KEY, HEAD)), whole.new("float32", (HEAD,))
        some = f"{here} * {self.across}"
        out.call("__bang_move", most.text, scores.text, f"4 * {some}")
        folded(out, "max", most.text, here, self.across)
        out.call(JOIN["max"], now.text, top.text, most.text, self.across)
        whole.give(most)
        fade = self.apart(here, (HEAD,), top, now)
        weights = self.apart(here, (KEY, HEAD), scores, now)
        out.call("__bang_move", top.text, now.text, 4 * self.across)
        whole.give(scores)
        whole.give(now)
        with out.braces(f"if ({here} < {self.keys})"):      # rows of another block count nothing
            out.call("__bang_write_value", f"{weights.text} + {some}", f"{size} - {some}", "0.0f")
        self.weighted(keys, weights, fade, mixed)
        folded(out, "sum", weights.text, here, self.across)
        out.call("__bang_mul", total.text, total.text, fade.text, self.across)
        out.call("__bang_add", total.text, total.text, weights.text, self.across)
        whole.give(weights)
        whole.give(fade)

    def apart(self, here: str, axes: tuple[str, ...], a: Value, b: Value) -> Value:
        """exp(a - b), for the `here` keys that there are."""
        values = self.values({KEY: here})
        index = var(HEAD) if axes == (HEAD,) else make(
            "add", "int32", make("mul", "int32", var(KEY), const(self.across)), var(HEAD))
        nodes = [Node("load", "float32", "a", index), Node("load", "float32", "b", var(HEAD))]
        values.fetched = dict(zip(nodes, (replace(v, held=None) for v in (a, b)), strict=True))
        return values.root(make("exp", "float32", make("sub", "float32", *nodes)))

    def weighted(self, keys: str, weights: Value, fade: Value, mixed: Value) -> None:
        """Weighted rows of a block added to `mixed`, which fades: [width, heads]."""
        out, values = self.out, self.values({})
        wide = values.place(COLUMNS * self.keys)
        if self.across != COLUMNS:
            out.call("__bang_write_value", wide.text, COLUMNS * self.keys, "0.0f")
        out.call("__bang_transpose", wide.text, weights.text, self.keys, self.across)
        wram = out.matrix(4 * COLUMNS * self.keys, "weights")
        to_wram(values, wide, wram, COLUMNS, self.keys)
        turned, product = values.place(self.depth * self.keys), values.new("float32", (WIDE, HEAD))
        out.call("__bang_transpose", turned.text, keys, self.keys, self.depth)
        out.call("__bang_matmul", product.text, turned.text, wram, self.depth, self.keys,
                 self.across)
        size = self.depth * self.across
        out.call("__bang_cycle_mul", mixed.text, mixed.text, fade.text, size, self.across)
        out.call("__bang_add", mixed.text, mixed.text, product.text, size)
        values.give(turned)
        values.give(product)

    def store(self, at: dict[str, str], total: Value, mixed: Value) -> None:
        """The weighted rows by their weights' sum, turned and written."""
        out, step, values = self.out, self.step, self.values({})
        node = Node("load", "float32", "total", var(HEAD))
        values.fetched = {node: replace(total, held=None)}
        share = values.root(make("div", "float32", const(1.0, "float32"), node))
        size = self.depth * self.across
        out.call("__bang_cycle_mul", mixed.text, mixed.text, share.text, size, self.across)
        rows = values.place(size)
        out.call("__bang_transpose", rows.text, mixed.text, self.depth, self.across)
        pointer = self.body.places[step.buffer.name].pointer
        call = [f"{pointer} + {self.place(at)}", rows.text, 4 * step.width, "NRAM2GDRAM"]
        if self.heads > 1:
            call += [4 * step.width, 4 * self.depth, self.heads - 1]
        out.call("__memcpy", *call)
        for value in (share, rows):
            values.give(value)
