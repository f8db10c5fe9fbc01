/* SPDX-License-Identifier: Apache-2.0
 *
 * A step as a small training makes it, for hosts without tinygrad: a batch goes there (64 KiB), 60
 * kernels of 100 us follow each other, four bytes (the loss) come back.
 */
#include <stdlib.h>
#include <string.h>

#include "bench/remote.h"

#define BATCH_BYTES ((size_t)64 << 10)
#define KERNELS     60
#define KERNEL_NS   100000u

int remote_step(size_t n)
{
    static unsigned char batch[BATCH_BYTES];
    void *lib = remote_lib();
    uint64_t *took = calloc(n, sizeof *took);
    CUmodule module;
    CUfunction f;
    CUdeviceptr at;
    uint32_t loops = 1, each = KERNEL_NS;
    if (took == NULL)
        bench_fail("memory for times", -1);
    BENCH_DO(lib, cuMemAlloc_v2, &at, BATCH_BYTES);
    BENCH_DO(lib, cuModuleLoadData, &module, BENCH_PTX BENCH_SLEEPER);
    BENCH_DO(lib, cuModuleGetFunction, &f, module, "sleeper");
    void *args[] = {&loops, &each};
    int64_t before = 0;
    for (size_t i = 0; i <= n; i++) { /* the first is not timed */
        uint32_t loss, first;
        memset(batch, (int)i, sizeof batch);
        memcpy(&first, batch, sizeof first);
        uint64_t from_ns = bench_now_ns();
        BENCH_DO(lib, cuMemcpyHtoD_v2, at, batch, sizeof batch);
        for (unsigned k = 0; k < KERNELS; k++)
            BENCH_DO(lib, cuLaunchKernel, f, 1, 1, 1, 1, 1, 1, 0, NULL, args, NULL);
        BENCH_DO(lib, cuMemcpyDtoH_v2, &loss, at, sizeof loss);
        if (loss != first)
            bench_fail("another batch's bytes came back; step", (int)i);
        if (i > 0)
            took[i - 1] = bench_now_ns() - from_ns;
        else
            before = remote_trips();
    }
    remote_say("step", took, n,
               &(struct remote_done){.trips = remote_trips() < 0 ? -1 : remote_trips() - before,
                                     .launches = KERNELS * (n + 1),
                                     .copied_bytes = BATCH_BYTES * (n + 1)});
    return 0;
}
