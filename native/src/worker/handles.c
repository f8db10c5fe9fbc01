/* SPDX-License-Identifier: Apache-2.0
 *
 * Two hash tables over the same nodes: by id, and by kind and value.
 */
#include "src/worker/handles.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#define NODES_MAX (1u << 20)

struct node {
    uint64_t id, value;
    enum harp_handle kind;
    struct node *by_id, *by_value;
};

/* Guarded by lock. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct node **ids, **values;
static uint64_t buckets, count, minted;

static uint64_t spread(uint64_t x)
{
    x = (x ^ x >> 32) * 0x9e3779b97f4a7c15ull;
    return (x ^ x >> 29) & (buckets - 1);
}

static struct node **place_of(enum harp_handle kind, uint64_t value)
{
    return &values[spread(value ^ (uint64_t)kind << 58)];
}

static void hang(struct node *n)
{
    struct node **id = &ids[spread(n->id)], **value = place_of(n->kind, n->value);
    n->by_id = *id;
    *id = n;
    n->by_value = *value;
    *value = n;
}

static bool grow(void)
{
    struct node **old = ids;
    uint64_t had = buckets, room = had == 0 ? 1024 : had * 2;
    struct node **new_ids = calloc(room, sizeof *ids), **new_values = calloc(room, sizeof *values);
    if (new_ids == NULL || new_values == NULL) {
        free(new_ids);
        free(new_values);
        return false;
    }
    free(values);
    ids = new_ids;
    values = new_values;
    buckets = room;
    for (uint64_t i = 0; i < had; i++)
        for (struct node *n = old[i], *next; n != NULL; n = next) {
            next = n->by_id;
            hang(n);
        }
    free(old);
    return true;
}

static struct node *find(uint64_t id)
{
    if (buckets == 0)
        return NULL;
    struct node *n = ids[spread(id)];
    while (n != NULL && n->id != id)
        n = n->by_id;
    return n;
}

static int bind(enum harp_handle kind, uint64_t id, uint64_t value)
{
    if (find(id) != NULL)
        return -EEXIST;
    if (count >= NODES_MAX || (count >= buckets && !grow()))
        return -ENOMEM;
    struct node *n = malloc(sizeof *n);
    if (n == NULL)
        return -ENOMEM;
    *n = (struct node){.id = id, .value = value, .kind = kind};
    hang(n);
    count++;
    return 0;
}

int handles_free(uint64_t id)
{
    pthread_mutex_lock(&lock);
    int err = id <= 2 || id >= HARP_WORKER_ID || find(id) != NULL ? -EEXIST : 0;
    pthread_mutex_unlock(&lock);
    return err;
}

int handles_bind(enum harp_handle kind, uint64_t id, uint64_t value)
{
    pthread_mutex_lock(&lock);
    int err = bind(kind, id, value);
    pthread_mutex_unlock(&lock);
    return err;
}

int handles_value(enum harp_handle kind, uint64_t id, uint64_t *value)
{
    pthread_mutex_lock(&lock);
    const struct node *n = find(id);
    bool found = n != NULL && (n->kind == kind ||
                               (kind == HARP_HANDLE_CUfunction && n->kind == HARP_HANDLE_CUkernel));
    if (found)
        *value = n->value;
    pthread_mutex_unlock(&lock);
    return found ? 0 : -ENOENT;
}

int handles_id(enum harp_handle kind, uint64_t value, uint64_t *id)
{
    int err = 0;
    pthread_mutex_lock(&lock);
    struct node *n = buckets == 0 ? NULL : *place_of(kind, value);
    while (n != NULL && (n->kind != kind || n->value != value))
        n = n->by_value;
    if (n == NULL) {
        *id = HARP_WORKER_ID | ++minted;
        err = bind(kind, *id, value);
    } else {
        *id = n->id;
    }
    pthread_mutex_unlock(&lock);
    return err;
}

struct node *handles_take(enum harp_handle kind, uint64_t value)
{
    struct node *taken = NULL;
    pthread_mutex_lock(&lock);
    struct node **at = buckets == 0 ? NULL : place_of(kind, value);
    while (at != NULL && *at != NULL) {
        struct node *n = *at;
        if (n->kind != kind || n->value != value) {
            at = &n->by_value;
            continue;
        }
        struct node **id = &ids[spread(n->id)];
        while (*id != n)
            id = &(*id)->by_id;
        *id = n->by_id;
        *at = n->by_value;
        n->by_id = taken;
        taken = n;
    }
    pthread_mutex_unlock(&lock);
    return taken;
}

/* They have been counted all the while: there is room. */
void handles_put_back(struct node *taken)
{
    pthread_mutex_lock(&lock);
    for (struct node *n = taken, *next; n != NULL; n = next) {
        next = n->by_id;
        hang(n);
    }
    pthread_mutex_unlock(&lock);
}

void handles_drop(struct node *taken)
{
    pthread_mutex_lock(&lock);
    for (struct node *n = taken, *next; n != NULL; n = next) {
        next = n->by_id;
        free(n);
        count--;
    }
    pthread_mutex_unlock(&lock);
}
