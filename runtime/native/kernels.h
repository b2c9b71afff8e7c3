/* The kernels of a program that is linked as one executable, where no loader can find them by name. The table is
 * written by the linker's driver (targets/cpu/toolchain.py), in the order of strcmp. */
#ifndef FIRSTLIGHT_KERNELS_H
#define FIRSTLIGHT_KERNELS_H
#include "launcher.h"

typedef struct {
  const char* name;
  fl_kernel run;
} fl_named;

extern const fl_named fl_kernels[];
extern const int64_t fl_kernel_count;
#endif
