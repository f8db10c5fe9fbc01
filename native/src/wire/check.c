/* SPDX-License-Identifier: Apache-2.0
 *
 * Structs that may go over the wire only in one form.
 */
#include <errno.h>

#include "generated/cuda_abi.h"
#include "src/wire/codec.h"

/* A host side starts at its pointer, and its rows and planes have no gaps. */
#define FLAT(c, side)                                                                              \
    ((c)->side##XInBytes == 0 && (c)->side##Y == 0 &&                                              \
     ((c)->side##Pitch == 0 || (c)->side##Pitch == (c)->WidthInBytes))
#define SOLID(c, side)                                                                             \
    (FLAT(c, side) && (c)->side##Z == 0 &&                                                         \
     ((c)->side##Height == 0 || (c)->side##Height == (c)->Height))
#define PACKED(c, form, side) ((c)->side##MemoryType != CU_MEMORYTYPE_HOST || form(c, side))

int harp_wire_check_CUDA_MEMCPY2D_v2(const void *item)
{
    const CUDA_MEMCPY2D *c = item;
    return PACKED(c, FLAT, src) && PACKED(c, FLAT, dst) ? 0 : -ENOTSUP;
}

int harp_wire_check_CUDA_MEMCPY3D_v2(const void *item)
{
    const CUDA_MEMCPY3D *c = item;
    return PACKED(c, SOLID, src) && PACKED(c, SOLID, dst) ? 0 : -ENOTSUP;
}

int harp_wire_check_CUDA_MEMCPY3D_PEER_v1(const void *item)
{
    const CUDA_MEMCPY3D_PEER *c = item;
    return PACKED(c, SOLID, src) && PACKED(c, SOLID, dst) ? 0 : -ENOTSUP;
}
