/* libcnrt and libcndrv without a card: every call is checked as strictly as they might. Work of a
   queue is done when somebody waits for it, from memory as it is then. A fat binary is text: a line
   for each kernel, its name and how many pointers it takes before the workspace and S. A kernel adds
   one to S floats: the last pointer's from the first pointer's. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 256, BAD = 630, GONE = 632 };
struct block { char *at; size_t bytes; };
struct work { int kind; char *to; const char *from; size_t bytes; int value, count; uint64_t p[16]; };
struct queue { int open, count; struct work work[MOST]; };
struct kernel { char name[64]; int pointers, open; };

static struct block blocks[MOST];
static struct queue queues[8];
static struct kernel kernels[MOST];
static int started, device = -1, modules;
static char reason[256];

static int refuse(const char *why) { snprintf(reason, sizeof reason, "%s", why); return BAD; }
const char *cnrtGetErrorStr(int status) { (void)status; return reason; }
const char *fake_reason(void) { return reason; }
int fake_left(void) {
    int left = modules;
    for (int i = 0; i < MOST; ++i) left += blocks[i].at != NULL;
    for (int i = 0; i < 8; ++i) left += queues[i].open;
    return left;
}

static struct block *block_of(const void *p, size_t bytes) {
    const char *at = p;
    for (int i = 0; i < MOST; ++i)
        if (blocks[i].at && blocks[i].at <= at && at + bytes <= blocks[i].at + blocks[i].bytes)
            return &blocks[i];
    return NULL;
}
static struct work *push(struct queue *q) {
    if (q < queues || q >= queues + 8 || !q->open || q->count == MOST) return NULL;
    memset(&q->work[q->count], 0, sizeof q->work[0]);
    return &q->work[q->count++];
}

int cnInit(unsigned flags) { started = 1; return flags ? refuse("cnInit takes 0") : 0; }
int cnrtGetDeviceCount(unsigned *count) { *count = 1; return 0; }
int cnrtSetDevice(int number) {
    if (number != 0) return refuse("no such device");
    device = number;
    return 0;
}
int cnrtMalloc(void **p, size_t bytes) {
    if (device < 0 || !bytes) return refuse("no device, or no bytes");
    for (int i = 0; i < MOST; ++i)
        if (!blocks[i].at) {
            blocks[i].bytes = bytes;
            blocks[i].at = *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
            memset(*p, 0xA5, bytes);
            return 0;
        }
    return refuse("no memory");
}
int cnrtFree(void *p) {
    for (int i = 0; i < MOST; ++i)
        if (p && blocks[i].at == p) {
            free(p);
            blocks[i].at = NULL;
            return 0;
        }
    return refuse("freed, and never allocated");
}
int cnrtQueueCreate(struct queue **q) {
    for (int i = 0; i < 8; ++i)
        if (!queues[i].open) {
            queues[i].open = 1;
            queues[i].count = 0;
            *q = &queues[i];
            return 0;
        }
    return refuse("no queue");
}
int cnrtQueueDestroy(struct queue *q) {
    if (q < queues || q >= queues + 8 || !q->open) return refuse("no such queue");
    q->open = 0;
    return 0;
}
int cnrtMemsetAsync(void *p, int value, size_t bytes, struct queue *q) {
    if (!block_of(p, bytes)) return refuse("set outside of the device's memory");
    struct work *w = push(q);
    if (!w) return refuse("no such queue");
    w->kind = 1, w->to = p, w->value = value, w->bytes = bytes;
    return 0;
}
int cnrtMemcpyAsync(void *to, void *from, size_t bytes, struct queue *q, int direction) {
    if (direction != 0 && direction != 2) return refuse("an unknown direction");
    void *here = direction == 0 ? to : from, *host = direction == 0 ? from : to;
    if (!block_of(here, bytes)) return refuse("a copy outside of the device's memory");
    if (block_of(host, 1)) return refuse("the host's side is the device's memory");
    struct work *w = push(q);
    if (!w) return refuse("no such queue");
    w->kind = 2, w->to = to, w->from = from, w->bytes = bytes;
    return 0;
}
int cnModuleLoad(const char *path, void **module) {
    if (!started) return refuse("cnInit comes first");
    FILE *file = fopen(path, "r");
    if (!file) return GONE;
    int n = 0;
    memset(kernels, 0, sizeof kernels);
    while (n < MOST && fscanf(file, "%63s %d", kernels[n].name, &kernels[n].pointers) == 2)
        kernels[n++].open = 1;
    fclose(file);
    if (!n) return refuse("no fat binary");
    ++modules;
    *module = kernels;
    return 0;
}
int cnModuleUnload(void *module) {
    if (module != kernels || !modules) return refuse("no such module");
    --modules;
    return 0;
}
int cnModuleGetKernel(void *module, const char *name, void **kernel) {
    for (int i = 0; module == kernels && i < MOST; ++i)
        if (kernels[i].open && !strcmp(kernels[i].name, name)) {
            *kernel = &kernels[i];
            return 0;
        }
    return refuse("no such kernel");
}
int cnInvokeKernel(void *kernel, unsigned x, unsigned y, unsigned z, int class, unsigned reserved,
                   struct queue *q, void **params, void **extra) {
    struct kernel *k = kernel;
    if (k < kernels || k >= kernels + MOST || !k->open || !modules) return refuse("no such kernel");
    if (class != 1 && class != 4 && class != 8) return refuse("no such class");
    if (x % class || !x || !y || !z) return refuse("a union takes a multiple of its cores as tasks");
    if (reserved || extra || !params) return refuse("arguments come as a list");
    struct work *w = push(q);
    if (!w) return refuse("no such queue");
    w->kind = 3, w->count = k->pointers + 1;
    for (int i = 0; i < w->count; ++i) {
        memcpy(&w->p[i], params[i], 8);
        if (!block_of((void *)w->p[i], 1)) return refuse("an argument is not the device's memory");
    }
    memcpy(&w->value, params[w->count], 4);
    return 0;
}
int cnrtQueueSync(struct queue *q) {
    if (q < queues || q >= queues + 8 || !q->open) return refuse("no such queue");
    int count = q->count;
    q->count = 0;
    for (int i = 0; i < count; ++i) {
        struct work *w = &q->work[i];
        if (w->kind == 1) memset(w->to, w->value, w->bytes);
        if (w->kind == 2) memcpy(w->to, w->from, w->bytes);
        if (w->kind != 3) continue;
        float *from = (float *)w->p[0], *to = (float *)w->p[w->count - 2];
        if (!block_of(from, 4 * w->value) || !block_of(to, 4 * w->value))
            return refuse("a kernel went outside of its memory");
        for (int j = 0; j < w->value; ++j) to[j] = from[j] + 1;
    }
    return 0;
}
