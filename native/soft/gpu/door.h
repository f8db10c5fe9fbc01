/* SPDX-License-Identifier: Apache-2.0
 *
 * Doors: every exported symbol is a few instructions of assembly (door.inc). While nothing is armed
 * they jump to the implementation; else they ask soft_door() first, which may answer in its stead.
 * Calls among our own files do not pass: in C `cuInit` is the implementation, whose name in object
 * files is soft_cuInit (HARP_ABI_NAME in the generated headers).
 */
#ifndef HARP_SOFT_DOOR_H
#define HARP_SOFT_DOOR_H

#include <stdint.h>

#define SOFT_DOOR_RESULT  1u /* answers a CUresult or nvmlReturn_t */
#define SOFT_DOOR_ALLOC   2u /* takes device memory */
#define SOFT_DOOR_VMM     4u
#define SOFT_DOOR_POOL    8u
#define SOFT_DOOR_IPC     16u
#define SOFT_DOOR_MANAGED 32u
#define SOFT_DOOR_HANDLE  64u  /* its device argument is an nvmlDevice_t ... */
#define SOFT_DOOR_INDEX   128u /* ... or NVML's index */
#define SOFT_DOOR_FREE    256u /* goes on in a process that is locked for a checkpoint */

struct soft_door_info { /* by symbol number; generated */
    const char *name;
    uint16_t since; /* CUDA version that brought it; 0: not known to cuGetProcAddress */
    uint16_t flags;
    int8_t device_arg; /* which argument names the device; -1: none */
};
extern const struct soft_door_info soft_doors_cuda[], soft_doors_nvml[];
extern const unsigned soft_doors_cuda_count, soft_doors_nvml_count;

#define SOFT_DOOR_ANSWER(result) (1ull << 32 | (uint32_t)(result))
/* Called by the doors that are not plainly open, with the integer arguments of the call. 0: go on
 * to the implementation; SOFT_DOOR_ANSWER(): the caller gets that. One a library. */
uint64_t soft_door(uint32_t symbol, const uint64_t *args);

#endif
