/* SPDX-License-Identifier: Apache-2.0
 *
 * From a body to slots: nothing that it says is believed.
 */
#include "src/wire/walk.h"

#include <errno.h>
#include <stdalign.h>
#include <stddef.h>
#include <string.h>

static int get_program(struct walk *w, const struct harp_wire_program *p, void *base, uint8_t dir,
                       bool slots);

static int get_word(struct walk *w, uint32_t *word)
{
    return harp_walk_get_bytes(w, word, sizeof *word);
}

/* Zeroed, aligned to `align` (a power of two). */
static int take_arena(struct walk *w, uint64_t bytes, uint64_t align, void **data)
{
    struct harp_wire_buffer *arena = w->arena;
    uint64_t at = (uintptr_t)(arena->data + arena->used);
    uint64_t gap = (align - at % align) % align, left = arena->size - arena->used;
    if (bytes == 0)
        bytes = 1; /* a pointer to nothing is not NULL */
    if (gap > left || bytes > left - gap)
        return -E2BIG;
    *data = memset(arena->data + arena->used + gap, 0, bytes);
    arena->used += gap + bytes;
    return 0;
}

static void store_pointer(void *base, unsigned at, const void *value)
{
    memcpy((uint8_t *)base + at, &value, sizeof value);
}

static uint64_t align_of(const struct harp_wire_field *f)
{
    if (f->item == HARP_WIRE_STRUCT)
        return harp_wire_programs[f->type].align;
    return alignof(max_align_t);
}

static int get_handle(struct walk *w, unsigned kind, uint64_t *value)
{
    uint64_t id;
    int err = harp_walk_get_bytes(w, &id, sizeof id);
    if (err != 0)
        return err;
    *value = id;
    if (!harp_walk_stands_for_itself(kind, id) && w->side->value_of != NULL)
        err = w->side->value_of(w->side->ctx, (enum harp_handle)kind, id, value);
    return err;
}

static int get_device(struct walk *w, uint64_t *address)
{
    int err = harp_walk_get_bytes(w, address, sizeof *address);
    if (err == 0 && *address != 0 && w->side->device != NULL)
        err = w->side->device(w->side->ctx, *address);
    return err;
}

static int get_items(struct walk *w, const struct harp_wire_field *f, void *items, uint64_t count,
                     const void *base, uint8_t dir)
{
    const struct harp_wire_program *p;
    if (f->item == HARP_WIRE_SCALAR)
        return dir & w->way ? harp_walk_get_bytes(w, items, count * harp_walk_size_of(f)) : 0;
    for (uint64_t i = 0; i < count; i++) {
        uint8_t *item = (uint8_t *)items + i * harp_walk_size_of(f);
        uint64_t value;
        int err = 0;
        switch (f->item) {
        case HARP_WIRE_STRUCT:
            err = get_program(w, &harp_wire_programs[f->type], item, dir, false);
            break;
        case HARP_WIRE_CASE:
            p = harp_walk_chosen(f, base);
            err = p == NULL ? -ENOTSUP : get_program(w, p, item, dir, false);
            break;
        default:
            if ((dir & w->way) == 0)
                break;
            err = f->item == HARP_WIRE_HANDLE ? get_handle(w, f->type, &value)
                                              : get_device(w, &value);
            if (err == 0)
                memcpy(item, &value, sizeof value);
        }
        if (err != 0)
            return err;
    }
    return 0;
}

static int get_transfer(struct walk *w, enum harp_wire_way way, uint64_t bytes, void **data)
{
    uint64_t id;
    int err = harp_walk_get_bytes(w, &id, sizeof id);
    return err != 0 ? err : harp_walk_transfer(w, way, bytes, data, &id);
}

static int get_host(struct walk *w, const struct harp_wire_field *f, void *base)
{
    void *data = harp_walk_load_pointer(base, f->at);
    uint64_t bytes;
    int err = harp_walk_count_of(f, base, &bytes);
    bool send = f->item == HARP_WIRE_SENT;
    if (w->phase == REPLY) {
        if (err != 0 || send || data == NULL || !harp_walk_inlined(w, bytes))
            return err;
        return harp_walk_get_bytes(w, data, bytes);
    }
    uint32_t form;
    if (w->op->flags & HARP_WIRE_RESIDENT)
        return -ENOTSUP;
    if (err == 0)
        err = get_word(w, &form);
    if (err != 0 || form == 0)
        return err;
    bool in_body = send ? harp_walk_small(w, bytes) : harp_walk_inlined(w, bytes);
    if (form != (in_body ? 1 : 2))
        return -EINVAL;
    if (!in_body) {
        err = get_transfer(w, send ? HARP_WIRE_SEND : HARP_WIRE_FETCH, bytes, &data);
    } else if (send) {
        uint8_t *from;
        err = harp_walk_take_bytes(w, bytes, &from);
        data = from;
    } else {
        err = take_arena(w, bytes, 1, &data);
    }
    if (err == 0)
        store_pointer(base, f->at, data);
    return err;
}

static int get_lent(struct walk *w, const struct harp_wire_field *f, void *base)
{
    void *place = (uint8_t *)base + f->at, *data = NULL;
    uint32_t word;
    int err;
    if (f->hold == HARP_WIRE_LENT_AT && w->phase == REQUEST) {
        err = get_word(w, &word);
        if (err != 0 || word == 0)
            return err;
        err = word != 1 ? -EINVAL : take_arena(w, sizeof(void *), sizeof(void *), &place);
        if (err == 0)
            store_pointer(base, f->at, place);
        return err;
    }
    if (f->hold == HARP_WIRE_LENT_AT)
        place = harp_walk_load_pointer(base, f->at);
    if (w->phase == REQUEST || place == NULL)
        return 0;
    uint64_t count;
    err = harp_walk_count_of(f, base, &count);
    if (err == 0)
        err = get_word(w, &word);
    if (err != 0)
        return err;
    if (word == 0) {
        store_pointer(place, 0, NULL);
        return 0;
    }
    if (f->item == HARP_WIRE_FETCHED) {
        bool in_body = harp_walk_small(w, count);
        if (word != (in_body ? 1 : 2))
            return -EINVAL;
        if (!in_body)
            err = get_transfer(w, HARP_WIRE_LEND, count, &data);
        else if ((err = take_arena(w, count, 1, &data)) == 0)
            err = harp_walk_get_bytes(w, data, count);
    } else {
        bool text = f->length == HARP_WIRE_TEXT;
        if (!text && word - 1 != count)
            return -EINVAL;
        count = word - 1;
        err = harp_walk_bounded(f, count);
        if (err == 0)
            err = take_arena(w, count * harp_walk_size_of(f) + text, align_of(f), &data);
        if (err == 0)
            err = get_items(w, f, data, count, base, HARP_WIRE_OUT);
        if (err == 0 && text && strlen(data) != count)
            err = -EINVAL;
    }
    if (err == 0)
        store_pointer(place, 0, data);
    return err;
}

static int get_answer(struct walk *w, const struct harp_wire_field *f, void *base, uint8_t dir)
{
    void *data = harp_walk_load_pointer(base, f->at);
    uint64_t room = w->call->room[f->at / 8u], count;
    uint32_t word;
    if (data == NULL || f->own == HARP_WIRE_NEW)
        return 0;
    if (!(dir & HARP_WIRE_OUT))
        return f->item == HARP_WIRE_STRUCT ? get_items(w, f, data, room, base, dir) : 0;
    if (f->item == HARP_WIRE_WORDS)
        return harp_walk_words(w, f, base, data, room);
    if (f->item == HARP_WIRE_ROOM && room == 0)
        return 0;
    int err = get_word(w, &word);
    if (err != 0)
        return err;
    if (word == 0)
        return -EINVAL;
    if (f->item == HARP_WIRE_ROOM) {
        if (word > room)
            return -EINVAL;
        err = harp_walk_get_bytes(w, data, word - 1);
        ((char *)data)[word - 1] = '\0';
        return err == 0 && strlen(data) != word - 1 ? -EINVAL : err;
    }
    err = harp_walk_answered(f, base, room, &count);
    if (err == 0 && word - 1 != count)
        err = -EINVAL;
    return err != 0 ? err : get_items(w, f, data, count, base, dir);
}

static int get_pointer(struct walk *w, const struct harp_wire_field *f, void *base, uint8_t dir,
                       uint8_t outer, bool slots)
{
    void *data;
    uint32_t word;
    uint64_t count, id;
    bool text = f->length == HARP_WIRE_TEXT;
    if (slots && w->phase == REPLY)
        return get_answer(w, f, base, dir);
    if (!slots && (!(dir & w->way) || (w->phase == REPLY && (outer & HARP_WIRE_IN))))
        return 0;
    int err = get_word(w, &word);
    if (err != 0)
        return err;
    if (word == 0) {
        store_pointer(base, f->at, NULL);
        return 0;
    }
    err = harp_walk_count_of(f, base, &count);
    if (text)
        count = word - 1;
    if (err == 0)
        err = word - 1 != count ? -EINVAL : harp_walk_bounded(f, count);
    if (err == 0)
        err = take_arena(w, count * harp_walk_size_of(f) + text, align_of(f), &data);
    if (err != 0)
        return err;
    store_pointer(base, f->at, data);
    if (slots)
        w->call->room[f->at / 8u] = count;
    if (f->own == HARP_WIRE_NEW) {
        err = harp_walk_get_bytes(w, &id, sizeof id);
        return err != 0 ? err : harp_walk_note_made(w, f, id);
    }
    if (f->item == HARP_WIRE_WORDS)
        return harp_walk_words(w, f, base, data, count);
    if (!(dir & w->way))
        return 0;
    err = get_items(w, f, data, count, base, dir);
    return err == 0 && text && strlen(data) != count ? -EINVAL : err;
}

static int get_program(struct walk *w, const struct harp_wire_program *p, void *base, uint8_t outer,
                       bool slots)
{
    int err = 0;
    for (unsigned i = 0; i < p->count && err == 0; i++) {
        const struct harp_wire_field *f = &harp_wire_fields[p->first + i];
        uint8_t dir = f->dir & outer;
        if (f->hold == HARP_WIRE_LENT || f->hold == HARP_WIRE_LENT_AT)
            err = dir & HARP_WIRE_OUT ? get_lent(w, f, base) : 0;
        else if (f->item == HARP_WIRE_NULL)
            err = 0; /* the arena is zeroed, and a client's pointer stays as it is */
        else if (f->item == HARP_WIRE_SENT || f->item == HARP_WIRE_FETCHED)
            err = outer & HARP_WIRE_IN ? get_host(w, f, base) : -ENOTSUP;
        else if (f->hold == HARP_WIRE_POINTER)
            err = get_pointer(w, f, base, dir, outer, slots);
        else
            err = get_items(w, f, (uint8_t *)base + f->at, f->fixed, base, dir);
    }
    if (err == 0 && p->check != NULL && w->phase == REQUEST && (outer & HARP_WIRE_IN))
        err = p->check(base);
    return err;
}

int harp_wire_get_request(struct harp_wire_call *call, const struct harp_wire_side *side,
                          struct harp_wire_buffer *body, struct harp_wire_buffer *arena)
{
    struct walk w;
    int err = harp_walk_begin(&w, call, side, body, arena, REQUEST);
    *call = (struct harp_wire_call){.op = call->op};
    if (err == 0 && body->size - body->used > HARP_WIRE_BODY_BYTES)
        err = -E2BIG;
    if (err == 0)
        err = get_program(&w, &harp_wire_programs[w.op->program], call->args, HARP_WALK_BOTH, true);
    return err == 0 && body->used != body->size ? -EINVAL : err;
}

int harp_wire_get_reply(struct harp_wire_call *call, const struct harp_wire_side *side,
                        struct harp_wire_buffer *body, struct harp_wire_buffer *arena)
{
    struct walk w;
    int err = harp_walk_begin(&w, call, side, body, arena, REPLY);
    if (err == 0 && body->size - body->used > HARP_WIRE_BODY_BYTES)
        err = -E2BIG;
    if (err == 0)
        err = get_word(&w, &call->result);
    if (err == 0 && (call->result == 0 || (w.op->flags & HARP_WIRE_ALWAYS)))
        err = get_program(&w, &harp_wire_programs[w.op->program], call->args, HARP_WALK_BOTH, true);
    return err == 0 && body->used != body->size ? -EINVAL : err;
}
