// What elementwise instructions compute, and the rules they share. Floats are rounded once; roots,
// powers and the like are off by up to two units in the last place, by seed, so that no result
// leans on the host's library.
#pragma once
#include "queues.h"

namespace bang {
constexpr int bit(Type t) { return 1 << static_cast<int>(t); }
constexpr int FLOAT = bit(Type::F32), WIDE = FLOAT | bit(Type::BF16),
              FLOATS = WIDE | bit(Type::F16), CHARS = bit(Type::I8) | bit(Type::U8),
              SIGNED = bit(Type::I8) | bit(Type::I16) | bit(Type::I32),
              UNSIGNED = bit(Type::U8) | bit(Type::U16) | bit(Type::U32),
              INTEGERS = SIGNED | UNSIGNED, NUMBERS = INTEGERS | FLOATS;
enum Alias { ANY, FIRST, NEVER };

struct Fact { const char *name; int types, arch, without; Alias alias; };
constexpr Fact FACTS[] = {
#define BINARY(NAME, TYPES, ARCH, WITHOUT, ALIAS, ...) \
    {"__bang_" #NAME, TYPES, ARCH, WITHOUT, ALIAS},
#define SCALAR BINARY
#define CYCLE BINARY
#define UNARY BINARY
#define BITINDEX BINARY
#define SHIFT BINARY
#define BITS(FORM, ...) FORM(__VA_ARGS__)
#include "instructions.def"
#undef BINARY
#undef SCALAR
#undef CYCLE
#undef UNARY
#undef BITINDEX
#undef SHIFT
#undef BITS
};

inline void available(const Fact &fact, Type type, At at) {
    if (!job.check) return;
    if (!(fact.types & bit(type)))
        fail(std::string(fact.name) + " does not take this element type", at);
    int first = type == Type::BF16 ? 500 : bit(type) & INTEGERS ? 300 : 200;
    if (job.arch < std::max(fact.arch, first) || job.arch == fact.without)
        fail(std::string(fact.name) + ": mtp_" + std::to_string(job.arch) +
             " does not have it for this element type", at);
}
inline void positive(const char *name, int64_t n, At at) {
    if (n <= 0) fail(std::string(name) + ": a count of 0", at);
}
// The same memory may be allowed; operands that overlap by a part never are.
inline void apart(const char *name, const void *to, int64_t to_bytes, const void *from,
                  int64_t from_bytes, bool same_allowed, At at) {
    if (!job.check) return;
    auto a = reinterpret_cast<intptr_t>(to), b = reinterpret_cast<intptr_t>(from);
    if (a >= b + from_bytes || b >= a + to_bytes || (a == b && same_allowed)) return;
    fail(std::string(name) + (a == b ? ": the destination may not be this operand"
                                     : ": the destination overlaps an operand by a part"), at);
}

template <class T> using Value =
    std::conditional_t<std::is_integral_v<T>, int64_t, float>;
inline float near(float x, uint32_t i) {
    if (!job.seed || x == 0 || !std::isfinite(x)) return x;
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits += ((job.seed * 2654435761u + i * 40503u) >> 13) % 5 - 2;
    memcpy(&x, &bits, sizeof x);
    return x;
}
inline float coarse(float x, uint32_t i) {      // the table functions are good to a part in 300
    return job.seed ? x * (1.0f + (static_cast<float>(i % 5) - 2.0f) / 1024.0f) : x;
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
#define SCALAR BINARY
#define CYCLE BINARY
#define UNARY BINARY
#define BITINDEX(NAME, TYPES, ARCH, WITHOUT, ALIAS, ...) \
    BANG_CASE(NAME, TYPES, ([&](auto g) { bits_loop(to, a, b, n, g); }), (__VA_ARGS__))
#define SHIFT(...)
#define BITS(...)
#include "instructions.def"
#undef BITINDEX
    default: break;
    }
}
// Bits do not care what they mean: one, two or four bytes.
template <class T> void compute_bits(Op op, T *to, const T *a, const T *b, uint32_t n,
                                     uint32_t segment) {
    constexpr int own = NUMBERS;
    auto f = [&](auto g) { loop(to, a, b ? b : a, n, segment, g); };
    switch (op) {
#undef BINARY
#undef SHIFT
#undef BITS
#define BINARY(...)
#define BITINDEX(...)
#define BITS(FORM, NAME, TYPES, ARCH, WITHOUT, ALIAS, ...) \
    BANG_CASE(NAME, NUMBERS, f, (__VA_ARGS__))
#define SHIFT(NAME, TYPES, ARCH, WITHOUT, ALIAS, ...) BANG_CASE(NAME, NUMBERS, f, (__VA_ARGS__))
#include "instructions.def"
#undef BINARY
#undef SCALAR
#undef CYCLE
#undef UNARY
#undef BITINDEX
#undef SHIFT
#undef BITS
    default: break;
    }
}

constexpr bool ON_BITS[] = {
#define BINARY(...) false,
#define SCALAR BINARY
#define CYCLE BINARY
#define UNARY BINARY
#define BITINDEX BINARY
#define SHIFT(...) true,
#define BITS(...) true,
#include "instructions.def"
#undef BINARY
#undef SCALAR
#undef CYCLE
#undef UNARY
#undef BITINDEX
#undef SHIFT
#undef BITS
};

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
// The type that an instruction computes in: of its bits, unsigned except where signs are shifted.
inline Type computing(Op op, Type type) {
    if (!ON_BITS[static_cast<int>(op)] || op == Op::v_sra) return type;
    int bytes = BYTES[static_cast<int>(type)];
    return bytes == 4 ? Type::U32 : bytes == 2 ? Type::U16 : Type::U8;
}
inline void run_vector(Op op, Type type, void *to, const void *a, const void *b, uint32_t n,
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

void vector(Op op, Type type, void *to, const void *a, const void *b, uint32_t n, uint32_t segment,
            At at) {
    if (not_here()) return;
    const Fact &fact = FACTS[static_cast<int>(op)];
    available(fact, type, at);
    positive(fact.name, n, at);
    int64_t size = BYTES[static_cast<int>(type)], bytes = n * size;
    bool index = strstr(fact.name, "_bitindex");
    if (index && n % 8) fail(std::string(fact.name) + ": the count must be a multiple of 8", at);
    if (segment && n % segment)
        fail(std::string(fact.name) + ": " + std::to_string(segment) + " does not divide " +
             std::to_string(n), at);
    int64_t out = index ? n / 8 : bytes;
    apart(fact.name, to, out, a, bytes, fact.alias != NEVER, at);
    Type inner = computing(op, type);
    if (b && segment) {
        apart(fact.name, to, out, b, segment * size, fact.alias == ANY, at);
        issue(COMPUTE, at,
              {{to, {out}, NRAM, true, "the destination"}, {a, {bytes}, NRAM, false, "an operand"},
               {b, {segment * size}, NRAM, false, "an operand"}},
              [=] { run_vector(op, inner, to, a, b, n, segment); });
        return;
    }
    uint64_t value = 0;
    if (b) memcpy(&value, b, static_cast<size_t>(size));
    issue(COMPUTE, at,
          {{to, {out}, NRAM, true, "the destination"}, {a, {bytes}, NRAM, false, "an operand"}},
          [=] { run_vector(op, inner, to, a, b ? &value : nullptr, n, b ? 0 : segment); });
}

void shift(Op op, Type type, void *to, const void *a, uint32_t bits, uint32_t n, At at) {
    uint32_t value = std::min(bits, 32u);       // as wide as any element type
    vector(op, type, to, a, &value, n, 0, at);
}

void fuse(int code, Type type, void *to, const void *a, const void *b, bool b_scalar, const void *c,
          bool c_scalar, uint32_t n, uint32_t segment, At at) {
    if (not_here()) return;
    constexpr Fact fact = {"__bang_fusion", NUMBERS, 322, 0, FIRST};
    available(fact, type, at);
    positive(fact.name, n, at);
    if (!segment || n % segment)
        fail(std::string(fact.name) + ": " + std::to_string(segment) + " does not divide " +
             std::to_string(n), at);
    int64_t size = BYTES[static_cast<int>(type)], bytes = n * size, part = segment * size;
    apart(fact.name, to, bytes, a, bytes, true, at);
    uint64_t b_value = 0, c_value = 0;
    if (b_scalar) memcpy(&b_value, b, static_cast<size_t>(size));
    else apart(fact.name, to, bytes, b, part, true, at);
    if (c_scalar) memcpy(&c_value, c, static_cast<size_t>(size));
    else apart(fact.name, to, bytes, c, part, true, at);
    auto act = [=] {
        with_type(type, [&](auto zero) {
            using T = decltype(zero);
            auto *x = static_cast<const T *>(a);
            auto *out = static_cast<T *>(to);
            auto *y = static_cast<const T *>(b_scalar ? &b_value : b);
            auto *z = static_cast<const T *>(c_scalar ? &c_value : c);
            for (uint32_t i = 0; i < n; ++i) {
                Value<T> p = x[i], q = y[b_scalar ? 0 : i % segment], r = z[c_scalar ? 0 : i % segment];
                Value<T> first;
                switch (code) {
                case 0: first = p * q + r; break;
                case 1: first = p * q - r; break;
                case 2: first = (p + q) * r; break;
                case 3: first = (p - q) * r; break;
                case 4: first = (p + q) + r; break;
                case 5: first = (p + q) - r; break;
                case 6: first = (p - q) + r; break;
                default: first = (p - q) - r; break;
                }
                if constexpr (std::is_same_v<T, float>)     // whether it rounds between is not said
                    if (code < 2 && job.seed % 2) first = std::fma(p, q, code ? -r : r);
                out[i] = static_cast<T>(first);
            }
        });
    };
    // An operand that is a value is no memory: the destination stands in for it, once more.
    Operand none = {to, {bytes}, NRAM, true, "the destination"};
    issue(COMPUTE, at,
          {{to, {bytes}, NRAM, true, "the destination"}, {a, {bytes}, NRAM, false, "an operand"},
           b_scalar ? none : Operand{b, {part}, NRAM, false, "an operand"},
           c_scalar ? none : Operand{c, {part}, NRAM, false, "an operand"}}, act);
}
}  // namespace bang
