/* SPDX-License-Identifier: Apache-2.0
 *
 * What kernels of a context print: kept until the program synchronises, launches, or loads code,
 * as hardware keeps it, in a buffer of CU_LIMIT_PRINTF_FIFO_SIZE. When it is full the oldest text
 * is lost. What nobody asks for before the process exits is never seen.
 */
#include "soft/gpu/context.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEAD_BYTES 16u /* what a record costs beside its text */

struct soft_fifo_text {
    struct soft_fifo_text *next;
    size_t bytes;
    char text[];
};

static pthread_mutex_t out_lock = PTHREAD_MUTEX_INITIALIZER; /* one at a time writes */

static void drop_oldest(struct soft_fifo *fifo)
{
    struct soft_fifo_text *oldest = fifo->first;

    fifo->first = oldest->next;
    if (fifo->first == NULL)
        fifo->last = NULL;
    fifo->used -= oldest->bytes + HEAD_BYTES;
    free(oldest);
}

void soft_fifo_put(struct soft_ctx *ctx, const char *text, size_t bytes)
{
    struct soft_fifo *fifo = &ctx->fifo;
    size_t capacity = ctx->limits[CU_LIMIT_PRINTF_FIFO_SIZE];
    struct soft_fifo_text *t;

    if (bytes + HEAD_BYTES > capacity)
        return;
    t = malloc(sizeof *t + bytes);
    if (t == NULL)
        return;
    t->next = NULL;
    t->bytes = bytes;
    memcpy(t->text, text, bytes);
    pthread_mutex_lock(&fifo->lock);
    while (fifo->used + bytes + HEAD_BYTES > capacity)
        drop_oldest(fifo);
    if (fifo->last != NULL)
        fifo->last->next = t;
    else
        fifo->first = t;
    fifo->last = t;
    fifo->used += bytes + HEAD_BYTES;
    pthread_mutex_unlock(&fifo->lock);
}

void soft_fifo_flush(struct soft_ctx *ctx)
{
    struct soft_fifo *fifo = &ctx->fifo;
    struct soft_fifo_text *t;

    if (atomic_load_explicit(&fifo->used, memory_order_relaxed) == 0)
        return;
    pthread_mutex_lock(&out_lock);
    pthread_mutex_lock(&fifo->lock);
    t = fifo->first;
    fifo->first = fifo->last = NULL;
    fifo->used = 0;
    pthread_mutex_unlock(&fifo->lock);
    while (t != NULL) {
        struct soft_fifo_text *next = t->next;

        fwrite(t->text, 1, t->bytes, stdout);
        free(t);
        t = next;
    }
    pthread_mutex_unlock(&out_lock);
}
