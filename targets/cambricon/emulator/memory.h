// Copies, fills, gathers and atomics. The direction word must match both pointers.
#pragma once
#include "calls.h"
#include "convert.h"

#define BANG_DIRECTIONS(FROM)                                                                   \
    FROM##2GDRAM = bang::FROM << 4 | bang::GDRAM, FROM##2LDRAM = bang::FROM << 4 | bang::LDRAM, \
    FROM##2SRAM = bang::FROM << 4 | bang::SRAM, FROM##2NRAM = bang::FROM << 4 | bang::NRAM,     \
    FROM##2WRAM = bang::FROM << 4 | bang::WRAM
enum mluMemcpyDirection_t { BANG_DIRECTIONS(GDRAM), BANG_DIRECTIONS(LDRAM), BANG_DIRECTIONS(SRAM),
                            BANG_DIRECTIONS(NRAM), BANG_DIRECTIONS(WRAM) };

namespace bang {
inline Space to_space(mluMemcpyDirection_t d) { return Space(d & 15); }
inline Space from_space(mluMemcpyDirection_t d) { return Space(d >> 4); }
inline Block cube(int64_t bytes, int64_t stride0, int64_t count0, int64_t stride1, int64_t count1) {
    Block block{bytes};
    block.stride[0] = stride0, block.stride[1] = stride1;
    block.count[0] = count0 + 1, block.count[1] = count1 + 1;
    return block;
}
}  // namespace bang

// A copy; rows at strides, of which the last argument counts one less; rows of rows.
#define BANG_MEMCPY(NAME, WAITS)                                                                \
    inline void NAME(void *to, const void *from, uint32_t bytes, mluMemcpyDirection_t d,        \
                     BANG_AT) {                                                                 \
        bang::copy(#NAME, WAITS, to, bang::to_space(d), {bytes}, from, bang::from_space(d),     \
                   {bytes}, at);                                                                \
    }                                                                                           \
    inline void NAME(void *to, const void *from, uint32_t bytes, mluMemcpyDirection_t d,        \
                     int64_t to_stride, int64_t from_stride, uint32_t rows, BANG_AT) {          \
        bang::copy(#NAME, WAITS, to, bang::to_space(d), bang::cube(bytes, to_stride, rows, 0, 0), \
                   from, bang::from_space(d), bang::cube(bytes, from_stride, rows, 0, 0), at);  \
    }                                                                                           \
    inline void NAME(void *to, const void *from, uint32_t bytes, mluMemcpyDirection_t d,        \
                     int64_t to_stride0, uint32_t to_rows, int64_t to_stride1,                  \
                     uint32_t to_planes, int64_t from_stride0, uint32_t from_rows,              \
                     int64_t from_stride1, uint32_t from_planes, BANG_AT) {                     \
        bang::copy(#NAME, WAITS, to, bang::to_space(d),                                         \
                   bang::cube(bytes, to_stride0, to_rows, to_stride1, to_planes), from,         \
                   bang::from_space(d),                                                         \
                   bang::cube(bytes, from_stride0, from_rows, from_stride1, from_planes), at);  \
    }
BANG_MEMCPY(__memcpy, true)
BANG_MEMCPY(__memcpy_async, false)

inline void __bang_move(void *to, const void *from, uint32_t bytes, BANG_AT) {
    bang::move(to, {bytes}, from, {bytes}, at);
}
inline void __bang_move(void *to, const void *from, uint32_t bytes, uint32_t to_stride,
                        uint32_t from_stride, uint32_t rows, BANG_AT) {
    bang::move(to, bang::cube(bytes, to_stride, rows, 0, 0), from,
               bang::cube(bytes, from_stride, rows, 0, 0), at);
}

// What is written has the type of the value.
#define BANG_FILL(NAME, MOVE, WAITS)                                                            \
    template <class T> void NAME(void *to, uint32_t n, T value, BANG_AT) {                      \
        bang::fill(#NAME, MOVE, WAITS, to, bang::type_of<T>(), &value, n,                       \
                   {int64_t(n) * int64_t(sizeof(T))}, at);                                      \
    }                                                                                           \
    template <class T>                                                                          \
    void NAME(void *to, uint32_t n, T value, uint32_t stride, uint32_t rows, BANG_AT) {         \
        bang::fill(#NAME, MOVE, WAITS, to, bang::type_of<T>(), &value, n,                       \
                   bang::rows(n, sizeof(T), stride, rows), at);                                 \
    }
BANG_FILL(__bang_write_value, false, false)
BANG_FILL(__nramset, true, true)
BANG_FILL(__nramset_async, true, false)
BANG_FILL(__memset_nram, true, true)
BANG_FILL(__memset_nram_async, true, false)
#define BANG_GDRAM_FILL(NAME, WAITS)                                                            \
    template <class T> void NAME(void *to, uint32_t n, T value, BANG_AT) {                      \
        bang::fill_gdram(#NAME, WAITS, to, bang::type_of<T>(), &value, n, at);                  \
    }
BANG_GDRAM_FILL(__gdramset, true)
BANG_GDRAM_FILL(__gdramset_async, false)
template <class T> void __bang_write_zero(T *to, uint32_t n, BANG_AT) {
    T zero = static_cast<T>(0);
    bang::fill("__bang_write_zero", false, false, to, bang::type_of<T>(), &zero, n,
               {int64_t(n) * int64_t(sizeof(T))}, at);
}

#define BANG_GATHER(NAME, SCATTER, WAITS)                                                       \
    template <class I>                                                                          \
    void NAME(void *to, const void *from, const I *offsets, uint32_t bytes,                     \
              mluMemcpyDirection_t d, uint32_t stride, uint32_t n, BANG_AT) {                   \
        static_assert(std::is_unsigned_v<I>, "offsets are unsigned");                           \
        bang::gather(SCATTER, WAITS, to, from, offsets, sizeof(I), nullptr, bytes,              \
                     bang::to_space(d), bang::from_space(d), stride, n, at);                    \
    }                                                                                           \
    template <class I>                                                                          \
    void NAME(void *to, const void *from, const I *offsets, const void *mask, uint32_t bytes,   \
              mluMemcpyDirection_t d, uint32_t stride, uint32_t n, BANG_AT) {                   \
        static_assert(std::is_unsigned_v<I>, "offsets are unsigned");                           \
        bang::gather(SCATTER, WAITS, to, from, offsets, sizeof(I), mask, bytes,                 \
                     bang::to_space(d), bang::from_space(d), stride, n, at);                    \
    }
BANG_GATHER(__gather, false, true)
BANG_GATHER(__gather_async, false, false)
BANG_GATHER(__scatter, true, true)
BANG_GATHER(__scatter_async, true, false)

// to = to OP by; with an old value first, that is kept.
#define BANG_ATOMIC(NAME, OP)                                                                   \
    template <class T>                                                                          \
    void __bang_atomic_reduce_##NAME(T *to, const T *by, uint32_t n, BANG_AT) {                 \
        bang::atomic(bang::Atomic::OP, bang::type_of<T>(), nullptr, to, by, false, n, at);      \
    }                                                                                           \
    template <class T>                                                                          \
    void __bang_atomic_reduce_##NAME(T *to, bang::same<T> by, uint32_t n = 1, BANG_AT) {        \
        bang::atomic(bang::Atomic::OP, bang::type_of<T>(), nullptr, to, &by, true, n, at);      \
    }                                                                                           \
    template <class T>                                                                          \
    void __bang_atomic_##NAME(T *old, T *to, const T *by, uint32_t n, BANG_AT) {                \
        bang::atomic(bang::Atomic::OP, bang::type_of<T>(), old, to, by, false, n, at);          \
    }                                                                                           \
    template <class T>                                                                          \
    void __bang_atomic_##NAME(T *old, T *to, bang::same<T> by, uint32_t n = 1, BANG_AT) {       \
        bang::atomic(bang::Atomic::OP, bang::type_of<T>(), old, to, &by, true, n, at);          \
    }
BANG_ATOMIC(add, ADD)
BANG_ATOMIC(max, MAX)
BANG_ATOMIC(min, MIN)
BANG_ATOMIC(and, AND)
BANG_ATOMIC(or, OR)
BANG_ATOMIC(xor, XOR)
BANG_ATOMIC(exch, EXCHANGE)
BANG_ATOMIC(inc, INC)
BANG_ATOMIC(dec, DEC)

#define BANG_LOAD_STORE(NAME, SPACE)                                                            \
    template <class T> T __load_##NAME(const T *p, BANG_AT) {                                   \
        bang::load(p, sizeof(T), bang::SPACE, at);                                              \
        return *p;                                                                              \
    }                                                                                           \
    template <class T> void __store_##NAME(T *p, bang::same<T> value, BANG_AT) {                \
        bang::store(p, sizeof(T), bang::SPACE, at);                                             \
        *p = value;                                                                             \
    }
BANG_LOAD_STORE(nram, NRAM)
BANG_LOAD_STORE(sram, SRAM)
BANG_LOAD_STORE(gdram, GDRAM)
BANG_LOAD_STORE(ldram, LDRAM)
inline bool __is_nram(const void *p) { return bang::space_of(p) == bang::NRAM; }
inline bool __is_wram(const void *p) { return bang::space_of(p) == bang::WRAM; }
inline bool __is_sram(const void *p) { return bang::space_of(p) == bang::SRAM; }
inline bool __is_dram(const void *p) {
    return bang::space_of(p) == bang::GDRAM || bang::space_of(p) == bang::LDRAM;
}
