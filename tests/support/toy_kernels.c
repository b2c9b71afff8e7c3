/* Kernels of a toy "model" in the packed ABI of generated code, with all the kinds of state that a real one has. */
#include <stdint.h>
#include <unistd.h>

typedef struct {
  int32_t type;
  uint32_t zero;
  union {
    int64_t i;
    void* p;
  } v;
} arg;
typedef struct {
  void* sync;
  int32_t n;
} env;

__attribute__((weak)) int (*__TVMBackendParallelLaunch)(int (*)(int, env*, void*), void*, int) = 0;
__attribute__((weak)) void* (*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int) = 0;
__attribute__((weak)) int (*__TVMBackendFreeWorkspace)(int, int, void*) = 0;
void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts, int32_t n);

#define KERNEL(name) __attribute__((visibility("default"))) int __tvm_ffi_##name(void* self, arg* a, int32_t n, arg* ret)
#define P(i) a[i].v.p

enum { RING = 4, RATIO = 3, HIDDEN = 4, VOCAB = 32, SLEEP = 29, FAIL_IN_WORKER = 30, FAIL = 31 };

static int fail(const char* why) {
  const char* parts[] = {"the toy ", why};
  TVMFFIErrorSetRaisedFromCStrParts("ToyError", parts, 2);
  return -1;
}

/* tokens, pos, table[VOCAB], sum[1], ring[RING, 2], partial[RATIO, 2], entries[n, 2], hidden[S, HIDDEN], S */
KERNEL(step) {
  (void)self, (void)n, (void)ret;
  int32_t *tokens = P(0), pos = *(int32_t*)P(1);
  float *table = P(2), *sum = P(3), *ring = P(4), *partial = P(5), *entries = P(6), *hidden = P(7);
  for (int64_t s = 0; s < a[8].v.i; ++s) {
    int64_t p = pos + s;
    float v = table[tokens[s]], mean = 0, far = 0;
    if (tokens[s] == SLEEP) usleep(200000);
    *sum = 0.5f * *sum + v;
    ring[p % RING * 2] = v, ring[p % RING * 2 + 1] = (float)p;
    partial[p % RATIO * 2] = v, partial[p % RATIO * 2 + 1] = 1;
    if (p % RATIO == RATIO - 1) {
      float* e = entries + p / RATIO * 2;
      e[0] = e[1] = 0;
      for (int r = 0; r < RATIO; ++r) e[0] += partial[2 * r], e[1] += partial[2 * r + 1];
    }
    for (int64_t q = p < RING ? 0 : p - RING + 1; q <= p; ++q) mean += ring[q % RING * 2] * (1 + 0.1f * (float)(p - q));
    for (int64_t w = 0; w < (p + 1) / RATIO; ++w) far = 0.9f * far + entries[2 * w] * entries[2 * w + 1];
    float* h = hidden + s * HIDDEN;
    h[0] = *sum, h[1] = mean, h[2] = far, h[3] = 0.01f * (float)p;
  }
  return 0;
}

/* Fails, on this thread or on a worker, if a token asks for it: tokens, S */
static int guard_task(int task, env* e, void* data) {
  (void)e, (void)data;
  return task == 0 ? fail("worker gave up") : 0;
}

KERNEL(guard) {
  (void)self, (void)n, (void)ret;
  int32_t* tokens = P(0);
  for (int64_t s = 0; s < a[1].v.i; ++s) {
    if (tokens[s] == FAIL) return fail("kernel gave up");
    if (tokens[s] == FAIL_IN_WORKER && __TVMBackendParallelLaunch(guard_task, 0, 0)) return -1;
  }
  return 0;
}

typedef struct {
  const float *hidden, *head;
  float* logits;
  int64_t rows;
} head_job;

static int head_task(int task, env* e, void* data) {
  head_job* j = data;
  for (int64_t i = j->rows * VOCAB * task / e->n; i < j->rows * VOCAB * (task + 1) / e->n; ++i) {
    float x = 0;
    for (int k = 0; k < HIDDEN; ++k) x += j->hidden[i / VOCAB * HIDDEN + k] * j->head[i % VOCAB * HIDDEN + k];
    j->logits[i] = i % VOCAB < SLEEP ? x : -100;
  }
  return 0;
}

/* hidden, head[VOCAB, HIDDEN], last, logits[1, VOCAB] */
KERNEL(head_last) {
  (void)self, (void)n, (void)ret;
  head_job j = {(float*)P(0) + *(int32_t*)P(2) * HIDDEN, P(1), P(3), 1};
  return __TVMBackendParallelLaunch(head_task, &j, 0);
}

/* hidden, head[VOCAB, HIDDEN], logits[S, VOCAB], S */
KERNEL(head_all) {
  (void)self, (void)n, (void)ret;
  head_job j = {P(0), P(1), P(2), a[3].v.i};
  return __TVMBackendParallelLaunch(head_task, &j, 0);
}

/* ---- for the tests of the pool and the workspace ---- */

typedef struct {
  int64_t *out, n, depth, fail_at;
} count_job;

static int count_task(int task, env* e, void* data) {
  count_job* j = data;
  if (j->depth > 0) { /* a nested region computes this task's whole share */
    count_job inner = {j->out + j->n * task / e->n, j->n * (task + 1) / e->n - j->n * task / e->n, j->depth - 1, -1};
    return __TVMBackendParallelLaunch(count_task, &inner, 0);
  }
  for (int64_t i = j->n * task / e->n; i < j->n * (task + 1) / e->n; ++i) {
    if (i == j->fail_at) return fail("task gave up");
    j->out[i] += 1;
  }
  return 0;
}

/* out[n] int64, n, regions, depth, fail_at: adds 1 to each element once per region */
KERNEL(count) {
  (void)self, (void)n, (void)ret;
  count_job j = {P(0), a[1].v.i, a[3].v.i, a[4].v.i};
  for (int64_t r = 0; r < a[2].v.i; ++r)
    if (__TVMBackendParallelLaunch(count_task, &j, 0)) return -1;
  return 0;
}

/* bytes, levels: takes scratch memory in a stack of allocations, writes and checks it; leaves it lying if levels < 0 */
static int use_scratch(int64_t bytes, int64_t levels, int64_t mark) {
  int64_t* p = __TVMBackendAllocWorkspace(1, 0, (uint64_t)bytes, 0, 8);
  if (!p) return -1;
  if ((uintptr_t)p % 64) return fail("scratch is not aligned");
  p[0] = p[bytes / 8 - 1] = mark;
  if (levels > 1 && use_scratch(bytes / 2 + 64, levels - 1, mark + 1)) return -1;
  if (p[0] != mark || p[bytes / 8 - 1] != mark) return fail("scratch was overwritten");
  if (levels < 0) return fail("kernel left its scratch lying");
  return __TVMBackendFreeWorkspace(1, 0, p);
}

KERNEL(scratch) {
  (void)self, (void)n, (void)ret;
  return use_scratch(a[0].v.i, a[1].v.i, 1);
}

KERNEL(nothing) {
  (void)self, (void)a, (void)n, (void)ret;
  return 0;
}
