/* SPDX-License-Identifier: Apache-2.0 */
#include "src/shim/gate/share.h"

#include <stdlib.h>

#include "harp/lease.h"

struct harp_share *harp_share_find(struct harp_share *list, uint64_t owner)
{
    while (list != NULL && list->owner != owner)
        list = list->next;
    return list;
}

struct harp_share *harp_share_of(struct harp_share **list, uint64_t owner, int dev)
{
    struct harp_share *s = harp_share_find(*list, owner);
    if (s == NULL && (s = calloc(1, sizeof *s)) != NULL) {
        *s = (struct harp_share){.next = *list, .owner = owner, .dev = dev};
        *list = s;
    }
    return s;
}

bool harp_share_fits(const struct harp_share *s, uint64_t bytes)
{
    uint64_t held = s->extra + s->granules, room = held * HARP_GRANULE_BYTES;
    uint64_t used = s->piece_bytes + s->block_bytes, gaps = s->pieces + s->blocks + held;
    return held != 0 && room > used && (room - used) / gaps >= bytes;
}

uint64_t harp_share_opened(struct harp_share *s, uint64_t bytes)
{
    bool fits = s->extra != 0 && harp_share_fits(s, bytes);
    s->granules++;
    s->extra -= fits;
    s->mixed += fits;
    return fits;
}

uint64_t harp_share_closed(struct harp_share *s)
{
    bool stays = s->mixed != 0;
    s->granules -= s->granules != 0;
    s->mixed -= stays;
    s->extra += stays;
    return stays;
}

void harp_share_add(struct harp_share *s, uint64_t bytes, bool fits)
{
    s->pieces++;
    s->piece_bytes += bytes;
    if (!fits)
        s->extra++;
    else if (s->mixed < s->granules && s->extra + s->mixed < s->pieces)
        s->mixed++;
}

uint64_t harp_share_remove(struct harp_share *s, uint64_t bytes)
{
    s->pieces -= s->pieces != 0;
    s->piece_bytes -= bytes < s->piece_bytes ? bytes : s->piece_bytes;
    uint64_t back = s->extra > s->pieces ? s->extra - s->pieces : 0;
    s->extra -= back;
    if (s->mixed > s->pieces - s->extra)
        s->mixed = s->pieces - s->extra;
    return back;
}

uint64_t harp_share_end(struct harp_share **list, uint64_t owner)
{
    struct harp_share **at = list;
    while (*at != NULL && (*at)->owner != owner)
        at = &(*at)->next;
    struct harp_share *gone = *at;
    if (gone == NULL)
        return 0;
    uint64_t extra = gone->extra;
    *at = gone->next;
    free(gone);
    return extra;
}
