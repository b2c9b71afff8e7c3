// What instructions compute, without the rules they are under: compiled by itself, for there are
// many. Floats are rounded once; roots, powers and the like are off by up to two units in the last
// place, by seed, so that no result leans on the host's library.
#pragma once
#include <algorithm>
#include <cmath>

#include "kinds.h"

namespace bang {
inline float near(float x, uint32_t) {      // of the number, not of its place: equal ones stay equal
    if (!flavor.seed || x == 0 || !std::isfinite(x)) return x;
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits += ((flavor.seed * 2654435761u + bits * 40503u) >> 13) % 5 - 2;
    memcpy(&x, &bits, sizeof x);
    return x;
}
inline float coarse(float x, uint32_t i) {      // the table functions are good to a part in 300
    return flavor.seed ? x * (1.0f + (static_cast<float>(i % 5) - 2.0f) / 1024.0f) : x;
}
inline bool is_minus_zero(float x) { return x == 0 && std::signbit(x); }
inline bool is_minus_zero(int64_t) { return false; }
inline int64_t remainder_of(int64_t x, int64_t y) { return y ? x % y : x; }

// to[i] = f(a[i], b[i mod segment], i); one value as b where the segment is 0.
template <class T, class F>
void loop(T *to, const T *a, const T *b, uint32_t n, uint32_t segment, F f) {
    if (!segment) {
        auto y = static_cast<Value<T>>(*b);
        for (uint32_t i = 0; i < n; ++i)
            to[i] = static_cast<T>(f(static_cast<Value<T>>(a[i]), y, i));
        return;
    }
    for (uint32_t s = 0; s < n; s += segment)
        for (uint32_t i = 0; i < segment; ++i)
            to[s + i] = static_cast<T>(
                f(static_cast<Value<T>>(a[s + i]), static_cast<Value<T>>(b[i]), i));
}
template <class T, class F> void bits_loop(T *to, const T *a, const T *b, uint32_t n, F f) {
    auto *out = reinterpret_cast<uint8_t *>(to);
    for (uint32_t s = 0; s < n; s += 8) {
        uint8_t byte = 0;
        for (uint32_t i = 0; i < 8; ++i)
            byte |= static_cast<uint8_t>(f(static_cast<Value<T>>(a[s + i]),
                                           static_cast<Value<T>>(b[s + i]), i) << i);
        out[s / 8] = byte;
    }
}

template <class T> void compute(Op op, T *to, const T *a, const T *b, uint32_t n, uint32_t segment) {
    constexpr int own = bit(type_of<T>());
    [[maybe_unused]] auto f = [&](auto g) { loop(to, a, b ? b : a, n, segment, g); };
    switch (op) {
#define BANG_CASE(NAME, TYPES, STATEMENT, EXPRESSION)                                       \
    case Op::v_##NAME:                                                                      \
        if constexpr ((TYPES)&own)                                                          \
            STATEMENT([](Value<T> x, [[maybe_unused]] Value<T> y,                           \
                         [[maybe_unused]] uint32_t i) { return EXPRESSION; });              \
        break;
#define BINARY(NAME, TYPES, ARCH, WITHOUT, ALIAS, ...) BANG_CASE(NAME, TYPES, f, (__VA_ARGS__))
#define BITINDEX(NAME, TYPES, ARCH, WITHOUT, ALIAS, ...) \
    BANG_CASE(NAME, TYPES, ([&](auto g) { bits_loop(to, a, b, n, g); }), (__VA_ARGS__))
#define SHIFT(...)
#define BITS(...)
#include "instructions.def"
    default: break;
    }
}
// Bits do not care what they mean: one, two or four bytes.
template <class T> void compute_bits(Op op, T *to, const T *a, const T *b, uint32_t n,
                                     uint32_t segment) {
    constexpr int own = NUMBERS;
    auto f = [&](auto g) { loop(to, a, b ? b : a, n, segment, g); };
    switch (op) {
#define BINARY(...)
#define BITINDEX(...)
#define BITS(FORM, NAME, TYPES, ARCH, WITHOUT, ALIAS, ...) \
    BANG_CASE(NAME, NUMBERS, f, (__VA_ARGS__))
#define SHIFT(NAME, TYPES, ARCH, WITHOUT, ALIAS, ...) BANG_CASE(NAME, NUMBERS, f, (__VA_ARGS__))
#include "instructions.def"
    default: break;
    }
}

void run_vector(Op op, Type type, void *to, const void *a, const void *b, uint32_t n,
                       uint32_t segment) {
    with_type(type, [&](auto zero) {
        using T = decltype(zero);
        auto *out = static_cast<T *>(to);
        auto *x = static_cast<const T *>(a), *y = static_cast<const T *>(b);
        if constexpr (std::is_integral_v<T>)
            if (ON_BITS[static_cast<int>(op)]) return compute_bits(op, out, x, y, n, segment);
        compute(op, out, x, y, n, segment);
    });
}


void run_fused(int code, Type type, void *to, const void *a, const void *b, bool b_scalar,
               const void *c, bool c_scalar, uint32_t n, uint32_t segment) {
    with_type(type, [&](auto zero) {
        using T = decltype(zero);
        auto *x = static_cast<const T *>(a), *y = static_cast<const T *>(b);
        auto *z = static_cast<const T *>(c);
        for (uint32_t i = 0; i < n; ++i) {
            Value<T> p = x[i], q = y[b_scalar ? 0 : i % segment], r = z[c_scalar ? 0 : i % segment];
            Value<T> sum;
            switch (code) {
            case 0: sum = p * q + r; break;
            case 1: sum = p * q - r; break;
            case 2: sum = (p + q) * r; break;
            case 3: sum = (p - q) * r; break;
            case 4: sum = (p + q) + r; break;
            case 5: sum = (p + q) - r; break;
            case 6: sum = (p - q) + r; break;
            default: sum = (p - q) - r; break;
            }
            if constexpr (std::is_same_v<T, float>)     // whether it rounds between is not said
                if (code < 2 && flavor.seed % 2) sum = std::fma(p, q, code ? -r : r);
            static_cast<T *>(to)[i] = static_cast<T>(sum);
        }
    });
}
}  // namespace bang
