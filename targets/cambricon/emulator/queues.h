// Instructions: what every one of them must observe, and when it is done.
#pragma once
#include "races.h"

namespace bang {
struct Operand {
    const void *p;
    Block block;
    Space space;
    bool write;
    const char *name;
};

// What __bang_reshape_filter has made: a matrix in a layout that no document gives. It may only be
// copied to WRAM as a whole and multiplied with.
struct Reshaped {
    uintptr_t begin;
    int64_t bytes;
    Type type;
    int64_t n, k;
    Space space;
};
inline std::vector<Reshaped> reshaped;
inline std::vector<std::function<void()>> late[QUEUES];
inline uint64_t issued;
inline bool *written;               // by slot: whether a buffer was written, for the host
inline int64_t *sram_copies;        // by core: done by a memory core, left to it by others
struct Moved { int64_t bytes[SPACES][SPACES]; };
inline Moved *moved;                // by core: from which memory to which
void check_alive();

inline void drain(Queue q) {
    auto work = std::move(late[q]);
    late[q].clear();
    for (auto &act : work) act();
}

inline void wait_for(int before, int after) {
    for (int q = 0; q < QUEUES; ++q)
        if (before >> q & 1) drain(Queue(q));
    order_queues(before, after);
}

// The operand lies in one array of the right memory, from its first byte to its last.
inline const Region *need(const void *p, const Block &block, Space space, const char *what, At at) {
    auto low = reinterpret_cast<intptr_t>(p), high = low + block.bytes;
    for (int d = 0; d < 2; ++d) {
        int64_t reach = block.stride[d] * (block.count[d] - 1);
        (reach < 0 ? low : high) += reach;
    }
    const Region *r = region_of(reinterpret_cast<void *>(low));
    if (!r || r->space != space) {
        if (!job.check && r) return r;
        fail(std::string(what) + " must lie in " + SPACE[space] + ", and lies in " +
             SPACE[r ? r->space : OTHER], at);
    }
    if (high > static_cast<intptr_t>(r->end))
        fail(std::string(what) + " runs " + std::to_string(high - static_cast<intptr_t>(r->end)) +
             " bytes past the end of its " + SPACE[space] + " array", at);
    return r;
}

inline void touch_reshaped(const Operand &o, bool product, At at) {
    if (reshaped.empty()) return;
    auto begin = reinterpret_cast<uintptr_t>(o.p), end = begin + o.block.bytes;
    for (size_t i = 0; i < reshaped.size();) {
        auto &r = reshaped[i];
        bool apart = end <= r.begin || r.begin + r.bytes <= begin || r.space != o.space;
        bool itself = o.write && r.begin == begin && r.space == WRAM;
        if (apart || (product && (!o.write || itself))) {
            ++i;
        } else if (o.write) {
            reshaped.erase(reshaped.begin() + static_cast<std::ptrdiff_t>(i));
        } else {
            fail(std::string(o.name) + " is read after __bang_reshape_filter, whose layout is not "
                 "known; only a copy of the whole to WRAM and __bang_matmul may", at);
        }
    }
}

inline bool is_late(Queue q) {
    return (job.order == DMA_LATE && q != COMPUTE) || (job.order == COMPUTE_LATE && q == COMPUTE);
}

// An instruction goes to its queue. It is done at once, or as late as the syncs allow; with a seed,
// somewhere in between.
template <class F>
void issue(Queue q, At at, std::initializer_list<Operand> operands, F act, bool product = false,
           Kind writes_as = WRITE) {
    check_alive();
    if (job.check) ++clocks.count[q];
    for (auto &o : operands) {
        const Region *r = need(o.p, o.block, o.space, o.name, at);
        if (o.write && r->buffer >= 0) written[r->buffer] = true;
        if (!job.check) continue;
        touch_reshaped(o, product, at);
        record(q, o.p, o.block, o.space, o.write, at);
        if (o.space == GDRAM || o.space == SRAM)
            log_shared(o.p, o.block, o.space, o.write ? writes_as : READ, at);
    }
    if (!is_late(q)) {
        act();
        return;
    }
    late[q].push_back(std::move(act));
    if (job.seed && dice(++issued * MAX_CORES + static_cast<uint64_t>(core_index)) % 4 == 0)
        drain(q);
}

// For an instruction that gives a register: the core waits for it.
template <class F>
void issue_and_wait(At at, std::initializer_list<Operand> operands, F act) {
    issue(COMPUTE, at, operands, act);
    wait_for(COMPUTE_BIT, ALL_BITS);
}

// The compiler leaves NRAM instructions out of a memory core's code.
inline bool not_here() { return place.memory_core; }

inline bool without(At at) {        // a sync that was taken out, to see what happens
    if (!job.without_line || job.without_line != at.line) return false;
    const char *name = strrchr(at.file, '/');
    return !strcmp(name ? name + 1 : at.file, job.without_file);
}
inline bool *left_out;              // whether the sync that was taken out was ever reached

void sync(const char *, int before, int after, At at) {
    check_alive();
    if (!before || !after)
        fail("a sync without queues to wait for, or without queues that wait", at);
    if (without(at)) {
        *left_out = true;
        return;
    }
    wait_for(before, after);
}
}  // namespace bang
