// BANG C as plain functions of one task: what numbers are, and no rule of the chip.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#define __mlu_global__
#define __mlu_func__ static inline
#define __nram__ static __attribute__((aligned(64)))
#define __wram__ static __attribute__((aligned(64)))
static const int taskId = 0, taskDim = 1;
static inline bool __is_mpu() { return false; }
static inline void __sync_io() {}
static inline void __sync_move() {}
static inline void __sync_compute() {}
static inline void __sync_all_ipu() {}
enum Direction { GDRAM2NRAM, NRAM2GDRAM, NRAM2WRAM };

static inline void __memcpy(void *to, const void *from, long n, Direction, long to_stride = 0,
                            long from_stride = 0, long rows = 0) {
    for (long i = 0; i <= rows; ++i)
        memcpy((char *)to + i * to_stride, (const char *)from + i * from_stride, n);
}
#define __memcpy_async __memcpy
static inline void __bang_move(void *to, const void *from, long n, long to_stride = 0,
                               long from_stride = 0, long rows = 0) {
    for (long i = 0; i <= rows; ++i)
        memmove((char *)to + i * to_stride, (const char *)from + i * from_stride, n);
}
template <class T> void __bang_write_value(void *to, long n, T value) {
    for (long i = 0; i < n; ++i) ((T *)to)[i] = value;
}
#define EACH(NAME, RESULT)                                                              \
    template <class T> void __bang_##NAME(T *to, const T *a, const T *b, long n) {      \
        for (long i = 0; i < n; ++i) { T x = a[i], y = b[i]; to[i] = RESULT; }          \
    }                                                                                   \
    template <class T, class S> void __bang_##NAME##_scalar(T *to, const T *a, S b, long n) { \
        for (long i = 0; i < n; ++i) { T x = a[i], y = (T)b; to[i] = RESULT; }          \
    }                                                                                   \
    template <class T>                                                                  \
    void __bang_cycle_##NAME(T *to, const T *a, const T *b, long n, long m) {           \
        for (long i = 0; i < n; ++i) { T x = a[i], y = b[i % m]; to[i] = RESULT; }      \
    }
EACH(add, x + y)
EACH(sub, x - y)
EACH(mul, x *y)
EACH(div, x / y)
static inline void __bang_sqrt(float *to, const float *a, long n) {
    for (long i = 0; i < n; ++i) to[i] = sqrtf(a[i]);
}
template <class T> void __bang_transpose(T *to, const T *a, long height, long width) {
    for (long i = 0; i < height; ++i)
        for (long j = 0; j < width; ++j) to[j * height + i] = a[i * width + j];
}
static inline void __bang_reshape_filter(float *to, const float *a, long n, long h, long w, long c) {
    memcpy(to, a, n * h * w * c * 4);
}
#ifndef SHUFFLED
#define SHUFFLED(n) (n)
#endif
static inline void __bang_matmul(float *to, const float *a, const float *b, long m, long k, long n) {
    for (long i = 0; i < m; ++i)
        for (long j = 0; j < n; ++j) {
            float sum = 0;
            for (long l = 0; l < k; ++l) sum += a[i * k + l] * b[SHUFFLED(j) * k + l];
            to[i * n + j] = sum;
        }
}
