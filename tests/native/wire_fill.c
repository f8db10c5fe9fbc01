/* SPDX-License-Identifier: Apache-2.0
 *
 * See wire_fill.h. Numbers that others go by (counts, tags) are drawn first, and small.
 */
#include "wire_fill.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "generated/cuda_abi.h"

static void fill_program(struct wire_fill *fill, const struct harp_wire_program *p, void *base,
                         uint8_t outer, bool draw);

uint32_t wire_random(struct wire_fill *fill)
{
    fill->seed = fill->seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(fill->seed >> 33);
}

void *wire_block(struct wire_fill *fill, uint64_t bytes)
{
    if (fill->count == fill->room) {
        fill->room = fill->room * 2 + 16;
        fill->blocks = realloc(fill->blocks, fill->room * sizeof *fill->blocks);
        CHECK(fill->blocks != NULL);
    }
    /* An array of tensor maps would want 128. */
    void *block = NULL;
    CHECK(posix_memalign(&block, 128, bytes == 0 ? 1 : bytes) == 0);
    for (uint64_t i = 0; i < bytes; i++)
        ((uint8_t *)block)[i] = (uint8_t)wire_random(fill);
    fill->blocks[fill->count++] = block;
    return block;
}

void wire_fill_free(struct wire_fill *fill)
{
    for (unsigned i = 0; i < fill->count; i++)
        free(fill->blocks[i]);
    free(fill->blocks);
    fill->blocks = NULL;
    fill->count = fill->room = 0;
}

static int transfer(void *ctx, enum harp_wire_way way, uint64_t bytes, void **data, uint64_t *id)
{
    (void)ctx, (void)way, (void)bytes;
    if (*data == NULL && *id == 0)
        return -ENOENT;
    if (*data == NULL)
        *data = (void *)(uintptr_t)*id; /* the id is the address */
    else
        *id = (uintptr_t)*data;
    return 0;
}

static int mint(void *ctx, enum harp_handle kind, uint64_t *id)
{
    (void)ctx;
    *id = 1000u + kind;
    return 0;
}

struct harp_wire_side wire_side = {.transfer = transfer, .mint = mint};

static void store(void *base, struct harp_wire_ref ref, uint64_t value)
{
    memcpy((uint8_t *)base + ref.at, &value, ref.bytes);
}

static uint64_t load(const void *base, struct harp_wire_ref ref)
{
    uint64_t value = 0;
    memcpy(&value, (const uint8_t *)base + ref.at, ref.bytes);
    return value;
}

static void *pointer_at(const void *base, unsigned at)
{
    void *value;
    memcpy(&value, (const uint8_t *)base + at, sizeof value);
    return value;
}

static uint64_t size_of(const struct harp_wire_field *f)
{
    if (f->item == HARP_WIRE_SCALAR)
        return f->length == HARP_WIRE_BY_TAG ? 1 : f->type;
    if (f->item == HARP_WIRE_STRUCT)
        return harp_wire_programs[f->type].size;
    if (f->item == HARP_WIRE_CASE)
        return harp_wire_programs[harp_wire_case_rows[harp_wire_case_lists[f->type].first].program]
            .size;
    return f->item == HARP_WIRE_SENT || f->item == HARP_WIRE_FETCHED || f->item == HARP_WIRE_ROOM
               ? 1
               : 8;
}

/* A number of the policy, by chance; with `answers` also what it means. */
static uint32_t number_of(struct wire_fill *fill, unsigned policy)
{
    for (;;) {
        const struct harp_wire_meaning *row =
            &harp_wire_meanings[wire_random(fill) % harp_wire_meaning_count];
        if (row->policy == policy)
            return row->number;
    }
}

static uint64_t meaning(unsigned policy, uint64_t number)
{
    for (unsigned i = 0; i < harp_wire_meaning_count; i++)
        if (harp_wire_meanings[i].policy == policy && harp_wire_meanings[i].number == number)
            return harp_wire_meanings[i].means;
    return 0;
}

static uint64_t count_of(const struct harp_wire_field *f, const void *base)
{
    uint64_t count = 1;
    const void *from;
    switch (f->length) {
    case HARP_WIRE_BY:
        for (unsigned i = 0; i < 3 && f->by[i].bytes != 0; i++)
            count *= load(base, f->by[i]);
        return count > f->less ? count - f->less : 0;
    case HARP_WIRE_BY_POINTED:
        from = pointer_at(base, f->by[0].at);
        return from == NULL ? 0 : load(from, (struct harp_wire_ref){0, f->by[0].bytes});
    case HARP_WIRE_BY_TAG:
        return meaning(f->type, load(base, f->tag));
    default:
        return f->fixed;
    }
}

/* Numbers that fields of the program go by. Host bytes now and then pass what a body takes inline.
 */
static void draw_numbers(struct wire_fill *fill, const struct harp_wire_program *p, void *base)
{
    for (unsigned i = 0; i < p->count; i++) {
        const struct harp_wire_field *f = &harp_wire_fields[p->first + i];
        bool host = f->item == HARP_WIRE_SENT || f->item == HARP_WIRE_FETCHED;
        if (f->length == HARP_WIRE_BY)
            for (unsigned k = 0; k < 3 && f->by[k].bytes != 0; k++)
                store(base, f->by[k],
                      host && k == 0 && wire_random(fill) % 16 == 0 ? HARP_WIRE_INLINE_BYTES / 2 + 7
                                                                    : wire_random(fill) % 5);
        if (f->length == HARP_WIRE_BY_TAG)
            store(base, f->tag, number_of(fill, f->type));
        if (f->item == HARP_WIRE_CASE && f->tag.bytes != 0) {
            const struct harp_wire_cases *list = &harp_wire_case_lists[f->type];
            unsigned row = list->first + wire_random(fill) % list->count;
            store(base, f->tag, harp_wire_case_rows[row].tag);
            if (f->hold == HARP_WIRE_VALUE && f->at == 0)
                draw_numbers(fill, &harp_wire_programs[harp_wire_case_rows[row].program], base);
        }
    }
}

static const struct harp_wire_program *chosen(const struct harp_wire_field *f, const void *base)
{
    const struct harp_wire_cases *list = &harp_wire_case_lists[f->type];
    for (unsigned i = list->first; i < list->first + list->count; i++)
        if (harp_wire_case_rows[i].tag == load(base, f->tag))
            return &harp_wire_programs[harp_wire_case_rows[i].program];
    CHECK(!"a tag that no case has");
    return NULL;
}

static void fill_items(struct wire_fill *fill, const struct harp_wire_field *f, void *items,
                       uint64_t count, const void *base, uint8_t dir)
{
    uint64_t size = size_of(f);
    for (uint64_t i = 0; i < count; i++) {
        uint8_t *item = (uint8_t *)items + i * size;
        if (f->item == HARP_WIRE_STRUCT)
            fill_program(fill, &harp_wire_programs[f->type], item, dir, true);
        else if (f->item == HARP_WIRE_CASE)
            fill_program(fill, chosen(f, base), item, dir, item != base);
        else
            for (uint64_t b = 0; b < size; b++)
                item[b] = (uint8_t)wire_random(fill);
    }
}

static void *new_text(struct wire_fill *fill)
{
    uint32_t length = wire_random(fill) % 9;
    char *text = wire_block(fill, length + 1);
    for (uint32_t i = 0; i < length; i++)
        text[i] = (char)('a' + wire_random(fill) % 26);
    text[length] = '\0';
    return text;
}

static void fill_pointer(struct wire_fill *fill, const struct harp_wire_field *f, void *base,
                         uint8_t dir)
{
    void *data = NULL,
         *from = f->length == HARP_WIRE_BY_POINTED ? pointer_at(base, f->by[0].at) : NULL;
    if (from != NULL && count_of(f, base) > 4)
        store(from, (struct harp_wire_ref){0, f->by[0].bytes}, wire_random(fill) % 5);
    uint64_t count = count_of(f, base);
    bool null = wire_random(fill) % 8 == 0 && f->length != HARP_WIRE_BY_TAG;
    if (!null && f->length == HARP_WIRE_TEXT)
        data = new_text(fill);
    else if (!null)
        data = wire_block(fill, count * size_of(f));
    if (data != NULL && f->item == HARP_WIRE_WORDS) {
        uint8_t *options = pointer_at(base, f->tag.at);
        if (options == NULL)
            data = NULL;
        for (uint64_t i = 0; data != NULL && i < count; i++) {
            uint32_t option = number_of(fill, f->type);
            memcpy(options + i * sizeof option, &option, sizeof option);
        }
    } else if (data != NULL && f->item != HARP_WIRE_SENT && f->item != HARP_WIRE_FETCHED &&
               f->item != HARP_WIRE_ROOM && f->length != HARP_WIRE_TEXT) {
        fill_items(fill, f, data, count, base, dir);
    }
    memcpy((uint8_t *)base + f->at, &data, sizeof data);
}

/* What put_request would refuse: host sides that are not closely packed. */
static void pack_copies(const struct harp_wire_program *p, void *base)
{
    if (strcmp(p->name, "CUDA_MEMCPY2D_v2") == 0) {
        CUDA_MEMCPY2D *c = base;
        c->srcXInBytes = c->srcY = c->srcPitch = 0;
        c->dstXInBytes = c->dstY = c->dstPitch = 0;
    } else if (strcmp(p->name, "CUDA_MEMCPY3D_v2") == 0) {
        CUDA_MEMCPY3D *c = base;
        c->srcXInBytes = c->srcY = c->srcZ = c->srcPitch = c->srcHeight = 0;
        c->dstXInBytes = c->dstY = c->dstZ = c->dstPitch = c->dstHeight = 0;
    } else {
        CUDA_MEMCPY3D_PEER *c = base;
        c->srcXInBytes = c->srcY = c->srcZ = c->srcPitch = c->srcHeight = 0;
        c->dstXInBytes = c->dstY = c->dstZ = c->dstPitch = c->dstHeight = 0;
    }
}

/* `draw`: not where the numbers are those of a struct that this is a case of. */
static void fill_program(struct wire_fill *fill, const struct harp_wire_program *p, void *base,
                         uint8_t outer, bool draw)
{
    for (unsigned i = 0; i < p->count; i++) {
        const struct harp_wire_field *f = &harp_wire_fields[p->first + i];
        if (f->hold == HARP_WIRE_VALUE && f->item <= HARP_WIRE_DEVICE)
            fill_items(fill, f, (uint8_t *)base + f->at, f->fixed, base, outer);
    }
    if (draw)
        draw_numbers(fill, p, base);
    if (p->check != NULL)
        pack_copies(p, base);
    for (unsigned i = 0; i < p->count; i++) {
        const struct harp_wire_field *f = &harp_wire_fields[p->first + i];
        void *place = (uint8_t *)base + f->at, *none = NULL;
        if (f->item == HARP_WIRE_NULL || f->hold == HARP_WIRE_LENT) {
            memcpy(place, &none, sizeof none);
        } else if (f->hold == HARP_WIRE_LENT_AT) {
            none = wire_random(fill) % 8 == 0 ? NULL : wire_block(fill, sizeof(void *));
            memcpy(place, &none, sizeof none);
        } else if (f->hold == HARP_WIRE_POINTER) {
            fill_pointer(fill, f, base, f->dir & outer);
        } else if (f->item == HARP_WIRE_STRUCT || f->item == HARP_WIRE_CASE) {
            fill_items(fill, f, place, f->fixed, base, f->dir & outer);
        }
    }
}

void wire_fill_request(struct wire_fill *fill, struct harp_wire_call *call)
{
    const struct harp_wire_program *p = &harp_wire_programs[harp_wire_op(call->op)->program];
    *call = (struct harp_wire_call){.op = call->op};
    fill_program(fill, p, call->args, HARP_WIRE_IN | HARP_WIRE_OUT, true);
}

static void lend(struct wire_fill *fill, const struct harp_wire_field *f, void *base, void *place)
{
    void *data = NULL,
         *from = f->length == HARP_WIRE_BY_POINTED ? pointer_at(base, f->by[0].at) : NULL;
    if (from != NULL && count_of(f, base) > 4)
        store(from, (struct harp_wire_ref){0, f->by[0].bytes}, wire_random(fill) % 5);
    uint64_t count = count_of(f, base);
    if (wire_random(fill) % 8 != 0) {
        data = f->length == HARP_WIRE_TEXT ? new_text(fill) : wire_block(fill, count * size_of(f));
        if (f->item == HARP_WIRE_STRUCT)
            fill_items(fill, f, data, count, base, HARP_WIRE_OUT);
    }
    memcpy(place, &data, sizeof data);
}

/* Members of an inout struct that the callee sets. */
static void answer_members(struct wire_fill *fill, const struct harp_wire_program *p, void *base)
{
    for (unsigned i = 0; i < p->count; i++) {
        const struct harp_wire_field *f = &harp_wire_fields[p->first + i];
        uint8_t *place = (uint8_t *)base + f->at;
        if (f->hold == HARP_WIRE_LENT)
            lend(fill, f, base, place);
        else if (f->hold == HARP_WIRE_VALUE && f->item == HARP_WIRE_STRUCT)
            answer_members(fill, &harp_wire_programs[f->type], place);
        else if (f->hold == HARP_WIRE_VALUE && f->item == HARP_WIRE_CASE)
            answer_members(fill, chosen(f, base), place);
        else if (f->hold == HARP_WIRE_VALUE && f->dir == HARP_WIRE_OUT)
            fill_items(fill, f, place, f->fixed, base, HARP_WIRE_OUT);
    }
}

void wire_fill_reply(struct wire_fill *fill, struct harp_wire_call *call)
{
    const struct harp_wire_program *p = &harp_wire_programs[harp_wire_op(call->op)->program];
    for (unsigned i = 0; i < p->count; i++) {
        const struct harp_wire_field *f = &harp_wire_fields[p->first + i];
        void *data = pointer_at(call->args, f->at);
        uint64_t room = call->room[f->at / 8u];
        if (!(f->dir & HARP_WIRE_OUT) || f->hold == HARP_WIRE_VALUE || data == NULL)
            continue;
        if (f->hold == HARP_WIRE_LENT_AT)
            lend(fill, f, call->args, data);
        else if (f->item == HARP_WIRE_FETCHED)
            memset(data, (int)wire_random(fill), count_of(f, call->args));
        else if (f->item == HARP_WIRE_ROOM)
            memset(data, room > 1 ? 'x' : 0, room != 0 ? room - 1 : 0);
        else if (f->item == HARP_WIRE_STRUCT && f->dir == (HARP_WIRE_IN | HARP_WIRE_OUT))
            answer_members(fill, &harp_wire_programs[f->type], data);
        else if (f->item != HARP_WIRE_WORDS)
            fill_items(fill, f, data, room, call->args, HARP_WIRE_OUT);
        /* What counts others: at most one more than there is room for. */
        for (unsigned k = 0; k < p->count; k++) {
            const struct harp_wire_field *other = &harp_wire_fields[p->first + k];
            if (other->length == HARP_WIRE_BY_POINTED && other->by[0].at == f->at)
                store(data, (struct harp_wire_ref){0, other->by[0].bytes}, wire_random(fill) % 6);
        }
    }
}
