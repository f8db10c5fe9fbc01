/* SPDX-License-Identifier: Apache-2.0
 *
 * Oversubscription: which devices, which contexts, by what means; and a slab's physical memory.
 */
#include <stdlib.h>
#include <string.h>

#include "src/shim/entry/entry.h"
#include "src/shim/gate/gate.h"
#include "src/shim/gate/swap_state.h"

struct harp_swap harp_swap_state = {.lock = PTHREAD_MUTEX_INITIALIZER,
                                    .changed = PTHREAD_COND_INITIALIZER};
static struct harp_swap *const w = &harp_swap_state;

bool harp_swap_used(void)
{
    return __atomic_load_n(&w->used, __ATOMIC_RELAXED);
}

bool harp_swap_granted_on(int dev)
{
    uint32_t flags = dev < 0 ? 0 : __atomic_load_n(&w->dev[dev].flags, __ATOMIC_RELAXED);
    return (flags & HARP_GRANT_OVERSUBSCRIBE) != 0 && !harp_env()->gate_off;
}

bool harp_swap_on(int dev)
{
    if (!harp_swap_granted_on(dev))
        return false;
    pthread_mutex_lock(&w->lock);
    enum harp_tier tier = w->dev[dev].tier;
    bool on = (tier == TIER_VMM || tier == TIER_MANAGED) && !w->alone_no_more;
    pthread_mutex_unlock(&w->lock);
    return on;
}

struct harp_realm *harp_swap_realm(uint64_t ctx)
{
    struct harp_realm *realm = w->realms;
    while (realm != NULL && (uint64_t)(uintptr_t)realm->ctx != ctx)
        realm = realm->next;
    return realm;
}

void harp_swap_settled(void)
{
    while (w->moving != 0)
        pthread_cond_wait(&w->changed, &w->lock);
}

/* --- physical memory -------------------------------------------------------------------------- */

CUresult harp_slab_back(const struct harp_slab *slab, CUdevice device, uint64_t *handle)
{
    CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                .location = {CU_MEM_LOCATION_TYPE_DEVICE, device}};
    CUmemAccessDesc access = {.location = prop.location,
                              .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    CUmemGenericAllocationHandle made = 0;
    harp_enter();
    CUresult r = HARP_REAL(cuMemCreate)(&made, slab->bytes, &prop, 0);
    if (r == CUDA_SUCCESS) {
        r = HARP_REAL(cuMemMap)(slab->base, slab->bytes, 0, made, 0);
        CUresult mapped = r;
        if (r == CUDA_SUCCESS)
            r = HARP_REAL(cuMemSetAccess)(slab->base, slab->bytes, &access, 1);
        if (r != CUDA_SUCCESS && mapped == CUDA_SUCCESS)
            HARP_REAL(cuMemUnmap)(slab->base, slab->bytes);
        if (r != CUDA_SUCCESS)
            HARP_REAL(cuMemRelease)(made);
    }
    harp_leave();
    *handle = r == CUDA_SUCCESS ? made : 0;
    return r;
}

CUresult harp_slab_unback(const struct harp_slab *slab)
{
    harp_enter();
    CUresult r = HARP_REAL(cuMemUnmap)(slab->base, slab->bytes);
    if (r == CUDA_SUCCESS)
        r = HARP_REAL(cuMemRelease)(slab->handle);
    harp_leave();
    return r;
}

/* --- contexts ----------------------------------------------------------------------------------
 */

static enum harp_tier tier_of(CUdevice device)
{
    CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                .location = {CU_MEM_LOCATION_TYPE_DEVICE, device}};
    size_t granule = 0;
    int vmm = 0, managed = 0;
    enum harp_tier tier = TIER_NONE;
    if (!HARP_HAS(cuDeviceGetAttribute))
        return TIER_NONE;
    harp_enter();
    HARP_REAL(cuDeviceGetAttribute)
    (&vmm, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, device);
    HARP_REAL(cuDeviceGetAttribute)
    (&managed, CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS, device);
    if (vmm && HARP_HAS(cuMemCreate) && HARP_HAS(cuMemGetAllocationGranularity) &&
        HARP_REAL(cuMemGetAllocationGranularity)(
            &granule, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM) == CUDA_SUCCESS &&
        granule != 0 && HARP_GRANULE_BYTES % granule == 0)
        tier = TIER_VMM;
    else if (managed && HARP_HAS(cuMemPrefetchAsync))
        tier = TIER_MANAGED;
    harp_leave();
    return tier;
}

void harp_swap_context_made(CUcontext ctx, CUdevice device, int dev)
{
    if (dev < 0)
        return;
    enum harp_tier tier = tier_of(device);
    struct harp_realm *realm = calloc(1, sizeof *realm);
    if (realm == NULL)
        return;
    *realm = (struct harp_realm){.ctx = ctx, .device = device, .dev = dev};
    pthread_mutex_lock(&w->lock);
    harp_swap_settled();
    w->dev[dev].tier = tier;
    bool second = false;
    for (const struct harp_realm *other = w->realms; other != NULL; other = other->next)
        second |= other->dev != dev;
    realm->next = w->realms;
    w->realms = realm;
    second &= !w->alone_no_more;
    w->alone_no_more |= second;
    pthread_mutex_unlock(&w->lock);
    if (second && harp_swap_used())
        harp_swap_pin_all();
    if (harp_swap_granted_on(dev) && tier != TIER_VMM)
        harp_log("swap_tier dev=%d tier=%s", dev,
                 tier == TIER_MANAGED ? "managed" : "none effect=\"memory stays on the device\"");
}

void harp_swap_capturing(int step)
{
    pthread_mutex_lock(&w->lock);
    if (step > 0 || w->captures > 0)
        w->captures += (unsigned)step;
    pthread_mutex_unlock(&w->lock);
}

/* --- what the session says ---------------------------------------------------------------------
 */

void harp_swap_granted(int dev, uint32_t flags)
{
    __atomic_store_n(&w->dev[dev].flags, flags, __ATOMIC_RELAXED);
}

bool harp_swap_away(int dev)
{
    pthread_mutex_lock(&w->lock);
    enum harp_place place = w->dev[dev].place;
    pthread_mutex_unlock(&w->lock);
    return place != PLACE_HERE;
}

void harp_swap_forked(void)
{
    memset(w, 0, sizeof *w); /* not freed: the heap may have been in mid-change */
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
}
