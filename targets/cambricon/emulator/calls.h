// What the headers that kernels read ask of the machine, which is compiled once, elsewhere.
#pragma once
#include "types.h"

namespace bang {
enum Space : uint8_t { OTHER, NRAM, WRAM, SRAM, GDRAM, LDRAM, SPACES };
enum class Op : int {
#define BINARY(NAME, ...) v_##NAME,
#include "instructions.def"
};

// The task and core that run: what taskId and the like read.
struct Place {
    uint32_t taskId, taskIdX, taskIdY, taskIdZ, taskDim, taskDimX, taskDimY, taskDimZ;
    uint32_t clusterId, clusterDim, coreId, coreDim;
    bool memory_core;
};
extern Place place;

// Blocks of bytes at two strides, as memory instructions take them.
struct Block {
    int64_t bytes;
    int64_t stride[2] = {0, 0};
    int64_t count[2] = {1, 1};      // times each stride
};
enum class Pooling { SUM, MAX, MIN };
enum class Turn { TRANSPOSE, MIRROR, ROTATE90, ROTATE180, ROTATE270 };
enum class Count { NONZERO, FIRST, LAST, BITS };
enum class Atomic { ADD, MAX, MIN, AND, OR, XOR, EXCHANGE, INC, DEC };
enum class Gate { CLUSTER, ALL, ALL_IPU, ALL_MPU, CLUSTER_IPU };
struct Window { uint32_t channel, height, width, kernel_height, kernel_width, stride_width,
                stride_height; };
constexpr int IO_BIT = 1, MOVE_BIT = 2, COMPUTE_BIT = 4, ALL_BITS = 7;

// segment: 0 where b is one value, n where it is as long as a, else it repeats
void vector(Op, Type, void *to, const void *a, const void *b, uint32_t n, uint32_t segment, At);
void shift(Op, Type, void *to, const void *a, uint32_t bits, uint32_t n, At);
void fuse(int code, Type, void *to, const void *a, const void *b, bool b_scalar, const void *c,
          bool c_scalar, uint32_t n, uint32_t segment, At);
void convert(const char *name, Type to_type, void *to, Type from_type, const void *from, uint32_t n,
             Rounding, int to_position, int from_position, bool same_allowed, const Block *to_block,
             const Block *from_block, At);
double convert_one(float x, Type to_type, Rounding);
void fill(const char *name, bool move, bool waits, void *to, Type, const void *value, uint32_t n,
          const Block &, At);
void fill_gdram(const char *name, bool waits, void *to, Type, const void *value, uint32_t n, At);
void copy(const char *name, bool waits, void *to, Space to_space, const Block &, const void *from,
          Space from_space, const Block &, At);
void move(void *to, const Block &, const void *from, const Block &, At);
void gather(bool scatter, bool waits, void *to, const void *from, const void *offsets, int width,
            const void *mask, uint32_t size, Space to_space, Space from_space, uint32_t stride,
            uint32_t n, At);
void atomic(Atomic, Type, void *old, void *to, const void *by, bool scalar, uint32_t n, At);
void turn(Turn, Type, void *to, const void *from, uint32_t height, uint32_t width, At);
void pad(Type, void *to, const void *from, uint32_t channel, uint32_t height, uint32_t width,
         uint32_t top, uint32_t bottom, uint32_t left, uint32_t right, const void *value, At);
void pool(Pooling, Type, void *to, const void *from, const Window &, At);
void pool_index(Pooling, Type, void *to, const void *from, const Window &, uint32_t stride, At);
void reduce_sum(Type, void *to, const void *from, uint32_t n, At);
float sum(Type, const void *from, uint32_t n, At);
void argument(bool largest, Type, void *to, const void *from, uint32_t n, At);
uint32_t count(Count, Type, const void *from, uint32_t n, At);
uint32_t filter(Type, void *to, const void *from, const void *chosen, bool bits, uint32_t n, At);
void maskmove(void *to, const void *from, const void *mask, uint32_t bytes, At);
void lookup(Type, void *to, const void *index, const void *table, uint32_t n, uint32_t length, At);
void reshape_filter(Type, void *to, const void *from, uint32_t n, uint32_t h, uint32_t w,
                    uint32_t c, At);
void matmul(Type, void *to, Type, const void *a, Type, const void *b, const void *plus, uint32_t m,
            uint32_t k, uint32_t n, int position, At);
void histogram(Type, void *to, Type, const void *from, const void *kernel, uint32_t n, At);
void sync(const char *name, int before, int after, At);
void barrier(const char *name, Gate, At);
void load(const void *p, int64_t bytes, Space, At);
void store(const void *p, int64_t bytes, Space, At);
Space space_of(const void *);
}  // namespace bang
