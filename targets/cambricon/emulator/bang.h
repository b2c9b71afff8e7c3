// BANG C for a host compiler: the words, the builtin variables, and the intrinsics.
#pragma once
#include <cmath>

#include "intrinsics.h"
#include "machine.h"
#include "memory.h"
#include "scalar.h"
#include "types.h"

#define __mlu_global__
#define __mlu_entry__
#define __mlu_func__ inline
#define __mlu_device__
#define __nram__ __attribute__((aligned(64)))

#define taskId (bang::core->task)
#define taskIdX (bang::core->task)
#define taskIdY 0
#define taskIdZ 0
#define taskDim (bang::settings.tasks)
#define taskDimX (bang::settings.tasks)
#define taskDimY 1
#define taskDimZ 1
#define coreDim 4
#define coreId (bang::core->task % 4)
#define clusterId (bang::core->task / 4)
#define clusterDim (bang::settings.tasks / 4)
inline bool __is_mpu() { return false; }
inline bool __is_ipu() { return true; }

namespace bang {
// Calls a kernel whose parameters are pointers, then the number of tokens.
template <class... A, size_t... I>
void spread(void (*kernel)(A..., int32_t), void **p, int32_t tokens, std::index_sequence<I...>) {
    kernel(static_cast<A>(p[I])..., tokens);
}
}  // namespace bang
