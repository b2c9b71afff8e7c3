// Reductions, searches, images and the matrix product as the machine does them. Sums are made in
// one of two orders, by seed: a result may not lean on the order.
#pragma once
#include "elementwise.h"

namespace bang {
inline Operand reads(const void *p, int64_t bytes, const char *name = "the source") {
    return {p, {bytes}, NRAM, false, name};
}
inline Operand writes(const void *p, int64_t bytes) {
    return {p, {bytes}, NRAM, true, "the destination"};
}
inline int64_t bytes_of(Type type, int64_t n) { return n * BYTES[static_cast<int>(type)]; }
template <class F> void with_float(Type type, F f) {
    with_type(type, [&](auto zero) {
        if constexpr (!std::is_integral_v<decltype(zero)>) f(zero);
    });
}
inline void floats_only(const char *name, int arch, Type type, At at) {
    available({name, FLOATS, arch, 0, FIRST}, type, at);
}

void reduce_sum(Type type, void *to, const void *from, uint32_t n, At at) {
    if (not_here()) return;
    const char *name = "__bang_reduce_sum";
    floats_only(name, 200, type, at);
    positive(name, n, at);
    int64_t bytes = bytes_of(type, n);
    if (bytes % 128) fail(std::string(name) + ": a multiple of 128 bytes is summed", at);
    apart(name, to, bytes, from, bytes, true, at);
    issue(COMPUTE, at, {writes(to, bytes), reads(from, bytes)}, [=] {
        with_float(type, [&](auto zero) {
            using T = decltype(zero);
            constexpr uint32_t group = 128 / sizeof(T);
            for (uint32_t s = 0; s < n; s += group) {
                float total = 0;
                for (uint32_t i = 0; i < group; ++i)
                    total += static_cast<float>(
                        static_cast<const T *>(from)[s + (job.seed % 2 ? group - 1 - i : i)]);
                static_cast<T *>(to)[s] = static_cast<T>(total);
            }
        });
    });
}

float sum(Type type, const void *from, uint32_t n, At at) {
    if (not_here()) return 0;
    floats_only("__bang_sum", 520, type, at);
    positive("__bang_sum", n, at);
    float total = 0;
    issue_and_wait(at, {reads(from, bytes_of(type, n))}, [&] {
        with_float(type, [&](auto zero) {
            using T = decltype(zero);
            for (uint32_t i = 0; i < n; ++i)
                total += static_cast<float>(
                    static_cast<const T *>(from)[job.seed % 2 ? n - 1 - i : i]);
        });
    });
    return total;
}

// The first of the largest (or smallest) values, then its place; a NaN is never it. A float's place
// follows as 32 bits. For 16-bit types no public source shows where it is: it follows at byte 4.
void argument(bool largest, Type type, void *to, const void *from, uint32_t n, At at) {
    if (not_here()) return;
    const char *name = largest ? "__bang_argmax" : "__bang_argmin";
    floats_only(name, 322, type, at);
    positive(name, n, at);
    issue(COMPUTE, at, {writes(to, 8), reads(from, bytes_of(type, n))}, [=] {
        with_float(type, [&](auto zero) {
            using T = decltype(zero);
            auto *x = static_cast<const T *>(from);
            uint32_t best = n;
            for (uint32_t i = 0; i < n; ++i) {
                float value = x[i];
                if (value != value) continue;
                if (best == n || (largest ? value > static_cast<float>(x[best])
                                          : value < static_cast<float>(x[best])))
                    best = i;
            }
            T value = x[best == n ? 0 : best];
            memcpy(to, &value, sizeof value);
            memcpy(static_cast<char *>(to) + 4, &best, sizeof best);
        });
    });
}

uint32_t count(Count what, Type type, const void *from, uint32_t n, At at) {
    if (not_here()) return 0;
    const char *name = what == Count::FIRST ? "__bang_findfirst1"
                       : what == Count::LAST ? "__bang_findlast1" : "__bang_count";
    positive(name, n, at);
    uint32_t found = what == Count::FIRST || what == Count::LAST ? UINT32_MAX : 0;
    issue_and_wait(at, {reads(from, bytes_of(type, n))}, [&] {
        with_type(type, [&](auto zero) {
            using T = decltype(zero);
            auto *x = static_cast<const T *>(from);
            for (uint32_t i = 0; i < n; ++i) {
                if (what == Count::BITS) {
                    uint32_t bits = 0;
                    memcpy(&bits, &x[i], sizeof(T));
                    found += static_cast<uint32_t>(__builtin_popcount(bits));
                } else if (!(static_cast<Value<T>>(x[i]) == 0)) {
                    if (what == Count::NONZERO) ++found;
                    else if (what == Count::LAST || found == UINT32_MAX) found = i;
                }
            }
        });
    });
    return found;
}

uint32_t filter(Type type, void *to, const void *from, const void *chosen, bool bits, uint32_t n,
                At at) {
    if (not_here()) return 0;
    const char *name = bits ? "__bang_filter_bitindex" : "__bang_filter";
    available({name, bits ? NUMBERS : FLOATS, 200, 0, FIRST}, type, at);
    positive(name, n, at);
    if (bits && job.arch == 372 && n % 8)
        fail(std::string(name) + ": on mtp_372 the count must be a multiple of 8", at);
    int64_t bytes = bytes_of(type, n), index = bits ? (n + 7) / 8 : bytes;
    apart(name, to, bytes, from, bytes, true, at);
    apart(name, to, bytes, chosen, index, false, at);
    uint32_t found = 0;
    issue_and_wait(at, {writes(to, bytes), reads(from, bytes), reads(chosen, index, "the index")},
                   [&] {
                       with_type(type, [&](auto zero) {
                           using T = decltype(zero);
                           auto *x = static_cast<const T *>(from);
                           for (uint32_t i = 0; i < n; ++i) {
                               bool take = bits ? static_cast<const uint8_t *>(chosen)[i / 8] >>
                                                      i % 8 & 1
                                                : static_cast<Value<T>>(
                                                      static_cast<const T *>(chosen)[i]) != 0;
                               if (take) static_cast<T *>(to)[found++] = x[i];
                           }
                       });
                   });
    return found;
}

void maskmove(void *to, const void *from, const void *mask, uint32_t bytes, At at) {
    if (not_here()) return;
    positive("__bang_maskmove", bytes, at);
    if (job.check && job.arch < 500 && bytes % 8)
        fail("__bang_maskmove: on mtp_3xx the size must be a multiple of 8", at);
    apart("__bang_maskmove", to, bytes, from, bytes, true, at);
    issue(COMPUTE, at,
          {writes(to, bytes), reads(to, bytes), reads(from, bytes),
           reads(mask, (bytes + 7) / 8, "the mask")},
          [=] {
              for (uint32_t i = 0; i < bytes; ++i)
                  if (static_cast<const uint8_t *>(mask)[i / 8] >> i % 8 & 1)
                      static_cast<char *>(to)[i] = static_cast<const char *>(from)[i];
          });
}

// to[i] = table[index[i]]; what is past the table leaves the destination as it was.
void lookup(Type type, void *to, const void *index, const void *table, uint32_t n, uint32_t length,
            At at) {
    if (not_here()) return;
    const char *name = "__bang_lut";
    available({name, bit(Type::I16) | bit(Type::I32), 220, 0, FIRST}, type, at);
    positive(name, n, at);
    if (!length || length % 64)
        fail(std::string(name) + ": a table has a multiple of 64 entries", at);
    int64_t bytes = bytes_of(type, n), room = bytes_of(type, length);
    for (auto [p, size] : {std::pair{index, bytes}, {table, room}})
        apart(name, to, bytes, p, size, false, at);
    issue(COMPUTE, at,
          {writes(to, bytes), reads(index, bytes, "the index"), reads(table, room, "the table")},
          [=] {
              for (uint32_t i = 0; i < n; ++i) {
                  uint32_t at_entry = 0;
                  size_t size = static_cast<size_t>(BYTES[static_cast<int>(type)]);
                  memcpy(&at_entry, static_cast<const char *>(index) + i * size, size);
                  if (at_entry < length)
                      memcpy(static_cast<char *>(to) + i * size,
                             static_cast<const char *>(table) + at_entry * size, size);
              }
          });
}

void turn(Turn how, Type type, void *to, const void *from, uint32_t height, uint32_t width, At at) {
    if (not_here()) return;
    const char *name = how == Turn::TRANSPOSE ? "__bang_transpose" : "__bang_rotate";
    if (type == Type::BF16) floats_only(name, 500, type, at);
    positive(name, int64_t(height) * width, at);
    int64_t bytes = bytes_of(type, int64_t(height) * width);
    apart(name, to, bytes, from, bytes, false, at);
    issue(COMPUTE, at, {writes(to, bytes), reads(from, bytes)}, [=] {
        size_t size = static_cast<size_t>(BYTES[static_cast<int>(type)]);
        for (uint32_t h = 0; h < height; ++h)
            for (uint32_t w = 0; w < width; ++w) {
                size_t down = height - 1 - h, back = width - 1 - w, at_entry = 0;
                switch (how) {
                case Turn::TRANSPOSE: at_entry = size_t(w) * height + h; break;
                case Turn::MIRROR: at_entry = size_t(h) * width + back; break;
                case Turn::ROTATE90: at_entry = size_t(w) * height + down; break;
                case Turn::ROTATE180: at_entry = down * width + back; break;
                case Turn::ROTATE270: at_entry = back * height + h; break;
                }
                memcpy(static_cast<char *>(to) + at_entry * size,
                       static_cast<const char *>(from) + (size_t(h) * width + w) * size, size);
            }
    });
}

void pad(Type type, void *to, const void *from, uint32_t channel, uint32_t height, uint32_t width,
         uint32_t top, uint32_t bottom, uint32_t left, uint32_t right, const void *value, At at) {
    if (not_here()) return;
    const char *name = "__bang_pad";
    if (value && job.check && job.arch < 500)
        fail(std::string(name) + ": a value to pad with is not on mtp_" + std::to_string(job.arch),
             at);
    positive(name, int64_t(channel) * height * width, at);
    if (job.check && height == 1 && left + right)
        fail(std::string(name) + ": an image of one row has no padding left and right", at);
    size_t size = static_cast<size_t>(BYTES[static_cast<int>(type)]);
    size_t row = channel * size * width, wide = channel * size * (left + width + right);
    int64_t in = static_cast<int64_t>(row * height);
    int64_t out = static_cast<int64_t>(wide * (top + height + bottom));
    apart(name, to, out, from, in, false, at);
    uint32_t bits = 0;
    if (value) memcpy(&bits, value, size);
    issue(COMPUTE, at, {writes(to, out), reads(from, in)}, [=] {
        for (size_t i = 0; i < static_cast<size_t>(out); i += size)
            memcpy(static_cast<char *>(to) + i, &bits, size);
        for (size_t h = 0; h < height; ++h)
            memcpy(static_cast<char *>(to) + (top + h) * wide + left * channel * size,
                   static_cast<const char *>(from) + h * row, row);
    });
}

template <class F> void each_window(const Window &w, F f) {
    for (uint32_t y = 0, o = 0; y + w.kernel_height <= w.height; y += w.stride_height)
        for (uint32_t x = 0; x + w.kernel_width <= w.width; x += w.stride_width, ++o) f(y, x, o);
}
inline int64_t check_window(const char *name, const Window &w, At at) {
    if (!w.channel || !w.height || !w.width || !w.kernel_height || !w.kernel_width ||
        !w.stride_width || !w.stride_height)
        fail(std::string(name) + ": a size of 0", at);
    if (int64_t(w.kernel_height) * w.kernel_width > 65536)
        fail(std::string(name) + ": a window of more than 65536 values", at);
    if (w.kernel_height > w.height || w.kernel_width > w.width)
        fail(std::string(name) + ": the window is larger than the image", at);
    int64_t rows = (w.height - w.kernel_height) / w.stride_height + 1;
    return rows * ((w.width - w.kernel_width) / w.stride_width + 1);
}

void pool(Pooling how, Type type, void *to, const void *from, const Window &w, At at) {
    if (not_here()) return;
    const char *names[] = {"__bang_sumpool", "__bang_maxpool", "__bang_minpool"};
    const char *name = names[static_cast<int>(how)];
    floats_only(name, 200, type, at);
    int64_t out = bytes_of(type, check_window(name, w, at) * w.channel);
    int64_t in = bytes_of(type, int64_t(w.height) * w.width * w.channel);
    apart(name, to, out, from, in, false, at);
    issue(COMPUTE, at, {writes(to, out), reads(from, in)}, [=] {
        with_float(type, [&](auto zero) {
            using T = decltype(zero);
            std::vector<float> best(w.channel);
            each_window(w, [&](uint32_t y, uint32_t x, uint32_t o) {
                uint32_t size = w.kernel_height * w.kernel_width;
                for (uint32_t k = 0; k < size; ++k) {
                    uint32_t i = job.seed % 2 ? size - 1 - k : k;
                    auto *pixel = static_cast<const T *>(from) +
                                  (size_t(y + i / w.kernel_width) * w.width + x +
                                   i % w.kernel_width) * w.channel;
                    for (uint32_t c = 0; c < w.channel; ++c) {
                        float value = pixel[c];
                        if (!k) best[c] = value;
                        else if (how == Pooling::SUM) best[c] += value;
                        else if (how == Pooling::MAX) best[c] = value > best[c] ? value : best[c];
                        else best[c] = value < best[c] ? value : best[c];
                    }
                }
                for (uint32_t c = 0; c < w.channel; ++c)
                    static_cast<T *>(to)[size_t(o) * w.channel + c] = static_cast<T>(best[c]);
            });
        });
    });
}

// The largest of each window, and `stride` bytes on (0: right after all values) its place in it.
void pool_index(Pooling, Type type, void *to, const void *from, const Window &w, uint32_t stride,
                At at) {
    if (not_here()) return;
    const char *name = "__bang_maxpool_value_index";
    floats_only(name, 322, type, at);
    int64_t n = check_window(name, w, at) * w.channel, values = bytes_of(type, n);
    int64_t in = bytes_of(type, int64_t(w.height) * w.width * w.channel);
    int64_t apart_by = stride ? stride : values;
    apart(name, to, apart_by + values, from, in, stride > 0, at);
    issue(COMPUTE, at,
          {writes(to, values), writes(static_cast<char *>(to) + apart_by, values), reads(from, in)},
          [=] {
              with_float(type, [&](auto zero) {
                  using T = decltype(zero);
                  using I = std::conditional_t<sizeof(T) == 2, uint16_t, uint32_t>;
                  auto *places = reinterpret_cast<I *>(static_cast<char *>(to) + apart_by);
                  std::vector<T> all(static_cast<const T *>(from),
                                     static_cast<const T *>(from) + in / int64_t(sizeof(T)));
                  each_window(w, [&](uint32_t y, uint32_t x, uint32_t o) {
                      for (uint32_t c = 0; c < w.channel; ++c) {
                          uint32_t best = 0;
                          auto value = [&](uint32_t i) {
                              return static_cast<float>(
                                  all[(size_t(y + i / w.kernel_width) * w.width + x +
                                       i % w.kernel_width) * w.channel + c]);
                          };
                          for (uint32_t i = 1; i < w.kernel_height * w.kernel_width; ++i)
                              if (value(i) > value(best)) best = i;
                          static_cast<T *>(to)[size_t(o) * w.channel + c] =
                              static_cast<T>(value(best));
                          places[size_t(o) * w.channel + c] = static_cast<I>(best);
                      }
                  });
              });
          });
}

// The layout that it makes is opaque, so the bytes stay as they are, and a note says what they are.
void reshape_filter(Type type, void *to, const void *from, uint32_t n, uint32_t h, uint32_t w,
                    uint32_t c, At at) {
    if (not_here()) return;
    const char *name = "__bang_reshape_filter";
    int64_t k = int64_t(h) * w * c, bytes = bytes_of(type, n * k);
    positive(name, bytes, at);
    if (type == Type::BF16) floats_only(name, 500, type, at);
    if (n % 64) fail(std::string(name) + ": n must be a multiple of 64", at);
    if (bytes_of(type, k) % 32)
        fail(std::string(name) + ": h w c elements must be a multiple of 32 bytes", at);
    apart(name, to, bytes, from, bytes, false, at);
    issue(COMPUTE, at, {writes(to, bytes), reads(from, bytes)},
          [=] { memcpy(to, from, static_cast<size_t>(bytes)); });
    if (job.check)
        reshaped.push_back({reinterpret_cast<uintptr_t>(to), bytes, type, n, k, NRAM});
}

// Elements as floats, or as integers: 16-bit types are widened once, not once per product.
template <class T> std::vector<T> widened(Type type, const void *p, size_t n) {
    std::vector<T> out(n);
    with_type(type, [&](auto zero) {
        for (size_t i = 0; i < n; ++i)
            out[i] = static_cast<T>(static_cast<const decltype(zero) *>(p)[i]);
    });
    return out;
}

template <int LANES, class T> double dot(const T *a, const T *b, size_t k) {
    using Sum = std::conditional_t<std::is_integral_v<T>, int64_t, float>;
    Sum lane[LANES] = {}, total = 0;
    size_t i = 0;
    for (; i + LANES <= k; i += LANES)
        for (int l = 0; l < LANES; ++l)
            lane[l] += static_cast<Sum>(a[i + l]) * static_cast<Sum>(b[i + l]);
    for (; i < k; ++i) lane[0] += static_cast<Sum>(a[i]) * static_cast<Sum>(b[i]);
    for (auto x : lane) total += x;
    return static_cast<double>(total);
}

template <class T>
void multiply(Type to_type, void *to, Type a_type, const void *a, Type b_type, const void *b,
              const void *plus, size_t m, size_t k, size_t n, int position) {
    auto x = widened<T>(a_type, a, m * k), y = widened<T>(b_type, b, n * k);
    auto z = plus ? widened<float>(to_type, plus, m * n) : std::vector<float>(m * n);
    std::vector<double> result(m * n);
    for (size_t i = 0; i < m; ++i)
        for (size_t j = 0; j < n; ++j)
            result[i * n + j] = std::ldexp(job.seed % 2 ? dot<8>(&x[i * k], &y[j * k], k)
                                                        : dot<16>(&x[i * k], &y[j * k], k),
                                           position) + static_cast<double>(z[i * n + j]);
    with_type(to_type, [&](auto zero) {
        using R = decltype(zero);
        for (size_t i = 0; i < m * n; ++i) static_cast<R *>(to)[i] = static_cast<R>(result[i]);
    });
}

void matmul(Type to_type, void *to, Type a_type, const void *a, Type b_type, const void *b,
            const void *plus, uint32_t m, uint32_t k, uint32_t n, int position, At at) {
    if (not_here()) return;
    const char *name = "__bang_matmul";
    positive(name, int64_t(m) * k * n, at);
    int64_t b_row = bytes_of(b_type, k), in = bytes_of(a_type, int64_t(m) * k);
    int64_t out = bytes_of(to_type, int64_t(m) * n), filter_bytes = b_row * n;
    if (job.check) {
        auto where = reinterpret_cast<uintptr_t>(b);
        int wider = BYTES[static_cast<int>(a_type)] / BYTES[static_cast<int>(b_type)];
        int unit = wider == 4 ? 16 : wider == 2 ? 32 : 64;
        if (where % 32) fail(std::string(name) + ": src1 must be 32 byte aligned", at);
        if (b_row % unit)
            fail(std::string(name) + ": K elements of src1 must be a multiple of " +
                 std::to_string(unit) + " bytes", at);
        if (std::abs(position) > 127) fail(std::string(name) + ": a position beyond 127", at);
        if (bit(to_type) & INTEGERS && to_type != Type::I16)
            fail(std::string(name) + ": no such result type", at);
        apart(name, to, out, a, in, false, at);
        if (plus) apart(name, to, out, plus, out, true, at);
        const Reshaped *found = nullptr;
        for (auto &r : reshaped)
            if (r.space == WRAM && r.begin == where) found = &r;
        if (!found)
            fail(std::string(name) + ": src1 must be a whole matrix that __bang_reshape_filter made"
                 " and NRAM2WRAM copied: no other layout of WRAM is known to be right", at);
        if (found->k != k || found->n < n || found->type != b_type)
            fail(std::string(name) + ": src1 was reshaped as " + std::to_string(found->n) + " x " +
                 std::to_string(found->k) + ", or of another type", at);
    }
    bool integers = bit(a_type) & INTEGERS;
    auto act = [=] {
        auto *f = integers ? multiply<int32_t> : multiply<float>;
        f(to_type, to, a_type, a, b_type, b, plus, m, k, n, position);
    };
    Operand right{b, {filter_bytes}, WRAM, false, "src1"};
    issue(COMPUTE, at,
          {writes(to, out), reads(a, in, "src0"), right, plus ? reads(plus, out, "src2") : right},
          act, true);
}

// to[b] counts the values that equal the kernel's row b, whose first value stands for the row.
void histogram(Type to_type, void *to, Type type, const void *from, const void *kernel, uint32_t n,
               At at) {
    if (not_here()) return;
    positive("__bang_histogram", n, at);
    for (auto p : {static_cast<const void *>(to), from})
        if (reinterpret_cast<uintptr_t>(p) % 64)
            fail("__bang_histogram: the address must be 64 byte aligned", at);
    int64_t out = bytes_of(to_type, 64), in = bytes_of(type, n);
    apart("__bang_histogram", to, out, from, in, false, at);
    issue(COMPUTE, at,
          {writes(to, out), reads(from, in), {kernel, {64 * 64}, WRAM, false, "the kernel"}}, [=] {
              auto values = widened<float>(type, from, n);
              for (int row = 0; row < 64; ++row) {
                  auto wanted = widened<float>(type, static_cast<const char *>(kernel) + row * 64,
                                               1)[0];
                  auto found = std::count(values.begin(), values.end(), wanted);
                  with_type(to_type, [&](auto zero) {
                      static_cast<decltype(zero) *>(to)[row] = static_cast<decltype(zero)>(found);
                  });
              }
          });
}
}  // namespace bang
