"""The BANG C emulator on small kernels by hand: what they compute, and rules that they break."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pytest

from firstlight.targets.cambricon.bang_library import compilers, library
from firstlight.targets.cambricon.bang_machine import ORDERS, Outcome, Settings, machine
from support.bang import CLUSTER, HEAD, PIPELINE, PRODUCT, SUM

pytestmark = [pytest.mark.chip,
              pytest.mark.skipif(not compilers(), reason="there is no C++ compiler here")]


def launched(text: str, arguments: Sequence[object], clusters: int = 1, arch: int = 592,
             tasks: int | None = None, **settings: object) -> Outcome:
    """One launch of the kernel `k` of a text."""
    built = library({"k.mlu": (HEAD + text).encode()}, {"k": "k"})
    dim = [tasks or 4 * max(clusters, 1), 1, 1]
    return machine().launch(built, "k", clusters, dim, arguments,
                            Settings(arch, **settings))    # type: ignore[arg-type]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("clusters", [0, 1, 2])
def test_double_buffering_adds_in_every_order(order: str, clusters: int) -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 16384)).astype(np.float32)
    z = np.zeros_like(x)
    said = launched(PIPELINE, [x, y, z, np.int32(x.size)], clusters, order=order, seed=3)
    assert said.problem == ""
    np.testing.assert_array_equal(z, x + y)


@pytest.mark.parametrize("kind", ["float", "half"])
def test_a_product_goes_through_the_attested_chain(kind: str) -> None:
    dtype = {"float": np.float32, "half": np.float16}[kind]
    x = np.random.default_rng(1).normal(size=(16, 64)).astype(dtype)
    w = np.random.default_rng(2).normal(size=(64, 64)).astype(dtype)
    z = np.zeros((16, 64), np.float32)
    assert launched(f"#define T {kind}\n{PRODUCT}", [x, w, z]).problem == ""
    np.testing.assert_allclose(z, x.astype(np.float32) @ w.T.astype(np.float32), atol=2e-5)


def test_products_of_bf16_numbers_and_what_they_need() -> None:
    text = f"#define T bfloat16_t\n{PRODUCT}"
    x, w = (np.random.default_rng(seed).normal(size=(16 * seed, 64)).astype(np.float32)
            .view(np.uint32) >> 16 for seed in (1, 4))
    z, bits = np.zeros((16, 64), np.float32), [x.astype(np.uint16), w.astype(np.uint16)]
    assert launched(text, [*bits, z]).problem == ""
    a, b = ((codes << 16).view(np.float32) for codes in (x, w))
    np.testing.assert_allclose(z, a @ b.T, atol=2e-5)
    assert "__bang_reshape_filter: mtp_372 does not have it for this element type" in launched(
        text, [*bits, z], arch=372).problem
    assert "K elements of src1 must be a multiple of 64 bytes" in launched(
        text.replace("#define K 64", "#define K 16"), [*bits, z]).problem


def test_what_copies_move_is_counted_by_direction() -> None:
    x, z = np.ones(1024, np.float32), np.zeros((4, 1024), np.float32)
    assert launched(CLUSTER, [x, z]).moved == {
        "GDRAM2SRAM": 4096, "SRAM2NRAM": 4 * 4096, "NRAM2GDRAM": 4 * 4096}


@pytest.mark.parametrize("clusters", [1, 2])
def test_a_cluster_shares_what_its_memory_core_fetched(clusters: int) -> None:
    x = np.random.default_rng(3).normal(size=(clusters, 1024)).astype(np.float32)
    z = np.zeros((clusters, 4, 1024), np.float32)
    assert launched(CLUSTER, [x, z], clusters).problem == ""
    np.testing.assert_array_equal(z, x[:, None] * np.arange(1, 5, dtype=np.float32)[:, None])


def test_cores_sum_across_a_barrier() -> None:
    x = np.random.default_rng(4).normal(size=8192).astype(np.float32)
    partial, z = np.zeros(8, np.float32), np.zeros(1, np.float32)
    assert launched(SUM, [x, partial, z], 2).problem == ""
    np.testing.assert_allclose(z[0], x.astype(np.float64).sum(), rtol=1e-4)


COPY = "__memcpy(a, x, 1024, GDRAM2NRAM);\n"
FETCH = "__memcpy_async(a, x, 1024, GDRAM2NRAM);\n"
RESHAPE = "__bang_reshape_filter(g, f, 64, 1, 1, 64);\n"
# A few lines on x, y (GDRAM), a, b, c, f, g (NRAM) and w (WRAM) -> the line in it, and the rule.
BROKEN = {
    "__bang_add(a, x, b, 64);": (0, "an operand must lie in NRAM, and lies in GDRAM"),
    "__bang_add(a, b, c, 0);": (0, "__bang_add: a count of 0"),
    "__bang_write_value(g + 3840, 257, 0.0f);": (0, "runs 4 bytes past the end of its NRAM array"),
    "__bang_add(a + 1, a, b, 64);": (0, "the destination overlaps an operand by a part"),
    "__bang_floor(a, a, 64);": (0, "__bang_floor: the destination may not be this operand"),
    "__bang_transpose(a, a, 8, 8);": (0, "the destination may not be this operand"),
    "__bang_cycle_add(a, b, c, 64, 48);": (0, "__bang_cycle_add: 48 does not divide 64"),
    "__memcpy(a, x, 1024, NRAM2GDRAM);": (0, "the source must lie in NRAM, and lies in GDRAM"),
    "__memcpy(a, x, 16, GDRAM2NRAM, 8, 16, 3);": (0, "segments of 16 bytes are written 8 apart"),
    "__memcpy(g + 3840, x, 1032, GDRAM2NRAM);": (0, "runs 8 bytes past the end"),
    "float s[8];\n__bang_add(s, a, b, 8);": (1, "must lie in NRAM, and lies in no declared memory"),
    "__bang_reshape_filter(a, b, 32, 1, 1, 8);": (0, "n must be a multiple of 64"),
    "__sync_io_move_compute(false, false, false);": (0, "a sync without queues to wait for"),
    COPY + "__memcpy_async(y, a, 1024, NRAM2GDRAM);\n__bang_add(a, a, a, 256);":
        (2, "hazard: the Compute queue writes NRAM that the IO queue reads at k.mlu:"),
    FETCH + "__bang_add(b, a, a, 256);":
        (1, "hazard: the Compute queue reads NRAM that the IO queue writes at k.mlu:"),
    FETCH + "y[0] = a[3];":
        (1, "hazard: the Compute queue reads NRAM that the IO queue writes at k.mlu:"),
    "x[0] = w[3];": (0, "scalars cannot access WRAM"),
    "__memcpy(w, f, 64 * 64 * 4, NRAM2WRAM);\n__bang_matmul(a, b, w, 1, 64, 64);":
        (1, "must be a whole matrix that __bang_reshape_filter made"),
    RESHAPE + "__memcpy(w, g, 4096, NRAM2WRAM);": (1, "must be copied to WRAM as a whole"),
    RESHAPE + "__bang_add(a, a, g, 64);": (1, "whose layout is not known"),
    "__bang_div(a, b, c, 64);": (0, ""),
    FETCH + "__sync_io();\n__bang_add(b, a, a, 256);\ny[0] = b[3];": (0, ""),
    FETCH + "__sync_move();\n__bang_add(b, a, a, 256);": (2, "hazard: the Compute queue reads"),
    FETCH + "__sync_io_move_compute(true, false, false, false, false, true);\n"
    "__bang_add(b, a, a, 256);": (0, ""),
    FETCH + "__sync_io_move_compute(true, false, false, false, true, false);\n"
    "__bang_add(b, a, a, 256);": (2, "hazard: the Compute queue reads"),
    "__memcpy_async(f, x, 64, GDRAM2NRAM, 128, 64, 1);\n__bang_add(f + 16, f + 16, f + 16, 16);":
        (0, ""),
    "__memcpy_async(f, x, 64, GDRAM2NRAM, 128, 64, 1);\n__bang_add(f + 32, f + 48, f + 48, 1);":
        (1, "hazard: the Compute queue writes NRAM that the IO queue writes"),
}


def broken(which: int, arch: int = 592) -> tuple[str, int]:
    """What the emulator says about one row of `BROKEN`, and the row's first line."""
    lines = ["__nram__ float a[256], b[256], c[256], f[64 * 64], g[64 * 64];",
             "__wram__ float w[64 * 64];",
             "__mlu_global__ void k(float *x, float *y, int32_t which) {",
             "if (__is_mpu() || taskId != 0) return;"]
    for number, code in enumerate(BROKEN):
        lines.append(f"if (which == {number}) {{")
        if number == which:
            first = len(lines) + 2      # the include is a line too
        lines += [*code.split("\n"), "}"]
    x, y = (np.arange(256, dtype=np.float32) + 1 for _ in range(2))
    return launched("\n".join([*lines, "}", ""]), [x, y, np.int32(which)],
                    arch=arch).problem, first


@pytest.mark.parametrize("which", range(len(BROKEN)))
def test_a_broken_rule_names_the_line(which: int) -> None:
    line, rule = list(BROKEN.values())[which]
    said, first = broken(which)
    assert (f"k.mlu:{first + line}: " if rule else "") in said
    assert rule in said if rule else said == ""


def test_rules_of_an_architecture() -> None:
    divides = list(BROKEN).index("__bang_div(a, b, c, 64);")
    assert broken(divides)[0] == ""
    assert "mtp_372 does not have it" in broken(divides, arch=372)[0]


RACE = """
__nram__ float a[64];
__mlu_global__ void k(float *x) {
    if (__is_mpu()) return;
    __bang_write_value(a, 64, (float)taskId);
    __memcpy(x + taskId * 32, a, 256, NRAM2GDRAM);
}
"""
EARLY = CLUSTER.replace("if (__is_mpu()) {", "if (__is_mpu()) return; {")
ONE_WAITS = """
__mlu_global__ void k(float *x) {
    if (__is_mpu()) return;
    if (taskId == 2) return;
    __sync_all_ipu();
}
"""


def test_cores_that_meet_in_memory_need_a_barrier() -> None:
    assert re.search(r"k.mlu:7: race: core \d writes what core \d writes at k.mlu:7, and no",
                     launched(RACE, [np.zeros(256, np.float32)]).problem)
    lacking = SUM.replace("    __sync_all_ipu();\n", "")
    arguments = [np.zeros(4096, np.float32), np.zeros(4, np.float32), np.zeros(1, np.float32)]
    assert "race: core" in launched(lacking, arguments, serial=True).problem


def test_a_core_that_returns_early_is_named() -> None:
    said = launched(ONE_WAITS, [np.zeros(1, np.float32)]).problem     # by whoever sees it first
    assert re.search("deadlock: core . waits at a barrier, and core 2 has returned|"
                     "deadlock: core 2 has returned", said)
    said = launched(EARLY, [np.zeros(1024, np.float32), np.zeros(4096, np.float32)]).problem
    assert re.search("deadlock: core . waits at a barrier, and core 4 has returned|"
                     r"k.mlu:\d+: deadlock: core 4 has returned", said)


def test_memory_without_a_value_shows() -> None:
    for seed in (1, 2):
        x, y = np.zeros(256, np.float32), np.zeros(256, np.float32)
        launched("__nram__ float a[256];\n__mlu_global__ void k(float *x, float *y) {\n"
                 "if (__is_mpu()) return;\n__memcpy(y, a, 1024, NRAM2GDRAM);\n}", [x, y],
                 tasks=4, seed=seed, check=False)
        assert np.isnan(y).all()


CASTS = """
__nram__ float a[256];
__nram__ half h[256];
__nram__ bfloat16_t b[256];
__nram__ int32_t i[256];
__mlu_global__ void k(const float *x, half *rn, half *up, bfloat16_t *bf, int32_t *rd, int32_t *tz,
                      int32_t *rm) {
    if (__is_mpu() || taskId != 0) return;
    __memcpy(a, x, 1024, GDRAM2NRAM);
    __bang_float2half_rn(h, a, 256);
    __memcpy(rn, h, 512, NRAM2GDRAM);
    __bang_float2half_up(h, a, 256);
    __memcpy(up, h, 512, NRAM2GDRAM);
    __bang_float2bfloat16_rn(b, a, 256);
    __memcpy(bf, b, 512, NRAM2GDRAM);
    __bang_float2int32_rd(i, a, 256, 0);
    __memcpy(rd, i, 1024, NRAM2GDRAM);
    __bang_float2int32_tz(i, a, 256, 0);
    __memcpy(tz, i, 1024, NRAM2GDRAM);
    __bang_float2int32_rm(i, a, 256, -1);
    __memcpy(rm, i, 1024, NRAM2GDRAM);
}
"""


def test_casts_round_as_their_names_say() -> None:
    x = (np.arange(-128, 128) / 2 + 2.0**-13).astype(np.float32)
    x[:8] = 0.5, -0.5, 1.5, -1.5, 2.5, 65519.0, 1e-8, -1e-8
    rn, up = np.zeros(256, np.float16), np.zeros(256, np.float16)
    bf = np.zeros(256, np.uint16)
    rd, tz, rm = (np.zeros(256, np.int32) for _ in range(3))
    assert launched(CASTS, [x, rn, up, bf, rd, tz, rm]).problem == ""
    np.testing.assert_array_equal(rn, x.astype(np.float16))
    assert (up.astype(np.float64)[:5] >= x[:5]).all()
    assert up[5] == np.inf
    assert up[6] == np.float16(6e-8)
    bits = x.view(np.uint32)
    np.testing.assert_array_equal(bf, ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16))
    away = np.sign(x) * np.floor(np.abs(x.astype(np.float64)) + 0.5)
    np.testing.assert_array_equal(rd, away)
    np.testing.assert_array_equal(tz, np.trunc(x))
    twice = x.astype(np.float64) * 2
    np.testing.assert_array_equal(rm, np.where(twice % 1 == 0.5, np.ceil(twice), np.round(twice)))


def test_results_do_not_lean_on_the_hosts_mathematics() -> None:
    text = ("__nram__ float a[256];\n__mlu_global__ void k(const float *x, float *y) {\n"
            "if (__is_mpu() || taskId != 0) return;\n__memcpy(a, x, 1024, GDRAM2NRAM);\n"
            "__bang_pow2(a, a, 256);\n__memcpy(y, a, 1024, NRAM2GDRAM);\n}")
    x = np.linspace(-10, 10, 256, dtype=np.float32)
    results = []
    for seed in (0, 1, 2):
        results.append(np.zeros(256, np.float32))
        assert launched(text, [x, results[-1]], seed=seed).problem == ""
    for y in results:
        np.testing.assert_allclose(y, np.exp2(x.astype(np.float64)), rtol=3e-7)
    assert (results[0] != results[1]).any()
    assert (results[1] != results[2]).any()
