/* SPDX-License-Identifier: Apache-2.0
 *
 * Two hash tables over the same nodes: by id, and by kind and value.
 */
#include "src/worker/handles_node.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#define NODES_MAX (1u << 20)

pthread_mutex_t handles_lock = PTHREAD_MUTEX_INITIALIZER;
/* Guarded by handles_lock. */
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
    n->taken = false;
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

struct node *handles_find_value(enum harp_handle kind, uint64_t value)
{
    struct node *n = buckets == 0 ? NULL : *place_of(kind, value);
    while (n != NULL && (n->kind != kind || n->value != value))
        n = n->by_value;
    return n;
}

static int bind(struct owner owner, enum harp_handle kind, uint64_t id, uint64_t value)
{
    if (find(id) != NULL)
        return -EEXIST;
    if (owner.kind != 0 && owner.kind != HARP_HANDLE_CUcontext &&
        handles_find_value(owner.kind, owner.value) == NULL)
        return -ENOENT;
    if (count >= NODES_MAX || (count >= buckets && !grow()))
        return -ENOMEM;
    struct node *n = malloc(sizeof *n);
    if (n == NULL)
        return -ENOMEM;
    *n = (struct node){.id = id, .value = value, .kind = kind, .owner = owner};
    hang(n);
    count++;
    return 0;
}

int handles_free(uint64_t id)
{
    pthread_mutex_lock(&handles_lock);
    int err = id <= 2 || id >= HARP_WORKER_ID || find(id) != NULL ? -EEXIST : 0;
    pthread_mutex_unlock(&handles_lock);
    return err;
}

int handles_bind_in(struct owner owner, enum harp_handle kind, uint64_t id, uint64_t value)
{
    pthread_mutex_lock(&handles_lock);
    int err = bind(owner, kind, id, value);
    pthread_mutex_unlock(&handles_lock);
    return err;
}

int handles_bind(enum harp_handle kind, uint64_t id, uint64_t value)
{
    return handles_bind_in((struct owner){.kind = 0}, kind, id, value);
}

struct node *handles_find(enum harp_handle kind, uint64_t id)
{
    struct node *n = find(id);
    return n != NULL && (n->kind == kind ||
                         (kind == HARP_HANDLE_CUfunction && n->kind == HARP_HANDLE_CUkernel))
               ? n
               : NULL;
}

int handles_value(enum harp_handle kind, uint64_t id, uint64_t *value)
{
    pthread_mutex_lock(&handles_lock);
    const struct node *n = handles_find(kind, id);
    if (n != NULL)
        *value = n->value;
    pthread_mutex_unlock(&handles_lock);
    return n != NULL ? 0 : -ENOENT;
}

int handles_id_in(struct owner owner, enum harp_handle kind, uint64_t value, uint64_t *id)
{
    int err = 0;
    pthread_mutex_lock(&handles_lock);
    const struct node *n = handles_find_value(kind, value);
    if (n == NULL) {
        *id = HARP_WORKER_ID | ++minted;
        err = bind(owner, kind, *id, value);
    } else {
        *id = n->id;
    }
    pthread_mutex_unlock(&handles_lock);
    return err;
}

int handles_id(enum harp_handle kind, uint64_t value, uint64_t *id)
{
    return handles_id_in((struct owner){.kind = 0}, kind, value, id);
}

bool handles_known(enum harp_handle kind, uint64_t value, uint64_t *id)
{
    pthread_mutex_lock(&handles_lock);
    const struct node *n = handles_find_value(kind, value);
    if (n != NULL)
        *id = n->id;
    pthread_mutex_unlock(&handles_lock);
    return n != NULL;
}

struct owner handles_owner(enum harp_handle kind, uint64_t value)
{
    pthread_mutex_lock(&handles_lock);
    const struct node *n = handles_find_value(kind, value);
    struct owner owner = n == NULL ? (struct owner){.kind = 0} : n->owner;
    pthread_mutex_unlock(&handles_lock);
    return owner;
}

/* --- taken: off both tables, in a list by by_id --- */

static void take(struct node *n, struct node ***end)
{
    struct node **id = &ids[spread(n->id)], **value = place_of(n->kind, n->value);
    while (*id != n)
        id = &(*id)->by_id;
    while (*value != n)
        value = &(*value)->by_value;
    *id = n->by_id;
    *value = n->by_value;
    n->by_id = NULL;
    n->taken = true;
    **end = n;
    *end = &n->by_id;
}

static int by_owner(const void *a, const void *b)
{
    const struct owner *x = a, *y = b;
    if (x->kind != y->kind)
        return x->kind < y->kind ? -1 : 1;
    return x->value < y->value ? -1 : x->value > y->value;
}

static bool is_one_of(const struct owner *owner, const struct owner *all, size_t many)
{
    const struct owner context = {.kind = HARP_HANDLE_CUcontext, .value = owner->context};
    return (owner->kind != 0 && bsearch(owner, all, many, sizeof *all, by_owner) != NULL) ||
           (context.value != 0 && bsearch(&context, all, many, sizeof *all, by_owner) != NULL);
}

/* What ends with any of these, which are sorted. */
static void take_all_of(const struct owner *owners, size_t many, struct node ***end)
{
    for (uint64_t i = 0; i < buckets; i++)
        for (struct node *n = ids[i], *next; n != NULL; n = next) {
            next = n->by_id;
            if (is_one_of(&n->owner, owners, many))
                take(n, end);
        }
}

static bool owns(enum harp_handle kind)
{
    switch (kind) {
    case HARP_HANDLE_CUcontext:
    case HARP_HANDLE_CUmodule:
    case HARP_HANDLE_CUlibrary:
    case HARP_HANDLE_CUgraph:
    case HARP_HANDLE_CUgraphNode: /* another graph */
    case HARP_HANDLE_CUarray:     /* of planes */
    case HARP_HANDLE_CUmipmappedArray:
        return true;
    default:
        return false;
    }
}

/* From `*from` on: what ends with those, and with these. Without memory to sort them in, one by
 * one. */
static void take_owned(struct node **from, struct node **end)
{
    while (*from != NULL) {
        size_t many = 0, at = 0;
        for (const struct node *n = *from; n != NULL; n = n->by_id)
            many += owns(n->kind);
        struct owner one, *all = many == 0 ? NULL : malloc(many * sizeof *all);
        struct node **next = end;
        for (const struct node *n = *from; n != NULL; n = n->by_id) {
            if (!owns(n->kind))
                continue;
            one = (struct owner){.kind = n->kind, .value = n->value};
            if (all != NULL)
                all[at++] = one;
            else
                take_all_of(&one, 1, &end);
        }
        if (all != NULL) {
            qsort(all, many, sizeof *all, by_owner);
            take_all_of(all, many, &end);
        }
        free(all);
        from = next;
    }
}

static bool lost(const struct uses *uses, enum harp_handle kind, uint64_t value)
{
    for (unsigned i = 0; i < uses->count; i++) {
        const struct node *n = uses->nodes[i];
        if (n->taken && n->kind == kind && n->value == value)
            return true;
    }
    return false;
}

struct node *handles_take_held(const struct uses *uses, enum harp_handle kind, uint64_t value,
                               bool *is_lost)
{
    struct node *taken = NULL, **end = &taken, *n;
    pthread_mutex_lock(&handles_lock);
    *is_lost = lost(uses, kind, value);
    while ((n = handles_find_value(kind, value)) != NULL)
        take(n, &end);
    if (owns(kind))
        take_owned(&taken, end);
    pthread_mutex_unlock(&handles_lock);
    return taken;
}

struct node *handles_take(enum harp_handle kind, uint64_t value)
{
    const struct uses none = {0};
    bool is_lost;
    return handles_take_held(&none, kind, value, &is_lost);
}

struct node *handles_take_of(struct owner owner)
{
    struct node *taken = NULL, **end = &taken;
    pthread_mutex_lock(&handles_lock);
    take_all_of(&owner, 1, &end);
    take_owned(&taken, end);
    pthread_mutex_unlock(&handles_lock);
    return taken;
}

const struct node *handles_next(const struct node *taken, const struct node *last,
                                struct owner *handle)
{
    const struct node *n = last == NULL ? taken : last->by_id;
    if (n != NULL)
        *handle = (struct owner){.kind = n->kind, .value = n->value};
    return n;
}

/* They have been counted all the while: there is room. The first of a value was its last one. */
void handles_put_back(struct node *taken)
{
    struct node *reversed = NULL;
    for (struct node *n = taken, *next; n != NULL; n = next) {
        next = n->by_id;
        n->by_id = reversed;
        reversed = n;
    }
    pthread_mutex_lock(&handles_lock);
    for (struct node *n = reversed, *next; n != NULL; n = next) {
        next = n->by_id;
        hang(n);
    }
    pthread_mutex_unlock(&handles_lock);
}

void handles_drop(struct node *taken)
{
    pthread_mutex_lock(&handles_lock);
    for (struct node *n = taken, *next; n != NULL; n = next) {
        next = n->by_id;
        if (n->uses != 0)
            n->dropped = true; /* who lets go last frees it */
        else
            free(n);
        count--;
    }
    pthread_mutex_unlock(&handles_lock);
}
