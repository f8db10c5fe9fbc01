/* SPDX-License-Identifier: Apache-2.0
 *
 * Who waits for whom: a call that ends a context, before it is made, for those that are in it; a
 * call that has named nothing yet, for the end of its current context. Of who ends a context the
 * one that is current does not count, so nobody waits in a ring.
 */
#include "src/worker/within.h"

#include "src/worker/worker.h"

/* Guarded by lock: what is in lanes' struct within. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t fewer = PTHREAD_COND_INITIALIZER;
static struct lane *lanes; /* that ever made a call */
static unsigned waiting;

/* With lock held. */
static void wait_for_fewer(void)
{
    waiting++;
    pthread_cond_wait(&fewer, &lock);
    waiting--;
}

static void tell(void)
{
    if (waiting != 0)
        pthread_cond_broadcast(&fewer);
}

/* --- by who is in it --- */

static bool another_ends(const struct lane *lane, uint64_t context, bool alone)
{
    for (const struct lane *l = lanes; l != NULL; l = l->within.next)
        if (l != lane && context != 0 && l->within.ends == context && (l->within.alone || !alone))
            return true;
    return false;
}

void within_begin(struct lane *lane)
{
    struct within *w = &lane->within;
    pthread_mutex_lock(&lock);
    if (!w->listed) {
        w->listed = true;
        w->next = lanes;
        lanes = lane;
    }
    while (another_ends(lane, w->current, false))
        wait_for_fewer();
    w->calls = true;
    pthread_mutex_unlock(&lock);
}

void within_end(struct lane *lane)
{
    pthread_mutex_lock(&lock);
    lane->within.ends = 0;
    lane->within.calls = lane->within.alone = false;
    tell();
    pthread_mutex_unlock(&lock);
}

void within_enter(struct lane *lane, uint64_t context)
{
    pthread_mutex_lock(&lock);
    while (another_ends(lane, context, true))
        wait_for_fewer();
    lane->within.inside = context;
    pthread_mutex_unlock(&lock);
}

void within_leave(struct lane *lane)
{
    pthread_mutex_lock(&lock);
    lane->within.inside = 0;
    tell();
    pthread_mutex_unlock(&lock);
}

/* Destroyed, it is current no more. */
static bool changes_current(unsigned op)
{
    switch (op) {
    case HARP_OP_cuCtxSetCurrent:
    case HARP_OP_cuCtxCreate_v2:
    case HARP_OP_cuCtxCreate_v3:
    case HARP_OP_cuCtxCreate_v4:
    case HARP_OP_cuCtxDestroy_v2:
    case HARP_OP_cuCtxDestroy:
    case HARP_OP_cuCtxDetach:
        return true;
    default:
        return false;
    }
}

void within_called(struct lane *lane, unsigned op)
{
    CUcontext context = NULL;
    if (!changes_current(op))
        return;
    uint64_t now = DRIVER(cuCtxGetCurrent)(&context) == CUDA_SUCCESS ? (uintptr_t)context : 0;
    pthread_mutex_lock(&lock);
    lane->within.current = now;
    pthread_mutex_unlock(&lock);
}

/* --- by who ends it --- */

static bool is_in(const struct lane *lane, const struct held *context)
{
    const struct within *w = &lane->within;
    return w->inside == context->key || (w->calls && w->ends == 0 && w->current == context->key) ||
           (w->ends == context->key && w->alone) || /* one after the other */
           handles_uses_context(&lane->uses, context->serial);
}

void within_alone(struct lane *lane, const struct held *context)
{
    pthread_mutex_lock(&lock);
    lane->within.ends = context->key;
    for (const struct lane *l = lanes; l != NULL;)
        if (l != lane && is_in(l, context)) {
            wait_for_fewer();
            l = lanes;
        } else {
            l = l->within.next;
        }
    lane->within.alone = true;
    pthread_mutex_unlock(&lock);
}
