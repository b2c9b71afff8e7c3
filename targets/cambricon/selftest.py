"""A self-test for the owner of a card: conformance vectors and a program that prints JSON.

    python -m firstlight.targets.cambricon.selftest FOLDER [cambricon-mlu590]

writes kernels, ``vectors.bin`` (inputs and expected results) and ``selftest.mlu``. The first thing
that the program says is whether the matrix unit's right side lies in WRAM as we believe.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.target import Array
from firstlight.ir.interpreter import run
from firstlight.targets import find
from firstlight.targets.cambricon.build import FLAGS, together
from firstlight.targets.cambricon.chips import CHIPS
from firstlight.targets.cambricon.emit import source
from firstlight.targets.conform.cases import CONTEXT, all_cases
from firstlight.targets.conform.data import plain
from firstlight.targets.conform.execute import Run
from firstlight.targets.conform.run import RELATIVE
from firstlight.targets.conform.units import Unit, units

ALIGN = 64
KINDS = {"f": 1, "i": 2, "b": 2, "u": 2}
"""How a result is compared: by the largest difference, or byte by byte."""


@dataclass
class Vector:
    """One call: its pointers' contents before, and what results are after it (None: no result)."""

    kernel: Kernel
    before: list[Array] = field(default_factory=list)
    after: list[Array | None] = field(default_factory=list)
    tokens: int = 1


class _Recorder:
    """An executor that keeps what a kernel is given."""

    note = ""

    def __init__(self) -> None:
        self.buffers: list[Array] = []

    def run(self, symbol: str, buffers: Sequence[Array], tokens: int) -> None:
        """Keep the arrays themselves: results are recognised by their memory."""
        self.buffers = list(buffers)


def vectors(target: str, ops: tuple[str, ...] = ()) -> Iterator[Vector]:
    """One call of the first case of each op, of several tokens."""
    seen = set()
    for unit in units(find(target), all_cases(ops)):
        if unit.op not in seen and len(unit.kernels) == 1 and unit.shape == "prefill":
            seen.add(unit.op)
            yield _vector(unit)


def _vector(unit: Unit) -> Vector:
    sizes = {"B": 1, "S": 7, "C": CONTEXT}
    position = 0
    operands = list(unit.case.operands(np.random.default_rng(7), sizes, position, plain))
    recorder = _Recorder()
    done = Run(recorder, None, unit, operands, sizes)
    want = run(unit.meaning, "main", [o.value for o in operands], sizes)
    vector = Vector(unit.kernels[0], [b.copy() for b in recorder.buffers], tokens=sizes["S"])
    places = [r.ctypes.data for r in done.results]
    vector.after = [want[places.index(b.ctypes.data)].astype(b.dtype).reshape(b.shape)
                    if b.ctypes.data in places else None for b in recorder.buffers]
    return vector


def write(folder: Path, target: str = "cambricon-mlu590", ops: tuple[str, ...] = (),
          staging: bool = True) -> list[Path]:
    """Write the self-test of a target into a folder; `staging` as in `source`."""
    chip = next(c for c in CHIPS if c.name == target)
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, bytes] = {}
    data, tests, calls = bytearray(), [], []
    for number, vector in enumerate(vectors(target, ops)):
        name = vector.kernel.name
        files |= source(chip, vector.kernel, staging=staging).files
        pointers = []
        for before, after in zip(vector.before, vector.after, strict=True):
            kind = 0 if after is None else KINDS[after.dtype.kind]
            pointers.append(f"{{{_place(data, before)}, {before.nbytes}, "
                            f"{-1 if after is None else _place(data, after)}, {kind}}}")
        calls.append(_call(number, vector, files[f"{name}.mlu"].decode()))
        given = ", ".join(pointers)
        tests.append(f'    {{"{name}", {vector.tokens}, {len(pointers)}, {{{given}}}, '
                     f"{name}_workspace({vector.tokens}), call_{number}}},")
    texts = {path[:-4]: data.decode() for path, data in sorted(files.items())
             if path.endswith(".mlu")}
    files["vectors.bin"] = bytes(data)
    files["selftest.mlu"] = "\n".join([
        "// " + f"Build and run: cncc selftest.mlu -o selftest --bang-mlu-arch=mtp_{chip.arch} "
        f"{FLAGS} -DFIRSTLIGHT_LAUNCHERS -lcnrt && ./selftest > selftest.json",
        together(texts), HOST_HEAD.replace(
            "RELATIVE", f"{RELATIVE:g}"), *calls, "static const Test TESTS[] = {", *tests, "};",
        HOST_MAIN.replace("ARCH", f"mtp_{chip.arch}")]).encode()
    for path, content in files.items():
        (folder / path).write_bytes(content)
    return [folder / path for path in sorted(files)]


def _place(data: bytearray, array: Array) -> int:
    data.extend(bytes(-len(data) % ALIGN))
    at = len(data)
    data.extend(array.tobytes())
    return at


def _call(number: int, vector: Vector, text: str) -> str:
    """A function that gives a kernel its pointers, each with its type."""
    name = vector.kernel.name
    head = text.partition(f"void {name}(")[2].partition(")")[0].split(", ")
    given = [f"({word.rpartition(' ')[0]} *)p[{i}]" for i, word in enumerate(head[:-2])]
    return (f"static void call_{number}(cnrtQueue_t queue, void **p, uint8_t *workspace, "
            f"int S) {{\n    {name}_launch(queue, {', '.join([*given, 'workspace', 'S'])});\n}}")


HOST_HEAD = """
#include <cnrt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

// Column j of the right side is all j: slot i of the result says which column it holds.
__nram__ float belief_nram[12288];
__wram__ float belief_wram[4096];
extern "C" __mlu_global__ void belief(float *left, float *right, float *out) {
    if (__is_mpu()) {
        return;
    }
    if (taskId == 0) {
        float *a = belief_nram, *b = belief_nram + 4096, *c = belief_nram + 8192;
        __memcpy(a, left, 16384, GDRAM2NRAM);
        __memcpy(b, right, 16384, GDRAM2NRAM);
        __bang_reshape_filter(c, b, 64, 1, 1, 64);
        __memcpy(belief_wram, c, 16384, NRAM2WRAM);
        __bang_matmul(b, a, belief_wram, 64, 64, 64);
        __memcpy(out, b, 16384, NRAM2GDRAM);
    }
}
#ifdef FIRSTLIGHT_LAUNCHERS
extern "C" void belief_launch(cnrtQueue_t queue, float *left, float *right, float *out) {
    cnrtDim3_t dim = {4, 1, 1};
    belief<<<dim, cnrtFuncTypeUnion1, queue>>>(left, right, out);
}
#endif

struct Pointer { long before, bytes, after; int kind; };
struct Test {
    const char *name;
    int tokens, count;
    Pointer pointers[16];
    long workspace;
    void (*call)(cnrtQueue_t, void **, uint8_t *, int);
};
static const double TOLERANCE = RELATIVE;

static void *upload(const void *data, long bytes) {
    void *p = NULL;
    if (cnrtMalloc(&p, bytes ? bytes : 64) != 0) exit(2);
    if (data && cnrtMemcpy(p, (void *)data, bytes, cnrtMemcpyHostToDev) != 0) exit(2);
    return p;
}
"""
HOST_MAIN = """
static std::vector<char> blob;

// The matrix unit with an identity on the left: row 0 of the result lists the columns it sees.
static int belief_holds(cnrtQueue_t queue) {
    std::vector<float> left(4096, 0.0f), right(4096), out(4096);
    for (int i = 0; i < 64; ++i) left[i * 64 + i] = 1.0f;
    for (int n = 0; n < 64; ++n)
        for (int k = 0; k < 64; ++k) right[n * 64 + k] = (float)(n * 64 + k);
    void *a = upload(left.data(), 16384), *b = upload(right.data(), 16384);
    void *c = upload(NULL, 16384);
    belief_launch(queue, (float *)a, (float *)b, (float *)c);
    int status = cnrtQueueSync(queue);
    cnrtMemcpy(out.data(), c, 16384, cnrtMemcpyDevToHost);
    int wrong = status != 0;
    printf("  \\"wram\\": {\\"status\\": %d, \\"columns\\": [", status);
    for (int n = 0; n < 64; ++n) {
        printf("%s%d", n ? ", " : "", (int)out[n] / 64);
        for (int k = 0; k < 64; ++k) wrong |= out[k * 64 + n] != right[n * 64 + k];
    }
    printf("], \\"as_believed\\": %s},\\n", wrong ? "false" : "true");
    return !wrong;
}

static double difference(const char *got, const char *want, const Pointer &p) {
    if (p.kind == 2) return memcmp(got, want, p.bytes) ? INFINITY : 0.0;
    double most = 0.0, largest = 0.0;
    for (long i = 0; i < p.bytes / 4; ++i) {
        float a = ((const float *)got)[i], b = ((const float *)want)[i];
        if (a == b) continue;
        if (!(fabs((double)a - b) < INFINITY)) return INFINITY;
        most = fmax(most, fabs((double)a - b));
    }
    for (long i = 0; i < p.bytes / 4; ++i) {
        double b = fabs((double)((const float *)want)[i]);
        if (b < INFINITY) largest = fmax(largest, b);
    }
    return largest > 0.0 ? most / largest : most;
}

int main() {
    FILE *file = fopen("vectors.bin", "rb");
    if (!file) return fprintf(stderr, "vectors.bin is not here\\n"), 2;
    char part[65536];
    for (size_t n; (n = fread(part, 1, sizeof part, file)) > 0;)
        blob.insert(blob.end(), part, part + n);
    fclose(file);
    cnrtQueue_t queue;
    if (cnrtSetDevice(0) != 0 || cnrtQueueCreate(&queue) != 0) return 2;
    printf("{\\n  \\"arch\\": \\"ARCH\\",\\n");
    int failed = !belief_holds(queue), first = 1;
    printf("  \\"kernels\\": {");
    for (const Test &test : TESTS) {
        void *p[16];
        for (int i = 0; i < test.count; ++i)
            p[i] = upload(blob.data() + test.pointers[i].before, test.pointers[i].bytes);
        uint8_t *workspace = (uint8_t *)upload(NULL, test.workspace);
        test.call(queue, p, workspace, test.tokens);
        int status = cnrtQueueSync(queue);
        double worst = 0.0;
        for (int i = 0; i < test.count; ++i) {
            if (test.pointers[i].kind) {
                std::vector<char> got(test.pointers[i].bytes);
                cnrtMemcpy(got.data(), p[i], got.size(), cnrtMemcpyDevToHost);
                worst = fmax(worst, difference(got.data(), blob.data() + test.pointers[i].after,
                                               test.pointers[i]));
            }
            cnrtFree(p[i]);
        }
        cnrtFree(workspace);
        int good = status == 0 && worst <= TOLERANCE;
        failed += !good;
        printf("%s\\n    \\"%s\\": {\\"status\\": %d, \\"rel\\": %g, \\"ok\\": %s}",
               first ? "" : ",", test.name, status, isinf(worst) ? 1e30 : worst,
               good ? "true" : "false");
        first = 0;
    }
    printf("\\n  },\\n  \\"failed\\": %d\\n}\\n", failed);
    return failed != 0;
}
"""


if __name__ == "__main__":
    for path in write(Path(sys.argv[1]), (*sys.argv[2:3], "cambricon-mlu590")[0]):
        print(path)
