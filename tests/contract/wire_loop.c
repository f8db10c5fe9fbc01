/* SPDX-License-Identifier: Apache-2.0
 *
 * A libcuda.so.1 whose every call goes through the body codec and back before the software GPU
 * makes it: so the suite sees whether rows say the truth about directions, lengths and handles.
 *
 * Both sides are in this process. Handles are ids in between (a kind and a pattern over the value),
 * host bytes beyond a body's go by their address. What must be prepared for the wire is prepared as
 * a client and a worker would; calls that the codec refuses are made directly, and counted in
 * $HARP_WIRE_LOOP_LOG: `wire NAME` or `direct NAME`, a line a call.
 */
#include "wire_loop.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "generated/cuda_abi.h"
#include "src/wire/codec.h"
#include "src/wire/invoke.h"
#include "src/wire/table.h"

#define PATTERN 0x005a5a0000000000ull

static int log_fd = -1;

__attribute__((constructor)) static void open_real(void)
{
    void *real = dlopen(getenv("HARP_WIRE_LOOP_REAL"), RTLD_NOW | RTLD_LOCAL);
    if (real == NULL)
        abort();
    for (unsigned i = 0; i < loop_symbol_count; i++)
        *loop_symbols[i].real = (void (*)(void))dlsym(real, loop_symbols[i].name);
    const char *log = getenv("HARP_WIRE_LOOP_LOG");
    if (log != NULL)
        log_fd = open(log, O_WRONLY | O_APPEND | O_CLOEXEC);
}

void loop_note(const char *how, const char *name)
{
    char line[128];
    int size = snprintf(line, sizeof line, "%s %s\n", how, name);
    if (log_fd >= 0 && write(log_fd, line, (size_t)size) != size)
        abort();
}

static int id_of(void *ctx, enum harp_handle kind, uint64_t value, uint64_t *id)
{
    *id = value ^ PATTERN ^ (uint64_t)kind << 56;
    return 0;
}

static int mint(void *ctx, enum harp_handle kind, uint64_t *id)
{
    *id = 4711u + kind;
    return 0;
}

static int transfer(void *ctx, enum harp_wire_way way, uint64_t bytes, void **data, uint64_t *id)
{
    if (*data == NULL)
        *data = (void *)(uintptr_t)*id;
    else
        *id = (uintptr_t)*data;
    return 0;
}

static const struct harp_wire_side client = {
    .id_of = id_of, .value_of = id_of, .mint = mint, .transfer = transfer};
static const struct harp_wire_side worker = {
    .id_of = id_of, .value_of = id_of, .transfer = transfer};

/* Memory of one call, zeroed neither here nor by the codec where it matters. */
struct memory {
    uint8_t request[HARP_WIRE_BODY_BYTES], reply[HARP_WIRE_BODY_BYTES];
    uint8_t made[HARP_WIRE_ARENA_BYTES], kept[HARP_WIRE_ARENA_BYTES];
};

/* What a worker has buffers of its own for: here they are the client's. */
static void lend_buffers(const struct harp_wire_op *op, const uint64_t *ours,
                         const uint64_t *theirs)
{
    const struct harp_wire_program *p = &harp_wire_programs[op->program];
    for (unsigned i = 0; i < p->count; i++) {
        const struct harp_wire_field *f = &harp_wire_fields[p->first + i];
        void **from = (void **)(uintptr_t)ours[f->at / 8],
             **to = (void **)(uintptr_t)theirs[f->at / 8];
        const uint32_t *options = (const uint32_t *)(uintptr_t)ours[f->tag.at / 8];
        uint64_t count = 0;
        if (f->item != HARP_WIRE_WORDS || from == NULL)
            continue;
        memcpy(&count, (const uint8_t *)ours + f->by[0].at, f->by[0].bytes);
        for (uint64_t k = 0; k < count; k++)
            if (options[k] == CU_JIT_INFO_LOG_BUFFER || options[k] == CU_JIT_ERROR_LOG_BUFFER)
                to[k] = from[k];
    }
}

static int must(int err, const char *name)
{
    if (err != 0) {
        fprintf(stderr, "wire loop: %s: %d\n", name, err);
        abort();
    }
    return err;
}

uint32_t loop_call(unsigned op, void (*fn)(void), const uint64_t *args, unsigned count,
                   loop_prepare *unpack)
{
    struct memory *m = malloc(sizeof *m);
    const char *name = harp_wire_op(op)->name;
    struct harp_wire_call ours = {.op = (uint16_t)op}, theirs = ours;
    if (m == NULL)
        abort();
    memcpy(ours.args, args, count * sizeof *args);
    struct harp_wire_buffer body = {m->request, sizeof m->request, 0};
    int err = harp_wire_put_request(&ours, &client, &body);
    if (err != 0) {
        free(m);
        if (err != -ENOTSUP && err != -E2BIG)
            must(err, name);
        loop_note("direct", name);
        return LOOP_DIRECT;
    }
    struct harp_wire_buffer read = {m->request, body.used, 0}, made = {m->made, sizeof m->made, 0};
    must(harp_wire_get_request(&theirs, &worker, &read, &made), name);
    uint64_t given[HARP_WIRE_SLOTS];
    memcpy(given, theirs.args, sizeof given);
    lend_buffers(harp_wire_op(op), ours.args, given);
    if (unpack != NULL)
        unpack(given);
    theirs.result = harp_wire_invoke(op, fn, given);
    body = (struct harp_wire_buffer){m->reply, sizeof m->reply, 0};
    err = harp_wire_put_reply(&theirs, &worker, &body);
    if (err == -ENOTSUP) { /* a query whose answer may not be told */
        loop_note("direct", name);
        return LOOP_DIRECT;
    }
    must(err, name);
    read = (struct harp_wire_buffer){m->reply, body.used, 0};
    made = (struct harp_wire_buffer){m->kept, sizeof m->kept, 0};
    must(harp_wire_get_reply(&ours, &client, &read, &made), name);
    if (theirs.made_kind != 0 && ours.args[theirs.made_slot] != 0 && ours.result == 0)
        memcpy((void *)(uintptr_t)ours.args[theirs.made_slot],
               (void *)(uintptr_t)theirs.args[theirs.made_slot], sizeof(uint64_t));
    loop_note("wire", name);
    /* What was lent, and bytes of copies that are still to come, live on. */
    if (made.used == 0 && harp_wire_op(op)->cls != HARP_WIRE_ASYNC)
        free(m);
    return ours.result;
}

/* --- prepared slots -----------------------------------------------------------------------------
 */

uint64_t loop_image(struct harp_wire_image *image, const void *data)
{
    *image = (struct harp_wire_image){.bytes = 1};
    memcpy(image->sha256, &data, sizeof data); /* as good as a hash, in one process */
    return data == NULL ? 0 : (uintptr_t)image;
}

void loop_unimage(uint64_t *slot)
{
    if (*slot != 0)
        memcpy(slot, (void *)(uintptr_t)*slot, sizeof *slot);
}
