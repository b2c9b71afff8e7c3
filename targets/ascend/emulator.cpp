// What lowered kernels call when they run here: block numbers, DMA, the cube's products, sorting,
// and flags between the cores of a block. A block is one cube core and two vector cores, each vector
// core with a UB of its own; L1 and L0C are the cube's. Blocks run one after another, the cores of
// a block as threads. Memories are filled with 0xEE before each block, so that what a kernel reads
// without having written it is no quiet zero.
//
// Every access by a DMA is held against the memories that exist: outside of them it is an error, as
// is a wait that lasts longer than a limit. Errors leave the core by longjmp; compiled MLIR has no
// destructors.
#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <csetjmp>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <chrono>
#include <functional>
#include <mutex>
#include <pthread.h>
#include <sys/mman.h>
#include <vector>

namespace {
constexpr int64_t UB_BYTES = 253952, L1_BYTES = 524288, L0C_BYTES = 262144, POISON = 0xEE;
constexpr int FLAGS = 64, RANK = 5;
constexpr size_t STACK = size_t(256) << 20;

struct Region { const char *start; int64_t bytes; const char *name; };
struct Block {
    int64_t index, blocks;
    pthread_barrier_t meeting;               // of the cores, before and after each block
    char *ub[2], *l1, *l0c;
    std::vector<Region> regions;
    std::mutex mutex;
    std::condition_variable changed;
    int to_vector[FLAGS][2], to_cube[FLAGS][2];
    bool failed;
    int64_t limit_ms;
    char *message;
    int64_t message_bytes;
};
thread_local Block *block;
thread_local int core;                       // 0 cube, 1 and 2 vector
thread_local jmp_buf out;
thread_local std::vector<Region> tables;     // constants that come with the kernel
const char *NAMES[] = {"the cube core", "vector core 0", "vector core 1"};

[[noreturn]] void fail(const char *format, ...) {
    {
        std::lock_guard<std::mutex> guard(block->mutex);
        if (!block->failed) {
            int n = snprintf(block->message, block->message_bytes, "block %lld, %s: ",
                             (long long)block->index, NAMES[core]);
            va_list list;
            va_start(list, format);
            vsnprintf(block->message + n, block->message_bytes - n, format, list);
            va_end(list);
        }
        block->failed = true;
    }
    block->changed.notify_all();
    longjmp(out, 1);
}

// A memory of up to five dimensions; sizes and strides count elements.
struct View {
    char *data; int64_t size[RANK], stride[RANK];
    int64_t count() const { int64_t n = 1; for (int64_t s : size) n *= s; return n; }
};

void check(const View &v, int64_t width, const char *what) {
    if (v.count() == 0) return;
    int64_t low = 0, high = 0;
    for (int i = 0; i < RANK; ++i) {
        if (v.size[i] < 0) fail("%s: a side of %lld", what, (long long)v.size[i]);
        int64_t reach = (v.size[i] - 1) * v.stride[i];
        (reach < 0 ? low : high) += reach;
    }
    const char *first = v.data + low * width, *end = v.data + (high + 1) * width;
    const Region *near = nullptr;
    for (const Region &r : block->regions) {
        if (first >= r.start && end <= r.start + r.bytes) return;
        if (first >= r.start && first <= r.start + r.bytes) near = &r;
    }
    for (const Region &r : tables)
        if (first >= r.start && end <= r.start + r.bytes) return;
    if (near) fail("%s: bytes %lld to %lld of %s, which has %lld", what,
                   (long long)(first - near->start), (long long)(end - near->start), near->name,
                   (long long)near->bytes);
    fail("%s: an address that is in no memory", what);
}

using Value = float;
float from_bf16(uint16_t x) { uint32_t b = uint32_t(x) << 16; float f; memcpy(&f, &b, 4); return f; }
uint16_t to_bf16(float f) {
    uint32_t b; memcpy(&b, &f, 4);
    if (f != f) return uint16_t((b >> 16) | 0x40);
    return uint16_t((b + 0x7FFF + ((b >> 16) & 1)) >> 16);
}
float from_e4m3(uint8_t x) {
    uint32_t b = uint32_t(x & 0x7F) << 20; float f; memcpy(&f, &b, 4);
    f = (x & 0x7F) == 0x7F ? NAN : f * 0x1p120f;
    return x & 0x80 ? -f : f;
}
enum Kind { F32, F16, BF16, I8, I16, I32, I64, E4M3 };
float number(const char *p, int64_t kind) {
    switch (kind) {
    case F32: return *(const float *)p;
    case F16: return float(*(const _Float16 *)p);
    case BF16: return from_bf16(*(const uint16_t *)p);
    case I8: return float(*(const int8_t *)p);
    case E4M3: return from_e4m3(*(const uint8_t *)p);
    default: fail("elements of kind %lld in a product", (long long)kind);
    }
}
int64_t width_of(int64_t kind) {
    static const int64_t widths[] = {4, 2, 2, 1, 2, 4, 8, 1};
    return widths[kind];
}

// Address of element (i, j) of a matrix cut in tiles: [columns][rows][rows of a tile][columns].
char *tiled(const View &v, int64_t i, int64_t j, int64_t width) {
    const int64_t *s = v.size + 1, *t = v.stride + 1;
    return v.data + width * (j / s[3] * t[0] + i / s[2] * t[1] + i % s[2] * t[2] + j % s[3] * t[3]);
}

template <class T> void sort_rows(View a, View b, bool descending) {
    int64_t n = a.size[4];
    for (int64_t r = 0; r < a.count() / std::max<int64_t>(n, 1); ++r) {
        int64_t i[RANK] = {r / (a.size[1] * a.size[2] * a.size[3]),
                           r / (a.size[2] * a.size[3]) % a.size[1], r / a.size[3] % a.size[2],
                           r % a.size[3], 0}, from = 0, to = 0;
        for (int d = 0; d < 4; ++d) from += i[d] * a.stride[d], to += i[d] * b.stride[d];
        std::vector<T> row(n);
        for (int64_t j = 0; j < n; ++j) row[j] = ((T *)a.data)[from + j * a.stride[4]];
        if (descending) std::sort(row.begin(), row.end(), std::greater<T>());
        else std::sort(row.begin(), row.end());
        for (int64_t j = 0; j < n; ++j) ((T *)b.data)[to + j * b.stride[4]] = row[j];
    }
}

// Calls f with the element offsets in both memories, for every index of `shape`.
template <class F> void both(const View &shape, const View &a, const View &b, F f) {
    for (int64_t i = 0; i < shape.size[0]; ++i)
    for (int64_t j = 0; j < shape.size[1]; ++j)
    for (int64_t k = 0; k < shape.size[2]; ++k)
    for (int64_t l = 0; l < shape.size[3]; ++l)
        f(i * a.stride[0] + j * a.stride[1] + k * a.stride[2] + l * a.stride[3],
          i * b.stride[0] + j * b.stride[1] + k * b.stride[2] + l * b.stride[3]);
}

// C = A B (+ C): the numbers go through flat arrays; scales, if any, are applied to A's and B's.
void product(View a, View b, View c, bool init, int64_t m, int64_t k, int64_t n, int64_t flip,
             int64_t kind, int64_t sum, const std::vector<float> *sa, const std::vector<float> *sb) {
    int64_t w = width_of(kind);
    check(a, w, "product, first factor"), check(b, w, "product, second factor");
    check(c, 4, "product, result");
    std::vector<float> x(m * k), y(k * n);
    for (int64_t i = 0; i < m; ++i) for (int64_t p = 0; p < k; ++p)
        x[i * k + p] = number(flip & 1 ? tiled(a, p, i, w) : tiled(a, i, p, w), kind)
                       * (sa ? (*sa)[i * (k / 32) + p / 32] : 1.0f);
    for (int64_t p = 0; p < k; ++p) for (int64_t j = 0; j < n; ++j)
        y[p * n + j] = number(flip & 2 ? tiled(b, j, p, w) : tiled(b, p, j, w), kind)
                       * (sb ? (*sb)[j * (k / 32) + p / 32] : 1.0f);
    if (sum == I32) {                           // int8 products are exact in int32
        for (int64_t i = 0; i < m; ++i) for (int64_t j = 0; j < n; ++j) {
            int32_t *r = (int32_t *)tiled(c, i, j, 4), s = init ? 0 : *r;
            for (int64_t p = 0; p < k; ++p) s += int32_t(x[i * k + p]) * int32_t(y[p * n + j]);
            *r = s;
        }
        return;
    }
    std::vector<float> row(n);
    for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < n; ++j) row[j] = init ? 0.0f : *(float *)tiled(c, i, j, 4);
        for (int64_t p = 0; p < k; ++p) {
            float f = x[i * k + p];
            for (int64_t j = 0; j < n; ++j) row[j] += f * y[p * n + j];
        }
        for (int64_t j = 0; j < n; ++j) *(float *)tiled(c, i, j, 4) = row[j];
    }
}

// E8M0 scales of `rows` rows, in the order that emu_load_scale laid them down.
std::vector<float> scales(const View &s, int64_t rows, int64_t blocks) {
    std::vector<float> found(rows * blocks);
    check(s, 1, "scales");
    for (int64_t i = 0; i < rows; ++i) for (int64_t g = 0; g < blocks; ++g) {
        const int64_t *z = s.size + 1, *t = s.stride + 1;
        found[i * blocks + g] = ldexpf(1.0f, *(uint8_t *)(s.data + i / z[2] * t[0] + g / z[3] * t[1]
                                                          + i % z[2] * t[2] + g % z[3] * t[3]) - 127);
    }
    return found;
}
}  // namespace

#define VIEW(n) int64_t n##_p, int64_t n##_o, int64_t n##0, int64_t n##1, int64_t n##2, \
    int64_t n##3, int64_t n##4, int64_t n##5, int64_t n##6, int64_t n##7, int64_t n##8, int64_t n##9
#define MADE(n, width) View{(char *)n##_p + n##_o * (width), {n##0, n##1, n##2, n##3, n##4}, \
    {n##5, n##6, n##7, n##8, n##9}}

extern "C" {
int64_t emu_block_idx() { return block->index; }
int64_t emu_block_num() { return block->blocks; }
int64_t emu_sub_block_idx() { return core == 2; }

void emu_move(VIEW(a), VIEW(b), int64_t width) {
    View x = MADE(a, width), y = MADE(b, width);
    check(x, width, "a copy's source"), check(y, width, "a copy's target");
    for (int i = 0; i < RANK; ++i)
        if (x.size[i] != y.size[i]) fail("a copy of %lld rows or elements to %lld",
                                         (long long)x.size[i], (long long)y.size[i]);
    if (x.count() == 0) return;
    both(x, x, y, [&](int64_t from, int64_t to) {
        char *p = x.data + from * width, *q = y.data + to * width;
        if (x.stride[4] == 1 && y.stride[4] == 1) memmove(q, p, x.size[4] * width);
        else for (int64_t i = 0; i < x.size[4]; ++i)
            memcpy(q + i * y.stride[4] * width, p + i * x.stride[4] * width, width);
    });
}

// Rows beyond the source stay as they were; the last tile's columns are filled up with zeros.
void emu_nd2nz(VIEW(a), VIEW(b), int64_t width) {
    View x = MADE(a, width), y = MADE(b, width);
    check(x, width, "nd2nz's source"), check(y, width, "nd2nz's target");
    int64_t rows = x.size[3], columns = x.size[4], room = y.size[1] * y.size[4];
    if (rows > y.size[2] * y.size[3] || columns > room)
        fail("nd2nz of %lld x %lld into %lld x %lld", (long long)rows, (long long)columns,
             (long long)(y.size[2] * y.size[3]), (long long)room);
    int64_t filled = std::min(room, (columns + y.size[4] - 1) / y.size[4] * y.size[4]);
    for (int64_t i = 0; i < rows; ++i) for (int64_t j = 0; j < filled; ++j) {
        char *q = tiled(y, i, j, width);
        if (j < columns) memcpy(q, x.data + (i * x.stride[3] + j * x.stride[4]) * width, width);
        else memset(q, 0, width);
    }
}

void emu_mmad(VIEW(a), VIEW(b), VIEW(c), int64_t init, int64_t m, int64_t k, int64_t n,
              int64_t flip, int64_t kind, int64_t sum) {
    int64_t w = width_of(kind);
    product(MADE(a, w), MADE(b, w), MADE(c, 4), init, m, k, n, flip, kind, sum, nullptr, nullptr);
}

void emu_load_scale(VIEW(a), VIEW(b)) {
    View x = MADE(a, 1), y = MADE(b, 1);
    check(x, 1, "load_scale's source"), check(y, 1, "load_scale's target");
    const int64_t *z = y.size + 1, *t = y.stride + 1;
    for (int64_t i = 0; i < x.size[3]; ++i) for (int64_t g = 0; g < x.size[4]; ++g)
        y.data[i / z[2] * t[0] + g / z[3] * t[1] + i % z[2] * t[2] + g % z[3] * t[3]] =
            x.data[i * x.stride[3] + g * x.stride[4]];
}

void emu_mmadmx(VIEW(a), VIEW(b), VIEW(c), VIEW(d), VIEW(e), int64_t init, int64_t m, int64_t k,
                int64_t n, int64_t flip) {
    std::vector<float> sa = scales(MADE(c, 1), m, k / 32), sb = scales(MADE(d, 1), n, k / 32);
    product(MADE(a, 1), MADE(b, 1), MADE(e, 4), init, m, k, n, flip, E4M3, F32, &sa, &sb);
}

void emu_fixpipe(VIEW(a), VIEW(b), int64_t from, int64_t to, int64_t halves) {
    int64_t w = width_of(to);
    View x = MADE(a, 4), y = MADE(b, w);
    check(x, 4, "fixpipe's source"), check(y, w, "fixpipe's target");
    int64_t rows = y.size[3], columns = y.size[4], apart = block->ub[1] - block->ub[0];
    int64_t all_rows = halves == 1 ? 2 * rows : rows;
    int64_t all_columns = halves == 2 ? 2 * columns : columns;
    if (all_rows > x.size[2] * x.size[3] || all_columns > x.size[1] * x.size[4])
        fail("fixpipe of more than there is");
    for (int64_t i = 0; i < all_rows; ++i) for (int64_t j = 0; j < all_columns; ++j) {
        char *p = tiled(x, i, j, 4);
        char *q = y.data + (i % rows * y.stride[3] + j % columns * y.stride[4]) * w
            + (i >= rows || j >= columns) * apart;
        float f;
        memcpy(&f, p, 4);
        if (from == to) memcpy(q, p, w);
        else if (to == BF16) *(uint16_t *)q = to_bf16(f);
        else *(_Float16 *)q = (_Float16)f;
    }
}

void emu_sort(VIEW(a), VIEW(b), int64_t kind, int64_t descending) {
    int64_t w = width_of(kind);
    View x = MADE(a, w), y = MADE(b, w);
    check(x, w, "sort's source"), check(y, w, "sort's target");
    if (kind == F32) sort_rows<float>(x, y, descending);
    else if (kind == F16) sort_rows<_Float16>(x, y, descending);
    else if (kind == I16) sort_rows<int16_t>(x, y, descending);
    else if (kind == I32) sort_rows<int32_t>(x, y, descending);
    else if (kind == I64) sort_rows<int64_t>(x, y, descending);
    else fail("sort of elements of kind %lld", (long long)kind);
}

void emu_cumsum(VIEW(a), VIEW(b), int64_t kind) {
    View x = MADE(a, 4), y = MADE(b, 4);
    check(x, 4, "cumsum's source"), check(y, 4, "cumsum's target");
    if (kind != F32 && kind != I32) fail("cumsum of elements of kind %lld", (long long)kind);
    both(x, x, y, [&](int64_t from, int64_t to) {
        float f = 0;
        int32_t s = 0;
        for (int64_t i = 0; i < x.size[4]; ++i) {
            const char *p = x.data + 4 * (from + i * x.stride[4]);
            char *q = y.data + 4 * (to + i * y.stride[4]);
            if (kind == F32) *(float *)q = f += *(const float *)p;
            else *(int32_t *)q = s += *(const int32_t *)p;
        }
    });
}

void emu_gather(VIEW(a), VIEW(i), VIEW(b), int64_t width) {
    View x = MADE(a, width), n = MADE(i, 4), y = MADE(b, width);
    check(x, width, "gather's source"), check(n, 4, "gather's indices");
    check(y, width, "gather's target");
    std::vector<int64_t> rows;                  // where each row of the source begins
    both(x, x, x, [&](int64_t from, int64_t) { rows.push_back(from); });
    size_t row = 0;
    both(n, n, y, [&](int64_t at, int64_t to) {
        for (int64_t j = 0; j < n.size[4]; ++j) {
            int64_t index = ((int32_t *)n.data)[at + j * n.stride[4]];
            if (index < 0 || index >= x.size[4]) fail("gather of element %lld of %lld",
                                                      (long long)index, (long long)x.size[4]);
            memcpy(y.data + (to + j * y.stride[4]) * width,
                   x.data + (rows[row] + index * x.stride[4]) * width, width);
        }
        ++row;
    });
}

void emu_table(VIEW(a), int64_t width) {
    View x = MADE(a, width);
    for (const Region &r : tables) if (r.start == x.data) return;
    tables.push_back({x.data, x.count() * width, "a table"});
}

// Masks lie in memory bit by bit; offsets and strides count bits.
int64_t emu_mask_read(VIEW(a), int64_t at, int64_t mask, int64_t pad) {
    const uint8_t *p = (const uint8_t *)a_p;
    int64_t lanes = std::min<int64_t>(64, a4 - at), first = a_o + at * a9, found = pad ? -1 : 0;
    if (a9 == 1 && first % 8 == 0 && lanes == 64 && mask == -1) {
        memcpy(&found, p + first / 8, 8);
        return found;
    }
    for (int64_t i = 0; i < lanes; ++i) if (mask >> i & 1) {
        int64_t bit = first + i * a9;
        found = (found & ~(int64_t(1) << i)) | int64_t(p[bit >> 3] >> (bit & 7) & 1) << i;
    }
    return found;
}

void emu_mask_write(VIEW(a), int64_t at, int64_t mask, int64_t value) {
    uint8_t *p = (uint8_t *)a_p;
    int64_t lanes = std::min<int64_t>(64, a4 - at), first = a_o + at * a9;
    if (a9 == 1 && first % 8 == 0 && lanes == 64 && mask == -1) {
        memcpy(p + first / 8, &value, 8);
        return;
    }
    for (int64_t i = 0; i < lanes; ++i) if (mask >> i & 1) {
        int64_t bit = first + i * a9;
        p[bit >> 3] = (p[bit >> 3] & ~(1 << (bit & 7))) | (value >> i & 1) << (bit & 7);
    }
}

void emu_sync_set(int64_t flag) {
    if (flag < 0 || flag >= FLAGS) fail("flag %lld between cores", (long long)flag);
    {
        std::lock_guard<std::mutex> guard(block->mutex);
        if (core == 0) ++block->to_vector[flag][0], ++block->to_vector[flag][1];
        else ++block->to_cube[flag][core - 1];
    }
    block->changed.notify_all();
}

void emu_sync_wait(int64_t flag) {
    if (flag < 0 || flag >= FLAGS) fail("flag %lld between cores", (long long)flag);
    bool there;
    {
        std::unique_lock<std::mutex> guard(block->mutex);
        auto ready = [&] {
            return core ? block->to_vector[flag][core - 1] > 0
                        : block->to_cube[flag][0] > 0 && block->to_cube[flag][1] > 0; };
        there = block->changed.wait_for(guard, std::chrono::milliseconds(block->limit_ms),
                                        [&] { return block->failed || ready(); })
                && !block->failed;
        if (there) {
            if (core) --block->to_vector[flag][core - 1];
            else --block->to_cube[flag][0], --block->to_cube[flag][1];
        }
    }
    if (!there) fail("waits for flag %lld of another core, which does not come (%lld ms)",
                     (long long)flag, (long long)block->limit_ms);
}

typedef void (*Start)(void **memories, const int64_t *scalars);
struct Memory { char *allocated, *aligned; int64_t offset, size, stride; };
struct Core {
    Block *block; int number; bool leads; Start start; void **memories; const int64_t *scalars;
};

// What one core sees first: nothing but garbage, and no signal.
static void clear(Block &b) {
    for (const Region &r : {b.regions[0], b.regions[1], b.regions[2], b.regions[3]})
        memset((char *)r.start, POISON, r.bytes);
    memset(b.to_vector, 0, sizeof b.to_vector), memset(b.to_cube, 0, sizeof b.to_cube);
}

static void look_for_signals(Block &b) {
    for (int f = 0; f < FLAGS && !b.failed; ++f)
        if (b.to_vector[f][0] || b.to_vector[f][1] || b.to_cube[f][0] || b.to_cube[f][1]) {
            snprintf(b.message, b.message_bytes, "block %lld: flag %d between cores is left set",
                     (long long)b.index, f);
            b.failed = true;
        }
}

static void *run_core(void *argument) {
    Core *c = (Core *)argument;
    Block &b = *c->block;
    block = c->block, core = c->number;
    int64_t bytes[] = {UB_BYTES, L1_BYTES, L0C_BYTES};
    char *own[] = {b.ub[core == 2], b.l1, b.l0c};
    Memory memories[3];
    for (int i = 0; i < 3; ++i) memories[i] = {own[i], own[i], 0, bytes[i], 1};
    std::vector<void *> all(c->memories, c->memories + *c->scalars);
    for (Memory &m : memories) all.push_back(&m);
    for (int64_t i = 0; i < b.blocks; ++i) {
        if (c->leads) b.index = i, clear(b);
        pthread_barrier_wait(&b.meeting);
        if (b.failed) break;
        if (!setjmp(out)) c->start(all.data(), c->scalars + 1);
        pthread_barrier_wait(&b.meeting);
        if (c->leads) look_for_signals(b);
    }
    return nullptr;
}

// Runs all blocks of a launch. `scalars` begins with the number of memories. 0, or 1 with a message.
int emu_launch(Start cube, Start vector, Memory *memories, const int64_t *bytes,
               const int64_t *scalars, int64_t blocks, int64_t limit_ms, char *message,
               int64_t message_bytes) {
    static char *room = (char *)aligned_alloc(512, 2 * UB_BYTES + L1_BYTES + L0C_BYTES);
    static char *stacks = (char *)mmap(nullptr, 3 * STACK, PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!room || stacks == MAP_FAILED) abort();
    Block b;
    b.blocks = blocks, b.failed = false, b.limit_ms = limit_ms;
    b.message = message, b.message_bytes = message_bytes;
    b.ub[0] = room, b.ub[1] = room + UB_BYTES, b.l1 = b.ub[1] + UB_BYTES, b.l0c = b.l1 + L1_BYTES;
    // a launch on vector cores alone has one of them, and nothing of the cube core's
    int64_t rest = cube ? 1 : 0;
    b.regions = {{b.ub[0], UB_BYTES, "UB"}, {b.ub[1], rest * UB_BYTES, "UB"},
                 {b.l1, rest * L1_BYTES, "L1"}, {b.l0c, rest * L0C_BYTES, "L0C"}};
    std::vector<void *> pointers;
    for (int64_t i = 0; i < *scalars; ++i) {
        pointers.push_back(memories + i);
        b.regions.push_back({memories[i].aligned, bytes[i], "an argument"});
    }
    int first = cube ? 0 : 1, last = cube && vector ? 2 : first;
    pthread_barrier_init(&b.meeting, nullptr, last - first + 1);
    Core cores[3];
    pthread_t threads[3];
    for (int i = first; i <= last; ++i) {
        cores[i] = {&b, i, i == first, i ? vector : cube, pointers.data(), scalars};
        pthread_attr_t attributes;
        pthread_attr_init(&attributes);
        pthread_attr_setstack(&attributes, stacks + i * STACK, STACK);
        if (pthread_create(&threads[i], &attributes, run_core, &cores[i])) abort();
        pthread_attr_destroy(&attributes);
    }
    for (int i = first; i <= last; ++i) pthread_join(threads[i], nullptr);
    pthread_barrier_destroy(&b.meeting);
    return b.failed;
}
}
