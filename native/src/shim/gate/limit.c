/* SPDX-License-Identifier: Apache-2.0
 *
 * cuCtxSetLimit: stacks, heap and what kernels print live in device memory. A context's first
 * values are part of its overhead; what they are raised by is charged before the driver is asked,
 * settled by what it made of the value, and given back when they are lowered. A kernel with a
 * larger frame than its stack raises it too, at its launch (local.c), until it is set again.
 *
 * Not seen here, but by harpd's reconcile: what launches from kernels take (depth, pending ones).
 */
#include <pthread.h>
#include <stdlib.h>

#include "harp/lease.h"
#include "src/shim/entry/entry.h"
#include "src/shim/gate/ledger.h"
#include "src/shim/gate/local.h"
#include "src/shim/gate/memory.h"
#include "src/shim/gate/session.h"

#define LIMITS     3            /* CU_LIMIT_STACK_SIZE, _PRINTF_FIFO_SIZE, _MALLOC_HEAP_SIZE */
#define STACK_MOST (512u << 10) /* CUDA C++ programming guide, local memory per thread */
#define MOST       (1ull << 50)

struct limits { /* of one context */
    struct limits *next;
    CUcontext ctx;
    int dev;
    uint64_t unit[LIMITS];             /* bytes of memory for each byte of the value */
    size_t usual[LIMITS], now[LIMITS]; /* now: paid for */
    uint64_t leased;
    size_t there;     /* stack that the driver has made room for; `now` may be ahead of it */
    unsigned growing; /* launches that may make more */
    bool asking;      /* one of them waits for its lease */
};

static struct limits *all; /* under `lock`, which is held across no call of the driver */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t answered = PTHREAD_COND_INITIALIZER;

static struct limits *limits_of(CUcontext ctx)
{
    struct limits *l = all;
    while (l != NULL && l->ctx != ctx)
        l = l->next;
    return l;
}

static bool ask(struct limits *l)
{
    CUdevice device;
    int sms = 0, threads = 0; /* a stack for every thread that can be resident */
    harp_enter();
    bool ok = HARP_REAL(cuCtxGetDevice)(&device) == CUDA_SUCCESS &&
              HARP_REAL(cuDeviceGetAttribute)(&sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
                                              device) == CUDA_SUCCESS &&
              HARP_REAL(cuDeviceGetAttribute)(&threads,
                                              CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR,
                                              device) == CUDA_SUCCESS;
    for (int i = 0; ok && i < LIMITS; i++) {
        ok = HARP_REAL(cuCtxGetLimit)(&l->usual[i], (CUlimit)i) == CUDA_SUCCESS;
        l->now[i] = l->usual[i];
        l->unit[i] = i == CU_LIMIT_STACK_SIZE ? (uint64_t)sms * (uint64_t)threads : 1;
    }
    harp_leave();
    l->there = l->usual[CU_LIMIT_STACK_SIZE];
    return ok;
}

/* The record of the current context, made when the first of its limits is set or its first kernel
 * is launched. */
static bool known(CUcontext ctx, int dev)
{
    pthread_mutex_lock(&lock);
    bool there = limits_of(ctx) != NULL;
    pthread_mutex_unlock(&lock);
    if (there)
        return true;
    struct limits *l = calloc(1, sizeof *l);
    if (l == NULL)
        return false;
    *l = (struct limits){.ctx = ctx, .dev = dev};
    bool ok = ask(l);
    pthread_mutex_lock(&lock);
    there = limits_of(ctx) != NULL;
    if (ok && !there) {
        l->next = all;
        all = l;
        l = NULL;
    }
    pthread_mutex_unlock(&lock);
    free(l);
    return ok || there;
}

/* Bytes beyond the usual when one limit has that value. */
static uint64_t bytes_with(const struct limits *l, int limit, size_t value)
{
    uint64_t sum = 0;
    for (int i = 0; i < LIMITS; i++) {
        size_t v = i == limit ? value : l->now[i];
        uint64_t more = v > l->usual[i] ? v - l->usual[i] : 0;
        if (more > MOST / l->unit[i])
            return MOST;
        sum += more * l->unit[i];
    }
    return harp_granules(sum);
}

/* What is to be leased for that value besides what is. */
static uint64_t missing(CUcontext ctx, int limit, size_t value)
{
    uint64_t bytes = 0;
    pthread_mutex_lock(&lock);
    const struct limits *l = limits_of(ctx);
    if (l != NULL)
        bytes = bytes_with(l, limit, value);
    bytes = l != NULL && bytes > l->leased ? bytes - l->leased : 0;
    pthread_mutex_unlock(&lock);
    return bytes;
}

/* A limit has that value: the lease follows, when the lock is let go. */
struct change {
    uint64_t more, back;
};

/* Lock held. */
static struct change changed(struct limits *l, int limit, size_t value)
{
    l->now[limit] = value;
    uint64_t need = bytes_with(l, limit, value);
    struct change c = {.more = need > l->leased ? need - l->leased : 0,
                       .back = need < l->leased ? l->leased - need : 0};
    l->leased = need;
    return c;
}

static CUresult follow(int dev, struct change c)
{
    harp_unlease(dev, HARP_MEM_DEVICE, c.back);
    CUresult r = harp_lease(dev, HARP_MEM_DEVICE, c.more);
    if (r != CUDA_SUCCESS) /* it is there all the same: the next lease asks for it too */
        harp_overdrawn(dev, HARP_MEM_DEVICE, c.more);
    return r;
}

/* The driver has taken a value. `leased`: for it, already. */
static CUresult settle(CUcontext ctx, int dev, int limit, size_t value, uint64_t leased)
{
    struct change c = {.back = leased};
    pthread_mutex_lock(&lock);
    struct limits *l = limits_of(ctx);
    if (l != NULL) {
        l->leased += leased;
        c = changed(l, limit, value);
        if (limit == CU_LIMIT_STACK_SIZE)
            l->there = value;
    }
    pthread_mutex_unlock(&lock);
    if (limit == CU_LIMIT_STACK_SIZE)
        harp_local_forget(); /* frames that had room may have none now */
    return follow(dev, c);
}

static CUresult set(CUlimit limit, size_t value, size_t *told)
{
    harp_enter();
    CUresult r = HARP_REAL(cuCtxSetLimit)(limit, value);
    if (r != CUDA_SUCCESS || HARP_REAL(cuCtxGetLimit)(told, limit) != CUDA_SUCCESS)
        *told = value;
    harp_leave();
    return r;
}

CUresult harp_hook_cuCtxSetLimit(CUlimit limit, size_t value)
{
    int dev;
    CUcontext ctx;
    size_t told, old = 0;
    CUresult r;
    if ((int)limit < 0 || (int)limit >= LIMITS || harp_inside() ||
        harp_device_current(&dev, &ctx) != CUDA_SUCCESS || dev < 0 || !known(ctx, dev))
        return HARP_REAL(cuCtxSetLimit)(limit, value);
    /* More than any thread may have is the driver's own error, whatever there is of memory. */
    bool valid = limit != CU_LIMIT_STACK_SIZE || value <= STACK_MOST;
    uint64_t bytes = valid ? missing(ctx, (int)limit, value) : 0;
    if ((r = harp_lease(dev, HARP_MEM_DEVICE, bytes)) != CUDA_SUCCESS)
        return r;
    if (!valid)
        HARP_INSIDE(r, HARP_REAL(cuCtxGetLimit)(&old, limit));
    if (r == CUDA_SUCCESS)
        r = set(limit, value, &told);
    if (r != CUDA_SUCCESS) {
        harp_unlease(dev, HARP_MEM_DEVICE, bytes);
        return r;
    }
    r = settle(ctx, dev, (int)limit, told, bytes);
    if (r != CUDA_SUCCESS && !valid && set(limit, old, &told) == CUDA_SUCCESS)
        settle(ctx, dev, (int)limit, told, 0);
    return valid ? CUDA_SUCCESS : r;
}

/* --- launches of large frames ---------------------------------------------------------------- */

bool harp_limit_usual(CUcontext ctx, int dev, size_t *stack)
{
    if (!known(ctx, dev))
        return false;
    pthread_mutex_lock(&lock);
    const struct limits *l = limits_of(ctx);
    if (l != NULL)
        *stack = l->usual[CU_LIMIT_STACK_SIZE];
    pthread_mutex_unlock(&lock);
    return l != NULL;
}

/* One at a time: two that need the same memory need it once. */
CUresult harp_limit_grow(CUcontext ctx, int dev, size_t frame, bool *grows)
{
    CUresult r = CUDA_SUCCESS;
    struct limits *l;
    *grows = false;
    pthread_mutex_lock(&lock);
    while ((l = limits_of(ctx)) != NULL && l->asking)
        pthread_cond_wait(&answered, &lock);
    if (l == NULL || frame <= l->there) {
        pthread_mutex_unlock(&lock);
        return r;
    }
    *grows = true;
    l->growing++;
    uint64_t with =
        frame > l->now[CU_LIMIT_STACK_SIZE] ? bytes_with(l, CU_LIMIT_STACK_SIZE, frame) : l->leased;
    uint64_t bytes = with > l->leased ? with - l->leased : 0;
    l->asking = bytes != 0;
    pthread_mutex_unlock(&lock);
    struct change c = {0};
    if (bytes != 0)
        r = harp_lease(dev, HARP_MEM_DEVICE, bytes);
    pthread_mutex_lock(&lock);
    l = limits_of(ctx);
    if (l == NULL) { /* its context is gone */
        c.back = r == CUDA_SUCCESS ? bytes : 0;
    } else {
        if (bytes != 0)
            l->asking = false;
        if (r == CUDA_SUCCESS) {
            size_t now = l->now[CU_LIMIT_STACK_SIZE];
            l->leased += bytes;
            c = changed(l, CU_LIMIT_STACK_SIZE, frame > now ? frame : now);
        } else {
            l->growing--;
        }
    }
    pthread_cond_broadcast(&answered);
    pthread_mutex_unlock(&lock);
    follow(dev, c);
    return r;
}

void harp_limit_grown(CUcontext ctx, int dev, size_t frame, bool launched)
{
    struct change c = {0};
    pthread_mutex_lock(&lock);
    struct limits *l = limits_of(ctx);
    if (l != NULL) {
        size_t now = l->now[CU_LIMIT_STACK_SIZE];
        if (launched && frame > l->there)
            l->there = frame;
        l->growing -= l->growing != 0;
        /* A launch that failed has left none; the stack may have been set meanwhile. */
        if (l->there > now || (l->growing == 0 && l->there < now))
            c = changed(l, CU_LIMIT_STACK_SIZE, l->there);
    }
    pthread_mutex_unlock(&lock);
    follow(dev, c);
}

/* --- the end --------------------------------------------------------------------------------- */

void harp_limit_owner_gone(CUcontext ctx)
{
    struct limits *gone = NULL;
    pthread_mutex_lock(&lock);
    for (struct limits **at = &all; *at != NULL; at = &(*at)->next)
        if ((*at)->ctx == ctx) {
            gone = *at;
            *at = gone->next;
            break;
        }
    pthread_cond_broadcast(&answered);
    pthread_mutex_unlock(&lock);
    if (gone != NULL)
        harp_unlease(gone->dev, HARP_MEM_DEVICE, gone->leased);
    free(gone);
}

void harp_limit_forked(void)
{
    pthread_mutex_init(&lock, NULL);
    pthread_cond_init(&answered, NULL);
    all = NULL; /* not freed: the heap may have been in mid-change */
}
