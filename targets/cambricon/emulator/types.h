// Element types that the host lacks: bits with conversions, rounded to nearest, ties to even.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace bang {
inline float as_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
inline uint32_t as_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
}  // namespace bang

struct half {
    uint16_t bits;
    half() = default;
    half(float x) {
        _Float16 h = static_cast<_Float16>(x);
        memcpy(&bits, &h, sizeof bits);
    }
    operator float() const {
        _Float16 h;
        memcpy(&h, &bits, sizeof h);
        return static_cast<float>(h);
    }
};

struct bfloat16_t {
    uint16_t bits;
    bfloat16_t() = default;
    bfloat16_t(float x) {
        uint32_t all = bang::as_bits(x);
        if (std::isnan(x)) {
            bits = static_cast<uint16_t>(all >> 16 | 0x40);
        } else {    // a carry into the exponent is the right rounding there, infinity included
            bits = static_cast<uint16_t>((all + 0x7FFF + (all >> 16 & 1)) >> 16);
        }
    }
    operator float() const { return bang::as_float(static_cast<uint32_t>(bits) << 16); }
};
