/* SPDX-License-Identifier: Apache-2.0
 *
 * One call: encode, tell or ask, decode. Whatever may fail without the worker, fails before
 * anything of the call has gone out.
 */
#include "src/shim/remote/calls.h"

#include <errno.h>
#include <stdlib.h>

#include "src/shim/backend/table.h"
#include "src/shim/entry/entry.h"
#include "src/shim/remote/forget.h"
#include "src/shim/remote/host.h"
#include "src/shim/remote/lease.h"
#include "src/shim/remote/prepared.h"
#include "src/wire/codec.h"
#include "src/wire/frame.h"

#define MOVES 4u /* host bytes of one call, at most */

struct making {
    struct harp_lane *lane;
    const struct harp_wire_op *row;
    const uint64_t *args;
    bool wanted;
    CUresult result; /* of a hook that fails */
    struct harp_thing *made;
    unsigned moves; /* transfers: the worker is told of them with the call */
    uint64_t move[MOVES];
    bool fetches, sent;
};

static bool poisoned; /* a context has failed for good: what is told would not say so; atomic */
static int captures;  /* that have begun and not ended; atomic */
static bool captured; /* one has begun, once; atomic */

/* --- the codec's questions -------------------------------------------------------------------- */

static int id_of(void *ctx, enum harp_handle kind, uint64_t value, uint64_t *id)
{
    struct making *m = ctx;
    const struct harp_thing *thing = harp_thing_of(kind, value);
    if (thing == NULL) {
        m->result = harp_thing_missing(kind);
        return -ENOENT;
    }
    *id = thing->id;
    return 0;
}

static int value_of(void *ctx, enum harp_handle kind, uint64_t id, uint64_t *value)
{
    struct harp_thing *thing = harp_thing_by_id(kind, id, true);
    *value = (uintptr_t)thing;
    return thing == NULL ? -ENOMEM : 0;
}

/* What a thing is made in: with that, it ends. */
static uint64_t owner(const struct making *m, enum harp_handle kind)
{
    const struct harp_thing *in = NULL;
    switch (kind) {
    case HARP_HANDLE_CUfunction:
    case HARP_HANDLE_CUkernel: /* (handle *, module or library or kernel, ...) */
        for (unsigned k = HARP_HANDLE_CUmodule; k <= HARP_HANDLE_CUkernel && in == NULL; k++)
            in = harp_thing_of((enum harp_handle)k, m->args[1]);
        return in != NULL ? in->id : 0;
    case HARP_HANDLE_CUgraphNode: /* (node *, graph, ...) */
        in = harp_thing_of(HARP_HANDLE_CUgraph, m->args[1]);
        return in != NULL ? in->id : 0;
    case HARP_HANDLE_CUmodule:
    case HARP_HANDLE_CUstream:
    case HARP_HANDLE_CUevent:
    case HARP_HANDLE_CUarray:
    case HARP_HANDLE_CUmipmappedArray:
        return harp_lane_current(m->lane);
    default:
        return 0;
    }
}

static int mint(void *ctx, enum harp_handle kind, uint64_t *id)
{
    struct making *m = ctx;
    *id = harp_thing_mint();
    m->made = harp_thing_add(kind, *id, owner(m, kind));
    return m->made == NULL ? -ENOMEM : 0;
}

static int transfer(void *ctx, enum harp_wire_way way, uint64_t bytes, void **data, uint64_t *id)
{
    struct making *m = ctx;
    if (way == HARP_WIRE_LEND) {
        *data = harp_remote_lent(*id, bytes);
        return *data == NULL ? -EPROTO : 0;
    }
    if (m->moves == MOVES)
        return -E2BIG;
    bool large = bytes > harp_remote_piece();
    if (large && way == HARP_WIRE_FETCH)
        return -E2BIG;
    if (large)
        return harp_remote_send_all(m->lane, *data, bytes, id);
    int err = way == HARP_WIRE_FETCH ? harp_remote_fetch(*data, bytes, m->wanted, id)
                                     : harp_remote_send(*data, bytes, id);
    if (err == 0)
        m->move[m->moves++] = *id;
    m->fetches |= way == HARP_WIRE_FETCH;
    return err;
}

static const struct harp_wire_side hooks = {
    .id_of = id_of, .value_of = value_of, .mint = mint, .transfer = transfer};

/* --- one call --------------------------------------------------------------------------------- */

/* Calls that a driver has nothing to say about once handles are right, and what this side looks at
 * before (harp_remote_doubt). All others are asked, whatever their row allows: to answer success
 * and an error later where a driver has one at once would be another API. */
static bool tellable(unsigned op)
{
    switch (op) {
    case HARP_OP_cuLaunchKernel:
    case HARP_OP_cuGraphLaunch:
    case HARP_OP_cuGraphExecKernelNodeSetParams:
    case HARP_OP_cuGraphExecKernelNodeSetParams_v2:
    case HARP_OP_cuLaunchHostFunc:
    case HARP_OP_cuEventCreate:
    case HARP_OP_cuEventDestroy_v2:
    case HARP_OP_cuEventRecord:
    case HARP_OP_cuStreamCreate:
    case HARP_OP_cuStreamDestroy_v2:
    case HARP_OP_cuStreamWaitEvent:
    case HARP_OP_cuMemFree_v2:
    case HARP_OP_cuMemFreeAsync:
    case HARP_OP_cuMemcpyHtoDAsync_v2:
    case HARP_OP_cuMemcpyDtoHAsync_v2:
    case HARP_OP_cuMemcpyDtoD_v2:
    case HARP_OP_cuMemcpyDtoDAsync_v2:
    case HARP_OP_cuMemcpyAsync:
    case HARP_OP_cuMemsetD8_v2:
    case HARP_OP_cuMemsetD16_v2:
    case HARP_OP_cuMemsetD32_v2:
    case HARP_OP_cuMemsetD8Async:
    case HARP_OP_cuMemsetD16Async:
    case HARP_OP_cuMemsetD32Async:
    case HARP_OP_cuModuleUnload:
    case HARP_OP_cuDevicePrimaryCtxRelease_v2:
    case HARP_OP_harpMemTake:
    case HARP_OP_harpMemKeep:
        return true;
    default:
        return false;
    }
}

/* What the call may be made without: then a destroyed context does not matter. */
static bool anywhere(const char *name)
{
    static const char *const free_of_it[] = {"cuDevice",    "cuCtxCreate",  "cuCtxDestroy",
                                             "harpSession", "harpSnapshot", "harpArena",
                                             "harpImage"};
    for (size_t i = 0; i < sizeof free_of_it / sizeof *free_of_it; i++)
        if (strncmp(name, free_of_it[i], strlen(free_of_it[i])) == 0)
            return true;
    return false;
}

/* What every later call in that context answers, too. */
static bool sticky(CUresult r)
{
    return (r >= CUDA_ERROR_ILLEGAL_ADDRESS && r <= CUDA_ERROR_LAUNCH_TIMEOUT && r != 701) ||
           (r >= CUDA_ERROR_HARDWARE_STACK_ERROR && r <= CUDA_ERROR_LAUNCH_FAILED) ||
           r == CUDA_ERROR_ASSERT || r == CUDA_ERROR_ECC_UNCORRECTABLE || r == CUDA_ERROR_UNKNOWN;
}

/* Handles that the call ends; their things. */
static void end_deleted(const struct making *m)
{
    const struct harp_wire_program *p = &harp_wire_programs[m->row->program];
    for (unsigned i = 0; i < p->count; i++) {
        const struct harp_wire_field *f = &harp_wire_fields[p->first + i];
        struct harp_thing *thing =
            f->own != HARP_WIRE_DEL ? NULL
                                    : harp_thing_of((enum harp_handle)f->type, m->args[f->at / 8]);
        if (thing == NULL)
            continue;
        harp_remote_end(thing);
    }
}

static void answer_made(const struct making *m, const struct harp_wire_call *call)
{
    uint64_t handle = (uintptr_t)m->made;
    if (m->made != NULL && call->args[call->made_slot] != 0)
        memcpy((void *)(uintptr_t)call->args[call->made_slot], &handle, sizeof handle);
}

static int decode(struct harp_lane *lane, struct harp_wire_call *call, uint32_t bytes)
{
    struct harp_wire_buffer body = {lane->scratch, bytes, 0};
    if (bytes == sizeof call->result) { /* nothing else, even if its outputs always count */
        memcpy(&call->result, lane->scratch, sizeof call->result);
        if (call->result != CUDA_SUCCESS)
            return 0;
    }
    if (!harp_lane_lends(lane, 2ull * bytes + 256)) /* what a reply can have in the arena */
        return -ENOMEM;
    struct harp_wire_buffer lent = {lane->lent, lane->lent_size, lane->lent_used};
    int err = harp_wire_get_reply(call, &hooks, &body, &lent);
    lane->lent_used = lent.used;
    return err;
}

int harp_remote_encode(struct harp_wire_call *call, uint8_t *body, uint32_t size, uint32_t *bytes)
{
    struct harp_wire_buffer out = {body, size, 0};
    int err = harp_wire_put_request(call, &hooks, &out);
    *bytes = (uint32_t)out.used;
    return err;
}

CUresult harp_remote_decode(struct harp_lane *lane, struct harp_wire_call *call, uint32_t bytes)
{
    int err = decode(lane, call, bytes);
    return err == 0 ? (CUresult)call->result : harp_remote_failed(call->op, err);
}

static CUresult go(struct making *m, struct harp_wire_call *call, uint32_t bytes)
{
    struct harp_lane *lane = m->lane;
    struct harp_remote_call out = {.op = call->op,
                                   .flags = lane->per_thread ? HARP_FRAME_PER_THREAD : 0,
                                   .anywhere = anywhere(m->row->name),
                                   .body = lane->scratch,
                                   .bytes = bytes,
                                   .moves = m->move,
                                   .n_moves = m->moves};
    int err;
    m->sent = true;
    if (!m->wanted) {
        err = harp_remote_tell(lane, &out);
        m->sent = err != -ESTALE;
        return err == 0 ? CUDA_SUCCESS : harp_remote_failed(call->op, err);
    }
    err = harp_remote_ask(lane, &out, lane->scratch, &bytes);
    m->sent = err != -ESTALE;
    if (err == 0)
        err = decode(lane, call, bytes);
    return err == 0 ? (CUresult)call->result : harp_remote_failed(call->op, err);
}

bool harp_remote_tells(const struct harp_lane *lane)
{
    return !harp_env()->strict && harp_lane_current(lane) != 0 &&
           !__atomic_load_n(&poisoned, __ATOMIC_RELAXED) && !harp_remote_capturing(0);
}

static CUresult make(struct harp_lane *lane, unsigned op, const uint64_t *args, unsigned count)
{
    const struct harp_wire_op *row = harp_wire_op(op);
    struct making m = {.lane = lane, .row = row, .args = args};
    CUresult r;
    bool doubt = lane->doubt || (m.row->cls != HARP_WIRE_ASYNC || !tellable(op));
    m.wanted = (doubt && !lane->hurry) || !harp_remote_tells(lane);
    lane->doubt = lane->hurry = false;
    struct harp_wire_call call = {.op = (uint16_t)op};
    memcpy(call.args, args, count * sizeof *args);
    struct harp_wire_side side = hooks;
    side.ctx = &m;
    struct harp_wire_buffer body = {lane->scratch, HARP_REMOTE_SCRATCH, 0};
    int err = harp_wire_put_request(&call, &side, &body);
    if (err != 0)
        r = err == -ENOENT ? m.result : harp_remote_failed(op, err);
    else
        r = go(&m, &call, (uint32_t)body.used);
    bool now = row->cls != HARP_WIRE_ASYNC;
    for (unsigned i = 0; i < m.moves; i++)
        if (!m.sent)
            harp_remote_cancel(m.move[i]);
        else if (m.fetches && m.wanted &&
                 harp_remote_collect(m.move[i], r == CUDA_SUCCESS, now) != 0)
            err = -EPROTO;
    if (r == CUDA_SUCCESS && err != 0)
        r = harp_remote_failed(op, err);
    if (sticky(r))
        __atomic_store_n(&poisoned, true, __ATOMIC_RELAXED);
    if (r == CUDA_SUCCESS || (m.row->flags & HARP_WIRE_ALWAYS))
        answer_made(&m, &call);
    if (r == CUDA_SUCCESS)
        end_deleted(&m);
    else if (m.made != NULL && !(m.row->flags & HARP_WIRE_ALWAYS))
        harp_thing_end(m.made);
    return r;
}

CUresult harp_remote_make(unsigned op, const uint64_t *args, unsigned count)
{
    /* HARP's own come first: cuInit is made of them */
    CUresult r =
        strncmp(harp_wire_op(op)->name, "harp", 4) == 0 ? harp_remote_open() : harp_remote_ready();
    struct harp_lane *lane = r == CUDA_SUCCESS ? harp_lane() : NULL;
    if (lane == NULL)
        return r != CUDA_SUCCESS ? r : CUDA_ERROR_OUT_OF_MEMORY;
    if (lane->inside)
        return CUDA_ERROR_NOT_PERMITTED;
    harp_remote_lease_look(lane);
    r = make(lane, op, args, count);
    if (r != CUDA_ERROR_OUT_OF_MEMORY || !harp_remote_lease_back())
        return r;
    lane->doubt = true; /* what is leased has gone back, and may be what was missing */
    return make(lane, op, args, count);
}

void harp_remote_doubt(void)
{
    struct harp_lane *lane = harp_lane();
    if (lane != NULL)
        lane->doubt = true;
}

void harp_remote_hurry(void)
{
    struct harp_lane *lane = harp_lane();
    if (lane != NULL)
        lane->hurry = true;
}

/* While a stream captures, what fails does at once: all calls are asked. */
bool harp_remote_capturing(int more)
{
    int now = __atomic_add_fetch(&captures, more, __ATOMIC_RELAXED);
    if (more > 0)
        __atomic_store_n(&captured, true, __ATOMIC_RELAXED);
    if (now < 0)
        __atomic_store_n(&captures, 0, __ATOMIC_RELAXED);
    return now > 0;
}

bool harp_remote_captured(void)
{
    return __atomic_load_n(&captured, __ATOMIC_RELAXED);
}

bool harp_remote_per_thread(bool on)
{
    struct harp_lane *lane = harp_lane();
    bool was = lane != NULL && lane->per_thread;
    if (lane != NULL)
        lane->per_thread = on;
    return was;
}

void harp_remote_forget_calls(void)
{
    __atomic_store_n(&captured, false, __ATOMIC_RELAXED);
    __atomic_store_n(&poisoned, false, __ATOMIC_RELAXED);
    __atomic_store_n(&captures, 0, __ATOMIC_RELAXED);
}

/* --- what the worker says of itself ----------------------------------------------------------- */

int harp_remote_said(const struct harp_ring_record *record, const uint8_t *body)
{
    static uint8_t memory[1 << 20]; /* under `answers` */
    const struct harp_wire_op *row = harp_wire_op(record->op);
    struct harp_wire_call call = {.op = (uint16_t)record->op};
    struct harp_wire_buffer in = {(uint8_t *)(uintptr_t)body, record->bytes, 0};
    struct harp_wire_buffer arena = {memory, sizeof memory, 0};
    if (row == NULL || !(row->flags & HARP_WIRE_REVERSE)) /* others' rows need a call of ours */
        return -EPROTO;
    if (harp_wire_get_request(&call, &hooks, &in, &arena) != 0)
        return -EPROTO;
    switch (record->op) {
    case HARP_OP_harpLatched:
        if (harp_wire_op((unsigned)call.args[2]) != NULL)
            harp_log(
                "remote_late_error name=%s result=%d seq=%llu why=\"a call that was not waited "
                "for failed; the next that waits answers this\" remedy=\"HARP_STRICT=1 has each "
                "call answer for itself\"",
                harp_wire_op((unsigned)call.args[2])->name, (int)call.args[3],
                (unsigned long long)call.args[0]);
        return 0;
    case HARP_OP_harpRevoked:
        harp_log(
            "remote_revoked deadline_ms=%u why=\"%s\" remedy=\"save your work: the session ends "
            "then\"",
            (unsigned)call.args[0], call.args[1] != 0 ? (const char *)(uintptr_t)call.args[1] : "");
        return 0;
    case HARP_OP_harpJitLog:
        return harp_remote_jit_came(record->lane, (unsigned)call.args[0],
                                    (const char *)(uintptr_t)call.args[1]);
    case HARP_OP_harpMemRecall:
        harp_remote_lease_recalled();
        return 0;
    case HARP_OP_harpHostCall:
        return harp_remote_host_call(call.args[0], call.args[1], (CUresult)call.args[2],
                                     record->flags & HARP_FRAME_WANTED ? record->seq : 0);
    default:
        return 0; /* harpProgress: nothing is counted by it */
    }
}
