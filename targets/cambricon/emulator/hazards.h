// Hazards of a core: accesses in different queues that no sync orders, found by vector clocks.
#pragma once
#include "machine.h"

namespace bang {
// Rows of bytes at a stride.
struct Access {
    uintptr_t begin;
    int64_t bytes, stride, count;
    uint32_t tick;
    At at;
    uintptr_t end() const { return begin + static_cast<uintptr_t>(stride * (count - 1) + bytes); }
};

// Rows of rows as few accesses: those that touch are one.
inline void flatten(const void *p, const Block &block, uint32_t tick, At at,
                    std::vector<Access> &out) {
    auto begin = reinterpret_cast<uintptr_t>(p);
    int64_t stride[2], count[2];
    for (int d = 0; d < 2; ++d) {
        stride[d] = block.stride[d], count[d] = block.count[d];
        if (stride[d] < 0) begin += static_cast<uintptr_t>(stride[d] * (count[d] - 1));
        stride[d] = stride[d] < 0 ? -stride[d] : stride[d];
        if (!stride[d]) count[d] = 1;
    }
    int64_t bytes = block.bytes;
    if (count[0] == 1) stride[0] = stride[1], count[0] = count[1], count[1] = 1;
    if (stride[0] <= bytes) bytes = stride[0] * (count[0] - 1) + bytes, count[0] = 1;
    if (count[0] == 1) stride[0] = stride[1], count[0] = count[1], count[1] = 1;
    if (count[1] > 1 && stride[1] == stride[0] * count[0]) count[0] *= count[1], count[1] = 1;
    if (stride[0] <= bytes) bytes = stride[0] * (count[0] - 1) + bytes, count[0] = 1;
    for (int64_t i = 0; i < count[1]; ++i)
        out.push_back({begin + static_cast<uintptr_t>(i * stride[1]), bytes,
                       count[0] == 1 ? 0 : stride[0], count[0], tick, at});
}

inline bool touches(const Access &a, uintptr_t begin, uintptr_t end) {
    if (a.end() <= begin || end <= a.begin) return false;
    if (a.count == 1) return true;
    int64_t gap = static_cast<int64_t>(begin - a.begin) - a.bytes;     // rows that end before
    int64_t first = static_cast<int64_t>(begin) < static_cast<int64_t>(a.begin) || gap < 0
                        ? 0 : gap / a.stride + 1;
    return first < a.count && a.begin + static_cast<uintptr_t>(first * a.stride) < end;
}

inline bool overlap(const Access &a, const Access &b) {
    if (a.end() <= b.begin || b.end() <= a.begin) return false;
    const Access &few = a.count <= b.count ? a : b, &many = a.count <= b.count ? b : a;
    for (int64_t i = 0; i < few.count; ++i) {
        auto begin = few.begin + static_cast<uintptr_t>(i * few.stride);
        if (touches(many, begin, begin + static_cast<uintptr_t>(few.bytes))) return true;
    }
    return false;
}

// A row that goes on where the last one ended, or repeats it one stride further, joins it.
inline bool join(Access &last, const Access &a) {
    if (last.at.line != a.at.line || last.at.file != a.at.file) return false;
    if (last.count == 1 && a.count == 1 && last.begin <= a.begin && a.begin <= last.end()) {
        last.bytes = static_cast<int64_t>(std::max(last.end(), a.end()) - last.begin);
    } else if (a.count == 1 && a.bytes == last.bytes && a.begin > last.begin &&
               (last.count == 1 || a.begin == last.begin + static_cast<uintptr_t>(last.stride *
                                                                                  last.count))) {
        if (last.count == 1) last.stride = static_cast<int64_t>(a.begin - last.begin);
        ++last.count;
    } else {
        return false;
    }
    last.tick = std::max(last.tick, a.tick);
    return true;
}

struct Clocks {
    uint32_t count[QUEUES] = {};            // instructions of each queue so far
    uint32_t after[QUEUES][QUEUES] = {};    // of each queue, those its next instruction awaits
};
inline Clocks clocks;
inline std::vector<Access> pending[QUEUES][LDRAM + 1][2];    // by space; reads, writes

// Queues in `after` wait for those in `before`, and for what these had waited for.
inline void order_queues(int before, int after) {
    Clocks old = clocks;
    for (int q = 0; q < QUEUES; ++q) {
        if (!(after >> q & 1)) continue;
        for (int p = 0; p < QUEUES; ++p) {
            if (!(before >> p & 1)) continue;
            for (int r = 0; r < QUEUES; ++r)
                clocks.after[q][r] = std::max(clocks.after[q][r], old.after[p][r]);
            clocks.after[q][p] = clocks.count[p];
        }
    }
    for (int p = 0; p < QUEUES; ++p) {
        uint32_t known = UINT32_MAX;
        for (int q = 0; q < QUEUES; ++q)
            if (q != p) known = std::min(known, clocks.after[q][p]);
        for (auto &spaces : pending[p])
            for (auto &list : spaces)
                if (!list.empty() && list.back().tick <= known) list.clear();
    }
}

// Note an access of the queue's newest instruction; two that conflict must have an order.
inline void record(Queue q, const void *p, const Block &block, Space space, bool write, At at) {
    static std::vector<Access> rows;
    rows.clear();
    flatten(p, block, clocks.count[q], at, rows);
    for (auto &a : rows) {
        for (int other = 0; other < QUEUES; ++other) {
            if (other == q) continue;
            for (int b_writes = !write; b_writes < 2; ++b_writes)
                for (auto &b : pending[other][space][b_writes])
                    if (b.tick > clocks.after[q][other] && overlap(a, b))
                        fail(std::string("hazard: the ") + QUEUE[q] + " queue " +
                             (write ? "writes" : "reads") + " " + SPACE[space] + " that the " +
                             QUEUE[other] + " queue " + (b_writes ? "writes" : "reads") + " at " +
                             name_of(b.at) + ", and no sync is between them", at);
        }
        auto &list = pending[q][space][write];
        if (list.empty() || !join(list.back(), a)) list.push_back(a);
    }
}

inline void forget_accesses() {
    clocks = {};
    for (auto &queue : pending)
        for (auto &space : queue)
            for (auto &list : space) list.clear();
}
}  // namespace bang
