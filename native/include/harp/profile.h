/* SPDX-License-Identifier: Apache-2.0
 *
 * The profile: what a tenant's kernels did, by name, in a page that all processes of the tenant add
 * to (libharp) and harpd reads. It is one of two:
 *   a file `profile` in its grant folder, made whole by whoever makes the folder;
 *   memory without a name (memfd), where tenant and harpd have no folder that both can use: the
 *   containers', and other users' of a harpd that is not root's. harpd makes it, sealed so that it
 *   cannot grow or shrink (F_SEAL_GROW, F_SEAL_SHRINK), and the arbiter hands it to each client
 *   with its WELCOME (lease.h). Who is given one uses it, whatever lies in the folder.
 *
 * It is of its tenant, so totals outlive a process however that ends. A row is claimed by its key
 * and never given up; names that come when all are taken are counted in row OTHER. A page of
 * another version or size is let alone; where there is none nothing is counted. A client that is
 * given another page than it has goes on in that one; what it added to the first stays there.
 *
 * The reader believes nothing: harp/profile.py. It is a file format: sizes are asserted here and in
 * tests/unit from Python.
 */
#ifndef HARP_PROFILE_H
#define HARP_PROFILE_H

#include <stdint.h>

#define HARP_PROFILE_MAGIC   0x464f525050524148ull /* "HARPPROF" */
#define HARP_PROFILE_VERSION 1u
#define HARP_PROFILE_ROWS    256u
#define HARP_PROFILE_NAME    120u

enum harp_profile_fixed { HARP_PROFILE_OTHER = 0, HARP_PROFILE_GRAPHS = 1, HARP_PROFILE_NAMED = 2 };

enum harp_copied {
    HARP_COPIED_HTOD = 0,
    HARP_COPIED_DTOH = 1,
    HARP_COPIED_DTOD = 2,
    HARP_COPIED_OTHER = 3, /* which way only the driver knows */
    HARP_COPIED_FILL = 4,
    HARP_COPIED_WAYS = 5,
};

struct harp_profile_row {
    uint64_t key; /* of the whole name; 0: free */
    uint64_t launches, blocks;
    uint64_t measured_launches, measured_ns;   /* between two events */
    uint64_t predicted_launches, predicted_ns; /* not measured: by the mean of those that are */
    uint32_t named;                            /* `name` is written */
    uint32_t asked;                            /* how often the driver was, about block sizes */
    uint32_t block_threads;                    /* of a block, when it was asked last ... */
    uint32_t occupancy_ppm; /* ... and how much of a multiprocessor such blocks fill; 0: unknown */
    char name[HARP_PROFILE_NAME]; /* NUL-terminated; cut, it ends in "~" and 8 digits of the key */
};

struct harp_profile {
    uint64_t magic;
    uint32_t version, rows;
    uint64_t copied_bytes[HARP_COPIED_WAYS];
    uint64_t reserved[25];
    struct harp_profile_row row[HARP_PROFILE_ROWS];
};

_Static_assert(sizeof(struct harp_profile_row) == 192, "harp_profile is a file format");
_Static_assert(__builtin_offsetof(struct harp_profile_row, named) == 56, "harp_profile");
_Static_assert(__builtin_offsetof(struct harp_profile_row, name) == 72, "harp_profile");
_Static_assert(__builtin_offsetof(struct harp_profile, copied_bytes) == 16, "harp_profile");
_Static_assert(__builtin_offsetof(struct harp_profile, row) == 256, "harp_profile");

#endif
