/* SPDX-License-Identifier: Apache-2.0
 *
 * A program for a root folder with nothing in it but itself and its libraries: runs kernels of a
 * PTX file, each in a module of its own that stays loaded, and prints what each wrote; or the code
 * that it got.
 *
 *     ptx_client LIBCUDA FILE KERNEL[,KERNEL...] [PAUSE_MS]
 *
 * A kernel takes one pointer, to where it writes a number.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "driver_calls.h"

static char text[1 << 20];

int main(int argc, char **argv)
{
    CUcontext context;
    CUmodule module;
    CUfunction function;
    CUdeviceptr at;
    uint32_t value;
    void *params[] = {&at};
    long pause_ms = argc > 4 ? atol(argv[4]) : 0;
    struct timespec pause = {pause_ms / 1000, pause_ms % 1000 * 1000000};
    FILE *file = fopen(argv[2], "r");
    size_t bytes = file ? fread(text, 1, sizeof text - 1, file) : 0;
    lib = dlopen(argv[1], RTLD_NOW);
    if (!bytes || !lib) {
        fprintf(stderr, "%s\n", bytes ? dlerror() : "no PTX");
        return 3;
    }
    DO(cuInit, 0);
    DO(cuCtxCreate_v2, &context, 0, 0);
    DO(cuMemAlloc_v2, &at, 4096);
    for (char *kernel = strtok(argv[3], ","); kernel; kernel = strtok(NULL, ",")) {
        CUresult r = CALL(cuModuleLoadData, &module, text);
        if (r == CUDA_SUCCESS)
            r = CALL(cuModuleGetFunction, &function, module, kernel);
        if (r == CUDA_SUCCESS)
            r = CALL(cuLaunchKernel, function, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL);
        if (r == CUDA_SUCCESS)
            r = CALL(cuCtxSynchronize);
        if (r != CUDA_SUCCESS) {
            printf("refused %d\n", (int)r);
            return 1;
        }
        DO(cuMemcpyDtoH_v2, &value, at, sizeof value);
        printf("%u\n", value);
        fflush(stdout);
        nanosleep(&pause, NULL);
    }
    return 0;
}
