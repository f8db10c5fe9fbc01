/* SPDX-License-Identifier: Apache-2.0
 *
 * What each kernel did, by name, in a page that all processes of the tenant share: harp/profile.h.
 * It is the grant folder's file, until the arbiter gives another (profile_given); pages are never
 * unmapped, for other threads may have rows of them.
 *
 * Fast path: two additions to the row that local.h finds with the function. What it is called, and
 * how its blocks fill a multiprocessor, the driver is asked when a function is launched first.
 *
 * What is measured goes to rows by what each launch was predicted; the rest is predicted, by each
 * name's mean, when a sample comes: what was launched since the last one is in no time yet. Graphs
 * are one row; kernels in them are not told apart. Launches into a capture count as launches.
 */
#ifndef HARP_SHIM_PROFILE_H
#define HARP_SHIM_PROFILE_H

#include <stdbool.h>
#include <stdint.h>

#include "generated/shim_symbols.h"
#include "harp/profile.h"

/* --- the table: no driver ----------------------------------------------------------------------
 */

/* Stands for rows where there is no page: nothing is added to it, for a line that all threads write
 * costs each launch more than all the rest. */
extern struct harp_profile_row harp_profile_none;
/* The row of this name, claimed if need be; row OTHER if all are taken. */
struct harp_profile_row *harp_profile_named(struct harp_profile *page, const char *name);
/* What a measured batch took, by rows (NULL: of no kernel) in proportion to `weight`. */
void harp_profile_measured(struct harp_profile_row *const *rows, const uint64_t *weight, unsigned n,
                           uint64_t ns);
/* Launches that nobody measured are taken for as long as the mean of those of their row. */
void harp_profile_stand(struct harp_profile *page);

/* --- of this process ---------------------------------------------------------------------------
 */

/* The tenant's page; where it has none, one that nobody reads. */
struct harp_profile *harp_profile_page(void);
/* The arbiter's, from now on, if it is one that cannot shrink under us. Closes fd. Session lock
 * held. */
void harp_profile_given(int fd);
/* The row of a function, after the driver; harp_profile_none without a page. */
struct harp_profile_row *harp_profile_of(CUfunction f);
/* The row of a launch that takes the slow path; NULL: a call inside the driver. */
struct harp_profile_row *harp_profile_launch(CUfunction f, uint64_t threads, uint64_t shared);
struct harp_profile_row *harp_profile_graph(void);
void harp_profile_copied(enum harp_copied way, uint64_t bytes);

static inline void harp_profile_launched(struct harp_profile_row *row, uint64_t blocks)
{
    if (row == NULL || row == &harp_profile_none)
        return;
    __atomic_fetch_add(&row->launches, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&row->blocks, blocks, __ATOMIC_RELAXED);
}

static inline enum harp_copied harp_profile_way(CUmemorytype from, CUmemorytype to)
{
    bool host = from == CU_MEMORYTYPE_HOST, device = to != CU_MEMORYTYPE_HOST;
    if (from == CU_MEMORYTYPE_UNIFIED || to == CU_MEMORYTYPE_UNIFIED || (host && !device))
        return HARP_COPIED_OTHER;
    return host ? HARP_COPIED_HTOD : device ? HARP_COPIED_DTOD : HARP_COPIED_DTOH;
}

#endif
