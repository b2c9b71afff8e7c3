// BANG C for a host compiler: the words of the language, its variables, its instructions.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "calls.h"
#include "convert.h"
#include "memory.h"
#include "sync.h"
#include "tensor.h"
#include "types.h"
#include "vector.h"

#define __mlu_global__
#define __mlu_entry__
#define __mlu_func__ __attribute__((unused))
#define __mlu_builtin__
#define __mlu_device__
#define __BANG__ 1
#ifndef __BANG_ARCH__
#define __BANG_ARCH__ 592
#endif

// Arrays lie in sections of their own: the symbol table says which memory an address is in. A
// process is a core, so that its arrays are its own; what a cluster shares is mapped into each.
#define BANG_SECTION(NAME, ALIGN) static __attribute__((used, section(NAME), aligned(ALIGN)))
#define __nram__ BANG_SECTION("bang_nram", 64)
#define __wram__ BANG_SECTION("bang_wram", 64)
#define __ldram__ BANG_SECTION("bang_ldram", 64)
#define __mlu_shared__ BANG_SECTION("bang_sram", 4096)

#define taskId (bang::place.taskId)
#define taskIdX (bang::place.taskIdX)
#define taskIdY (bang::place.taskIdY)
#define taskIdZ (bang::place.taskIdZ)
#define taskDim (bang::place.taskDim)
#define taskDimX (bang::place.taskDimX)
#define taskDimY (bang::place.taskDimY)
#define taskDimZ (bang::place.taskDimZ)
#define clusterId (bang::place.clusterId)
#define clusterDim (bang::place.clusterDim)
#define coreId (bang::place.coreId)
#define coreDim (bang::place.coreDim)
inline bool __is_mpu() { return bang::place.memory_core; }
inline bool __is_ipu() { return !bang::place.memory_core; }
#define __bang_printf printf

// Mathematics of half in registers, by way of float.
#define BANG_HALF_FUNCTION(NAME) \
    inline half NAME(half x) { return static_cast<half>(std::NAME(static_cast<float>(x))); }
BANG_HALF_FUNCTION(cos)
BANG_HALF_FUNCTION(sin)
BANG_HALF_FUNCTION(exp)
BANG_HALF_FUNCTION(log)
BANG_HALF_FUNCTION(sqrt)
BANG_HALF_FUNCTION(fabs)
BANG_HALF_FUNCTION(floor)
BANG_HALF_FUNCTION(ceil)
inline bool isnan(half x) { return x != x; }
