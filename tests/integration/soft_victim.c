/* SPDX-License-Identifier: Apache-2.0
 *
 * A client made to be killed anywhere: for ever makes a context, works in it in an order that the
 * seed gives, and takes it away. Before each step it writes the step's letter to stdout, so that
 * the test knows where it was. Ends by itself only if a call fails: "!", the call and its code.
 *
 *     soft_victim SEED
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "generated/cuda_abi.h"

#define BIG (24u << 20)

static const char ptx[] =
    ".version 7.8\n.target sm_70\n.address_size 64\n"
    ".visible .entry nap()\n{\nnanosleep.u32 900000;\nret;\n}\n"
    ".visible .entry work(.param .u64 at)\n{\n.reg .b64 %d<3>; .reg .b32 %r<5>; .reg .pred %p;\n"
    "ld.param.u64 %d0, [at];\nmov.u32 %r0, %ctaid.x;\nmov.u32 %r1, %tid.x;\n"
    "mad.lo.u32 %r2, %r0, 64, %r1;\nmul.wide.u32 %d1, %r2, 4;\nadd.u64 %d0, %d0, %d1;\n"
    "mov.u32 %r3, 0;\nAGAIN:\nadd.u32 %r3, %r3, 1;\nsetp.lt.u32 %p, %r3, 2000;\n@%p bra AGAIN;\n"
    "st.global.u32 [%d0], %r3;\nret;\n}\n";

static uint32_t seed;
static char *host;

static uint32_t random_below(uint32_t n)
{
    seed = seed * 1664525u + 1013904223u;
    return (seed >> 8) % n;
}

static void at(char letter)
{
    if (write(STDOUT_FILENO, &letter, 1) != 1)
        _exit(3);
}

#define DO(letter, name, ...)                                                                      \
    do {                                                                                           \
        at(letter);                                                                                \
        CUresult do_r = name(__VA_ARGS__);                                                         \
        if (do_r != CUDA_SUCCESS) {                                                                \
            dprintf(STDOUT_FILENO, "!%s %d", #name, (int)do_r);                                    \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

static void work(CUfunction nap, CUfunction busy, CUstream stream, CUdeviceptr base)
{
    static const unsigned blocks[] = {1, 4, 64};
    CUdeviceptr more = 0;
    void *pinned = NULL, *params[] = {&base};

    switch (random_below(9)) {
    case 0:
        DO('a', cuMemAlloc_v2, &more, 1 + random_below(BIG));
        DO('d', cuMemsetD8_v2, more, 7, 1);
        DO('f', cuMemFree_v2, more);
        break;
    case 1:
        DO('a', cuMemAlloc_v2, &more, BIG); /* left to the context's end */
        break;
    case 2:
        DO('h', cuMemAllocHost_v2, &pinned, 1u << 20);
        DO('c', cuMemcpyHtoDAsync_v2, base, pinned, 1u << 20, stream);
        DO('s', cuStreamSynchronize, stream);
        DO('h', cuMemFreeHost, pinned);
        break;
    case 3:
        DO('c', cuMemcpyHtoD_v2, base, host, BIG);
        break;
    case 4:
        DO('c', cuMemcpyDtoH_v2, host, base, BIG);
        break;
    case 5:
        DO('m', cuMemsetD8Async, base, 1, BIG, stream);
        break;
    case 6:
        for (int i = 0; i < 8; i++)
            DO('n', cuLaunchKernel, nap, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL);
        DO('s', cuCtxSynchronize);
        break;
    default:
        for (int i = 0; i < 4; i++)
            DO('k', cuLaunchKernel, busy, blocks[random_below(3)], 1, 1, 64, 1, 1, 0, stream,
               params, NULL);
        DO('s', cuStreamSynchronize, stream);
        break;
    }
}

int main(int argc, char **argv)
{
    seed = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 1;
    host = malloc(BIG);
    if (host == NULL)
        return 2;
    memset(host, 3, BIG);
    DO('i', cuInit, 0);
    for (;;) {
        CUcontext ctx;
        CUmodule module;
        CUfunction nap, busy;
        CUstream stream;
        CUdeviceptr base;

        DO('x', cuCtxCreate_v2, &ctx, 0, 0);
        DO('l', cuModuleLoadData, &module, ptx);
        DO('l', cuModuleGetFunction, &nap, module, "nap");
        DO('l', cuModuleGetFunction, &busy, module, "work");
        DO('x', cuStreamCreate, &stream, CU_STREAM_NON_BLOCKING);
        DO('a', cuMemAlloc_v2, &base, BIG);
        for (uint32_t i = 0, n = random_below(60); i < n; i++)
            work(nap, busy, stream, base);
        DO('x', cuCtxDestroy_v2, ctx);
    }
}
