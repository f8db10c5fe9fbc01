/* SPDX-License-Identifier: Apache-2.0
 *
 * Kernels compiled by `harp-ptxc serve`, for programs whose root folder has no compiler.
 */
#ifndef HARP_SOFT_FUNCTION_SERVICE_H
#define HARP_SOFT_FUNCTION_SERVICE_H

#include <stdint.h>

#include "soft/gpu/function_spawn.h"

/* As soft_spawn_ptxc(), by the service that listens at `socket`; what was compiled is in
 * done->object. A service that is away is waited for, `patience_ms` at most: it may be on its way
 * back. There is no other way then: an error. */
int soft_ask_service(const char *socket, int64_t patience_ms, const char *ptx, size_t ptx_bytes,
                     const char *kernel, int cc, bool quick, struct soft_spawned *done);

#endif
