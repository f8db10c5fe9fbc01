/* SPDX-License-Identifier: Apache-2.0
 *
 * Managed memory, and a kernel that touches it. "Touch" is what a kernel's access does: the map's
 * byte, and the slow path where it is closed.
 */
#ifndef SOFT_MANAGED_TEST_H
#define SOFT_MANAGED_TEST_H

#include "soft_test.h"

#include "soft/gpu/arena.h"
#include "soft/gpu/managed.h"

/* ------------------------------------------------------------- a kernel that touches bytes -----
 */
struct toucher {
    struct soft_cmd cmd;
    CUdeviceptr from, to;
    uint64_t step;
    int value; /* < 0: reads */
    uint64_t *moved_ns;
    unsigned *sum;
};

static inline CUresult toucher_run(struct soft_cmd *cmd, struct soft_run *run)
{
    struct toucher *t = (struct toucher *)cmd;
    struct ptx_launch launch = {0};

    soft_launch_bind(run, &launch);
    for (CUdeviceptr p = t->from; p < t->to; p += t->step) {
        uint8_t access = launch.arena_map[(p - launch.arena_base) >> PTX_PAGE_SHIFT];
        bool open = (access & (t->value < 0 ? PTX_MAP_READ : PTX_MAP_WRITE)) != 0;
        unsigned char *at = open ? (unsigned char *)(uintptr_t)(p + (uint64_t)launch.arena_delta)
                                 : launch.host->translate(&launch, p, 1, t->value >= 0);

        if (at == NULL)
            return CUDA_ERROR_ILLEGAL_ADDRESS;
        if (t->value < 0)
            *t->sum += *at;
        else
            *at = (unsigned char)t->value;
    }
    run->modelled_ns = 1000;
    if (t->moved_ns != NULL)
        *t->moved_ns = run->moved_ns;
    return CUDA_SUCCESS;
}

static const struct soft_cmd_ops toucher_ops = {
    .name = "kernel touch", .engine = SOFT_COMPUTE, .run = toucher_run};

/* In the current context; waits. Returns the time that moving took. */
static inline uint64_t touch(CUdeviceptr from, uint64_t bytes, int value, unsigned *sum)
{
    struct toucher *t = calloc(1, sizeof *t);
    struct soft_stream *s;
    unsigned unused = 0;
    uint64_t ns = 0;

    CHECK(t != NULL);
    *t = (struct toucher){.cmd = {.ops = &toucher_ops},
                          .from = from,
                          .to = from + bytes,
                          .step = 4096,
                          .value = value,
                          .moved_ns = &ns,
                          .sum = sum != NULL ? sum : &unused};
    OK(soft_stream_of(NULL, &s));
    OK(soft_submit(s, &t->cmd));
    OK(cuCtxSynchronize());
    return ns;
}

static inline CUdeviceptr managed(uint64_t bytes)
{
    CUdeviceptr p = 0;

    OK(cuMemAllocManaged(&p, bytes, CU_MEM_ATTACH_GLOBAL));
    return p;
}

static inline unsigned char *host(CUdeviceptr p)
{
    return (unsigned char *)(uintptr_t)p;
}

#endif
