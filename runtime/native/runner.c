/* firstlight-run: an artifact without Python. `firstlight compile --runner` links this file with the kernels and the
 * launcher into one static executable beside program.bin, whose format docs/artifact.md has byte by byte.
 *
 *     firstlight-run DIR --tokens 1,2,3 -n 64 [--logits] [--ignore-eos] [--threads N] */
#define _GNU_SOURCE
#include "kernels.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { VERSION = 1, ALIGN = 64, MAX_THREADS = 256 };

/* ---- program.bin, little-endian like every CPU this is built for ---- */

typedef struct {
  char magic[8];
  int64_t version, bytes, arena, state, vocab, context, eos, files, weights, kernels, entries, steps, args, text;
} header;
typedef struct { int64_t name, bytes; } file_row;
typedef struct { int64_t file, offset; } weight_row;
typedef struct { int64_t name, max_tokens, every_row, tokens, pos, slot, last, logits, first_step, steps; } entry_row;
typedef struct { int64_t kernel, first_arg, args; } step_row;
typedef struct { int64_t space, value; } arg_row; /* space: the letter of the word in program.json */

typedef struct {
  const header* head;
  const int64_t *eos, *kernels; /* kernels: where their names are */
  const file_row* files;
  const weight_row* weights;
  const entry_row* entries;
  const step_row* steps;
  const arg_row* args;
  const char* text;
} program;

/* One entry, bound to this process's memory. */
typedef struct {
  const entry_row* row;
  fl_step* steps;
  fl_arg* args;
  fl_patch* patches;
  int64_t n_patches;
  int32_t *tokens, *pos, *last;
  const float* logits;
} call;

static const char *folder;

static _Noreturn void fail(const char* code, const char* what, const char* where, const char* why, const char* hint) {
  fflush(stdout);
  fprintf(stderr, "error[%s]: %s\n  --> %s\n  because: %s\n  try:     %s\n", code, what, where, why, hint);
  exit(1);
}

static _Noreturn void usage(const char* problem) {
  fprintf(stderr,
          "firstlight-run: %s\n"
          "usage: firstlight-run DIR --tokens 1,2,3 [-n N] [--logits] [--ignore-eos] [--threads N]\n"
          "  prints up to N (64) greedy tokens; --logits prints a line of logits for each of them instead\n",
          problem);
  exit(2);
}

static _Noreturn void damaged(const char* why) {
  fail("F502", "the artifact's description is damaged", folder, why,
       "compile the artifact again, or copy it again from where it came");
}

static void no_such_instruction(int signal) {
  (void)signal;
  static const char text[] = "error[F510]: this CPU cannot run the artifact\n  --> ";
  static const char rest[] = "\n  because: it lacks an instruction that the artifact was compiled with"
                             "\n  try:     firstlight compile CHECKPOINT --runner --target ...    for this machine\n";
  (void)!write(2, text, sizeof text - 1);
  (void)!write(2, folder, strlen(folder));
  (void)!write(2, rest, sizeof rest - 1);
  _exit(1);
}

static void* allocate(size_t bytes) {
  void* p = calloc(1, bytes ? bytes : 1);
  if (!p) fail("F514", "there is no memory", "this process", strerror(errno), "a machine with more memory");
  return p;
}

/* Zeroed, on a page boundary, given page by page when touched. */
static char* reserve(int64_t bytes) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  char* p = mmap(NULL, bytes ? (size_t)bytes : 1, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (p == MAP_FAILED)
    fail("F514", "there is no memory for the sequence", "this process", strerror(errno),
         "compile with a smaller --context");
  return p;
}

/* A whole file, read-only. `expected` is its size, or -1. */
static const char* map_file(const char* name, int64_t expected, int64_t* size) {
  char path[4096];
  if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path) damaged("a path is too long");
  struct stat info;
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0 || fstat(file, &info))
    fail("F501", "a file of the artifact cannot be read", path, strerror(errno),
         "firstlight compile CHECKPOINT --runner -o DIR");
  if (expected >= 0 && info.st_size != expected)
    fail("F504", "the artifact is damaged", path, "the file has another size than the compiler wrote",
         "copy the artifact again");
  const char* p = info.st_size ? mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, file, 0) : "";
  if (p == MAP_FAILED)
    fail("F514", "a file of the artifact cannot be mapped", path, strerror(errno), "a machine with more memory");
  close(file);
  *size = info.st_size;
  return p;
}

/* ---- reading: every number that indexes something is checked once, here ---- */

static void check(bool holds, const char* why) {
  if (!holds) damaged(why);
}

static bool inside(int64_t first, int64_t count, int64_t limit) {
  return first >= 0 && count >= 0 && first <= limit && count <= limit - first;
}

/* The next section of `count` rows. */
static const void* section(const char** at, const char* end, int64_t count, size_t row) {
  const char* here = *at;
  check(count >= 0 && (uint64_t)count <= (uint64_t)(end - here) / row, "program.bin is cut short");
  *at += (size_t)count * row;
  return here;
}

static void check_entry(const program* p, const entry_row* e) {
  const header* h = p->head;
  int64_t rows = e->every_row ? e->max_tokens : 1;
  check(inside(e->name, 1, h->text) && inside(e->first_step, e->steps, h->steps), "an entry points beyond its tables");
  check(e->max_tokens >= 1 && e->max_tokens <= h->context, "an entry takes no token");
  check(h->vocab >= 1 && h->vocab <= h->arena / 4 / rows, "the logits do not fit the arena");
  check(inside(e->logits, 4 * rows * h->vocab, h->arena), "the logits lie outside the arena");
  check(inside(e->tokens, 4 * e->max_tokens, h->arena), "an input lies outside the arena");
  check(inside(e->pos, 4, h->arena), "an input lies outside the arena");
  check(e->slot < 0 || inside(e->slot, 4, h->arena), "an input lies outside the arena");
  check(e->last < 0 || inside(e->last, 4, h->arena), "an input lies outside the arena");
}

static void check_words(const program* p) {
  const header* h = p->head;
  for (int64_t i = 0; i < h->steps; ++i)
    check(inside(p->steps[i].kernel, 1, h->kernels) && inside(p->steps[i].first_arg, p->steps[i].args, h->args),
          "a step points beyond its tables");
  for (int64_t i = 0; i < h->args; ++i) {
    int64_t space = p->args[i].space, value = p->args[i].value;
    int64_t limit = space == 'a' ? h->arena : space == 's' ? h->state : space == 'w' ? h->weights : 0;
    check(space == 'i' || space == 't' || inside(value, 1, limit), "an argument points beyond its space");
  }
}

static program read_program(void) {
  int64_t size;
  const char *at = map_file("program.bin", -1, &size), *end = at + size;
  program p = {.head = section(&at, end, 1, sizeof(header))};
  const header* h = p.head;
  check(!memcmp(h->magic, "FLPROG\0", 8), "program.bin is another kind of file");
  if (h->version != VERSION)
    fail("F503", "program.bin has another version than this runner", folder, "they were not made together",
         "compile the artifact again");
  check(h->bytes == size && h->arena >= 0 && h->state >= 0, "program.bin is cut short");
  p.eos = section(&at, end, h->eos, sizeof *p.eos);
  p.files = section(&at, end, h->files, sizeof *p.files);
  p.weights = section(&at, end, h->weights, sizeof *p.weights);
  p.kernels = section(&at, end, h->kernels, sizeof *p.kernels);
  p.entries = section(&at, end, h->entries, sizeof *p.entries);
  p.steps = section(&at, end, h->steps, sizeof *p.steps);
  p.args = section(&at, end, h->args, sizeof *p.args);
  p.text = section(&at, end, h->text, 1);
  check(h->text > 0 && p.text[h->text - 1] == 0, "program.bin has no text");
  for (int64_t i = 0; i < h->entries; ++i) check_entry(&p, p.entries + i);
  check_words(&p);
  return p;
}

static int by_name(const void* name, const void* kernel) { return strcmp(name, ((const fl_named*)kernel)->name); }

static fl_kernel* find_kernels(const program* p) {
  fl_kernel* found = allocate((size_t)p->head->kernels * sizeof *found);
  for (int64_t i = 0; i < p->head->kernels; ++i) {
    check(inside(p->kernels[i], 1, p->head->text), "a name lies outside the text");
    const char* name = p->text + p->kernels[i];
    const fl_named* k = bsearch(name, fl_kernels, (size_t)fl_kernel_count, sizeof *k, by_name);
    if (!k)
      fail("F502", "this runner belongs to another artifact: a kernel is missing", folder, name,
           "use the firstlight-run in the artifact's folder");
    found[i] = k->run;
  }
  return found;
}

static int64_t* map_weights(const program* p) {
  const header* h = p->head;
  const char** base = allocate((size_t)h->files * sizeof *base);
  int64_t* addresses = allocate((size_t)h->weights * sizeof *addresses);
  int64_t size;
  for (int64_t i = 0; i < h->files; ++i) {
    check(inside(p->files[i].name, 1, h->text), "a name lies outside the text");
    base[i] = map_file(p->text + p->files[i].name, p->files[i].bytes, &size);
  }
  for (int64_t i = 0; i < h->weights; ++i) {
    const weight_row* w = p->weights + i;
    check(inside(w->file, 1, h->files), "a weight lies in no file");
    check(inside(w->offset, 0, p->files[w->file].bytes) && w->offset % ALIGN == 0, "a weight lies outside its file");
    addresses[i] = (int64_t)(intptr_t)(base[w->file] + w->offset);
  }
  free(base);
  return addresses;
}

/* ---- running ---- */

static call bind(const program* p, const char* name, const fl_kernel* kernels, const int64_t* weights, char* arena,
                 char* state) {
  const entry_row* e = p->entries;
  while (e < p->entries + p->head->entries && strcmp(p->text + e->name, name)) ++e;
  if (e == p->entries + p->head->entries) return (call){0};
  const step_row* rows = p->steps + e->first_step;
  int64_t words = 0, next = 0;
  for (int64_t i = 0; i < e->steps; ++i) words += rows[i].args;
  call c = {.row = e,
            .steps = allocate((size_t)e->steps * sizeof *c.steps),
            .args = allocate((size_t)words * sizeof *c.args),
            .patches = allocate((size_t)words * sizeof *c.patches)};
  for (int64_t i = 0; i < e->steps; ++i) {
    c.steps[i] = (fl_step){kernels[rows[i].kernel], c.args + next, rows[i].args};
    for (const arg_row* a = p->args + rows[i].first_arg; a < p->args + rows[i].first_arg + rows[i].args; ++a) {
      fl_arg* arg = c.args + next++;
      arg->type = a->space == 'i' || a->space == 't' ? 1 : 4;
      arg->value = a->value;
      if (a->space == 'a') arg->value += (intptr_t)arena;
      if (a->space == 's') arg->value += (intptr_t)state;
      if (a->space == 'w') arg->value = weights[a->value];
      if (a->space == 't') c.patches[c.n_patches++] = (fl_patch){&arg->value, 0, 1, FL_TOKENS};
    }
  }
  static int32_t nowhere;
  c.tokens = (int32_t*)(arena + e->tokens), c.pos = (int32_t*)(arena + e->pos);
  c.last = e->last < 0 ? &nowhere : (int32_t*)(arena + e->last);
  c.logits = (const float*)(arena + e->logits);
  return c;
}

/* Feed n tokens; the logits after the last of them. */
static const float* feed(fl_pool* pool, const program* p, const call* c, const int32_t* tokens, int64_t n,
                         int64_t* scalars) {
  memcpy(c->tokens, tokens, (size_t)n * sizeof *tokens);
  *c->pos = (int32_t)scalars[FL_POSITION], *c->last = (int32_t)n - 1;
  scalars[FL_TOKENS] = n;
  int64_t failed = fl_run(pool, c->steps, c->row->steps, c->patches, c->n_patches, scalars);
  if (failed >= 0) {
    int64_t kernel = p->steps[c->row->first_step + failed].kernel;
    fail("F611", "a kernel failed", p->text + p->kernels[kernel], fl_error(), "a machine with more memory");
  }
  return c->logits + (c->row->every_row ? (n - 1) * p->head->vocab : 0);
}

/* The largest logit, of equal ones the first. */
static int32_t best(const float* logits, int64_t n) {
  int64_t top = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (isnan(logits[i]) || logits[i] == INFINITY)
      fail("F621", "the model produced logits that are not numbers", folder,
           "an overflow in the model, or damaged weights", "firstlight verify DIR");
    if (logits[i] > logits[top]) top = i;
  }
  return (int32_t)top;
}

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- the command line ---- */

typedef struct {
  int32_t* tokens;
  int64_t n_tokens, new_tokens;
  bool logits, ignore_eos;
  int threads;
} options;

static int64_t number(const char* text, const char** end, int64_t least, int64_t most) {
  char* stop;
  errno = 0;
  long long value = strtoll(text, &stop, 10);
  if (stop == text || errno || value < least || value > most || (*stop && *stop != ',')) usage("a number is wrong");
  *end = stop;
  return value;
}

static void read_tokens(options* o, const char* text) {
  o->tokens = allocate((strlen(text) + 1) * sizeof *o->tokens);
  for (o->n_tokens = 0;; ++text) {
    o->tokens[o->n_tokens++] = (int32_t)number(text, &text, 0, INT32_MAX);
    if (!*text) return;
  }
}

static options read_options(int n, char** words) {
  cpu_set_t cpus;
  int cores = sched_getaffinity(0, sizeof cpus, &cpus) ? 1 : CPU_COUNT(&cpus);
  options o = {.new_tokens = 64, .threads = cores < MAX_THREADS ? cores : MAX_THREADS};
  const char* end = "";
  for (int i = 1; i < n; ++i) {
    const char *word = words[i], *value = i + 1 < n ? words[i + 1] : "";
    if (!strcmp(word, "--logits")) o.logits = true;
    else if (!strcmp(word, "--ignore-eos")) o.ignore_eos = true;
    else if (!strcmp(word, "--tokens")) read_tokens(&o, value), ++i;
    else if (!strcmp(word, "-n")) o.new_tokens = number(value, &end, 1, INT32_MAX), ++i;
    else if (!strcmp(word, "--threads")) o.threads = (int)number(value, &end, 1, MAX_THREADS), ++i;
    else if (*word == '-' || folder) usage(word);
    else folder = word;
    if (*end) usage("a number is wrong");
  }
  if (!folder || !o.tokens) usage("give a folder and --tokens");
  return o;
}

static void check_tokens(const program* p, const options* o) {
  for (int64_t i = 0; i < o->n_tokens; ++i)
    if (o->tokens[i] >= p->head->vocab)
      fail("F605", "a token id is out of range", "--tokens", "the model's vocabulary is smaller",
           "ids of the model's tokenizer");
  if (o->n_tokens > p->head->context)
    fail("F607", "the tokens do not fit the context", "--tokens", "the artifact was compiled for fewer",
         "compile with a larger --context");
}

static bool is_eos(const program* p, int32_t token) {
  for (int64_t i = 0; i < p->head->eos; ++i)
    if (p->eos[i] == token) return true;
  return false;
}

static void print_line(const float* logits, int64_t n) {
  for (int64_t i = 0; i < n; ++i) printf("%s%.9g", i ? " " : "", (double)logits[i]);
  putchar('\n');
}

int main(int n, char** words) {
  options o = read_options(n, words);
  signal(SIGILL, no_such_instruction);
  program p = read_program();
  check_tokens(&p, &o);
  fl_kernel* kernels = find_kernels(&p);
  int64_t *weights = map_weights(&p), scalars[2] = {0};
  char *arena = reserve(p.head->arena), *state = reserve(p.head->state);
  call decode = bind(&p, "decode", kernels, weights, arena, state);
  call prefill = bind(&p, "prefill", kernels, weights, arena, state);
  if (!decode.row) decode = prefill;
  if (!prefill.row) prefill = decode;
  check(decode.row != NULL, "there is neither a decode nor a prefill entry");
  fl_pool* pool = fl_start(o.threads);
  if (!pool) fail("F514", "there is no memory for threads", "this process", "the system refused", "--threads 1");

  double began = seconds(), first = began;
  const float* logits = NULL;
  for (int64_t at = 0, part; at < o.n_tokens; at += part) {
    part = o.n_tokens - at < prefill.row->max_tokens ? o.n_tokens - at : prefill.row->max_tokens;
    logits = feed(pool, &p, part == 1 ? &decode : &prefill, o.tokens + at, part, scalars);
  }
  int64_t written = 0;
  for (;;) {
    int32_t token = best(logits, p.head->vocab);
    if (!written++) first = seconds();
    if (o.logits) print_line(logits, p.head->vocab);
    else printf("%s%d", written > 1 ? "," : "", token);
    fflush(stdout);
    if (written == o.new_tokens || (is_eos(&p, token) && !o.ignore_eos)) break;
    if (scalars[FL_POSITION] == p.head->context) {
      if (!o.logits) putchar('\n');
      fail("F607", "the context is full", folder, "the artifact was compiled for no more tokens",
           "compile with a larger --context");
    }
    logits = feed(pool, &p, &decode, &token, 1, scalars);
  }
  if (!o.logits) putchar('\n');
  double later = seconds() - first;
  fprintf(stderr, "[%lld tokens read and the first written in %.3f s, then %.1f tokens/s on %d threads]\n",
          (long long)o.n_tokens, first - began, written > 1 ? (double)(written - 1) / later : 0.0, fl_threads(pool));
  fl_stop(pool);
  return fflush(stdout) || ferror(stdout);
}
