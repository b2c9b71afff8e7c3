// The machine: cores as fibers, classified memory, four queues per core, and a hazard detector.
// All cores run in one process and change places at barriers only, so a run is reproducible.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

namespace bang {
enum Queue { IO, MOVE, COMPUTE, SCALAR, QUEUES };
enum Space { OTHER, NRAM, WRAM, SRAM, GDRAM };
enum Order { PROGRAM, DMA_LATE, COMPUTE_LATE };
inline const char *const QUEUE[] = {"IO", "Move", "Compute", "Scalar"};
inline const char *const SPACE[] = {"no declared memory", "NRAM", "WRAM", "SRAM", "GDRAM"};

struct At { int line; const char *file; };
struct Region { uintptr_t begin, end; Space space; };
struct Access { uintptr_t begin, end; bool write; At at; int core; };
struct Settings { int arch = 592, tasks = 4, order = PROGRAM, check = 1; unsigned seed = 0; };

struct Core {
    int task = 0;
    bool done = false;
    ucontext_t context;
    std::vector<char> stack, nram;
    std::vector<Access> pending[QUEUES];
    std::vector<std::function<void()>> late[QUEUES];
};

inline Settings settings;
inline std::vector<Region> regions;
inline std::vector<Core> cores;
inline std::vector<Access> shared;      // of all cores since the last barrier
inline Core *core = nullptr;
inline ucontext_t host;
inline std::string failure;
inline std::function<void()> body;
inline char *private_memory = nullptr;
inline size_t private_bytes = 0;
inline bool inside = false;             // scalar accesses of the emulator itself are nobody's

[[noreturn]] inline void fail(const std::string &what, At at) {
    const char *name = strrchr(at.file, '/');
    failure = std::string(name ? name + 1 : at.file) + ":" + std::to_string(at.line) + ": " + what;
    setcontext(&host);
    __builtin_unreachable();
}

inline const Region *region_of(const void *p) {
    auto at = reinterpret_cast<uintptr_t>(p);
    for (auto &r : regions)
        if (r.begin <= at && at < r.end) return &r;
    return nullptr;
}

// The whole operand lies in one array of the memory that the instruction reads or writes.
inline void need(const void *p, int64_t bytes, Space space, const char *what, At at) {
    if (!settings.check) return;
    const Region *r = region_of(p);
    if (!r || r->space != space)
        fail(std::string(what) + " must lie in " + SPACE[space] + ", and lies in " +
             SPACE[r ? r->space : OTHER], at);
    if (reinterpret_cast<uintptr_t>(p) + bytes > r->end)
        fail(std::string(what) + " runs " +
             std::to_string(reinterpret_cast<uintptr_t>(p) + bytes - r->end) +
             " bytes past the end of its " + SPACE[space] + " array", at);
}

inline void drain(Queue q) {
    auto work = std::move(core->late[q]);
    core->late[q].clear();
    bool before = inside;
    inside = true;
    for (auto &act : work) act();
    inside = before;
}

inline void sync(Queue q) {
    drain(q);
    core->pending[q].clear();
}

inline void sync_all_queues() {
    for (int q = 0; q < QUEUES; ++q) sync(Queue(q));
}

inline void note_shared(const Access &a) {
    if (!shared.empty()) {
        Access &last = shared.back();
        if (last.core == a.core && last.write == a.write && last.at.line == a.at.line &&
            a.begin <= last.end && last.begin <= a.begin) {
            last.end = std::max(last.end, a.end);
            return;
        }
    }
    shared.push_back(a);
}

// Vector clocks of a core reduce to this: what a queue did since its last sync is unordered with
// every other queue, and ordered within its own.
inline void order(Queue q, const Access &a) {
    for (int other = 0; other < QUEUES; ++other) {
        if (other == q) continue;
        for (auto &b : core->pending[other])
            if (a.begin < b.end && b.begin < a.end && (a.write || b.write)) {
                const char *name = strrchr(b.at.file, '/');
                fail(std::string("hazard: the ") + QUEUE[q] + " queue " +
                     (a.write ? "writes" : "reads") + " what the " + QUEUE[other] + " queue " +
                     (b.write ? "writes" : "reads") + " at " + (name ? name + 1 : b.at.file) +
                     ":" + std::to_string(b.at.line) + ", and no sync is between them", a.at);
            }
    }
}

inline void record(Queue q, const void *p, int64_t bytes, bool write, At at) {
    auto begin = reinterpret_cast<uintptr_t>(p);
    Access a{begin, begin + static_cast<uintptr_t>(bytes), write, at, core->task};
    order(q, a);
    auto &list = core->pending[q];
    if (!list.empty() && list.back().write == write && list.back().at.line == at.line &&
        list.back().begin <= a.begin && a.begin <= list.back().end)
        list.back().end = std::max(list.back().end, a.end);
    else
        list.push_back(a);
    const Region *r = region_of(p);
    if (r && (r->space == GDRAM || r->space == SRAM)) note_shared(a);
}

struct Operand { const void *p; int64_t bytes; bool write; };

// An instruction goes to its queue; it is done at once, or as late as a sync allows.
inline void issue(Queue q, At at, std::initializer_list<Operand> operands,
                  std::function<void()> act) {
    if (settings.check)
        for (auto &o : operands) record(q, o.p, o.bytes, o.write, at);
    bool late = (settings.order == DMA_LATE && (q == IO || q == MOVE)) ||
                (settings.order == COMPUTE_LATE && q == COMPUTE);
    if (late) {
        core->late[q].push_back(std::move(act));
        return;
    }
    bool before = inside;
    inside = true;
    act();
    inside = before;
}

// Two cores meet in memory only across a barrier.
inline void judge_races() {
    std::vector<Access> writes;
    for (auto &a : shared)
        if (a.write) writes.push_back(a);
    std::sort(writes.begin(), writes.end(),
              [](const Access &a, const Access &b) { return a.begin < b.begin; });
    std::vector<uintptr_t> reach;       // furthest end of a write so far: where a search may stop
    for (auto &w : writes) reach.push_back(std::max(w.end, reach.empty() ? 0 : reach.back()));
    for (auto &a : shared) {
        auto after = std::lower_bound(
            writes.begin(), writes.end(), a.end,
            [](const Access &w, uintptr_t end) { return w.begin < end; });
        for (auto i = after - writes.begin(); i-- > 0 && reach[i] > a.begin;) {
            const Access &w = writes[i];
            if (w.core != a.core && w.end > a.begin)
                fail("race: task " + std::to_string(a.core) + (a.write ? " writes" : " reads") +
                     " what task " + std::to_string(w.core) + " writes at line " +
                     std::to_string(w.at.line) + ", and no barrier is between them", a.at);
        }
    }
    shared.clear();
}

inline int waiting = 0;
inline int barriers = 0;

inline void swap_in(Core &next) {
    core = &next;
    if (private_bytes) memcpy(private_memory, next.nram.data(), private_bytes);
}
inline void swap_out() {
    if (private_bytes) memcpy(core->nram.data(), private_memory, private_bytes);
}

// All cores of the launch meet. A core that has ended never comes: that is a deadlock.
inline void barrier(At at) {
    sync_all_queues();
    for (auto &c : cores)
        if (c.done) fail("deadlock: task " + std::to_string(c.task) + " ended before this", at);
    ++waiting;
    swap_out();
    Core *self = core;
    if (waiting == static_cast<int>(cores.size())) {
        if (settings.check) judge_races();
        waiting = 0;
        ++barriers;
    }
    Core *next = &cores[(self->task + 1) % cores.size()];
    swap_in(*next);
    swapcontext(&self->context, &next->context);
}

inline void run_core() {
    inside = false;
    body();
    inside = true;
    sync_all_queues();
    core->done = true;
    if (waiting) fail("deadlock: other tasks wait at a barrier that this one does not reach",
                      {0, "end of kernel"});
    size_t next = core->task + 1;
    if (next >= cores.size()) setcontext(&host);
    swap_in(cores[next]);
    setcontext(&cores[next].context);
}

// Run the body on every core; "" or what is wrong.
inline const char *launch(std::function<void()> kernel, char *nram, size_t nram_bytes) {
    failure.clear();
    shared.clear();
    waiting = 0;
    body = std::move(kernel);
    private_memory = nram;
    private_bytes = nram_bytes;
    cores.clear();
    cores.resize(settings.tasks);
    // All bits set is a NaN of every format; the other pattern is a signalling one.
    int poison = settings.seed % 2 ? 0x7F : 0xFF;
    for (int i = 0; i < settings.tasks; ++i) {
        Core &c = cores[i];
        c.task = i;
        c.stack.resize(1 << 18);
        c.nram.assign(nram_bytes, static_cast<char>(poison));
        getcontext(&c.context);
        c.context.uc_stack.ss_sp = c.stack.data();
        c.context.uc_stack.ss_size = c.stack.size();
        c.context.uc_link = nullptr;
        makecontext(&c.context, run_core, 0);
    }
    volatile bool started = false;
    getcontext(&host);
    if (!started) {
        started = true;
        swap_in(cores[0]);
        setcontext(&cores[0].context);
    }
    inside = true;
    if (failure.empty() && settings.check) {
        volatile bool judged = false;
        getcontext(&host);
        if (!judged) {
            judged = true;
            judge_races();
        }
    }
    return failure.c_str();
}
}  // namespace bang
