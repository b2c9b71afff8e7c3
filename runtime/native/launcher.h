/* The native half of the CPU runtime: what a compiled artifact needs besides its kernels.
 *
 * Kernels are C symbols `__tvm_ffi_<name>` of type fl_kernel. They report errors, take scratch memory and open parallel
 * regions through symbols that launcher.c defines; Python drives all of it through the functions below. */
#ifndef FIRSTLIGHT_LAUNCHER_H
#define FIRSTLIGHT_LAUNCHER_H
#include <stdint.h>

typedef struct fl_pool fl_pool;

/* One packed argument as generated code reads it. */
typedef struct {
  int32_t type; /* 1: integer, 4: pointer */
  uint32_t zero;
  int64_t value;
} fl_arg;

typedef int (*fl_kernel)(void* self, const fl_arg* args, int32_t n_args, fl_arg* result);

typedef struct {
  fl_kernel kernel;
  const fl_arg* args;
  int64_t n_args;
} fl_step;

/* *where = base + scale * scalars[slot], written before the first step of a run. */
typedef struct {
  int64_t* where;
  int64_t base, scale, slot;
} fl_patch;

enum { FL_TOKENS = 0, FL_POSITION = 1 }; /* scalars with a meaning; more may follow them */

/* A pool of `threads` threads, the caller included; fewer if the system refuses more. NULL: out of memory. */
fl_pool* fl_start(int threads);
void fl_stop(fl_pool* pool); /* no run may be under way */
int fl_threads(const fl_pool* pool);

/* Patch, run all steps, then advance scalars[FL_POSITION] by scalars[FL_TOKENS]: the two happen together, so a signal
 * handled by the caller cannot come between them. Returns -1, or the index of the step that failed (fl_error() has its
 * text and the position stands still). Several threads may run at once on one pool. */
int64_t fl_run(fl_pool* pool, const fl_step* steps, int64_t n_steps, const fl_patch* patches, int64_t n_patches,
               int64_t* scalars);
const char* fl_error(void); /* of the calling thread */

/* Measuring sticks on the same pool. fl_read adds up n bytes (a multiple of 1024, 64-byte aligned); fl_fma makes
 * `rounds` rounds of multiply-adds on every thread and returns the floating-point operations it did. */
int64_t fl_read(fl_pool* pool, const void* from, int64_t n);
int64_t fl_fma(fl_pool* pool, int64_t rounds);
/* The same for products of bytes; not on every machine. */
int64_t fl_int8(fl_pool* pool, int64_t rounds);
/* Opens and closes `rounds` regions without work. */
int64_t fl_region(fl_pool* pool, int64_t rounds);
/* On a pool of one thread, from now on: each region leaves its nanoseconds behind spent[0], which counts up to `room` of
 * such words, and each step then the negative of its own. The caller sets spent[0] to 0. */
void fl_watch(fl_pool* pool, int64_t* spent, int64_t room);
#endif
