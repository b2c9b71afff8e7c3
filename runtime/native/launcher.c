/* Error text, workspace, thread pool and program loop of a CPU artifact; launcher.h has the contract. */
#define _GNU_SOURCE
#include "launcher.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct {
  void* sync; /* unused */
  int32_t n_tasks;
} task_env;
typedef int (*task_fn)(int task, task_env* env, void* data);

#if defined(__x86_64__)
#define RELAX() __builtin_ia32_pause()
#else
#define RELAX() __extension__({ __asm__ volatile("" ::: "memory"); })
#endif

/* Python looks these up. All else is compiled hidden, where a TVM loaded in the same process cannot replace it. */
#define EXPORT __attribute__((visibility("default")))

/* ---- errors: a failing kernel hands over a kind and the pieces of a sentence, then returns -1 ---- */

static _Thread_local char error_text[1024];

void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts, int32_t n) {
  size_t room = sizeof error_text, used = (size_t)snprintf(error_text, room, "%s: ", kind);
  for (int32_t i = 0; i < n && used < room; ++i)
    if (parts[i]) used += (size_t)snprintf(error_text + used, room - used, "%s", parts[i]);
}

void TVMFFIErrorSetRaisedFromCStr(const char* kind, const char* text) {
  TVMFFIErrorSetRaisedFromCStrParts(kind, &text, 1);
}

EXPORT const char* fl_error(void) { return error_text; }

/* ---- workspace: a stack per thread, because kernels free in reverse order. It is a list of blocks, the newest the
 *      largest; a block that fell empty below the newest is given back, so repeated use settles on one block ---- */

typedef struct block {
  struct block* older;
  size_t size, used;
  _Alignas(64) char data[];
} block;

enum { FIRST_BLOCK = 1 << 20 };

static _Thread_local block* stack_top;
static pthread_key_t stack_key; /* its destructor runs when a thread ends */

static void free_stack(void* top) {
  for (block *b = top, *older; b; b = older) older = b->older, free(b);
}

__attribute__((constructor)) static void create_key(void) { pthread_key_create(&stack_key, free_stack); }

static void drop_empty_blocks(void) {
  for (block* b; (b = stack_top->older) && b->used == 0; free(b)) stack_top->older = b->older;
}

/* A kernel that fails returns without freeing. */
static void workspace_reset(void) {
  for (block* b = stack_top; b; b = b->older) b->used = 0;
  if (stack_top) drop_empty_blocks();
}

static void* workspace_alloc(int device, int id, uint64_t n, int code, int bits) {
  (void)device, (void)id, (void)code, (void)bits;
  n = n ? (n + 63) & ~(uint64_t)63 : 64;
  if (!stack_top || stack_top->size - stack_top->used < n) {
    size_t size = stack_top ? 2 * stack_top->size : FIRST_BLOCK;
    if (size < n) size = n;
    block* b = n > SIZE_MAX / 4 ? NULL : aligned_alloc(64, sizeof(block) + size);
    if (!b) {
      TVMFFIErrorSetRaisedFromCStr("MemoryError", "no memory for a kernel's workspace");
      return NULL;
    }
    *b = (block){.older = stack_top, .size = size};
    stack_top = b;
    drop_empty_blocks();
    pthread_setspecific(stack_key, b);
  }
  void* p = stack_top->data + stack_top->used;
  stack_top->used += n;
  return p;
}

static int workspace_free(int device, int id, void* p) {
  (void)device, (void)id;
  block* b = stack_top;
  while ((char*)p < b->data || (char*)p >= b->data + b->size) b = b->older;
  b->used = (size_t)((char*)p - b->data);
  drop_empty_blocks();
  return 0;
}

/* ---- pool: workers spin a little for the next region, then sleep. A region is many small tasks. Each thread starts with
 *      an equal share of consecutive ones, a long stream from memory, and who has none left takes half of what another
 *      has: threads end together, also where one of them lost its core to another process ---- */

enum { MAX_THREADS = 256, SPINS = 1 << 13 };

/* Tasks of a thread: of a prompt many, so that threads end together; of one token, whose regions take some microseconds,
 * few, because starting one takes some tens of nanoseconds and taking one from another thread some hundreds. */
enum { TASKS_OF_PROMPT = 32, TASKS_OF_TOKEN = 8 };

/* One line for each thread: a line that another core wrote takes 0.2 us to arrive where the cores share no cache. */
typedef struct {
  _Alignas(64) _Atomic uint64_t tasks; /* the first of them, and in the upper half the one behind the last */
  atomic_int inside;                   /* a worker that may still touch the region */
} share;

struct fl_pool {
  int threads, spins, home;
  int64_t *spent, room; /* of fl_watch */
  pthread_t id[MAX_THREADS];
  pthread_mutex_t lock;
  pthread_cond_t wake;
  char error[sizeof error_text];
  atomic_int stop, sleepers, started;
  _Alignas(64) atomic_uint epoch; /* odd: a region is open */
  task_fn fn; /* of the open region, written by its owner only while no worker reads it */
  void* data;
  int n_tasks;
  _Alignas(64) atomic_int owned; /* some thread owns the pool for its region */
  atomic_int failed;
  share shares[MAX_THREADS]; /* the owner's is the first */
};

/* The pool a run uses. NULL in workers and inside a region, where a nested region runs inline. */
static _Thread_local fl_pool* current;
static _Thread_local int per_thread = TASKS_OF_PROMPT; /* of the regions that this thread starts */

static uint64_t range(uint32_t first, uint32_t last) { return first | (uint64_t)last << 32; }

/* The next task of a share, or -1. */
static int next_task(share* s) {
  uint64_t r = atomic_load(&s->tasks);
  while ((uint32_t)r < r >> 32)
    if (atomic_compare_exchange_weak(&s->tasks, &r, r + 1)) return (int)(uint32_t)r;
  return -1;
}

/* The lower half of a share's tasks becomes `to`; 0 if it has none. Generated code leaves the last tasks empty where
 * there are too many: who takes from a share shall find work. */
static int halve(share* from, share* to) {
  uint64_t r = atomic_load(&from->tasks);
  for (uint32_t first, last; (first = (uint32_t)r) < (last = (uint32_t)(r >> 32));) {
    uint32_t middle = last - (last - first) / 2;
    if (!atomic_compare_exchange_weak(&from->tasks, &r, range(middle, last))) continue;
    atomic_store(&to->tasks, range(first, middle));
    return 1;
  }
  return 0;
}

static void drain(fl_pool* p, int index) {
  task_env env = {NULL, p->n_tasks};
  share* own = p->shares + index;
  for (int other = 0; other < p->threads;) {
    for (int t; (t = next_task(own)) >= 0; other = 0)
      if (p->fn(t, &env, p->data) && !atomic_exchange(&p->failed, 1)) memcpy(p->error, error_text, sizeof error_text);
    other += !halve(p->shares + (index + other) % p->threads, own);
  }
}

/* A new thread starts on its parent's core and may stay there for 20 ms. It moves to a core of its own once and then
 * takes the whole mask again, so that the scheduler stays free. */
static void spread(const fl_pool* p, int index) {
  cpu_set_t all, one;
  if (sched_getaffinity(0, sizeof all, &all) || CPU_COUNT(&all) <= index) return;
  CPU_ZERO(&one);
  for (int cpu = 0, left = index; cpu < CPU_SETSIZE && left; ++cpu)
    if (CPU_ISSET(cpu, &all) && cpu != p->home && --left == 0) CPU_SET(cpu, &one);
  if (!sched_setaffinity(0, sizeof one, &one)) sched_setaffinity(0, sizeof all, &all);
}

static unsigned wait_for_change(fl_pool* p, unsigned seen) {
  unsigned e;
  for (int i = 0; i < p->spins; ++i, RELAX())
    if ((e = atomic_load_explicit(&p->epoch, memory_order_acquire)) != seen) return e;
  pthread_mutex_lock(&p->lock);
  atomic_fetch_add(&p->sleepers, 1);
  while ((e = atomic_load(&p->epoch)) == seen) pthread_cond_wait(&p->wake, &p->lock);
  atomic_fetch_sub(&p->sleepers, 1);
  pthread_mutex_unlock(&p->lock);
  return e;
}

static void* worker(void* pool) {
  fl_pool* p = pool;
  int index = atomic_fetch_add(&p->started, 1) + 1;
  spread(p, index);
  for (unsigned e = 0;;) {
    e = wait_for_change(p, e);
    if (atomic_load(&p->stop)) return NULL;
    if (!(e & 1)) continue;
    atomic_store(&p->shares[index].inside, 1);
    if (atomic_load(&p->epoch) == e) drain(p, index); /* still open: its owner waits for us */
    workspace_reset();
    atomic_store_explicit(&p->shares[index].inside, 0, memory_order_release);
  }
}

static void change_epoch(fl_pool* p, unsigned by) {
  atomic_fetch_add(&p->epoch, by);
  if (!atomic_load(&p->sleepers)) return;
  pthread_mutex_lock(&p->lock);
  pthread_cond_broadcast(&p->wake);
  pthread_mutex_unlock(&p->lock);
}

static int64_t nanoseconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static void note(fl_pool* p, int64_t spent) {
  if (p->spent[0] < p->room) p->spent[++p->spent[0]] = spent;
}

static int run_inline(fl_pool* p, task_fn fn, void* data) {
  task_env whole = {NULL, 1};
  if (!p || !p->spent) return fn(0, &whole, data);
  current = NULL; /* a nested region is a part of this one */
  int64_t began = nanoseconds();
  int failed = fn(0, &whole, data);
  note(p, nanoseconds() - began + 1); /* a step's is 0 or less */
  current = p;
  return failed;
}

/* n is what the generated code asks for, 0 for "as many as fit"; a task finds its share from env->n_tasks. */
static int parallel_launch(task_fn fn, void* data, int n) {
  fl_pool* p = current;
  if (!p || p->threads == 1 || atomic_exchange_explicit(&p->owned, 1, memory_order_acquire))
    return run_inline(p, fn, data); /* nested, alone, or the pool is busy with another session's region */
  p->fn = fn, p->data = data, p->n_tasks = n ? n : p->threads * per_thread;
  for (int i = 0; i < p->threads; ++i)
    atomic_store_explicit(&p->shares[i].tasks, range(p->n_tasks * i / p->threads, p->n_tasks * (i + 1) / p->threads),
                          memory_order_relaxed); /* seen by who sees the epoch */
  atomic_store_explicit(&p->failed, 0, memory_order_relaxed);
  change_epoch(p, 1);
  current = NULL;
  drain(p, 0);
  current = p;
  atomic_fetch_add(&p->epoch, 1); /* closed; sleepers need not know */
  for (int worker = 1, i = 0; worker < p->threads; ++i)
    if (!atomic_load(&p->shares[worker].inside)) ++worker; else if (i < SPINS) RELAX(); else sched_yield();
  int failed = p->failed;
  if (failed) memcpy(error_text, p->error, sizeof error_text);
  atomic_store_explicit(&p->owned, 0, memory_order_release);
  return failed ? -1 : 0;
}

/* Generated objects declare these as weak pointer variables; a strong definition wins at link time. */
int (*__TVMBackendParallelLaunch)(task_fn, void*, int) = parallel_launch;
void* (*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int) = workspace_alloc;
int (*__TVMBackendFreeWorkspace)(int, int, void*) = workspace_free;

EXPORT fl_pool* fl_start(int threads) {
  fl_pool* p = aligned_alloc(64, sizeof *p);
  if (!p) return NULL;
  memset(p, 0, sizeof *p);
  pthread_mutex_init(&p->lock, NULL);
  pthread_cond_init(&p->wake, NULL);
  cpu_set_t cpus;
  int cores = sched_getaffinity(0, sizeof cpus, &cpus) ? threads : CPU_COUNT(&cpus);
  p->spins = threads <= cores ? SPINS : 0; /* spinning would take the core from a thread with work */
  p->home = sched_getcpu();
  sigset_t all, before; /* blocked in workers: signals belong to the application's threads */
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  for (p->threads = 1; p->threads < threads && p->threads < MAX_THREADS; ++p->threads)
    if (pthread_create(&p->id[p->threads], NULL, worker, p)) break;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return p;
}

EXPORT void fl_stop(fl_pool* p) {
  atomic_store(&p->stop, 1);
  change_epoch(p, 2); /* stays even: nothing to do but to look at stop */
  for (int i = 1; i < p->threads; ++i) pthread_join(p->id[i], NULL);
  pthread_cond_destroy(&p->wake);
  pthread_mutex_destroy(&p->lock);
  free(p);
}

EXPORT int fl_threads(const fl_pool* p) { return p->threads; }

static int run_step(fl_pool* p, const fl_step* s) {
  fl_arg result = {0};
  int64_t began = p->spent ? nanoseconds() : 0;
  int failed = s->kernel(NULL, s->args, (int32_t)s->n_args, &result);
  if (p->spent) note(p, began - nanoseconds());
  return failed;
}

EXPORT int64_t fl_run(fl_pool* pool, const fl_step* steps, int64_t n_steps, const fl_patch* patches, int64_t n_patches,
                      int64_t* scalars) {
  for (const fl_patch* q = patches; q < patches + n_patches; ++q) *q->where = q->base + q->scale * scalars[q->slot];
  int64_t i = 0;
  error_text[0] = 0, current = pool;
  per_thread = scalars[FL_TOKENS] == 1 ? TASKS_OF_TOKEN : TASKS_OF_PROMPT;
  while (i < n_steps && !run_step(pool, steps + i)) ++i;
  current = NULL, per_thread = TASKS_OF_PROMPT;
  if (i < n_steps) return workspace_reset(), i;
  scalars[FL_POSITION] += scalars[FL_TOKENS];
  return -1;
}

/* ---- measuring sticks ---- */

typedef int64_t i64x4 __attribute__((vector_size(32)));
#ifdef __AVX512F__ /* the widest vectors of the target: what its peak is measured with */
enum { LANES = 16 };
#else
enum { LANES = 8 };
#endif
typedef float wide __attribute__((vector_size(4 * LANES)));
typedef struct {
  const char* from;
  int64_t n; /* bytes to read, or rounds for each task */
  atomic_llong sum;
} stick;
static int read_task(int task, task_env* env, void* data) {
  stick* s = data;
  int64_t blocks = s->n / 1024, from = blocks * task / env->n_tasks, to = blocks * (task + 1) / env->n_tasks;
  i64x4 a = {0}, b = {0}, c = {0}, d = {0};
  for (const i64x4* q = (const void*)(s->from + from * 1024); (const char*)q < s->from + to * 1024; q += 4)
    a += q[0], b += q[1], c += q[2], d += q[3];
  a += b + c + d;
  s->sum += a[0] + a[1] + a[2] + a[3];
  return 0;
}

static int64_t measure(fl_pool* pool, task_fn fn, stick s) {
  current = pool;
  parallel_launch(fn, &s, 0);
  current = NULL;
  return s.sum;
}

EXPORT int64_t fl_read(fl_pool* pool, const void* from, int64_t n) {
  return measure(pool, read_task, (stick){from, n, 0});
}

static int empty_task(int task, task_env* env, void* data) { return (void)task, (void)env, (void)data, 0; }

EXPORT int64_t fl_region(fl_pool* pool, int64_t rounds) {
  for (int64_t i = 0; i < rounds; ++i) measure(pool, empty_task, (stick){0});
  return rounds;
}

EXPORT void fl_watch(fl_pool* pool, int64_t* spent, int64_t room) { pool->spent = spent, pool->room = room; }

enum { CHAINS = 12 }; /* enough independent chains to hide the latency of two units */

static int fma_task(int task, task_env* env, void* data) {
  (void)task, (void)env;
  stick* s = data;
  wide a[CHAINS], b = {0}, c = {0};
  b += 0.999f, c += 1e-3f;
  for (int i = 0; i < CHAINS; ++i) a[i] = c * (float)i;
  for (int64_t k = 0; k < s->n; ++k)
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; ++i) a[i] = a[i] * b + c;
  for (int i = 1; i < CHAINS; ++i) a[0] += a[i];
  s->sum += a[0][0] > 0 ? (int64_t)CHAINS * LANES * 2 * s->n : 0;
  return 0;
}

#if defined(__AVX2__) || defined(__ARM_FEATURE_DOTPROD)
/* Products of bytes with sums in 32 bits, by what every machine of the target has. */
#ifdef __AVX2__
#include <immintrin.h>
#endif
#if defined(__AVX512VNNI__)
typedef __m512i bytes;
enum { PRODUCTS = 64 };
static inline bytes byte_products(bytes sum, bytes a, bytes b) { return _mm512_dpbusd_epi32(sum, a, b); }
#elif defined(__AVX2__)
typedef __m256i bytes;
enum { PRODUCTS = 32 };
static inline bytes byte_products(bytes sum, bytes a, bytes b) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)));
}
#else
#include <arm_neon.h>
typedef int32x4_t bytes;
enum { PRODUCTS = 16 };
static inline bytes byte_products(bytes sum, bytes a, bytes b) {
  return vdotq_s32(sum, vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(b));
}
#endif

static int int8_task(int task, task_env* env, void* data) {
  (void)task, (void)env;
  stick* s = data;
  bytes a[CHAINS], b = {0};
  b += (int32_t)(s->n | 1);
  for (int i = 0; i < CHAINS; ++i) a[i] = b + i;
  for (int64_t k = 0; k < s->n; ++k)
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; ++i) a[i] = byte_products(a[i], a[i], b);
  for (int i = 1; i < CHAINS; ++i) a[0] += a[i];
  s->sum += a[0][0] != 1 ? (int64_t)CHAINS * PRODUCTS * 2 * s->n : 0;
  return 0;
}

EXPORT int64_t fl_int8(fl_pool* pool, int64_t rounds) {
  return measure(pool, int8_task, (stick){NULL, 1 + (rounds - 1) / TASKS_OF_PROMPT, 0});
}
#endif

EXPORT int64_t fl_fma(fl_pool* pool, int64_t rounds) {
  return measure(pool, fma_task, (stick){NULL, 1 + (rounds - 1) / TASKS_OF_PROMPT, 0});
}
