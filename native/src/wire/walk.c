/* SPDX-License-Identifier: Apache-2.0 */
#include "src/wire/walk.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "scalars are copied as they lie");

static const struct harp_wire_side plain_side;

int harp_walk_put_bytes(struct walk *w, const void *data, uint64_t bytes)
{
    uint64_t padded = (bytes + 3) & ~3ull;
    if (bytes > HARP_WIRE_BODY_BYTES || padded > w->body->size - w->body->used)
        return -E2BIG;
    uint8_t *to = w->body->data + w->body->used;
    if (bytes != 0)
        memcpy(to, data, bytes);
    if (padded != bytes)
        memset(to + bytes, 0, padded - bytes);
    w->body->used += padded;
    return 0;
}

int harp_walk_take_bytes(struct walk *w, uint64_t bytes, uint8_t **data)
{
    uint64_t left = w->body->size - w->body->used, padded = (bytes + 3) & ~3ull;
    if (bytes > left || padded > left)
        return -EINVAL;
    uint8_t *from = w->body->data + w->body->used;
    for (uint64_t i = bytes; i < padded; i++)
        if (from[i] != 0)
            return -EINVAL;
    w->body->used += padded;
    *data = from;
    return 0;
}

int harp_walk_get_bytes(struct walk *w, void *data, uint64_t bytes)
{
    uint8_t *from;
    int err = harp_walk_take_bytes(w, bytes, &from);
    if (err == 0 && bytes != 0)
        memcpy(data, from, bytes);
    return err;
}

static uint64_t load(const void *base, struct harp_wire_ref ref)
{
    uint64_t value = 0;
    memcpy(&value, (const uint8_t *)base + ref.at, ref.bytes);
    return value;
}

void *harp_walk_load_pointer(const void *base, unsigned at)
{
    void *value;
    memcpy(&value, (const uint8_t *)base + at, sizeof value);
    return value;
}

const struct harp_wire_op *harp_wire_op(unsigned op)
{
    return op < HARP_OPS && harp_wire_ops[op].name != NULL ? &harp_wire_ops[op] : NULL;
}

/* What a number means by a policy; 0: nothing is known of it. */
static unsigned meaning(unsigned policy, uint64_t number)
{
    for (unsigned i = 0; i < harp_wire_meaning_count; i++) {
        const struct harp_wire_meaning *row = &harp_wire_meanings[i];
        if (row->policy == policy && row->number == number)
            return row->means;
    }
    return 0;
}

const struct harp_wire_program *harp_walk_chosen(const struct harp_wire_field *f, const void *base)
{
    const struct harp_wire_cases *list = &harp_wire_case_lists[f->type];
    uint64_t tag = load(base, f->tag);
    for (unsigned i = 0; i < list->count; i++) {
        const struct harp_wire_case *row = &harp_wire_case_rows[list->first + i];
        if (row->tag == tag)
            return &harp_wire_programs[row->program];
    }
    return NULL;
}

uint64_t harp_walk_size_of(const struct harp_wire_field *f)
{
    switch (f->item) {
    case HARP_WIRE_SCALAR:
        return f->length == HARP_WIRE_BY_TAG ? 1 : f->type;
    case HARP_WIRE_STRUCT:
        return harp_wire_programs[f->type].size;
    case HARP_WIRE_CASE:
        return harp_wire_programs[harp_wire_case_rows[harp_wire_case_lists[f->type].first].program]
            .size;
    case HARP_WIRE_SENT:
    case HARP_WIRE_FETCHED:
    case HARP_WIRE_ROOM:
        return 1;
    default:
        return 8;
    }
}

int harp_walk_count_of(const struct harp_wire_field *f, const void *base, uint64_t *count)
{
    const void *from;
    *count = f->fixed;
    switch (f->length) {
    case HARP_WIRE_BY:
        *count = 1;
        for (unsigned i = 0; i < 3 && f->by[i].bytes != 0; i++)
            if (__builtin_mul_overflow(*count, load(base, f->by[i]), count))
                return -E2BIG;
        *count = *count > f->less ? *count - f->less : 0;
        return 0;
    case HARP_WIRE_BY_POINTED:
        from = harp_walk_load_pointer(base, f->by[0].at);
        *count = from == NULL ? 0 : load(from, (struct harp_wire_ref){0, f->by[0].bytes});
        return 0;
    case HARP_WIRE_BY_TAG:
        *count = meaning(f->type, load(base, f->tag));
        return *count == 0 ? -ENOTSUP : 0;
    default:
        return 0;
    }
}

int harp_walk_bounded(const struct harp_wire_field *f, uint64_t count)
{
    return count > HARP_WIRE_BODY_BYTES / harp_walk_size_of(f) ? -E2BIG : 0;
}

bool harp_walk_inlined(const struct walk *w, uint64_t bytes)
{
    return harp_walk_small(w, bytes) && w->op->cls != HARP_WIRE_ASYNC;
}

bool harp_walk_small(const struct walk *w, uint64_t bytes)
{
    return bytes <= HARP_WIRE_INLINE_BYTES && !w->side->apart;
}

bool harp_walk_stands_for_itself(unsigned kind, uint64_t value)
{
    return value == 0 || (kind == HARP_HANDLE_CUstream && value <= 2);
}

int harp_walk_transfer(struct walk *w, enum harp_wire_way way, uint64_t bytes, void **data,
                       uint64_t *id)
{
    if (w->side->transfer == NULL)
        return -E2BIG;
    return w->side->transfer(w->side->ctx, way, bytes, data, id);
}

int harp_walk_words(struct walk *w, const struct harp_wire_field *f, const void *base,
                    uint64_t *values, uint64_t count)
{
    const uint8_t *options = harp_walk_load_pointer(base, f->tag.at);
    if (count != 0 && options == NULL)
        return -EINVAL;
    for (uint64_t i = 0; i < count; i++) {
        uint32_t option;
        memcpy(&option, options + i * sizeof option, sizeof option);
        unsigned means = meaning(f->type, option);
        if (means == 0)
            return -ENOTSUP;
        if (means == 'b' || (means == 'v' && w->phase == REPLY))
            continue; /* the worker has a buffer of its own; only answers come back */
        int err = w->arena == NULL ? harp_walk_put_bytes(w, &values[i], sizeof *values)
                                   : harp_walk_get_bytes(w, &values[i], sizeof *values);
        if (err != 0)
            return err;
    }
    return 0;
}

int harp_walk_note_made(struct walk *w, const struct harp_wire_field *f, uint64_t id)
{
    w->call->made_kind = (enum harp_handle)f->type;
    w->call->made_id = id;
    w->call->made_slot = f->at / 8u;
    return 0;
}

int harp_walk_answered(const struct harp_wire_field *f, const void *base, uint64_t room,
                       uint64_t *count)
{
    *count = room;
    if (f->length != HARP_WIRE_BY_POINTED)
        return 0;
    int err = harp_walk_count_of(f, base, count);
    *count = *count > room ? room : *count;
    return err;
}

int harp_walk_begin(struct walk *w, struct harp_wire_call *call, const struct harp_wire_side *side,
                    struct harp_wire_buffer *body, struct harp_wire_buffer *arena, enum phase phase)
{
    *w = (struct walk){.call = call,
                       .op = harp_wire_op(call->op),
                       .side = side != NULL ? side : &plain_side,
                       .body = body,
                       .arena = arena,
                       .phase = phase,
                       .way = phase == REQUEST ? HARP_WIRE_IN : HARP_WIRE_OUT};
    return w->op == NULL ? -EINVAL : 0;
}
