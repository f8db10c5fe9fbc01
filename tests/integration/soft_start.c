/* SPDX-License-Identifier: Apache-2.0
 *
 * The most trivial client: cuInit, a context, one tiny kernel that stores a number, the number read
 * back, exit. Prints the microseconds of each step.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "generated/cuda_abi.h"

static const char ptx[] = ".version 7.0\n.target sm_70\n.address_size 64\n"
                          ".visible .entry put(.param .u64 at)\n{\n.reg .b64 %d; .reg .b32 %r;\n"
                          "ld.param.u64 %d, [at];\nmov.u32 %r, 42;\n"
                          "st.global.u32 [%d], %r;\nret;\n}\n";

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static double before;

static void step(const char *name, CUresult r)
{
    double now = now_us();
    if (r != CUDA_SUCCESS) {
        printf("%s: %d\n", name, (int)r);
        exit(1);
    }
    printf("%s %.0f\n", name, now - before);
    before = now_us();
}

int main(void)
{
    CUcontext ctx;
    CUmodule module;
    CUfunction put;
    CUdeviceptr at;
    unsigned value = 0;
    void *params[] = {&at};

    before = now_us();
    step("init", cuInit(0));
    step("context", cuCtxCreate_v2(&ctx, 0, 0));
    step("module", cuModuleLoadData(&module, ptx));
    step("function", cuModuleGetFunction(&put, module, "put"));
    step("alloc", cuMemAlloc_v2(&at, sizeof value));
    step("launch", cuLaunchKernel(put, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL));
    step("copy", cuMemcpyDtoH_v2(&value, at, sizeof value));
    return value == 42 ? 0 : 2;
}
