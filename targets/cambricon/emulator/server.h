// The emulator as a program: it keeps a process per core, and does the launches that its standard
// input asks for, one a line; see `run` for the words.
#pragma once
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>
#include <sstream>

#include "library.h"
#include "moves.h"
#include "tensors.h"
#include "watch.h"

namespace bang {
Flavor flavor;
inline char *gdram;
inline pid_t parent;

template <class T> T *shared_memory(size_t bytes) {
    void *p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) exit(3);
    return static_cast<T *>(p);
}

inline void on_signal(int number, siginfo_t *info, void *) {
    char text[160];
    if (number == SIGSEGV || number == SIGBUS)
        snprintf(text, sizeof text, "an access at address %p, in no declared memory",
                 info->si_addr);
    else
        snprintf(text, sizeof text, "%s", strsignal(number));
    quit(text);
}
inline void catch_signals() {
    static char stack[1 << 16];
    stack_t alternative{};
    alternative.ss_sp = stack;
    alternative.ss_size = sizeof stack;
    sigaltstack(&alternative, nullptr);
    struct sigaction action{};
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (int number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) sigaction(number, &action, nullptr);
}

inline void begin_task() {
    forget_accesses();
    reshaped.clear();
    for (auto &queue : late) queue.clear();
    issued = 0;
    last_name = nullptr;
}

// The tasks of this core: for Block each by itself, for UnionN in rounds of all cores.
inline void run_tasks() {
    Library &lib = library(job.library);
    std::string symbol = std::string("bang_entry_") + job.symbol;
    auto *entry = reinterpret_cast<void (*)(const uint64_t *)>(dlsym(lib.handle, symbol.c_str()));
    if (!entry) quit("the library has no " + symbol);
    link_map *map = nullptr;
    dlinfo(lib.handle, RTLD_DI_LINKMAP, &map);
    library_begin = map->l_addr;
    set_regions(lib);
    uint32_t x = job.dim[0], total = x * job.dim[1] * job.dim[2];
    uint32_t abreast = job.clusters ? static_cast<uint32_t>(4 * job.clusters) : 4;
    uint32_t own = static_cast<uint32_t>(core_index / PER_CLUSTER * 4 + core_index % PER_CLUSTER);
    bool memory_core = is_memory_core(core_index);
    for (uint32_t first = 0; first < total; first += abreast) {
        uint32_t id = memory_core ? first : first + own;
        if (id >= total) break;
        place = {id, id % x, id / x % job.dim[1], id / x / job.dim[1], total, x, job.dim[1],
                 job.dim[2], static_cast<uint32_t>(cluster_index),
                 static_cast<uint32_t>(job.clusters),
                 memory_core ? 0x80 : static_cast<uint32_t>(core_index % PER_CLUSTER), 4,
                 memory_core};
        begin_task();
        poison(lib);
        if (job.clusters) meet(Gate::ALL, "");
        entry(job.slot);
        wait_for(ALL_BITS, ALL_BITS);
        if (job.clusters && first + abreast < total) meet(Gate::ALL, "");
    }
}

inline void core_process(int index) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    core_index = index;
    cluster_index = index / PER_CLUSTER;
    catch_signals();
    uint64_t seen = 0;
    for (;;) {
        pthread_mutex_lock(&control->lock);
        while (control->generation == seen || !control->member[index])
            pthread_cond_wait(&control->changed, &control->lock);
        seen = control->generation;
        job = control->job;
        flavor = {job.seed, job.arch};
        wait_for_turn();
        pthread_mutex_unlock(&control->lock);
        if (!sigsetjmp(give_up, 1)) {
            run_tasks();
            end_core();
        }
        pthread_mutex_lock(&control->lock);
        control->status[index] = Status::ENDED;
        --control->left;
        pthread_cond_broadcast(&control->changed);
        pthread_mutex_unlock(&control->lock);
    }
}

// What can only be judged when all cores have ended.
inline std::string judge(const std::vector<int> &cores) {
    if (control->failed) return control->message;
    if (!job.check) return "";
    int64_t done = 0, left = 0;
    for (int c : cores) (is_memory_core(c) ? done : left) += control->sram_copies[c];
    if (left && !done)
        return "copies between SRAM and GDRAM are done by the memory core, which returned before";
    for (int c : cores)
        if (logs[c].overflown) return "too many accesses to shared memory to look for races";
    return race(cores);
}

inline std::string launch() {
    static bool forked[MAX_CORES];
    std::vector<int> cores;
    for (int c = 0; c < MAX_CORES; ++c)
        if (job.clusters ? c < PER_CLUSTER * job.clusters
                         : c < 4 && c < int(job.dim[0] * job.dim[1] * job.dim[2]))
            cores.push_back(c);
    pthread_mutex_lock(&control->lock);
    control->job = job;
    control->failed = control->left_out = false;
    memset(control->written, 0, sizeof control->written);
    memset(control->sram_copies, 0, sizeof control->sram_copies);
    memset(control->moved, 0, sizeof control->moved);
    memset(control->member, 0, sizeof control->member);
    for (int c : cores) {
        control->member[c] = true;
        control->status[c] = Status::RUNNING;
        control->turn[c] = static_cast<int>(dice(static_cast<uint64_t>(c)) >> 8) * (job.seed != 0) *
                           64 + c;
        logs[c].used = logs[c].epoch = 0;
        logs[c].overflown = false;
        memset(logs[c].knows[0], 0, sizeof logs[c].knows[0]);
    }
    memset(names, 0, sizeof *names);
    control->left = static_cast<int>(cores.size());
    ++control->generation;
    for (int c : cores)
        if (!forked[c]) {
            forked[c] = true;
            if (fork() == 0) core_process(c);
        }
    pthread_cond_broadcast(&control->changed);
    while (control->left) {
        timespec soon{};
        clock_gettime(CLOCK_REALTIME, &soon);
        ++soon.tv_sec;
        pthread_cond_timedwait(&control->changed, &control->lock, &soon);
        if (getppid() != parent) exit(0);       // nobody waits for the answer; the cores go with us
    }
    pthread_mutex_unlock(&control->lock);
    return judge(cores);
}

// What copies and gathers moved, as "GDRAM2NRAM:BYTES," of each direction.
inline std::string traffic() {
    std::string words;
    for (int from = 0; from < SPACES; ++from)
        for (int to = 0; to < SPACES; ++to) {
            int64_t bytes = 0;
            for (auto &core : control->moved) bytes += core.bytes[from][to];
            if (bytes)
                words += std::string(SPACE[from]) + "2" + SPACE[to] + ":" + std::to_string(bytes) + ",";
        }
    return words;
}

// How much workspace a kernel asks for: library, symbol, tokens.
inline std::string workspace(std::istringstream &words) {
    std::string path, symbol;
    int64_t tokens = 0;
    words >> path >> symbol >> tokens;
    void *handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    auto *f = handle ? reinterpret_cast<int64_t (*)(int64_t)>(
                           dlsym(handle, ("bang_workspace_" + symbol).c_str())) : nullptr;
    std::string size = std::to_string(f ? f(tokens) : -1);
    if (handle) dlclose(handle);
    return size;
}

// library, symbol, clusters, x, y, z, arch, order, check, overlaps, serial, seed, the file and line of a sync
// to leave out, then the arguments: p:OFFSET:BYTES of a buffer, v:HEX of eight bytes.
inline std::string run(std::istringstream &words) {
    std::string library_path, symbol, without_file, word;
    job = {};
    if (!(words >> library_path >> symbol >> job.clusters >> job.dim[0] >> job.dim[1] >>
          job.dim[2] >> job.arch >> job.order >> job.check >> job.overlaps >> job.serial >> job.seed >>
          without_file >> job.without_line))
        return "a line that is no launch";
    snprintf(job.library, sizeof job.library, "%s", library_path.c_str());
    snprintf(job.symbol, sizeof job.symbol, "%s", symbol.c_str());
    snprintf(job.without_file, sizeof job.without_file, "%s", without_file.c_str());
    while (words >> word && job.slots < MAX_SLOTS) {
        uint64_t value = 0;
        int64_t bytes = -1;
        if (word[0] == 'p') {
            sscanf(word.c_str(), "p:%lu:%ld", &value, &bytes);
            value += reinterpret_cast<uint64_t>(gdram);
        } else {
            sscanf(word.c_str(), "v:%lx", &value);
        }
        job.slot[job.slots] = value;
        job.bytes[job.slots++] = bytes;
    }
    if (job.clusters < 0 || job.clusters > MAX_CLUSTERS) return "more clusters than the emulator has";
    if (!job.dim[0] || !job.dim[1] || !job.dim[2]) return "a launch of no tasks";
    if (job.clusters && job.dim[0] % static_cast<uint32_t>(4 * job.clusters))
        return "the tasks along x must be a multiple of " + std::to_string(4 * job.clusters);
    return launch();
}

inline int serve(int file, size_t bytes, int sram) {
    pthread_mutexattr_t mutex;
    pthread_mutexattr_init(&mutex);
    pthread_mutexattr_setpshared(&mutex, PTHREAD_PROCESS_SHARED);
    pthread_condattr_t condition;
    pthread_condattr_init(&condition);
    pthread_condattr_setpshared(&condition, PTHREAD_PROCESS_SHARED);
    parent = getppid();
    control = shared_memory<Control>(sizeof(Control));
    pthread_mutex_init(&control->lock, &mutex);
    pthread_mutex_init(&control->atomics, &mutex);
    pthread_cond_init(&control->changed, &condition);
    logs = shared_memory<Log>(sizeof(Log) * MAX_CORES);
    names = shared_memory<Names>(sizeof(Names));
    written = control->written;
    sram_copies = control->sram_copies;
    moved = control->moved;
    left_out = &control->left_out;
    sram_file = sram;
    gdram = static_cast<char *>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                                     MAP_SHARED | MAP_NORESERVE, file, 0));
    if (gdram == MAP_FAILED) return 3;
    std::string line;
    while (std::getline(std::cin, line)) {
        std::istringstream words(line);
        std::string what, buffers;
        words >> what;
        if (what == "workspace") {
            std::cout << workspace(words) << std::endl;
            continue;
        }
        std::string said = run(words);
        for (int i = 0; i < job.slots; ++i) buffers += control->written[i] ? '1' : '0';
        std::replace(said.begin(), said.end(), '\n', ' ');
        std::cout << (said.empty() ? "ok" : "failed") << '\t' << buffers << '\t'
                  << control->left_out << '\t' << traffic() << '\t' << said << std::endl;
    }
    return 0;
}
}  // namespace bang

int main(int count, char **words) {
    if (count != 4) return 2;
    return bang::serve(atoi(words[1]), strtoull(words[2], nullptr, 10), atoi(words[3]));
}
