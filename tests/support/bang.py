"""BANG C kernels by hand, of which each needs another part of the emulator."""

HEAD = "#include <bang.h>\n"
PIPELINE = """
#define N 256
__nram__ float a[2][N];
__nram__ float b[2][N];
__mlu_global__ void k(const float *x, const float *y, float *z, int32_t n) {
    if (__is_mpu()) {
        return;
    }
    int32_t per = n / taskDim, base = taskId * per, tiles = per / N;
    for (int32_t i = 0; i < tiles + 2; ++i) {
        if (i >= 2) {
            __memcpy_async(z + base + (i - 2) * N, a[i % 2], N * 4, NRAM2GDRAM);
        }
        if (i >= 1 && i <= tiles) {
            __bang_add(a[(i - 1) % 2], a[(i - 1) % 2], b[(i - 1) % 2], N);
        }
        __sync();
        if (i < tiles) {
            __memcpy_async(a[i % 2], x + base + i * N, N * 4, GDRAM2NRAM);
            __memcpy_async(b[i % 2], y + base + i * N, N * 4, GDRAM2NRAM);
        }
        __sync();
    }
}
"""
PRODUCT = """
#define M 4
#define K 64
#define N 64
__nram__ T left[M * K];
__nram__ T right[N * K];
__nram__ T reshaped[N * K];
__nram__ float out[M * N];
__wram__ T filter[N * K];
__mlu_global__ void k(const T *x, const T *w, float *z) {
    if (__is_mpu()) {
        return;
    }
    __memcpy_async(left, x + taskId * M * K, M * K * sizeof(T), GDRAM2NRAM);
    __memcpy_async(right, w, N * K * sizeof(T), GDRAM2NRAM);
    __sync_io();
    __bang_reshape_filter(reshaped, right, N, 1, 1, K);
    __sync_compute();
    __memcpy_async(filter, reshaped, N * K * sizeof(T), NRAM2WRAM);
    __sync_move();
    __bang_matmul(out, left, filter, M, K, N);
    __sync_compute();
    __memcpy_async(z + taskId * M * N, out, M * N * 4, NRAM2GDRAM);
    __sync_io();
}
"""
CLUSTER = """
#define N 1024
__mlu_shared__ float staged[N];
__nram__ float part[N];
__mlu_global__ void k(const float *x, float *z) {
    if (__is_mpu()) {
        __memcpy(staged, x + clusterId * N, N * 4, GDRAM2SRAM);
    }
    __sync_cluster();
    if (__is_ipu()) {
        __memcpy(part, staged, N * 4, SRAM2NRAM);
        __bang_mul_scalar(part, part, (float)(coreId + 1), N);
        __memcpy(z + taskId * N, part, N * 4, NRAM2GDRAM);
    }
}
"""
SUM = """
#define N 1024
__nram__ float part[N];
__nram__ float total[32];
__mlu_global__ void k(const float *x, float *partial, float *z) {
    if (__is_mpu()) {
        return;
    }
    __memcpy(part, x + taskId * N, N * 4, GDRAM2NRAM);
    __bang_sumpool(total, part, 1, 1, N, 1, N);
    __memcpy(partial + taskId, total, 4, NRAM2GDRAM);
    __sync_all_ipu();
    if (taskId == 0) {
        __memcpy(part, partial, taskDim * 4, GDRAM2NRAM);
        __bang_sumpool(total, part, 1, 1, taskDim, 1, taskDim);
        __memcpy(z, total, 4, NRAM2GDRAM);
    }
}
"""
# Three stages over SRAM: the memory core fetches ahead while cores work on the tile before.
STAGES = """
#define N 256
__mlu_shared__ float staged[2 * N * 4];
__nram__ float tile[N];
__nram__ float result[N];
__mlu_global__ void k(const float *x, float *z, int32_t n) {
    int32_t rounds = n / (4 * N);
    for (int32_t r = 0; r < rounds + 1; ++r) {
        if (__is_mpu() && r < rounds) {
            __memcpy_async(staged + r % 2 * 4 * N, x + r * 4 * N, 4 * N * 4, GDRAM2SRAM);
        }
        if (__is_ipu() && r > 0) {
            __memcpy_async(tile, staged + (r - 1) % 2 * 4 * N + coreId * N, N * 4, SRAM2NRAM);
            __sync_move();
            __bang_mul(result, tile, tile, N);
            __sync_compute();
            __memcpy_async(z + (r - 1) * 4 * N + coreId * N, result, N * 4, NRAM2GDRAM);
            __sync_io();
        }
        __sync_cluster();
    }
}
"""
# The last sync is for nothing: what it orders is ordered by the queue itself.
SPARE = """
__nram__ float a[256];
__mlu_global__ void k(const float *x, float *y) {
    if (__is_mpu() || taskId != 0) {
        return;
    }
    __memcpy_async(a, x, 1024, GDRAM2NRAM);
    __sync_io();
    __bang_add(a, a, a, 256);
    __sync_compute();
    __bang_add(a, a, a, 256);
    __sync_compute();
    __memcpy_async(y, a, 1024, NRAM2GDRAM);
    if (x == y) {
        __sync_move();
    }
}
"""
