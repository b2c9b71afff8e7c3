// Scalar loads and stores, seen through the calls that -fsanitize=thread compiles in (its run-time
// library is not linked: these functions take its place). NRAM is accessed by the Compute queue.
#pragma once
#include "machine.h"

namespace bang {
inline At last{0, "start of kernel"};   // the last instruction: scalars have no line of their own

inline void scalar(const void *p, int bytes, bool write) {
    if (inside || !core || !settings.check) return;
    inside = true;
    if (const Region *r = region_of(p)) {
        if (reinterpret_cast<uintptr_t>(p) + bytes > r->end)
            fail("a scalar access runs past the end of its array", last);
        if (r->space == WRAM) fail("scalars cannot access WRAM", last);
        if (r->space == NRAM) {
            drain(COMPUTE);
            record(COMPUTE, p, bytes, write, last);
        } else if (write) {
            record(SCALAR, p, bytes, true, last);
        } else {    // a load has its value before anything after it is issued
            auto begin = reinterpret_cast<uintptr_t>(p);
            Access a{begin, begin + static_cast<uintptr_t>(bytes), false, last, core->task};
            order(SCALAR, a);
            note_shared(a);
        }
    }
    inside = false;
}
}  // namespace bang

extern "C" {
inline void bang_nothing() {}
#define BANG_HOOK(BYTES)                                                              \
    __attribute__((used)) void __tsan_read##BYTES(void *p) { bang::scalar(p, BYTES, false); }  \
    __attribute__((used)) void __tsan_write##BYTES(void *p) { bang::scalar(p, BYTES, true); }  \
    __attribute__((used)) void __tsan_unaligned_read##BYTES(void *p) {                \
        bang::scalar(p, BYTES, false);                                                \
    }                                                                                 \
    __attribute__((used)) void __tsan_unaligned_write##BYTES(void *p) {               \
        bang::scalar(p, BYTES, true);                                                 \
    }
BANG_HOOK(1)
BANG_HOOK(2)
BANG_HOOK(4)
BANG_HOOK(8)
BANG_HOOK(16)
__attribute__((used)) void __tsan_init() {}
__attribute__((used)) void __tsan_func_entry(void *) {}
__attribute__((used)) void __tsan_func_exit() {}
__attribute__((used)) void __tsan_vptr_update(void *, void *) {}
__attribute__((used)) void __tsan_vptr_read(void *) {}
__attribute__((used)) void __tsan_read_range(void *, unsigned long) {}
__attribute__((used)) void __tsan_write_range(void *, unsigned long) {}
}
