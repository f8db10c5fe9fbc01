/* SPDX-License-Identifier: Apache-2.0
 *
 * Which kernel nodes of an executable graph have been given which function, and were accepted.
 *
 * What a driver says about an update is said of node, function, shape, and, for a node that
 * launches cooperatively, of how many blocks there are. So the first of each is asked, and one of
 * more blocks than any before; for all others, in a shape that went, nothing is left to refuse.
 */
#include <pthread.h>
#include <stdlib.h>

#include "src/shim/remote/prepared.h"

#define ROOM_LEAST 16u
#define ROOM_MOST  (1u << 17) /* nodes beyond half of it are asked about each time */

struct updates { /* facts of a CUgraphExec: a hash table, at most half full */
    uint32_t count, room;
    struct {
        uint64_t node, function; /* ids; node 0: free */
        uint64_t blocks;         /* the most that were accepted */
    } at[];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards tables and which is whose */

static uint32_t place_of(const struct updates *u, uint64_t node)
{
    uint32_t i = (uint32_t)(node * 0x9e3779b97f4a7c15u >> 32) & (u->room - 1);
    while (u->at[i].node != 0 && u->at[i].node != node)
        i = (i + 1) & (u->room - 1);
    return i;
}

/* One with room for another node, with all that was in `old`; NULL: there is none. */
static struct updates *roomier(struct updates *old)
{
    uint32_t room = old == NULL ? ROOM_LEAST : old->room;
    if (old != NULL && old->count < room / 2)
        return old;
    if (old != NULL)
        room *= 2;
    struct updates *made =
        room > ROOM_MOST ? NULL : calloc(1, sizeof *made + room * sizeof *made->at);
    if (made == NULL)
        return NULL;
    made->room = room;
    for (uint32_t i = 0; old != NULL && i < old->room; i++)
        if (old->at[i].node != 0)
            made->at[place_of(made, old->at[i].node)] = old->at[i];
    made->count = old == NULL ? 0 : old->count;
    free(old);
    return made;
}

static uint64_t blocks_of(const uint32_t grid[3])
{
    uint64_t plane = (uint64_t)grid[0] * grid[1]; /* at most 2^31 by 2^16 by 2^16 on any device */
    return plane != 0 && grid[2] > UINT64_MAX / plane ? UINT64_MAX : plane * grid[2];
}

static bool ids(CUgraphExec exec, CUgraphNode node, CUfunction f, struct harp_thing *out[3])
{
    out[0] = harp_thing_of(HARP_HANDLE_CUgraphExec, (uintptr_t)exec);
    out[1] = harp_thing_of(HARP_HANDLE_CUgraphNode, (uintptr_t)node);
    out[2] = harp_thing_of(HARP_HANDLE_CUfunction, (uintptr_t)f);
    return out[0] != NULL && out[1] != NULL && out[2] != NULL;
}

bool harp_remote_updated(CUgraphExec exec, CUgraphNode node, CUfunction f, const uint32_t grid[3])
{
    struct harp_thing *is[3];
    if (!ids(exec, node, f, is))
        return false;
    pthread_mutex_lock(&lock);
    const struct updates *u = is[0]->facts;
    uint32_t i = u != NULL ? place_of(u, is[1]->id) : 0;
    bool known = u != NULL && u->at[i].node != 0 && u->at[i].function == is[2]->id &&
                 u->at[i].blocks >= blocks_of(grid);
    pthread_mutex_unlock(&lock);
    return known;
}

void harp_remote_note_update(CUgraphExec exec, CUgraphNode node, CUfunction f,
                             const uint32_t grid[3])
{
    struct harp_thing *is[3];
    if (!ids(exec, node, f, is))
        return;
    pthread_mutex_lock(&lock);
    struct updates *u = is[0]->facts;
    bool there = u != NULL && u->at[place_of(u, is[1]->id)].node != 0;
    if (!there) {
        struct updates *made = roomier(u);
        if (made != NULL) {
            is[0]->facts = made;
            made->count++;
        }
        u = made;
    }
    if (u != NULL) {
        uint32_t i = place_of(u, is[1]->id);
        u->at[i].node = is[1]->id;
        u->at[i].function = is[2]->id;
        u->at[i].blocks = blocks_of(grid);
    }
    pthread_mutex_unlock(&lock);
}
