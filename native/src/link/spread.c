/* SPDX-License-Identifier: Apache-2.0
 *
 * A word of chunks a transfer and stream.
 */
#include "src/link/spread.h"

#include <errno.h>
#include <stddef.h>

static bool size_fits(uint64_t bytes)
{
    return bytes >= HARP_SPREAD_LEAST_BYTES && bytes <= HARP_SPREAD_ALL_BYTES;
}

/* All chunks of so many bytes. */
static uint64_t chunks(uint64_t bytes)
{
    uint64_t count = (bytes + HARP_SPREAD_CHUNK_BYTES - 1) / HARP_SPREAD_CHUNK_BYTES;
    return count == 64 ? UINT64_MAX : (1ull << count) - 1;
}

static uint32_t chunk_bytes(uint64_t bytes, uint64_t chunk)
{
    uint64_t left = bytes - chunk * HARP_SPREAD_CHUNK_BYTES;
    return left < HARP_SPREAD_CHUNK_BYTES ? (uint32_t)left : HARP_SPREAD_CHUNK_BYTES;
}

/* --- out --- */

void harp_spread_open(struct harp_spread *s)
{
    *s = (struct harp_spread){.first = NULL};
    s->last = &s->first;
}

bool harp_spread_can(const struct harp_spread *s, uint64_t bytes)
{
    return size_fits(bytes) && bytes <= HARP_SPREAD_ALL_BYTES - s->bytes;
}

void harp_spread_add(struct harp_spread *s, struct harp_spread_item *item)
{
    item->next = NULL;
    item->todo = chunks(item->bytes);
    for (unsigned way = 0; way < HARP_SPREAD_WAYS; way++)
        item->on[way] = 0;
    item->doubt = item->there = 0;
    item->lent = 0;
    item->taken = false;
    *s->last = item;
    s->last = &item->next;
    s->bytes += item->bytes;
    item->number = ++s->added;
}

int harp_spread_next(struct harp_spread *s, unsigned way, struct harp_spread_item **out)
{
    struct harp_spread_item *item = s->first;
    while (item != NULL && item->todo == 0)
        item = item->next;
    if (item == NULL)
        return -1;
    const int chunk = __builtin_ctzll(item->todo);
    item->todo &= ~(1ull << chunk);
    item->on[way] |= 1ull << chunk;
    item->lent++;
    *out = item;
    return chunk;
}

bool harp_spread_some(const struct harp_spread *s)
{
    for (const struct harp_spread_item *item = s->first; item != NULL; item = item->next)
        if (item->todo != 0)
            return true;
    return false;
}

uint32_t harp_spread_chunk_bytes(const struct harp_spread_item *item, unsigned chunk)
{
    return chunk_bytes(item->bytes, chunk);
}

void harp_spread_refused(struct harp_spread_item *item, unsigned way, unsigned chunk)
{
    item->on[way] &= ~(1ull << chunk);
    item->todo |= 1ull << chunk;
    item->lent--;
}

void harp_spread_back(struct harp_spread_item *item)
{
    item->lent--;
    if (item->taken && item->lent == 0)
        item->drop(item);
}

void harp_spread_lost(struct harp_spread *s, unsigned way)
{
    for (struct harp_spread_item *item = s->first; item != NULL; item = item->next) {
        item->doubt |= item->on[way] & ~item->there;
        item->on[way] = 0;
    }
}

int harp_spread_there(struct harp_spread *s, uint64_t number, uint64_t there)
{
    struct harp_spread_item *item = s->first;
    if (number == 0 || number > s->added)
        return -EPROTO;
    while (item != NULL && item->number != number)
        item = item->next;
    if (item == NULL)
        return 0; /* taken in by now */
    there &= chunks(item->bytes);
    const bool more = (there & ~item->there) != 0;
    item->there |= there;
    item->todo &= ~there;
    item->doubt &= ~there;
    return more;
}

void harp_spread_settle(struct harp_spread *s)
{
    for (struct harp_spread_item *item = s->first; item != NULL; item = item->next) {
        item->todo |= item->doubt;
        item->doubt = 0;
    }
}

int harp_spread_acked(struct harp_spread *s, uint64_t count)
{
    if (count > s->added)
        return -EPROTO;
    while (s->taken < count) {
        struct harp_spread_item *item = s->first;
        s->first = item->next;
        if (s->first == NULL)
            s->last = &s->first;
        s->bytes -= item->bytes;
        s->taken++;
        item->taken = true;
        if (item->lent == 0)
            item->drop(item);
    }
    return 0;
}

/* --- in --- */

uint64_t harp_gather_there(const struct harp_gather_item *item)
{
    return chunks(item->bytes) & ~item->missing;
}

struct harp_gather_item *harp_gather_find(struct harp_gather *g, uint64_t number)
{
    for (unsigned i = 0; i < g->count; i++)
        if (g->open[i].number == number)
            return &g->open[i];
    return NULL;
}

int harp_gather_can(const struct harp_gather *g, uint64_t number, uint64_t id, uint64_t bytes)
{
    if (number <= g->taken || number - g->taken > HARP_SPREAD_OPEN || !size_fits(bytes) ||
        bytes > HARP_SPREAD_ALL_BYTES - g->bytes)
        return -EPROTO;
    for (unsigned i = 0; i < g->count; i++)
        if (g->open[i].id == id)
            return -EPROTO;
    return 0;
}

struct harp_gather_item *harp_gather_add(struct harp_gather *g, uint64_t number, uint64_t id,
                                         uint64_t bytes, uint64_t offset)
{
    struct harp_gather_item *item = &g->open[g->count++]; /* bounded by their bytes */
    *item = (struct harp_gather_item){
        .number = number, .id = id, .bytes = bytes, .missing = chunks(bytes), .offset = offset};
    g->bytes += bytes;
    return item;
}

int harp_gather_chunk(struct harp_gather_item *item, uint64_t at, uint64_t of, uint32_t bytes)
{
    const uint64_t chunk = at / HARP_SPREAD_CHUNK_BYTES;
    if (of != item->bytes || at >= of || at % HARP_SPREAD_CHUNK_BYTES != 0 ||
        bytes != chunk_bytes(of, chunk))
        return -EPROTO;
    const bool fresh = (item->missing >> chunk & 1) != 0;
    item->missing &= ~(1ull << chunk);
    return fresh;
}

void harp_gather_take(struct harp_gather *g, struct harp_gather_item *item)
{
    g->taken = item->number;
    g->bytes -= item->bytes;
    *item = g->open[--g->count];
}
