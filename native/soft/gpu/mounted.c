/* SPDX-License-Identifier: Apache-2.0 */
#include "soft/gpu/mounted.h"

#include "harp/mounted.h"

/* The folder above decides: what is mounted in it may be a service's own (the chart's compiler). */
bool soft_is_mounted(const char *path)
{
    return access(path, F_OK) == 0 && harp_is_mounted("/opt/harp");
}
