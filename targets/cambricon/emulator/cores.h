// Cores among themselves: turns, barriers, deadlocks, and the memory that says where each one is.
#pragma once
#include <pthread.h>

#include "queues.h"

namespace bang {
enum class Status { IDLE, RUNNING, PARKED, ENDED };

struct Control {
    pthread_mutex_t lock, atomics;
    pthread_cond_t changed;
    uint64_t generation;
    Job job;
    bool member[MAX_CORES], failed, written[MAX_SLOTS], left_out;
    Status status[MAX_CORES];
    Gate gate[MAX_CORES];
    int turn[MAX_CORES], left;
    int64_t sram_copies[MAX_CORES];
    Moved moved[MAX_CORES];
    char message[4096];
};
inline Control *control;
inline bool is_memory_core(int core) { return core % PER_CLUSTER == PER_CLUSTER - 1; }

[[noreturn]] void quit(const std::string &message) {
    pthread_mutex_lock(&control->lock);
    if (!control->failed) {
        control->failed = true;
        snprintf(control->message, sizeof control->message, "%s", message.c_str());
    }
    pthread_cond_broadcast(&control->changed);
    pthread_mutex_unlock(&control->lock);
    siglongjmp(give_up, 1);
}
[[noreturn]] inline void quit_locked(const std::string &message) {
    pthread_mutex_unlock(&control->lock);
    quit(message);
}
void check_alive() {
    if (*static_cast<volatile bool *>(&control->failed)) siglongjmp(give_up, 1);
}
void lock_atomics() { pthread_mutex_lock(&control->atomics); }
void unlock_atomics() { pthread_mutex_unlock(&control->atomics); }

inline bool belongs(Gate gate, int core) {
    if (!control->member[core]) return false;
    bool near = core / PER_CLUSTER == cluster_index;
    switch (gate) {
    case Gate::CLUSTER: return near;
    case Gate::ALL: return true;
    case Gate::ALL_IPU: return !is_memory_core(core);
    case Gate::ALL_MPU: return is_memory_core(core);
    case Gate::CLUSTER_IPU: return near && !is_memory_core(core);
    }
    return false;
}

// In turns, a core runs when none before it can; so a run does not depend on the host's scheduler.
inline void wait_for_turn() {
    auto others_first = [] {
        if (!job.serial) return false;
        for (int c = 0; c < MAX_CORES; ++c)
            if (control->member[c] && control->turn[c] < control->turn[core_index] &&
                control->status[c] == Status::RUNNING)
                return true;
        return false;
    };
    while (!control->failed && others_first())
        pthread_cond_wait(&control->changed, &control->lock);
}

// Those that met know what each of them had done; nothing older is of interest if all met.
inline void pass_barrier(const std::vector<int> &met) {
    bool all = true;
    std::vector<int> cores;
    for (int c = 0; c < MAX_CORES; ++c) {
        if (!control->member[c]) continue;
        cores.push_back(c);
        bool here = std::find(met.begin(), met.end(), c) != met.end();
        if (!here && (control->status[c] != Status::ENDED || logs[c].used)) all = false;
    }
    if (all) {
        std::string found = race(cores);
        if (!found.empty()) quit_locked(found);
        for (int c : cores) {
            logs[c].used = logs[c].epoch = 0;
            memset(logs[c].knows[0], 0, sizeof logs[c].knows[0]);
        }
        return;
    }
    uint32_t known[MAX_CORES] = {};
    for (int c : met) {
        for (int d = 0; d < MAX_CORES; ++d)
            known[d] = std::max(known[d], logs[c].knows[logs[c].epoch][d]);
        known[c] = std::max(known[c], logs[c].epoch + 1);
    }
    for (int c : met) {
        if (++logs[c].epoch == EPOCHS)
            quit_locked("more than " + std::to_string(EPOCHS) + " barriers of some cores only");
        memcpy(logs[c].knows[logs[c].epoch], known, sizeof known);
    }
}

inline void meet(Gate gate, const std::string &where) {
    pthread_mutex_lock(&control->lock);
    control->status[core_index] = Status::PARKED;
    control->gate[core_index] = gate;
    std::vector<int> met;
    int missing = -1;
    bool anyone_runs = false;
    for (int c = 0; c < MAX_CORES; ++c) {
        anyone_runs |= control->member[c] && control->status[c] == Status::RUNNING;
        if (!belongs(gate, c)) continue;
        if (control->status[c] == Status::PARKED && control->gate[c] == gate) met.push_back(c);
        else if (control->status[c] == Status::ENDED || missing < 0) missing = c;
    }
    if (missing < 0) {
        if (job.check && !where.empty()) pass_barrier(met);
        for (int c : met) control->status[c] = Status::RUNNING;
    } else if (control->status[missing] == Status::ENDED || !anyone_runs) {
        quit_locked(where + "deadlock: core " + std::to_string(missing) +
                    (control->status[missing] == Status::ENDED ? " has returned"
                                                               : " waits at another barrier"));
    }
    pthread_cond_broadcast(&control->changed);
    while (control->status[core_index] == Status::PARKED && !control->failed)
        pthread_cond_wait(&control->changed, &control->lock);
    wait_for_turn();
    pthread_mutex_unlock(&control->lock);
    check_alive();
}

void barrier(const char *name, Gate gate, At at) {
    check_alive();
    if (without(at)) {
        *left_out = true;
        return;
    }
    if (!job.clusters) fail(std::string(name) + ": a Block task has no one to wait for", at);
    if (!belongs(gate, core_index)) return;
    wait_for(ALL_BITS, ALL_BITS);
    meet(gate, name_of(at) + ": ");
}

// A core that has ended will never come to a barrier where others wait.
inline void end_core() {
    pthread_mutex_lock(&control->lock);
    control->status[core_index] = Status::ENDED;
    bool anyone_runs = false;
    int waiting = -1;
    for (int c = 0; c < MAX_CORES; ++c) {
        if (!control->member[c]) continue;
        anyone_runs |= control->status[c] == Status::RUNNING;
        if (control->status[c] == Status::PARKED) waiting = c;
    }
    if (waiting >= 0 && !anyone_runs && !control->failed)
        quit_locked("deadlock: core " + std::to_string(waiting) +
                    " waits at a barrier, and core " + std::to_string(core_index) +
                    " has returned");
    pthread_cond_broadcast(&control->changed);
    pthread_mutex_unlock(&control->lock);
}
}  // namespace bang
