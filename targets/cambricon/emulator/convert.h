// Casts. A suffix says how they round; without one they cut towards zero, or are exact.
#pragma once
#include "calls.h"

namespace bang {
// Where source and destination may be the same memory: narrowing casts, and the two listed ones.
template <class To, class From> constexpr bool IN_PLACE = sizeof(To) <= sizeof(From);

inline Block rows(uint32_t n, int bytes, uint32_t stride, uint32_t segments) {
    Block block{int64_t(n) * bytes};
    block.stride[0] = stride;
    block.count[0] = int64_t(segments) + 1;
    return block;
}
}  // namespace bang

#define BANG_CAST(NAME, TO, FROM, MODE, SAME)                                                    \
    inline void NAME(TO *to, const FROM *from, uint32_t n, BANG_AT) {                            \
        bang::convert(#NAME, bang::type_of<TO>(), to, bang::type_of<FROM>(), from, n,            \
                      bang::MODE, 0, 0, SAME, nullptr, nullptr, at);                             \
    }
// The integer side has a scale: value = integer * 2^position.
#define BANG_SCALED_CAST(NAME, TO, FROM, MODE, SAME)                                             \
    inline void NAME(TO *to, const FROM *from, uint32_t n, int position, BANG_AT) {              \
        constexpr bool integer = std::is_integral_v<TO>;                                         \
        bang::convert(#NAME, bang::type_of<TO>(), to, bang::type_of<FROM>(), from, n,            \
                      bang::MODE, integer ? position : 0, integer ? 0 : position, SAME, nullptr, \
                      nullptr, at);                                                              \
    }
#define BANG_INTEGER_CAST(NAME, TO, FROM)                                                        \
    inline void NAME(TO *to, const FROM *from, uint32_t n, int to_position, int from_position,   \
                     BANG_AT) {                                                                  \
        bang::convert(#NAME, bang::type_of<TO>(), to, bang::type_of<FROM>(), from, n, bang::TZ,  \
                      to_position, from_position, bang::IN_PLACE<TO, FROM>, nullptr, nullptr,    \
                      at);                                                                       \
    }
// With strides a cast runs in the Move queue.
#define BANG_STRIDED_CAST(NAME, TO, FROM, MODE, SAME)                                            \
    inline void NAME(TO *to, const FROM *from, uint32_t n, uint32_t to_stride,                   \
                     uint32_t from_stride, uint32_t segments, BANG_AT) {                         \
        auto a = bang::rows(n, sizeof(TO), to_stride, segments);                                 \
        auto b = bang::rows(n, sizeof(FROM), from_stride, segments);                             \
        bang::convert(#NAME, bang::type_of<TO>(), to, bang::type_of<FROM>(), from, n,            \
                      bang::MODE, 0, 0, SAME, &a, &b, at);                                       \
    }

#define BANG_MODES(FORM, NAME, TO, FROM, SAME)                                                   \
    FORM(NAME##_tz, TO, FROM, TZ, SAME) FORM(NAME##_oz, TO, FROM, OZ, SAME)                      \
    FORM(NAME##_up, TO, FROM, UP, SAME) FORM(NAME##_dn, TO, FROM, DN, SAME)                      \
    FORM(NAME##_rd, TO, FROM, RD, SAME) FORM(NAME##_rm, TO, FROM, RM, SAME)                      \
    FORM(NAME##_rn, TO, FROM, RN, SAME)

BANG_MODES(BANG_CAST, __bang_float2half, half, float, true)
BANG_MODES(BANG_STRIDED_CAST, __bang_float2half, half, float, true)
BANG_MODES(BANG_CAST, __bang_float2bfloat16, bfloat16_t, float, true)
BANG_MODES(BANG_CAST, __bang_bfloat162half, half, bfloat16_t, true)
BANG_MODES(BANG_CAST, __bang_half2bfloat16, bfloat16_t, half, true)
BANG_CAST(__bang_half2float, float, half, TZ, false)
BANG_STRIDED_CAST(__bang_half2float, float, half, TZ, false)
BANG_CAST(__bang_bfloat162float, float, bfloat16_t, TZ, false)

#define BANG_FLOATS_TO(NAME, TO)                                                                 \
    BANG_MODES(BANG_SCALED_CAST, __bang_float2##NAME, TO, float, true)                           \
    BANG_MODES(BANG_SCALED_CAST, __bang_half2##NAME, TO, half, sizeof(TO) <= 2)                  \
    BANG_MODES(BANG_SCALED_CAST, __bang_bfloat162##NAME, TO, bfloat16_t, sizeof(TO) <= 2)
BANG_FLOATS_TO(int8, int8_t)
BANG_FLOATS_TO(int16, int16_t)
BANG_FLOATS_TO(int32, int32_t)
BANG_SCALED_CAST(__bang_float2int32, int32_t, float, TZ, true)
BANG_MODES(BANG_CAST, __bang_float2uchar, uint8_t, float, true)
BANG_MODES(BANG_CAST, __bang_half2uchar, uint8_t, half, true)
BANG_MODES(BANG_CAST, __bang_bfloat162uchar, uint8_t, bfloat16_t, true)

BANG_SCALED_CAST(__bang_int82float, float, int8_t, TZ, false)
BANG_SCALED_CAST(__bang_int162float, float, int16_t, TZ, false)
BANG_SCALED_CAST(__bang_int322float, float, int32_t, TZ, true)
BANG_MODES(BANG_SCALED_CAST, __bang_int322float, float, int32_t, true)
BANG_SCALED_CAST(__bang_int82half, half, int8_t, TZ, false)
BANG_MODES(BANG_SCALED_CAST, __bang_int162half, half, int16_t, true)
BANG_MODES(BANG_SCALED_CAST, __bang_int322half, half, int32_t, true)
BANG_MODES(BANG_SCALED_CAST, __bang_int82bfloat16, bfloat16_t, int8_t, false)
BANG_MODES(BANG_SCALED_CAST, __bang_int162bfloat16, bfloat16_t, int16_t, true)
BANG_MODES(BANG_SCALED_CAST, __bang_int322bfloat16, bfloat16_t, int32_t, true)
BANG_CAST(__bang_uchar2float, float, uint8_t, TZ, true)
BANG_CAST(__bang_uchar2half, half, uint8_t, TZ, false)
BANG_CAST(__bang_uchar2bfloat16, bfloat16_t, uint8_t, TZ, false)
BANG_SCALED_CAST(__bang_uchar2int32, int32_t, uint8_t, TZ, false)
BANG_SCALED_CAST(__bang_uchar2int16, int16_t, uint8_t, TZ, false)

BANG_INTEGER_CAST(__bang_int82int16, int16_t, int8_t)
BANG_INTEGER_CAST(__bang_int82int32, int32_t, int8_t)
BANG_INTEGER_CAST(__bang_int162int8, int8_t, int16_t)
BANG_INTEGER_CAST(__bang_int162int32, int32_t, int16_t)
BANG_INTEGER_CAST(__bang_int322int8, int8_t, int32_t)
BANG_INTEGER_CAST(__bang_int322int16, int16_t, int32_t)

// The same of one value in a register.
#define BANG_SCALAR_CAST(NAME, TO, FROM, MODE, SAME)                                             \
    inline TO NAME(FROM x) {                                                                     \
        return static_cast<TO>(bang::convert_one(static_cast<float>(x), bang::type_of<TO>(),     \
                                                 bang::MODE));                                   \
    }
BANG_MODES(BANG_SCALAR_CAST, __float2half, half, float, true)
BANG_MODES(BANG_SCALAR_CAST, __float2bfloat16, bfloat16_t, float, true)
BANG_MODES(BANG_SCALAR_CAST, __float2int32, int32_t, float, true)
BANG_MODES(BANG_SCALAR_CAST, __float2int, int32_t, float, true)
BANG_MODES(BANG_SCALAR_CAST, __half2int32, int32_t, half, true)
BANG_MODES(BANG_SCALAR_CAST, __half2int, int32_t, half, true)
BANG_MODES(BANG_SCALAR_CAST, __half2short, int16_t, half, true)
BANG_SCALAR_CAST(__float2int32, int32_t, float, TZ, true)
BANG_SCALAR_CAST(__half2int32, int32_t, half, TZ, true)
inline float __half2float(half x) { return x; }
inline float __bfloat162float(bfloat16_t x) { return x; }
inline float __int322float(int32_t x) { return static_cast<float>(x); }
