/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory of graphs: a device deals it out when a graph is launched or uploaded and keeps it for the
 * next; graphs that do not run together share it.
 *
 * What a graph may need at most is known when it is instantiated (graph_nodes.c). A launch leases
 * what of that the device does not have free for it for sure, and asks afterwards what it has.
 * For sure: launches in one stream follow each other, so all that it has but what outlives its
 * graph is free again; and where it has as much as all graphs together need, none waits for
 * another's.
 */
#include "src/shim/gate/graph_memory.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "harp/lease.h"
#include "src/shim/entry/entry.h"
#include "src/shim/gate/ledger.h"
#include "src/shim/gate/pool.h"
#include "src/shim/gate/swap.h"

bool harp_graphs_allocate;

static struct device { /* under `lock` */
    CUdevice device;
    bool used;
    bool mixed;     /* launches in several streams since nothing ran */
    bool stale;     /* one that is destroyed may run */
    uintptr_t last; /* stream of the latest launch; 0: nothing runs */
    uint64_t held, inflight, reserved, tickets, applied;
} devices[HARP_MAX_DEVICES];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct harp_graph_exec *execs;

static struct harp_graph_exec *find(CUgraphExec exec)
{
    struct harp_graph_exec *e = execs;
    while (e != NULL && e->exec != exec)
        e = e->next;
    return e;
}

/* --- what a device has -------------------------------------------------------------------------
 */

static uint64_t settle(int dev)
{
    struct device *d = &devices[dev];
    cuuint64_t reserved = 0;
    CUresult r;
    pthread_mutex_lock(&lock);
    uint64_t ticket = ++d->tickets;
    pthread_mutex_unlock(&lock);
    HARP_INSIDE(r, HARP_REAL(cuDeviceGetGraphMemAttribute)(
                       d->device, CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT, &reserved));
    pthread_mutex_lock(&lock);
    if (r == CUDA_SUCCESS && ticket > d->applied) {
        d->applied = ticket;
        d->reserved = reserved;
    }
    uint64_t have = harp_granules(d->reserved), most = have + d->inflight;
    uint64_t missing = have > d->held ? have - d->held : 0;
    uint64_t back = d->held > most ? d->held - most : 0;
    d->held = d->held + missing - back;
    pthread_mutex_unlock(&lock);
    harp_unlease(dev, HARP_MEM_DEVICE, back);
    /* a launch cannot be taken back */
    if (missing != 0 && harp_lease_once(dev, HARP_MEM_DEVICE, missing) != CUDA_SUCCESS) {
        harp_overdrawn(dev, HARP_MEM_DEVICE, missing);
        harp_log("graph_memory_overdrawn dev=%d bytes=%llu", dev, (unsigned long long)missing);
    }
    return back;
}

void harp_graph_memory_settle(int dev)
{
    if (dev >= 0 && __atomic_load_n(&devices[dev].used, __ATOMIC_RELAXED))
        settle(dev);
}

uint64_t harp_graph_memory_trim(int dev)
{
    CUresult r;
    if (dev < 0 || !__atomic_load_n(&devices[dev].used, __ATOMIC_RELAXED))
        return 0;
    HARP_INSIDE(r, HARP_REAL(cuDeviceGraphMemTrim)(devices[dev].device));
    (void)r;
    return settle(dev);
}

CUresult harp_hook_cuDeviceGraphMemTrim(CUdevice device)
{
    CUresult r = HARP_REAL(cuDeviceGraphMemTrim)(device);
    if (!harp_inside() && __atomic_load_n(&harp_graphs_allocate, __ATOMIC_RELAXED))
        harp_graph_memory_settle(harp_device_of(device));
    return r;
}

/* --- a launch ----------------------------------------------------------------------------------
 */

/* Lock held. */
static uint64_t needed(const struct device *d, int dev, const struct harp_graph_exec *exec,
                       uintptr_t stream)
{
    uint64_t most = exec->bytes[dev], living = 0, all = 0;
    for (const struct harp_graph_exec *e = execs; e != NULL; e = e->next) {
        living += e->living != 0 ? e->bytes[dev] : 0;
        all += e->bytes[dev];
    }
    if (d->inflight == 0 && !d->stale && all <= d->reserved)
        return 0;
    if (d->inflight != 0 || d->mixed || (d->last != 0 && d->last != stream))
        return most;
    return most + living > d->reserved ? most + living - d->reserved : 0;
}

static CUresult begin(int dev, struct harp_graph_exec *e, uintptr_t stream, uint64_t *leased)
{
    struct device *d = &devices[dev];
    CUresult r = CUDA_SUCCESS;
    pthread_mutex_lock(&lock);
    *leased = needed(d, dev, e, stream);
    if (*leased != 0) {
        pthread_mutex_unlock(&lock);
        r = harp_lease_once(dev, HARP_MEM_DEVICE, *leased);
        if (r != CUDA_SUCCESS) {
            harp_pools_trim(dev); /* what it has may be another now */
            pthread_mutex_lock(&lock);
            *leased = needed(d, dev, e, stream);
            pthread_mutex_unlock(&lock);
            r = harp_lease_once(dev, HARP_MEM_DEVICE, *leased);
        }
        pthread_mutex_lock(&lock);
    }
    if (r == CUDA_SUCCESS) {
        d->held += *leased;
        d->inflight += *leased;
        d->mixed |= d->last != 0 && d->last != stream;
        d->last = stream;
    }
    pthread_mutex_unlock(&lock);
    return r;
}

static void end(int dev, uint64_t leased)
{
    pthread_mutex_lock(&lock);
    devices[dev].inflight -= leased;
    pthread_mutex_unlock(&lock);
    settle(dev);
}

/* What lives and what was freed by a launch. Lock held. */
static void launched(struct harp_graph_exec *e)
{
    for (size_t i = 0; i < e->outlive_count; i++)
        e->alive[i] = true;
    e->living = e->outlive_count;
    for (size_t i = 0; i < e->free_count; i++)
        harp_graph_exec_freed(execs, e->frees[i]);
}

CUresult harp_graph_launch_begin(struct harp_graph_turn *turn, CUgraphExec exec, CUstream on)
{
    uintptr_t key = (uintptr_t)(on != NULL ? on : CU_STREAM_LEGACY);
    CUresult r = CUDA_SUCCESS;
    turn->exec = NULL;
    if (harp_inside())
        return r;
    pthread_mutex_lock(&lock);
    struct harp_graph_exec *e = find(exec);
    struct harp_graph_frame frames[HARP_GRAPH_CONTEXTS];
    unsigned frame_count = 0;
    if (e != NULL) {
        e->users++;
        frame_count = e->frame_count;
        memcpy(frames, e->frames, sizeof frames);
    }
    pthread_mutex_unlock(&lock);
    if (e == NULL)
        return r;
    turn->exec = e;
    turn->devices = 0;
    turn->locals = 0;
    if (frame_count != 0 && harp_capturing(on))
        frame_count = 0; /* a child of another graph: that one's launch takes it */
    for (int dev = 0; r == CUDA_SUCCESS && dev < (int)HARP_MAX_DEVICES; dev++) {
        turn->leased[dev] = 0;
        if (e->bytes[dev] != 0)
            r = begin(dev, e, key, &turn->leased[dev]);
        if (r == CUDA_SUCCESS)
            turn->devices = dev + 1;
    }
    for (unsigned i = 0; r == CUDA_SUCCESS && i < frame_count; i++) {
        r = harp_local_grow_by(&turn->local[i], frames[i].ctx, frames[i].frame);
        if (r == CUDA_SUCCESS)
            turn->locals = i + 1;
    }
    if (r != CUDA_SUCCESS)
        harp_graph_launch_end(turn, r, false);
    return r;
}

void harp_graph_launch_end(struct harp_graph_turn *turn, CUresult r, bool launch)
{
    struct harp_graph_exec *e = turn->exec;
    if (e == NULL)
        return;
    for (int dev = 0; dev < turn->devices; dev++)
        if (e->bytes[dev] != 0)
            end(dev, turn->leased[dev]);
    for (unsigned i = 0; i < turn->locals; i++)
        harp_local_end(&turn->local[i], r);
    pthread_mutex_lock(&lock);
    if (r == CUDA_SUCCESS && launch)
        launched(e);
    e->users--;
    harp_graph_exec_reap(&execs);
    pthread_mutex_unlock(&lock);
}

static CUresult upload(CUgraphExec exec, CUstream stream, CUstream on, harp_fn_cuGraphUpload real)
{
    struct harp_graph_turn turn = {0};
    CUresult r = CUDA_SUCCESS;
    if (__atomic_load_n(&harp_graphs_allocate, __ATOMIC_RELAXED))
        r = harp_graph_launch_begin(&turn, exec, on);
    if (r != CUDA_SUCCESS)
        return r;
    struct harp_timegate *held = harp_swap_touch();
    HARP_INSIDE(r, real(exec, stream));
    if (held != NULL)
        harp_touch_end(held);
    harp_graph_launch_end(&turn, r, false);
    return r;
}

CUresult harp_hook_cuGraphUpload(CUgraphExec hGraph, CUstream hStream)
{
    return upload(hGraph, hStream, hStream, HARP_REAL(cuGraphUpload));
}

CUresult harp_hook_cuGraphUpload_ptsz(CUgraphExec hGraph, CUstream hStream)
{
    return upload(hGraph, hStream, hStream != NULL ? hStream : CU_STREAM_PER_THREAD,
                  HARP_REAL(cuGraphUpload_ptsz));
}

/* --- executable graphs -------------------------------------------------------------------------
 */

void harp_graph_exec_made(struct harp_graph_exec *e, const CUdevice device[HARP_MAX_DEVICES])
{
    pthread_mutex_lock(&lock);
    e->next = execs;
    execs = e;
    for (int dev = 0; dev < (int)HARP_MAX_DEVICES; dev++)
        if (e->bytes[dev] != 0) {
            devices[dev].device = device[dev];
            __atomic_store_n(&devices[dev].used, true, __ATOMIC_RELAXED);
        }
    pthread_mutex_unlock(&lock);
    __atomic_store_n(&harp_graphs_allocate, true, __ATOMIC_RELEASE);
    for (int dev = 0; dev < (int)HARP_MAX_DEVICES; dev++)
        if (e->bytes[dev] != 0)
            settle(dev); /* one that is uploaded at once has it already */
}

/* Contexts beyond those that there is room for are left to harpd's reconcile. */
static bool widen(struct harp_graph_exec *e, CUcontext ctx, size_t frame)
{
    unsigned i = 0;
    while (i < e->frame_count && e->frames[i].ctx != ctx)
        i++;
    if (i == HARP_GRAPH_CONTEXTS)
        return false;
    if (i == e->frame_count)
        e->frames[e->frame_count++] = (struct harp_graph_frame){.ctx = ctx};
    if (frame > e->frames[i].frame)
        e->frames[i].frame = frame;
    return true;
}

void harp_graph_exec_frame(CUgraphExec exec, CUcontext ctx, size_t frame)
{
    struct harp_graph_exec *fresh = calloc(1, sizeof *fresh);
    pthread_mutex_lock(&lock);
    struct harp_graph_exec *e = find(exec);
    if (e == NULL && fresh != NULL) {
        e = fresh;
        fresh = NULL;
        e->exec = exec;
        e->next = execs;
        execs = e;
    }
    bool charged = e != NULL && widen(e, ctx, frame);
    pthread_mutex_unlock(&lock);
    free(fresh);
    __atomic_store_n(&harp_graphs_allocate, true, __ATOMIC_RELEASE);
    if (!charged)
        harp_log("graph_frame_not_charged bytes=%llu effect=\"seen by harpd's reconcile\"",
                 (unsigned long long)frame);
}

CUresult harp_hook_cuGraphExecDestroy(CUgraphExec hGraphExec)
{
    struct harp_graph_exec *e = NULL;
    CUresult r;
    if (harp_inside() || !__atomic_load_n(&harp_graphs_allocate, __ATOMIC_RELAXED))
        return HARP_REAL(cuGraphExecDestroy)(hGraphExec);
    pthread_mutex_lock(&lock);
    if ((e = find(hGraphExec)) != NULL) {
        e->exec = NULL; /* another one may get the handle as soon as the driver is done */
        e->users++;
    }
    pthread_mutex_unlock(&lock);
    HARP_INSIDE(r, HARP_REAL(cuGraphExecDestroy)(hGraphExec));
    if (e == NULL)
        return r;
    pthread_mutex_lock(&lock);
    if (r != CUDA_SUCCESS)
        e->exec = hGraphExec;
    for (int dev = 0; dev < (int)HARP_MAX_DEVICES; dev++) /* it may still run */
        devices[dev].stale |= e->bytes[dev] != 0;
    e->users--;
    harp_graph_exec_reap(&execs);
    pthread_mutex_unlock(&lock);
    return r;
}

void harp_graph_memory_freed(CUdeviceptr ptr)
{
    pthread_mutex_lock(&lock);
    harp_graph_exec_freed(execs, ptr);
    harp_graph_exec_reap(&execs);
    pthread_mutex_unlock(&lock);
}

void harp_graph_memory_idle(void)
{
    pthread_mutex_lock(&lock);
    for (int dev = 0; dev < (int)HARP_MAX_DEVICES; dev++) {
        devices[dev].mixed = devices[dev].stale = false;
        devices[dev].last = 0;
    }
    pthread_mutex_unlock(&lock);
}

void harp_graph_memory_forked(void)
{
    pthread_mutex_init(&lock, NULL);
    execs = NULL;
    memset(devices, 0, sizeof devices);
    harp_graphs_allocate = false;
}
