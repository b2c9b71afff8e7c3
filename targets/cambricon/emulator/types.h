// Element types. half is the host's; g++ 12 has no bfloat16, so that is bits with conversions.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>

using half = _Float16;

struct bfloat16_t {
    uint16_t bits;
    bfloat16_t() = default;
    bfloat16_t(float x) {
        uint32_t all;
        memcpy(&all, &x, sizeof all);
        if (x != x)
            bits = static_cast<uint16_t>(all >> 16 | 0x40);
        else    // a carry into the exponent is the right rounding there, infinity included
            bits = static_cast<uint16_t>((all + 0x7FFF + (all >> 16 & 1)) >> 16);
    }
    operator float() const {
        uint32_t all = static_cast<uint32_t>(bits) << 16;
        float x;
        memcpy(&x, &all, sizeof x);
        return x;
    }
};

namespace bang {
enum class Type : uint8_t { F32, F16, BF16, I8, U8, I16, U16, I32, U32 };
constexpr int BYTES[] = {4, 2, 2, 1, 1, 2, 2, 4, 4};
enum Rounding { TZ, OZ, UP, DN, RD, RM, RN };    // rd is half away from zero, rm half up

template <class T> constexpr Type type_of() {
    using U = std::remove_cv_t<T>;
    if constexpr (std::is_same_v<U, float>) return Type::F32;
    else if constexpr (std::is_same_v<U, half>) return Type::F16;
    else if constexpr (std::is_same_v<U, bfloat16_t>) return Type::BF16;
    else {
        static_assert(std::is_integral_v<U> && sizeof(U) <= 4, "no vector has this element type");
        constexpr Type types[] = {Type::I8, Type::U8, Type::I16, Type::U16, Type::I32, Type::U32};
        return types[(sizeof(U) == 4 ? 4 : sizeof(U) == 2 ? 2 : 0) + std::is_unsigned_v<U>];
    }
}

template <class T> struct Same { using type = T; };      // a parameter that deduces nothing
template <class T> using same = typename Same<T>::type;

// Where the kernel calls an instruction: the last argument of each, filled in by the compiler.
struct At { const char *file; int line; };
}  // namespace bang
#define BANG_AT bang::At at = {__builtin_FILE(), __builtin_LINE()}
