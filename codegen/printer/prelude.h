/* What the text of generic kernels calls, in C11. Everything is static: kernels may be one file. */
#ifndef FIRSTLIGHT_PRELUDE
#define FIRSTLIGHT_PRELUDE
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* TIR's floor division and its remainder; the divisor is positive. */
static inline int64_t fl_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }
static inline int64_t fl_mod(int64_t a, int64_t b) { return a % b + (a % b < 0 ? b : 0); }

#define FL_PAIR(NAME, TYPE)                                                       \
    static inline TYPE fl_max_##NAME(TYPE a, TYPE b) { return a > b ? a : b; }    \
    static inline TYPE fl_min_##NAME(TYPE a, TYPE b) { return a < b ? a : b; }
FL_PAIR(f, float)
FL_PAIR(i, int64_t)
#define fl_max(a, b) _Generic((a) + (b), float: fl_max_f, default: fl_max_i)(a, b)
#define fl_min(a, b) _Generic((a) + (b), float: fl_min_f, default: fl_min_i)(a, b)

static inline float fl_as_float32(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
static inline uint32_t fl_as_uint32(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
static inline int32_t fl_as_int32(float x) { return (int32_t)fl_as_uint32(x); }
#endif
