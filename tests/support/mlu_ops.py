"""Kernels of the public repository Cambricon/mlu-ops, made readable for a host compiler.

The folder is named by MLU_OPS; nothing of it is kept. What is rewritten in its text does not change
what a kernel does: launches lose their <<<...>>>, three kinds of inline assembly become calls,
`static` and `extern` on arrays of a memory are dropped, and the vendor's host headers are ours.
"""

from __future__ import annotations

import datetime
import functools
import json
import os
import re
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from firstlight.targets.cambricon.bang_library import HEADERS, compilers, library
from firstlight.targets.cambricon.bang_machine import Settings, machine
from support.mlu_ops_cases import CASES, Case

ROOT = Path(os.environ.get("MLU_OPS", ""))
REVISION = "73adc65d84345d536cb6679137e36eb38e83fdd5"
FLAGS = ("-D__MLU_NRAM_SIZE__=512", "-D__MLU_WRAM_SIZE__=512", "-D__MLU_SRAM_SIZE__=2048",
         "-D__BANG_ARCH__=592", "-DNDEBUG", "-fpermissive", "-include", "mlu.h")
HOST = """#pragma once
#include <bang.h>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
namespace std {
using ::ceilf; using ::floorf; using ::fabsf; using ::roundf; using ::cos; using ::sin; using ::exp;
using ::isnan; using ::ceil; using ::floor; using ::sqrt; using ::log;
}
typedef struct { unsigned x, y, z; } cnrtDim3_t;
typedef enum { cnrtFuncTypeBlock = 1, cnrtFuncTypeUnion1 = 4, cnrtFuncTypeUnion2 = 8,
               cnrtFuncTypeUnion4 = 16, cnrtFuncTypeUnion8 = 32,
               cnrtFuncTypeUnion16 = 64 } cnrtFunctionType_t;
typedef struct Queue *cnrtQueue_t;
typedef enum { cnrtSuccess } cnrtRet_t;
typedef enum { cnrtInt8 } cnrtDataType_t;
typedef struct Notifier *cnrtNotifier_t;
typedef int CNdev; typedef struct Context *CNcontext; typedef struct CNqueue_st *CNqueue;
typedef int CNresult;
"""
LOGGING = """#pragma once
#include "mlu_op.h"
#include <sstream>
struct Quiet { template <class T> Quiet &operator<<(const T &) { return *this; } };
#define LOG(...) Quiet()
#define VLOG(...) Quiet()
#define KERNEL_CHECK(...) __VA_ARGS__;
#define PARAM_CHECK(...)
#define CHECK(...) Quiet()
"""
REGISTERS = """#pragma once
// Vector registers, a family newer than the public reference: what its names say.
#include <bang.h>
#define __mlu_vector__ inline
namespace bang {
template <class T> struct Register { T lane[64 / sizeof(T)]; };
template <class T, class F> void lanes(Register<T> &r, F f) {
    for (unsigned i = 0; i < 64 / sizeof(T); ++i) r.lane[i] = f(i);
}
template <class T> T lane_of(const Register<T> &r, unsigned i) { return r.lane[i]; }
template <class T> T lane_of(const T &x, unsigned) { return x; }
}
typedef bang::Register<float> vv_float; typedef bang::Register<half> vv_half;
typedef bang::Register<int32_t> vv_int32; typedef bang::Register<uint32_t> vv_uint32;
typedef bang::Register<int16_t> vv_int16; typedef bang::Register<uint16_t> vv_uint16;
inline unsigned __vv_get_length() { return 64; }
template <class T> void __vv_move(bang::Register<T> &r, bang::same<T> x) {
    bang::lanes(r, [&](unsigned) { return x; });
}
template <class T> void __vv_index(bang::Register<T> &r, bang::same<T> a, bang::same<T> step) {
    bang::lanes(r, [&](unsigned i) { return T(a + T(i) * step); });
}
template <class T> void __vv_store(T *p, const bang::Register<T> &r, unsigned n = 64 / sizeof(T)) {
    bang::store(p, n * sizeof(T), bang::NRAM, {__FILE__, __LINE__});
    for (unsigned i = 0; i < n; ++i) p[i] = r.lane[i];
}
#define REGISTER_OP(NAME, EXPRESSION)                                                   \
    template <class T>                                                                  \
    void NAME(bang::Register<T> &r, const bang::Register<T> &a, const bang::Register<T> &b) { \
        bang::lanes(r, [&](unsigned i) { T x = a.lane[i], y = b.lane[i]; return T(EXPRESSION); }); \
    }                                                                                   \
    template <class T>                                                                  \
    void NAME(bang::Register<T> &r, const bang::Register<T> &a, bang::same<T> y) {      \
        bang::lanes(r, [&](unsigned i) { T x = a.lane[i]; return T(EXPRESSION); });     \
    }
REGISTER_OP(__vv_add, x + y)
REGISTER_OP(__vv_mul, x * y)
REGISTER_OP(__vv_mulh, (uint64_t(x) * uint64_t(y)) >> 32)
REGISTER_OP(__vv_xor, x ^ y)
inline void __vv_trixor(vv_uint32 &r, const vv_uint32 &a, const vv_uint32 &b, const vv_uint32 &c) {
    bang::lanes(r, [&](unsigned i) { return a.lane[i] ^ b.lane[i] ^ c.lane[i]; });
}
inline void __cn_vector_sin_f32(unsigned n, float *to, float *from) { __bang_sin(to, from, n); }
inline void __cn_vector_cos_f32(unsigned n, float *to, float *from) { __bang_cos(to, from, n); }
inline void __cn_vector_hypot_f32(unsigned n, float *to, float *a, float *b) {
    __bang_mul(a, a, a, n);
    __bang_mul(b, b, b, n);
    __bang_add(to, a, b, n);
    __bang_sqrt(to, to, n);
}
inline void __cn_vector_cast_f32_to_s32(unsigned n, int *to, float *from) {
    __bang_float2int32_tz(to, from, n, 0);
}
inline half __cn_scalar_sin_f16(half x) { return sin(x); }
inline half __cn_scalar_cos_f16(half x) { return cos(x); }
inline float __cn_scalar_sin_f32(float x) { return sinf(x); }
inline float __cn_scalar_cos_f32(float x) { return cosf(x); }
"""
DEVICE = """#pragma once
#include "mlu_op.h"
namespace mluop { namespace runtime {
inline int getJobLimitCapability(mluOpHandle_t) { return 4; }
inline int getClusterLimitCapability(mluOpHandle_t) { return 1; }
inline int getCoreNumOfEachUnionCapability(mluOpHandle_t) { return 4; }
} }
"""
CNNL = """#pragma once
#include "mlu_op.h"
typedef int cnnlStatus_t; typedef int cnnlOpTensorDesc_t; typedef int cnnlHandle_t;
typedef int cnnlTensorDescriptor_t; typedef int cnnlDataType_t;
typedef int cnnlTransposeDescriptor_t;
"""
PLAIN = "#pragma once\n#include \"mlu_op.h\"\n"
SHIMS = {"cnrt.h": HOST, "cn_api.h": "#pragma once\n", "cnnl.h": "#pragma once\n",
         "mlu.h": "#pragma once\n#include \"registers.h\"\n", "registers.h": REGISTERS,
         "core/logging.h": LOGGING, "core/context.h": PLAIN, "core/cnnl_helper.h": CNNL,
         "core/runtime/device.h": DEVICE, "core/gen_case.h": PLAIN}


def rewritten(text: str) -> str:
    """Text of a kernel file or header for a host compiler."""
    text = re.sub(r"<<<.*?>>>", "", text, flags=re.S)
    text = re.sub(r'\b(?:__asm__|asm)\s+volatile\s*\(\s*"sync;[^"]*"[\s:]*\)', "__sync()", text)
    text = re.sub(r'__asm__\s+volatile\(\s*"index\.vvr\.f32.*?\);',
                  "__vv_index(r_out, start_index, 1.0f);", text, flags=re.S)
    text = re.sub(r'__asm__\s+volatile\(\s*"fuse\.nram\.u32.*?\[dst_nram\] "r"\((.*?)\),\s*'
                  r'\[src_nram\] "r"\((.*?)\),\s*\[once_process_num\] "r"\((.*?)\),\s*'
                  r'\[region_length\] "r"\((.*?)\)\);',
                  r"__bang_add_scalar((uint32_t *)(\1), (uint32_t *)(\2), (uint32_t)(\4), \3);",
                  text, flags=re.S)
    text = re.sub(r"(__(?:nram|wram|mlu_shared)__)\s+static\b", r"\1", text)
    return re.sub(r"^extern\s+__wram__.*?;", "", text, flags=re.M)


@functools.cache
def folder() -> Path:
    """A copy of the repository's sources, rewritten, with our headers of the host."""
    made = Path(_OWN.name)
    for path in sorted(ROOT.rglob("*")):
        if path.suffix in (".h", ".hpp", ".mlu", ".mluh") and ".git" not in path.parts:
            to = made / path.relative_to(ROOT)
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_text(rewritten(path.read_text(errors="replace")))
    for name, text in SHIMS.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(text)
    return made


_OWN = tempfile.TemporaryDirectory(prefix="mlu-ops-")


def files() -> list[str]:
    """Every kernel file, by its path in the repository."""
    return sorted(str(p.relative_to(ROOT)) for part in ("kernels", "kernels_light")
                  for p in (ROOT / part).rglob("*.mlu"))


def refused(path: str) -> str:
    """Why the host compiler makes no object of a file, or ""."""
    done = subprocess.run(
        [*compilers()[0], "-std=gnu++17", "-w", "-fPIC", "-c", "-o", os.devnull, "-x", "c++",
         *flags(path), f"-I{HEADERS}", "-"], input=f'#include "{folder() / path}"\n', text=True,
        capture_output=True)
    errors = [line for line in done.stderr.splitlines() if "rror:" in line]
    said = "" if done.returncode == 0 else (errors or ["it says nothing"])[0]
    return said.replace(f"{folder()}/", "").replace(f"{HEADERS}/", "")


def flags(path: str) -> tuple[str, ...]:
    """For the compiler: where a file finds what it includes."""
    return (*FLAGS, f"-I{folder()}", f"-I{(folder() / path).parent}")


def wrong(case: Case, settings: Settings) -> str:
    """What a launch came to: a rule that was broken, numbers that differ, or ""."""
    path = f"kernels/{case.file}.mlu"
    built = library({"k.mlu": f'#include "{folder() / path}"\n'.encode()}, {"k": case.kernel},
                    flags=flags(path))
    arguments, expected = case.make()
    said = machine().launch(built, "k", case.clusters, [case.tasks, 1, 1], arguments, settings)
    if said.problem:
        return said.problem
    for place, want in expected.items():
        got = arguments[place].astype(np.float64)
        gap = float(np.abs(got - want).max() / np.abs(want).max())
        if not gap <= case.error:
            return f"argument {place} is off by {gap:.2g}"
    return ""


def judged(case: Case) -> dict[str, object]:
    """A case in the reference's rules; if only its overlaps break them, without that one."""
    strict = Settings(592, serial=True)
    said, overlaps = wrong(case, strict), False
    if "the destination" in said:
        said, overlaps = wrong(case, replace(strict, overlaps=True)), True
    return {"kernel": case.kernel, "right": not said, "said": said,
            "overlaps_beyond_the_reference": overlaps}


def revision() -> str:
    """The commit that the folder holds."""
    done = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True,
                          text=True)
    return done.stdout.strip() or "unknown"


def report() -> dict[str, object]:
    """All files and all cases."""
    said = {path: refused(path) or "ok" for path in files()}
    kernels = {name: judged(case) for name, case in CASES.items()}
    return {"repository": "Cambricon/mlu-ops", "revision": revision(),
            "when": datetime.date.today().isoformat(),
            "compiled": sum(s == "ok" for s in said.values()), "files": len(said),
            "kernels_right": sum(bool(k["right"]) for k in kernels.values()),
            "kernels_tried": len(kernels), "by_kernel": kernels, "by_file": said}


if __name__ == "__main__":
    print(json.dumps(report(), indent=1))
