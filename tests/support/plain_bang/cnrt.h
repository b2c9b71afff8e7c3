// CNRT as the host's own memory: launches are calls, done at once.
#pragma once
#include <cstdlib>
#include <cstring>

typedef void *cnrtQueue_t;
struct cnrtDim3_t { int x, y, z; };
enum { cnrtMemcpyHostToDev, cnrtMemcpyDevToHost };
static inline int cnrtMalloc(void **p, size_t n) {
    *p = aligned_alloc(64, (n + 63) / 64 * 64);
    return *p == nullptr;
}
static inline int cnrtFree(void *p) { return free(p), 0; }
static inline int cnrtMemcpy(void *to, void *from, size_t n, int) { return memcpy(to, from, n), 0; }
static inline int cnrtSetDevice(int) { return 0; }
static inline int cnrtQueueCreate(cnrtQueue_t *q) { return *q = nullptr, 0; }
static inline int cnrtQueueSync(cnrtQueue_t) { return 0; }
