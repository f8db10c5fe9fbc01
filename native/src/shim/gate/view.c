/* SPDX-License-Identifier: Apache-2.0 */
#include "src/shim/gate/view.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "src/shim/entry/entry.h"
#include "src/shim/gate/link.h"
#include "src/shim/gate/memory.h"
#include "src/shim/gate/pool.h"
#include "src/shim/gate/session.h"

/* One question, one answer, and the connection is gone. */
static bool look(const uint8_t uuid[16], struct harp_msg *state)
{
    struct harp_msg hello = {.version = HARP_LEASE_VERSION,
                             .op = HARP_HELLO,
                             .pid = (int)getpid(),
                             .a = HARP_KIND_CUDA,
                             .b = HARP_HELLO_LOOK};
    memcpy(hello.uuid, uuid, sizeof hello.uuid);
    int fd = harp_link_connect(harp_env()->grant);
    bool ok = fd >= 0 && harp_link_send(fd, &hello) &&
              harp_link_receive(fd, state, HARP_HANDSHAKE_MS) && state->op == HARP_MEM_STATE;
    if (fd >= 0)
        close(fd);
    return ok;
}

static bool ask(int dev, struct harp_msg *state)
{
    uint64_t back = harp_memory_recall(dev, UINT64_MAX);
    struct harp_msg given = {
        .op = HARP_RETURN_MEM, .dev = (uint32_t)dev, .cls = HARP_MEM_DEVICE, .bytes = back};
    if (back != 0)
        harp_session_tell(&given);
    *state = (struct harp_msg){.op = HARP_MEM_INFO, .dev = (uint32_t)dev};
    return harp_session_ask(state) == 0 && state->op == HARP_MEM_STATE;
}

int harp_view(const uint8_t uuid[16], struct harp_msg *state)
{
    if (harp_env()->grant == NULL)
        return -1;
    int saved = errno;
    bool ok = !(harp_session_own() && harp_session_live()) && look(uuid, state);
    if (!ok && harp_session_ready()) { /* also an arbiter that knows no looks */
        int dev = harp_session_device(uuid);
        *state = (struct harp_msg){.op = HARP_MEM_STATE};
        ok = dev < 0 || ask(dev, state);
    }
    errno = saved;
    return ok ? 0 : -1;
}

/* Without an answer: the limit as it was last said, and what is leased and unused here. */
static void view(CUdevice device, uint64_t *free, uint64_t *total)
{
    struct harp_msg state = {.op = 0};
    uint8_t uuid[16];
    if (!harp_device_uuid(device, uuid) || harp_view(uuid, &state) != 0) {
        int dev = harp_device_of(device);
        state.limit_bytes = dev >= 0 ? harp_session_about(dev).limit_bytes : 0;
        state.free_bytes = dev >= 0 ? harp_slack(dev) : 0;
    }
    harp_view_fit(&state, free, total);
}

CUresult harp_hook_cuMemGetInfo_v2(size_t *free, size_t *total)
{
    if (__atomic_load_n(&harp_order_pending, __ATOMIC_RELAXED) && !harp_inside())
        harp_order_settle();
    CUresult known, r = HARP_REAL(cuMemGetInfo_v2)(free, total);
    CUdevice device;
    if (r != CUDA_SUCCESS || harp_inside() || free == NULL || total == NULL)
        return r;
    HARP_INSIDE(known, HARP_REAL(cuCtxGetDevice)(&device));
    if (known != CUDA_SUCCESS)
        return r;
    uint64_t f = *free, t = *total;
    view(device, &f, &t);
    *free = (size_t)f;
    *total = (size_t)t;
    return r;
}

CUresult harp_hook_cuDeviceTotalMem_v2(size_t *bytes, CUdevice device)
{
    CUresult r = HARP_REAL(cuDeviceTotalMem_v2)(bytes, device);
    if (r != CUDA_SUCCESS || harp_inside() || bytes == NULL)
        return r;
    uint64_t free = 0, total = *bytes;
    view(device, &free, &total);
    *bytes = (size_t)total;
    return r;
}
