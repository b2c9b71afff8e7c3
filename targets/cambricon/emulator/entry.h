// How the machine calls a kernel: by a function of its arguments, eight bytes each.
#pragma once
#include <utility>

#include "types.h"

namespace bang {
template <class T> T argument(const uint64_t *slots, size_t i) {
    static_assert(sizeof(T) <= sizeof *slots, "an argument has at most eight bytes");
    T value;
    memcpy(&value, slots + i, sizeof value);
    return value;
}
template <class... A, size_t... I>
void spread(void (*kernel)(A...), const uint64_t *slots, std::index_sequence<I...>) {
    kernel(argument<std::remove_cv_t<A>>(slots, I)...);
}
template <class... A> void call(void (*kernel)(A...), const uint64_t *slots) {
    spread(kernel, slots, std::index_sequence_for<A...>{});
}
}  // namespace bang

// After all of a kernel's own SRAM, so that the pages which its cluster shares hold nothing else.
#define BANG_TAIL \
    extern "C" __attribute__((used, section("bang_sram"), aligned(4096))) char bang_tail[4096] = {};
#define BANG_ENTRY(NAME, ...) \
    extern "C" void bang_entry_##NAME(const uint64_t *slots) { bang::call(&__VA_ARGS__, slots); }
