/* A process that calls kernels for another one, which emulator.py starts under an emulator. It is linked with the
 * kernels and the launcher. On standard input it reads calls, one after the other, all numbers being int64:
 *
 *     kernel (index in fl_kernels), tokens, n, then n times: kind, number, and maybe the buffer
 *
 * by kind: CHANGED and READ have their bytes as the number, and then the buffer; KEEP has them, and the buffer stays
 * here as the next of those that KEPT names by index; SAME is an earlier buffer of this call, by its index. For each
 * call it answers on standard output with 0 and the CHANGED buffers as the kernel left them, or with the length of a
 * text and the text. */
#include "kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 64, ALIGN = 64, THREADS = 2 }; /* two, so that threads in each other's way are seen */
enum { CHANGED, READ, KEEP, KEPT, SAME };

static char** kept;
static int64_t n_kept;

static int64_t read_number(void) {
  int64_t n;
  if (fread(&n, sizeof n, 1, stdin) != 1) exit(feof(stdin) ? 0 : 1);
  return n;
}

static void write_number(int64_t n) { fwrite(&n, sizeof n, 1, stdout); }

static char* read_buffer(int64_t size) {
  /* whole vectors, and room behind the end, where a kernel may read ahead */
  char* buffer = aligned_alloc(ALIGN, ((size_t)size + 2 * ALIGN) / ALIGN * ALIGN);
  if (!buffer || fread(buffer, 1, (size_t)size, stdin) != (size_t)size) exit(1);
  return buffer;
}

static void keep(char* buffer) {
  kept = realloc(kept, (size_t)(n_kept + 1) * sizeof *kept);
  if (!kept) exit(1);
  kept[n_kept++] = buffer;
}

int main(void) {
  static fl_arg args[MOST + 1];
  static int64_t kinds[MOST], numbers[MOST];
  fl_pool* pool = fl_start(THREADS);
  if (!pool) return 1;
  for (;;) {
    int64_t kernel = read_number(), tokens = read_number(), n = read_number();
    if (kernel < 0 || kernel >= fl_kernel_count || n < 0 || n > MOST) return 1;
    for (int64_t i = 0; i < n; ++i) {
      int64_t kind = kinds[i] = read_number(), number = numbers[i] = read_number();
      if (kind < CHANGED || kind > SAME || number < 0 || (kind == KEPT && number >= n_kept)) return 1;
      if (kind == SAME) {
        if (number >= i) return 1;
        args[i] = args[number];
        continue;
      }
      char* buffer = kind == KEPT ? kept[number] : read_buffer(number);
      if (kind == KEEP) keep(buffer);
      args[i] = (fl_arg){4, 0, (int64_t)(intptr_t)buffer};
    }
    args[n] = (fl_arg){1, 0, tokens};
    fl_step step = {fl_kernels[kernel].run, args, n + 1};
    int64_t scalars[2] = {0};
    int failed = fl_run(pool, &step, 1, NULL, 0, scalars) != -1;
    write_number(failed ? (int64_t)strlen(fl_error()) : 0);
    if (failed) fputs(fl_error(), stdout);
    for (int64_t i = 0; i < n; ++i) {
      char* buffer = (char*)(intptr_t)args[i].value;
      if (!failed && kinds[i] == CHANGED) fwrite(buffer, 1, (size_t)numbers[i], stdout);
      if (kinds[i] < KEEP) free(buffer);
    }
    if (fflush(stdout)) return 1;
  }
}
