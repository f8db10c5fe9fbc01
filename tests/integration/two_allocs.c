/* SPDX-License-Identifier: Apache-2.0
 *
 * Two processes of a tenant allocate at the same time, again and again, of which one fits.
 *
 *     two_allocs ROUNDS SEED MIB
 *
 * Each waits at random, up to 300 us, and asks for MIB; who gets it holds it until both have asked.
 * Prints how often the first and the second got it, and how often none, both, or another code.
 */
#include <sys/mman.h>
#include <sys/wait.h>

#include "memory_paths.h"

static struct shared {
    unsigned came[2]; /* atomics: barriers passed */
    int code[2];
    unsigned long got[2], none, both, wrong;
} *shared;

static void together(int me)
{
    unsigned mine = __atomic_add_fetch(&shared->came[me], 1, __ATOMIC_ACQ_REL);

    while (__atomic_load_n(&shared->came[1 - me], __ATOMIC_ACQUIRE) < mine)
        usleep(50);
}

static void count(void)
{
    int a = shared->code[0], b = shared->code[1];

    if ((a != 0 && a != CUDA_ERROR_OUT_OF_MEMORY) || (b != 0 && b != CUDA_ERROR_OUT_OF_MEMORY))
        shared->wrong++;
    else if (a == 0 && b == 0)
        shared->both++;
    else if (a != 0 && b != 0)
        shared->none++;
    else
        shared->got[b == 0]++;
}

static void run(int me, int rounds, unsigned seed, size_t bytes)
{
    paths_begin();
    for (int i = 0; i < rounds; i++) {
        struct thing t = {0};

        together(me);
        usleep((unsigned)rand_r(&seed) % 300);
        shared->code[me] = (int)paths[0].make(&t, bytes);
        together(me);
        if (shared->code[me] == CUDA_SUCCESS)
            DO(cuMemFree_v2, t.at);
        if (me == 0)
            count();
    }
}

int main(int argc, char **argv)
{
    int failed = 0, status;

    if (argc != 4)
        return 2;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return 2;
    for (int i = 0; i < 2; i++)
        if (fork() == 0) {
            run(i, atoi(argv[1]), (unsigned)atoi(argv[2]) * 2 + (unsigned)i,
                strtoull(argv[3], NULL, 10) << 20);
            _exit(0);
        }
    while (wait(&status) > 0)
        failed |= status != 0;
    printf("%lu %lu %lu %lu %lu\n", shared->got[0], shared->got[1], shared->none, shared->both,
           shared->wrong);
    return failed;
}
