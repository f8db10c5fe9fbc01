/* SPDX-License-Identifier: Apache-2.0
 *
 * The end of a session: what it holds is wiped, as far as there is time. What a device still does
 * for it, or waits for, may take for ever; with the process it ends, but then nobody can wipe. So
 * all is wiped at once, and again when the device has come to rest, if it does.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "src/worker/wipe.h"
#include "src/worker/worker.h"

#define END_MS 1500 /* memory is the device's again in 3 s, wiped or not */

/* Guarded by lock. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static enum stage { FIRST, AGAIN, DONE } state;

/* Bytes, and things without a size that is known here, of the last time. */
static atomic_ulong left_bytes, left_arrays;

static void left(const struct held *h)
{
    if (h->kind == HELD_ARRAY || h->kind == HELD_MIPMAPPED)
        atomic_fetch_add(&left_arrays, 1);
    else
        atomic_fetch_add(&left_bytes, h->bytes);
}

static void wipe_one(const struct held *h)
{
    struct wipe_place in;
    struct held p;
    CUmemGenericAllocationHandle handle = h->key;
    bool done = true;
    if (h->kind == HELD_MAPPING) { /* of memory whose handles are gone */
        if (!held_get(HELD_PHYSICAL, h->physical, &p) || p.uses != 0)
            return;
        done = DRIVER(cuMemRetainAllocationHandle)(&handle, (void *)(uintptr_t)h->key) == 0;
    } else if (h->kind == HELD_HANDLE) {
        done = held_get(HELD_PHYSICAL, h->physical, &p);
    } else {
        p = *h;
    }
    if (!done || !wipe_enter(NULL, &in, h->context, p.device)) {
        left(h);
        return;
    }
    if (h->kind == HELD_MAPPING || h->kind == HELD_HANDLE)
        done = wipe_physical(&in, handle, p.bytes, p.device);
    else if (h->kind == HELD_ARRAY || h->kind == HELD_MIPMAPPED)
        done = wipe_array(&in, h);
    else
        done = wipe_linear(&in, h->key, h->bytes);
    if (!done)
        left(&p);
    wipe_leave(&in);
}

/* Contexts: the device has come to rest, or (`ours`) what was wiped is. */
static void rest(const struct held *all, size_t count, bool ours)
{
    struct wipe_place in;
    for (size_t i = 0; i < count; i++)
        if (all[i].kind == HELD_CONTEXT && wipe_enter(NULL, &in, all[i].key, all[i].device)) {
            if (ours)
                wipe_finish(&in);
            else
                wipe_settle();
            wipe_leave(&in);
        }
}

static void wipe_each(const struct held *all, size_t count)
{
    atomic_store(&left_bytes, 0);
    atomic_store(&left_arrays, 0);
    for (size_t i = 0; i < count; i++)
        if (all[i].kind != HELD_CONTEXT && all[i].kind != HELD_PHYSICAL &&
            all[i].kind != HELD_CAPTURE)
            wipe_one(&all[i]);
    rest(all, count, true);
}

static void reached(enum stage next)
{
    pthread_mutex_lock(&lock);
    state = next;
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&lock);
}

static void *wipe_main(void *arg)
{
    (void)arg;
    size_t count;
    struct held *all = held_all(&count);
    wipe_each(all, count);
    reached(AGAIN);
    rest(all, count, false);
    wipe_each(all, count);
    reached(DONE);
    free(all);
    return NULL;
}

static bool anything(void)
{
    size_t count;
    struct held *all = held_all(&count);
    bool found = false;
    for (size_t i = 0; i < count && !found; i++)
        found = all[i].kind != HELD_CONTEXT && all[i].kind != HELD_CAPTURE;
    free(all);
    return found;
}

void wipe_held(void)
{
    struct timespec end;
    pthread_t thread;
    if (!anything())
        return;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_nsec += END_MS % 1000 * 1000000L;
    end.tv_sec += END_MS / 1000 + end.tv_nsec / 1000000000L;
    end.tv_nsec %= 1000000000L;
    pthread_mutex_lock(&lock);
    int err = pthread_create(&thread, NULL, wipe_main, NULL);
    while (err == 0 && state != DONE)
        err = pthread_cond_timedwait(&changed, &lock, &end);
    if (err != 0)
        fprintf(stderr,
                state == FIRST ? "harp-worker: device memory of the session is not wiped: %s\n"
                               : "harp-worker: device memory is wiped, but the device was not at "
                                 "rest and may have written since: %s\n",
                err == ETIMEDOUT ? "that took more than 1500 ms" : "no thread for it");
    pthread_mutex_unlock(&lock);
    if (atomic_load(&left_bytes) != 0 || atomic_load(&left_arrays) != 0)
        fprintf(stderr,
                "harp-worker: %lu bytes and %lu arrays of the device are not wiped: the "
                "driver refuses\n",
                atomic_load(&left_bytes), atomic_load(&left_arrays));
}
