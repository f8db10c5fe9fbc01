/* SPDX-License-Identifier: Apache-2.0
 *
 * A list in order, and four counts.
 */
#include "src/link/replay.h"

#include <errno.h>
#include <stddef.h>

void harp_replay_open(struct harp_replay *r, uint64_t most)
{
    *r = (struct harp_replay){.most = most};
    r->last = &r->first;
}

bool harp_replay_full(const struct harp_replay *r)
{
    return r->bytes >= r->most;
}

void harp_replay_add(struct harp_replay *r, struct harp_replay_item *item, uint32_t cost)
{
    item->next = NULL;
    item->number = ++r->added;
    item->cost = cost;
    item->lent = false;
    item->listed = true;
    *r->last = item;
    r->last = &item->next;
    r->bytes += cost;
    if (r->next == NULL)
        r->next = item;
}

struct harp_replay_item *harp_replay_next(const struct harp_replay *r)
{
    return r->next;
}

/* The first one leaves; it stays with the connection that has it. */
static void leave(struct harp_replay *r)
{
    struct harp_replay_item *item = r->first;
    r->first = item->next;
    if (r->first == NULL)
        r->last = &r->first;
    if (r->next == item)
        r->next = item->next;
    r->bytes -= item->cost;
    r->gone = item->number;
    item->listed = false;
    if (!item->lent)
        item->drop(item);
}

void harp_replay_give(struct harp_replay *r)
{
    struct harp_replay_item *item = r->next;
    item->lent = true;
    if (item->number > r->given)
        r->given = item->number;
    r->next = item->next;
    while (!r->keeps && r->first != r->next)
        leave(r);
}

void harp_replay_back(struct harp_replay_item *item)
{
    item->lent = false;
    if (!item->listed)
        item->drop(item);
}

int harp_replay_acked(struct harp_replay *r, uint64_t count)
{
    if (count > r->given)
        return -EPROTO;
    while (r->first != NULL && r->first->number <= count)
        leave(r);
    if (count > r->acked)
        r->acked = count;
    return 0;
}

void harp_replay_trim(struct harp_replay *r)
{
    while (r->bytes > r->most && r->first != r->next && !r->first->lent)
        leave(r);
}

int harp_replay_can(const struct harp_replay *r, uint64_t count)
{
    if (count > r->given)
        return -EPROTO;
    return count < r->gone ? -ENODATA : 0;
}

int harp_replay_from(struct harp_replay *r, uint64_t count)
{
    int err = harp_replay_can(r, count);
    if (err != 0)
        return err;
    (void)harp_replay_acked(r, count);
    r->next = r->first;
    harp_replay_tell(r); /* the connection begins with it */
    return 0;
}

bool harp_replay_took(struct harp_replay *r, uint32_t bytes)
{
    r->taken++;
    r->untold_bytes += bytes;
    return r->untold_bytes >= HARP_REPLAY_TELL_BYTES;
}

bool harp_replay_untold(const struct harp_replay *r)
{
    return r->told != r->taken;
}

void harp_replay_tell(struct harp_replay *r)
{
    r->told = r->taken;
    r->untold_bytes = 0;
}
