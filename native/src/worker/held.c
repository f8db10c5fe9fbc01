/* SPDX-License-Identifier: Apache-2.0
 *
 * A table of chains. How much is in it is bounded by ids (handles.c) and ranges (ranges.c).
 */
#include "src/worker/held.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "generated/cuda_abi.h"

#define BUCKETS 16384u

struct node {
    struct held held;
    struct node *next;
};

/* Guarded by lock. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct node *buckets[BUCKETS];
static uint64_t serials;
static size_t count;
static atomic_uint captures; /* of these */

static struct node **find(enum held_kind kind, uint64_t key)
{
    uint64_t mixed = (key ^ key >> 32 ^ (uint64_t)kind << 40) * 0x9e3779b97f4a7c15ull;
    struct node **at = &buckets[mixed >> 50];
    while (*at != NULL && ((*at)->held.kind != kind || (*at)->held.key != key))
        at = &(*at)->next;
    return at;
}

static void drop(struct node **at)
{
    struct node *gone = *at;
    *at = gone->next;
    if (gone->held.kind == HELD_CAPTURE)
        atomic_fetch_sub(&captures, 1);
    free(gone);
    count--;
}

static int put(struct held *h, bool use)
{
    int err = 0;
    pthread_mutex_lock(&lock);
    struct node **at = find(h->kind, h->key);
    const bool there = *at != NULL;
    if (!there)
        *at = calloc(1, sizeof **at);
    if (*at == NULL) {
        err = -ENOMEM;
    } else if (there && use) {
        (*at)->held.uses++;
    } else {
        count += !there;
        if (!there && h->kind == HELD_CAPTURE)
            atomic_fetch_add(&captures, 1);
        h->serial = ++serials;
        (*at)->held = *h;
    }
    pthread_mutex_unlock(&lock);
    return err;
}

int held_put(struct held *h)
{
    return put(h, false);
}

int held_put_or_use(struct held *h)
{
    return put(h, true);
}

uint64_t held_generation(uint64_t context)
{
    struct held h;
    return context != 0 && held_get(HELD_CONTEXT, context, &h) ? h.serial : 0;
}

bool held_get(enum held_kind kind, uint64_t key, struct held *to)
{
    pthread_mutex_lock(&lock);
    const struct node *n = *find(kind, key);
    if (n != NULL)
        *to = n->held;
    pthread_mutex_unlock(&lock);
    return n != NULL;
}

uint64_t held_now(void)
{
    pthread_mutex_lock(&lock);
    uint64_t now = serials;
    pthread_mutex_unlock(&lock);
    return now;
}

void held_drop(const struct held *h)
{
    pthread_mutex_lock(&lock);
    struct node **at = find(h->kind, h->key);
    if (*at != NULL && (*at)->held.serial == h->serial)
        drop(at);
    pthread_mutex_unlock(&lock);
}

bool held_count(enum held_kind kind, uint64_t key, int uses, int maps, struct held *to)
{
    pthread_mutex_lock(&lock);
    struct node **at = find(kind, key);
    bool found = *at != NULL;
    if (found) {
        struct held *h = &(*at)->held;
        h->uses = (unsigned)((int)h->uses + uses);
        h->maps = (unsigned)((int)h->maps + maps);
        *to = *h;
        if (h->uses == 0 && h->maps == 0)
            drop(at);
    }
    pthread_mutex_unlock(&lock);
    return found;
}

bool held_context(int device, bool primary, struct held *to)
{
    bool found = false;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < BUCKETS && !found; i++)
        for (const struct node *n = buckets[i]; n != NULL && !found; n = n->next)
            if (n->held.kind == HELD_CONTEXT && n->held.device == device &&
                (n->held.primary || !primary)) {
                *to = n->held;
                found = true;
            }
    pthread_mutex_unlock(&lock);
    return found;
}

uint64_t held_stream(uint64_t context, uint64_t stream)
{
    pthread_mutex_lock(&lock);
    struct node *n = *find(HELD_CONTEXT, context);
    if (n != NULL && n->held.stream == 0)
        n->held.stream = stream;
    uint64_t has = n == NULL ? 0 : n->held.stream;
    pthread_mutex_unlock(&lock);
    return has;
}

bool held_captures(void)
{
    return atomic_load(&captures) != 0;
}

/* As a driver says of cuThreadExchangeStreamCaptureMode. */
static bool forbids(const struct held *h, unsigned lane, unsigned mode)
{
    return h->kind == HELD_CAPTURE && (h->lane == lane ? h->uses != CU_STREAM_CAPTURE_MODE_RELAXED
                                                       : h->uses == CU_STREAM_CAPTURE_MODE_GLOBAL &&
                                                             mode == CU_STREAM_CAPTURE_MODE_GLOBAL);
}

bool held_forbids(unsigned lane, unsigned mode)
{
    bool found = false;
    if (!held_captures() || mode == CU_STREAM_CAPTURE_MODE_RELAXED)
        return false;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < BUCKETS && !found; i++)
        for (const struct node *n = buckets[i]; n != NULL && !found; n = n->next)
            found = forbids(&n->held, lane, mode);
    pthread_mutex_unlock(&lock);
    return found;
}

/* With lock held: what lies in a range, or (end 0) all. */
static struct held *copies(uint64_t at, uint64_t end, size_t *many)
{
    struct held *copy = count == 0 ? NULL : malloc(count * sizeof *copy);
    *many = 0;
    for (size_t i = 0; copy != NULL && i < BUCKETS; i++)
        for (const struct node *n = buckets[i]; n != NULL; n = n->next)
            if (end == 0 ||
                (n->held.kind == HELD_MAPPING && n->held.key >= at && n->held.key < end))
                copy[(*many)++] = n->held;
    return copy;
}

/* What a driver unmaps are whole mappings, mostly one. */
struct held *held_mappings(uint64_t at, uint64_t end, size_t *many)
{
    struct held *copy;
    pthread_mutex_lock(&lock);
    const struct node *n = *find(HELD_MAPPING, at);
    if (n != NULL && n->held.bytes >= end - at) {
        copy = malloc(sizeof *copy);
        *many = copy != NULL;
        if (copy != NULL)
            *copy = n->held;
    } else {
        copy = copies(at, end, many);
    }
    pthread_mutex_unlock(&lock);
    return copy;
}

struct held *held_all(size_t *all)
{
    pthread_mutex_lock(&lock);
    struct held *copy = copies(0, 0, all);
    pthread_mutex_unlock(&lock);
    return copy;
}

void held_drop_context(uint64_t context, uint64_t serial)
{
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < BUCKETS; i++)
        for (struct node **at = &buckets[i]; *at != NULL;) {
            const struct held *h = &(*at)->held;
            bool with = h->kind == HELD_LINEAR || h->kind == HELD_ARRAY ||
                        h->kind == HELD_MIPMAPPED || h->kind == HELD_CAPTURE;
            bool gone =
                (with && h->context == context) || (h->kind == HELD_CONTEXT && h->key == context);
            if (gone && h->serial <= serial)
                drop(at);
            else
                at = &(*at)->next;
        }
    pthread_mutex_unlock(&lock);
}
