// The rules of elementwise instructions.
#pragma once
#include "kinds.h"
#include "queues.h"

namespace bang {
enum Alias { ANY, FIRST, NEVER };

struct Fact { const char *name; int types, arch, without; Alias alias; };
constexpr Fact FACTS[] = {
#define BINARY(NAME, TYPES, ARCH, WITHOUT, ALIAS, ...) \
    {"__bang_" #NAME, TYPES, ARCH, WITHOUT, ALIAS},
#include "instructions.def"
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
// The same memory may be allowed; operands that overlap by a part never are. So says the reference;
// kernels that ship do otherwise here and there, and run if the job lets them.
inline void apart(const char *name, const void *to, int64_t to_bytes, const void *from,
                  int64_t from_bytes, bool same_allowed, At at) {
    if (!job.check || job.overlaps) return;
    auto a = reinterpret_cast<intptr_t>(to), b = reinterpret_cast<intptr_t>(from);
    if (a >= b + from_bytes || b >= a + to_bytes || (a == b && same_allowed)) return;
    fail(std::string(name) + (a == b ? ": the destination may not be this operand"
                                     : ": the destination overlaps an operand by a part"), at);
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
        run_fused(code, type, to, a, b_scalar ? &b_value : b, b_scalar, c_scalar ? &c_value : c,
                  c_scalar, n, segment);
    };
    // An operand that is a value is no memory: the destination stands in for it, once more.
    Operand none = {to, {bytes}, NRAM, true, "the destination"};
    issue(COMPUTE, at,
          {{to, {bytes}, NRAM, true, "the destination"}, {a, {bytes}, NRAM, false, "an operand"},
           b_scalar ? none : Operand{b, {part}, NRAM, false, "an operand"},
           c_scalar ? none : Operand{c, {part}, NRAM, false, "an operand"}}, act);
}

void convert(const char *name, Type to_type, void *to, Type from_type, const void *from, uint32_t n,
             Rounding mode, int to_position, int from_position, bool same_allowed,
             const Block *to_block, const Block *from_block, At at) {
    if (not_here()) return;
    positive(name, n, at);
    if (std::max(std::abs(to_position), std::abs(from_position)) > 127)
        fail(std::string(name) + ": a position beyond 127", at);
    int64_t to_size = BYTES[static_cast<int>(to_type)];
    int64_t from_size = BYTES[static_cast<int>(from_type)];
    Block a = to_block ? *to_block : Block{n * to_size};
    Block b = from_block ? *from_block : Block{n * from_size};
    if (to_block && (a.stride[0] < a.bytes || a.stride[0] % to_size || b.stride[0] % from_size ||
                     (b.stride[0] && b.stride[0] < b.bytes)))
        fail(std::string(name) + ": a stride that its elements do not fit", at);
    apart(name, to, a.stride[0] * (a.count[0] - 1) + a.bytes, from,
          b.stride[0] * (b.count[0] - 1) + b.bytes, same_allowed, at);
    int scale = from_position - to_position;
    issue(to_block ? MOVE : COMPUTE, at,
          {{to, a, NRAM, true, "the destination"}, {from, b, NRAM, false, "the source"}}, [=] {
              for (int64_t row = 0; row < a.count[0]; ++row)
                  run_cast(to_type, static_cast<char *>(to) + row * a.stride[0], from_type,
                           static_cast<const char *>(from) + row * b.stride[0], n, mode, scale);
          });
}
}  // namespace bang
