/* SPDX-License-Identifier: Apache-2.0
 *
 * By size, to the byte: a piece of another one would end where the program's does not. What a
 * program does over and over again is found here; of what it does once there is nothing.
 */
#include "src/shim/remote/stock.h"

#include <string.h>

static struct harp_spare out(struct harp_stock *s, size_t i)
{
    const struct harp_spare one = s->spare[i];
    s->count--;
    s->bytes -= one.bytes;
    memmove(&s->spare[i], &s->spare[i + 1], (s->count - i) * sizeof *s->spare);
    return one;
}

static uint64_t most(const struct harp_stock *s)
{
    return s->most == 0 ? HARP_LEASE_FIRST : s->most;
}

static uint64_t room(const struct harp_stock *s)
{
    return most(s) > s->bytes ? most(s) - s->bytes : 0;
}

static void begin_anew(struct harp_stock *s)
{
    s->most = 0;
    s->used = false;
}

/* NULL: nobody has asked for that size, or not lately. */
static struct harp_stock_size *size_of(struct harp_stock *s, uint64_t ctx, uint64_t bytes)
{
    for (size_t i = 0; i < HARP_STOCK_SIZES; i++)
        if (s->size[i].ask != 0 && s->size[i].bytes == bytes && s->size[i].ctx == ctx)
            return &s->size[i];
    return NULL;
}

uint64_t harp_stock_take(struct harp_stock *s, uint64_t ctx, uint64_t bytes)
{
    for (size_t i = s->count; i > 0; i--)
        if (s->spare[i - 1].bytes == bytes && s->spare[i - 1].ctx == ctx) {
            s->used = true;
            return out(s, i - 1).at;
        }
    return 0;
}

/* In the place of the size that was missed longest ago. */
static struct harp_stock_size *new_size(struct harp_stock *s, uint64_t ctx, uint64_t bytes)
{
    struct harp_stock_size *oldest = &s->size[0];
    for (size_t i = 1; i < HARP_STOCK_SIZES; i++)
        if (s->size[i].last < oldest->last)
            oldest = &s->size[i];
    *oldest = (struct harp_stock_size){.bytes = bytes, .ctx = ctx};
    return oldest;
}

unsigned harp_stock_ask(struct harp_stock *s, uint64_t ctx, uint64_t bytes)
{
    if (bytes == 0 || bytes > HARP_LEASE_LARGEST || ctx == 0)
        return 1;
    struct harp_stock_size *size = size_of(s, ctx, bytes);
    if (size == NULL)
        size = new_size(s, ctx, bytes);
    else
        size->again = true;
    size->last = ++s->misses;
    if (size->ask == 0 || !s->tight)
        size->ask = size->ask == 0 ? 1 : 2 * size->ask;
    if (size->ask > HARP_LEASE_COUNT)
        size->ask = HARP_LEASE_COUNT;
    unsigned ask = s->tight && size->ask > 2 ? 2 : size->ask; /* whether there is more by now */
    const uint64_t fit = room(s) / bytes, left = HARP_LEASE_ITEMS - s->count;
    const uint64_t spare = fit < left ? fit : left;
    return ask - 1 > spare ? (unsigned)spare + 1 : ask;
}

void harp_stock_tight(struct harp_stock *s, bool tight)
{
    s->tight = tight;
    if (tight)
        begin_anew(s);
}

bool harp_stock_keeps(struct harp_stock *s, uint64_t ctx, uint64_t bytes)
{
    const struct harp_stock_size *size = size_of(s, ctx, bytes);
    if (s->tight || size == NULL || !size->again || s->count == HARP_LEASE_ITEMS)
        return false;
    if (room(s) < bytes && s->used && most(s) < HARP_LEASE_MOST) {
        s->most = 2 * most(s);
        s->used = false;
    }
    return room(s) >= bytes;
}

bool harp_stock_put(struct harp_stock *s, const struct harp_spare *one)
{
    if (s->tight || s->count == HARP_LEASE_ITEMS || room(s) < one->bytes)
        return false;
    s->spare[s->count++] = *one;
    s->bytes += one->bytes;
    return true;
}

static void gone(struct harp_stock *s, size_t i, struct harp_spare *one)
{
    *one = out(s, i);
    struct harp_stock_size *size = one->fresh ? size_of(s, one->ctx, one->bytes) : NULL;
    if (size != NULL)
        size->ask = 1; /* for nothing */
    if (s->count == 0)
        begin_anew(s);
}

bool harp_stock_old(struct harp_stock *s, uint64_t ms, struct harp_spare *one)
{
    if (s->count == 0 || s->spare[0].since_ms > ms)
        return false;
    gone(s, 0, one);
    return true;
}

bool harp_stock_other(struct harp_stock *s, uint64_t ctx, uint64_t bytes, struct harp_spare *one)
{
    for (size_t i = 0; i < s->count; i++)
        if (s->spare[i].bytes != bytes || s->spare[i].ctx != ctx) {
            gone(s, i, one);
            return true;
        }
    return false;
}

void harp_stock_forget(struct harp_stock *s, uint64_t ctx)
{
    size_t kept = 0;
    for (size_t i = 0; i < s->count; i++)
        if (s->spare[i].ctx != ctx)
            s->spare[kept++] = s->spare[i];
        else
            s->bytes -= s->spare[i].bytes;
    s->count = kept;
    for (size_t i = 0; i < HARP_STOCK_SIZES; i++)
        if (s->size[i].ctx == ctx)
            s->size[i] = (struct harp_stock_size){.ask = 0};
}
