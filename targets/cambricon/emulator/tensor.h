// Instructions on matrices and images in NRAM, and the product with what lies in WRAM.
#pragma once
#include "calls.h"

#define BANG_TURN(NAME, HOW)                                                                    \
    template <class T>                                                                          \
    void __bang_##NAME(T *to, const T *from, uint32_t height, uint32_t width, BANG_AT) {        \
        bang::turn(bang::Turn::HOW, bang::type_of<T>(), to, from, height, width, at);           \
    }
BANG_TURN(transpose, TRANSPOSE)
BANG_TURN(mirror, MIRROR)
BANG_TURN(rotate90, ROTATE90)
BANG_TURN(rotate180, ROTATE180)
BANG_TURN(rotate270, ROTATE270)

template <class T>
void __bang_pad(T *to, const T *from, uint32_t channel, uint32_t height, uint32_t width,
                uint32_t top, uint32_t bottom, uint32_t left, uint32_t right, BANG_AT) {
    bang::pad(bang::type_of<T>(), to, from, channel, height, width, top, bottom, left, right,
              nullptr, at);
}
template <class T>
void __bang_pad(T *to, const T *from, uint32_t channel, uint32_t height, uint32_t width,
                uint32_t top, uint32_t bottom, uint32_t left, uint32_t right, bang::same<T> value,
                BANG_AT) {
    bang::pad(bang::type_of<T>(), to, from, channel, height, width, top, bottom, left, right,
              &value, at);
}

// Windows over [height, width, channel]; without strides they do not overlap.
#define BANG_POOL(NAME, HOW)                                                                    \
    template <class T>                                                                          \
    void __bang_##NAME(T *to, const T *from, uint32_t channel, uint32_t height, uint32_t width, \
                       uint32_t kernel_height, uint32_t kernel_width, BANG_AT) {                \
        bang::pool(bang::Pooling::HOW, bang::type_of<T>(), to, from,                            \
                   {channel, height, width, kernel_height, kernel_width, kernel_width,          \
                    kernel_height}, at);                                                        \
    }                                                                                           \
    template <class T>                                                                          \
    void __bang_##NAME(T *to, const T *from, uint32_t channel, uint32_t height, uint32_t width, \
                       uint32_t kernel_height, uint32_t kernel_width, uint32_t stride_width,    \
                       uint32_t stride_height, BANG_AT) {                                       \
        bang::pool(bang::Pooling::HOW, bang::type_of<T>(), to, from,                            \
                   {channel, height, width, kernel_height, kernel_width, stride_width,          \
                    stride_height}, at);                                                        \
    }
BANG_POOL(sumpool, SUM)
BANG_POOL(maxpool, MAX)
BANG_POOL(minpool, MIN)
template <class T>
void __bang_maxpool_value_index(T *to, const T *from, uint32_t channel, uint32_t height,
                                uint32_t width, uint32_t kernel_height, uint32_t kernel_width,
                                uint32_t stride_width, uint32_t stride_height, uint32_t stride,
                                BANG_AT) {
    bang::pool_index(bang::Pooling::MAX, bang::type_of<T>(), to, from,
                     {channel, height, width, kernel_height, kernel_width, stride_width,
                      stride_height}, stride, at);
}

template <class T>
void __bang_reshape_filter(T *to, const T *from, uint32_t n, uint32_t h, uint32_t w, uint32_t c,
                           BANG_AT) {
    bang::reshape_filter(bang::type_of<T>(), to, from, n, h, w, c, at);
}

// to[m, n] = a[m, k] times b, which is [n, k] reshaped in WRAM [+ plus]. Integers have a scale.
template <class D, class A, class B>
void __bang_matmul(D *to, const A *a, const B *b, uint32_t m, uint32_t k, uint32_t n, BANG_AT) {
    static_assert(!std::is_integral_v<A> && std::is_same_v<A, B> && std::is_same_v<D, float>,
                  "a product of floats is float = T x T");
    bang::matmul(bang::type_of<D>(), to, bang::type_of<A>(), a, bang::type_of<B>(), b, nullptr, m,
                 k, n, 0, at);
}
template <class D, class A, class B>
void __bang_matmul(D *to, const A *a, const B *b, uint32_t m, uint32_t k, uint32_t n, int position,
                   BANG_AT) {
    static_assert(std::is_integral_v<A> && std::is_integral_v<B>, "only integers have a scale");
    bang::matmul(bang::type_of<D>(), to, bang::type_of<A>(), a, bang::type_of<B>(), b, nullptr, m,
                 k, n, position, at);
}
template <class D, class A, class B>
void __bang_matmul(D *to, const A *a, const B *b, const D *plus, uint32_t m, uint32_t k, uint32_t n,
                   int position, BANG_AT) {
    static_assert(std::is_integral_v<A> && std::is_integral_v<B>, "only integers take an addend");
    bang::matmul(bang::type_of<D>(), to, bang::type_of<A>(), a, bang::type_of<B>(), b, plus, m, k,
                 n, position, at);
}

// 64 bins; the kernel in WRAM has the values that they count.
template <class D, class S>
void __bang_histogram(D *to, const S *from, const S *kernel, uint32_t n, BANG_AT) {
    bang::histogram(bang::type_of<D>(), to, bang::type_of<S>(), from, kernel, n, at);
}
