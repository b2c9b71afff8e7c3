"""Ops of upstream dialects in lowered code: passed on, with what the compiler's fork adds resolved.

The fork's element type ``f8E4M3FN`` becomes ``i8`` (upstream cannot compute with it), its rounding
attributes become ops, and register pairs become vectors of twice the length.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator

from firstlight.targets.ascend.rewrite_ops import (
    Op,
    Refused,
    memref,
    parse_line,
    plain,
    split,
)

F8 = "f8E4M3FN"
PASSED = frozenset("""
arith.addf arith.addi arith.andi arith.bitcast arith.ceildivsi arith.cmpf arith.cmpi arith.divf
arith.divsi arith.divui arith.extsi arith.extui arith.floordivsi arith.index_cast
arith.index_castui arith.maximumf arith.maxnumf arith.maxsi arith.maxui arith.minimumf
arith.minnumf arith.minsi arith.minui arith.mulf arith.muli arith.negf arith.ori arith.remf
arith.remsi arith.remui arith.select arith.shli arith.shrsi arith.shrui arith.sitofp arith.subf
arith.subi arith.trunci arith.uitofp arith.xori
math.absf math.absi math.ceil math.cos math.erf math.exp math.exp2 math.floor math.fma math.log
math.log1p math.log2 math.powf math.round math.roundeven math.rsqrt math.sin math.sqrt math.tanh
math.trunc
memref.alloca memref.cast memref.collapse_shape memref.dim memref.expand_shape memref.get_global
memref.global memref.load
memref.reinterpret_cast memref.store memref.subview memref.view
vector.bitcast vector.broadcast vector.constant_mask vector.create_mask vector.deinterleave
vector.extract vector.extract_strided_slice vector.extractelement vector.gather vector.insert
vector.insert_strided_slice vector.insertelement vector.interleave vector.load vector.maskedload
vector.maskedstore vector.scatter vector.shape_cast vector.shuffle vector.splat vector.step
vector.store vector.transfer_read vector.transfer_write vector.transpose
scf.yield scf.for scf.if scf.while scf.condition affine.apply affine.max affine.min
func.call func.return
""".split())
"""Ops with the same meaning upstream."""

KEPT = {
    "vector.transfer_read": {"in_bounds", "permutation_map"},
    "vector.transfer_write": {"in_bounds", "permutation_map"},
    "vector.extract_strided_slice": {"offsets", "sizes", "strides"},
    "vector.insert_strided_slice": {"offsets", "strides"},
}
"""Attributes that are part of an op."""

HINTS = frozenset("""
enable_saturate unsigned_mode round_mode reductionOp reductionLoop unroll_for_vsstb no_inline
hivm.vector_function hivm.multi_buffer_counter_for hivm.multi_buffer_loop_id tiled_op tiledAlloc
normalize_matmul_counter to_be_bubbled_slice limit_sub_block_id0 inserted-copy mask_op_idx
reached_mask_ops_idx fixpipe_for_mmad_result_already_inserted withoutInitMergeOp alignment
hivm.vf_mode hivm.loop_core_type map_for_to_forall hivm.parallel_loop ExtractedLoadOrStore
cv_unrolled_loop multibuffer_unroll_factor ptc_simdvf
""".split())
"""Attributes of the fork that change nothing for code that runs in order, or are read below."""
TAG = "hfusion-auto-vectorize-target-"
"""Begins the names by which the fork's passes find ops again."""

ROUNDED = {"trunc": "", "truncwithoverflow": "", "rint": "math.roundeven", "round": "math.round",
           "floor": "math.floor", "ceil": "math.ceil"}
"""Rounding of a float before it is cut to an integer -> the op that does it."""

NEW = "%fl"
_names = itertools.count()


def fresh() -> str:
    """A value name that the compiler does not use."""
    return f"{NEW}{next(_names)}"


def types(text: str) -> str:
    """Types as upstream has them."""
    return plain(text).replace(F8, "i8")


def upstream(op: Op) -> Iterator[str]:
    """The lines of one op, without its regions' contents. Raises Refused for an unknown one."""
    if (special := SPECIAL.get(op.name)) is not None:
        yield from special(op)
        return
    if op.name not in PASSED:
        raise Refused(f"an op {op.name}", op.line)
    yield _line(op)


def check_attributes(op: Op) -> None:
    """Raise Refused if the op has an attribute whose meaning is not known."""
    unknown = {a for a in op.attributes if not a.startswith(TAG)} - HINTS - KEPT.get(op.name, set())
    if unknown:
        raise Refused(f"an attribute {min(unknown)} of {op.name}", op.line)


def _line(op: Op) -> str:
    check_attributes(op)
    kept = [f"{key} = {value}" for key, value in op.attributes.items()
            if key in KEPT.get(op.name, ())]
    text = types(op.text)
    if kept:
        operands, separator, rest = text.partition(" : ")
        text = f"{operands} {{{', '.join(kept)}}}{separator}{rest}"
    return f"{_results(op)}{op.name}{'' if text[:1] == '(' else ' '}{text}"


def _results(op: Op) -> str:
    return f"{', '.join(op.results)} = " if op.results else ""


def _from_to(op: Op) -> tuple[str, str, str]:
    """Operand and the two types of a cast."""
    match = re.fullmatch(r"(%[\w#.$-]+)(?: fastmath<\w+>)? : (.*) to (.*)", op.text)
    if match is None:
        raise Refused(f"a form of {op.name}", op.line)
    return match[1], match[2], match[3]


def _shaped(type_: str, element: str) -> str:
    """A type like `type_` with another element."""
    return re.sub(r"(?<=[x<])[a-z]\w*(?=>$)", element, type_) if "<" in type_ else element


def _element(type_: str) -> str:
    return re.split(r"[x<]", type_.rstrip(">"))[-1]


def _rounding(op: Op) -> str:
    match = re.fullmatch(r"#hfusion\.round_mode<(\w+)>", op.attributes.get("round_mode", ""))
    return match[1] if match else ""


def _constant(type_: str, value: str) -> str:
    return f"dense<{value}> : {type_}" if "<" in type_ else f"{value} : {type_}"


class _Expansion:
    """Lines that compute something on values of one shape."""

    def __init__(self, like: str) -> None:
        self.like, self.lines = like, list[str]()

    def op(self, name: str, operands: str, element: str, suffix: str = "") -> str:
        """``%new = name operands : type suffix``."""
        result = fresh()
        self.lines.append(f"{result} = {name} {operands} : {_shaped(self.like, element)}{suffix}")
        return result

    def cast(self, name: str, value: str, old: str, new: str) -> str:
        """A cast between elements."""
        return self.op(name, value, old, f" to {_shaped(self.like, new)}")

    def constant(self, value: str, element: str) -> str:
        """A splat."""
        result = fresh()
        type_ = _shaped(self.like, element)
        self.lines.append(f"{result} = arith.constant {_constant(type_, value)}")
        return result

    def select(self, condition: str, yes: str, no: str, element: str) -> str:
        """Element by element."""
        result, kind = fresh(), _shaped(self.like, element)
        mask = f"{_shaped(self.like, 'i1')}, " if "<" in self.like else ""
        self.lines.append(f"{result} = arith.select {condition}, {yes}, {no} : {mask}{kind}")
        return result

    def end(self, op: Op, value: str) -> list[str]:
        """All lines, the last result under the op's name."""
        self.lines[-1] = self.lines[-1].replace(f"{value} =", f"{op.results[0]} =", 1)
        return self.lines


def _extf(op: Op) -> Iterator[str]:
    value, old, new = _from_to(op)
    if F8 not in old:
        yield _line(op)
        return
    # The bits of e4m3 at the place of float32's are a 2^-120 part of the value, also subnormals.
    wide = _Expansion(new)
    code = wide.cast("arith.extui", value, "i8", "i32")
    size = wide.op("arith.andi", f"{code}, {wide.constant('127', 'i32')}", "i32")
    sign = wide.op("arith.andi", f"{code}, {wide.constant('128', 'i32')}", "i32")
    bits = wide.op("arith.shli", f"{size}, {wide.constant('20', 'i32')}", "i32")
    number = wide.op("arith.mulf", f"{wide.cast('arith.bitcast', bits, 'i32', 'f32')}, "
                     f"{wide.constant('0x7B800000', 'f32')}", "f32")
    nan = wide.op("arith.cmpi", f"eq, {size}, {wide.constant('127', 'i32')}", "i32")
    number = wide.select(nan, wide.constant("0x7FC00000", "f32"), number, "f32")
    high = wide.op("arith.shli", f"{sign}, {wide.constant('24', 'i32')}", "i32")
    bits = wide.op("arith.ori", f"{wide.cast('arith.bitcast', number, 'f32', 'i32')}, {high}",
                   "i32")
    result = wide.cast("arith.bitcast", bits, "i32", "f32")
    if _element(new) != "f32":
        result = wide.cast("arith.truncf", result, "f32", _element(new))
    yield from wide.end(op, result)


def _truncf(op: Op) -> Iterator[str]:
    value, old, new = _from_to(op)
    if _rounding(op) not in ("", "rint"):
        raise Refused(f"rounding {_rounding(op)} of {op.name}", op.line)
    if F8 not in new:
        yield _line(op)
        return
    if _element(old) != "f32" or op.attributes.get("enable_saturate") == "true":
        raise Refused(f"a cast {old} to {new}, or one that saturates", op.line)
    # Normal numbers round in float32's own bits, subnormal ones by adding 2^14 (its ulp is 2^-9);
    # what rounds to more than 448 becomes the NaN code, as there is no infinity.
    wide = _Expansion(old)
    bits = wide.cast("arith.bitcast", value, "f32", "i32")
    size = wide.op("arith.andi", f"{bits}, {wide.constant('2147483647', 'i32')}", "i32")
    odd = wide.op("arith.shrui", f"{size}, {wide.constant('20', 'i32')}", "i32")
    odd = wide.op("arith.andi", f"{odd}, {wide.constant('1', 'i32')}", "i32")
    near = wide.op("arith.addi", f"{size}, {wide.constant('524287', 'i32')}", "i32")
    near = wide.op("arith.addi", f"{near}, {odd}", "i32")
    near = wide.op("arith.shrui", f"{near}, {wide.constant('20', 'i32')}", "i32")
    near = wide.op("arith.subi", f"{near}, {wide.constant('960', 'i32')}", "i32")
    magic = wide.constant("16384.0", "f32")
    small = wide.op("arith.addf", f"{wide.cast('arith.bitcast', size, 'i32', 'f32')}, {magic}",
                    "f32")
    small = wide.op("arith.subi", f"{wide.cast('arith.bitcast', small, 'f32', 'i32')}, "
                    f"{wide.cast('arith.bitcast', magic, 'f32', 'i32')}", "i32")
    tiny = wide.op("arith.cmpi", f"ult, {size}, {wide.constant('1015021568', 'i32')}", "i32")
    code = wide.select(tiny, small, near, "i32")
    code = wide.op("arith.minui", f"{code}, {wide.constant('127', 'i32')}", "i32")
    sign = wide.op("arith.shrui", f"{bits}, {wide.constant('24', 'i32')}", "i32")
    sign = wide.op("arith.andi", f"{sign}, {wide.constant('128', 'i32')}", "i32")
    code = wide.op("arith.ori", f"{code}, {sign}", "i32")
    yield from wide.end(op, wide.cast("arith.trunci", code, "i32", "i8"))


def _to_integer(op: Op) -> Iterator[str]:
    value, old, _ = _from_to(op)
    rounding = _rounding(op) or "trunc"
    if rounding not in ROUNDED or op.attributes.get("enable_saturate") == "true":
        raise Refused(f"rounding {rounding} of {op.name}, or saturation", op.line)
    if ROUNDED[rounding]:
        rounded = fresh()
        yield f"{rounded} = {ROUNDED[rounding]} {value} : {types(old)}"
        value = rounded
    yield f"{_results(op)}{op.name} {value}{types(op.text[op.text.index(' : '):])}"


def _arith_constant(op: Op) -> Iterator[str]:
    if F8 not in op.text:
        yield _line(op)
    elif re.match(r"(dense<)?0\.0+(e[+-]?0+)?>? : ", op.text):
        type_ = types(op.text.partition(" : ")[2])
        yield f"{_results(op)}arith.constant {_constant(type_, '0')}"
    else:
        raise Refused("an e4m3 constant other than 0", op.line)


def _reduction(op: Op) -> Iterator[str]:
    """The fork names the value that a reduction starts from, and does not use it."""
    check_attributes(op)
    match = re.fullmatch(r"(<\w+>), (%[\w#.$-]+)(?:, (%[\w#.$-]+))? : (.*)", op.text)
    if match is None:
        raise Refused(f"a form of {op.name}", op.line)
    kind, vector, start, rest = match.groups()
    start = f", {start}" if start and "withoutInitMergeOp" not in op.attributes else ""
    yield f"{_results(op)}vector.reduction {kind}, {vector}{start} : {rest}"


def _mask(op: Op) -> Iterator[str]:
    """An op in one line under a mask."""
    match = re.fullmatch(r"(%[\w#.$-]+) \{ (.*) \} : (.*)", op.text)
    if match is None:
        raise Refused(f"a form of {op.name}", op.line)
    *before, inner = upstream(parse_line(match[2]))
    yield from before
    yield f"{_results(op)}vector.mask {match[1]} {{ {inner} }} : {types(match[3])}"


def _conversion(op: Op) -> Iterator[str]:
    """Register pairs and halves, and one-lane vectors."""
    values, _, rest = types(op.text).partition(" : ")
    olds, _, news = rest.partition(" to ")
    lanes = [_lanes(t) for t in (*split(olds), *split(news))]
    one = bool(re.fullmatch(r"%[\w#.$-]+", values)) and len(op.results) == 1
    ones = r"vector<((?:1x)+)[a-z]\w*>"
    if len(lanes) == 3 and lanes[0] and lanes[2] == lanes[0] * 2 and len(op.results) == 1:
        order = ", ".join(map(str, range(lanes[2])))
        yield f"{_results(op)}vector.shuffle {values} [{order}] : {olds}"
    elif one and all(lanes) and lanes[0] >= lanes[1]:
        yield (f"{_results(op)}vector.extract_strided_slice {values} {{offsets = [0], "
               f"sizes = [{lanes[1]}], strides = [1]}} : {olds} to {news}")
    elif one and (match := re.fullmatch(ones, olds)) and "<" not in news:
        zeros = ", ".join("0" for _ in range(match[1].count("x")))
        yield f"{_results(op)}vector.extract {values}[{zeros}] : {news} from {olds}"
    elif one and re.fullmatch(ones, news) and "<" not in olds:
        yield f"{_results(op)}vector.broadcast {values} : {olds} to {news}"
    else:
        raise Refused("a form of builtin.unrealized_conversion_cast", op.line)


def _collapse(op: Op) -> Iterator[str]:
    """Sides of 1 in strided memory: LLVM 19 takes their strides for real, so this is by hand."""
    match = re.fullmatch(r"(%[\w#.$-]+) \[((?:\[[\d, ]*\](?:, )?)*)\] : (.*) into (.*)", op.text)
    if match is None:
        raise Refused(f"a form of {op.name}", op.line)
    source, old, new = match[1], memref(match[3]), memref(match[4])
    groups = [[int(i) for i in split(g)] for g in re.findall(r"\[([^\]]*)\]", match[2])]
    layout = re.fullmatch(r"strided<\[([^\]]*)\](?:, offset: (\S+))?>", new.layout)
    ones = any(len(group) > 1 and 1 in [old.shape[i] for i in group] for group in groups)
    if not (ones and old.layout and (layout or (not new.layout and new.rank == 1))):
        yield _line(op)
        return
    base, offset = fresh(), fresh()
    sizes, strides = ([fresh() for _ in old.shape] for _ in range(2))
    element = types(old.element)
    kinds = ", ".join([f"memref<{element}>"] + ["index"] * (1 + 2 * old.rank))
    yield (f"{', '.join([base, offset, *sizes, *strides])} = memref.extract_strided_metadata "
           f"{source} : {types(match[3])} -> {kinds}")
    known, start = split(layout[1]) if layout else ["1"], (layout and layout[2]) or "0"
    some: list[str] = []
    steps: list[str] = []
    for group, side, step in zip(groups, new.shape, known, strict=True):
        real = [i for i in group if old.shape[i] != 1] or group[-1:]
        size = sizes[real[0]]
        for i in real[1:]:
            product = fresh()
            yield f"{product} = arith.muli {size}, {sizes[i]} : index"
            size = product
        some.append(size if side is None else str(side))
        steps.append(strides[real[-1]] if step == "?" else step)
    yield (f"{_results(op)}memref.reinterpret_cast {source} to offset: "
           f"[{offset if start == '?' else start}], sizes: [{', '.join(some)}], strides: "
           f"[{', '.join(steps)}] : {types(match[3])} to {types(match[4])}")


def _lanes(type_: str) -> int:
    match = re.fullmatch(r"vector<(\d+)x[a-z]\w*>", type_)
    return int(match[1]) if match else 0


SPECIAL: dict[str, Callable[[Op], Iterator[str]]] = {
    "arith.extf": _extf, "arith.truncf": _truncf, "arith.fptosi": _to_integer,
    "arith.fptoui": _to_integer, "arith.constant": _arith_constant, "vector.mask": _mask,
    "memref.collapse_shape": _collapse,
    "vector.reduction": _reduction, "builtin.unrealized_conversion_cast": _conversion,
}
