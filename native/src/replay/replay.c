/* SPDX-License-Identifier: Apache-2.0
 *
 * Decode, make, encode.
 */
#include "src/replay/replay.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "src/wire/invoke.h"
#include "src/wire/table.h"

static int transfer(void *ctx, enum harp_wire_way way, uint64_t bytes, void **data, uint64_t *id)
{
    const struct harp_replay_call *call = ctx;
    return call->transfer((int)way, bytes, data, id);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int harp_replay_make(struct harp_replay_call *call)
{
    const struct harp_wire_side side = {.ctx = call, .transfer = transfer, .apart = true};
    struct harp_wire_call wire = {.op = (uint16_t)call->op};
    struct harp_wire_buffer body = {call->request, call->request_bytes, 0};
    struct harp_wire_buffer arena = {call->arena, call->arena_bytes, 0};
    struct harp_wire_buffer reply = {call->reply, call->reply_room, 0};
    struct harp_replay_prepared prepared = {.count = 0};
    uint64_t args[HARP_WIRE_SLOTS];
    unsigned op = call->op;
    call->made = 0;
    call->reply_bytes = 0;
    call->result = 0;
    if (op >= HARP_OPS || harp_wire_op(op) == NULL || strncmp(harp_wire_op(op)->name, "cu", 2) != 0)
        return -EINVAL;
    int err = harp_wire_get_request(&wire, &side, &body, &arena);
    if (err != 0)
        return err;
    memcpy(args, wire.args, sizeof args);
    err = harp_replay_prepare(&prepared, call, &op, args);
    if (err != 0)
        return err;
    void (*fn)(void) = op == call->op ? call->fn : call->launch_ex;
    if (fn == NULL)
        return -ENOSYS;
    const uint64_t begin_ns = now_ns();
    wire.result = harp_wire_invoke(op, fn, args);
    call->took_ns = now_ns() - begin_ns;
    call->result = wire.result;
    if (wire.result == 0 && wire.made_kind != 0 && wire.args[wire.made_slot] != 0)
        memcpy(&call->made, (const void *)(uintptr_t)wire.args[wire.made_slot], sizeof call->made);
    err = harp_wire_put_reply(&wire, &side, &reply);
    call->reply_bytes = err == 0 ? reply.used : 0;
    return err == 0 ? 0 : -ENOTSUP;
}
