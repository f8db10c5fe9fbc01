/* SPDX-License-Identifier: Apache-2.0
 *
 * Records lie in slabs that double in size and are never given back, so whether an address is one
 * of ours is a look at 16 ranges. Ids are found by a table with open addressing; deletion shifts
 * the run back. A record is used again after all others that ended before it, and not before 1024
 * have: a handle that has just ended stays unknown for a while.
 */
#include "src/shim/remote/state.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC      0x70726148u
#define SLAB_FIRST 1024u
#define REST       1024u /* that many ended ones are left alone */

static struct {
    pthread_mutex_t lock; /* guards all but reads of `slab` entries */
    struct harp_thing *slab[HARP_REMOTE_SLABS];
    uint32_t used;             /* records that were ever handed out */
    struct harp_thing **ended; /* a ring: first out, first in */
    uint32_t ended_room, ended_at, ended_count;
    struct harp_thing **by_id;
    uint32_t by_id_room, by_id_count; /* room: a power of two */
} things = {.lock = PTHREAD_MUTEX_INITIALIZER};

static uint32_t slab_records(unsigned i)
{
    return SLAB_FIRST << i;
}

/* --- by id ------------------------------------------------------------------------------------ */

static uint32_t home(uint64_t id)
{
    return (uint32_t)(id * 0x9e3779b97f4a7c15ull >> 32) & (things.by_id_room - 1);
}

static void place(struct harp_thing *thing)
{
    uint32_t i = home(thing->id);
    while (things.by_id[i] != NULL)
        i = (i + 1) & (things.by_id_room - 1);
    things.by_id[i] = thing;
}

static bool room_for_one(void)
{
    if (2 * (things.by_id_count + 1) <= things.by_id_room)
        return true;
    uint32_t before = things.by_id_room, room = before == 0 ? 256 : 2 * before;
    struct harp_thing **wider = calloc(room, sizeof(struct harp_thing *)), **old = things.by_id;
    if (wider == NULL)
        return false;
    things.by_id = wider;
    things.by_id_room = room;
    for (uint32_t i = 0; i < before; i++)
        if (old[i] != NULL)
            place(old[i]);
    free(old);
    return true;
}

static struct harp_thing *find(uint64_t id, uint32_t *at)
{
    if (things.by_id_room == 0)
        return NULL;
    for (uint32_t i = home(id); things.by_id[i] != NULL; i = (i + 1) & (things.by_id_room - 1))
        if (things.by_id[i]->id == id) {
            *at = i;
            return things.by_id[i];
        }
    return NULL;
}

static void unplace(uint32_t hole)
{
    uint32_t mask = things.by_id_room - 1;
    for (uint32_t i = (hole + 1) & mask; things.by_id[i] != NULL; i = (i + 1) & mask)
        /* may move into the hole unless its home lies in (hole, i] */
        if (((i - home(things.by_id[i]->id)) & mask) >= ((i - hole) & mask)) {
            things.by_id[hole] = things.by_id[i];
            hole = i;
        }
    things.by_id[hole] = NULL;
    things.by_id_count--;
}

/* --- records ---------------------------------------------------------------------------------- */

static struct harp_thing *fresh(void)
{
    if (things.ended_count > REST) {
        struct harp_thing *thing = things.ended[things.ended_at];
        things.ended_at = (things.ended_at + 1) % things.ended_room;
        things.ended_count--;
        return thing;
    }
    uint32_t at = things.used;
    for (unsigned i = 0; i < HARP_REMOTE_SLABS; at -= slab_records(i++)) {
        if (at >= slab_records(i))
            continue;
        if (things.slab[i] == NULL) {
            struct harp_thing *made = calloc(slab_records(i), sizeof *made);
            __atomic_store_n(&things.slab[i], made, __ATOMIC_RELEASE);
        }
        if (things.slab[i] == NULL)
            return NULL;
        things.used++;
        return &things.slab[i][at];
    }
    return NULL;
}

/* Room to end every record that there is: ending must not fail. */
static bool room_to_end(void)
{
    if (things.used < things.ended_room)
        return true;
    uint32_t room = things.ended_room == 0 ? SLAB_FIRST : 2 * things.ended_room;
    struct harp_thing **wider = calloc(room, sizeof(struct harp_thing *));
    if (wider == NULL)
        return false;
    for (uint32_t i = 0; i < things.ended_count; i++)
        wider[i] = things.ended[(things.ended_at + i) % things.ended_room];
    free(things.ended);
    things.ended = wider;
    things.ended_room = room;
    things.ended_at = 0;
    return true;
}

static struct harp_thing *add(enum harp_handle kind, uint64_t id, uint64_t owner)
{
    struct harp_thing *thing = room_for_one() && room_to_end() ? fresh() : NULL;
    if (thing == NULL)
        return NULL;
    thing->magic = MAGIC;
    thing->id = id;
    thing->owner = owner;
    thing->device = -1;
    thing->uses = 0;
    thing->facts = NULL;
    __atomic_store_n(&thing->kind, (uint32_t)kind, __ATOMIC_RELEASE);
    place(thing);
    things.by_id_count++;
    return thing;
}

struct harp_thing *harp_thing_add(enum harp_handle kind, uint64_t id, uint64_t owner)
{
    pthread_mutex_lock(&things.lock);
    struct harp_thing *thing = add(kind, id, owner);
    pthread_mutex_unlock(&things.lock);
    return thing;
}

/* Drivers take a kernel where a function is asked for. */
static bool fits(uint32_t kind, enum harp_handle wanted)
{
    return kind == (uint32_t)wanted ||
           (wanted == HARP_HANDLE_CUfunction && kind == HARP_HANDLE_CUkernel);
}

struct harp_thing *harp_thing_of(enum harp_handle kind, uint64_t value)
{
    for (unsigned i = 0; i < HARP_REMOTE_SLABS; i++) {
        struct harp_thing *slab = __atomic_load_n(&things.slab[i], __ATOMIC_ACQUIRE);
        uint64_t from = (uintptr_t)slab, size = slab_records(i) * sizeof *slab;
        if (slab == NULL)
            return NULL;
        if (value < from || value - from >= size)
            continue;
        struct harp_thing *thing = slab + (value - from) / sizeof *slab;
        bool exact = (value - from) % sizeof *slab == 0;
        return exact && fits(__atomic_load_n(&thing->kind, __ATOMIC_ACQUIRE), kind) ? thing : NULL;
    }
    return NULL;
}

struct harp_thing *harp_thing_by_id(enum harp_handle kind, uint64_t id, bool make)
{
    uint32_t at;
    pthread_mutex_lock(&things.lock);
    struct harp_thing *thing = find(id, &at);
    if (thing == NULL && make)
        thing = add(kind, id, 0);
    else if (thing != NULL && !fits(thing->kind, kind))
        thing = NULL;
    pthread_mutex_unlock(&things.lock);
    return thing;
}

static void end(struct harp_thing *thing)
{
    uint32_t at;
    if (thing->kind == 0)
        return;
    if (find(thing->id, &at) == thing)
        unplace(at);
    __atomic_store_n(&thing->kind, 0, __ATOMIC_RELEASE);
    free(thing->facts);
    thing->facts = NULL;
    things.ended[(things.ended_at + things.ended_count) % things.ended_room] = thing;
    things.ended_count++;
}

void harp_thing_end(struct harp_thing *thing)
{
    pthread_mutex_lock(&things.lock);
    end(thing);
    pthread_mutex_unlock(&things.lock);
}

bool harp_handle_owns(enum harp_handle kind)
{
    switch (kind) {
    case HARP_HANDLE_CUcontext:
    case HARP_HANDLE_CUmodule:
    case HARP_HANDLE_CUlibrary:
    case HARP_HANDLE_CUkernel:
    case HARP_HANDLE_CUgraph:
        return true;
    default:
        return false;
    }
}

/* Whether it was made in this one, or in what has ended: ids are never used again. */
static bool owned(const struct harp_thing *thing, uint64_t owner)
{
    uint32_t at;
    return thing->kind != 0 && thing->owner != 0 &&
           (thing->owner == owner || find(thing->owner, &at) == NULL);
}

/* One look at all records. Whether something ended that may own others. */
static bool end_all(uint64_t owner)
{
    bool again = false;
    uint32_t left = things.used;
    for (unsigned i = 0; left > 0; i++) {
        uint32_t here = left < slab_records(i) ? left : slab_records(i);
        for (struct harp_thing *t = things.slab[i]; t < things.slab[i] + here; t++)
            if (owned(t, owner)) {
                again |= harp_handle_owns((enum harp_handle)t->kind);
                end(t);
            }
        left -= here;
    }
    return again;
}

void harp_thing_end_owned(uint64_t owner)
{
    pthread_mutex_lock(&things.lock);
    while (end_all(owner)) /* functions of modules of the context */
        ;
    pthread_mutex_unlock(&things.lock);
}

/* A primary context lives while it is retained. Of one whose device is not known nobody knows. */
static bool holds(struct harp_thing *t)
{
    if (t->kind == HARP_HANDLE_CUgreenCtx)
        return true;
    return t->kind == HARP_HANDLE_CUcontext &&
           (t->id >> 63 == 0 || t->device < 0 || __atomic_load_n(&t->uses, __ATOMIC_RELAXED) != 0);
}

/* Calls `each` of every record in use until one is told true. */
static bool any(bool (*each)(struct harp_thing *thing))
{
    bool found = false;
    uint32_t left = things.used;
    for (unsigned i = 0; left > 0 && !found; i++) {
        uint32_t here = left < slab_records(i) ? left : slab_records(i);
        for (struct harp_thing *t = things.slab[i]; t < things.slab[i] + here && !found; t++)
            found = t->kind != 0 && each(t);
        left -= here;
    }
    return found;
}

static bool forgotten(struct harp_thing *thing)
{
    end(thing);
    return false;
}

bool harp_things_hold(void)
{
    pthread_mutex_lock(&things.lock);
    bool found = any(holds);
    pthread_mutex_unlock(&things.lock);
    return found;
}

void harp_things_forget(void)
{
    pthread_mutex_lock(&things.lock);
    any(forgotten);
    pthread_mutex_unlock(&things.lock);
}

CUresult harp_thing_missing(enum harp_handle kind)
{
    switch (kind) {
    case HARP_HANDLE_CUcontext:
        return CUDA_ERROR_INVALID_CONTEXT;
    case HARP_HANDLE_CUgraph:
    case HARP_HANDLE_CUgraphNode:
    case HARP_HANDLE_CUgraphExec:
    case HARP_HANDLE_CUuserObject:
    case HARP_HANDLE_CUmemoryPool:
    case HARP_HANDLE_CUmemGenericAllocationHandle:
        return CUDA_ERROR_INVALID_VALUE;
    default:
        return CUDA_ERROR_INVALID_HANDLE;
    }
}

uint64_t harp_thing_mint(void)
{
    static uint64_t last = 2; /* as streams, 1 and 2 are what they are in CUDA */
    return __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED);
}
