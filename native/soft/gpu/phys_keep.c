/* SPDX-License-Identifier: Apache-2.0
 *
 * Pages that freed memory leaves behind. A GPU's memory is always there; a host takes a microsecond
 * or two for each page that is new. So the pages of a piece of the common file stay, emptied, for
 * this process's next piece of that size. They stay mapped too, out of the way: to fill page tables
 * again is a third of the work, to move them is none.
 *
 * A process has no more pages for it than it had before: whoever makes a piece of another size
 * gives as much up. All that the machine's processes keep together is bounded. The file has no name
 * and is one process's, so nothing is left by a killed one, or seen by another.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "soft/gpu/context.h"
#include "soft/gpu/phys_parts.h"
#include "soft/gpu/space.h"

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

#define MIB         (1ull << 20)
#define PAGES       512u  /* of a granule, where they are smallest */
#define MOST_PIECES 2048u /* kept: each is a mapping, of which a process has 65530 */

struct kept {
    struct kept *next; /* the one kept before it */
    uint64_t offset, bytes;
    void *at; /* where it is mapped */
};
static struct kept *kepts; /* newest first; with soft_phys_lock, as the two below */
static uint64_t kept_bytes;
static unsigned kept_count;

static uint64_t page_bytes(void)
{
    return (uint64_t)sysconf(_SC_PAGESIZE);
}

/* Of all processes: both of two that take turns on a device that one of them fills. Locked. */
static uint64_t most_bytes(void)
{
    static uint64_t most = UINT64_MAX; /* not looked at yet */
    const char *given = getenv("HARP_SOFT_KEEP_MIB");
    uint64_t host = (uint64_t)sysconf(_SC_PHYS_PAGES) * page_bytes();
    char *end = NULL;

    if (most != UINT64_MAX)
        return most;
    most = 0;
    for (int i = 0; i < soft_visible_count(); i++)
        most += 2 * soft_the_state->profile[soft_visible_ordinal(i)]->memory_bytes;
    most = most < host / 4 ? most : host / 4;
    if (given != NULL && given[0] >= '0' && given[0] <= '9') {
        unsigned long long mib = strtoull(given, &end, 10);

        if (*end == '\0' && mib <= UINT32_MAX)
            return most = mib * MIB;
    }
    if (given != NULL && given[0] != '\0')
        soft_log("HARP_SOFT_KEEP_MIB=%.32s: it takes whole MiB from 0 to %u; as if it were unset",
                 given, UINT32_MAX);
    return most;
}

/* ---------------------------------------------------------------------- one piece's mapping --- */
/* Addresses for it; tables move whole only between multiples of what one of them holds. */
static void *place(uint64_t bytes)
{
    char *all = mmap(NULL, bytes + SOFT_GRANULE, PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    char *at;

    if (all == MAP_FAILED)
        return NULL;
    at = (char *)(uintptr_t)soft_granules((uint64_t)(uintptr_t)all);
    if (at > all)
        munmap(all, (size_t)(at - all));
    munmap(at + bytes, (size_t)(all + SOFT_GRANULE - at));
    return at;
}

void soft_keep_park(struct soft_phys *phys, void *at, uint64_t bytes)
{
    void *to;

    if (phys->parked != NULL || phys->alone || phys->growing || phys->marked ||
        phys->ordinal == SOFT_PHYS_HOST || bytes != phys->bytes)
        return;
    to = place(bytes);
    if (to == NULL)
        return;
    /* What still runs may look at the old place until that is mapped anew: so it stays. Kernels
     * before 5.13 cannot do that. */
    if (mremap(at, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, to) ==
        MAP_FAILED)
        munmap(to, bytes);
    else
        phys->parked = to;
}

bool soft_keep_unpark(struct soft_phys *phys, void *at, uint64_t bytes)
{
    if (phys->parked == NULL || bytes != phys->bytes ||
        mremap(phys->parked, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, at) == MAP_FAILED)
        return false;
    phys->parked = NULL;
    return true;
}

/* ------------------------------------------------------------------------------ what is kept -- */
static void tell(void)
{
    soft_slot_keeps(soft_the_state, kept_bytes, UINT64_MAX);
}

/* The oldest goes for good. */
static void give_up_one(void)
{
    struct kept **at = &kepts, *gone;

    while ((*at)->next != NULL)
        at = &(*at)->next;
    gone = *at;
    *at = NULL;
    kept_bytes -= gone->bytes;
    kept_count--;
    munmap(gone->at, gone->bytes);
    soft_phys_punch(gone->offset, gone->bytes);
    free(gone);
}

/* Which pages of a granule are there; how many. One that was swapped out counts as not there. */
static unsigned look(const char *at, unsigned char there[PAGES])
{
    unsigned count = 0, pages = (unsigned)(SOFT_GRANULE / page_bytes());

    if (mincore((void *)(uintptr_t)at, SOFT_GRANULE, there) != 0)
        return 0;
    for (unsigned i = 0; i < pages; i++)
        count += there[i] &= 1;
    return count;
}

static bool any_page(const struct soft_phys *phys)
{
    unsigned char there[PAGES];

    for (uint64_t at = 0; at < phys->bytes; at += SOFT_GRANULE)
        if (look((char *)phys->parked + at, there) > 0)
            return true;
    return false;
}

/* All zero again: pages that are there are overwritten, and none made. */
static void empty(const struct soft_phys *phys)
{
    unsigned char there[PAGES];
    unsigned pages = (unsigned)(SOFT_GRANULE / page_bytes());

    for (uint64_t at = 0; at < phys->bytes; at += SOFT_GRANULE) {
        char *granule = (char *)phys->parked + at;
        bool none = look(granule, there) == 0;

        for (unsigned i = 0, run; i < pages; i += run) {
            uint64_t from = i * page_bytes();

            for (run = 1; i + run < pages && (none || there[i + run] == there[i]);)
                run++;
            if (!none && there[i])
                memset(granule + from, 0, run * page_bytes());
            else
                soft_phys_punch(phys->offset + at + from, run * page_bytes());
        }
    }
}

bool soft_keep_put(struct soft_phys *phys)
{
    uint64_t most = most_bytes();
    struct kept *k;

    if (phys->parked == NULL || phys->marked || phys->bytes > most || !any_page(phys))
        return false;
    while (kepts != NULL && (kept_count >= MOST_PIECES || kept_bytes + phys->bytes > most))
        give_up_one();
    k = malloc(sizeof *k);
    if (k == NULL || !soft_slot_keeps(soft_the_state, kept_bytes + phys->bytes, most)) {
        free(k);
        tell();
        return false;
    }
    empty(phys);
    *k = (struct kept){kepts, phys->offset, phys->bytes, phys->parked};
    kepts = k;
    kept_bytes += k->bytes;
    kept_count++;
    phys->parked = NULL;
    return true;
}

bool soft_keep_take(struct soft_phys *phys)
{
    uint64_t left = phys->bytes;

    for (struct kept **at = &kepts; *at != NULL; at = &(*at)->next)
        if ((*at)->bytes == phys->bytes) {
            struct kept *k = *at;

            *at = k->next;
            phys->offset = k->offset;
            phys->parked = k->at;
            kept_bytes -= k->bytes;
            kept_count--;
            free(k);
            tell();
            return true;
        }
    while (kepts != NULL && left > 0) {
        uint64_t before = kept_bytes;

        give_up_one();
        left -= before - kept_bytes < left ? before - kept_bytes : left;
    }
    if (left < phys->bytes)
        tell();
    return false;
}

void soft_keep_drop(struct soft_phys *phys)
{
    if (phys->parked != NULL)
        munmap(phys->parked, phys->bytes);
    phys->parked = NULL;
}

void soft_keep_forget(void)
{
    while (kepts != NULL)
        give_up_one();
    tell();
}
