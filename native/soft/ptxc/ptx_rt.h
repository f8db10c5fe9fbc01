/* SPDX-License-Identifier: Apache-2.0
 *
 * The ABI between the software GPU (native/soft/gpu) and a kernel compiled by harp-ptxc.
 *
 * harp-ptxc turns one PTX kernel and its callees into a freestanding shared object (no libc, no
 * libm: -nostdlib; all that it needs from the host comes through `struct ptx_host`), which exports
 * one symbol, `harp_kernel`. The software GPU loads it and calls `run_block` once per thread block,
 * blocks of one launch possibly on several host threads at the same time.
 *
 * Changing anything here changes PTX_RT_ABI, which is part of the cache key.
 */
#ifndef HARP_PTX_RT_H
#define HARP_PTX_RT_H

#include <stddef.h>
#include <stdint.h>

#define PTX_RT_ABI 3u

/* Why a block stopped. Values other than 0 become the CUresult the driver reports (sticky). */
enum ptx_stop {
    PTX_STOP_DONE = 0,
    PTX_STOP_ILLEGAL_ADDRESS,     /* CUDA_ERROR_ILLEGAL_ADDRESS 700 */
    PTX_STOP_MISALIGNED,          /* CUDA_ERROR_MISALIGNED_ADDRESS 716 */
    PTX_STOP_TRAP,                /* CUDA_ERROR_LAUNCH_FAILED 719 */
    PTX_STOP_ASSERT,              /* CUDA_ERROR_ASSERT 710 */
    PTX_STOP_ILLEGAL_INSTRUCTION, /* CUDA_ERROR_ILLEGAL_INSTRUCTION 715 */
    PTX_STOP_STACK,     /* local memory exhausted: CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES 701 */
    PTX_STOP_ABANDONED, /* the host asked the block to give up (context torn down) */
};

struct ptx_launch;
struct ptx_block;

/* What the host gives a kernel. All functions are callable from any thread that runs a block. */
struct ptx_host {
    /* Device clock in ns (the one global clock that events use; %globaltimer, %clock64). */
    uint64_t (*now_ns)(void);
    /* Called at block starts and on polling back edges: may suspend the caller until the device's
     * engine is this context's again. Non-zero: stop the block with PTX_STOP_ABANDONED. */
    int (*poll)(const struct ptx_launch *launch);
    /* Slow path of a generic/global address that the map does not open: mapped host memory and the
     * like. NULL: illegal address. */
    void *(*translate)(const struct ptx_launch *launch, uint64_t addr, uint64_t bytes, int write);
    /* vprintf with the device's packed argument buffer. */
    int (*vprintf)(const struct ptx_launch *launch, const char *format, const void *args);
    /* Math the compiler cannot open-code; IEEE double and float, libm semantics. */
    double (*sin)(double), (*cos)(double), (*exp2)(double), (*log2)(double), (*tanh)(double);
    float (*sinf)(float), (*cosf)(float), (*exp2f)(float), (*log2f)(float), (*tanhf)(float);
    double (*fma)(double, double, double);
    float (*fmaf)(float, float, float);
    double (*sqrt)(double);
    float (*sqrtf)(float);
    void *(*memcpy)(void *, const void *, size_t);
    void *(*memset)(void *, int, size_t);
    /* malloc and free of the device: a device address or 0; 0 or -EINVAL (not one of these). */
    uint64_t (*heap_take)(const struct ptx_launch *launch, uint64_t bytes);
    int (*heap_give)(const struct ptx_launch *launch, uint64_t addr);
    /* Waits until this was called for every block of a cooperative launch; may suspend the caller
     * as poll does. Other than DONE: the block stops with that. */
    enum ptx_stop (*grid_sync)(const struct ptx_launch *launch);
    /* The block has waited in a loop for some time: for another one, perhaps, that has not begun.
     */
    void (*spins)(const struct ptx_launch *launch);
};

/* Device addresses: a device pointer P in [arena_base, arena_base + arena_bytes) is good if
 * arena_map[(P - arena_base) >> PTX_PAGE_SHIFT] has the bit of what is done, and its bytes lie at
 * host address P + arena_delta; else `translate` is asked. The range itself is PROT_NONE, so a host
 * program that dereferences a device pointer dies as it would on hardware. */
#define PTX_MAP_READ   1
#define PTX_MAP_WRITE  2 /* stores and atomics */
#define PTX_PAGE_SHIFT 21

struct ptx_launch {
    uint32_t grid[3], block[3];
    uint32_t dyn_shared_bytes;
    uint32_t flags;              /* PTX_LAUNCH_* */
    const unsigned char *params; /* packed kernel parameters, PTX layout */
    uint32_t params_bytes;
    uint32_t sm_count;
    uint64_t arena_base, arena_bytes;
    int64_t arena_delta;
    const uint8_t *arena_map;
    const uint64_t *global_addrs; /* device address per module variable, order of the index */
    const struct ptx_host *host;
    void *host_data; /* the host's own */
    uint64_t grid_id;
};

#define PTX_LAUNCH_COOPERATIVE 1u

/* Per block, zeroed by the host before the block; counters are added to, never reset, by run_block.
 * The host sums them over blocks: they prove that the kernel ran and feed the time model. */
struct ptx_block {
    uint32_t ctaid[3];
    uint32_t smid;
    unsigned char *shared; /* static + dynamic shared memory of this block, 256-byte aligned */
    uint32_t shared_bytes;
    uint64_t instructions;   /* PTX instructions executed, summed over threads */
    uint64_t load_bytes;     /* global memory read, summed over threads */
    uint64_t store_bytes;    /* global memory written */
    uint64_t sleep_ns;       /* nanosleep: the largest sum over one thread of the block */
    uint64_t fault_addr;     /* set with PTX_STOP_ILLEGAL_ADDRESS / _MISALIGNED */
    const char *fault_where; /* static text: "kernel: instruction", or NULL */
    void *scratch;           /* host-owned buffer of at least `scratch_bytes` of the kernel */
};

struct ptx_kernel {
    uint32_t abi;   /* PTX_RT_ABI */
    uint32_t flags; /* PTX_KERNEL_* */
    const char *name;
    uint32_t static_shared_bytes;
    uint32_t local_bytes;                               /* .local per thread */
    uint64_t scratch_fixed_bytes, scratch_thread_bytes; /* scratch = fixed + threads * thread */
    enum ptx_stop (*run_block)(const struct ptx_launch *launch, struct ptx_block *block);
};

#define PTX_KERNEL_HAS_BARRIER 1u
#define PTX_KERNEL_GRID_SYNC   2u  /* needs all blocks to make progress at once */
#define PTX_KERNEL_QUICK       4u  /* compiled soon: there is a faster one of the same results */
#define PTX_KERNEL_HEAP        8u  /* calls malloc or free */
#define PTX_KERNEL_WAITS       16u /* has loops that wait, for other blocks too, perhaps */

/* The one exported symbol of a compiled kernel: `const struct ptx_kernel harp_kernel;` */

#endif
