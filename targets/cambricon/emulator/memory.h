// Copies: the direction word must match both pointers, and decides the queue.
#pragma once
#include "machine.h"
#include "scalar.h"

namespace bang {
struct Direction { Space to, from; };
}  // namespace bang
#define GDRAM2NRAM (bang::Direction{bang::NRAM, bang::GDRAM})
#define NRAM2GDRAM (bang::Direction{bang::GDRAM, bang::NRAM})
#define NRAM2NRAM (bang::Direction{bang::NRAM, bang::NRAM})
#define GDRAM2GDRAM (bang::Direction{bang::GDRAM, bang::GDRAM})

#define BANG_HERE bang::At at = {__builtin_LINE(), __builtin_FILE()}

inline void __memcpy_async(void *to, const void *from, int bytes, bang::Direction d, BANG_HERE) {
    bang::last = at;
    if (bytes <= 0) bang::fail("a copy of " + std::to_string(bytes) + " bytes", at);
    bang::need(to, bytes, d.to, "the destination", at);
    bang::need(from, bytes, d.from, "the source", at);
    auto queue = d.to == bang::GDRAM || d.from == bang::GDRAM ? bang::IO : bang::MOVE;
    bang::issue(queue, at, {{to, bytes, true}, {from, bytes, false}},
                [=] { memmove(to, from, bytes); });
}

// Strides are bytes between starts; the last argument is the number of segments less one.
inline void __memcpy_async(void *to, const void *from, int bytes, bang::Direction d, int to_stride,
                           int from_stride, int segments, BANG_HERE) {
    bang::last = at;
    if (segments < 0 || segments > 65535)
        bang::fail(std::to_string(segments) + " segments; 0 to 65535 can be", at);
    for (int i = 0; i <= segments; ++i)
        __memcpy_async(static_cast<char *>(to) + int64_t(i) * to_stride,
                       static_cast<const char *>(from) + int64_t(i) * from_stride, bytes, d, at);
}

// The copy that orders itself.
template <class... Rest>
void __memcpy(void *to, const void *from, int bytes, bang::Direction d, Rest... rest) {
    bang::sync_all_queues();
    __memcpy_async(to, from, bytes, d, rest...);
    bang::sync_all_queues();
}

inline void __sync_io() { bang::sync(bang::IO); }
inline void __sync_move() { bang::sync(bang::MOVE); }
inline void __sync_compute() { bang::sync(bang::COMPUTE); }
inline void __sync() { bang::sync_all_queues(); }
inline void __sync_io_move_compute() {
    for (auto q : {bang::IO, bang::MOVE, bang::COMPUTE}) bang::sync(q);
}
inline void __sync_all_ipu(BANG_HERE) { bang::barrier(at); }
inline void __sync_all(BANG_HERE) { bang::barrier(at); }
