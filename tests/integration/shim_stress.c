/* SPDX-License-Identifier: Apache-2.0
 *
 * Four threads allocate, launch, copy, make and destroy streams, three times over in a new context.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "generated/cuda_abi.h"

#define CALL(name) ((__typeof__(&name))dlsym(lib, #name))

static void *lib;
static CUcontext ctx;

static void *work(void *arg)
{
    unsigned seed = (unsigned)(size_t)arg;
    CUdeviceptr p[64] = {0};
    CUstream stream;
    CALL(cuCtxSetCurrent)(ctx);
    CALL(cuStreamCreate)(&stream, 1);
    for (int i = 0; i < 2000; i++) {
        int k = rand_r(&seed) % 64;
        if (p[k] != 0) {
            CALL(cuMemFree_v2)(p[k]);
            p[k] = 0;
        } else if (CALL(cuMemAlloc_v2)(&p[k], 512u << (rand_r(&seed) % 14)) != CUDA_SUCCESS) {
            p[k] = 0;
        }
        CUfunction f = (CUfunction)(size_t)(1 + rand_r(&seed) % 5);
        unsigned us = 20 + (unsigned)rand_r(&seed) % 60;
        CUstream on = rand_r(&seed) % 3 != 0 ? stream : NULL;
        if (rand_r(&seed) % 4 == 0)
            CALL(cuMemcpyHtoDAsync_v2)(1, &seed, 1024u * us, on);
        else
            CALL(cuLaunchKernel)(f, us, 1, 1, 1, 1, 1, 0, on, NULL, NULL);
        if (rand_r(&seed) % 200 == 0) {
            CALL(cuStreamDestroy_v2)(stream);
            CALL(cuStreamCreate)(&stream, 1);
        }
        if (rand_r(&seed) % 100 == 0)
            CALL(cuCtxSynchronize)();
    }
    for (int k = 0; k < 64; k++)
        if (p[k] != 0)
            CALL(cuMemFree_v2)(p[k]);
    CALL(cuStreamDestroy_v2)(stream);
    return NULL;
}

int main(void)
{
    lib = dlopen("libcuda.so.1", RTLD_NOW);
    if (lib == NULL || CALL(cuInit)(0) != CUDA_SUCCESS)
        return 1;
    for (size_t round = 0; round < 3; round++) {
        pthread_t threads[4];
        if (CALL(cuCtxCreate_v2)(&ctx, 0, 0) != CUDA_SUCCESS)
            return 2;
        for (size_t i = 0; i < 4; i++)
            pthread_create(&threads[i], NULL, work, (void *)(round * 10 + i + 1));
        for (size_t i = 0; i < 4; i++)
            pthread_join(threads[i], NULL);
        CALL(cuCtxDestroy_v2)(ctx);
    }
    puts("done");
    return 0;
}
