/* A libcuda without a GPU: it checks what a launcher asks for, and remembers.

   Memory is the host's, at addresses that are never used twice. Work is queued, and done when a
   stream is waited for: whoever reads a result earlier reads what was there before. Kernels come
   from real cubins, whose notes say what parameters they have; a launch is checked against them,
   against the limits of a chip, and every 8-byte parameter must point into live memory. What a
   kernel does is up to a function that the test sets, by default nothing.

   fake_error() says in words what was refused last, fake_count(NAME) counts calls and fake_set(NAME)
   makes it another machine. */

#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { OK = 0, INVALID_VALUE = 1, NO_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100,
       INVALID_DEVICE = 101, INVALID_IMAGE = 200, INVALID_CONTEXT = 201, NO_BINARY = 209,
       INVALID_PTX = 218, UNSUPPORTED_PTX = 222, INVALID_HANDLE = 400, NOT_FOUND = 500,
       ILLEGAL_ADDRESS = 700, OUT_OF_RESOURCES = 701, CAPTURE_UNSUPPORTED = 900,
       CAPTURE_INVALIDATED = 901, CAPTURE_UNMATCHED = 903 };
enum { MODULE = 1, FUNCTION, STREAM, GRAPH, GRAPH_EXEC };
enum { KERNEL = 1, COPY, SET };
enum { RELAXED = 2 };                           /* mode of a capture */
enum { MOST_PARAMETERS = 64, MOST_CONTEXTS = 8, SHARED_LIMIT = 48 << 10, REGISTERS = 64 << 10 };

typedef unsigned long long pointer;
typedef void (*executor)(const char *, const unsigned *, const unsigned *, const void *, size_t);

typedef struct work {
    int kind;
    struct object *function;
    unsigned grid[3], group[3];
    unsigned char parameters[512];
    size_t size;                                /* of the parameters, or bytes to copy */
    pointer to, from;                           /* 0: on the host */
    void *host;
    int value;
    struct work *next;
} work;

typedef struct object {
    int kind, dead, capturing, broken, references;
    struct object *owner;                       /* a function's module */
    char name[256];
    unsigned offset[MOST_PARAMETERS], size[MOST_PARAMETERS], parameters, total;
    unsigned registers, shared, most_threads;
    unsigned char *image;
    size_t image_bytes;
    int ptx;
    work *first, *last;
    pthread_t thread;
} object;

typedef struct block { pointer at; size_t size; int freed, pinned; struct block *next; } block;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static block *blocks;
static int started, driver = 13000, capability = 90, devices = 1, retained;
static long memory = 8l << 30, used;
static executor run_kernel;
static char said[512];
static __thread int contexts, captures;
static struct { const char *name; long count; } counts[64];

/* -- for tests -------------------------------------------------------------------------------- */

const char *fake_error(void) { return said; }
void fake_set_executor(executor function) { run_kernel = function; }

static void count(const char *name) {
    for (int i = 0; i < 64; ++i) {
        if (!counts[i].name) counts[i].name = name;
        if (!strcmp(counts[i].name, name)) { ++counts[i].count; return; }
    }
}

long fake_count(const char *name) {
    long live = 0;
    for (block *b = blocks; b; b = b->next) live += !b->freed;
    if (!strcmp(name, "live")) return live;
    if (!strcmp(name, "retained")) return retained;
    for (int i = 0; i < 64 && counts[i].name; ++i)
        if (!strcmp(counts[i].name, name)) return counts[i].count;
    return 0;
}

/* The memory that an address lies in. */
int fake_block(pointer at, pointer *first, size_t *size) {
    for (block *b = blocks; b; b = b->next)
        if (!b->freed && at >= b->at && at < b->at + b->size) {
            *first = b->at;
            *size = b->size;
            return 1;
        }
    return 0;
}

void fake_set(const char *name, long value) {
    if (!strcmp(name, "driver")) driver = (int)value;
    if (!strcmp(name, "capability")) capability = (int)value;
    if (!strcmp(name, "devices")) devices = (int)value;
    if (!strcmp(name, "memory")) memory = value;
}

void fake_reset(void) {
    driver = 13000, capability = 90, devices = 1, memory = 8l << 30, run_kernel = NULL;
    memset(counts, 0, sizeof counts);
    said[0] = 0;
}

/* -- checks ----------------------------------------------------------------------------------- */

#define REFUSE(code, ...) do { snprintf(said, sizeof said, __VA_ARGS__); \
                               pthread_mutex_unlock(&lock); return code; } while (0)
#define DONE() do { pthread_mutex_unlock(&lock); return OK; } while (0)
#define ENTER() do { pthread_mutex_lock(&lock); count(__func__); \
    if (!started) REFUSE(NOT_INITIALIZED, "%s before cuInit", __func__); } while (0)
#define ENTER_CONTEXT() do { ENTER(); \
    if (!contexts) REFUSE(INVALID_CONTEXT, "%s without a current context", __func__); } while (0)
/* What takes or gives memory is refused while the calling thread captures, unless relaxed. */
#define NOT_IN_CAPTURE() do { if (captures) \
    REFUSE(CAPTURE_UNSUPPORTED, "%s during a capture", __func__); } while (0)

static int alive(object *o, int kind) { return o && o->kind == kind && !o->dead; }

static block *find(pointer at) {
    for (block *b = blocks; b; b = b->next) if (at >= b->at && at < b->at + b->size) return b;
    return NULL;
}

/* Whether memory can be used; says why not. */
static int usable(pointer at, size_t size, const char *what) {
    block *b = find(at);
    const char *why = !b || b->pinned ? "points to no memory of the device" : b->freed ?
        "points to freed memory" : at + size > b->at + b->size ? "reaches beyond its memory" : NULL;
    if (why) snprintf(said, sizeof said, "%s %s", what, why);
    return !why;
}

static object *new_object(int kind) {
    object *o = calloc(1, sizeof *o);
    o->kind = kind;
    return o;
}

/* -- cubins ----------------------------------------------------------------------------------- */

static uint64_t word(const unsigned char *p, int bytes) {
    uint64_t value = 0;
    memcpy(&value, p, (size_t)bytes);
    return value;
}

/* The contents of a section: section headers are 64 bytes, name at 0, offset at 24, size at 32. */
static const unsigned char *section(object *m, const char *name, size_t *size, unsigned *info) {
    const unsigned char *elf = m->image, *table = elf + word(elf + 40, 8);
    unsigned all = (unsigned)word(elf + 60, 2), names = (unsigned)word(elf + 62, 2);
    const char *text = (const char *)elf + word(table + 64 * names + 24, 8);
    for (unsigned i = 0; i < all; ++i) {
        const unsigned char *s = table + 64 * i;
        if (strcmp(text + word(s, 4), name)) continue;
        *size = word(s + 32, 8);
        if (info) *info = (unsigned)word(s + 44, 4);
        return elf + word(s + 24, 8);
    }
    return NULL;
}

/* Read the notes of a kernel; 0 if there is no such kernel. */
static int read_function(object *m, object *f) {
    char name[300];
    size_t size = 0, symbols = 0;
    snprintf(name, sizeof name, ".nv.info.%s", f->name);
    const unsigned char *note = section(m, name, &size, NULL);
    if (!note) return 0;
    for (const unsigned char *end = note + size; note + 4 <= end;) {
        unsigned bytes = note[0] == 4 ? (unsigned)word(note + 2, 2) : 0;
        if (note[1] == 0x17 && bytes >= 12) {              /* KPARAM_INFO */
            unsigned i = (unsigned)word(note + 8, 2);
            f->offset[i] = (unsigned)word(note + 10, 2);
            f->size[i] = (unsigned)word(note + 12, 4) >> 18;
            if (i >= f->parameters) f->parameters = i + 1;
            if (f->offset[i] + f->size[i] > f->total) f->total = f->offset[i] + f->size[i];
        }
        if (note[1] == 0x05 && bytes >= 12)                /* MAX_THREADS */
            f->most_threads = (unsigned)(word(note + 4, 4) * word(note + 8, 4) * word(note + 12, 4));
        note += 4 + bytes;
    }
    snprintf(name, sizeof name, ".nv.shared.%s", f->name);
    if (section(m, name, &size, NULL)) f->shared = (unsigned)size;
    const unsigned char *table = section(m, ".symtab", &symbols, NULL);
    const char *text = (const char *)section(m, ".strtab", &size, NULL);
    note = section(m, ".nv.info", &size, NULL);
    for (const unsigned char *end = note + size; note + 4 <= end;) {
        unsigned bytes = note[0] == 4 ? (unsigned)word(note + 2, 2) : 0;
        if (note[1] == 0x2f)                               /* REGCOUNT */
            if (!strcmp(text + word(table + 24 * word(note + 4, 4), 4), f->name))
                f->registers = (unsigned)word(note + 8, 4);
        note += 4 + bytes;
    }
    return 1;
}

/* -- the driver and its devices --------------------------------------------------------------- */

int cuInit(unsigned flags) {
    pthread_mutex_lock(&lock);
    count(__func__);
    if (flags) REFUSE(INVALID_VALUE, "flags of cuInit");
    if (!devices) REFUSE(NO_DEVICE, "there is no device");
    started = 1;
    DONE();
}

int cuDriverGetVersion(int *version) { *version = driver; return OK; }
int cuDeviceGetCount(int *n) { ENTER(); *n = devices; DONE(); }

int cuDeviceGet(int *device, int ordinal) {
    ENTER();
    if (ordinal < 0 || ordinal >= devices) REFUSE(INVALID_DEVICE, "device %d", ordinal);
    *device = ordinal;
    DONE();
}

int cuDeviceGetName(char *name, int size, int device) {
    ENTER();
    (void)device;
    snprintf(name, (size_t)size, "a device that is not there");
    DONE();
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    static const int table[][2] = {{1, 1024}, {2, 1024}, {3, 1024}, {4, 64}, {5, 0x7fffffff},
        {6, 65535}, {7, 65535}, {8, SHARED_LIMIT}, {10, 32}, {12, REGISTERS}, {16, 132}};
    ENTER();
    (void)device;
    if (attribute == 75 || attribute == 76) {
        *value = attribute == 75 ? capability / 10 : capability % 10;
        DONE();
    }
    for (unsigned i = 0; i < sizeof table / sizeof *table; ++i)
        if (table[i][0] == attribute) { *value = table[i][1]; DONE(); }
    REFUSE(INVALID_VALUE, "device attribute %d", attribute);
}

int cuDevicePrimaryCtxRetain(void **context, int device) {
    ENTER();
    (void)device;
    *context = &retained;
    ++retained;
    DONE();
}

int cuDevicePrimaryCtxRelease_v2(int device) {
    ENTER();
    (void)device;
    if (!retained) REFUSE(INVALID_CONTEXT, "a context is released that nobody holds");
    --retained;
    DONE();
}

int cuCtxPushCurrent_v2(void *context) {
    ENTER();
    if (context != &retained || !retained) REFUSE(INVALID_CONTEXT, "no such context");
    if (contexts == MOST_CONTEXTS) REFUSE(NO_MEMORY, "contexts are pushed and never popped");
    ++contexts;
    DONE();
}

int cuCtxPopCurrent_v2(void **context) {
    ENTER_CONTEXT();
    if (context) *context = &retained;
    --contexts;
    DONE();
}

int cuGetErrorString(int code, const char **text) {
    static __thread char buffer[600];
    snprintf(buffer, sizeof buffer, "fake error %d (%s)", code, said);
    *text = buffer;
    return OK;
}

int cuGetErrorName(int code, const char **text) {
    static __thread char buffer[32];
    snprintf(buffer, sizeof buffer, "FAKE_ERROR_%d", code);
    *text = buffer;
    return OK;
}

/* -- modules ---------------------------------------------------------------------------------- */

int cuModuleLoadData(void **module, const void *image) {
    const unsigned char *p = image;
    ENTER_CONTEXT();
    NOT_IN_CAPTURE();
    object *m = new_object(MODULE);
    if (!memcmp(p, "\177ELF", 4)) {
        if (word(p + 18, 2) != 190) REFUSE(INVALID_IMAGE, "an ELF file that is no cubin");
        int built = (int)(word(p + 48, 4) >> 8 & 255);
        if (driver / 1000 < 13) REFUSE(NO_BINARY, "the driver is too old for this cubin");
        if (built / 10 != capability / 10 || built > capability)
            REFUSE(NO_BINARY, "a cubin for sm_%d on a device of %d", built, capability);
        m->image_bytes = word(p + 40, 8) + 64 * word(p + 60, 2);
        size_t after = word(p + 32, 8) + 56 * word(p + 56, 2);
        if (after > m->image_bytes) m->image_bytes = after;
        m->image = malloc(m->image_bytes);
        memcpy(m->image, p, m->image_bytes);
    } else {
        const char *version = strstr(image, ".version "), *target = strstr(image, ".target sm_");
        if (!version || !target) REFUSE(INVALID_PTX, "neither a cubin nor PTX");
        if (atoi(target + 11) > capability) REFUSE(NO_BINARY, "PTX for a newer device");
        int major = 0, minor = 0;       /* PTX 9.5 came with CUDA 13.5 */
        sscanf(version, ".version %d.%d", &major, &minor);
        if ((major + 4) * 1000 + minor * 10 > driver)
            REFUSE(UNSUPPORTED_PTX, "PTX that the driver does not know");
        m->ptx = 1;                     /* compiled by the driver: what its kernels take, it knows */
        m->image = (unsigned char *)strdup(image);
        count("ptx");
    }
    *module = m;
    DONE();
}

int cuModuleUnload(object *m) {
    ENTER_CONTEXT();
    if (!alive(m, MODULE)) REFUSE(INVALID_HANDLE, "an unknown or unloaded module");
    m->dead = 1;
    DONE();
}

/* The parameters of a kernel of PTX: lines such as ".param .u64 NAME_param_0," */
static int read_ptx_function(object *m, object *f) {
    char head[300];
    snprintf(head, sizeof head, ".entry %s(", f->name);
    const char *at = strstr((const char *)m->image, head);
    if (!at) return 0;
    const char *end = strchr(at, ')');
    while ((at = strstr(at, ".param .")) && at < end) {
        unsigned i = f->parameters++, size = (unsigned)atoi(at + 9) / 8;
        f->offset[i] = (f->total + size - 1) / size * size;
        f->size[i] = size;
        f->total = f->offset[i] + size;
        ++at;
    }
    f->most_threads = 1024;
    return 1;
}

int cuModuleGetFunction(void **function, object *m, const char *name) {
    ENTER_CONTEXT();
    if (!alive(m, MODULE)) REFUSE(INVALID_HANDLE, "a function of an unloaded module");
    object *f = new_object(FUNCTION);
    f->owner = m;
    snprintf(f->name, sizeof f->name, "%s", name);
    if (!(m->ptx ? read_ptx_function(m, f) : read_function(m, f)))
        REFUSE(NOT_FOUND, "the module has no function %s", name);
    *function = f;
    DONE();
}

int cuFuncGetParamInfo(object *f, size_t index, size_t *offset, size_t *size) {
    ENTER();
    if (!alive(f, FUNCTION) || !alive(f->owner, MODULE)) REFUSE(INVALID_HANDLE, "no such function");
    if (index >= f->parameters || !f->size[index]) REFUSE(INVALID_VALUE, "%s has no parameter %zu", f->name, index);
    *offset = f->offset[index];
    *size = f->size[index];
    DONE();
}

int cuFuncGetAttribute(int *value, int attribute, object *f) {
    ENTER_CONTEXT();
    if (!alive(f, FUNCTION) || !alive(f->owner, MODULE)) REFUSE(INVALID_HANDLE, "no such function");
    if (attribute) REFUSE(INVALID_VALUE, "function attribute %d", attribute);
    *value = f->most_threads ? (int)f->most_threads : 1024;
    DONE();
}

/* -- memory ----------------------------------------------------------------------------------- */

/* Fresh pages each time; what is freed stays reserved, so that its addresses mean nothing else. */
static void *take(size_t size, int pinned) {
    size_t pages = (size + 4095) / 4096 * 4096;
    void *p = mmap(NULL, pages, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
    if (!pinned && size < 1 << 26) memset(p, 0xcd, size);   /* nothing says that it is zero */
    block *b = malloc(sizeof *b);
    *b = (block){(pointer)p, size, 0, pinned, blocks};
    blocks = b;
    return p;
}

static int give(block *b) {
    size_t pages = (b->size + 4095) / 4096 * 4096;
    b->freed = 1;
    madvise((void *)b->at, pages, MADV_DONTNEED);
    return mprotect((void *)b->at, pages, PROT_NONE);
}

int cuMemAlloc_v2(pointer *at, size_t size) {
    ENTER_CONTEXT();
    NOT_IN_CAPTURE();
    if (!size) REFUSE(INVALID_VALUE, "an allocation of nothing");
    if (used + (long)size > memory) REFUSE(NO_MEMORY, "no memory for %zu bytes", size);
    *at = (pointer)take(size, 0);
    used += (long)size;
    DONE();
}

int cuMemFree_v2(pointer at) {
    ENTER_CONTEXT();
    NOT_IN_CAPTURE();
    block *b = find(at);
    if (!b || b->at != at || b->freed || b->pinned)
        REFUSE(INVALID_VALUE, "what is freed is no allocation, or was freed before");
    used -= (long)b->size;
    give(b);
    DONE();
}

int cuMemAllocHost_v2(void **at, size_t size) {
    ENTER_CONTEXT();
    NOT_IN_CAPTURE();
    *at = take(size, 1);
    DONE();
}

int cuMemFreeHost(void *at) {
    ENTER_CONTEXT();
    NOT_IN_CAPTURE();
    block *b = find((pointer)at);
    if (!b || b->at != (pointer)at || b->freed || !b->pinned)
        REFUSE(INVALID_VALUE, "what is freed is no host memory, or was freed before");
    give(b);
    DONE();
}

/* -- streams ---------------------------------------------------------------------------------- */

int cuStreamCreate(void **stream, unsigned flags) {
    ENTER_CONTEXT();
    NOT_IN_CAPTURE();
    if (flags > 1) REFUSE(INVALID_VALUE, "flags of a stream");
    *stream = new_object(STREAM);
    DONE();
}

int cuStreamDestroy_v2(object *s) {
    ENTER_CONTEXT();
    if (!alive(s, STREAM)) REFUSE(INVALID_HANDLE, "an unknown or destroyed stream");
    s->dead = 1;
    DONE();
}

static int still_valid(work *w) {
    if (w->kind == KERNEL) {
        if (!alive(w->function->owner, MODULE)) {
            snprintf(said, sizeof said, "%s is of an unloaded module", w->function->name);
            return INVALID_HANDLE;
        }
        for (unsigned i = 0; i < w->function->parameters; ++i)
            if (w->function->size[i] == 8)
                if (!usable(word(w->parameters + w->function->offset[i], 8), 1, w->function->name))
                    return ILLEGAL_ADDRESS;
        return OK;
    }
    if (w->to && !usable(w->to, w->size, "the target of a copy")) return ILLEGAL_ADDRESS;
    if (w->from && !usable(w->from, w->size, "the source of a copy")) return ILLEGAL_ADDRESS;
    return OK;
}

static int perform(work *w) {
    int bad = still_valid(w);
    if (bad) return bad;
    if (w->kind == SET) memset((void *)w->to, w->value, w->size);
    if (w->kind == COPY)
        memmove(w->to ? (void *)w->to : w->host, w->from ? (void *)w->from : w->host, w->size);
    if (w->kind == KERNEL) {
        count("kernels");
        if (run_kernel)
            run_kernel(w->function->name, w->grid, w->group, w->parameters, w->size);
    }
    return OK;
}

int cuStreamSynchronize(object *s) {
    ENTER_CONTEXT();
    if (!alive(s, STREAM)) REFUSE(INVALID_HANDLE, "an unknown or destroyed stream");
    if (s->capturing) {
        s->broken = 1;
        REFUSE(CAPTURE_UNSUPPORTED, "waiting for a stream that captures");
    }
    work *todo = s->first;
    s->first = s->last = NULL;
    int bad = 0;
    for (work *w = todo; w && !bad; w = w->next) bad = perform(w);
    if (bad) { pthread_mutex_unlock(&lock); return bad; }
    DONE();
}

/* Add to what a stream has to do, or to the graph that it captures. */
static int enqueue(object *s, const work *w) {
    work *copy = malloc(sizeof *copy);
    *copy = *w;
    copy->next = NULL;
    if (s->last) s->last->next = copy; else s->first = copy;
    s->last = copy;
    return OK;
}

#define ON_STREAM(s) do { ENTER_CONTEXT(); \
    if (!alive(s, STREAM)) REFUSE(INVALID_HANDLE, "%s on an unknown or destroyed stream", __func__); \
    if ((s)->broken) REFUSE(CAPTURE_INVALIDATED, "%s in a broken capture", __func__); } while (0)

static int copy(object *s, work w) {
    int bad = still_valid(&w);
    if (bad && s->capturing) s->broken = 1;
    if (!bad) enqueue(s, &w);
    pthread_mutex_unlock(&lock);
    return bad ? INVALID_VALUE : OK;
}

int cuMemcpyHtoDAsync_v2(pointer to, const void *from, size_t size, object *s) {
    ON_STREAM(s);
    void *host = (void *)from;
    if (!find((pointer)from)) memcpy(host = malloc(size), from, size);   /* staged at once */
    return copy(s, (work){.kind = COPY, .to = to, .host = host, .size = size});
}

int cuMemcpyDtoHAsync_v2(void *to, pointer from, size_t size, object *s) {
    ON_STREAM(s);
    return copy(s, (work){.kind = COPY, .from = from, .host = to, .size = size});
}

int cuMemcpyDtoDAsync_v2(pointer to, pointer from, size_t size, object *s) {
    ON_STREAM(s);
    return copy(s, (work){.kind = COPY, .to = to, .from = from, .size = size});
}

int cuMemsetD8Async(pointer to, unsigned char value, size_t size, object *s) {
    ON_STREAM(s);
    return copy(s, (work){.kind = SET, .to = to, .value = value, .size = size});
}

/* -- launches --------------------------------------------------------------------------------- */

int cuLaunchKernel(object *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared, object *s, void **pointers, void **extra) {
    ON_STREAM(s);
    unsigned long threads = (unsigned long)bx * by * bz;
    work w = {.kind = KERNEL, .function = f, .grid = {gx, gy, gz}, .group = {bx, by, bz}};
    int bad = OK;
    if (!alive(f, FUNCTION)) { bad = INVALID_HANDLE; sprintf(said, "an unknown function"); }
    else if (!alive(f->owner, MODULE)) {
        bad = INVALID_HANDLE;
        sprintf(said, "%s is of an unloaded module", f->name);
    } else if (!gx || !gy || !gz || gx > 0x7fffffff || gy > 65535 || gz > 65535) {
        bad = INVALID_VALUE;
        sprintf(said, "a grid of %u x %u x %u", gx, gy, gz);
    } else if (!threads || bx > 1024 || by > 1024 || bz > 64 || threads > 1024) {
        bad = INVALID_VALUE;
        sprintf(said, "a group of %u x %u x %u", bx, by, bz);
    } else if ((f->most_threads && threads > f->most_threads) || f->registers * threads > REGISTERS) {
        bad = OUT_OF_RESOURCES;
        sprintf(said, "%s was not compiled for %lu threads", f->name, threads);
    } else if (shared + f->shared > SHARED_LIMIT) {
        bad = OUT_OF_RESOURCES;
        sprintf(said, "%u bytes of shared memory", shared + f->shared);
    } else if (pointers || !extra || extra[0] != (void *)1 || extra[2] != (void *)2 || extra[4]) {
        bad = INVALID_VALUE;
        sprintf(said, "arguments that are no buffer with a size");
    } else if ((w.size = *(size_t *)extra[3]) != f->total) {
        bad = INVALID_VALUE;
        sprintf(said, "%s takes %u bytes of arguments, not %zu", f->name, f->total, w.size);
    } else {
        memcpy(w.parameters, extra[1], w.size);
        bad = still_valid(&w);
    }
    if (bad && s->capturing) s->broken = 1;
    if (!bad) enqueue(s, &w);
    pthread_mutex_unlock(&lock);
    return bad;
}

int cuStreamBeginCapture_v2(object *s, int mode) {
    ON_STREAM(s);
    if (mode < 0 || mode > 2) REFUSE(INVALID_VALUE, "mode of a capture");
    if (s->capturing) REFUSE(INVALID_VALUE, "the stream captures already");
    if (s->first) REFUSE(INVALID_VALUE, "this fake captures on idle streams only");
    s->capturing = 1 + mode;
    s->thread = pthread_self();
    captures += mode != RELAXED;
    DONE();
}

int cuStreamEndCapture(object *s, void **graph) {
    ENTER_CONTEXT();
    if (!alive(s, STREAM) || !s->capturing) REFUSE(INVALID_HANDLE, "the stream does not capture");
    if (!pthread_equal(s->thread, pthread_self())) REFUSE(CAPTURE_UNMATCHED, "another thread began");
    int broken = s->broken;
    object *g = new_object(GRAPH);
    g->first = s->first;
    s->first = s->last = NULL;
    captures -= s->capturing != 1 + RELAXED;
    s->capturing = s->broken = 0;
    *graph = broken ? NULL : g;
    if (broken) REFUSE(CAPTURE_INVALIDATED, "the capture is broken");
    DONE();
}

int cuGraphInstantiateWithFlags(void **executable, object *g, unsigned long long flags) {
    ENTER_CONTEXT();
    if (!alive(g, GRAPH) || flags) REFUSE(INVALID_VALUE, "no such graph");
    object *e = new_object(GRAPH_EXEC);
    e->first = g->first;
    *executable = e;
    DONE();
}

int cuGraphDestroy(object *g) {
    ENTER_CONTEXT();
    if (!alive(g, GRAPH)) REFUSE(INVALID_VALUE, "no such graph");
    g->dead = 1;
    DONE();
}

int cuGraphExecDestroy(object *e) {
    ENTER_CONTEXT();
    if (!alive(e, GRAPH_EXEC)) REFUSE(INVALID_VALUE, "no such executable graph");
    e->dead = 1;
    DONE();
}

int cuGraphLaunch(object *e, object *s) {
    ON_STREAM(s);
    if (!alive(e, GRAPH_EXEC)) REFUSE(INVALID_VALUE, "no such executable graph");
    for (work *w = e->first; w; w = w->next) {
        int bad = still_valid(w);
        if (bad) { pthread_mutex_unlock(&lock); return bad; }
    }
    for (work *w = e->first; w; w = w->next) enqueue(s, w);
    DONE();
}
