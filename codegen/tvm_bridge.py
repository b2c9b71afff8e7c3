"""The one file that imports TVM: names kernels are written with, and the way from TIR to an object.

TVM 0.27 moved and renamed most of its surface (``tir`` became ``tirx`` and ``s_tir``); when that
happens again, this file is where it costs one line. Kernels write

    from firstlight.codegen.tvm_bridge import T

    @T.prim_func(s_tir=True)
    def scale(x_: T.handle("float32"), y_: T.handle("float32"), S: T.int32):
        T.func_attr({"global_symbol": "scale"})
        x = T.decl_buffer((S, 64), "float32", data=x_)
        y = T.decl_buffer((S, 64), "float32", data=y_)
        for s in T.parallel(S):
            ...

Parameters are raw pointers: a planned program has fixed shapes, so tensor descriptors would be dead
weight. Nothing checks such a pointer, and the code assumes 64-byte alignment.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tvm
from tvm import s_tir, te, tirx
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.target import Target
from tvm.tirx.compilation_pipeline import get_tir_pipeline, register_tir_pipeline
from tvm.tirx.script.builder import ir as tirx_builder

__all__ = [
    "PrimFunc", "T", "Target", "allocations", "along", "build_object", "compile_module",
    "device_text", "fingerprint", "flat", "flattened", "llvm_target", "named", "parallel_loops",
    "prim_func", "replaced", "s_tir", "sequence", "spills", "te", "tensor_load", "tirx",
    "transformed", "tvm", "variables", "versions",
]  # fmt: skip

# Where TVM finds a GPU's driver, its generators would call a compiler, too, and want its packages.
os.environ["TVM_COMPILE_FORCE_FALLBACK"] = "1"

PrimFunc = tirx.PrimFunc
named = IRBuilder.name
"""named("x", buffer) gives a buffer the name it is printed with, and returns it."""


def versions() -> dict[str, str]:
    """The compiler packages that decide what an object contains, for the manifest."""
    import tvm_ffi

    return {"tvm": tvm.__version__, "tvm_ffi": tvm_ffi.__version__}


def prim_func(
    name: str, pointers: Sequence[tuple[str, str]], body: Callable[..., None]
) -> PrimFunc:
    """A PrimFunc written by running `body` instead of parsing its text.

    Python loops and conditions in `body` happen while the kernel is built; `with T.serial(n) as i:`
    and `with T.If(c), T.Then():` make loops and branches of the kernel. That is the way to write a
    kernel that depends on a list (weight segments) or a table (codecs).

    Args:
        name: the symbol.
        pointers: (name, element type) of each pointer parameter, e.g. ``("x", "float32")``.
        body: called with the pointers and `S`, the int32 number of tokens.
    """
    with IRBuilder() as builder, tirx_builder.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"global_symbol": name})
        args = [T.arg(n, T.handle(dtype)) for n, dtype in pointers]
        body(*args, T.arg("S", T.int32()))
    return builder.get()


def llvm_target(options: Mapping[str, Any]) -> Target:
    """An LLVM target from options such as ``{"mcpu": "x86-64-v3"}`` (names: spec/tvm.md 1)."""
    return Target({"kind": "llvm", **options})


PIPELINE = "firstlight"
SKIPPED = (
    "s_tir.AnnotateIrregularLoop", "s_tir.CompactBufferAllocation", "s_tir.HoistIfThenElse",
    "s_tir.InjectDoubleBuffer", "s_tir.InjectPermutedLayout", "s_tir.InjectSoftwarePipeline",
    "s_tir.InjectVirtualThread", "s_tir.InsertHoistIfThenElse", "s_tir.LoopPartition",
    "s_tir.RenormalizeSplitPattern", "s_tir.StmtSimplify", "s_tir.TransformMmaBufferLayout",
    "tirx.CommonSubexprElim",
)  # fmt: skip


def _pipeline() -> Any:
    """TVM's pipeline for schedulable TIR, changed for kernels over raw pointers.

    * Workspace: functions over tensors learn the device from their arguments. Ours have none, and
      any buffer above 1 KiB would fail ("Unknown device id in current IR").
    * Functions without blocks skip the passes that exist for blocks, tensor cores and pipelines,
      and those that LLVM repeats: three quarters of the time, for the same object code.
    """
    lower, host, device = get_tir_pipeline("s_tir")

    @tvm.transform.module_pass(opt_level=0)
    def lower_all(mod: Any, context: Any) -> Any:
        plain, scheduled = tvm.IRModule(attrs=mod.attrs), tvm.IRModule(attrs=mod.attrs)
        for name, func in mod.functions_items():
            has_blocks = isinstance(func.body, s_tir.SBlockRealize)
            (scheduled if has_blocks else plain)[name] = func
        with tvm.transform.PassContext(config=context.config, disabled_pass=list(SKIPPED)):
            plain = lower(plain)
        plain.update(lower(scheduled))
        return plain

    @tirx.transform.prim_func_pass(opt_level=0)
    def workspace_on_cpu(func: PrimFunc, mod: Any, context: Any) -> PrimFunc:
        body = func.body
        for key, value in (("device_id", 0), ("device_type", 1)):
            body = tirx.AttrStmt(tvm.ir.StringImm("default"), key, T.int32(value), body)
        return func.with_body(body)

    return tvm.transform.Sequential([lower_all, workspace_on_cpu]), host, device


register_tir_pipeline(PIPELINE, _pipeline)


def compile_module(
    prim_funcs: Mapping[str, PrimFunc], options: Mapping[str, Any], checked: bool = False
) -> Any:
    """Compile PrimFuncs, sorted by name, to one TVM runtime module.

    Args:
        prim_funcs: symbol -> PrimFunc; each becomes the C symbol ``__tvm_ffi_<symbol>``.
        options: LLVM options of the target.
        checked: keep TVM's argument checks (70 % of the code; for tests).
    """
    funcs = {n: prim_funcs[n].with_attr("global_symbol", n) for n in sorted(prim_funcs)}
    # The default for vectors of unknown length; branches in vector loops then fail in later passes.
    config = {"tirx.disable_assert": not checked, "tirx.enable_buffer_level_predication": False}
    with tvm.transform.PassContext(config=config):
        return tvm.compile(tvm.IRModule(funcs), llvm_target(options), tir_pipeline=PIPELINE).mod


def flat(func: PrimFunc) -> PrimFunc:
    """Scheduled TIR as plain loops over one-dimensional buffers, for emitters of text.

    Blocks are gone, kinds of loops (parallel, vectorized) stay. TVM's own passes, without those
    that merge buffers or turn lanes into vectors: what to do about either is the emitter's choice.
    """
    st, tx = s_tir.transform, tirx.transform
    passes = [
        st.CanonicalizeLoop(), st.LowerInitBlock(), st.PlanAndUpdateBufferAllocationLocation(),
        st.ConvertBlocksToOpaque(), st.LowerMatchBuffer(), st.LowerOpaqueBlock(),
        tx.FlattenBuffer(), tx.StmtSimplify(), tx.RemoveNoOp(),
    ]  # fmt: skip
    (result,) = tvm.transform.Sequential(passes)(tvm.IRModule({"main": func})).functions.values()
    return result


def along(index: Any, variable: Any) -> tuple[Any, int | None]:
    """Where an index starts (`variable` = 0), and its step; None if that is no constant."""
    from tvm_ffi import structural_map

    def put(change: Callable[[Any], Any]) -> Any:
        return structural_map(index, (type(variable),
                                      lambda v: change(v) if v.same_as(variable) else v))

    simplify = tvm.sym.Analyzer().simplify
    step = simplify(put(lambda v: v + 1) - index)
    constant = isinstance(step, tvm.ir.prim.IntImm)
    return simplify(put(lambda v: tirx.const(0, v.ty.dtype))), int(step.value) if constant else None


def variables(node: Any) -> list[Any]:
    """The variables and buffers that occur in a statement or expression, each once."""
    from tvm_ffi import structural_walk

    found: dict[Any, None] = {}
    structural_walk(node, (tvm.ir.Var, lambda var: found.setdefault(var)))
    return list(found)


def replaced(node: Any, values: Mapping[Any, Any]) -> Any:
    """`node` with other variables, or expressions, in the place of some of its variables."""
    from tvm_ffi import structural_map

    return structural_map(node, (tvm.ir.Var, lambda var: values.get(var, var)))


def sequence(statements: Sequence[Any]) -> Any:
    """Statements one after the other, as one."""
    return statements[0] if len(statements) == 1 else tirx.SeqStmt(list(statements))


def transformed(node: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """`node` with `change` applied to every statement or expression of a kind."""
    from tvm_ffi import structural_map

    return structural_map(node, (kind, change))


def tensor_load() -> type:
    """The kind of an expression that reads an element of a buffer."""
    return tvm.ir.TensorLoad


def allocations(node: Any) -> list[Any]:
    """The `AllocBuffer` statements in a statement."""
    from tvm_ffi import structural_walk

    found: list[Any] = []
    structural_walk(node, (tirx.AllocBuffer, found.append))
    return found


def parallel_loops(node: Any) -> list[Any]:
    """The parallel loops of a statement, in their order, without those inside another.

    Where both branches of a condition have some, in their place a pair of two such lists.
    """
    from tvm_ffi import WalkResult, structural_walk

    found: list[Any] = []

    def visit(loop: Any) -> Any:
        if loop.kind != tirx.ForKind.PARALLEL:
            return None
        found.append(loop)
        return WalkResult.SKIP

    def choose(branch: Any) -> Any:
        if branch.else_case is None:
            return None
        either = tuple(parallel_loops(case) for case in (branch.then_case, branch.else_case))
        if not all(either):
            return None
        found.append(either)
        return WalkResult.SKIP

    structural_walk(node, [(tirx.For, visit), (tirx.IfThenElse, choose)], order="pre")
    return found


def flattened(func: PrimFunc) -> PrimFunc:
    """A function whose declared buffers begin at 0: their offsets are in the indices."""
    (result,) = tirx.transform.FlattenBuffer()(tvm.IRModule({"main": func})).functions.values()
    return result


DEVICE_KERNEL = 2
"""The calling convention of a function that a host launches."""


def device_text(funcs: Mapping[str, PrimFunc], options: Mapping[str, Any], float_of: str) -> str:
    """What TVM's own generator for a device prints for functions bound to its threads.

    Args:
        funcs: symbol -> PrimFunc over pointers, flat, with `thread_extent` attributes; its
            parameters keep their order. Symbols come out as given.
        options: the target, e.g. ``{"kind": ...}`` and what the kind knows.
        float_of: the language's function from the bits of a float32 to the float32. Generators
            print seven digits, and a float32 may need nine: such constants are given by bits.

    Barriers are where the functions have them, none is added. Loops over vectors are printed as
    loops: element types a device lacks vectors of are common, and
    its compiler finds the vectors.
    """
    target = Target(dict(options))
    st, tx = s_tir.transform, tirx.transform
    module = tvm.IRModule({
        name: funcs[name].with_attrs({
            "global_symbol": name, "target": target, "calling_conv": DEVICE_KERNEL,
            "tirx.is_global_func": True, "tirx.noalias": False,
        }) for name in sorted(funcs)
    })
    passes = [
        tx.ConvertSSA(), tx.NarrowDataType(32), tx.VectorizeLoop(False), tx.UnrollLoop(),
        tx.StmtSimplify(), tx.RemoveNoOp(), st.RewriteUnsafeSelect(),
        tx.LowerWarpMemory(), tx.StmtSimplify(), tx.LowerIntrin(),
    ]  # fmt: skip
    with target, tvm.transform.PassContext(config={"tirx.disable_storage_rewrite": True}):
        lowered = tvm.transform.Sequential(passes)(module)
        lowered = tvm.IRModule({name: _exact(func, float_of)
                                for name, func in lowered.functions.items()})
        build = tvm.get_global_func(f"target.build.{target.kind.name}")
        return _declared_once(str(build(lowered, target).inspect_source()))


def _exact(func: PrimFunc, float_of: str) -> PrimFunc:
    """`func` with the constants by bits that seven digits are not enough for."""
    def written(constant: Any) -> Any:
        if str(constant.ty) != "float32":
            return constant
        value = struct.pack("<f", constant.value)
        if struct.pack("<f", float(f"{constant.value:e}")) == value:
            return constant
        return T.call_pure_extern("float32", float_of, T.uint32(int.from_bytes(value, "little")))

    return func.with_body(transformed(func.body, tirx.FloatImm, written))


def _declared_once(text: str) -> str:
    """Generators repeat the declarations of all functions before each; once is enough."""
    seen: set[str] = set()
    lines = []
    for line in text.splitlines():
        prototype = line.endswith(");") and line[:1].strip() != ""
        if not prototype or line not in seen:
            lines.append(line)
        seen.add(line)
    return "\n".join(lines) + "\n"


def build_object(
    prim_funcs: Mapping[str, PrimFunc],
    target_options: Mapping[str, Any],
    path: str | os.PathLike[str],
    checked: bool = False,
) -> Path:
    """Write one relocatable object with all kernels; the same kernels give the same bytes.

    Arguments as in ``compile_module``. Returns the path, which should end in ``.o``.
    """
    compile_module(prim_funcs, target_options, checked).write_to_file(os.fspath(path), "o")
    return Path(path)


def fingerprint(func: PrimFunc) -> int:
    """A hash of what a kernel computes, equal in every process."""
    from tvm_ffi import structural_hash

    return int(structural_hash(func))


def spills(
    prim_funcs: Mapping[str, PrimFunc], target_options: Mapping[str, Any]
) -> dict[str, int]:
    """Vector registers stored to or loaded from the stack in each kernel's assembly.

    Zero in a hot loop is the goal: spilled loops run at half speed and at a speed that depends on
    the stack's alignment. Vector locals that LLVM could not keep in registers count too.
    """
    counts = {}
    for name, func in prim_funcs.items():
        asm = compile_module({name: func}, target_options).inspect_source("asm")
        counts[name] = sum(
            ("ymm" in line or "zmm" in line) and "(%rsp" in line for line in asm.splitlines()
        )
    return counts
