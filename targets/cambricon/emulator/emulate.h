// How the host calls a kernel: its pointers and their sizes, the tokens, and the settings.
#pragma once
#include <utility>

#include "bang.h"

namespace bang {
template <class F> struct Caller;
template <class... A> struct Caller<void (*)(A...)> {
    template <size_t... I>
    static void call(void (*f)(A...), void **p, int tokens, std::index_sequence<I...>) {
        f(argument<A>(p, I, tokens)...);
    }
    template <class T> static T argument(void **p, size_t i, int tokens) {
        if constexpr (std::is_pointer_v<T>) return static_cast<T>(p[i]); else return T(tokens);
    }
};

template <class... A>
const char *run(void (*f)(A...), void **p, const int64_t *sizes, int count, int tokens,
                char *nram, size_t nram_bytes) {
    regions.clear();
    for (int i = 0; i < count; ++i) {
        auto begin = reinterpret_cast<uintptr_t>(p[i]);
        regions.push_back({begin, begin + static_cast<uintptr_t>(sizes[i]), GDRAM});
    }
    auto begin = reinterpret_cast<uintptr_t>(nram);
    if (nram) regions.push_back({begin, begin + nram_bytes, NRAM});
    return launch([=] {
        Caller<void (*)(A...)>::call(f, p, tokens, std::index_sequence_for<A...>{});
    }, nram, nram_bytes);
}
}  // namespace bang

#define BANG_KERNEL(NAME, NRAM_ARRAY, BYTES)                                                  \
    extern "C" int64_t bang_workspace_##NAME(int64_t S) { return NAME##_workspace(S); }       \
    extern "C" const char *bang_run_##NAME(void **p, const int64_t *sizes, int count,         \
                                           int tokens, int arch, int order, int check,        \
                                           unsigned seed) {                                   \
        bang::inside = true;                                                                  \
        bang::settings = {arch, 4, order, check, seed};                                       \
        return bang::run(NAME, p, sizes, count, tokens,                                       \
                         reinterpret_cast<char *>(NRAM_ARRAY), BYTES);                        \
    }
