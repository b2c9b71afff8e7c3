"""Ops of the chip's own dialect in lowered code, as calls of the functions in emulator.cpp."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from firstlight.targets.ascend.rewrite_calls import BITS, KINDS, RANK, SIZES, Context, Lines
from firstlight.targets.ascend.rewrite_ops import Hivm, Op, Refused, hivm, memref, split
from firstlight.targets.ascend.rewrite_upstream import fresh, types

ERASED = frozenset(f"hivm.hir.{name}" for name in (
    "set_flag", "wait_flag", "pipe_barrier", "set_ctrl", "set_mask_norm")) | {"annotation.mark"}
"""Without effect where a core does one thing after another; the hazard checker reads the flags."""


def special(op: Op) -> bool:
    """Whether an op is for `chip`: of the chip's dialect, or with another meaning than upstream."""
    return (op.name.startswith("hivm.") or op.name in ERASED or op.name == "memref.get_global"
            or (op.name in MASKS and bool(re.search(r"memref<[^>]*xi1[,>]", op.text))))


def chip(op: Op, context: Context) -> Iterator[str]:
    """The lines of one op that is `special`. Raises Refused for an unknown one or form."""
    if op.name in ERASED:
        return
    handler = HANDLERS.get(op.name.removeprefix("hivm.hir."))
    if handler is None:
        raise Refused(f"an op {op.name}", op.line)
    yield from handler(op, context)


def _allow(op: Op, clauses: Hivm, groups: str, options: str = "", attributes: str = "") -> None:
    """Raise Refused for anything beside what is named."""
    for kind, have, known in (("operands", clauses.groups, groups),
                              ("option", clauses.options, options),
                              ("attribute", op.attributes, attributes)):
        unknown = set(have) - set(known.split())
        if unknown:
            raise Refused(f"{kind} {min(unknown)} of {op.name}", op.line)


def _kind(type_: str, op: Op) -> int:
    element = memref(type_).element
    if element not in KINDS:
        raise Refused(f"elements {element} of {op.name}", op.line)
    return KINDS[element]


def _width(type_: str, op: Op) -> int:
    """Bytes of an element."""
    bits = BITS.get(memref(type_).element, 0)
    if bits < 8:
        raise Refused(f"elements {memref(type_).element} of {op.name}", op.line)
    return bits // 8


def _index(function: str) -> Callable[[Op, Context], Iterator[str]]:
    def lines(op: Op, context: Context) -> Iterator[str]:
        if op.text != "-> i64":
            raise Refused(f"a form of {op.name}", op.line)
        yield context.call(function, [], op.results[0])
    return lines


def _pointer_cast(op: Op, context: Context) -> Iterator[str]:
    match = re.fullmatch(r"\(([^)]*)\)\s*(?:\[([^\]]*)\])? ?: (memref<.*>)", op.text)
    if match is None:
        raise Refused(f"a form of {op.name}", op.line)
    address, *others = split(match[1])
    kind = memref(match[3])
    if others or kind.space not in SIZES or op.attributes:
        raise Refused(f"a form of {op.name}", op.line)
    yield context.view(op.results[0], kind.space, address, split(match[2] or ""), types(match[3]))


def _move(op: Op, context: Context) -> Iterator[str]:
    """load, store, copy: a DMA between memories, or within the vector core's."""
    clauses = hivm(op)
    _allow(op, clauses, "ins outs", "eviction_policy core_type left_padding_num pad_mode pad_value "
           "init_out_buffer", "tiled_op inserted-copy")
    if clauses.options.get("init_out_buffer", "false") != "false":
        raise Refused(f"init_out_buffer of {op.name}", op.line)
    lines = Lines()
    (source, target), kinds = _two(clauses)
    if memref(kinds[0]).element != memref(kinds[1]).element:
        raise Refused(f"two element types of {op.name}", op.line)
    arguments = [*lines.view(source, kinds[0], op.line), *lines.view(target, kinds[1], op.line),
                 lines.constant(_width(kinds[0], op))]
    yield from [*lines.lines, context.call("emu_move", arguments)]


def _transpose(op: Op, context: Context) -> Iterator[str]:
    """A copy whose source has its sides in another order."""
    clauses = hivm(op)
    _allow(op, clauses, "ins outs temp_buffer", "permutation")
    lines = Lines()
    (source, target), kinds = _two(clauses)
    order = [int(i) for i in split(clauses.options["permutation"][1:-1])]
    first = RANK - len(order)
    sides = [*range(first), *(first + i for i in order)]
    pointer, offset, *rest = lines.view(source, kinds[0], op.line)
    turned = [rest[i] for i in sides] + [rest[RANK + i] for i in sides]
    arguments = [pointer, offset, *turned, *lines.view(target, kinds[1], op.line),
                 lines.constant(_width(kinds[0], op))]
    yield from [*lines.lines, context.call("emu_move", arguments)]


def _two(clauses: Hivm) -> tuple[tuple[str, str], tuple[str, str]]:
    (source, old), = clauses.groups["ins"]
    (target, new), = clauses.groups["outs"]
    return (source, target), (old, new)


def _nd2nz(op: Op, context: Context) -> Iterator[str]:
    clauses = hivm(op)
    _allow(op, clauses, "ins outs", "", "dst_continuous")
    lines = Lines()
    (source, target), kinds = _two(clauses)
    arguments = [*lines.view(source, kinds[0], op.line), *lines.view(target, kinds[1], op.line),
                 lines.constant(_width(kinds[0], op))]
    yield from [*lines.lines, context.call("emu_nd2nz", arguments)]


MATMUL = ("already_set_real_mkn a_transpose b_transpose normalized_in_L0C hivm.remain_in_l0c "
          "fixpipe_for_result_already_inserted")


def _mmad(op: Op, context: Context) -> Iterator[str]:
    clauses = hivm(op)
    _allow(op, clauses, "ins outs sync_related_args", "", MATMUL)
    if "already_set_real_mkn" not in op.attributes or len(clauses.groups["ins"]) != 6:
        raise Refused(f"a form of {op.name}", op.line)
    lines = Lines()
    a, b, *rest = clauses.groups["ins"]
    (c, kind), = clauses.groups["outs"]
    transposed = ("a_transpose" in op.attributes) + 2 * ("b_transpose" in op.attributes)
    arguments = [*lines.view(*a, op.line), *lines.view(*b, op.line), *lines.view(c, kind, op.line),
                 *[lines.integer(*value) for value in rest], lines.constant(transposed),
                 lines.constant(_kind(a[1], op)), lines.constant(_kind(kind, op))]
    yield from [*lines.lines, context.call("emu_mmad", arguments)]


def _load_scale(op: Op, context: Context) -> Iterator[str]:
    clauses = hivm(op)
    _allow(op, clauses, "ins outs", "is_transposed")
    context.beliefs.add("how the scales of an MX product lie in L1")
    lines = Lines()
    (source, target), kinds = _two(clauses)
    arguments = [*lines.view(source, kinds[0], op.line), *lines.view(target, kinds[1], op.line)]
    yield from [*lines.lines, context.call("emu_load_scale", arguments)]


def _mmadmx(op: Op, context: Context) -> Iterator[str]:
    clauses = hivm(op)
    _allow(op, clauses, "ins outs", "", f"{MATMUL} lhsFormat rhsFormat")
    formats = {op.attributes.get(side, "2 : i32") for side in ("lhsFormat", "rhsFormat")}
    a, b, sa, sb, *rest = clauses.groups["ins"]
    if formats != {"2 : i32"} or memref(a[1]).element != "f8E4M3FN" or len(rest) != 4:
        raise Refused(f"a format of {op.name}: only e4m3 is known", op.line)
    context.beliefs.add("which scale belongs to which block of an MX product")
    lines = Lines()
    (c, kind), = clauses.groups["outs"]
    transposed = ("a_transpose" in op.attributes) + 2 * ("b_transpose" in op.attributes)
    views = [x for memory in (a, b, sa, sb, (c, kind)) for x in lines.view(*memory, op.line)]
    arguments = [*views, *[lines.integer(*value) for value in rest], lines.constant(transposed)]
    yield from [*lines.lines, context.call("emu_mmadmx", arguments)]


QUANTS = {"": None, "F322BF16": ("f32", "bf16"), "F322F16": ("f32", "f16")}


HALVES = ("<NO_DUAL>", "<ROW_SPLIT>", "<COLUMN_SPLIT>")
"""What two vector cores get of a product, as emulator.cpp numbers it: all, rows, columns."""


def _fixpipe(op: Op, context: Context) -> Iterator[str]:
    """The result of a product, out of L0C; two vector cores may get half of it each."""
    clauses = hivm(op)
    _allow(op, clauses, "ins outs", "dual_dst_mode", "dma_mode pre_quant tiled_op")
    mode = re.sub(r".*<(\w+)>", r"\1", op.attributes.get("dma_mode", ""))
    quant = re.sub(r".*<(\w+)>", r"\1", op.attributes.get("pre_quant", ""))
    halves = clauses.options.get("dual_dst_mode", "<NO_DUAL>")
    (source, target), kinds = _two(clauses)
    elements = tuple(memref(kind).element for kind in kinds)
    expected = QUANTS.get(quant, ()) or ((elements[0],) * 2)
    if (mode != "nz2nd" or halves not in HALVES or quant not in QUANTS
            or elements != expected):
        raise Refused(f"a form of {op.name}", op.line)
    lines = Lines()
    arguments = [*lines.view(source, kinds[0], op.line), *lines.view(target, kinds[1], op.line),
                 lines.constant(_kind(kinds[0], op)), lines.constant(_kind(kinds[1], op)),
                 lines.constant(HALVES.index(halves))]
    yield from [*lines.lines, context.call("emu_fixpipe", arguments)]


def _vsort(op: Op, context: Context) -> Iterator[str]:
    clauses = hivm(op)
    _allow(op, clauses, "ins outs temp_buffer", "descending sort_axis")
    lines = Lines()
    (source, target), kinds = _two(clauses)
    if int(clauses.options["sort_axis"]) != memref(kinds[0]).rank - 1:
        raise Refused("a sort that is not along the last dimension", op.line)
    arguments = [*lines.view(source, kinds[0], op.line), *lines.view(target, kinds[1], op.line),
                 lines.constant(_kind(kinds[0], op)),
                 lines.constant(clauses.options["descending"] == "true")]
    yield from [*lines.lines, context.call("emu_sort", arguments)]


def _vcumsum(op: Op, context: Context) -> Iterator[str]:
    clauses = hivm(op)
    _allow(op, clauses, "ins outs temp_buffer", "cum_dims reverse")
    lines = Lines()
    (source, target), kinds = _two(clauses)
    if (clauses.options["cum_dims"] != f"[{memref(kinds[0]).rank - 1}]"
            or clauses.options["reverse"] != "false"):
        raise Refused("a running sum that is not along the last dimension, forward", op.line)
    arguments = [*lines.view(source, kinds[0], op.line), *lines.view(target, kinds[1], op.line),
                 lines.constant(_kind(kinds[0], op))]
    yield from [*lines.lines, context.call("emu_cumsum", arguments)]


def _vgather(op: Op, context: Context) -> Iterator[str]:
    clauses = hivm(op)
    _allow(op, clauses, "ins indices outs", "gather_axis", "hivm.vf_mode")
    lines = Lines()
    (source, target), kinds = _two(clauses)
    (indices, indices_kind), = clauses.groups["indices"]
    if (int(clauses.options["gather_axis"]) != memref(kinds[0]).rank - 1
            or memref(indices_kind).element != "i32"):
        raise Refused("a gather that is not along the last dimension, by i32", op.line)
    arguments = [*lines.view(source, kinds[0], op.line),
                 *lines.view(indices, indices_kind, op.line),
                 *lines.view(target, kinds[1], op.line),
                 lines.constant(_width(kinds[0], op))]
    yield from [*lines.lines, context.call("emu_gather", arguments)]


def _sync(function: str) -> Callable[[Op, Context], Iterator[str]]:
    def lines(op: Op, context: Context) -> Iterator[str]:
        clauses = hivm(op)
        _allow(op, clauses, "", "cores flag")
        cores = {"<CUBE>", "<VECTOR>"}
        if split(clauses.options["cores"])[0] not in cores:
            raise Refused(f"cores of {op.name}", op.line)
        flag, first = clauses.options["flag"], Lines()
        name = flag if flag.startswith("%") else first.constant(int(flag))
        yield from [*first.lines, context.call(function, [name])]
    return lines


LAST_SIDE = r"affine_map<\([^)]*(d\d)\) -> \((?:(?:0|d\d), )*\1\)>"
MASKS = ("vector.transfer_read", "vector.transfer_write", "memref.load", "memref.store")


def _mask(op: Op, context: Context) -> Iterator[str]:
    """Up to 64 lanes of a mask, read from or written to memory, where it lies bit by bit.

    Memory and vectors may have sides of 1 before the lanes.
    """
    read = op.name == "vector.transfer_read"
    name = r"%[\w#.$-]+"
    before, pad = ("", rf", (?P<other>{name})") if read else (rf"(?P<other>{name}), ", "")
    match = re.fullmatch(rf"{before}(?P<memory>{name})\[(?P<at>[^\]]*)\]{pad}"
                         rf"(?:, (?P<mask>{name}))? : (?P<types>.*)", op.text)
    plan = op.attributes.get("permutation_map", "")
    if (match is None or op.name.startswith("memref.")
            or (plan and not re.fullmatch(LAST_SIDE, context.aliases.get(plan, plan)))):
        raise Refused(f"a form of {op.name} for masks", op.line)
    one, two = split(match["types"])
    kind, vector = (one, two) if read else (two, one)
    shape = re.fullmatch(r"vector<(?P<ones>(?:1x)*)(?P<lanes>\d+)xi1>", vector)
    sides = memref(kind).shape[:-1]
    if shape is None or int(shape["lanes"]) > 64 or any(side != 1 for side in sides):
        raise Refused(f"a form of {op.name} for masks", op.line)
    lanes, lines = int(shape["lanes"]), Lines()
    every = lines.constant((1 << lanes) - 1 if lanes < 64 else -1)
    mask = _bits(lines, match["mask"], lanes, "1x" * len(sides)) if match["mask"] else every
    other = (lines.integer(match["other"], "i1") if read
             else _bits(lines, match["other"], lanes, shape["ones"]))
    arguments = [*lines.view(match["memory"], kind, op.line),
                 lines.integer(split(match["at"])[-1], "index"), mask, other]
    if not read:
        yield from [*lines.lines, context.call("emu_mask_write", arguments)]
        return
    number, whole, all64 = fresh(), fresh(), fresh()
    yield from [*lines.lines, context.call("emu_mask_read", arguments, number)]
    yield f"{whole} = vector.broadcast {number} : i64 to vector<1xi64>"
    yield f"{all64} = vector.bitcast {whole} : vector<1xi64> to vector<64xi1>"
    flat = fresh() if shape["ones"] else op.results[0]
    yield (f"{flat} = vector.extract_strided_slice {all64} {{offsets = [0], sizes = "
           f"[{lanes}], strides = [1]}} : vector<64xi1> to vector<{lanes}xi1>")
    if shape["ones"]:
        yield f"{op.results[0]} = vector.shape_cast {flat} : vector<{lanes}xi1> to {vector}"


def _bits(lines: Lines, value: str, lanes: int, ones: str) -> str:
    """A mask as an i64; `ones` are sides of 1 before its lanes, e.g. "1x"."""
    if ones:
        flat = fresh()
        lines.lines.append(f"{flat} = vector.shape_cast {value} : vector<{ones}{lanes}xi1> to "
                           f"vector<{lanes}xi1>")
        value = flat
    if lanes < 64:
        zero, wide = fresh(), fresh()
        lines.lines += [
            f"{zero} = arith.constant dense<false> : vector<64xi1>",
            f"{wide} = vector.insert_strided_slice {value}, {zero} {{offsets = [0], strides = [1]}}"
            f" : vector<{lanes}xi1> into vector<64xi1>"]
        value = wide
    one, number = fresh(), fresh()
    lines.lines += [f"{one} = vector.bitcast {value} : vector<64xi1> to vector<1xi64>",
                    f"{number} = vector.extract {one}[0] : i64 from vector<1xi64>"]
    return number


def _get_global(op: Op, context: Context) -> Iterator[str]:
    """A table that comes with the kernel: a memory like an argument's."""
    name, _, kind = op.text.partition(" : ")
    yield f"{op.results[0]} = memref.get_global {name} : {types(kind)}"
    lines = Lines()
    arguments = [*lines.view(op.results[0], kind, op.line), lines.constant(_width(kind, op))]
    yield from [*lines.lines, context.call("emu_table", arguments)]


HANDLERS: dict[str, Callable[[Op, Context], Iterator[str]]] = {
    "get_block_idx": _index("emu_block_idx"),
    "get_sub_block_idx": _index("emu_sub_block_idx"),
    "get_block_num": _index("emu_block_num"),
    **dict.fromkeys(MASKS, _mask), "memref.get_global": _get_global,
    "pointer_cast": _pointer_cast, "load": _move, "store": _move, "copy": _move,
    "vtranspose": _transpose, "nd2nz": _nd2nz,
    "mmadL1": _mmad, "mmadmxL1": _mmadmx, "load_scale": _load_scale,
    "fixpipe": _fixpipe, "vsort": _vsort, "vcumsum": _vcumsum, "vgather": _vgather,
    "sync_block_set": _sync("emu_sync_set"), "sync_block_wait": _sync("emu_sync_wait"),
}
