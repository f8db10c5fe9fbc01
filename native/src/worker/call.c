/* SPDX-License-Identifier: Apache-2.0
 *
 * One call: its body decoded, made, and answered, or its failure kept (latch.c).
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "src/wire/invoke.h"
#include "src/wire/table.h"
#include "src/wire/walk.h"
#include "src/worker/handles.h"
#include "src/worker/ranges.h"
#include "src/worker/worker.h"

/* --- the codec's hooks --- */

static int value_of(void *ctx, enum harp_handle kind, uint64_t id, uint64_t *value)
{
    struct lane *lane = ctx;
    int err = handles_use(&lane->uses, kind, id, value);
    if (err == -ENOENT)
        lane->missed = kind;
    return err;
}

static int id_of(void *ctx, enum harp_handle kind, uint64_t value, uint64_t *id)
{
    if (handles_known(kind, value, id))
        return 0;
    return handles_id_in(owner_of(ctx, kind), kind, value, id);
}

static int device(void *ctx, uint64_t address)
{
    struct lane *lane = ctx;
    const enum ranges_place place = ranges_place(address);
    lane->at_end |= place == RANGES_END;
    return place == RANGES_OUT ? -EFAULT : 0;
}

static CUresult refused(const struct lane *lane, int err)
{
    switch (err) {
    case -ENOENT:
        return lane->missed == HARP_HANDLE_CUcontext ? CUDA_ERROR_INVALID_CONTEXT
                                                     : CUDA_ERROR_INVALID_HANDLE;
    case -ENOTSUP:
    case -E2BIG:
        return CUDA_ERROR_NOT_SUPPORTED;
    case -ENOMEM:
        return CUDA_ERROR_OUT_OF_MEMORY;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

/* --- one call --- */

/* Not made: what they would answer, or keep, is the worker's own memory. */
static bool left_out(unsigned op)
{
    switch (op) {
    case HARP_OP_cuGraphHostNodeGetParams:
    case HARP_OP_cuGraphKernelNodeGetParams:
    case HARP_OP_cuGraphKernelNodeGetParams_v2:
        return true;
    default:
        return false;
    }
}

/* The stream of a call: its last parameter of that kind. */
static uint64_t stream_of(const struct harp_wire_op *op, const uint64_t *args)
{
    const struct harp_wire_program *p = &harp_wire_programs[op->program];
    uint64_t stream = 0;
    for (unsigned i = 0; i < p->count; i++) {
        const struct harp_wire_field *f = &harp_wire_fields[p->first + i];
        if (f->item == HARP_WIRE_HANDLE && f->hold == HARP_WIRE_VALUE &&
            f->type == HARP_HANDLE_CUstream)
            stream = args[f->at / 8];
    }
    return stream;
}

/* Whether a decoded call names host memory. */
static bool names_host(const struct harp_wire_program *p, const uint8_t *base)
{
    for (unsigned i = 0; i < p->count; i++) {
        const struct harp_wire_field *f = &harp_wire_fields[p->first + i];
        const uint8_t *at = base + f->at;
        if (f->hold != HARP_WIRE_VALUE && f->hold != HARP_WIRE_POINTER)
            continue;
        if (f->item == HARP_WIRE_SENT || f->item == HARP_WIRE_FETCHED) {
            if (harp_walk_load_pointer(base, f->at) != NULL)
                return true;
            continue;
        }
        if (f->item != HARP_WIRE_STRUCT && f->item != HARP_WIRE_CASE)
            continue;
        const struct harp_wire_program *inner =
            f->item == HARP_WIRE_STRUCT ? &harp_wire_programs[f->type] : harp_walk_chosen(f, base);
        if (f->hold == HARP_WIRE_POINTER)
            at = harp_walk_load_pointer(base, f->at);
        if (inner != NULL && at != NULL && names_host(inner, at))
            return true;
    }
    return false;
}

/* Whether a call copies host memory in the order of a stream. */
static bool host_async(const struct harp_wire_op *op, const uint64_t *args)
{
    return op->cls == HARP_WIRE_ASYNC && strncmp(op->name, "cuMemcpy", 8) == 0 &&
           names_host(&harp_wire_programs[op->program], (const uint8_t *)args);
}

bool call_captures(const struct lane *lane, uint64_t stream)
{
    CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
    CUstream on = (CUstream)(uintptr_t)stream;
    CUresult r = lane->flags & HARP_FRAME_PER_THREAD ? DRIVER(cuStreamIsCapturing_ptsz)(on, &status)
                                                     : DRIVER(cuStreamIsCapturing)(on, &status);
    return r == CUDA_SUCCESS && status != CU_STREAM_CAPTURE_STATUS_NONE;
}

/* The bulk area as pinned memory, once there is a context: else a driver would make async copies
 * from and to it wait. Contexts that go may take that with them. Where it cannot be had, they wait.
 */
static void pin(const struct lane *lane, unsigned op, const uint64_t *args)
{
    static atomic_bool pinned;
    switch (op) {
    case HARP_OP_cuCtxSetCurrent:
        if (args[0] != 0 && !atomic_exchange(&pinned, true))
            DRIVER(cuMemHostRegister_v2)(lane->session->ring.bulk, lane->session->ring.sizes.bulk,
                                         CU_MEMHOSTREGISTER_PORTABLE);
        break;
    case HARP_OP_cuCtxDestroy_v2:
    case HARP_OP_cuCtxDestroy:
    case HARP_OP_cuCtxDetach:
    case HARP_OP_cuDevicePrimaryCtxRelease_v2:
    case HARP_OP_cuDevicePrimaryCtxRelease:
    case HARP_OP_cuDevicePrimaryCtxReset_v2:
    case HARP_OP_cuDevicePrimaryCtxReset:
        atomic_store(&pinned, false);
        break;
    default:
        break;
    }
}

/* The ids of the handle that a call ends, and of what ends with it, when no other call uses them
 * any more; no call ends two. An error: another lane's call ends it. */
static CUresult take_ended(const struct lane *lane, const struct harp_wire_op *op,
                           const struct harp_wire_call *call, struct node **taken)
{
    const struct harp_wire_program *p = &harp_wire_programs[op->program];
    for (unsigned i = 0; i < p->count; i++) {
        const struct harp_wire_field *f = &harp_wire_fields[p->first + i];
        if (f->item != HARP_WIRE_HANDLE || f->hold != HARP_WIRE_VALUE || f->own != HARP_WIRE_DEL)
            continue;
        const enum harp_handle kind = (enum harp_handle)f->type;
        bool lost;
        *taken = handles_take_held(&lane->uses, kind, call->args[f->at / 8], &lost);
        if (*taken == NULL && lost)
            return kind == HARP_HANDLE_CUcontext ? CUDA_ERROR_INVALID_CONTEXT
                                                 : CUDA_ERROR_INVALID_HANDLE;
        handles_wait(*taken, &lane->uses);
        break;
    }
    return CUDA_SUCCESS;
}

/* The handle that the call has made. */
static CUresult settle(struct lane *lane, const struct harp_wire_call *call)
{
    if (call->made_kind == 0 || call->args[call->made_slot] == 0)
        return CUDA_SUCCESS;
    uint64_t value;
    memcpy(&value, (const void *)(uintptr_t)call->args[call->made_slot], sizeof value);
    int err =
        handles_bind_in(owner_of(lane, call->made_kind), call->made_kind, call->made_id, value);
    return err == 0         ? CUDA_SUCCESS
           : err == -ENOMEM ? CUDA_ERROR_OUT_OF_MEMORY
                            : CUDA_ERROR_INVALID_VALUE;
}

/* What a call has made may have been ended by another lane's before it was known that it is. */
static void look_again(const struct lane *lane, unsigned op, const uint64_t *args)
{
    uint64_t id;
    if (lane->generation != 0 && held_generation(lane->context) != lane->generation)
        owner_context_ended(lane->generation);
    if ((op == HARP_OP_cuModuleGetGlobal_v2 &&
         !handles_known(HARP_HANDLE_CUmodule, args[2], &id)) ||
        (op == HARP_OP_cuLibraryGetGlobal && !handles_known(HARP_HANDLE_CUlibrary, args[2], &id)))
        ranges_owner_ended(args[2], UINT64_MAX);
}

static CUresult make_one(struct lane *lane, const struct harp_wire_op *op,
                         struct harp_wire_call *call)
{
    uint64_t args[HARP_WIRE_SLOTS];
    unsigned made = call->op;
    if (left_out(made))
        return CUDA_ERROR_NOT_SUPPORTED;
    if (lane->at_end)
        return ranges_nothing(made, call->args) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    if (strncmp(op->name, "harp", 4) == 0) {
        CUresult own = own_call(lane, call);
        look_again(lane, call->op, call->args);
        return own;
    }
    if (call->made_kind != 0 && call->args[call->made_slot] != 0 && handles_free(call->made_id))
        return CUDA_ERROR_INVALID_VALUE;
    if (!ranges_admit(call->op))
        return CUDA_ERROR_OUT_OF_MEMORY;
    const bool in_stream = host_async(op, call->args);
    const uint64_t stream = in_stream ? stream_of(op, call->args) : 0;
    if (in_stream && call_captures(lane, stream))
        return CUDA_ERROR_NOT_SUPPORTED;
    struct node *ended = NULL;
    link_before(lane, call->op, call->args);
    CUresult r = take_ended(lane, op, call, &ended);
    if (r != CUDA_SUCCESS) {
        link_after(lane, call->op, r, call->args);
        return r;
    }
    memcpy(args, call->args, sizeof args);
    r = prepare_call(lane, &made, args);
    const struct ranges_dropped dropped = ranges_before(call->op, call->args);
    struct held context = {.serial = 0};
    struct node *in_context = NULL;
    if (wipe_is_end(call->op, call->args, &context)) {
        in_context = owner_take_context(context.serial);
        handles_wait(in_context, &lane->uses);
        within_alone(lane, &context);
    }
    wipe_before(lane, call->op, call->args);
    const uint64_t then = ranges_now(); /* what is added later sees what has been taken */
    if (call->made_kind != 0 || ranges_adds(call->op))
        owner_look(lane);
    void (*fn)(void) = driver_fn(made, (lane->flags & HARP_FRAME_PER_THREAD) != 0);
    if (r == CUDA_SUCCESS && wipe_is_over()) /* it has waited: what it ends is being wiped */
        r = CUDA_ERROR_DEINITIALIZED;
    if (r == CUDA_SUCCESS)
        r = fn == NULL ? CUDA_ERROR_NOT_FOUND : (CUresult)harp_wire_invoke(made, fn, args);
    prepare_end(lane);
    wipe_after(lane, call->op, r, call->args);
    host_after(lane, call->op, r, call->args);
    link_after(lane, call->op, r, call->args);
    if (r != CUDA_SUCCESS) {
        ranges_failed(call->args, &dropped);
        handles_put_back(ended);
        /* Another lane may have ended it, while it was waited for. */
        if (in_context != NULL && held_generation(context.key) != context.serial)
            owner_drop(in_context, UINT64_MAX);
        else
            handles_put_back(in_context);
        return r;
    }
    owner_drop(ended, then);
    owner_drop(in_context, then);
    if (lane->ended != 0)
        owner_context_ended(lane->ended);
    /* Another lane has begun that meanwhile: each launch would use memory of ours that is
     * another call's by then. */
    if (in_stream && call_captures(lane, stream))
        session_end("host memory in a capture");
    if (in_stream)
        transfer_done_after(lane, stream);
    ranges_after(call->op, call->args, lane->generation);
    pin(lane, call->op, call->args);
    latch_ended(lane->session, call->op, call->args);
    r = settle(lane, call);
    look_again(lane, call->op, call->args);
    lease_look(lane, call);
    return r;
}

static CUresult make(struct lane *lane, const struct harp_wire_op *op, struct harp_wire_call *call)
{
    CUresult r = wipe_call_begins() ? make_one(lane, op, call) : CUDA_ERROR_DEINITIALIZED;
    within_called(lane, call->op);
    wipe_call_ends();
    return r;
}

static void reply(struct lane *lane, struct harp_wire_call *call, bool decoded,
                  const struct harp_wire_side *side)
{
    struct harp_wire_buffer out = {lane->reply, HARP_WIRE_BODY_BYTES, 0};
    struct harp_ring_record r = {
        .op = call->op, .flags = HARP_FRAME_REPLY, .lane = lane->id, .ack = lane->seq};
    int err = decoded ? harp_wire_put_reply(call, side, &out) : 0;
    if (!decoded || err != 0 || out.used > harp_ring_largest(&lane->session->ring)) {
        uint32_t alone = decoded ? (uint32_t)CUDA_ERROR_NOT_SUPPORTED : call->result;
        memcpy(lane->reply, &alone, sizeof alone);
        out.used = sizeof alone;
    }
    r.bytes = (uint32_t)out.used;
    session_put(lane->session, &r, lane->reply);
    harp_ring_wake(&lane->session->ring);
}

static void call_one(struct lane *lane, unsigned op_number, unsigned flags, uint8_t *body,
                     uint32_t bytes)
{
    const struct harp_wire_side side = {.ctx = lane,
                                        .id_of = id_of,
                                        .value_of = value_of,
                                        .device = device,
                                        .transfer = transfer_hook};
    const struct harp_wire_op *op = harp_wire_op(op_number);
    struct harp_wire_call call = {.op = (uint16_t)op_number};
    struct harp_wire_buffer in = {body, bytes, 0};
    struct harp_wire_buffer arena = {lane->arena, HARP_WIRE_ARENA_BYTES, 0};
    const bool wanted = (flags & HARP_FRAME_WANTED) != 0;
    lane->flags = flags;
    lane->missed = 0;
    lane->at_end = false;
    lane->generation = 0;
    lane->call = &call;
    session_away(lane->session, lane, wanted);
    within_begin(lane);
    int err = op == NULL ? -EINVAL : harp_wire_get_request(&call, &side, &in, &arena);
    const bool decoded = err == 0;
    if (decoded)
        call.result = make(lane, op, &call);
    else
        call.result = refused(lane, err);
    transfer_done(lane); /* those that no stream has taken along */
    transfer_unused(lane, lane->seq);
    handles_let_go(&lane->uses);
    within_end(lane);
    session_back(lane->session, lane, wanted);
    if (wanted) {
        if (decoded)
            call.result = latch_surfaced(lane, op_number, (CUresult)call.result);
        reply(lane, &call, decoded, &side);
    } else if (call.result != CUDA_SUCCESS) {
        latch_keep(lane, op_number, (CUresult)call.result);
    }
}

void call_record(struct lane *lane, const struct harp_ring_record *record, uint8_t *body)
{
    struct harp_frame call = {
        .op = record->op, .flags = record->flags, .body = body, .bytes = record->bytes};
    size_t used = 0;
    const bool pack = record->op == HARP_OP_PACK;
    int more = pack ? harp_pack_get(&call, body, record->bytes, &used) : 1;
    bool wanted = false;
    lane->seq = record->seq;
    lane->place = 0;
    while (more == 1) {
        wanted = (call.flags & HARP_FRAME_WANTED) != 0;
        /* Whom the client does not wait for, nothing may overtake: a wanted call comes last. */
        if (pack && wanted && ((record->flags & HARP_FRAME_WANTED) == 0 || used != record->bytes))
            session_end("a pack in which a call that is not the last one is waited for");
        call_one(lane, call.op, call.flags, body + (call.body - body), call.bytes);
        lane->place++;
        more = pack ? harp_pack_get(&call, body, record->bytes, &used) : 0;
    }
    if (more < 0)
        session_end("a pack that is none");
    if (!wanted)
        session_ended(lane);
}

void call_tell(struct session *s, unsigned op, unsigned lane, const uint64_t *args)
{
    /* One of the worker's own at a time, and of any thread. */
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static uint8_t body[(64u << 10) + 256];
    struct harp_wire_call call = {.op = (uint16_t)op};
    struct harp_wire_buffer out = {body, sizeof body, 0};
    struct harp_ring_record r = {.op = op, .flags = HARP_FRAME_REVERSE, .lane = lane};
    memcpy(call.args, args, sizeof call.args);
    pthread_mutex_lock(&lock);
    if (harp_wire_put_request(&call, NULL, &out) == 0 && out.used <= harp_ring_largest(&s->ring)) {
        r.bytes = (uint32_t)out.used;
        session_put(s, &r, body);
    }
    pthread_mutex_unlock(&lock);
    harp_ring_wake(&s->ring);
}
