// Vector instructions on NRAM. Each float result is rounded once; roots, powers and logarithms are
// off by up to two units in the last place, by seed, so that no result leans on the host's library.
#pragma once
#include <type_traits>

#include "machine.h"
#include "memory.h"
#include "scalar.h"
#include "types.h"

namespace bang {
template <class T> constexpr char LETTER =
    std::is_same_v<T, float> ? 'f' : std::is_same_v<T, half> ? 'h' :
    std::is_same_v<T, bfloat16_t> ? 'b' : std::is_same_v<T, int32_t> ? 'i' : '?';
struct Fact { const char *name; char element; int arch; };
inline const Fact FACTS[] = {
#define ROW(NAME, ELEMENT, ARCH) {#NAME, #ELEMENT[0], ARCH},
#include "intrinsics.def"
#undef ROW
};

inline void available(const char *name, char element, At at) {
    if (!settings.check) return;
    for (auto &f : FACTS)
        if (f.element == element && !strcmp(f.name, name)) {
            if (settings.arch < f.arch)
                fail(std::string("__bang_") + name + ": mtp_" + std::to_string(settings.arch) +
                     " does not have it for this element type", at);
            return;
        }
    fail(std::string("__bang_") + name + " has no row for this element type", at);
}

inline void whole(const char *name, const void *p, int64_t bytes, At at) {
    if (bytes <= 0) fail(std::string("__bang_") + name + ": the count must be positive", at);
    need(p, bytes, NRAM, "an operand of a vector instruction", at);
}

// In place is fine; operands that overlap by a part are not.
inline void alias(const char *name, const void *to, const void *from, int64_t bytes, At at) {
    auto a = reinterpret_cast<intptr_t>(to), b = reinterpret_cast<intptr_t>(from);
    if (a != b && a < b + bytes && b < a + bytes)
        fail(std::string("__bang_") + name + ": destination and source overlap by a part", at);
}

template <class T> auto value(T x) {
    if constexpr (std::is_integral_v<T>) return x; else return static_cast<float>(x);
}

inline float perturbed(float x, int64_t i) {
    uint32_t r = (settings.seed * 2654435761u + uint32_t(i) * 40503u) >> 13;
    if (!std::isfinite(x) || x == 0 || !settings.seed) return x;
    return as_float(as_bits(x) + r % 5 - 2);
}

template <class T, class F>
void binary(const char *name, T *to, const T *a, const T *b, int n, F f, At at) {
    last = at;
    int64_t bytes = int64_t(n) * sizeof(T);
    available(name, LETTER<T>, at);
    for (auto p : {static_cast<const T *>(to), a, b}) whole(name, p, bytes, at);
    alias(name, to, a, bytes, at);
    alias(name, to, b, bytes, at);
    issue(COMPUTE, at, {{to, bytes, true}, {a, bytes, false}, {b, bytes, false}}, [=] {
        for (int i = 0; i < n; ++i) to[i] = static_cast<T>(f(value(a[i]), value(b[i])));
    });
}

template <class T, class F>
void unary(const char *name, T *to, const T *a, int n, F f, At at) {
    last = at;
    int64_t bytes = int64_t(n) * sizeof(T);
    available(name, LETTER<T>, at);
    for (auto p : {static_cast<const T *>(to), a}) whole(name, p, bytes, at);
    alias(name, to, a, bytes, at);
    issue(COMPUTE, at, {{to, bytes, true}, {a, bytes, false}}, [=] {
        for (int i = 0; i < n; ++i) to[i] = static_cast<T>(f(value(a[i]), i));
    });
}
}  // namespace bang

#define BANG_BINARY(NAME, EXPRESSION)                                                        \
    template <class T> void __bang_##NAME(T *to, const T *a, const T *b, int n, BANG_HERE) { \
        bang::binary(#NAME, to, a, b, n, [](auto x, auto y) { return EXPRESSION; }, at);     \
    }
BANG_BINARY(add, x + y)
BANG_BINARY(sub, x - y)
BANG_BINARY(mul, x * y)
BANG_BINARY(div, x / y)
BANG_BINARY(maxequal, x > y ? x : y)
BANG_BINARY(minequal, x < y ? x : y)

#define BANG_SCALAR(NAME, EXPRESSION)                                                        \
    template <class T, class S>                                                              \
    void __bang_##NAME##_scalar(T *to, const T *a, S s, int n, BANG_HERE) {                  \
        auto y = bang::value(static_cast<T>(s));                                             \
        bang::unary(#NAME "_scalar", to, a, n, [y](auto x, int) { return EXPRESSION; }, at); \
    }
BANG_SCALAR(add, x + y)
BANG_SCALAR(sub, x - y)
BANG_SCALAR(mul, x * y)

#define BANG_UNARY(NAME, EXPRESSION)                                                          \
    template <class T> void __bang_##NAME(T *to, const T *a, int n, BANG_HERE) {              \
        bang::unary(#NAME, to, a, n, [](auto x, [[maybe_unused]] int i) { return EXPRESSION; }, at); \
    }
BANG_UNARY(abs, std::fabs(x))
BANG_UNARY(square, x * x)
BANG_UNARY(floor, std::floor(x))
BANG_UNARY(sqrt, bang::perturbed(std::sqrt(x), i))
BANG_UNARY(rsqrt, bang::perturbed(1.0f / std::sqrt(x), i))
BANG_UNARY(recip, bang::perturbed(1.0f / x, i))
BANG_UNARY(pow2, bang::perturbed(std::exp2(x), i))
BANG_UNARY(log2, bang::perturbed(std::log2(x), i))

template <class T, class S> void __bang_write_value(T *to, int n, S value, BANG_HERE) {
    bang::last = at;
    int64_t bytes = int64_t(n) * sizeof(T);
    bang::available("write_value", bang::LETTER<T>, at);
    bang::whole("write_value", to, bytes, at);
    T x = static_cast<T>(value);
    bang::issue(bang::COMPUTE, at, {{to, bytes, true}}, [=] { std::fill(to, to + n, x); });
}

inline void __bang_move(void *to, const void *from, int bytes, BANG_HERE) {
    bang::last = at;
    bang::whole("move", to, bytes, at);
    bang::whole("move", from, bytes, at);
    bang::alias("move", to, from, bytes, at);
    bang::issue(bang::COMPUTE, at, {{to, bytes, true}, {from, bytes, false}},
                [=] { memmove(to, from, bytes); });
}

// Returns a scalar, so it waits for its queue.
inline float __bang_sum(const float *a, int n, BANG_HERE) {
    bang::last = at;
    bang::available("sum", 'f', at);
    bang::whole("sum", a, int64_t(n) * 4, at);
    float total = 0;
    bang::issue(bang::COMPUTE, at, {{a, int64_t(n) * 4, false}}, [] {});
    bang::drain(bang::COMPUTE);
    bang::inside = true;
    for (int i = 0; i < n; ++i) total += a[bang::settings.seed % 2 ? n - 1 - i : i];
    bang::inside = false;
    return total;
}
