// A kernel's library in a core: its arrays, what they are filled with, its entry.
#pragma once
#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>

#include <fstream>
#include <map>

#include "cores.h"

namespace bang {
struct Array {
    Space space;
    uintptr_t begin;
    int64_t bytes;
    std::vector<char> image;        // where the kernel initialises it
};
struct Library {
    void *handle;
    std::vector<Array> arrays;
};
inline int sram_file = -1;
constexpr size_t MOST_LIBRARIES = 64;       // loaded at once: each holds its arrays in every core

// Beside the library lies the list of its arrays: the memory, offset and bytes of each.
inline Library &library(const std::string &path) {
    static std::map<std::string, Library> known;
    auto found = known.find(path);
    if (found != known.end()) return found->second;
    if (known.size() == MOST_LIBRARIES) {
        for (auto &[_, old] : known) dlclose(old.handle);
        known.clear();
    }
    Library made{dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL), {}};
    if (!made.handle) quit(std::string("the library of the kernel: ") + dlerror());
    link_map *map = nullptr;
    dlinfo(made.handle, RTLD_DI_LINKMAP, &map);
    std::ifstream list(path + ".arrays");
    std::string word;
    uint64_t offset = 0;
    int64_t bytes = 0;
    while (list >> word >> offset >> bytes) {
        Array array{};
        for (int s = NRAM; s <= LDRAM; ++s)
            if (word == SPACE[s]) array.space = Space(s);
        array.begin = map->l_addr + offset;
        array.bytes = bytes;
        auto *data = reinterpret_cast<char *>(array.begin);
        if (std::any_of(data, data + bytes, [](char c) { return c != 0; }))
            array.image.assign(data, data + bytes);
        made.arrays.push_back(std::move(array));
    }
    // SRAM: every core of a cluster sees the same pages where its own library has its arrays.
    uintptr_t low = UINTPTR_MAX, high = 0;
    for (auto &a : made.arrays)
        if (a.space == SRAM) {
            low = std::min(low, a.begin);
            high = std::max(high, (a.begin + static_cast<uintptr_t>(a.bytes) + 4095) & ~4095ul);
        }
    if (high && mmap(reinterpret_cast<void *>(low), high - low, PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_FIXED, sram_file, SRAM_BYTES * cluster_index) == MAP_FAILED)
        quit("SRAM cannot be mapped");
    return known.emplace(path, std::move(made)).first->second;
}

// Memory has no value at the start: a NaN of every float format, which of two goes by the seed.
inline void poison(const Library &lib) {
    for (auto &a : lib.arrays) {
        auto *data = reinterpret_cast<uint8_t *>(a.begin);
        if (a.space == SRAM && core_index % PER_CLUSTER) continue;
        if (!a.image.empty()) {
            memcpy(data, a.image.data(), a.image.size());
            continue;
        }
        memset(data, 0xFF, static_cast<size_t>(a.bytes));
        if (job.seed % 2)
            for (int64_t i = 1; i < a.bytes; i += 2) data[i] = 0x7F;
    }
}

inline void set_regions(const Library &lib) {
    regions.clear();
    sram_begin = UINTPTR_MAX;
    for (auto &a : lib.arrays) {
        regions.push_back({a.begin, a.begin + static_cast<uintptr_t>(a.bytes), a.space, -1});
        if (a.space == SRAM) sram_begin = std::min(sram_begin, a.begin);
    }
    for (int i = 0; i < job.slots; ++i)
        if (job.bytes[i] >= 0)
            regions.push_back({job.slot[i], job.slot[i] + static_cast<uintptr_t>(job.bytes[i]),
                               GDRAM, i});
    std::sort(regions.begin(), regions.end(),
              [](const Region &a, const Region &b) { return a.begin < b.begin; });
}
}  // namespace bang
