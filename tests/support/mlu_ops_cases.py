"""What public kernels are launched with, and what numpy says they should give."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Arguments = list[Any]


@dataclass(frozen=True)
class Case:
    """One launch of one kernel.

    kernel    C++ expression of it
    make      its arguments (results among them), and what the arrays should be, by place
    clusters  of the launch; 0 for Block tasks
    error     largest difference, over the largest value that is expected
    """

    file: str
    kernel: str
    make: Callable[[], tuple[Arguments, Mapping[int, Any]]]
    clusters: int = 0
    tasks: int = 4
    error: float = 1e-5


def normal(*shape: int, dtype: Any = np.float32) -> Any:
    """Normal numbers, the same each time."""
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(dtype)


def unary(function: Callable[[Any], Any], dtype: Any, *rest: Any, n: int = 30011,
          positive: bool = False, out: Any = None) -> Callable[[], tuple[Arguments, Any]]:
    """(x, y, count, ...) of an elementwise kernel."""
    def make() -> tuple[Arguments, Any]:
        x = normal(n)
        x = (np.abs(x) + 0.1 if positive else x).astype(dtype)
        y = np.zeros(n, out or dtype)
        wide = x.astype(np.float64) if np.isrealobj(x) else x
        return [x, y, np.uint64(n), *rest], {1: function(wide)}

    return make


def binary(function: Callable[[Any, Any], Any], dtype: Any) -> Callable[[], tuple[Arguments, Any]]:
    """(x, y, z, count) of an elementwise kernel; x is not near zero, y neither."""
    def make() -> tuple[Arguments, Any]:
        n = 20011
        x, y = ((np.abs(normal(k)[:n]) + 0.5).astype(dtype) for k in (n, n + 1))
        return [x, y, np.zeros(n, dtype), np.uint64(n)], {2: function(x.astype(np.float64),
                                                                      y.astype(np.float64))}

    return make


def complex_abs() -> tuple[Arguments, Any]:
    x = (normal(5003) + 1j * normal(5003)[::-1]).astype(np.complex64)
    return [x, np.zeros(5003, np.float32), np.uint64(5003)], {1: np.abs(x)}


def moe(what: str, samples: int = 48) -> Callable[[], tuple[Arguments, Any]]:
    """Tokens sent to experts, and back: each has its own place."""
    def make() -> tuple[Arguments, Any]:
        capacity, hidden, experts = 16, 517, 6
        rng = np.random.default_rng(5)
        indices = rng.integers(0, experts, samples).astype(np.int32)
        locations = np.array([np.sum(indices[:s] == indices[s]) for s in range(samples)], np.int32)
        indices[1] = -1         # dropped
        rows = indices * capacity + locations
        kept = (indices >= 0) & (locations < capacity)
        gates, x = normal(samples), normal(samples, hidden)
        sent = normal(experts * capacity, hidden)
        sizes = [np.int32(v) for v in (samples, capacity, hidden, experts)]
        route = [indices, locations]
        if what == "forward":
            want = np.zeros_like(sent)
            want[rows[kept]] += gates[kept, None] * x[kept]
            return [gates, *route, x, *sizes, np.zeros_like(sent)], {8: want}
        if what == "data":
            want = np.zeros_like(x)
            want[kept] = gates[kept, None] * sent[rows[kept]]
            return [gates, *route, sent, *sizes, np.zeros_like(x)], {8: want}
        want = np.zeros(samples, np.float32)
        want[kept] = (x[kept] * sent[rows[kept]]).sum(-1)
        room = [np.zeros((8, samples), np.float32)] if what == "gate1" else []
        arguments = [*route, x, sent, *sizes, *room, np.zeros(samples, np.float32)]
        return arguments, {len(arguments) - 1: want}

    return make


def tin_shift(rest: tuple[int, ...] = ()) -> Callable[[], tuple[Arguments, Any]]:
    def make() -> tuple[Arguments, Any]:
        batch, time, channel, hw, groups = 3, 8, 16, 20, 4
        x = normal(batch, time, channel, hw)
        shifts = np.random.default_rng(1).integers(-4, 5, (batch, groups)).astype(np.int32)
        want = np.zeros_like(x)
        for b in range(batch):
            for c in range(channel):
                for t in range(time):
                    source = t - shifts[b, c // (channel // groups)]
                    if 0 <= source < time:
                        want[b, t, c] = x[b, source, c]
        sizes = [np.int32(v) for v in (batch, time, channel, hw, groups, channel // groups, *rest)]
        return [x, shifts, np.zeros_like(x), *sizes, np.int32(2)], {2: want}

    return make


def logspace() -> tuple[Arguments, Any]:
    want = 2.0 ** np.linspace(-3, 5, 1001)
    return [np.float32(-3), np.float32(5), np.int64(1001), np.float32(2),
            np.zeros(1001, np.float32)], {4: want}


def mask_fill() -> tuple[Arguments, Any]:
    x = np.random.default_rng(2).integers(-1, 9, (7003, 3)).astype(np.int32)
    want = np.where((x < 0).any(-1, keepdims=True), -1, x)
    return [np.int32(len(x)), x], {1: want}


def interpolate(backward: bool) -> Callable[[], tuple[Arguments, Any]]:
    def make() -> tuple[Arguments, Any]:
        b, c, m, n = 2, 37, 50, 61
        index = np.random.default_rng(3).integers(0, m, (b, n, 3)).astype(np.int32)
        weight = np.random.default_rng(4).random((b, n, 3)).astype(np.float32)
        sizes = [np.uint32(v) for v in (b, c, m, n, 32, 32, 32)]
        if not backward:
            x = normal(b, c, m)
            want = sum(np.take_along_axis(x, index[:, None, :, k].repeat(c, 1), 2) *
                       weight[:, None, :, k] for k in range(3))
            return [x, index, weight, *sizes, np.zeros((b, c, n), np.float32)], {10: want}
        grad, want = normal(b, c, n), np.zeros((b, c, m))
        for i in range(b):
            for j in range(n):
                for k in range(3):
                    want[i, :, index[i, j, k]] += grad[i, :, j] * weight[i, j, k]
        return [grad, index, weight, *sizes, np.zeros((b, c, m), np.float32)], {10: want}

    return make


def ball_query() -> tuple[Arguments, Any]:
    b, n, m, nsample, low, high = 2, 300, 40, 5, 0.2, 1.0
    centres, points = normal(b, m, 3), normal(b, n, 3)
    want = np.zeros((b, m, nsample), np.int32)
    for i in range(b):
        for j in range(m):
            d = ((centres[i, j] - points[i]) ** 2).sum(-1)
            near = np.flatnonzero((d == 0) | ((d >= low**2) & (d < high**2)))[:nsample]
            if near.size:
                want[i, j] = near[0]
                want[i, j, : near.size] = near
    sizes = [np.uint32(b), np.uint32(n), np.uint32(m), np.float32(low), np.float32(high),
             np.int32(nsample)]
    return [*sizes, centres, points, np.zeros_like(want)], {8: want}


def voxel_pooling() -> tuple[Arguments, Any]:
    b, n, c, grid = 2, 200, 24, (8, 6, 1)
    rng = np.random.default_rng(6)
    where = np.stack([rng.integers(-1, size + 1, (b, n)) for size in grid], -1).astype(np.int32)
    x, want = normal(b, n, c), np.zeros((b, grid[1], grid[0], c))
    memo = np.full((b, n, 3), -1, np.int32)
    wanted = memo.copy()
    for i in range(b):
        for j in range(n):
            px, py, pz = where[i, j]
            if 0 <= px < grid[0] and 0 <= py < grid[1] and 0 <= pz < grid[2]:
                want[i, py, px] += x[i, j]
                wanted[i, j] = i, py, px
    sizes = [np.int32(v) for v in (b, n, c, *grid)]
    return [*sizes, where, x, np.zeros(want.shape, np.float32), memo], {8: want, 9: wanted}


lgamma = np.vectorize(math.lgamma, otypes=[np.float64])
K3 = "MLUBlockKernel3StagePipeline"
CASES = {
    "log float": Case("log/log_union1", f"{K3}LogFloat<float, float, float>", unary(
        np.log, np.float32, np.float32(math.log(2)), positive=True)),
    "log half": Case("log/log_union1", f"{K3}LogHalf<half, half, float>", unary(
        np.log, np.float16, np.float32(math.log(2)), positive=True), error=2e-3),
    "sqrt float": Case("sqrt/sqrt_union1", f"{K3}SqrtFast<float, float>", unary(
        np.sqrt, np.float32, positive=True)),
    "sqrt half": Case("sqrt/sqrt_union1", f"{K3}SqrtHighAcc<half, half>", unary(
        np.sqrt, np.float16, positive=True), error=2e-3),
    "sqrt backward float": Case(
        "sqrt/sqrt_union1", f"{K3}SqrtBackwardFast<float, float, float>",
        binary(lambda y, d: d * 0.5 / y, np.float32)),
    "sqrt backward half": Case(
        "sqrt/sqrt_union1", f"{K3}SqrtBackwardHighAcc<half, half, half>",
        binary(lambda y, d: d * 0.5 / y, np.float16), error=2e-3),
    "abs float": Case("abs/abs_block", f"{K3}AbsFloat<float, float>", unary(np.abs, np.float32)),
    "abs half": Case("abs/abs_block", f"{K3}AbsHalfBfloat16<half, half>", unary(
        np.abs, np.float16)),
    "abs complex": Case("abs/abs_block", "MLUBlockKernel3StagePipelineComplexAbsComplexFloat"
                        "<double, float>", complex_abs),
    "div float": Case("div/div_union1", "MLUBlockKernel5StagePipelineDivFloat<float, float, float>",
                      binary(lambda a, b: a / b, np.float32), clusters=1),
    "div half": Case("div/div_union1", "MLUBlockKernel5StagePipelineDivHalf<half, half, half>",
                     binary(lambda a, b: a / b, np.float16), clusters=1, error=2e-3),
    "lgamma float": Case("lgamma/lgamma_block", f"{K3}LgammaFloat<float, float>", unary(
        lgamma, np.float32, n=3001, positive=True), error=1e-4),
    "lgamma half": Case("lgamma/lgamma_block", f"{K3}LgammaHalf<half, half>", unary(
        lgamma, np.float16, n=3001, positive=True), error=4e-3),
    "moe forward": Case("moe_dispatch/moe_dispatch_forward/moe_dispatch_forward_block",
                        "MLUKernelMoeDispatchFwd<float>", moe("forward")),
    "moe data 1": Case("moe_dispatch/moe_dispatch_backward_data/moe_dispatch_backward_data_union1",
                       "MLUKernelMoeDispatchBwdData1<float>", moe("data", 3), clusters=2, tasks=8),
    "moe data 2": Case("moe_dispatch/moe_dispatch_backward_data/moe_dispatch_backward_data_union1",
                       "MLUKernelMoeDispatchBwdData2<float>", moe("data"), clusters=1),
    "moe gate 1": Case("moe_dispatch/moe_dispatch_backward_gate/moe_dispatch_backward_gate_union1",
                       "MLUKernelMoeDispatchBwdGate1<float>", moe("gate1", 3), clusters=2, tasks=8),
    "moe gate 2": Case("moe_dispatch/moe_dispatch_backward_gate/moe_dispatch_backward_gate_union1",
                       "MLUKernelMoeDispatchBwdGate2<float>", moe("gate2"), clusters=1),
    "tin shift": Case("tin_shift/tin_shift_union1", "mluUnion1TinShift", tin_shift(), clusters=1),
    "tin shift in pieces": Case("tin_shift/tin_shift_union1", "mluUnion1TinShiftSplitSequence",
                                tin_shift((4, 16)), clusters=1),
    "logspace": Case("logspace/logspace_block", "MLUKernelLogspace<float>", logspace, error=1e-4),
    "mask fill": Case(
        "dynamic_point_to_voxel/dynamic_point_to_voxel_forward/dynamic_point_to_voxel_mask_block",
        "MLUKernelMaskFillCoorsForward", mask_fill),
    "interpolate": Case("three_interpolate/three_interpolate_union1",
                        "MLUKernelThreeInterpolateForward<float>", interpolate(False), clusters=1),
    "interpolate backward": Case(
        "three_interpolate/three_interpolate_union1", "MLUKernelThreeInterpolateBackward<float>",
        interpolate(True), clusters=1),
    "ball query": Case("ball_query/ball_query_union1", "MLUUnion1KernelBallQuery<float>",
                       ball_query, clusters=1),
    "voxel pooling": Case("voxel_pooling_forward/voxel_pooling_forward_union1",
                          "MLUKernelVoxelPoolingForward", voxel_pooling, clusters=1),
}
