// One core as a process has it: its settings, its memory by address, and how it gives up.
#pragma once
#include <setjmp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "calls.h"

namespace bang {
enum Queue { IO, MOVE, COMPUTE, QUEUES };
enum Order { PROGRAM, DMA_LATE, COMPUTE_LATE };
inline const char *const QUEUE[] = {"IO", "Move", "Compute"};
inline const char *const SPACE[] = {"no declared memory", "NRAM", "WRAM", "SRAM", "GDRAM", "LDRAM"};
constexpr int MAX_CLUSTERS = 8, PER_CLUSTER = 5, MAX_CORES = MAX_CLUSTERS * PER_CLUSTER;
constexpr int MAX_SLOTS = 64;
constexpr int64_t SRAM_BYTES = 8 << 20;      // of address room per cluster

// What the host asks for. Clusters: 0 for Block tasks, which need none.
struct Job {
    char library[1024], symbol[128], without_file[128];
    int clusters, arch, order, check, overlaps, serial, without_line, slots;
    uint32_t dim[3], seed;
    uint64_t slot[MAX_SLOTS];
    int64_t bytes[MAX_SLOTS];       // of the buffer a slot points to; -1 for a plain value
};

struct Region {
    uintptr_t begin, end;
    Space space;
    int buffer;                      // the slot of a GDRAM buffer, else -1
};

inline Job job;
inline std::vector<Region> regions;      // by address
inline int core_index, cluster_index;
inline sigjmp_buf give_up;
Place place;

[[noreturn]] void quit(const std::string &message);

// A scalar has no line of its own: it is named by its place in the library, "@0x...".
inline std::string name_of(At at) {
    char text[32];
    snprintf(text, sizeof text, "@0x%x", static_cast<unsigned>(at.line));
    if (!at.file) return text;
    const char *name = strrchr(at.file, '/');
    return std::string(name ? name + 1 : at.file) + ":" + std::to_string(at.line);
}
[[noreturn]] inline void fail(const std::string &rule, At at) { quit(name_of(at) + ": " + rule); }

inline const Region *region_of(const void *p) {
    static const Region *last = nullptr;
    auto at = reinterpret_cast<uintptr_t>(p);
    if (last && last >= regions.data() && last < regions.data() + regions.size() &&
        last->begin <= at && at < last->end)
        return last;
    auto after = std::upper_bound(regions.begin(), regions.end(), at,
                                  [](uintptr_t a, const Region &r) { return a < r.begin; });
    if (after == regions.begin() || (after - 1)->end <= at) return nullptr;
    return last = &*(after - 1);
}
Space space_of(const void *p) {
    const Region *r = region_of(p);
    return r ? r->space : OTHER;
}

// A pseudo-random number that depends on the seed and on what is asked, never on the run.
inline uint32_t dice(uint64_t n) {
    uint64_t x = (n + 1) * 0x9E3779B97F4A7C15u ^ (uint64_t(job.seed) << 32 | job.seed);
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return static_cast<uint32_t>(x >> 32);
}
}  // namespace bang
