/* SPDX-License-Identifier: Apache-2.0
 *
 * Shared memory and scratch of running blocks. Fresh pages for every launch would cost more than
 * a small kernel, so a few buffers are kept between launches, with whatever was in them.
 */
#include <stdlib.h>

#include "soft/gpu/launch.h"

#define KEPT_MAX       16u
#define KEPT_BYTES_MAX (64u << 20) /* of one buffer; larger ones go back at once */
#define ALIGN          256u

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct soft_buffer kept[KEPT_MAX]; /* guarded by lock, as the next */
static unsigned kept_count;

bool soft_buffer_take(size_t bytes, struct soft_buffer *out)
{
    if (bytes < ALIGN)
        bytes = ALIGN;
    unsigned best = KEPT_MAX;
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < kept_count; i++)
        if (kept[i].bytes >= bytes && (best == KEPT_MAX || kept[i].bytes < kept[best].bytes))
            best = i;
    if (best != KEPT_MAX) {
        *out = kept[best];
        kept[best] = kept[--kept_count];
    }
    pthread_mutex_unlock(&lock);
    if (best != KEPT_MAX)
        return true;
    out->bytes = bytes;
    if (posix_memalign(&out->data, ALIGN, bytes) != 0)
        out->data = NULL;
    return out->data != NULL;
}

void soft_buffer_give(struct soft_buffer *buffer)
{
    void *drop = buffer->data;
    pthread_mutex_lock(&lock);
    if (kept_count < KEPT_MAX && buffer->bytes <= KEPT_BYTES_MAX) {
        kept[kept_count++] = *buffer;
        drop = NULL;
    } else {
        /* full: the smallest one goes, they are the cheapest to get again */
        for (unsigned i = 0; i < kept_count && buffer->bytes <= KEPT_BYTES_MAX; i++)
            if (kept[i].bytes < buffer->bytes) {
                drop = kept[i].data;
                kept[i] = *buffer;
                break;
            }
    }
    pthread_mutex_unlock(&lock);
    free(drop);
}
