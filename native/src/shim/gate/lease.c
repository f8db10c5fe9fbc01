/* SPDX-License-Identifier: Apache-2.0
 *
 * Leases and the ledger of this process: what memory.c, vmm.c, array.c and context.c charge to.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "src/shim/entry/entry.h"
#include "src/shim/gate/gate.h"
#include "src/shim/gate/lease.h"
#include "src/shim/gate/memory.h"
#include "src/shim/gate/pool.h"
#include "src/shim/gate/session.h"

enum { ORDINALS = 64, UNASKED = 0, NOT_GRANTED = -1 };

static struct {
    pthread_mutex_t lock; /* ledger and account; never held across a call of the driver or a wait */
    struct harp_ledger ledger;
    struct account {
        uint64_t leased;
        uint64_t asked; /* in requests not answered yet */
        uint64_t used;  /* with what those requests are for */
    } account[HARP_MAX_DEVICES][HARP_MEM_CLASSES];
    int ordinal[ORDINALS]; /* arbiter's index + 1 by CUDA ordinal; UNASKED; NOT_GRANTED */
} m = {.lock = PTHREAD_MUTEX_INITIALIZER};

struct harp_ledger *harp_ledger_lock(void)
{
    pthread_mutex_lock(&m.lock);
    return &m.ledger;
}

void harp_ledger_unlock(void)
{
    pthread_mutex_unlock(&m.lock);
}

/* --- devices --------------------------------------------------------------------------------- */

bool harp_device_uuid(CUdevice device, uint8_t out[16])
{
    CUuuid uuid;
    CUresult r = CUDA_ERROR_NOT_FOUND;
    if (HARP_HAS(cuDeviceGetUuid_v2))
        HARP_INSIDE(r, HARP_REAL(cuDeviceGetUuid_v2)(&uuid, device));
    else if (HARP_HAS(cuDeviceGetUuid))
        HARP_INSIDE(r, HARP_REAL(cuDeviceGetUuid)(&uuid, device));
    if (r == CUDA_SUCCESS)
        memcpy(out, &uuid, sizeof uuid);
    return r == CUDA_SUCCESS;
}

int harp_device_of(CUdevice device)
{
    uint8_t bytes[16];
    if (device < 0 || device >= ORDINALS)
        return -1;
    int known = __atomic_load_n(&m.ordinal[device], __ATOMIC_RELAXED);
    if (known > 0)
        return known - 1;
    if (!harp_device_uuid(device, bytes) || !harp_session_ready())
        return -1;
    int dev = harp_session_device(bytes);
    if (dev < 0 && known != NOT_GRANTED)
        harp_log("device_not_granted ordinal=%d", device);
    __atomic_store_n(&m.ordinal[device], dev < 0 ? NOT_GRANTED : dev + 1, __ATOMIC_RELAXED);
    return dev;
}

CUresult harp_device_current(int *dev, CUcontext *ctx)
{
    CUdevice device;
    CUresult r;
    *dev = -1;
    *ctx = NULL;
    HARP_INSIDE(r, HARP_REAL(cuCtxGetCurrent)(ctx));
    struct harp_timegate *gate = r == CUDA_SUCCESS && *ctx != NULL ? harp_gate_of(*ctx) : NULL;
    if (gate != NULL) { /* one that we know */
        *dev = (int)(gate - harp_gates);
        return r;
    }
    HARP_INSIDE(r, HARP_REAL(cuCtxGetDevice)(&device));
    if (r == CUDA_SUCCESS)
        *dev = harp_device_of(device);
    return r;
}

bool harp_refused(const char *name)
{
    if (!harp_env()->strict && !harp_session_limited())
        return false;
    harp_log("refused call=%s why=\"its memory is not charged and this tenant has a limit, or "
             "HARP_STRICT is set\"",
             name);
    return true;
}

/* --- leases ---------------------------------------------------------------------------------- */

/* Leased and not in use. More may be in use than is leased, by a granule, for a moment: when the
 * allocation that opened a granule was denied and another one had found room in it meanwhile. */
static uint64_t slack_of(const struct account *a)
{
    return a->leased > a->used ? a->leased - a->used : 0;
}

CUresult harp_lease(int dev, uint32_t cls, uint64_t bytes)
{
    CUresult r = harp_lease_once(dev, cls, bytes);
    if (r == CUDA_SUCCESS || dev < 0 || cls == HARP_MEM_HOST || !harp_session_live() ||
        harp_pools_trim(dev) == 0)
        return r;
    return harp_lease_once(dev, cls, bytes);
}

CUresult harp_lease_once(int dev, uint32_t cls, uint64_t bytes)
{
    if (bytes == 0)
        return CUDA_SUCCESS;
    if (dev < 0)
        return CUDA_ERROR_OUT_OF_MEMORY;
    struct account *a = &m.account[dev][cls];
    bool counts = harp_session_counts(cls);
    pthread_mutex_lock(&m.lock);
    a->used += bytes;
    if (!counts) /* counted here alone, and said when a newer arbiter comes */
        a->leased = a->used > a->leased ? a->used : a->leased;
    uint64_t missing = a->used > a->leased + a->asked ? a->used - a->leased - a->asked : 0;
    a->asked += missing;
    pthread_mutex_unlock(&m.lock);
    if (missing == 0)
        return CUDA_SUCCESS;
    struct harp_msg msg = {
        .op = HARP_LEASE_MEM, .dev = (uint32_t)dev, .cls = cls, .bytes = missing};
    if (harp_session_ask(&msg) == 0 && msg.op == HARP_MEM_GRANT)
        return CUDA_SUCCESS; /* already in the account: harp_memory_granted */
    pthread_mutex_lock(&m.lock);
    a->asked -= missing;
    a->used -= bytes;
    pthread_mutex_unlock(&m.lock);
    return CUDA_ERROR_OUT_OF_MEMORY;
}

void harp_overdrawn(int dev, uint32_t cls, uint64_t bytes)
{
    pthread_mutex_lock(&m.lock);
    m.account[dev][cls].used += bytes;
    pthread_mutex_unlock(&m.lock);
}

/* Not in use any more; returns how much of it goes back to the arbiter. Lock held. */
static uint64_t unused(int dev, uint32_t cls, uint64_t bytes)
{
    uint64_t keep = cls == HARP_MEM_DEVICE ? harp_session_slack(dev) : 0;
    uint64_t unit = cls == HARP_MEM_HOST ? HARP_PAGE_BYTES : HARP_GRANULE_BYTES;
    struct account *a = &m.account[dev][cls];
    a->used -= bytes;
    uint64_t slack = slack_of(a);
    uint64_t back = slack > keep ? (slack - keep) & ~(unit - 1) : 0;
    a->leased -= back;
    return back;
}

static void give_back(int dev, uint32_t cls, uint64_t bytes)
{
    struct harp_msg msg = {.op = HARP_RETURN_MEM, .dev = (uint32_t)dev, .cls = cls, .bytes = bytes};
    if (bytes != 0 && harp_session_counts(cls))
        harp_session_tell(&msg);
}

void harp_unlease(int dev, uint32_t cls, uint64_t bytes)
{
    if (dev < 0 || bytes == 0)
        return;
    pthread_mutex_lock(&m.lock);
    uint64_t back = unused(dev, cls, bytes);
    pthread_mutex_unlock(&m.lock);
    give_back(dev, cls, back);
}

int harp_linear_charge(uint64_t ptr, uint64_t bytes, uint64_t owner, int dev, bool apart,
                       uint64_t leased, uint64_t *charged)
{
    pthread_mutex_lock(&m.lock);
    int failed = (apart ? harp_ledger_add_apart : harp_ledger_add)(&m.ledger, ptr, bytes, owner,
                                                                   dev, charged);
    uint64_t spare = failed != 0 ? leased : leased > *charged ? leased - *charged : 0;
    uint64_t back = spare != 0 ? unused(dev, HARP_MEM_DEVICE, spare) : 0;
    pthread_mutex_unlock(&m.lock);
    give_back(dev, HARP_MEM_DEVICE, back);
    return failed;
}

void harp_linear_release(const struct harp_block *block)
{
    if (block->cls == HARP_MEM_HOST) {
        harp_unlease(block->dev, HARP_MEM_HOST, block->charged);
        return;
    }
    pthread_mutex_lock(&m.lock);
    uint64_t freed = harp_ledger_release(&m.ledger, block);
    uint64_t back = freed != 0 ? unused(block->dev, HARP_MEM_DEVICE, freed) : 0;
    pthread_mutex_unlock(&m.lock);
    give_back(block->dev, HARP_MEM_DEVICE, back);
}

uint64_t harp_slack(int dev)
{
    pthread_mutex_lock(&m.lock);
    uint64_t slack = slack_of(&m.account[dev][HARP_MEM_DEVICE]);
    pthread_mutex_unlock(&m.lock);
    return slack;
}

/* Called with the session lock held, before the asker wakes. What was asked for is in use since it
 * was asked for, so a recall in between does not take it for slack. */
void harp_memory_granted(const struct harp_msg *msg, bool asked)
{
    if (msg->dev >= HARP_MAX_DEVICES || msg->cls >= HARP_MEM_CLASSES)
        return;
    pthread_mutex_lock(&m.lock);
    m.account[msg->dev][msg->cls].leased += msg->bytes;
    if (asked) /* else nobody waits for it any more: it is slack */
        m.account[msg->dev][msg->cls].asked -= msg->bytes;
    pthread_mutex_unlock(&m.lock);
}

uint64_t harp_memory_recall(int dev, uint64_t bytes)
{
    if (dev < 0 || dev >= (int)HARP_MAX_DEVICES)
        return 0;
    pthread_mutex_lock(&m.lock);
    uint64_t slack = slack_of(&m.account[dev][HARP_MEM_DEVICE]);
    uint64_t back = (bytes < slack ? bytes : slack) & ~(HARP_GRANULE_BYTES - 1);
    m.account[dev][HARP_MEM_DEVICE].leased -= back;
    pthread_mutex_unlock(&m.lock);
    return back;
}

uint64_t harp_memory_leased(int dev, uint32_t cls)
{
    pthread_mutex_lock(&m.lock);
    uint64_t leased = m.account[dev][cls].leased;
    pthread_mutex_unlock(&m.lock);
    return leased;
}

/* A forked child holds nothing: the parent's contexts do not live here. */
void harp_memory_forked(void)
{
    pthread_mutex_init(&m.lock, NULL);
    memset(&m.ledger, 0, sizeof m.ledger); /* not freed: the heap may have been in mid-change */
    memset(m.account, 0, sizeof m.account);
    memset(m.ordinal, 0, sizeof m.ordinal);
    harp_linear_forked();
    harp_pools_forked();
    harp_order_forked();
    harp_graph_memory_forked();
}

/* --- handles --------------------------------------------------------------------------------- */

CUresult harp_handle_made(uint64_t key, uint64_t owner, int dev, uint64_t charged)
{
    return harp_handle_made_of(HARP_MEM_DEVICE, key, owner, dev, charged);
}

CUresult harp_handle_made_of(uint32_t cls, uint64_t key, uint64_t owner, int dev, uint64_t charged)
{
    struct harp_ledger *l = harp_ledger_lock();
    struct harp_block *b = harp_map_add(&l->handles, key);
    if (b != NULL) {
        b->owner = owner;
        b->dev = dev;
        b->cls = cls;
        b->charged += charged;
        b->refs = 1;
    }
    harp_ledger_unlock();
    return b != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

void harp_handle_ref(uint64_t key)
{
    struct harp_ledger *l = harp_ledger_lock();
    struct harp_block *b = harp_map_find(&l->handles, key);
    if (b != NULL)
        b->refs++;
    harp_ledger_unlock();
}

struct harp_drop harp_handle_drop(uint64_t key)
{
    struct harp_drop drop = {.key = key, .dev = -1};
    struct harp_ledger *l = harp_ledger_lock();
    struct harp_block *b = harp_map_find(&l->handles, key);
    if (b != NULL) {
        drop.known = true;
        drop.charged = b->charged;
        drop.owner = b->owner;
        drop.dev = b->dev;
        drop.cls = b->cls;
        drop.last = --b->refs == 0;
        if (drop.last)
            harp_map_remove(&l->handles, b);
    }
    harp_ledger_unlock();
    return drop;
}

static void un_charge(const struct harp_drop *drop)
{
    if (drop->cls == HARP_PACKED)
        harp_packed_unlease((CUcontext)(uintptr_t)drop->owner, drop->dev, drop->charged);
    else if (drop->cls == HARP_KEEPER)
        harp_keeper_gone(drop->owner);
    else
        harp_unlease(drop->dev, drop->cls, drop->charged);
}

void harp_handle_dropped(const struct harp_drop *drop, bool freed)
{
    if (!drop->known)
        return;
    if (!freed && !drop->last)
        harp_handle_ref(drop->key);
    else if (!freed)
        harp_handle_made_of(drop->cls, drop->key, drop->owner, drop->dev, drop->charged);
    else if (drop->last)
        un_charge(drop);
}

void harp_memory_owner_gone(uint64_t owner)
{
    for (;;) {
        struct harp_block gone;
        uint64_t freed = 0;
        struct harp_ledger *l = harp_ledger_lock();
        bool more = harp_ledger_drop(l, owner, &gone, &freed);
        harp_ledger_unlock();
        if (!more)
            return;
        harp_unlease(gone.dev, HARP_MEM_DEVICE, freed);
        if (gone.cls == HARP_PACKED) /* an array: perhaps a sparse one */
            harp_keeper_gone(gone.key);
    }
}
