/* SPDX-License-Identifier: Apache-2.0
 *
 * Which pointers from the client are ours: an open-addressing hash set of live handles. Asked by
 * every launch, so lookups take a read lock only.
 */
#include <stdlib.h>

#include "soft/gpu/module.h"

struct slot {
    const void *handle; /* NULL: never used; TOMB: freed */
    enum soft_handle kind;
};

static pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;
static struct slot *slots; /* guarded by lock, as all below */
static size_t slot_count;  /* power of two */
static size_t used;        /* live and freed */
static size_t live;
static const char tomb;
#define TOMB ((const void *)&tomb)

static size_t hash(const void *handle)
{
    uint64_t x = (uint64_t)(uintptr_t)handle;
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdull;
    x ^= x >> 33;
    return (size_t)x;
}

static struct slot *find(const void *handle)
{
    if (slot_count == 0)
        return NULL;
    for (size_t i = hash(handle);; i++) {
        struct slot *slot = &slots[i & (slot_count - 1)];
        if (slot->handle == NULL)
            return NULL;
        if (slot->handle == handle)
            return slot;
    }
}

static void place(struct slot *table, size_t count, const void *handle, enum soft_handle kind)
{
    size_t i = hash(handle);
    while (table[i & (count - 1)].handle != NULL)
        i++;
    table[i & (count - 1)] = (struct slot){handle, kind};
}

static int grow(void)
{
    size_t count = 256;
    while (count < live * 4)
        count *= 2;
    struct slot *table = calloc(count, sizeof *table);
    if (table == NULL)
        return -1;
    for (size_t i = 0; i < slot_count; i++)
        if (slots[i].handle != NULL && slots[i].handle != TOMB)
            place(table, count, slots[i].handle, slots[i].kind);
    free(slots);
    slots = table;
    slot_count = count;
    used = live;
    return 0;
}

CUresult soft_handle_add(const void *handle, enum soft_handle kind)
{
    CUresult result = CUDA_SUCCESS;
    pthread_rwlock_wrlock(&lock);
    if ((used + 1) * 2 > slot_count && grow() != 0) {
        result = CUDA_ERROR_OUT_OF_MEMORY;
    } else {
        place(slots, slot_count, handle, kind);
        used++;
        live++;
    }
    pthread_rwlock_unlock(&lock);
    return result;
}

void soft_handle_remove(const void *handle)
{
    pthread_rwlock_wrlock(&lock);
    struct slot *slot = find(handle);
    if (slot != NULL) {
        *slot = (struct slot){TOMB, SOFT_HANDLE_NONE};
        live--;
    }
    pthread_rwlock_unlock(&lock);
}

enum soft_handle soft_handle_kind(const void *handle)
{
    if (handle == NULL)
        return SOFT_HANDLE_NONE;
    pthread_rwlock_rdlock(&lock);
    const struct slot *slot = find(handle);
    enum soft_handle kind = slot == NULL ? SOFT_HANDLE_NONE : slot->kind;
    pthread_rwlock_unlock(&lock);
    return kind;
}
