/* SPDX-License-Identifier: Apache-2.0
 *
 * What does a program get that finds the driver in this or that way? Prints
 * "TOTAL_BYTES STATUS_OF_A_TOO_LARGE_ALLOCATION", then waits for the end of its input.
 *
 *   shim_probe open NAME [deep]   dlopen
 *   shim_probe space NAME         dlmopen into a new namespace
 *   shim_probe linked             built with -DLINKED against libcuda.so.1
 *   shim_probe fork NAME [init]   a child made by fork asks; init: its parent called cuInit before
 *
 * The allocation is of SHIM_PROBE_BYTES. Exit status: 0, or 4: the library did not open, 5: no
 * context (its code is printed).
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "generated/cuda_abi.h"

static void *lib;

#ifdef LINKED
#define CALL(name) name
#else
#define CALL(name) ((__typeof__(&name))dlsym(lib, #name))
#endif

static int ask(void)
{
    CUcontext ctx;
    CUdeviceptr ptr;
    size_t got = 0, total = 0;
    size_t bytes = strtoull(getenv("SHIM_PROBE_BYTES"), NULL, 0);
    CUresult r = CALL(cuInit)(0);
    if (r == CUDA_SUCCESS)
        r = CALL(cuCtxCreate_v2)(&ctx, 0, 0);
    if (r != CUDA_SUCCESS) {
        printf("no-context %d\n", (int)r);
        fflush(stdout);
        return 5;
    }
    CALL(cuMemGetInfo_v2)(&got, &total);
    r = CALL(cuMemAlloc_v2)(&ptr, bytes);
    printf("%zu %d\n", total, (int)r);
    fflush(stdout);
    while (getchar() != EOF)
        continue;
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return 2;
#ifndef LINKED
    int flags = RTLD_NOW;
#ifdef RTLD_DEEPBIND
    if (argc > 3 && strcmp(argv[3], "deep") == 0)
        flags |= RTLD_DEEPBIND;
#endif
#ifdef LM_ID_NEWLM
    if (strcmp(argv[1], "space") == 0)
        lib = dlmopen(LM_ID_NEWLM, argv[2], flags);
    else
#endif
        lib = dlopen(argv[2], flags);
    if (lib == NULL) {
        printf("not-opened %s\n", dlerror());
        return 4;
    }
#endif
    if (strcmp(argv[1], "fork") != 0)
        return ask();
    if (argc > 3 && strcmp(argv[3], "init") == 0)
        CALL(cuInit)(0);
    pid_t child = fork();
    if (child == 0)
        _exit(ask());
    int status;
    waitpid(child, &status, 0);
    return WEXITSTATUS(status);
}
