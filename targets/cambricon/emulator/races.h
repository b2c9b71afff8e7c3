// Races of cores: accesses to memory that cores share, which no barrier orders.
#pragma once
#include "hazards.h"

namespace bang {
enum Kind : uint8_t { READ, WRITE, ATOMIC };
struct Shared {
    Access access;                  // SRAM by its offset and cluster, so that cores agree on it
    Kind kind;
    uint32_t epoch;                 // of the core: how many barriers it had passed
    int core;
};
constexpr int64_t LOG_ROOM = 1 << 20;
constexpr int EPOCHS = 1 << 14;
struct Log {
    int64_t used;
    bool overflown;
    uint32_t epoch;
    uint32_t knows[EPOCHS][MAX_CORES];      // in each epoch, which epochs of others are past
    Shared entries[LOG_ROOM];
};
inline Log *logs;                   // one per core, in memory that all of them see
inline uintptr_t sram_begin, sram_end;

// File names where every process sees them: a library may lie elsewhere in each.
constexpr int NAMES = 64, NAME_ROOM = 128;
struct Names { char text[NAMES][NAME_ROOM]; };
inline Names *names;
inline const char *last_name, *known_name;
void lock_atomics();
void unlock_atomics();
inline const char *shared_name(const char *file) {
    if (!file || file == last_name) return file ? known_name : file;
    last_name = file;
    known_name = "a file";
    lock_atomics();
    for (auto &text : names->text)
        if (!text[0] || !strncmp(text, file, NAME_ROOM - 1)) {
            strncpy(text, file, NAME_ROOM - 1);
            known_name = text;
            break;
        }
    unlock_atomics();
    return known_name;
}

inline void log_shared(const void *p, const Block &block, Space space, Kind kind, At at) {
    static std::vector<Access> rows;
    rows.clear();
    flatten(p, block, 0, {shared_name(at.file), at.line}, rows);
    Log &log = logs[core_index];
    for (auto &a : rows) {
        if (space == SRAM)
            a.begin = a.begin - sram_begin + static_cast<uintptr_t>(SRAM_BYTES * cluster_index);
        if (log.used) {
            Shared &last = log.entries[log.used - 1];
            if (last.kind == kind && last.epoch == log.epoch && join(last.access, a)) continue;
        }
        if (log.used == LOG_ROOM) {
            log.overflown = true;
            return;
        }
        log.entries[log.used++] = {a, kind, log.epoch, core_index};
    }
}

inline bool ordered(const Shared &a, const Shared &b) {
    return logs[b.core].knows[b.epoch][a.core] > a.epoch ||
           logs[a.core].knows[a.epoch][b.core] > b.epoch;
}

// Searches the logs of the cores for two that conflict; "" or what is wrong.
inline std::string race(const std::vector<int> &cores) {
    std::vector<const Shared *> all, writes;
    for (int c : cores)
        for (int64_t i = 0; i < logs[c].used; ++i) {
            all.push_back(&logs[c].entries[i]);
            if (logs[c].entries[i].kind != READ) writes.push_back(all.back());
        }
    std::sort(writes.begin(), writes.end(), [](auto *a, auto *b) {
        return a->access.begin < b->access.begin;
    });
    std::vector<uintptr_t> reach;       // the furthest end so far: where a search may stop
    for (auto *w : writes)
        reach.push_back(std::max(w->access.end(), reach.empty() ? 0 : reach.back()));
    for (auto *a : all) {
        auto after = std::lower_bound(
            writes.begin(), writes.end(), a->access.end(),
            [](const Shared *w, uintptr_t end) { return w->access.begin < end; });
        for (auto i = after - writes.begin(); i-- > 0 && reach[i] > a->access.begin;) {
            const Shared *w = writes[i];
            if (w->core == a->core || (w->kind == ATOMIC && a->kind == ATOMIC) ||
                !overlap(a->access, w->access) || ordered(*a, *w))
                continue;
            const char *what = a->kind == READ ? " reads" : " writes";
            return name_of(a->access.at) + ": race: core " + std::to_string(a->core) + what +
                   " what core " + std::to_string(w->core) + " writes at " +
                   name_of(w->access.at) + ", and no barrier is between them";
        }
    }
    return "";
}
}  // namespace bang
