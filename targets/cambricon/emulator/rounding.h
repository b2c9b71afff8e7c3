// Casts: rounding modes, scales of integers, saturation.
#pragma once
#include <vector>

#include "arithmetic.h"

namespace bang {
// x to an integer value.
inline double whole(double x, Rounding mode) {
    switch (mode) {
    case TZ: return std::trunc(x);
    case OZ: return x < 0 ? std::floor(x) : std::ceil(x);
    case UP: return std::ceil(x);
    case DN: return std::floor(x);
    case RD: return std::round(x);
    case RM: return x - std::floor(x) == 0.5 ? std::ceil(x) : std::round(x);
    case RN: break;
    }
    return std::nearbyint(x);
}

// x to a float of `digits` binary digits, as a double: exact, so that it is rounded once.
inline double rounded(double x, int digits, int smallest, double largest, Rounding mode) {
    if (x == 0 || !std::isfinite(x)) return x;
    int exponent = std::max(std::ilogb(x), smallest) - digits + 1;
    double y = std::ldexp(whole(std::ldexp(x, -exponent), mode), exponent);
    if (std::fabs(y) <= largest) return std::copysign(y, x);
    // beyond the largest: an architecture's own affair below 5xx, infinity by the mode from there
    bool away = mode == OZ || (mode == UP && x > 0) || (mode == DN && x < 0);
    bool nearest = mode == RD || mode == RN || mode == RM;
    double half_way = largest + std::ldexp(1.0, std::ilogb(largest) - digits);
    bool tie_is_infinite = mode != RM || x > 0;
    bool to_infinity = away || (nearest && (std::fabs(x) > half_way ||
                                            (std::fabs(x) == half_way && tie_is_infinite)));
    return std::copysign(to_infinity && flavor.arch >= 500 ? INFINITY : largest, x);
}

inline double round_to(double x, Type type, Rounding mode) {
    switch (type) {
    case Type::F32: return rounded(x, 24, -126, 3.4028234663852886e38, mode);
    case Type::F16: return rounded(x, 11, -14, 65504.0, mode);
    case Type::BF16: return rounded(x, 8, -126, 3.3895313892515355e38, mode);
    default: break;
    }
    int bits = 8 * BYTES[static_cast<int>(type)];
    bool is_signed = SIGNED & bit(type);
    double low = is_signed ? -std::ldexp(1.0, bits - 1) : 0;
    double high = std::ldexp(1.0, is_signed ? bits - 1 : bits) - 1;
    if (x != x) return 0;
    return std::min(std::max(whole(x, mode), low), high);
}
double convert_one(float x, Type to_type, Rounding mode) { return round_to(x, to_type, mode); }

template <class To, class From>
void cast(To *to, const From *from, uint32_t n, Rounding mode, int scale) {
    // What the host's own conversion does right: exact ones, and to nearest where nothing overflows.
    constexpr bool floats = !std::is_integral_v<To> && !std::is_integral_v<From>;
    constexpr bool exact = std::is_same_v<To, float>;
    constexpr double limit = floats ? (std::is_same_v<To, half> ? 32768.0 : 1e38) : 1 << 24;
    const bool plain = !scale && !std::is_integral_v<To> &&
                       (exact || (floats && mode == RN) || sizeof(From) == 1);
    for (uint32_t i = 0; i < n; ++i) {
        double x = static_cast<double>(from[i]);
        to[i] = plain && std::fabs(x) <= limit
                    ? static_cast<To>(static_cast<float>(from[i]))
                    : static_cast<To>(round_to(scale ? std::ldexp(x, scale) : x, type_of<To>(),
                                               mode));
    }
}

void run_cast(Type to_type, void *to, Type from_type, const void *from, uint32_t n, Rounding mode,
              int scale) {
    with_type(to_type, [&](auto to_zero) {
        with_type(from_type, [&](auto from_zero) {
            using To = decltype(to_zero);
            using From = decltype(from_zero);
            auto *in = static_cast<const From *>(from);
            std::vector<From> copy;         // a cast in place must not eat its source
            auto *out = static_cast<To *>(to);
            if (static_cast<void *>(out) < in + n && static_cast<const void *>(in) < out + n) {
                copy.assign(in, in + n);
                in = copy.data();
            }
            cast(out, in, n, mode, scale);
        });
    });
}
}  // namespace bang
