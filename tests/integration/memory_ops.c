/* SPDX-License-Identifier: Apache-2.0
 *
 * Random operations over every path to memory, in many processes of one tenant, some of which are
 * killed now and then. Each knows what it holds (the model) and checks what it is told.
 *
 *     memory_ops PROCESSES SEED OPS SECONDS KILLS_PER_SECOND PATHS LIMIT_MIB LEAST_BYTES
 *
 * PATHS: names with commas between, or "all". Sizes are LEAST_BYTES to 6 MiB. It ends its
 * operations after OPS in all or SECONDS; then all who live wait, one more process asks in vain for
 * all of the limit, and it prints one JSON object: what was done and what the model holds. When a
 * line comes on stdin, half of them end and half are killed, and it ends as well.
 */
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#include "memory_paths.h"

enum { MOST_PROCESSES = 256, MOST_THINGS = 48 };

static struct shared {
    int stop, end, waiting; /* atomics */
    unsigned long ops, denied[16], made[16];
    size_t free;       /* at the end */
    unsigned long bad; /* answers that no driver gives; the first: */
    char what[128];
    struct {
        uint64_t low, high;
    } holds[MOST_PROCESSES];
} *shared;

static bool chosen[16];
static uint64_t limit_bytes, least_bytes;

static unsigned below(unsigned *seed, unsigned n)
{
    return (unsigned)rand_r(seed) % n;
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void bad(const char *what, const char *path, long value)
{
    if (__atomic_fetch_add(&shared->bad, 1, __ATOMIC_RELAXED) == 0)
        snprintf(shared->what, sizeof shared->what, "%s %s %ld", what, path, value);
}

/* small ones often */
static size_t some_size(unsigned *seed)
{
    static const unsigned most[] = {4096, 1u << 20, 2u << 20, 6u << 20};
    size_t size = 1 + below(seed, most[below(seed, 4)]);
    return size > least_bytes ? size : least_bytes;
}

/* Contexts are large and the device is for many: a few besides its first for each process. */
static int some_path(unsigned *seed, const struct thing *things, int n)
{
    int contexts = 0;

    for (int i = 0; i < n; i++)
        contexts += things[i].ctx != NULL;
    for (;;) {
        int path = (int)below(seed, (unsigned)PATHS);
        bool one_more = paths[path].make != context_make || contexts < 1 || below(seed, 20) == 0;
        if (chosen[path] && one_more)
            return path;
    }
}

static void ask_info(uint64_t held_low)
{
    size_t free_bytes = 0, total = 0;
    CUresult r = CALL(cuMemGetInfo_v2, &free_bytes, &total);

    if (r != CUDA_SUCCESS)
        bad("cuMemGetInfo", "", (long)r);
    else if (total != limit_bytes || free_bytes > total)
        bad("cuMemGetInfo total", "", (long)total);
    else if (free_bytes + held_low > limit_bytes)
        bad("cuMemGetInfo free", "", (long)free_bytes);
}

static void work(int me, unsigned seed)
{
    struct thing things[MOST_THINGS];
    int n = 0;

    memset(&shared->holds[me], 0, sizeof shared->holds[me]);
    paths_begin();
    while (!__atomic_load_n(&shared->stop, __ATOMIC_ACQUIRE)) {
        struct thing *t = &things[n];
        CUresult r;

        if (below(&seed, 50) == 0)
            ask_info(shared->holds[me].low);
        if (n < MOST_THINGS && below(&seed, 5) < 3) {
            memset(t, 0, sizeof *t);
            t->path = some_path(&seed, things, n);
            r = paths[t->path].make(t, some_size(&seed));
            if (r == CUDA_SUCCESS) {
                shared->holds[me].low += t->low;
                shared->holds[me].high += t->high;
                __atomic_fetch_add(&shared->made[t->path], 1, __ATOMIC_RELAXED);
                n++;
            } else if (r == CUDA_ERROR_OUT_OF_MEMORY) {
                __atomic_fetch_add(&shared->denied[t->path], 1, __ATOMIC_RELAXED);
            } else {
                bad("make", paths[t->path].name, (long)r);
            }
        } else if (n > 0) {
            t = &things[below(&seed, (unsigned)n)];
            r = paths[t->path].end(t);
            if (r != CUDA_SUCCESS)
                bad("end", paths[t->path].name, (long)r);
            shared->holds[me].low -= t->low;
            shared->holds[me].high -= t->high;
            *t = things[--n];
        }
        __atomic_fetch_add(&shared->ops, 1, __ATOMIC_RELAXED);
    }
    CALL(cuCtxSynchronize);
    __atomic_fetch_add(&shared->waiting, 1, __ATOMIC_ACQ_REL);
    while (!__atomic_load_n(&shared->end, __ATOMIC_ACQUIRE))
        usleep(5000);
}

/* One more process, when the dead are gone: asks for all of the limit, which cannot be had, so that
 * what is leased and not used comes back; then for what is free. */
static void ask_for_all(void)
{
    int status = 0;
    size_t total;
    pid_t pid;

    usleep(1000000);
    pid = fork();
    if (pid == 0) {
        CUdeviceptr p;

        paths_begin();
        if (CALL(cuMemAlloc_v2, &p, limit_bytes) != CUDA_ERROR_OUT_OF_MEMORY)
            exit(4);
        size_t before;
        int rounds = 0; /* of harpd's reconcile, in which what the dead held comes back: 1 s each */
        do {
            before = shared->free;
            if (CALL(cuMemGetInfo_v2, &shared->free, &total) != CUDA_SUCCESS)
                exit(5);
            usleep(2000000);
        } while ((rounds++ == 0 || shared->free != before) && rounds < 15);
        exit(0);
    }
    waitpid(pid, &status, 0);
    if (status != 0)
        bad("all of the limit", "", status);
}

static pid_t start(int me, unsigned seed)
{
    pid_t pid = fork();
    if (pid == 0) {
        work(me, seed);
        exit(0);
    }
    return pid;
}

static void choose(const char *names)
{
    for (int i = 0; i < PATHS; i++) {
        const char *found = strstr(names, paths[i].name);
        chosen[i] = strcmp(names, "all") == 0 || found != NULL;
    }
}

static void report(unsigned long kills, double seconds, int processes)
{
    uint64_t low = 0, high = 0;

    for (int i = 0; i < PATHS; i++) /* a default pool keeps its last chunk */
        high += chosen[i] && paths[i].make == async_make ? (unsigned)processes * CHUNK : 0;
    for (int i = 0; i < processes; i++) {
        low += shared->holds[i].low;
        high += shared->holds[i].high;
    }
    printf("{\"ops\": %lu, \"kills\": %lu, \"seconds\": %.2f, \"holds_low\": %llu, "
           "\"holds_high\": %llu, \"free\": %zu, \"bad\": %lu, \"what\": \"%s\", \"paths\": {",
           shared->ops, kills, seconds, (unsigned long long)low, (unsigned long long)high,
           shared->free, shared->bad, shared->what);
    for (int i = 0, some = 0; i < PATHS; i++)
        if (chosen[i])
            printf("%s\"%s\": [%lu, %lu]", some++ ? ", " : "", paths[i].name, shared->made[i],
                   shared->denied[i]);
    puts("}}");
    fflush(stdout);
}

int main(int argc, char **argv)
{
    pid_t pid[MOST_PROCESSES];
    unsigned long kills = 0;
    char line[16];

    if (argc != 9)
        return 2;
    int processes = atoi(argv[1]);
    unsigned seed = (unsigned)strtoul(argv[2], NULL, 10);
    unsigned long ops = strtoul(argv[3], NULL, 10);
    double seconds = atof(argv[4]), per_s = atof(argv[5]), begin = now_s(), next;
    choose(argv[6]);
    limit_bytes = strtoull(argv[7], NULL, 10) << 20;
    least_bytes = strtoull(argv[8], NULL, 10);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED || processes < 1 || processes > MOST_PROCESSES)
        return 2;
    for (int i = 0; i < processes; i++)
        pid[i] = start(i, seed + (unsigned)i);
    next = now_s() + 1 / (per_s > 0 ? per_s : 1e-9);
    while (now_s() - begin < seconds && __atomic_load_n(&shared->ops, __ATOMIC_RELAXED) < ops) {
        int status = 0;
        pid_t ended = waitpid(-1, &status, WNOHANG);

        if (ended > 0) {
            bad("a process ended by itself", "", status);
            break;
        }
        if (now_s() >= next) {
            int i = (int)below(&seed, (unsigned)processes);
            kill(pid[i], SIGKILL);
            waitpid(pid[i], NULL, 0);
            pid[i] = start(i, seed + (unsigned)(++kills * 1000));
            next += 1 / per_s;
        }
        usleep(1000);
    }
    double took = now_s() - begin;
    __atomic_store_n(&shared->stop, 1, __ATOMIC_RELEASE);
    for (int i = 0; i < 20000 && __atomic_load_n(&shared->waiting, __ATOMIC_ACQUIRE) < processes;
         i++)
        usleep(1000);
    if (__atomic_load_n(&shared->waiting, __ATOMIC_ACQUIRE) < processes)
        bad("not all have stopped; waiting", "", shared->waiting);
    ask_for_all();
    report(kills, took, processes);
    if (fgets(line, sizeof line, stdin) == NULL)
        line[0] = 0;
    for (int i = 0; i < processes; i += 2)
        kill(pid[i], SIGKILL);
    __atomic_store_n(&shared->end, 1, __ATOMIC_RELEASE);
    while (wait(NULL) > 0 || errno == EINTR) {
    }
    return 0;
}
