/* SPDX-License-Identifier: Apache-2.0
 *
 * Events in use and in store, brackets of launches between them. The gate's lock is held, but in
 * harp_marks_fill.
 */
#include <stdlib.h>

#include "src/shim/entry/entry.h"
#include "src/shim/gate/gate.h"
#include "src/shim/gate/session.h"

void harp_gate_update(struct harp_timegate *g)
{
    bool slow = g->state != GATE_OFF && (g->state != GATE_FREE || g->sample_due);
    if (slow == g->slow)
        return;
    g->slow = slow;
    if (slow)
        __atomic_fetch_add(&harp_time_word, 1u, __ATOMIC_RELAXED);
    else
        __atomic_fetch_sub(&harp_time_word, 1u, __ATOMIC_RELAXED);
}

struct harp_mark *harp_mark_take(struct harp_meter_ctx *ctx)
{
    struct harp_mark *mark = ctx->pool;
    if (mark == NULL)
        return NULL;
    ctx->pool = mark->next;
    ctx->pooled--;
    mark->refs = 1;
    return mark;
}

void harp_mark_unref(struct harp_mark *mark)
{
    if (mark == NULL || --mark->refs != 0)
        return;
    mark->next = mark->ctx->pool;
    mark->ctx->pool = mark;
    mark->ctx->pooled++;
}

void harp_bracket_free(struct harp_bracket *b)
{
    harp_mark_unref(b->start);
    harp_mark_unref(b->end);
    free(b);
}

void harp_gate_push(struct harp_timegate *g, struct harp_bracket *b)
{
    b->next = NULL;
    if (g->pending == NULL)
        g->pending_tail = &g->pending;
    *g->pending_tail = b;
    g->pending_tail = &b->next;
}

void harp_gate_closing(struct harp_timegate *g, uint64_t now, bool backlogged)
{
    if (g->state != GATE_QUANTUM && g->state != GATE_FREE)
        return;
    g->from_free = g->state == GATE_FREE;
    g->state = GATE_CLOSING;
    g->backlogged = backlogged;
    g->closing_ns = g->extended_ns = now;
    g->extend = g->extensions = 0;
    g->alive_ns = now;
    g->sample_due = false;
    harp_gate_update(g);
    harp_session_wake();
}

void harp_marks_fill(struct harp_timegate *g, struct harp_meter_ctx *ctx)
{
    CUcontext current = NULL;
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    harp_enter();
    bool relaxed = HARP_HAS(cuThreadExchangeStreamCaptureMode) &&
                   HARP_REAL(cuThreadExchangeStreamCaptureMode)(&mode) == CUDA_SUCCESS;
    bool pushed = HARP_REAL(cuCtxGetCurrent)(&current) == CUDA_SUCCESS && current != ctx->ctx &&
                  HARP_REAL(cuCtxPushCurrent_v2)(ctx->ctx) == CUDA_SUCCESS;
    for (int i = 0; i < 2 * HARP_POOL_LOW; i++) {
        struct harp_mark *mark = calloc(1, sizeof *mark);
        if (mark == NULL || HARP_REAL(cuEventCreate)(&mark->event, 0) != CUDA_SUCCESS) {
            free(mark);
            break;
        }
        mark->ctx = ctx;
        mark->refs = 1;
        pthread_mutex_lock(&g->lock);
        harp_mark_unref(mark);
        pthread_mutex_unlock(&g->lock);
    }
    if (pushed)
        HARP_REAL(cuCtxPopCurrent_v2)(&current);
    if (relaxed)
        HARP_REAL(cuThreadExchangeStreamCaptureMode)(&mode);
    harp_leave();
}
