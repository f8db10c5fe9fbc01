/* SPDX-License-Identifier: Apache-2.0
 *
 * From slots to a body: the client's requests, the worker's replies.
 */
#include "src/wire/walk.h"

#include <errno.h>
#include <string.h>

static int put_program(struct walk *w, const struct harp_wire_program *p, const void *base,
                       uint8_t dir, bool slots);

static int put_word(struct walk *w, uint64_t word)
{
    uint32_t value = (uint32_t)word;
    return word > UINT32_MAX ? -E2BIG : harp_walk_put_bytes(w, &value, sizeof value);
}

static int put_handle(struct walk *w, unsigned kind, uint64_t value)
{
    uint64_t id = value;
    int err = 0;
    if (!harp_walk_stands_for_itself(kind, value) && w->side->id_of != NULL)
        err = w->side->id_of(w->side->ctx, (enum harp_handle)kind, value, &id);
    return err != 0 ? err : harp_walk_put_bytes(w, &id, sizeof id);
}

static int put_items(struct walk *w, const struct harp_wire_field *f, const void *items,
                     uint64_t count, const void *base, uint8_t dir)
{
    const struct harp_wire_program *p;
    if (f->item == HARP_WIRE_SCALAR)
        return dir & w->way ? harp_walk_put_bytes(w, items, count * harp_walk_size_of(f)) : 0;
    for (uint64_t i = 0; i < count; i++) {
        const uint8_t *item = (const uint8_t *)items + i * harp_walk_size_of(f);
        uint64_t value;
        int err = 0;
        switch (f->item) {
        case HARP_WIRE_STRUCT:
            err = put_program(w, &harp_wire_programs[f->type], item, dir, false);
            break;
        case HARP_WIRE_CASE:
            p = harp_walk_chosen(f, base);
            err = p == NULL ? -ENOTSUP : put_program(w, p, item, dir, false);
            break;
        default:
            memcpy(&value, item, sizeof value);
            if (dir & w->way)
                err = f->item == HARP_WIRE_HANDLE ? put_handle(w, f->type, value)
                                                  : harp_walk_put_bytes(w, &value, sizeof value);
        }
        if (err != 0)
            return err;
    }
    return 0;
}

static int put_transfer(struct walk *w, enum harp_wire_way way, uint64_t bytes, void *data)
{
    uint64_t id = 0;
    int err = harp_walk_transfer(w, way, bytes, &data, &id);
    if (err == 0)
        err = put_word(w, 2);
    return err != 0 ? err : harp_walk_put_bytes(w, &id, sizeof id);
}

/* Sent bytes, and the place for fetched ones, are named by the request. */
static int put_host(struct walk *w, const struct harp_wire_field *f, const void *base)
{
    void *data = harp_walk_load_pointer(base, f->at);
    uint64_t bytes;
    int err = harp_walk_count_of(f, base, &bytes);
    bool send = f->item == HARP_WIRE_SENT;
    if (w->phase == REPLY) {
        if (err != 0 || send || data == NULL || !harp_walk_inlined(w, bytes))
            return err;
        return harp_walk_put_bytes(w, data, bytes);
    }
    if (w->op->flags & HARP_WIRE_RESIDENT)
        return -ENOTSUP;
    if (err != 0 || data == NULL)
        return err != 0 ? err : put_word(w, 0);
    if (send ? !harp_walk_small(w, bytes) : !harp_walk_inlined(w, bytes))
        return put_transfer(w, send ? HARP_WIRE_SEND : HARP_WIRE_FETCH, bytes, data);
    err = put_word(w, 1);
    return err != 0 || !send ? err : harp_walk_put_bytes(w, data, bytes);
}

static int put_lent(struct walk *w, const struct harp_wire_field *f, const void *base)
{
    const void *place = (const uint8_t *)base + f->at;
    if (f->hold == HARP_WIRE_LENT_AT) {
        place = harp_walk_load_pointer(base, f->at);
        if (w->phase == REQUEST)
            return put_word(w, place != NULL);
    }
    if (w->phase == REQUEST || place == NULL)
        return 0;
    void *data = harp_walk_load_pointer(place, 0);
    uint64_t count;
    int err = harp_walk_count_of(f, base, &count);
    if (err != 0 || data == NULL)
        return err != 0 ? err : put_word(w, 0);
    if (f->item == HARP_WIRE_FETCHED) {
        if (!harp_walk_small(w, count))
            return put_transfer(w, HARP_WIRE_LEND, count, data);
        err = put_word(w, 1);
        return err != 0 ? err : harp_walk_put_bytes(w, data, count);
    }
    if (f->length == HARP_WIRE_TEXT)
        count = strlen(data);
    err = harp_walk_bounded(f, count);
    if (err == 0)
        err = put_word(w, 1 + count);
    return err != 0 ? err : put_items(w, f, data, count, base, HARP_WIRE_OUT);
}

static int put_made(struct walk *w, const struct harp_wire_field *f)
{
    uint64_t id = 0;
    int err = 0;
    if (w->side->mint != NULL)
        err = w->side->mint(w->side->ctx, (enum harp_handle)f->type, &id);
    else
        id = w->call->made_id;
    if (err == 0)
        err = harp_walk_put_bytes(w, &id, sizeof id);
    return err != 0 ? err : harp_walk_note_made(w, f, id);
}

static int put_pointer(struct walk *w, const struct harp_wire_field *f, const void *base,
                       uint8_t dir, uint8_t outer, bool slots)
{
    void *data = harp_walk_load_pointer(base, f->at);
    uint64_t count;
    int err;
    if (!slots && !(dir & w->way))
        return 0;
    if (!slots && w->phase == REPLY && (outer & HARP_WIRE_IN))
        return 0; /* of an input: the caller has it */
    if (slots && w->phase == REPLY) {
        uint64_t room = w->call->room[f->at / 8u];
        if (data == NULL || f->own == HARP_WIRE_NEW)
            return 0;
        if (!(dir & HARP_WIRE_OUT)) /* host bytes may be fetched by what an input describes */
            return f->item == HARP_WIRE_STRUCT ? put_items(w, f, data, room, base, dir) : 0;
        if (f->item == HARP_WIRE_WORDS)
            return harp_walk_words(w, f, base, data, room);
        if (f->item == HARP_WIRE_ROOM) {
            if (room == 0)
                return 0;
            count = strnlen(data, room - 1);
            err = put_word(w, 1 + count);
            return err != 0 ? err : harp_walk_put_bytes(w, data, count);
        }
        err = harp_walk_answered(f, base, room, &count);
        if (err == 0)
            err = put_word(w, 1 + count);
        return err != 0 ? err : put_items(w, f, data, count, base, dir);
    }
    if (data == NULL)
        return put_word(w, 0);
    err = harp_walk_count_of(f, base, &count);
    if (f->length == HARP_WIRE_TEXT)
        count = strlen(data);
    if (err == 0)
        err = harp_walk_bounded(f, count);
    if (err == 0)
        err = put_word(w, 1 + count);
    if (err != 0)
        return err;
    if (slots)
        w->call->room[f->at / 8u] = count;
    if (f->own == HARP_WIRE_NEW)
        return put_made(w, f);
    if (f->item == HARP_WIRE_WORDS)
        return harp_walk_words(w, f, base, data, count);
    return dir & w->way ? put_items(w, f, data, count, base, dir) : 0;
}

static int put_program(struct walk *w, const struct harp_wire_program *p, const void *base,
                       uint8_t outer, bool slots)
{
    int err = 0;
    if (p->check != NULL && w->phase == REQUEST && (outer & HARP_WIRE_IN))
        err = p->check(base);
    for (unsigned i = 0; i < p->count && err == 0; i++) {
        const struct harp_wire_field *f = &harp_wire_fields[p->first + i];
        uint8_t dir = f->dir & outer;
        if (f->hold == HARP_WIRE_LENT || f->hold == HARP_WIRE_LENT_AT)
            err = dir & HARP_WIRE_OUT ? put_lent(w, f, base) : 0;
        else if (f->item == HARP_WIRE_NULL)
            err = w->phase == REQUEST && (dir & HARP_WIRE_IN) &&
                          harp_walk_load_pointer(base, f->at) != NULL
                      ? -ENOTSUP
                      : 0;
        else if (f->item == HARP_WIRE_SENT || f->item == HARP_WIRE_FETCHED)
            err = outer & HARP_WIRE_IN ? put_host(w, f, base) : -ENOTSUP;
        else if (f->hold == HARP_WIRE_POINTER)
            err = put_pointer(w, f, base, dir, outer, slots);
        else
            err = put_items(w, f, (const uint8_t *)base + f->at, f->fixed, base, dir);
    }
    return err;
}

int harp_wire_put_request(struct harp_wire_call *call, const struct harp_wire_side *side,
                          struct harp_wire_buffer *body)
{
    struct walk w;
    int err = harp_walk_begin(&w, call, side, body, NULL, REQUEST);
    if (err != 0)
        return err;
    call->made_kind = (enum harp_handle)0;
    return put_program(&w, &harp_wire_programs[w.op->program], call->args, HARP_WALK_BOTH, true);
}

int harp_wire_put_reply(struct harp_wire_call *call, const struct harp_wire_side *side,
                        struct harp_wire_buffer *body)
{
    struct walk w;
    int err = harp_walk_begin(&w, call, side, body, NULL, REPLY);
    if (err == 0)
        err = put_word(&w, call->result);
    if (err != 0 || (call->result != 0 && !(w.op->flags & HARP_WIRE_ALWAYS)))
        return err;
    return put_program(&w, &harp_wire_programs[w.op->program], call->args, HARP_WALK_BOTH, true);
}
