/* SPDX-License-Identifier: Apache-2.0
 *
 * The walk over the tables. A field list is walked the same way four times: the client puts a
 * request, the worker gets it, the worker puts the reply, the client gets it. What is on the wire:
 *
 *   scalars    as they lie in memory, those of one field together, zeroes to a multiple of 4
 *   handles    8 bytes of id           device addresses  8 bytes
 *   pointers   a word, 0: NULL, else 1 + elements; then the elements if they travel this way
 *   host bytes a word, 0: NULL, 1: they follow, 2: 8 bytes of transfer id follow
 *
 * little-endian, fields in table order: values, then single pointers, then what others count.
 */
#include "src/wire/codec.h"

#include <errno.h>
#include <stdalign.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "src/wire/table.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "scalars are copied as they lie");

enum phase { REQUEST, REPLY };

struct walk {
    struct harp_wire_call *call;
    const struct harp_wire_op *op;
    const struct harp_wire_side *side;
    struct harp_wire_buffer *body;
    struct harp_wire_buffer *arena; /* NULL: putting */
    enum phase phase;
    uint8_t way; /* of this phase */
};

static const struct harp_wire_side plain_side;

/* --- bytes --------------------------------------------------------------------------------------
 */

static int put_bytes(struct walk *w, const void *data, uint64_t bytes)
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

/* Where the next bytes of the body are. */
static int take_bytes(struct walk *w, uint64_t bytes, uint8_t **data)
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

static int get_bytes(struct walk *w, void *data, uint64_t bytes)
{
    uint8_t *from;
    int err = take_bytes(w, bytes, &from);
    if (err == 0 && bytes != 0)
        memcpy(data, from, bytes);
    return err;
}

static int put_word(struct walk *w, uint64_t word)
{
    uint32_t value = (uint32_t)word;
    return word > UINT32_MAX ? -E2BIG : put_bytes(w, &value, sizeof value);
}

static int get_word(struct walk *w, uint32_t *word)
{
    return get_bytes(w, word, sizeof *word);
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

static uint64_t load(const void *base, struct harp_wire_ref ref)
{
    uint64_t value = 0;
    memcpy(&value, (const uint8_t *)base + ref.at, ref.bytes);
    return value;
}

static void *load_pointer(const void *base, unsigned at)
{
    void *value;
    memcpy(&value, (const uint8_t *)base + at, sizeof value);
    return value;
}

static void store_pointer(void *base, unsigned at, const void *value)
{
    memcpy((uint8_t *)base + at, &value, sizeof value);
}

/* --- facts of the tables ------------------------------------------------------------------------
 */

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

static const struct harp_wire_program *chosen(const struct harp_wire_field *f, const void *base)
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

static uint64_t size_of(const struct harp_wire_field *f)
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

static uint64_t align_of(const struct harp_wire_field *f)
{
    if (f->item == HARP_WIRE_STRUCT)
        return harp_wire_programs[f->type].align;
    return alignof(max_align_t);
}

/* Elements of a field, by what is in memory. */
static int count_of(const struct harp_wire_field *f, const void *base, uint64_t *count)
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
        from = load_pointer(base, f->by[0].at);
        *count = from == NULL ? 0 : load(from, (struct harp_wire_ref){0, f->by[0].bytes});
        return 0;
    case HARP_WIRE_BY_TAG:
        *count = meaning(f->type, load(base, f->tag));
        return *count == 0 ? -ENOTSUP : 0;
    default:
        return 0;
    }
}

/* What a body of the largest size can hold. */
static int bounded(const struct harp_wire_field *f, uint64_t count)
{
    return count > HARP_WIRE_BODY_BYTES / size_of(f) ? -E2BIG : 0;
}

static bool inlined(const struct walk *w, uint64_t bytes)
{
    return bytes <= HARP_WIRE_INLINE_BYTES && w->op->cls != HARP_WIRE_ASYNC;
}

static bool stands_for_itself(unsigned kind, uint64_t value)
{
    return value == 0 || (kind == HARP_HANDLE_CUstream && value <= 2);
}

/* --- elements -----------------------------------------------------------------------------------
 */

static int put_program(struct walk *w, const struct harp_wire_program *p, const void *base,
                       uint8_t dir, bool slots);
static int get_program(struct walk *w, const struct harp_wire_program *p, void *base, uint8_t dir,
                       bool slots);

static int put_handle(struct walk *w, unsigned kind, uint64_t value)
{
    uint64_t id = value;
    int err = 0;
    if (!stands_for_itself(kind, value) && w->side->id_of != NULL)
        err = w->side->id_of(w->side->ctx, (enum harp_handle)kind, value, &id);
    return err != 0 ? err : put_bytes(w, &id, sizeof id);
}

static int get_handle(struct walk *w, unsigned kind, uint64_t *value)
{
    uint64_t id;
    int err = get_bytes(w, &id, sizeof id);
    if (err != 0)
        return err;
    *value = id;
    if (!stands_for_itself(kind, id) && w->side->value_of != NULL)
        err = w->side->value_of(w->side->ctx, (enum harp_handle)kind, id, value);
    return err;
}

static int get_device(struct walk *w, uint64_t *address)
{
    int err = get_bytes(w, address, sizeof *address);
    if (err == 0 && *address != 0 && w->side->device != NULL)
        err = w->side->device(w->side->ctx, *address);
    return err;
}

static int put_items(struct walk *w, const struct harp_wire_field *f, const void *items,
                     uint64_t count, const void *base, uint8_t dir)
{
    const struct harp_wire_program *p;
    if (f->item == HARP_WIRE_SCALAR)
        return dir & w->way ? put_bytes(w, items, count * size_of(f)) : 0;
    for (uint64_t i = 0; i < count; i++) {
        const uint8_t *item = (const uint8_t *)items + i * size_of(f);
        uint64_t value;
        int err = 0;
        switch (f->item) {
        case HARP_WIRE_STRUCT:
            err = put_program(w, &harp_wire_programs[f->type], item, dir, false);
            break;
        case HARP_WIRE_CASE:
            p = chosen(f, base);
            err = p == NULL ? -ENOTSUP : put_program(w, p, item, dir, false);
            break;
        default:
            memcpy(&value, item, sizeof value);
            if (dir & w->way)
                err = f->item == HARP_WIRE_HANDLE ? put_handle(w, f->type, value)
                                                  : put_bytes(w, &value, sizeof value);
        }
        if (err != 0)
            return err;
    }
    return 0;
}

static int get_items(struct walk *w, const struct harp_wire_field *f, void *items, uint64_t count,
                     const void *base, uint8_t dir)
{
    const struct harp_wire_program *p;
    if (f->item == HARP_WIRE_SCALAR)
        return dir & w->way ? get_bytes(w, items, count * size_of(f)) : 0;
    for (uint64_t i = 0; i < count; i++) {
        uint8_t *item = (uint8_t *)items + i * size_of(f);
        uint64_t value;
        int err = 0;
        switch (f->item) {
        case HARP_WIRE_STRUCT:
            err = get_program(w, &harp_wire_programs[f->type], item, dir, false);
            break;
        case HARP_WIRE_CASE:
            p = chosen(f, base);
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

/* --- host bytes ---------------------------------------------------------------------------------
 */

static int transfer(struct walk *w, enum harp_wire_way way, uint64_t bytes, void **data,
                    uint64_t *id)
{
    if (w->side->transfer == NULL)
        return -E2BIG;
    return w->side->transfer(w->side->ctx, way, bytes, data, id);
}

static int put_transfer(struct walk *w, enum harp_wire_way way, uint64_t bytes, void *data)
{
    uint64_t id = 0;
    int err = transfer(w, way, bytes, &data, &id);
    if (err == 0)
        err = put_word(w, 2);
    return err != 0 ? err : put_bytes(w, &id, sizeof id);
}

static int get_transfer(struct walk *w, enum harp_wire_way way, uint64_t bytes, void **data)
{
    uint64_t id;
    int err = get_bytes(w, &id, sizeof id);
    return err != 0 ? err : transfer(w, way, bytes, data, &id);
}

/* Sent bytes, and the place for fetched ones, are named by the request. */
static int put_host(struct walk *w, const struct harp_wire_field *f, const void *base)
{
    void *data = load_pointer(base, f->at);
    uint64_t bytes;
    int err = count_of(f, base, &bytes);
    bool send = f->item == HARP_WIRE_SENT;
    if (w->phase == REPLY) {
        if (err != 0 || send || data == NULL || !inlined(w, bytes))
            return err;
        return put_bytes(w, data, bytes);
    }
    if (w->op->flags & HARP_WIRE_RESIDENT)
        return -ENOTSUP;
    if (err != 0 || data == NULL)
        return err != 0 ? err : put_word(w, 0);
    if (send ? bytes > HARP_WIRE_INLINE_BYTES : !inlined(w, bytes))
        return put_transfer(w, send ? HARP_WIRE_SEND : HARP_WIRE_FETCH, bytes, data);
    err = put_word(w, 1);
    return err != 0 || !send ? err : put_bytes(w, data, bytes);
}

static int get_host(struct walk *w, const struct harp_wire_field *f, void *base)
{
    void *data = load_pointer(base, f->at);
    uint64_t bytes;
    int err = count_of(f, base, &bytes);
    bool send = f->item == HARP_WIRE_SENT;
    if (w->phase == REPLY) {
        if (err != 0 || send || data == NULL || !inlined(w, bytes))
            return err;
        return get_bytes(w, data, bytes);
    }
    uint32_t form;
    if (w->op->flags & HARP_WIRE_RESIDENT)
        return -ENOTSUP;
    if (err == 0)
        err = get_word(w, &form);
    if (err != 0 || form == 0)
        return err;
    bool in_body = send ? bytes <= HARP_WIRE_INLINE_BYTES : inlined(w, bytes);
    if (form != (in_body ? 1 : 2))
        return -EINVAL;
    if (!in_body) {
        err = get_transfer(w, send ? HARP_WIRE_SEND : HARP_WIRE_FETCH, bytes, &data);
    } else if (send) {
        uint8_t *from;
        err = take_bytes(w, bytes, &from);
        data = from;
    } else {
        err = take_arena(w, bytes, 1, &data);
    }
    if (err == 0)
        store_pointer(base, f->at, data);
    return err;
}

/* --- what the callee lends ----------------------------------------------------------------------
 */

static int put_lent(struct walk *w, const struct harp_wire_field *f, const void *base)
{
    const void *place = (const uint8_t *)base + f->at;
    if (f->hold == HARP_WIRE_LENT_AT) {
        place = load_pointer(base, f->at);
        if (w->phase == REQUEST)
            return put_word(w, place != NULL);
    }
    if (w->phase == REQUEST || place == NULL)
        return 0;
    void *data = load_pointer(place, 0);
    uint64_t count;
    int err = count_of(f, base, &count);
    if (err != 0 || data == NULL)
        return err != 0 ? err : put_word(w, 0);
    if (f->item == HARP_WIRE_FETCHED) {
        if (count > HARP_WIRE_INLINE_BYTES)
            return put_transfer(w, HARP_WIRE_LEND, count, data);
        err = put_word(w, 1);
        return err != 0 ? err : put_bytes(w, data, count);
    }
    if (f->length == HARP_WIRE_TEXT)
        count = strlen(data);
    err = bounded(f, count);
    if (err == 0)
        err = put_word(w, 1 + count);
    return err != 0 ? err : put_items(w, f, data, count, base, HARP_WIRE_OUT);
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
        place = load_pointer(base, f->at);
    if (w->phase == REQUEST || place == NULL)
        return 0;
    uint64_t count;
    err = count_of(f, base, &count);
    if (err == 0)
        err = get_word(w, &word);
    if (err != 0)
        return err;
    if (word == 0) {
        store_pointer(place, 0, NULL);
        return 0;
    }
    if (f->item == HARP_WIRE_FETCHED) {
        bool in_body = count <= HARP_WIRE_INLINE_BYTES;
        if (word != (in_body ? 1 : 2))
            return -EINVAL;
        if (!in_body)
            err = get_transfer(w, HARP_WIRE_LEND, count, &data);
        else if ((err = take_arena(w, count, 1, &data)) == 0)
            err = get_bytes(w, data, count);
    } else {
        bool text = f->length == HARP_WIRE_TEXT;
        if (!text && word - 1 != count)
            return -EINVAL;
        count = word - 1;
        err = bounded(f, count);
        if (err == 0)
            err = take_arena(w, count * size_of(f) + text, align_of(f), &data);
        if (err == 0)
            err = get_items(w, f, data, count, base, HARP_WIRE_OUT);
        if (err == 0 && text && strlen(data) != count)
            err = -EINVAL;
    }
    if (err == 0)
        store_pointer(place, 0, data);
    return err;
}

/* --- values of options --------------------------------------------------------------------------
 */

/* Word by word, all in requests, the driver's answers in replies. */
static int words(struct walk *w, const struct harp_wire_field *f, const void *base,
                 uint64_t *values, uint64_t count)
{
    const uint8_t *options = load_pointer(base, f->tag.at);
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
        int err = w->arena == NULL ? put_bytes(w, &values[i], sizeof *values)
                                   : get_bytes(w, &values[i], sizeof *values);
        if (err != 0)
            return err;
    }
    return 0;
}

/* --- pointers -----------------------------------------------------------------------------------
 */

static int note_made(struct walk *w, const struct harp_wire_field *f, uint64_t id)
{
    w->call->made_kind = (enum harp_handle)f->type;
    w->call->made_id = id;
    w->call->made_slot = f->at / 8u;
    return 0;
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
        err = put_bytes(w, &id, sizeof id);
    return err != 0 ? err : note_made(w, f, id);
}

/* Elements that a reply has of an output, by what the callee has put there. */
static int answered(const struct harp_wire_field *f, const void *base, uint64_t room,
                    uint64_t *count)
{
    *count = room;
    if (f->length != HARP_WIRE_BY_POINTED)
        return 0;
    int err = count_of(f, base, count);
    *count = *count > room ? room : *count;
    return err;
}

static int put_pointer(struct walk *w, const struct harp_wire_field *f, const void *base,
                       uint8_t dir, uint8_t outer, bool slots)
{
    void *data = load_pointer(base, f->at);
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
            return words(w, f, base, data, room);
        if (f->item == HARP_WIRE_ROOM) {
            if (room == 0)
                return 0;
            count = strnlen(data, room - 1);
            err = put_word(w, 1 + count);
            return err != 0 ? err : put_bytes(w, data, count);
        }
        err = answered(f, base, room, &count);
        if (err == 0)
            err = put_word(w, 1 + count);
        return err != 0 ? err : put_items(w, f, data, count, base, dir);
    }
    if (data == NULL)
        return put_word(w, 0);
    err = count_of(f, base, &count);
    if (f->length == HARP_WIRE_TEXT)
        count = strlen(data);
    if (err == 0)
        err = bounded(f, count);
    if (err == 0)
        err = put_word(w, 1 + count);
    if (err != 0)
        return err;
    if (slots)
        w->call->room[f->at / 8u] = count;
    if (f->own == HARP_WIRE_NEW)
        return put_made(w, f);
    if (f->item == HARP_WIRE_WORDS)
        return words(w, f, base, data, count);
    return dir & w->way ? put_items(w, f, data, count, base, dir) : 0;
}

static int get_answer(struct walk *w, const struct harp_wire_field *f, void *base, uint8_t dir)
{
    void *data = load_pointer(base, f->at);
    uint64_t room = w->call->room[f->at / 8u], count;
    uint32_t word;
    if (data == NULL || f->own == HARP_WIRE_NEW)
        return 0;
    if (!(dir & HARP_WIRE_OUT))
        return f->item == HARP_WIRE_STRUCT ? get_items(w, f, data, room, base, dir) : 0;
    if (f->item == HARP_WIRE_WORDS)
        return words(w, f, base, data, room);
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
        err = get_bytes(w, data, word - 1);
        ((char *)data)[word - 1] = '\0';
        return err == 0 && strlen(data) != word - 1 ? -EINVAL : err;
    }
    err = answered(f, base, room, &count);
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
    err = count_of(f, base, &count);
    if (text)
        count = word - 1;
    if (err == 0)
        err = word - 1 != count ? -EINVAL : bounded(f, count);
    if (err == 0)
        err = take_arena(w, count * size_of(f) + text, align_of(f), &data);
    if (err != 0)
        return err;
    store_pointer(base, f->at, data);
    if (slots)
        w->call->room[f->at / 8u] = count;
    if (f->own == HARP_WIRE_NEW) {
        err = get_bytes(w, &id, sizeof id);
        return err != 0 ? err : note_made(w, f, id);
    }
    if (f->item == HARP_WIRE_WORDS)
        return words(w, f, base, data, count);
    if (!(dir & w->way))
        return 0;
    err = get_items(w, f, data, count, base, dir);
    return err == 0 && text && strlen(data) != count ? -EINVAL : err;
}

/* --- field lists --------------------------------------------------------------------------------
 */

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
            err = w->phase == REQUEST && (dir & HARP_WIRE_IN) && load_pointer(base, f->at) != NULL
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

static int begin(struct walk *w, struct harp_wire_call *call, const struct harp_wire_side *side,
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

#define BOTH (HARP_WIRE_IN | HARP_WIRE_OUT)

int harp_wire_put_request(struct harp_wire_call *call, const struct harp_wire_side *side,
                          struct harp_wire_buffer *body)
{
    struct walk w;
    int err = begin(&w, call, side, body, NULL, REQUEST);
    if (err != 0)
        return err;
    call->made_kind = (enum harp_handle)0;
    return put_program(&w, &harp_wire_programs[w.op->program], call->args, BOTH, true);
}

int harp_wire_get_request(struct harp_wire_call *call, const struct harp_wire_side *side,
                          struct harp_wire_buffer *body, struct harp_wire_buffer *arena)
{
    struct walk w;
    int err = begin(&w, call, side, body, arena, REQUEST);
    *call = (struct harp_wire_call){.op = call->op};
    if (err == 0 && body->size - body->used > HARP_WIRE_BODY_BYTES)
        err = -E2BIG;
    if (err == 0)
        err = get_program(&w, &harp_wire_programs[w.op->program], call->args, BOTH, true);
    return err == 0 && body->used != body->size ? -EINVAL : err;
}

int harp_wire_put_reply(struct harp_wire_call *call, const struct harp_wire_side *side,
                        struct harp_wire_buffer *body)
{
    struct walk w;
    int err = begin(&w, call, side, body, NULL, REPLY);
    if (err == 0)
        err = put_word(&w, call->result);
    if (err != 0 || (call->result != 0 && !(w.op->flags & HARP_WIRE_ALWAYS)))
        return err;
    return put_program(&w, &harp_wire_programs[w.op->program], call->args, BOTH, true);
}

int harp_wire_get_reply(struct harp_wire_call *call, const struct harp_wire_side *side,
                        struct harp_wire_buffer *body, struct harp_wire_buffer *arena)
{
    struct walk w;
    int err = begin(&w, call, side, body, arena, REPLY);
    if (err == 0 && body->size - body->used > HARP_WIRE_BODY_BYTES)
        err = -E2BIG;
    if (err == 0)
        err = get_word(&w, &call->result);
    if (err == 0 && (call->result == 0 || (w.op->flags & HARP_WIRE_ALWAYS)))
        err = get_program(&w, &harp_wire_programs[w.op->program], call->args, BOTH, true);
    return err == 0 && body->used != body->size ? -EINVAL : err;
}
