"""Small kernels in the form that the chip's compiler takes, with what they should compute.

Written by hand, apart from the emitter: the emulator and the hazard checker are tested on them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np

Array = np.ndarray
BF16, F8 = ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn
DTYPES = {"f32": np.float32, "bf16": BF16, "i32": np.int32, "i8": np.int8, "f8E4M3FN": F8}


@dataclass(frozen=True)
class Case:
    """A kernel: MLIR, entry, grid, and a function from a random generator to arrays and result.

    `data` gives the arguments, of which the last is the result, and its expected value.
    """

    text: str
    entry: str
    grid: list[int]
    data: Callable[[np.random.Generator], tuple[list[Array], Array]]
    tolerance: float
    belief: bool = False

    @property
    def record(self) -> dict[str, object]:
        """Its launch record."""
        pointers = self.text.split("%gx: i32")[0].count("memref<?x")
        return {"pointers": pointers, "workspace": 0, "launches": [
            {"entry": self.entry, "module": 0, "grid": self.grid, "args": list(range(pointers))}]}


def tensor(shape: tuple[int, ...], element: str) -> str:
    """A tensor type."""
    return f"tensor<{''.join(f'{side}x' for side in shape)}{element}>"


class Text:
    """Lines of a kernel, with a value's name as the result of each method."""

    def __init__(self, name: str, pointers: dict[str, str], attributes: str = "") -> None:
        self.name, self.pointers, self.attributes = name, pointers, attributes
        self.lines: list[str] = []
        self.count = 0
        self.pid = self.op("arith.index_cast %px : i32 to index")

    def op(self, text: str) -> str:
        """An op with one result."""
        self.count += 1
        self.lines.append(f"%v{self.count} = {text}")
        return f"%v{self.count}"

    def index(self, value: int) -> str:
        """A constant index."""
        return self.op(f"arith.constant {value} : index")

    def number(self, value: float, element: str = "f32") -> str:
        """A constant."""
        spelled = f"{value:.9e}" if isinstance(value, float) else value
        return self.op(f"arith.constant {spelled} : {element}")

    def tile(self, pointer: str, offset: str, shape: tuple[int, ...], strides: tuple[int, ...]
             ) -> tuple[str, str]:
        """A window of an argument, and its type."""
        element = self.pointers[pointer]
        sides = "".join(f"{side}x" for side in shape)
        kind = f"memref<{sides}{element}, strided<{list(strides)}, offset: ?>>"
        return self.op(f"memref.reinterpret_cast %{pointer} to offset: [{offset}], "
                       f"sizes: {list(shape)}, strides: {list(strides)} : "
                       f"memref<?x{element}> to {kind}"), kind

    def load(self, pointer: str, offset: str, shape: tuple[int, ...], strides: tuple[int, ...]
             ) -> str:
        """A tile of an argument as a tensor."""
        window, kind = self.tile(pointer, offset, shape, strides)
        local = f"memref<{''.join(f'{side}x' for side in shape)}{self.pointers[pointer]}>"
        room = self.op(f"memref.alloc() : {local}")
        self.lines.append(f"memref.copy {window}, {room} : {kind} to {local}")
        return self.op(f"bufferization.to_tensor {room} restrict writable : {local}")

    def store(self, value: str, pointer: str, offset: str, shape: tuple[int, ...],
              strides: tuple[int, ...]) -> None:
        """A tensor to a tile of an argument."""
        window, kind = self.tile(pointer, offset, shape, strides)
        self.lines.append(f"bufferization.materialize_in_destination {value} in writable {window} "
                          f": ({tensor(shape, self.pointers[pointer])}, {kind}) -> ()")

    def filled(self, value: str, shape: tuple[int, ...], element: str = "f32") -> str:
        """A tensor of one value."""
        kind = tensor(shape, element)
        room = self.op(f"tensor.empty() : {kind}")
        return self.op(f"linalg.fill ins({value} : {element}) outs({room} : {kind}) -> {kind}")

    def reduced(self, op: str, value: str, start: str, shape: tuple[int, ...], axis: int) -> str:
        """A reduction over one axis, e.g. of "arith.addf"."""
        left = tuple(side for i, side in enumerate(shape) if i != axis)
        into = self.filled(start, left)
        return self.op(f"linalg.reduce {{{op}}} ins({value} : {tensor(shape, 'f32')}) "
                       f"outs({into} : {tensor(left, 'f32')}) dimensions = [{axis}]")

    def spread(self, value: str, shape: tuple[int, ...], axis: int) -> str:
        """The inverse of `reduced`: the same along an axis."""
        left = tuple(side for i, side in enumerate(shape) if i != axis)
        room = self.op(f"tensor.empty() : {tensor(shape, 'f32')}")
        return self.op(f"linalg.broadcast ins({value} : {tensor(left, 'f32')}) "
                       f"outs({room} : {tensor(shape, 'f32')}) dimensions = [{axis}]")

    def cast(self, value: str, shape: tuple[int, ...], old: str, new: str) -> str:
        """Between floats."""
        wide = {"f32": 32, "bf16": 16, "f8E4M3FN": 8}
        name = "extf" if wide[new] > wide[old] else "truncf"
        return self.op(f"arith.{name} {value} : {tensor(shape, old)} to {tensor(shape, new)}")

    def turned(self, value: str, shape: tuple[int, int], element: str) -> str:
        """A transposed matrix."""
        kind = tensor(shape[::-1], element)
        room = self.op(f"tensor.empty() : {kind}")
        return self.op(f"linalg.transpose ins({value} : {tensor(shape, element)}) "
                       f"outs({room} : {kind}) permutation = [1, 0]")

    def product(self, a: str, b: str, start: str, m: int, k: int, n: int, element: str,
                total: str = "f32") -> str:
        """start + a b."""
        kind = tensor((m, n), total)
        return self.op(f"linalg.matmul ins({a}, {b} : {tensor((m, k), element)}, "
                       f"{tensor((k, n), element)}) outs({start} : {kind}) -> {kind}")

    def text(self) -> str:
        """The module."""
        arguments = [f"%{name}: memref<?x{element}>" for name, element in self.pointers.items()]
        arguments += [f"%{name}: i32" for name in ("gx", "gy", "gz", "px", "py", "pz")]
        body = "\n".join(f"    {line}" for line in self.lines)
        return (f"module {{\n  func.func @{self.name}({', '.join(arguments)}) attributes "
                f'{{global_kernel = "local"{self.attributes}}} {{\n{body}\n    return\n  }}\n}}\n')


def _softmax(rows: int = 8, columns: int = 192, blocks: int = 3) -> Case:
    k, shape = Text("softmax", {"x": "f32", "y": "f32"}), (rows, columns)
    at = k.op(f"arith.muli {k.pid}, {k.index(rows * columns)} : index")
    x = k.load("x", at, shape, (columns, 1))
    most = k.reduced("arith.maximumf", x, k.op("arith.constant 0xFF800000 : f32"), shape, 1)
    p = k.op(f"arith.subf {x}, {k.spread(most, shape, 1)} : {tensor(shape, 'f32')}")
    p = k.op(f"math.exp {p} : {tensor(shape, 'f32')}")
    total = k.reduced("arith.addf", p, k.number(0.0), shape, 1)
    y = k.op(f"arith.divf {p}, {k.spread(total, shape, 1)} : {tensor(shape, 'f32')}")
    k.store(y, "y", at, shape, (columns, 1))

    def data(random: np.random.Generator) -> tuple[list[Array], Array]:
        x = random.standard_normal((rows * blocks, columns)).astype(np.float32) * 9
        p = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
        return [x, np.zeros_like(x)], p / p.sum(1, keepdims=True)
    return Case(k.text(), "softmax", [blocks], data, 1e-6)


def _rms_norm(rows: int = 4, columns: int = 320, blocks: int = 3) -> Case:
    k, shape = Text("rms_norm", {"x": "bf16", "w": "bf16", "y": "bf16"}), (rows, columns)
    kind = tensor(shape, "f32")
    at = k.op(f"arith.muli {k.pid}, {k.index(rows * columns)} : index")
    x = k.cast(k.load("x", at, shape, (columns, 1)), shape, "bf16", "f32")
    w = k.cast(k.load("w", k.index(0), (columns,), (1,)), (columns,), "bf16", "f32")
    total = k.reduced("arith.addf", k.op(f"arith.mulf {x}, {x} : {kind}"), k.number(0.0), shape, 1)
    short = tensor((rows,), "f32")
    total = k.op(f"arith.mulf {total}, {k.filled(k.number(1 / columns), (rows,))} : {short}")
    total = k.op(f"arith.addf {total}, {k.filled(k.number(1e-6), (rows,))} : {short}")
    scale = k.spread(k.op(f"math.rsqrt {total} : {short}"), shape, 1)
    y = k.op(f"arith.mulf {x}, {scale} : {kind}")
    y = k.op(f"arith.mulf {y}, {k.spread(w, shape, 0)} : {kind}")
    k.store(k.cast(y, shape, "f32", "bf16"), "y", at, shape, (columns, 1))

    def data(random: np.random.Generator) -> tuple[list[Array], Array]:
        x = random.standard_normal((rows * blocks, columns)).astype(BF16)
        w = random.standard_normal(columns).astype(BF16)
        wide = x.astype(np.float64)
        want = wide / np.sqrt((wide * wide).mean(1, keepdims=True) + 1e-6) * w.astype(np.float64)
        return [x, w, np.zeros_like(x)], want
    return Case(k.text(), "rms_norm", [blocks], data, 2 ** -8)


def _matmul(element: str, total: str = "f32", out: str = "",
            tile: tuple[int, int, int] = (32, 64, 48),
            sides: tuple[int, int, int] = (64, 256, 96), turned: bool = False) -> Case:
    """A grid of tiles, a loop over the reduction axis."""
    (tm, tk, tn), (m, n_k, n) = tile, sides
    out = out or total
    k = Text("matmul", {"a": element, "b": element, "c": out}, ', mix_mode = "mix"')
    row = k.op(f"arith.muli {k.pid}, {k.index(tm)} : index")
    py = k.op("arith.index_cast %py : i32 to index")
    column = k.op(f"arith.muli {py}, {k.index(tn)} : index")
    zero = k.number(0 if total[0] == "i" else 0.0, total)
    start, bound, step = k.index(0), k.index(n_k), k.index(tk)
    into, kind = k.filled(zero, (tm, tn), total), tensor((tm, tn), total)
    k.lines.append(f"%acc = scf.for %k = {start} to {bound} step {step} iter_args(%t = {into}) "
                   f"-> ({kind}) {{")
    left = k.op(f"arith.muli {row}, {k.index(n_k)} : index")
    a = k.load("a", k.op(f"arith.addi {left}, %k : index"), (tm, tk), (n_k, 1))
    if turned:
        at = k.op(f"arith.addi {k.op(f'arith.muli {column}, {bound} : index')}, %k : index")
        b = k.turned(k.load("b", at, (tn, tk), (n_k, 1)), (tn, tk), element)
    else:
        at = k.op(f"arith.addi {k.op(f'arith.muli %k, {k.index(n)} : index')}, {column} : index")
        b = k.load("b", at, (tk, tn), (n, 1))
    k.lines.append(f"scf.yield {k.product(a, b, '%t', tm, tk, tn, element, total)} : {kind}")
    k.lines.append("}")
    at = k.op(f"arith.addi {k.op(f'arith.muli {row}, {k.index(n)} : index')}, {column} : index")
    value = "%acc" if out == total else k.cast("%acc", (tm, tn), total, out)
    k.store(value, "c", at, (tm, tn), (n, 1))

    def data(random: np.random.Generator) -> tuple[list[Array], Array]:
        a, b = ((random.standard_normal(s) * 4).astype(DTYPES[element])
                for s in ((m, n_k), (n, n_k) if turned else (n_k, n)))
        wide = b.astype(np.float64)
        return [a, b, np.zeros((m, n), DTYPES[out])], a.astype(np.float64) @ (
            wide.T if turned else wide)
    return Case(k.text(), "matmul", [m // tm, n // tn], data, 2 ** -8 if out == "bf16" else 1e-6)


def _grouped(experts: int = 3, d: int = 128, n: int = 64, tile: int = 32) -> Case:
    """y[rows of e] = x[rows of e] w[e]^T: the bounds of the groups are read from memory."""
    k = Text("grouped", {"x": "bf16", "w": "bf16", "bounds": "i32", "y": "bf16"},
             ', mix_mode = "mix"')
    first = k.op(f"memref.load %bounds[{k.pid}] : memref<?xi32>")
    first = k.op(f"arith.index_cast {first} : i32 to index")
    after = k.op(f"arith.addi {k.pid}, {k.index(1)} : index")
    last = k.op(f"memref.load %bounds[{after}] : memref<?xi32>")
    last = k.op(f"arith.index_cast {last} : i32 to index")
    weight = k.op(f"arith.muli {k.pid}, {k.index(n * d)} : index")
    rows, step, width, out = k.index(tile), k.index(tile), k.index(d), k.index(n)
    zero = k.number(0.0)
    k.lines.append(f"scf.for %m = {first} to {last} step {step} {{")
    left = k.op(f"arith.minsi {k.op(f'arith.subi {last}, %m : index')}, {rows} : index")
    window, kind = k.tile("x", k.op(f"arith.muli %m, {width} : index"), (tile, d), (d, 1))
    room = k.op(f"memref.alloc() : memref<{tile}x{d}xbf16>")
    some = f"memref<?x{d}xbf16, strided<[{d}, 1], offset: ?>>"
    inner = f"memref<?x{d}xbf16, strided<[{d}, 1]>>"
    source = k.op(f"memref.subview {window}[0, 0] [{left}, {d}] [1, 1] : {kind} to {some}")
    target = k.op(f"memref.subview {room}[0, 0] [{left}, {d}] [1, 1] : memref<{tile}x{d}xbf16> "
                  f"to {inner}")
    k.lines.append(f"memref.copy {source}, {target} : {some} to {inner}")
    x = k.op(f"bufferization.to_tensor {room} restrict writable : memref<{tile}x{d}xbf16>")
    w = k.turned(k.load("w", weight, (n, d), (d, 1)), (n, d), "bf16")
    y = k.product(x, w, k.filled(zero, (tile, n)), tile, d, n, "bf16")
    y = k.cast(y, (tile, n), "f32", "bf16")
    window, kind = k.tile("y", k.op(f"arith.muli %m, {out} : index"), (tile, n), (n, 1))
    part = k.op(f"tensor.extract_slice {y}[0, 0] [{left}, {n}] [1, 1] : "
                f"{tensor((tile, n), 'bf16')} to tensor<?x{n}xbf16>")
    some = f"memref<?x{n}xbf16, strided<[{n}, 1], offset: ?>>"
    place = k.op(f"memref.subview {window}[0, 0] [{left}, {n}] [1, 1] : {kind} to {some}")
    k.lines += [f"bufferization.materialize_in_destination {part} in writable {place} : "
                f"(tensor<?x{n}xbf16>, {some}) -> ()", "}"]

    def data(random: np.random.Generator) -> tuple[list[Array], Array]:
        bounds = np.array([0, 70, 70, 101], np.int32)
        x = random.standard_normal((101, d)).astype(BF16)
        w = random.standard_normal((experts, n, d)).astype(BF16)
        want = np.concatenate([x[a:b].astype(np.float64) @ w[e].astype(np.float64).T
                               for e, (a, b) in enumerate(itertools.pairwise(bounds))])
        return [x, w, bounds, np.zeros((101, n), BF16)], want
    return Case(k.text(), "grouped", [experts], data, 2 ** -8)


def _attention(heads: int = 32, keys: int = 64, d: int = 128) -> Case:
    """softmax(q k^T / 12) v with one latent vector as key and value, in a fused kernel."""
    k = Text("attention", {"q": "bf16", "kv": "bf16", "o": "bf16"})
    zero, shape, kind = k.index(0), (heads, keys), tensor((heads, keys), "f32")
    q, kv = k.load("q", zero, (heads, d), (d, 1)), k.load("kv", zero, (keys, d), (d, 1))
    nothing = k.number(0.0)
    s = k.product(q, k.turned(kv, (keys, d), "bf16"), k.filled(nothing, shape), heads, d, keys,
                  "bf16")
    s = k.op(f"arith.mulf {s}, {k.filled(k.number(1 / 12), shape)} : {kind}")
    most = k.reduced("arith.maximumf", s, k.op("arith.constant 0xFF800000 : f32"), shape, 1)
    p = k.op(f"arith.subf {s}, {k.spread(most, shape, 1)} : {kind}")
    p = k.op(f"math.exp {p} : {kind}")
    total = k.reduced("arith.addf", p, nothing, shape, 1)
    o = k.product(k.cast(p, shape, "f32", "bf16"), kv, k.filled(nothing, (heads, d)), heads, keys,
                  d, "bf16")
    o = k.op(f"arith.divf {o}, {k.spread(total, (heads, d), 1)} : {tensor((heads, d), 'f32')}")
    k.store(k.cast(o, (heads, d), "f32", "bf16"), "o", zero, (heads, d), (d, 1))

    def data(random: np.random.Generator) -> tuple[list[Array], Array]:
        q, kv = (random.standard_normal((n, d)).astype(BF16) for n in (heads, keys))
        s = q.astype(np.float64) @ kv.astype(np.float64).T / 12
        p = np.exp(s - s.max(1, keepdims=True))
        o = p.astype(BF16).astype(np.float64) @ kv.astype(np.float64) / p.sum(1, keepdims=True)
        return [q, kv, np.zeros((heads, d), BF16)], o
    return Case(k.text(), "attention", [1], data, 2 ** -7)


def _gather(rows: int = 8, d: int = 256, blocks: int = 3) -> Case:
    """o[i] = kv[index[i]]."""
    k = Text("gather", {"kv": "bf16", "index": "i32", "o": "bf16"})
    room = k.op(f"memref.alloc() : memref<{rows}x{d}xbf16>")
    zero, one, count, width = k.index(0), k.index(1), k.index(rows), k.index(d)
    base = k.op(f"arith.muli {k.pid}, {count} : index")
    k.lines.append(f"scf.for %i = {zero} to {count} step {one} {{")
    at = k.op(f"arith.addi {base}, %i : index")
    row = k.op(f"memref.load %index[{at}] : memref<?xi32>")
    row = k.op(f"arith.index_cast {row} : i32 to index")
    window, kind = k.tile("kv", k.op(f"arith.muli {row}, {width} : index"), (1, d), (d, 1))
    inner = f"memref<1x{d}xbf16, strided<[{d}, 1], offset: ?>>"
    target = k.op(f"memref.subview {room}[%i, 0] [1, {d}] [1, 1] : memref<{rows}x{d}xbf16> to "
                  f"{inner}")
    k.lines += [f"memref.copy {window}, {target} : {kind} to {inner}", "}"]
    x = k.op(f"bufferization.to_tensor {room} restrict writable : memref<{rows}x{d}xbf16>")
    k.store(x, "o", k.op(f"arith.muli {base}, {width} : index"), (rows, d), (d, 1))

    def data(random: np.random.Generator) -> tuple[list[Array], Array]:
        kv = random.standard_normal((100, d)).astype(BF16)
        index = random.integers(0, 100, rows * blocks).astype(np.int32)
        return [kv, index, np.zeros((rows * blocks, d), BF16)], kv[index]
    return Case(k.text(), "gather", [blocks], data, 0)


def _top(n: int = 512) -> Case:
    """Positions in descending order of their scores, ties by the higher position first."""
    k = Text("top", {"x": "f32", "position": "i32", "order": "i32"})
    zero, narrow, wide = k.index(0), tensor((n,), "i32"), tensor((n,), "i64")
    x = k.load("x", zero, (n,), (1,))
    bits = k.op(f"arith.bitcast {x} : {tensor((n,), 'f32')} to {narrow}")
    sign = k.op(f"arith.shrsi {bits}, {k.op(f'arith.constant dense<31> : {narrow}')} : {narrow}")
    low = k.op(f"arith.constant dense<2147483647> : {narrow}")
    key = k.op(f"arith.xori {bits}, {k.op(f'arith.andi {sign}, {low} : {narrow}')} : {narrow}")
    key = k.op(f"arith.extsi {key} : {narrow} to {wide}")
    key = k.op(f"arith.muli {key}, {k.op(f'arith.constant dense<4294967296> : {wide}')} : {wide}")
    at = k.op(f"arith.extsi {k.load('position', zero, (n,), (1,))} : {narrow} to {wide}")
    key = k.op(f"arith.addi {key}, {at} : {wide}")
    key = k.op(f"hfusion.sort ins({key} : {wide}) descending = true sort_axis = 0 -> {wide}")
    k.store(k.op(f"arith.trunci {key} : {wide} to {narrow}"), "order", zero, (n,), (1,))

    def data(random: np.random.Generator) -> tuple[list[Array], Array]:
        x = random.standard_normal(n).astype(np.float32).round(1) + 0
        return ([x, np.arange(n, dtype=np.int32), np.zeros(n, np.int32)],
                np.lexsort((-np.arange(n), -x.astype(np.float64))))
    return Case(k.text(), "top", [1], data, 0)


def _sinkhorn(n: int = 32, h: int = 4, rounds: int = 3) -> Case:
    """exp(x) with rows and columns made to sum to 1, in turn."""
    k, shape = Text("sinkhorn", {"x": "f32", "y": "f32"}), (n, h, h)
    kind = tensor(shape, "f32")
    p = k.op(f"math.exp {k.load('x', k.index(0), shape, (h * h, h, 1))} : {kind}")
    zero = k.number(0.0)
    for axis in (2, 1) * rounds:
        total = k.reduced("arith.addf", p, zero, shape, axis)
        p = k.op(f"arith.divf {p}, {k.spread(total, shape, axis)} : {kind}")
    k.store(p, "y", k.index(0), shape, (h * h, h, 1))

    def data(random: np.random.Generator) -> tuple[list[Array], Array]:
        x = random.standard_normal(shape).astype(np.float32)
        p = np.exp(x.astype(np.float64))
        for axis in (2, 1) * rounds:
            p /= p.sum(axis, keepdims=True)
        return [x, np.zeros_like(x)], p
    return Case(k.text(), "sinkhorn", [1], data, 1e-6)


def _rope(rows: int = 8, d: int = 64) -> Case:
    """Pairs of neighbours turned by angles."""
    k = Text("rope", {"x": "f32", "cos": "f32", "sin": "f32", "y": "f32"})
    zero, whole, half = k.index(0), tensor((rows, d), "f32"), tensor((rows, d // 2), "f32")
    x = k.load("x", zero, (rows, d), (d, 1))
    cos, sin = (k.load(name, zero, (rows, d // 2), (d // 2, 1)) for name in ("cos", "sin"))
    even, odd = (k.op(f"hfusion.deinterleave {x} channel<{i}> : {whole} -> {half}") for i in (0, 1))
    parts = []
    for name, a, b in (("subf", cos, sin), ("addf", sin, cos)):
        one, two = (k.op(f"arith.mulf {v}, {f} : {half}") for v, f in ((even, a), (odd, b)))
        parts.append(k.op(f"arith.{name} {one}, {two} : {half}"))
    y = k.op(f"hfusion.interleave {', '.join(parts)} : {half}, {half} -> {whole}")
    k.store(y, "y", zero, (rows, d), (d, 1))

    def data(random: np.random.Generator) -> tuple[list[Array], Array]:
        x = random.standard_normal((rows, d)).astype(np.float32)
        angle = random.standard_normal((rows, d // 2))
        cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        y = np.empty_like(x)
        y[:, ::2] = x[:, ::2] * cos - x[:, 1::2] * sin
        y[:, 1::2] = x[:, ::2] * sin + x[:, 1::2] * cos
        return [x, cos, sin, np.zeros_like(x)], y
    return Case(k.text(), "rope", [1], data, 1e-6)


def _cast(old: str, new: str, n: int = 512) -> Case:
    """Every code of e4m3, or numbers over its whole range and beyond."""
    k = Text("cast", {"x": old, "y": new})
    k.store(k.cast(k.load("x", k.index(0), (n,), (1,)), (n,), old, new), "y", k.index(0), (n,),
            (1,))

    def data(random: np.random.Generator) -> tuple[list[Array], Array]:
        if old == "f8E4M3FN":
            x = np.resize(np.arange(256, dtype=np.uint8), n).view(F8)
        else:
            x = (random.standard_normal(n) * np.exp2(random.uniform(-14, 8, n))).astype(DTYPES[old])
            x[:6] = [0, -0.0, 448, 465, -1e9, 2 ** -10]
        return [x, np.zeros(n, DTYPES[new])], x.astype(np.float32).astype(DTYPES[new])
    return Case(k.text(), "cast", [1], data, 0)


def _mx_product(m: int = 32, n_k: int = 128, n: int = 64) -> Case:
    """e4m3 with E8M0 scales of 32 elements, both sides."""
    k = Text("mx", {"a": "f8E4M3FN", "b": "f8E4M3FN", "sa": "i8", "sb": "i8", "c": "f32"})
    zero, g = k.index(0), n_k // 32
    a, b = k.load("a", zero, (m, n_k), (n_k, 1)), k.load("b", zero, (n_k, n), (n, 1))
    sa, sb = k.load("sa", zero, (m, g), (g, 1)), k.load("sb", zero, (n, g), (g, 1))
    into, kind = k.filled(k.number(0.0), (m, n)), tensor((m, n), "f32")
    c = k.op(f"hfusion.matmul_mx ins({a}, {b}, {sa}, {sb} : {tensor((m, n_k), 'f8E4M3FN')}, "
             f"{tensor((n_k, n), 'f8E4M3FN')}, {tensor((m, g), 'i8')}, {tensor((n, g), 'i8')}) "
             f"outs({into} : {kind}) -> {kind}")
    k.store(c, "c", zero, (m, n), (n, 1))

    def data(random: np.random.Generator) -> tuple[list[Array], Array]:
        a, b = (random.standard_normal(s).astype(F8) for s in ((m, n_k), (n_k, n)))
        sa, sb = (random.integers(120, 134, s).astype(np.int8) for s in ((m, g), (n, g)))
        one, two = (np.repeat(np.exp2(s.view(np.uint8).astype(np.float64) - 127), 32, 1)
                    for s in (sa, sb))
        want = (a.astype(np.float64) * one) @ (b.astype(np.float64) * two.T)
        return [a, b, sa, sb, np.zeros((m, n), np.float32)], want
    return Case(k.text(), "mx", [1], data, 1e-6, belief=True)


CASES = {
    "softmax": _softmax(), "rms_norm": _rms_norm(), "rope": _rope(), "sinkhorn": _sinkhorn(),
    "gather": _gather(), "top": _top(), "grouped": _grouped(), "attention": _attention(),
    "wide_attention": _attention(64, 128, 512),
    "matmul_bf16": _matmul("bf16"), "matmul_bf16_turned": _matmul("bf16", turned=True),
    "matmul_f32": _matmul("f32"), "matmul_bf16_out": _matmul("bf16", out="bf16"),
    "matmul_i8": _matmul("i8", "i32"), "matmul_e4m3": _matmul("f8E4M3FN", tile=(32, 64, 64),
                                                              sides=(64, 256, 128)),
    "to_e4m3": _cast("f32", "f8E4M3FN"), "from_e4m3": _cast("f8E4M3FN", "f32"),
    "to_bf16": _cast("f32", "bf16"), "mx_product": _mx_product(),
}
