/* SPDX-License-Identifier: Apache-2.0
 *
 * Handles that calls hold while they are made. Who ends one has taken its ids (handles.c), so that
 * no later call holds it, and waits for those that do.
 */
#include <errno.h>
#include <stdlib.h>

#include "src/worker/handles_node.h"

/* A function's kernel's library; graphs within graphs go deeper, and may end within each other. */
#define DEPTH_MAX 16

static pthread_cond_t let_go = PTHREAD_COND_INITIALIZER;

static bool hold(struct uses *uses, struct node *n)
{
    if (uses->count == uses->room) {
        unsigned room = uses->room == 0 ? 16 : uses->room * 2;
        struct node **nodes = realloc(uses->nodes, room * sizeof(struct node *));
        if (nodes == NULL)
            return false;
        uses->nodes = nodes;
        uses->room = room;
    }
    uses->nodes[uses->count++] = n;
    n->uses++;
    return true;
}

int handles_use(struct uses *uses, enum harp_handle kind, uint64_t id, uint64_t *value)
{
    int err = 0;
    pthread_mutex_lock(&handles_lock);
    struct node *n = handles_find(kind, id);
    if (n == NULL)
        err = -ENOENT;
    else
        *value = n->value;
    for (int depth = 0; n != NULL && err == 0 && depth < DEPTH_MAX; depth++) {
        if (!hold(uses, n))
            err = -ENOMEM;
        n = n->owner.kind == 0 || n->owner.kind == HARP_HANDLE_CUcontext
                ? NULL
                : handles_find_value(n->owner.kind, n->owner.value);
    }
    pthread_mutex_unlock(&handles_lock);
    return err;
}

void handles_let_go(struct uses *uses)
{
    bool awaited = false;
    pthread_mutex_lock(&handles_lock);
    while (uses->count != 0) {
        struct node *n = uses->nodes[--uses->count];
        awaited |= n->taken;
        if (--n->uses == 0 && n->dropped)
            free(n);
    }
    if (awaited)
        pthread_cond_broadcast(&let_go);
    pthread_mutex_unlock(&handles_lock);
}

bool handles_uses_context(const struct uses *uses, uint64_t generation)
{
    bool found = false;
    pthread_mutex_lock(&handles_lock);
    for (unsigned i = 0; i < uses->count && !found; i++) {
        const struct owner *o = &uses->nodes[i]->owner;
        found = o->context == generation ||
                (o->kind == HARP_HANDLE_CUcontext && o->value == generation);
    }
    pthread_mutex_unlock(&handles_lock);
    return found;
}

static unsigned own_of(const struct uses *uses, const struct node *n)
{
    unsigned own = 0;
    for (unsigned i = 0; i < uses->count; i++)
        own += uses->nodes[i] == n;
    return own;
}

void handles_wait(const struct node *taken, const struct uses *own)
{
    pthread_mutex_lock(&handles_lock);
    for (const struct node *n = taken; n != NULL; n = n->by_id)
        while (n->uses != 0 && n->uses != own_of(own, n))
            pthread_cond_wait(&let_go, &handles_lock);
    pthread_mutex_unlock(&handles_lock);
}
