/* SPDX-License-Identifier: Apache-2.0 */
#include "src/shim/gate/pieces.h"

#include <stdlib.h>
#include <string.h>

#define ALIGN 512u /* what pools deal out in */

static uint64_t end_of(const struct harp_piece *a)
{
    return a->start + a->bytes;
}

/* The first piece that ends behind `ptr`. */
static size_t find(const struct harp_pieces *p, uint64_t ptr)
{
    size_t low = 0, high = p->count;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (end_of(&p->at[mid]) <= ptr)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static struct harp_piece *piece_at(struct harp_pieces *p, uint64_t ptr, enum harp_piece_is is)
{
    size_t i = find(p, ptr);
    return i < p->count && p->at[i].start == ptr && p->at[i].is == is ? &p->at[i] : NULL;
}

static bool insert(struct harp_pieces *p, size_t i, const struct harp_piece *a)
{
    if (p->count == p->room) {
        size_t room = p->room == 0 ? 64 : p->room * 2;
        struct harp_piece *at = realloc(p->at, room * sizeof *at);
        if (at == NULL)
            return false;
        p->at = at;
        p->room = room;
    }
    memmove(&p->at[i + 1], &p->at[i], (p->count - i) * sizeof *p->at);
    p->at[i] = *a;
    p->count++;
    p->live += a->is != HARP_PIECE_FREE;
    return true;
}

static void take_out(struct harp_pieces *p, size_t i)
{
    p->live -= p->at[i].is != HARP_PIECE_FREE;
    memmove(&p->at[i], &p->at[i + 1], (p->count - i - 1) * sizeof *p->at);
    p->count--;
}

/* [from, to) is nothing that is known of. Returns where a piece there belongs. */
static size_t cut(struct harp_pieces *p, uint64_t from, uint64_t to)
{
    size_t i = find(p, from);
    while (i < p->count && p->at[i].start < to) {
        struct harp_piece *a = &p->at[i], rest = *a;
        bool before = a->start<from, behind = end_of(a)> to;
        rest.bytes = end_of(a) - to;
        rest.start = to;
        if ((!before && !behind) || a->is != HARP_PIECE_FREE) { /* it was freed, then */
            take_out(p, i);
            continue;
        }
        if (!before) {
            *a = rest;
            break;
        }
        a->bytes = from - a->start;
        i++;
        if (behind) {
            insert(p, i, &rest); /* else that rest is not known any more */
            break;
        }
    }
    return i;
}

bool harp_pieces_made(struct harp_pieces *p, uint64_t ptr, uint64_t bytes, uintptr_t stream,
                      uint64_t grown)
{
    bytes = (bytes + ALIGN - 1) & ~(uint64_t)(ALIGN - 1);
    size_t i = find(p, ptr);
    bool known = i < p->count && p->at[i].is == HARP_PIECE_FREE && !p->at[i].lost &&
                 p->at[i].start <= ptr && end_of(&p->at[i]) >= ptr + bytes;
    struct harp_piece made = {
        .start = ptr, .bytes = bytes, .stream = stream, .is = HARP_PIECE_LIVE};
    bool fresh = !known && grown >= bytes;
    if (known)
        made.extent = p->at[i].extent;
    else if (fresh)
        made.extent = ptr;
    i = cut(p, ptr, ptr + (fresh ? grown : bytes));
    struct harp_piece rest = {.start = ptr + bytes,
                              .bytes = grown - bytes,
                              .extent = ptr,
                              .stream = HARP_ANYBODY,
                              .is = HARP_PIECE_FREE};
    if (insert(p, i, &made) && fresh && grown > bytes)
        insert(p, i + 1, &rest);
    return known;
}

bool harp_pieces_freeing(struct harp_pieces *p, uint64_t ptr)
{
    struct harp_piece *a = piece_at(p, ptr, HARP_PIECE_LIVE);
    if (a != NULL)
        a->is = HARP_PIECE_FREEING;
    return a != NULL;
}

void harp_pieces_refused(struct harp_pieces *p, uint64_t ptr)
{
    struct harp_piece *a = piece_at(p, ptr, HARP_PIECE_FREEING);
    if (a != NULL)
        a->is = HARP_PIECE_LIVE;
}

/* The piece behind `i` becomes part of it, if it is free on the same terms. */
static void join(struct harp_pieces *p, size_t i)
{
    if (i + 1 >= p->count)
        return;
    struct harp_piece *a = &p->at[i], *b = &p->at[i + 1];
    if (a->is != HARP_PIECE_FREE || b->is != HARP_PIECE_FREE || a->stream != b->stream || a->lost ||
        b->lost || a->extent != b->extent || end_of(a) != b->start)
        return;
    a->bytes += b->bytes;
    if (b->order > a->order)
        a->order = b->order;
    take_out(p, i + 1);
}

void harp_pieces_freed(struct harp_pieces *p, uint64_t ptr, uintptr_t stream)
{
    struct harp_piece *a = piece_at(p, ptr, HARP_PIECE_FREEING);
    if (a == NULL)
        return; /* dealt out again already */
    a->is = HARP_PIECE_FREE;
    if (stream != HARP_ANYBODY)
        a->stream = stream;
    a->order = ++p->frees;
    p->live--;
    size_t i = (size_t)(a - p->at);
    if (a->lost && a->stream == HARP_ANYBODY) {
        take_out(p, i);
        return;
    }
    join(p, i);
    if (i > 0) {
        size_t before = p->count;
        join(p, i - 1);
        i -= p->count != before;
    }
    p->hint = i;
}

/* Of the free piece `i`: up to where a living neighbour holds it from the left, and from where one
 * does from the right. */
static void held(const struct harp_pieces *p, size_t i, uint64_t unit, uint64_t *left,
                 uint64_t *right)
{
    const struct harp_piece *a = &p->at[i];
    *left = a->start;
    *right = end_of(a);
    for (size_t j = i; a->extent != 0 && j-- > 0 && p->at[j].extent == a->extent;) {
        if (p->at[j].is != HARP_PIECE_LIVE)
            continue;
        uint64_t last = end_of(&p->at[j]) - 1 - a->extent;
        *left = a->extent + (last / unit + 1) * unit;
        break;
    }
    for (size_t j = i + 1; a->extent != 0 && j < p->count && p->at[j].extent == a->extent; j++) {
        if (p->at[j].is != HARP_PIECE_LIVE)
            continue;
        *right = a->extent + (p->at[j].start - a->extent) / unit * unit;
        break;
    }
    if (*left < a->start)
        *left = a->start;
    if (*left > end_of(a))
        *left = end_of(a);
    if (*right < a->start)
        *right = a->start;
    if (*right > end_of(a))
        *right = end_of(a);
}

static bool fits(const struct harp_pieces *p, size_t i, uint64_t bytes, uintptr_t stream,
                 uint64_t unit, bool kept)
{
    const struct harp_piece *a = &p->at[i];
    uint64_t left, right;
    if (a->is != HARP_PIECE_FREE || a->lost || a->bytes < bytes ||
        (a->stream != HARP_ANYBODY && a->stream != stream))
        return false;
    if (kept || bytes <= unit)
        return true;
    held(p, i, unit, &left, &right);
    return left >= right || left - a->start >= bytes || end_of(a) - right >= bytes;
}

bool harp_pieces_fit(struct harp_pieces *p, uint64_t bytes, uintptr_t stream, uint64_t unit,
                     bool kept)
{
    bytes = (bytes + ALIGN - 1) & ~(uint64_t)(ALIGN - 1);
    if (p->hint < p->count && fits(p, p->hint, bytes, stream, unit, kept))
        return true;
    for (size_t i = 0; i < p->count; i++)
        if (fits(p, i, bytes, stream, unit, kept)) {
            p->hint = i;
            return true;
        }
    return false;
}

void harp_pieces_shrunk(struct harp_pieces *p, uint64_t unit)
{
    size_t kept = 0;
    struct harp_pieces now = {.frees = p->frees};
    for (size_t i = 0; i < p->count; i++) {
        struct harp_piece a = p->at[i], b = a;
        if (a.is == HARP_PIECE_FREEING || a.lost) {
            a.lost = true;
            b.bytes = 0;
        } else if (a.is == HARP_PIECE_FREE) {
            uint64_t left, right, end = end_of(&a);
            held(p, i, unit, &left, &right);
            if (left < right && a.stream != HARP_ANYBODY) {
                a.lost = true;
                b.bytes = 0;
            } else if (left < right) {
                a.bytes = left - a.start;
                b.start = right;
                b.bytes = end - right;
            } else {
                b.bytes = 0;
            }
        } else {
            b.bytes = 0;
        }
        if (a.bytes != 0 && insert(&now, kept, &a))
            kept++;
        if (b.bytes != 0 && insert(&now, kept, &b))
            kept++;
    }
    free(p->at);
    *p = now;
}

void harp_pieces_over(struct harp_pieces *p, uintptr_t stream, uint64_t order)
{
    for (size_t i = p->count; i-- > 0;) {
        struct harp_piece *a = &p->at[i];
        if (a->is != HARP_PIECE_FREE || a->stream != stream || a->order > order)
            continue;
        a->stream = HARP_ANYBODY;
        if (a->lost)
            take_out(p, i);
    }
    for (size_t i = p->count; i-- > 1;)
        join(p, i - 1);
}

void harp_pieces_stream_gone(struct harp_pieces *p, uintptr_t stream)
{
    for (size_t i = 0; i < p->count; i++)
        if (p->at[i].stream != HARP_ANYBODY && (stream == 0 || p->at[i].stream == stream))
            p->at[i].stream = HARP_NOBODY;
}

uintptr_t harp_pieces_pending(const struct harp_pieces *p, uintptr_t after)
{
    uintptr_t next = 0;
    for (size_t i = 0; i < p->count; i++) {
        uintptr_t stream = p->at[i].is == HARP_PIECE_FREE ? p->at[i].stream : 0;
        if (stream > after && (next == 0 || stream < next))
            next = stream;
    }
    return next;
}

void harp_pieces_clear(struct harp_pieces *p)
{
    free(p->at);
    *p = (struct harp_pieces){0};
}
