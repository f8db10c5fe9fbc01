/* SPDX-License-Identifier: Apache-2.0
 *
 * What the environment says of loading modules. Read once, at first need.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "soft/gpu/module.h"

static pthread_once_t mode_once = PTHREAD_ONCE_INIT;
static bool eager, no_jit; /* written once, by mode_once */

static bool set(const char *name)
{
    const char *value = getenv(name);
    return value != NULL && strcmp(value, "1") == 0;
}

static void read_mode(void)
{
    const char *loading = getenv("CUDA_MODULE_LOADING"); /* anything but EAGER is LAZY */
    eager = loading != NULL && strcmp(loading, "EAGER") == 0;
    no_jit = set("CUDA_DISABLE_PTX_JIT") || set("CUDA_DISABLE_JIT");
}

bool soft_loading_eager(void)
{
    pthread_once(&mode_once, read_mode);
    return eager;
}

bool soft_jit_disabled(void)
{
    pthread_once(&mode_once, read_mode);
    return no_jit;
}
