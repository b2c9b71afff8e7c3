// Element types as sets, and the part of the machine that only computes.
#pragma once
#include "calls.h"

namespace bang {
constexpr int bit(Type t) { return 1 << static_cast<int>(t); }
constexpr int FLOAT = bit(Type::F32), WIDE = FLOAT | bit(Type::BF16),
              FLOATS = WIDE | bit(Type::F16), CHARS = bit(Type::I8) | bit(Type::U8),
              SIGNED = bit(Type::I8) | bit(Type::I16) | bit(Type::I32),
              UNSIGNED = bit(Type::U8) | bit(Type::U16) | bit(Type::U32),
              INTEGERS = SIGNED | UNSIGNED, NUMBERS = INTEGERS | FLOATS;

// What a value is while it is computed with.
template <class T> using Value = std::conditional_t<std::is_integral_v<T>, int64_t, float>;

// What arithmetic may depend on: the seed, and the architecture where it overflows.
struct Flavor { uint32_t seed; int arch; };
extern Flavor flavor;

template <class F> void with_type(Type type, F f) {
    switch (type) {
    case Type::F32: return f(float{});
    case Type::F16: return f(half{});
    case Type::BF16: return f(bfloat16_t{});
    case Type::I8: return f(int8_t{});
    case Type::U8: return f(uint8_t{});
    case Type::I16: return f(int16_t{});
    case Type::U16: return f(uint16_t{});
    case Type::I32: return f(int32_t{});
    case Type::U32: return f(uint32_t{});
    }
}
constexpr bool ON_BITS[] = {
#define BINARY(...) false,
#define SHIFT(...) true,
#define BITS(...) true,
#include "instructions.def"
};

// The type that an instruction computes in: of its bits, unsigned except where signs are shifted.
inline Type computing(Op op, Type type) {
    if (!ON_BITS[static_cast<int>(op)] || op == Op::v_sra) return type;
    int bytes = BYTES[static_cast<int>(type)];
    return bytes == 4 ? Type::U32 : bytes == 2 ? Type::U16 : Type::U8;
}

void run_vector(Op, Type, void *to, const void *a, const void *b, uint32_t n, uint32_t segment);
void run_fused(int code, Type, void *to, const void *a, const void *b, bool b_scalar, const void *c,
               bool c_scalar, uint32_t n, uint32_t segment);
void run_cast(Type to_type, void *to, Type from_type, const void *from, uint32_t n, Rounding mode,
              int scale);
}  // namespace bang
