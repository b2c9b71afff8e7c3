// Elementwise instructions, comparisons, shifts, searches and fused arithmetic on NRAM.
#pragma once
#include "calls.h"

#define BINARY(NAME, ...)                                                                       \
    template <class T>                                                                          \
    void __bang_##NAME(T *to, const T *a, const bang::same<T> *b, uint32_t n, BANG_AT) {        \
        bang::vector(bang::Op::v_##NAME, bang::type_of<T>(), to, a, b, n, n, at);               \
    }
#define BITINDEX(NAME, ...) BINARY(NAME)
#define SCALAR(NAME, ...)                                                                       \
    template <class T>                                                                          \
    void __bang_##NAME(T *to, const T *a, bang::same<T> b, uint32_t n, BANG_AT) {               \
        bang::vector(bang::Op::v_##NAME, bang::type_of<T>(), to, a, &b, n, 0, at);              \
    }
#define CYCLE(NAME, ...)                                                                        \
    template <class T>                                                                          \
    void __bang_##NAME(T *to, const T *a, const bang::same<T> *b, uint32_t n, uint32_t segment, \
                       BANG_AT) {                                                               \
        bang::vector(bang::Op::v_##NAME, bang::type_of<T>(), to, a, b, n, segment, at);         \
    }
#define UNARY(NAME, ...)                                                                        \
    template <class T> void __bang_##NAME(T *to, const T *a, uint32_t n, BANG_AT) {             \
        bang::vector(bang::Op::v_##NAME, bang::type_of<T>(), to, a, nullptr, n, n, at);         \
    }
#define SHIFT(NAME, ...)                                                                        \
    template <class T>                                                                          \
    void __bang_##NAME(T *to, const T *a, uint32_t bits, uint32_t n, BANG_AT) {                 \
        bang::shift(bang::Op::v_##NAME, bang::type_of<T>(), to, a, bits, n, at);                \
    }
#include "instructions.def"

template <class T>
void __bang_div(T *to, const T *a, bang::same<T> b, uint32_t n, BANG_AT) {
    bang::vector(bang::Op::v_div, bang::type_of<T>(), to, a, &b, n, 0, at);
}
template <class T>
void __bang_rem(T *to, const T *a, bang::same<T> b, uint32_t n, BANG_AT) {
    bang::vector(bang::Op::v_rem, bang::type_of<T>(), to, a, &b, n, 0, at);
}

// Fused arithmetic; the second letter is what is done first, with src1, the third with src2.
enum mluFusionOpCode { FUSION_FMA, FUSION_FMS, FUSION_FAM, FUSION_FSM, FUSION_FAA, FUSION_FAS,
                       FUSION_FSA, FUSION_FSS };
template <class T>
void __bang_fusion(mluFusionOpCode code, T *to, const T *a, bang::same<T> b, bang::same<T> c,
                   uint32_t n, BANG_AT) {
    bang::fuse(code, bang::type_of<T>(), to, a, &b, true, &c, true, n, n, at);
}
template <class T>
void __bang_fusion(mluFusionOpCode code, T *to, const T *a, const bang::same<T> *b,
                   const bang::same<T> *c, uint32_t n, uint32_t segment, BANG_AT) {
    bang::fuse(code, bang::type_of<T>(), to, a, b, false, c, false, n, segment, at);
}
template <class T>
void __bang_fusion(mluFusionOpCode code, T *to, const T *a, const bang::same<T> *b, bang::same<T> c,
                   uint32_t n, uint32_t segment, BANG_AT) {
    bang::fuse(code, bang::type_of<T>(), to, a, b, false, &c, true, n, segment, at);
}
template <class T>
void __bang_fusion(mluFusionOpCode code, T *to, const T *a, bang::same<T> b, const bang::same<T> *c,
                   uint32_t n, uint32_t segment, BANG_AT) {
    bang::fuse(code, bang::type_of<T>(), to, a, &b, true, c, false, n, segment, at);
}

template <class T> void __bang_reduce_sum(T *to, const T *from, uint32_t n, BANG_AT) {
    bang::reduce_sum(bang::type_of<T>(), to, from, n, at);
}
template <class T> T __bang_sum(const T *from, uint32_t n, BANG_AT) {
    return static_cast<T>(bang::sum(bang::type_of<T>(), from, n, at));
}
template <class T> void __bang_argmax(T *to, const T *from, uint32_t n, BANG_AT) {
    bang::argument(true, bang::type_of<T>(), to, from, n, at);
}
template <class T> void __bang_argmin(T *to, const T *from, uint32_t n, BANG_AT) {
    bang::argument(false, bang::type_of<T>(), to, from, n, at);
}
template <class T> uint32_t __bang_count(const T *from, uint32_t n, BANG_AT) {
    return bang::count(bang::Count::NONZERO, bang::type_of<T>(), from, n, at);
}
template <class T> uint32_t __bang_count_bitindex(const T *from, uint32_t n, BANG_AT) {
    return bang::count(bang::Count::BITS, bang::type_of<T>(), from, n, at);
}
template <class T> uint32_t __bang_findfirst1(const T *from, uint32_t n, BANG_AT) {
    return bang::count(bang::Count::FIRST, bang::type_of<T>(), from, n, at);
}
template <class T> uint32_t __bang_findlast1(const T *from, uint32_t n, BANG_AT) {
    return bang::count(bang::Count::LAST, bang::type_of<T>(), from, n, at);
}
template <class T>
uint32_t __bang_filter(T *to, const T *from, const bang::same<T> *chosen, uint32_t n, BANG_AT) {
    return bang::filter(bang::type_of<T>(), to, from, chosen, false, n, at);
}
template <class T>
uint32_t __bang_filter_bitindex(T *to, const T *from, const void *chosen, uint32_t n, BANG_AT) {
    return bang::filter(bang::type_of<T>(), to, from, chosen, true, n, at);
}
inline void __bang_maskmove(void *to, const void *from, const void *mask, uint32_t bytes, BANG_AT) {
    bang::maskmove(to, from, mask, bytes, at);
}
template <class T, class I>
void __bang_lut(T *to, const I *index, const bang::same<T> *table, uint32_t n, uint32_t length,
                BANG_AT) {
    static_assert(sizeof(T) == sizeof(I) && std::is_unsigned_v<I> && std::is_signed_v<T>,
                  "__bang_lut takes int16 by uint16 or int32 by uint32");
    bang::lookup(bang::type_of<T>(), to, index, table, n, length, at);
}
