/* SPDX-License-Identifier: Apache-2.0
 *
 * Peer access: contexts of one device that use another's memory, by PCIe, where
 * soft_state_peers() says that the two can.
 */
#include "soft/gpu/arena.h"

#include <unistd.h>

bool soft_devices_peer(int ordinal, int other)
{
    return soft_state_peers(soft_the_state, soft_at(ordinal), soft_at(other));
}

static int peer_at(const struct soft_ctx *ctx, const struct soft_ctx *owner)
{
    for (int i = 0; i < ctx->peer_count; i++)
        if (ctx->peers[i].ctx == owner && ctx->peers[i].id == owner->id)
            return i;
    return -1;
}

bool soft_ctx_reaches(const struct soft_ctx *ctx, const struct soft_ctx *owner)
{
    return ctx == owner || peer_at(ctx, owner) >= 0;
}

/* Peers that are gone make room. */
static void forget_gone(struct soft_ctx *ctx)
{
    int kept = 0;

    for (int i = 0; i < ctx->peer_count; i++)
        if (atomic_load(&ctx->peers[i].ctx->alive) && ctx->peers[i].ctx->id == ctx->peers[i].id)
            ctx->peers[kept++] = ctx->peers[i];
    ctx->peer_count = kept;
}

CUresult cuCtxEnablePeerAccess(CUcontext peerContext, unsigned int Flags)
{
    struct soft_ctx *ctx, *peer;
    CUresult r = soft_current(&ctx);

    if (r != CUDA_SUCCESS)
        return r;
    if (Flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    peer = soft_ctx_of(peerContext);
    if (peer == NULL || peer == ctx)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (!soft_devices_peer(ctx->ordinal, peer->ordinal))
        return CUDA_ERROR_PEER_ACCESS_UNSUPPORTED;
    soft_space_lock();
    forget_gone(ctx);
    if (peer_at(ctx, peer) >= 0) {
        r = CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED;
    } else if (ctx->peer_count == SOFT_MAX_PEERS) {
        r = CUDA_ERROR_TOO_MANY_PEERS;
    } else {
        ctx->peers[ctx->peer_count++] = (struct soft_peer){peer, peer->id};
        soft_space_publish(ctx);
    }
    soft_space_unlock();
    return r;
}

CUresult cuCtxDisablePeerAccess(CUcontext peerContext)
{
    struct soft_ctx *ctx, *peer;
    CUresult r = soft_current(&ctx);
    int at;

    if (r != CUDA_SUCCESS)
        return r;
    peer = soft_ctx_of(peerContext);
    if (peer == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    soft_space_lock();
    at = peer_at(ctx, peer);
    if (at < 0) {
        r = CUDA_ERROR_PEER_ACCESS_NOT_ENABLED;
    } else {
        ctx->peers[at] = ctx->peers[--ctx->peer_count];
        soft_space_publish(ctx);
    }
    soft_space_unlock();
    return r;
}

/* ---------------------------------------------------------------------------------- devices --- */
static CUresult two_devices(const void *out, CUdevice dev, CUdevice peer)
{
    CUresult r = soft_ready();

    if (r != CUDA_SUCCESS)
        return r;
    if (out == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    return soft_visible_ordinal(dev) < 0 || soft_visible_ordinal(peer) < 0
               ? CUDA_ERROR_INVALID_DEVICE
               : CUDA_SUCCESS;
}

CUresult cuDeviceCanAccessPeer(int *can, CUdevice dev, CUdevice peer)
{
    CUresult r = two_devices(can, dev, peer);

    if (r == CUDA_SUCCESS)
        *can = soft_devices_peer(soft_visible_ordinal(dev), soft_visible_ordinal(peer));
    return r;
}

/* As of PCIe: reads and writes, no atomics promised; arrays are not reached. */
CUresult cuDeviceGetP2PAttribute(int *value, CUdevice_P2PAttribute attribute, CUdevice dev,
                                 CUdevice peer)
{
    CUresult r = two_devices(value, dev, peer);

    if (r != CUDA_SUCCESS)
        return r;
    if ((int)attribute < CU_DEVICE_P2P_ATTRIBUTE_PERFORMANCE_RANK ||
        (int)attribute > CU_DEVICE_P2P_ATTRIBUTE_ONLY_PARTIAL_NATIVE_ATOMIC_SUPPORTED)
        return CUDA_ERROR_INVALID_VALUE;
    if (dev == peer)
        return CUDA_ERROR_INVALID_DEVICE;
    *value = attribute == CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED &&
             soft_devices_peer(soft_visible_ordinal(dev), soft_visible_ordinal(peer));
    return CUDA_SUCCESS;
}

/* ------------------------------------------------------------------- engines of two devices --- */
struct soft_ctx *soft_ctx_guest(int ordinal)
{
    struct soft_ctx *found = NULL;

    soft_space_lock();
    for (struct soft_arena *a = soft_space.arenas; a != NULL && found == NULL; a = a->next)
        if (a->ctx->ordinal == ordinal && !a->ctx->closing && atomic_load(&a->ctx->alive))
            found = a->ctx;
    if (found != NULL)
        atomic_fetch_add(&found->guests, 1);
    soft_space_unlock();
    return found;
}

void soft_ctx_guest_leave(struct soft_ctx *ctx)
{
    atomic_fetch_sub(&ctx->guests, 1);
}

void soft_ctx_close(struct soft_ctx *ctx)
{
    soft_space_lock();
    ctx->closing = true;
    soft_space_unlock();
    while (atomic_load(&ctx->guests) > 0)
        usleep(200);
}

static bool reaches_device(const struct soft_ctx *ctx, int other)
{
    for (int i = 0; i < ctx->peer_count; i++)
        if (ctx->peers[i].ctx->ordinal == other && ctx->peers[i].ctx->id == ctx->peers[i].id)
            return true;
    return false;
}

bool soft_devices_linked(int ordinal, int other)
{
    bool linked = false;

    soft_space_lock();
    for (struct soft_arena *a = soft_space.arenas; a != NULL && !linked; a = a->next)
        linked = (a->ctx->ordinal == ordinal && reaches_device(a->ctx, other)) ||
                 (a->ctx->ordinal == other && reaches_device(a->ctx, ordinal));
    soft_space_unlock();
    return linked;
}
