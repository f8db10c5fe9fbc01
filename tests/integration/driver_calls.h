/* SPDX-License-Identifier: Apache-2.0
 *
 * For programs of these tests: the driver by dlopen, each call by name, any error ends the program.
 */
#ifndef HARP_TESTS_DRIVER_CALLS_H
#define HARP_TESTS_DRIVER_CALLS_H

#include <dlfcn.h>
#include <stdio.h>
#include <unistd.h>

#include "generated/cuda_abi.h"

static void *lib;

static void *must(const char *name)
{
    void *f = dlsym(lib, name);
    if (f == NULL) {
        fprintf(stderr, "no %s\n", name);
        _exit(3);
    }
    return f;
}

#define CALL(name, ...) ((__typeof__(&name))must(#name))(__VA_ARGS__)
#define DO(name, ...)                                                                              \
    do {                                                                                           \
        CUresult r = CALL(name, __VA_ARGS__);                                                      \
        if (r != CUDA_SUCCESS) {                                                                   \
            fprintf(stderr, "%s: %d\n", #name, (int)r);                                            \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

#endif
