/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of a profile. Pure; other processes write to it at the same time, and any of them may
 * end between two statements: a row claimed but not named is named by whoever comes next.
 */
#include <stdio.h>
#include <string.h>

#include "src/shim/gate/profile.h"

#define CUT  9u           /* "~" and 8 digits */
#define LONG (1ull << 40) /* launches, or ns a launch, beyond belief: a page is anybody's */
#define NAME (HARP_PROFILE_NAME - 1u)

struct harp_profile_row harp_profile_none;

static uint64_t key_of(const char *name)
{
    uint64_t h = 0xcbf29ce484222325ull; /* FNV-1a */
    for (const char *c = name; *c != '\0'; c++)
        h = (h ^ (uint8_t)*c) * 0x100000001b3ull;
    return h != 0 ? h : 1;
}

/* Whoever has the key writes the same bytes. */
static void write_name(struct harp_profile_row *row, const char *name, uint64_t key)
{
    size_t n = strnlen(name, NAME + 1);
    char text[HARP_PROFILE_NAME] = {0};
    if (n <= NAME)
        memcpy(text, name, n);
    else
        snprintf(text, sizeof text, "%.*s~%08x", (int)(NAME - CUT), name, (unsigned)(key >> 32));
    memcpy(row->name, text, sizeof text);
    __atomic_store_n(&row->named, 1u, __ATOMIC_RELEASE);
}

struct harp_profile_row *harp_profile_named(struct harp_profile *page, const char *name)
{
    uint64_t key = key_of(name);
    unsigned count = HARP_PROFILE_ROWS - HARP_PROFILE_NAMED;
    for (unsigned i = 0; i < count; i++) {
        struct harp_profile_row *row = &page->row[HARP_PROFILE_NAMED + (key + i) % count];
        uint64_t is = __atomic_load_n(&row->key, __ATOMIC_RELAXED);
        if (is == 0 && __atomic_compare_exchange_n(&row->key, &is, key, false, __ATOMIC_RELAXED,
                                                   __ATOMIC_RELAXED))
            is = key;
        if (is != key)
            continue;
        if (__atomic_load_n(&row->named, __ATOMIC_ACQUIRE) == 0)
            write_name(row, name, key);
        return row;
    }
    return &page->row[HARP_PROFILE_OTHER];
}

void harp_profile_measured(struct harp_profile_row *const *rows, const uint64_t *weight, unsigned n,
                           uint64_t ns)
{
    uint64_t sum = 0, given = 0, passed = 0;
    for (unsigned i = 0; i < n; i++)
        sum += weight[i];
    for (unsigned i = 0; i < n; i++) {
        passed += weight[i];
        uint64_t until =
            sum != 0 ? (uint64_t)((double)ns * ((double)passed / (double)sum)) : ns / n * (i + 1);
        if (i + 1 == n || until > ns)
            until = ns;
        if (rows[i] != NULL && rows[i] != &harp_profile_none) {
            __atomic_fetch_add(&rows[i]->measured_ns, until - given, __ATOMIC_RELAXED);
            __atomic_fetch_add(&rows[i]->measured_launches, 1, __ATOMIC_RELAXED);
        }
        given = until;
    }
}

void harp_profile_stand(struct harp_profile *page)
{
    for (unsigned i = 0; i < HARP_PROFILE_ROWS; i++) {
        struct harp_profile_row *row = &page->row[i];
        uint64_t launches = __atomic_load_n(&row->launches, __ATOMIC_RELAXED);
        uint64_t measured = __atomic_load_n(&row->measured_launches, __ATOMIC_RELAXED);
        uint64_t predicted = __atomic_load_n(&row->predicted_launches, __ATOMIC_RELAXED);
        if (measured == 0 || measured > launches || predicted >= launches - measured)
            continue;
        uint64_t mean = __atomic_load_n(&row->measured_ns, __ATOMIC_RELAXED) / measured;
        uint64_t rest = launches - measured - predicted;
        if (mean < LONG && rest < LONG && /* of several processes one takes them */
            __atomic_compare_exchange_n(&row->predicted_launches, &predicted, predicted + rest,
                                        false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
            __atomic_fetch_add(&row->predicted_ns, rest * mean, __ATOMIC_RELAXED);
    }
}
