/* SPDX-License-Identifier: Apache-2.0
 *
 * One call: its request is encoded before, its reply after, and the record written then.
 */
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "generated/shim_symbols.h"
#include "src/shim/backend/table.h"
#include "src/shim/entry/entry.h"
#include "src/shim/trace/state.h"
#include "src/wire/table.h"

#define GENERATION_SHIFT 48 /* of a call's number */

struct harp_trace_state harp_trace = {.file = {.lock = PTHREAD_MUTEX_INITIALIZER}};
int harp_trace_times;

static pthread_key_t key;
static bool have_key;
static pthread_once_t key_once = PTHREAD_ONCE_INIT;

uint64_t harp_trace_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void thread_gone(void *value)
{
    munmap(value, sizeof(struct harp_trace_thread));
}

static void make_key(void)
{
    have_key = pthread_key_create(&key, thread_gone) == 0;
}

static struct harp_trace_thread *thread_now(void)
{
    pthread_once(&key_once, make_key);
    return have_key ? pthread_getspecific(key) : NULL;
}

/* Of this thread, made if need be; NULL: no memory. Mapped, for a malloc of the program's may be
 * what calls us. */
static struct harp_trace_thread *own_thread(void)
{
    struct harp_trace_thread *t = thread_now();
    if (t != NULL || !have_key)
        return t;
    t = mmap(NULL, sizeof *t, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
             -1, 0);
    if (t == MAP_FAILED)
        return NULL;
    if (pthread_setspecific(key, t) != 0) {
        munmap(t, sizeof *t);
        return NULL;
    }
    t->id = (uint32_t)syscall(SYS_gettid);
    return t;
}

void harp_trace_thread_forked(void)
{
    struct harp_trace_thread *t = thread_now();
    if (t == NULL)
        return;
    t->busy = false;
    t->id = (uint32_t)syscall(SYS_gettid);
}

void harp_trace_write(uint16_t kind, uint16_t flags, struct harp_trace_part *parts, unsigned count)
{
    enum harp_trace_why why;
    if (!harp_trace_file_append(&harp_trace.file, kind, flags, parts, count, &why) &&
        why == HARP_TRACE_DISK_FULL)
        harp_trace_over(why);
}

void harp_trace_note(const char *format, ...)
{
    char text[256];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    struct harp_trace_note note = {.at_ns = harp_trace_now_ns(),
                                   .bytes = n < 0 ? 0 : (uint32_t)strlen(text)};
    struct harp_trace_part parts[] = {{&note, sizeof note}, {text, note.bytes}};
    harp_trace_write(HARP_TRACE_NOTE, 0, parts, 2);
}

/* --- the codec's questions -------------------------------------------------------------------- */

/* The handle is known when the call has ended: its place in the request is noted. */
static int mint(void *ctx, enum harp_handle kind, uint64_t *id)
{
    struct harp_trace_thread *t = ctx;
    (void)kind;
    *id = 0;
    t->made_at = t->request.used;
    return 0;
}

static int transfer(void *ctx, enum harp_wire_way way, uint64_t bytes, void **data, uint64_t *id)
{
    struct harp_trace_thread *t = ctx;
    *id = t->transfers;
    if (t->transfers < HARP_TRACE_TRANSFERS)
        t->moved[t->transfers] = (struct harp_trace_moved){way, bytes, *data};
    t->transfers++;
    return 0;
}

static void raw(struct harp_trace_thread *t, const uint64_t *slots)
{
    unsigned bytes = harp_trace_rows[t->symbol].parameters * 8u;
    t->flags |= HARP_TRACE_RAW;
    t->made_at = 0;
    t->transfers = 0;
    memcpy(t->request.data, slots, bytes);
    t->request.used = bytes;
}

static void encode(struct harp_trace_thread *t, const uint64_t *slots)
{
    const struct harp_trace_row *row = &harp_trace_rows[t->symbol];
    const struct harp_wire_side side = {
        .ctx = t, .mint = mint, .transfer = transfer, .apart = true};
    t->request = (struct harp_wire_buffer){t->room, HARP_TRACE_REQUEST_MOST, 0};
    t->made_at = 0;
    t->transfers = 0;
    t->call.op = row->op;
    t->call.made_kind = (enum harp_handle)0;
    for (unsigned i = 0; i < row->parameters; i++)
        t->call.args[i] = slots[i];
    const struct harp_wire_op *op = row->op != 0 ? harp_wire_op(row->op) : NULL;
    if (op == NULL || ((op->flags & HARP_WIRE_PREPARED) != 0 && !harp_trace_prepare(t)) ||
        harp_wire_put_request(&t->call, &side, &t->request) != 0)
        raw(t, slots);
}

static void encode_reply(struct harp_trace_thread *t, CUresult result)
{
    const struct harp_wire_side side = {.ctx = t, .transfer = transfer, .apart = true};
    t->reply =
        (struct harp_wire_buffer){t->room + HARP_TRACE_REQUEST_MOST, HARP_TRACE_REPLY_MOST, 0};
    if ((t->flags & HARP_TRACE_RAW) != 0)
        return;
    t->call.result = (uint32_t)result;
    if (harp_wire_put_reply(&t->call, &side, &t->reply) != 0) {
        t->reply.used = 0;
        t->flags |= HARP_TRACE_NO_REPLY;
    }
}

/* --- begin and end ---------------------------------------------------------------------------- */

struct harp_trace_thread *harp_trace_begin(unsigned symbol, const uint64_t *slots, uint64_t stream,
                                           uint64_t bytes)
{
    int saved = errno;
    struct harp_trace_thread *t = NULL;
    if (harp_trace_is_child() && !harp_trace_forked())
        goto out;
    uint64_t generation = __atomic_load_n(&harp_trace.generation, __ATOMIC_ACQUIRE);
    if (generation == 0)
        goto out;
    t = own_thread();
    if (t == NULL || t->busy) {
        harp_trace_file_inner(&harp_trace.file);
        t = NULL;
        goto out;
    }
    t->busy = true;
    t->generation = generation;
    t->symbol = symbol;
    t->stream = stream;
    t->bytes = bytes;
    t->entered_ns = 0;
    t->flags = harp_trace_rows[symbol].per_thread ? HARP_TRACE_PER_THREAD : 0;
    encode(t, slots);
    t->sequence = __atomic_fetch_add(&harp_trace.sequence, 1, __ATOMIC_RELAXED);
    if (t->transfers != 0)
        harp_trace_keep(t, false);
    t->begin_ns = harp_trace_now_ns();
out:
    errno = saved;
    return t;
}

/* Calls that no wire carries, whose first parameter is where an address or a handle is answered. */
static bool answers_first(unsigned symbol)
{
    switch (symbol) {
    case HARP_SYM_cuCtxGetCurrent:
    case HARP_SYM_cuCtxPopCurrent:
    case HARP_SYM_cuCtxPopCurrent_v2:
    case HARP_SYM_cuMemAllocHost_v2:
    case HARP_SYM_cuMemAllocManaged:
    case HARP_SYM_cuMemAllocPitch_v2:
    case HARP_SYM_cuMemHostAlloc:
    case HARP_SYM_cuMemHostGetDevicePointer_v2:
        return true;
    default:
        return false;
    }
}

/* The handle that the call has made, into the request; of bare slots, what is answered. */
static uint64_t made(struct harp_trace_thread *t)
{
    uint64_t handle = 0;
    if ((t->flags & HARP_TRACE_RAW) != 0) {
        const void *to = (const void *)(uintptr_t)t->call.args[0];
        if (to != NULL && answers_first(t->symbol))
            memcpy(&handle, to, sizeof handle);
        return handle;
    }
    uint64_t at = t->call.args[t->call.made_slot];
    if (t->made_at == 0 || t->call.made_kind == 0 || at == 0)
        return 0;
    memcpy(&handle, (const void *)(uintptr_t)at, sizeof handle);
    memcpy(t->request.data + t->made_at, &handle, sizeof handle);
    return handle;
}

static void written(struct harp_trace_thread *t, CUresult result, uint64_t end_ns, uint64_t handle)
{
    struct harp_trace_call call = {.sequence = t->sequence,
                                   .begin_ns = t->begin_ns,
                                   .end_ns = end_ns,
                                   .entered_ns = t->entered_ns,
                                   .thread = t->id,
                                   .result = (uint32_t)result,
                                   .symbol = (uint16_t)t->symbol,
                                   .request_bytes = (uint32_t)t->request.used,
                                   .reply_bytes = (uint32_t)t->reply.used,
                                   .transfers = t->transfers,
                                   .stream = t->stream,
                                   .bytes = t->bytes,
                                   .made = handle};
    struct harp_trace_part parts[] = {
        {&call, sizeof call}, {t->request.data, t->request.used}, {t->reply.data, t->reply.used}};
    harp_trace_write(HARP_TRACE_CALL, t->flags, parts, 3);
}

/* What ends functions: the next handle of the same number may be another. */
static bool ends_functions(unsigned op)
{
    switch (op) {
    case HARP_OP_cuModuleUnload:
    case HARP_OP_cuLibraryUnload:
    case HARP_OP_cuCtxDestroy_v2:
    case HARP_OP_cuDevicePrimaryCtxRelease_v2:
    case HARP_OP_cuDevicePrimaryCtxReset_v2:
        return true;
    default:
        return false;
    }
}

CUresult harp_trace_end(struct harp_trace_thread *t, CUresult result)
{
    int saved = errno;
    uint64_t end_ns = harp_trace_now_ns();
    if (t->generation == __atomic_load_n(&harp_trace.generation, __ATOMIC_ACQUIRE)) {
        uint64_t handle = result == CUDA_SUCCESS ? made(t) : 0;
        encode_reply(t, result);
        if (result == CUDA_SUCCESS && t->transfers != 0)
            harp_trace_keep(t, true);
        written(t, result, end_ns, handle);
    }
    if (ends_functions(harp_trace_rows[t->symbol].op))
        harp_trace_forget_functions();
    t->busy = false;
    errno = saved;
    return result;
}

/* --- what the gate and the meter say ---------------------------------------------------------- */

static struct harp_trace_thread *in_call(void)
{
    if (__atomic_load_n(&harp_trace.generation, __ATOMIC_ACQUIRE) == 0)
        return NULL;
    struct harp_trace_thread *t = thread_now();
    return t != NULL && t->busy ? t : NULL;
}

uint64_t harp_trace_entered(bool measured)
{
    struct harp_trace_thread *t = in_call();
    if (t == NULL)
        return 0;
    t->entered_ns = harp_trace_now_ns();
    if (measured)
        t->flags |= HARP_TRACE_TIMED;
    return t->generation << GENERATION_SHIFT | (t->sequence + 1);
}

void harp_trace_captured(void)
{
    struct harp_trace_thread *t = in_call();
    if (t != NULL)
        t->flags |= HARP_TRACE_CAPTURED;
}

void harp_trace_measured(uint64_t call, uint64_t begin_ns, uint64_t duration_ns)
{
    uint64_t generation = __atomic_load_n(&harp_trace.generation, __ATOMIC_ACQUIRE);
    if (call >> GENERATION_SHIFT != generation)
        return; /* of a trace that has ended */
    struct harp_trace_device device = {.sequence = (call & ((1ull << GENERATION_SHIFT) - 1)) - 1,
                                       .begin_ns = begin_ns,
                                       .duration_ns = duration_ns};
    struct harp_trace_part parts[] = {{&device, sizeof device}};
    harp_trace_write(HARP_TRACE_DEVICE_TIME, 0, parts, 1);
}
