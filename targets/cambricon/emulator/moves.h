// Copies, fills, gathers and atomics as the machine does them.
#pragma once
#include "elementwise.h"

namespace bang {
inline bool dram(Space s) { return s == GDRAM || s == LDRAM; }

inline void copy_rows(void *to, const Block &a, const void *from, const Block &b) {
    int64_t rows = a.count[0] * a.count[1];
    for (int64_t i = 0; i < rows; ++i)
        memmove(static_cast<char *>(to) + i % a.count[0] * a.stride[0] +
                    i / a.count[0] * a.stride[1],
                static_cast<const char *>(from) + i % b.count[0] * b.stride[0] +
                    i / b.count[0] * b.stride[1],
                static_cast<size_t>(a.bytes));
}

inline void check_rows(const char *name, const Block &a, const Block &b, At at) {
    if (a.bytes <= 0) fail(std::string(name) + ": a size of 0", at);
    for (int d = 0; d < 2; ++d)
        for (auto *block : {&a, &b})
            if (block->count[d] < 1 || block->count[d] > 65536)
                fail(std::string(name) + ": " + std::to_string(block->count[d]) +
                     " segments; 1 to 65536 can be", at);
    if (a.count[0] * a.count[1] != b.count[0] * b.count[1])
        fail(std::string(name) + ": as many segments must be read as are written", at);
    if (a.count[0] > 1 && std::abs(a.stride[0]) < a.bytes)
        fail(std::string(name) + ": segments of " + std::to_string(a.bytes) +
             " bytes are written " + std::to_string(a.stride[0]) + " apart", at);
}

// A reshaped filter that reaches WRAM as a whole may be multiplied with.
inline bool carries_filter(const void *to, const Block &a, Space to_space, const void *from, At at) {
    auto begin = reinterpret_cast<uintptr_t>(from);
    for (auto r : reshaped) {
        if (r.space != NRAM || r.begin != begin || to_space != WRAM) continue;
        if (a.count[0] * a.count[1] != 1 || a.bytes != r.bytes)
            fail("a reshaped filter of " + std::to_string(r.bytes) +
                 " bytes must be copied to WRAM as a whole", at);
        r.begin = reinterpret_cast<uintptr_t>(to);
        r.space = WRAM;
        touch_reshaped({to, a, WRAM, true, "the destination"}, false, at);
        reshaped.push_back(r);
        return true;
    }
    return false;
}

void copy(const char *name, bool waits, void *to, Space to_space, const Block &a, const void *from,
          Space from_space, const Block &b, At at) {
    bool on_chip = to_space >= NRAM && to_space <= SRAM && from_space >= NRAM && from_space <= SRAM;
    bool core_memory = to_space == NRAM || to_space == WRAM || from_space == NRAM ||
                       from_space == WRAM;
    if (job.check && !job.clusters && (to_space == SRAM || from_space == SRAM))
        fail(std::string(name) + ": a Block task has no SRAM", at);
    bool by_memory_core = !core_memory && (to_space == SRAM || from_space == SRAM);
    if (by_memory_core) ++sram_copies[core_index];
    if (place.memory_core ? core_memory || !by_memory_core : by_memory_core) return;
    check_rows(name, a, b, at);
    if (to_space == WRAM && from_space == WRAM) fail("WRAM cannot be copied to WRAM", at);
    for (auto [space, p] : {std::pair{to_space, static_cast<const void *>(to)}, {from_space, from}})
        if (space == WRAM && reinterpret_cast<uintptr_t>(p) % 8)
            fail(std::string(name) + ": a WRAM address must be a multiple of 8", at);
    if (job.check && to_space == from_space) {
        int64_t to_bytes = a.stride[0] * (a.count[0] - 1) + a.bytes;
        int64_t from_bytes = b.stride[0] * (b.count[0] - 1) + b.bytes;
        if (a.count[0] * a.count[1] == 1) apart(name, to, to_bytes, from, from_bytes, true, at);
    }
    // The reference: a plain copy within NRAM runs in the Compute queue, with rows in Move.
    bool plain = a.count[0] * a.count[1] == 1;
    Queue q = !on_chip ? IO : to_space == NRAM && from_space == NRAM && plain ? COMPUTE : MOVE;
    if (waits) wait_for(ALL_BITS, ALL_BITS);
    bool filter = job.check && carries_filter(to, a, to_space, from, at);
    Operand in{from, b, from_space, false, "the source"}, out{to, a, to_space, true,
                                                             "the destination"};
    in.block.bytes = a.bytes;
    moved[core_index].bytes[from_space][to_space] += a.bytes * a.count[0] * a.count[1];
    auto act = [=] { copy_rows(to, a, from, b); };
    issue(q, at, {in, out}, act, filter);
    if (waits) wait_for(ALL_BITS, ALL_BITS);
}

void move(void *to, const Block &a, const void *from, const Block &b, At at) {
    if (not_here()) return;
    check_rows("__bang_move", a, b, at);
    if (job.check && job.arch == 372 && a.count[0] > 1 && a.bytes % 128)
        fail("__bang_move: on mtp_372 segments are a multiple of 128 bytes", at);
    if (a.count[0] == 1) apart("__bang_move", to, a.bytes, from, a.bytes, true, at);
    issue(COMPUTE, at,
          {{to, a, NRAM, true, "the destination"}, {from, b, NRAM, false, "the source"}},
          [=] { copy_rows(to, a, from, b); });
}

void fill(const char *name, bool in_move, bool waits, void *to, Type type, const void *value,
          uint32_t n, const Block &block, At at) {
    if (not_here()) return;
    positive(name, n, at);
    if (job.check && type == Type::BF16 && job.arch < 500)
        fail(std::string(name) + ": mtp_" + std::to_string(job.arch) +
             " does not have it for this element type", at);
    check_rows(name, block, block, at);
    size_t size = static_cast<size_t>(BYTES[static_cast<int>(type)]);
    uint32_t bits = 0;
    memcpy(&bits, value, size);
    if (waits) wait_for(ALL_BITS, ALL_BITS);
    issue(in_move ? MOVE : COMPUTE, at, {{to, block, NRAM, true, "the destination"}}, [=] {
        for (int64_t row = 0; row < block.count[0]; ++row)
            for (uint32_t i = 0; i < n; ++i)
                memcpy(static_cast<char *>(to) + row * block.stride[0] + i * size, &bits, size);
    });
    if (waits) wait_for(ALL_BITS, ALL_BITS);
}

void fill_gdram(const char *name, bool waits, void *to, Type type, const void *value, uint32_t n,
                At at) {
    if (not_here()) return;
    positive(name, n, at);
    size_t size = static_cast<size_t>(BYTES[static_cast<int>(type)]);
    uint32_t bits = 0;
    memcpy(&bits, value, size);
    if (waits) wait_for(ALL_BITS, ALL_BITS);
    issue(IO, at, {{to, {int64_t(n * size)}, GDRAM, true, "the destination"}}, [=] {
        for (uint32_t i = 0; i < n; ++i) memcpy(static_cast<char *>(to) + i * size, &bits, size);
    });
    if (waits) wait_for(ALL_BITS, ALL_BITS);
}

// Rows at byte offsets that lie in NRAM, with a bit for each where there is a mask.
void gather(bool scatter, bool waits, void *to, const void *from, const void *offsets, int width,
            const void *mask, uint32_t size, Space to_space, Space from_space, uint32_t stride,
            uint32_t n, At at) {
    const char *name = scatter ? "__scatter" : "__gather";
    if (not_here()) return;
    if (job.check && job.arch < 592)
        fail(std::string(name) + ": mtp_" + std::to_string(job.arch) + " does not have it", at);
    if (!size || !n || n > 65535)
        fail(std::string(name) + ": 1 to 65535 segments of at least a byte", at);
    if (stride < size) fail(std::string(name) + ": a stride below the segment's size", at);
    if ((dram(to_space) && from_space == SRAM) || (to_space == SRAM && from_space == SRAM) ||
        (dram(from_space) && to_space == SRAM) || (to_space == WRAM && from_space == WRAM))
        fail(std::string(name) + " does not support this direction", at);
    Queue q = dram(to_space) || dram(from_space) ? IO : MOVE;
    if (waits) wait_for(ALL_BITS, ALL_BITS);
    // The offsets decide what is accessed, so they must be there: they are read by this queue.
    if (job.check) record(q, offsets, {int64_t(n) * width}, NRAM, false, at);
    if (!waits && is_late(COMPUTE)) drain(COMPUTE);
    need(offsets, {int64_t(n) * width}, NRAM, "the offsets", at);
    if (mask) need(mask, {(int64_t(n) + 7) / 8}, NRAM, "the mask", at);
    std::vector<uint32_t> rows(n), bytes(n);
    for (uint32_t i = 0; i < n; ++i) {
        memcpy(&bytes[i], static_cast<const char *>(offsets) + i * static_cast<size_t>(width),
               static_cast<size_t>(width));
        rows[i] = !mask || static_cast<const uint8_t *>(mask)[i / 8] >> i % 8 & 1;
    }
    auto in = [=](uint32_t i, uint32_t o) {
        return static_cast<const char *>(from) + (scatter ? int64_t(i) * stride : int64_t(o));
    };
    auto out = [=](uint32_t i, uint32_t o) {
        return static_cast<char *>(to) + (scatter ? int64_t(o) : int64_t(i) * stride);
    };
    for (uint32_t i = 0; i < n; ++i) {
        if (!rows[i]) continue;
        moved[core_index].bytes[from_space][to_space] += size;
        issue(q, at,
              {{in(i, bytes[i]), {size}, from_space, false, "the source"},
               {out(i, bytes[i]), {size}, to_space, true, "the destination"}},
              [=, o = bytes[i]] { memmove(out(i, o), in(i, o), size); });
    }
    if (waits) wait_for(ALL_BITS, ALL_BITS);
}

template <class T> T combined(Atomic op, T x, T y) {
    if constexpr (std::is_integral_v<T>) {
        switch (op) {
        case Atomic::AND: return x & y;
        case Atomic::OR: return x | y;
        case Atomic::XOR: return x ^ y;
        case Atomic::INC: return x >= y ? 0 : x + 1;
        case Atomic::DEC: return x == 0 || x > y ? y : x - 1;
        default: break;
        }
    }
    switch (op) {
    case Atomic::ADD: return static_cast<T>(x + y);
    case Atomic::MAX: return y > x ? y : x;
    case Atomic::MIN: return y < x ? y : x;
    default: return y;
    }
}
void atomic(Atomic op, Type type, void *old, void *to, const void *by, bool scalar, uint32_t n,
            At at) {
    const char *name = "__bang_atomic";
    if (not_here()) return;
    positive(name, n, at);
    int64_t size = BYTES[static_cast<int>(type)], bytes = n * size;
    if (reinterpret_cast<uintptr_t>(to) % static_cast<uintptr_t>(size))
        fail(std::string(name) + ": the address is not a multiple of the element's size", at);
    uint64_t value = 0;
    if (scalar) memcpy(&value, by, static_cast<size_t>(size));
    auto act = [=] {
        lock_atomics();
        with_type(type, [&](auto zero) {
            using T = decltype(zero);
            auto *target = static_cast<T *>(to);
            auto *y = static_cast<const T *>(scalar ? static_cast<const void *>(&value) : by);
            for (uint32_t i = 0; i < n; ++i) {
                T x = target[i];
                T z = combined(op, x, y[scalar ? 0 : i]);
                if (old) static_cast<T *>(old)[i] = x;
                target[i] = z;
            }
        });
        unlock_atomics();
    };
    Operand target{to, {bytes}, GDRAM, true, "what an atomic changes"};
    issue(IO, at, {target, old ? Operand{old, {bytes}, NRAM, true, "the old values"} : target,
                   scalar ? target : Operand{by, {bytes}, NRAM, false, "an operand"}},
          act, false, ATOMIC);
}

// One value that goes through a register: NRAM by the Compute queue, SRAM by Move, DRAM by IO.
inline void scalar_access(const void *p, int64_t bytes, bool write, At at) {
    const Region *r = region_of(p);
    if (!r) return;                     // the stack
    if (reinterpret_cast<uintptr_t>(p) + static_cast<uintptr_t>(bytes) > r->end)
        fail("a scalar access runs past the end of its array", at);
    if (r->space == WRAM) fail("scalars cannot access WRAM", at);
    Queue q = r->space == NRAM ? COMPUTE : r->space == SRAM ? MOVE : IO;
    if (is_late(q)) drain(q);
    if (write && r->buffer >= 0) written[r->buffer] = true;
    if (!job.check) return;
    ++clocks.count[q];
    Operand o{p, {bytes}, r->space, write, "a scalar"};
    touch_reshaped(o, false, at);
    record(q, p, o.block, r->space, write, at);
    if (r->space == GDRAM || r->space == SRAM)
        log_shared(p, o.block, r->space, write ? WRITE : READ, at);
    if (!write) order_queues(1 << q, ALL_BITS);     // whoever has the value has waited for it
}
void load(const void *p, int64_t bytes, Space space, At at) {
    need(p, {bytes}, space, "what is loaded", at);
}
void store(const void *p, int64_t bytes, Space space, At at) {
    need(p, {bytes}, space, "what is stored to", at);
}
}  // namespace bang
