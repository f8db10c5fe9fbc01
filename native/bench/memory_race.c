/* SPDX-License-Identifier: Apache-2.0
 *
 * Processes that want more together than their tenant may have.
 */
#include "bench/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST_BLOCKS = 4096, MOST_MIB = 8 };

struct shared {
    int ready, go; /* atomics */
    unsigned long allocated, denied, wrong;
    int wrong_code;
};

static void run(struct shared *shared, unsigned seed, double seconds, int each_mib)
{
    void *lib = bench_open("libcuda.so.1");
    static CUdeviceptr block[MOST_BLOCKS];
    static int mib[MOST_BLOCKS];
    unsigned long allocated = 0, denied = 0;
    int n = 0, held = 0;
    CUcontext ctx;

    BENCH_DO(lib, cuInit, 0);
    BENCH_DO(lib, cuCtxCreate_v2, &ctx, 0, 0);
    __typeof__(&cuMemAlloc_v2) alloc = BENCH_CALL(lib, cuMemAlloc_v2);
    __typeof__(&cuMemFree_v2) give_back = BENCH_CALL(lib, cuMemFree_v2);
    __atomic_add_fetch(&shared->ready, 1, __ATOMIC_ACQ_REL);
    while (__atomic_load_n(&shared->go, __ATOMIC_ACQUIRE) == 0)
        usleep(2000);
    uint64_t until_ns = bench_now_ns() + (uint64_t)(seconds * 1e9);
    while (bench_now_ns() < until_ns) {
        int size = 1 + rand_r(&seed) % MOST_MIB;
        if (n < MOST_BLOCKS && held + size <= each_mib && rand_r(&seed) % 3 != 0) {
            CUresult r = alloc(&block[n], (size_t)size << 20);
            if (r == CUDA_SUCCESS) {
                mib[n++] = size;
                held += size;
                allocated++;
                continue;
            }
            denied++;
            if (r != CUDA_ERROR_OUT_OF_MEMORY) {
                __atomic_add_fetch(&shared->wrong, 1, __ATOMIC_RELAXED);
                shared->wrong_code = (int)r;
            }
        }
        if (n > 0) {
            int i = (int)((unsigned)rand_r(&seed) % (unsigned)n);
            CUresult r = give_back(block[i]);
            if (r != CUDA_SUCCESS)
                bench_fail("cuMemFree", (int)r);
            held -= mib[i];
            block[i] = block[--n];
            mib[i] = mib[n];
        }
    }
    __atomic_add_fetch(&shared->allocated, allocated, __ATOMIC_RELAXED);
    __atomic_add_fetch(&shared->denied, denied, __ATOMIC_RELAXED);
    while (n > 0)
        give_back(block[--n]);
    BENCH_DO(lib, cuCtxDestroy_v2, ctx);
}

int memory_race(int processes, double seconds, int each_mib)
{
    struct shared *shared =
        mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int failed = 0, status = 0;
    char byte;

    if (shared == MAP_FAILED)
        bench_fail("memory", -1);
    for (int i = 0; i < processes; i++) {
        pid_t pid = fork();
        if (pid < 0)
            bench_fail("fork", i);
        if (pid == 0) {
            run(shared, (unsigned)i + 1, seconds, each_mib);
            _exit(0);
        }
    }
    while (__atomic_load_n(&shared->ready, __ATOMIC_ACQUIRE) < processes) {
        if (waitpid(-1, &status, WNOHANG) > 0)
            bench_fail("one ended before the race", status);
        usleep(2000);
    }
    puts("{\"ready\": true}");
    fflush(stdout);
    if (read(STDIN_FILENO, &byte, 1) != 1)
        bench_fail("nobody says go", -1);
    __atomic_store_n(&shared->go, 1, __ATOMIC_RELEASE);
    while (wait(&status) > 0)
        failed |= status != 0;
    printf("{\"processes\": %d, \"allocated\": %lu, \"denied\": %lu, \"wrong_codes\": %lu, "
           "\"wrong_code\": %d}\n",
           processes, shared->allocated, shared->denied, shared->wrong, shared->wrong_code);
    return failed;
}
