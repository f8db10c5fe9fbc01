/* SPDX-License-Identifier: Apache-2.0
 *
 * Pinned host memory: allocated by the driver, by itself or from a pool of the host, or registered
 * with it, charged by pages to the tenant's own quota of it (class HOST), never to a device.
 * Without a quota it is counted.
 *
 * A page that two registrations share is charged twice, as it is locked twice.
 */
#include <pthread.h>
#include <stddef.h>
#include <string.h>

#include "src/shim/entry/entry.h"
#include "src/shim/gate/lease.h"
#include "src/shim/gate/ledger.h"
#include "src/shim/gate/memory.h"
#include "src/shim/gate/session.h"

#define PAGE HARP_PAGE_BYTES

static struct {
    pthread_mutex_t lock;   /* never held across a call of the driver */
    struct harp_map blocks; /* by address: charged, owner, dev */
} h = {.lock = PTHREAD_MUTEX_INITIALIZER};

uint64_t harp_host_pages(uint64_t at, uint64_t bytes)
{
    uint64_t first = at & ~(PAGE - 1), most = UINT64_MAX - PAGE;
    if (bytes > most - at)
        return 0; /* no range of a process: the driver's own error */
    return ((at + bytes + PAGE - 1) & ~(PAGE - 1)) - first;
}

bool harp_host_note(const struct harp_block *block)
{
    pthread_mutex_lock(&h.lock);
    struct harp_block *b = harp_map_add(&h.blocks, block->key);
    if (b != NULL)
        *b = *block;
    pthread_mutex_unlock(&h.lock);
    return b != NULL;
}

static bool note(const void *p, CUcontext ctx, int dev, uint64_t charged)
{
    return harp_host_note(&(struct harp_block){.key = (uint64_t)(uintptr_t)p,
                                               .charged = charged,
                                               .owner = (uint64_t)(uintptr_t)ctx,
                                               .dev = dev,
                                               .cls = HARP_MEM_HOST});
}

/* Before the driver is asked to free it, so that an address is never there twice. */
bool harp_host_take(uint64_t at, struct harp_block *out)
{
    pthread_mutex_lock(&h.lock);
    struct harp_block *b = harp_map_find(&h.blocks, at);
    if (b != NULL) {
        *out = *b;
        harp_map_remove(&h.blocks, b);
    }
    pthread_mutex_unlock(&h.lock);
    return b != NULL;
}

void harp_host_owner_gone(uint64_t owner)
{
    for (;;) {
        struct harp_block gone = {0};
        pthread_mutex_lock(&h.lock);
        for (size_t i = 0; i < h.blocks.places && gone.key == 0; i++)
            if (h.blocks.at[i].key != 0 && h.blocks.at[i].owner == owner)
                gone = h.blocks.at[i];
        if (gone.key != 0)
            harp_map_remove(&h.blocks, harp_map_find(&h.blocks, gone.key));
        pthread_mutex_unlock(&h.lock);
        if (gone.key == 0)
            return;
        harp_unlease(gone.dev, HARP_MEM_HOST, gone.charged);
    }
}

void harp_host_forked(void)
{
    pthread_mutex_init(&h.lock, NULL);
    memset(&h.blocks, 0, sizeof h.blocks); /* not freed: the heap may have been in mid-change */
}

/* `at`: evaluated before and after the call; `pages`: what is locked. */
#define PIN(at, pages, call, undo)                                                                 \
    do {                                                                                           \
        int harp_dev;                                                                              \
        CUcontext harp_ctx;                                                                        \
        CUresult harp_r;                                                                           \
        if (harp_inside() || harp_device_current(&harp_dev, &harp_ctx) != CUDA_SUCCESS)            \
            return call;                                                                           \
        uint64_t harp_bytes = (pages);                                                             \
        if (harp_bytes == 0)                                                                       \
            return call; /* the driver's own error */                                              \
        if ((harp_r = harp_lease(harp_dev, HARP_MEM_HOST, harp_bytes)) != CUDA_SUCCESS)            \
            return harp_r;                                                                         \
        HARP_INSIDE(harp_r, call);                                                                 \
        if (harp_r == CUDA_SUCCESS && !note((at), harp_ctx, harp_dev, harp_bytes)) {               \
            CUresult harp_ignored;                                                                 \
            HARP_INSIDE(harp_ignored, undo(at));                                                   \
            (void)harp_ignored;                                                                    \
            harp_r = CUDA_ERROR_OUT_OF_MEMORY;                                                     \
        }                                                                                          \
        if (harp_r != CUDA_SUCCESS)                                                                \
            harp_unlease(harp_dev, HARP_MEM_HOST, harp_bytes);                                     \
        return harp_r;                                                                             \
    } while (0)

CUresult harp_hook_cuMemAllocHost(void **pp, unsigned int bytesize)
{
    PIN(*pp, pp != NULL ? harp_host_pages(0, bytesize) : 0, HARP_REAL(cuMemAllocHost)(pp, bytesize),
        HARP_REAL(cuMemFreeHost));
}

CUresult harp_hook_cuMemAllocHost_v2(void **pp, size_t bytesize)
{
    PIN(*pp, pp != NULL ? harp_host_pages(0, bytesize) : 0,
        HARP_REAL(cuMemAllocHost_v2)(pp, bytesize), HARP_REAL(cuMemFreeHost));
}

CUresult harp_hook_cuMemHostAlloc(void **pp, size_t bytesize, unsigned int Flags)
{
    PIN(*pp, pp != NULL ? harp_host_pages(0, bytesize) : 0,
        HARP_REAL(cuMemHostAlloc)(pp, bytesize, Flags), HARP_REAL(cuMemFreeHost));
}

CUresult harp_hook_cuMemHostRegister(void *p, size_t bytesize, unsigned int Flags)
{
    PIN(p, bytesize != 0 ? harp_host_pages((uint64_t)(uintptr_t)p, bytesize) : 0,
        HARP_REAL(cuMemHostRegister)(p, bytesize, Flags), HARP_REAL(cuMemHostUnregister));
}

CUresult harp_hook_cuMemHostRegister_v2(void *p, size_t bytesize, unsigned int Flags)
{
    PIN(p, bytesize != 0 ? harp_host_pages((uint64_t)(uintptr_t)p, bytesize) : 0,
        HARP_REAL(cuMemHostRegister_v2)(p, bytesize, Flags), HARP_REAL(cuMemHostUnregister));
}

#define UNPIN(p, call)                                                                             \
    do {                                                                                           \
        struct harp_block harp_block;                                                              \
        CUresult harp_r;                                                                           \
        if (harp_inside() || !harp_host_take((uint64_t)(uintptr_t)(p), &harp_block))               \
            return call;                                                                           \
        HARP_INSIDE(harp_r, call);                                                                 \
        if (harp_r == CUDA_SUCCESS)                                                                \
            harp_unlease(harp_block.dev, HARP_MEM_HOST, harp_block.charged);                       \
        else                                                                                       \
            harp_host_note(&harp_block);                                                           \
        return harp_r;                                                                             \
    } while (0)

CUresult harp_hook_cuMemFreeHost(void *p)
{
    UNPIN(p, HARP_REAL(cuMemFreeHost)(p));
}

CUresult harp_hook_cuMemHostUnregister(void *p)
{
    UNPIN(p, HARP_REAL(cuMemHostUnregister)(p));
}
