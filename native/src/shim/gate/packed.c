/* SPDX-License-Identifier: Apache-2.0
 *
 * Things without an address that a driver packs: code, variables, arrays. What is larger than
 * HARP_PACKED_MOST has granules of its own; of each context the smaller ones are one sum, rounded
 * up.
 *
 * (1) `bytes` of a context are covered by `leased`, except while a lease is being asked for.
 * (2) The lock is not held across a lease.
 */
#include <pthread.h>
#include <stdlib.h>

#include "harp/lease.h"
#include "src/shim/gate/ledger.h"
#include "src/shim/gate/memory.h"
#include "src/shim/gate/session.h"

struct packed { /* of one context */
    struct packed *next;
    CUcontext ctx;
    int dev;
    uint64_t bytes, leased;
};

static struct packed *all; /* under `lock` */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct packed *packed_of(CUcontext ctx, int dev)
{
    struct packed *p = all;
    while (p != NULL && p->ctx != ctx)
        p = p->next;
    if (p == NULL && (p = calloc(1, sizeof *p)) != NULL) {
        *p = (struct packed){.next = all, .ctx = ctx, .dev = dev};
        all = p;
    }
    return p;
}

void harp_packed_unlease(CUcontext ctx, int dev, uint64_t bytes)
{
    uint64_t back = 0;
    if (bytes > HARP_PACKED_MOST) {
        harp_unlease(dev, HARP_MEM_DEVICE, harp_granules(bytes));
        return;
    }
    pthread_mutex_lock(&lock);
    for (struct packed *p = all; p != NULL; p = p->next)
        if (p->ctx == ctx) {
            p->bytes -= bytes < p->bytes ? bytes : p->bytes;
            uint64_t need = harp_granules(p->bytes);
            back = p->leased > need ? p->leased - need : 0;
            p->leased -= back;
        }
    pthread_mutex_unlock(&lock);
    harp_unlease(dev, HARP_MEM_DEVICE, back);
}

CUresult harp_packed_lease(CUcontext ctx, int dev, uint64_t bytes)
{
    uint64_t more = 0;
    if (bytes == 0)
        return CUDA_SUCCESS;
    if (bytes > HARP_PACKED_MOST)
        return harp_lease(dev, HARP_MEM_DEVICE, harp_granules(bytes));
    pthread_mutex_lock(&lock);
    struct packed *p = packed_of(ctx, dev);
    if (p != NULL) {
        p->bytes += bytes;
        uint64_t need = harp_granules(p->bytes);
        more = need > p->leased ? need - p->leased : 0;
    }
    pthread_mutex_unlock(&lock);
    if (p == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    CUresult r = harp_lease(dev, HARP_MEM_DEVICE, more);
    if (r == CUDA_SUCCESS) {
        pthread_mutex_lock(&lock);
        p->leased +=
            more; /* two at once may lease a granule each: the next unlease gives it back */
        pthread_mutex_unlock(&lock);
    } else {
        harp_packed_unlease(ctx, dev, bytes);
    }
    return r;
}

void harp_packed_owner_gone(CUcontext ctx)
{
    struct packed *gone = NULL;
    pthread_mutex_lock(&lock);
    for (struct packed **at = &all; *at != NULL; at = &(*at)->next)
        if ((*at)->ctx == ctx) {
            gone = *at;
            *at = gone->next;
            break;
        }
    pthread_mutex_unlock(&lock);
    if (gone != NULL)
        harp_unlease(gone->dev, HARP_MEM_DEVICE, gone->leased);
    free(gone);
}

void harp_packed_forked(void)
{
    pthread_mutex_init(&lock, NULL);
    all = NULL; /* not freed: the heap may have been in mid-change */
}
