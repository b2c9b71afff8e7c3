// Scalar loads and stores of kernels, seen through the calls that -fsanitize=thread compiles in.
// The sanitizer's own library is not linked: these functions take its place.
#pragma once
#include "library.h"
#include "moves.h"

namespace bang {
inline uintptr_t library_begin;     // where the kernel's library lies, to name a place in it

inline void scalar(const void *p, int64_t bytes, bool write, void *from) {
    if (!region_of(p)) return;
    auto place = static_cast<int>(reinterpret_cast<uintptr_t>(from) - library_begin - 1);
    scalar_access(p, bytes, write, {nullptr, place});
}
}  // namespace bang

extern "C" {
#define BANG_HOOK(NAME, BYTES, WRITE)                                   \
    __attribute__((used, visibility("default"))) void NAME(void *p) {   \
        bang::scalar(p, BYTES, WRITE, __builtin_return_address(0));     \
    }
#define BANG_HOOKS(BYTES)                                   \
    BANG_HOOK(__tsan_read##BYTES, BYTES, false)             \
    BANG_HOOK(__tsan_write##BYTES, BYTES, true)             \
    BANG_HOOK(__tsan_unaligned_read##BYTES, BYTES, false)   \
    BANG_HOOK(__tsan_unaligned_write##BYTES, BYTES, true)
BANG_HOOKS(1)
BANG_HOOKS(2)
BANG_HOOKS(4)
BANG_HOOKS(8)
BANG_HOOKS(16)
#define BANG_RANGE(NAME, WRITE)                                                         \
    __attribute__((used, visibility("default"))) void NAME(void *p, unsigned long n) {  \
        bang::scalar(p, static_cast<int64_t>(n), WRITE, __builtin_return_address(0));   \
    }
BANG_RANGE(__tsan_read_range, false)
BANG_RANGE(__tsan_write_range, true)
#define BANG_QUIET __attribute__((used, visibility("default")))
BANG_QUIET void __tsan_init() {}
BANG_QUIET void __tsan_func_entry(void *) {}
BANG_QUIET void __tsan_func_exit() {}
BANG_QUIET void __tsan_vptr_update(void *, void *) {}
BANG_QUIET void __tsan_vptr_read(void *) {}
BANG_QUIET void *__tsan_memcpy(void *to, const void *from, unsigned long n) {
    bang::scalar(from, static_cast<int64_t>(n), false, __builtin_return_address(0));
    bang::scalar(to, static_cast<int64_t>(n), true, __builtin_return_address(0));
    return memcpy(to, from, n);
}
BANG_QUIET void *__tsan_memmove(void *to, const void *from, unsigned long n) {
    bang::scalar(from, static_cast<int64_t>(n), false, __builtin_return_address(0));
    bang::scalar(to, static_cast<int64_t>(n), true, __builtin_return_address(0));
    return memmove(to, from, n);
}
BANG_QUIET void *__tsan_memset(void *to, int value, unsigned long n) {
    bang::scalar(to, static_cast<int64_t>(n), true, __builtin_return_address(0));
    return memset(to, value, n);
}
}
