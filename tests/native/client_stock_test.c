/* SPDX-License-Identifier: Apache-2.0
 *
 * What a remote session's client does with spare allocations, against a model that has them in a
 * list: nobody is given what is not there or another's, and there is never more than may be.
 */
#include <string.h>

#include "check.h"
#include "src/shim/remote/stock.h"

#define KIB   (1ull << 10)
#define TURNS 300000
#define STEPS 1500 /* after each, all begins anew */
#define CTXS  3u
#define MODEL HARP_LEASE_ITEMS

static uint64_t state = 20261126;

static uint64_t some(uint64_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % below;
}

static struct harp_stock stock;
static struct harp_spare model[MODEL]; /* the one that came first first */
static size_t count;
static uint64_t next_address, now_ms;

static uint64_t a_size(void)
{
    static const uint64_t sizes[] = {1, 512, 3 * KIB, 64 * KIB, 100 * KIB, 1024 * KIB, 1025 * KIB};
    return sizes[some(sizeof sizes / sizeof *sizes)];
}

static uint64_t total(void)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < count; i++)
        bytes += model[i].bytes;
    return bytes;
}

static bool same(const struct harp_spare *a, const struct harp_spare *b)
{
    return a->at == b->at && a->bytes == b->bytes && a->ctx == b->ctx &&
           a->since_ms == b->since_ms && a->fresh == b->fresh;
}

static void out(size_t i)
{
    count--;
    memmove(&model[i], &model[i + 1], (count - i) * sizeof *model);
}

static void put(uint64_t at, uint64_t ctx, uint64_t bytes, bool expected)
{
    const struct harp_spare one = {
        .at = at, .bytes = bytes, .ctx = ctx, .since_ms = now_ms, .fresh = some(2) == 0};
    bool put = harp_stock_put(&stock, &one);
    CHECK(put || !expected);
    if (put) {
        CHECK(count < MODEL);
        model[count++] = one;
    }
}

static uint64_t fresh(void)
{
    return next_address += 2048 * KIB;
}

/* As cuMemAlloc does: what is there, or what is asked for. */
static void allocate(uint64_t ctx, uint64_t bytes)
{
    size_t i = count;
    while (i > 0 && (model[i - 1].bytes != bytes || model[i - 1].ctx != ctx))
        i--;
    uint64_t at = harp_stock_take(&stock, ctx, bytes);
    CHECK(at == (i == 0 ? 0 : model[i - 1].at)); /* the latest, and if there is one */
    if (at != 0) {
        out(i - 1);
        return;
    }
    unsigned ask = harp_stock_ask(&stock, ctx, bytes);
    CHECK(ask >= 1 && ask <= HARP_LEASE_COUNT);
    CHECK(ask == 1 || (bytes <= HARP_LEASE_LARGEST && ctx != 0));
    CHECK(ask == 1 || total() + (ask - 1) * bytes <= HARP_LEASE_MOST);
    CHECK(ask - 1 <= MODEL - count);
    if (ask == 1)
        return;
    unsigned granted = (unsigned)some(ask); /* the worker may have fewer, or none */
    harp_stock_tight(&stock, granted == 0);
    for (unsigned k = 0; k < granted; k++)
        put(fresh(), ctx, bytes, true);
}

static void release(uint64_t ctx, uint64_t bytes)
{
    if (harp_stock_keeps(&stock, ctx, bytes)) {
        CHECK(!stock.tight && bytes <= HARP_LEASE_LARGEST && ctx != 0);
        put(fresh(), ctx, bytes, true);
    }
}

static void give(uint64_t until_ms)
{
    struct harp_spare one;
    while (harp_stock_old(&stock, until_ms, &one)) {
        CHECK(count > 0 && same(&one, &model[0]) && one.since_ms <= until_ms);
        out(0);
    }
    CHECK(count == 0 || model[0].since_ms > until_ms);
}

static void give_others(uint64_t ctx, uint64_t bytes)
{
    struct harp_spare one;
    size_t i = 0;
    while (harp_stock_other(&stock, ctx, bytes, &one)) {
        while (i < count && model[i].bytes == bytes && model[i].ctx == ctx)
            i++;
        CHECK(i < count && same(&one, &model[i]));
        out(i);
    }
    for (i = 0; i < count; i++)
        CHECK(model[i].bytes == bytes && model[i].ctx == ctx);
}

static void forget(uint64_t ctx)
{
    harp_stock_forget(&stock, ctx);
    for (size_t i = 0; i < count;)
        if (model[i].ctx == ctx)
            out(i);
        else
            i++;
}

static void against_a_model(void)
{
    for (unsigned turn = 0; turn < TURNS; turn++) {
        if (turn % STEPS == 0) {
            stock = (struct harp_stock){.count = 0};
            count = 0;
        }
        const uint64_t ctx = some(CTXS), bytes = a_size();
        now_ms += some(3);
        switch (some(40)) {
        case 0:
            harp_stock_tight(&stock, some(2) == 0);
            break;
        case 1:
            give(now_ms - some(50));
            break;
        case 2:
            forget(ctx);
            break;
        case 4:
            give_others(ctx, bytes);
            break;
        case 3:
            put(fresh(), ctx, bytes, false); /* whether or not it was asked whether */
            break;
        default:
            if (some(2) == 0)
                allocate(ctx, bytes);
            else
                release(ctx, bytes);
            break;
        }
        CHECK(stock.count == count && stock.bytes == total());
        CHECK(count <= HARP_LEASE_ITEMS && stock.bytes <= HARP_LEASE_MOST);
    }
    give(UINT64_MAX);
    CHECK(stock.count == 0 && stock.bytes == 0);
}

/* Twice as many each time, of a size that is wanted again; and no others. */
static void more_each_time(void)
{
    static const unsigned asked[] = {1, 2, 4, 8, 16, 32, 32};
    stock = (struct harp_stock){.count = 0};
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++)
        CHECK(harp_stock_ask(&stock, 5, 1000) == asked[i]);
    CHECK(harp_stock_ask(&stock, 6, 1000) == 1 && harp_stock_ask(&stock, 5, 1001) == 1);
    for (unsigned i = 0; i < 3; i++)
        CHECK(harp_stock_ask(&stock, 0, 1000) == 1 &&
              harp_stock_ask(&stock, 5, HARP_LEASE_LARGEST + 1) == 1);
    /* No more than there is room for. */
    CHECK(harp_stock_ask(&stock, 5, HARP_LEASE_LARGEST) == 1);
    for (unsigned i = 0; i < 5; i++)
        CHECK(harp_stock_ask(&stock, 5, HARP_LEASE_LARGEST) <= 3);
    /* While the worker has little, one more: it may have some again. */
    harp_stock_tight(&stock, true);
    CHECK(harp_stock_ask(&stock, 5, 1000) == 2 && harp_stock_ask(&stock, 5, 2000) == 1);
    CHECK(harp_stock_ask(&stock, 5, 2000) == 1 && harp_stock_ask(&stock, 5, 2000) == 1);
    harp_stock_tight(&stock, false);
    CHECK(harp_stock_ask(&stock, 5, 2000) == 2 && harp_stock_ask(&stock, 5, 1000) == 32);
}

/* What goes back as it came was asked for in vain: so many are not asked for again. */
static void not_so_many_in_vain(void)
{
    struct harp_spare one = {.at = 64, .bytes = 1000, .ctx = 5, .fresh = true}, got;
    stock = (struct harp_stock){.count = 0};
    for (unsigned i = 0; i < 4; i++)
        harp_stock_ask(&stock, 5, 1000);
    CHECK(harp_stock_put(&stock, &one) && harp_stock_other(&stock, 5, 2000, &got));
    CHECK(got.at == 64 && harp_stock_ask(&stock, 5, 1000) == 2);
    one.fresh = false;
    CHECK(harp_stock_put(&stock, &one) && harp_stock_old(&stock, UINT64_MAX, &got));
    CHECK(harp_stock_ask(&stock, 5, 1000) == 4);
    CHECK(harp_stock_keeps(&stock, 5, 1000) && !harp_stock_keeps(&stock, 6, 1000));
}

static bool frees(uint64_t bytes)
{
    const struct harp_spare one = {.at = fresh(), .bytes = bytes, .ctx = 5};
    return harp_stock_keeps(&stock, 5, bytes) && harp_stock_put(&stock, &one);
}

/* What was wanted once is freed; what stays has more room while it is of use. */
static void room_grows_with_use(void)
{
    const uint64_t size = 512 * KIB;
    unsigned kept = 0;
    struct harp_spare one;
    stock = (struct harp_stock){.count = 0};
    CHECK(harp_stock_ask(&stock, 5, size) == 1 && !frees(size));
    CHECK(harp_stock_ask(&stock, 5, size) == 2);
    while (frees(size))
        kept++;
    CHECK(kept * size == HARP_LEASE_FIRST);
    for (uint64_t most = 2 * HARP_LEASE_FIRST; most <= HARP_LEASE_MOST; most *= 2) {
        CHECK(harp_stock_take(&stock, 5, size) != 0);
        for (kept = 0; frees(size); kept++)
            CHECK(kept < 100);
        CHECK(stock.bytes == most);
    }
    CHECK(harp_stock_take(&stock, 5, size) != 0 && frees(size) && !frees(size));
    CHECK(stock.bytes == HARP_LEASE_MOST);
    /* Once all has gone back it begins as it did. */
    while (harp_stock_old(&stock, UINT64_MAX, &one))
        ;
    for (kept = 0; frees(size); kept++)
        CHECK(kept < 100);
    CHECK(stock.bytes == HARP_LEASE_FIRST);
}

int main(void)
{
    more_each_time();
    not_so_many_in_vain();
    room_grows_with_use();
    against_a_model();
    return 0;
}
