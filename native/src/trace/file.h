/* SPDX-License-Identifier: Apache-2.0
 *
 * A trace file that is being written: segments in a ring, mapped and shared. Thread-safe; errno is
 * kept; nothing here waits but for the lock and for the disk at the first use of a segment.
 */
#ifndef HARP_TRACE_FILE_H
#define HARP_TRACE_FILE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "src/trace/format.h"

struct harp_trace_file {
    pthread_mutex_t lock; /* all below */
    struct harp_trace_header *header;
    uint8_t *map; /* NULL: closed */
    uint64_t map_bytes;
    int fd; /* the program may have closed it, and opened another file there */
    uint64_t st_dev, st_ino;
    uint32_t segments, at, nth;
    uint64_t begun, records;
    uint32_t *held; /* records of the segment at each place */
};

struct harp_trace_part {
    const void *data;
    uint64_t bytes;
};

/* Makes the file of `path`, which must not be there (-EEXIST), and begins it by `header`, of which
 * sizes and offsets are filled in here, and `symbols`, packed. 0 or a negative errno. */
int harp_trace_file_open(struct harp_trace_file *file, const char *path, uint64_t bytes,
                         const struct harp_trace_header *header, const void *symbols,
                         uint32_t symbols_bytes);

/* Appends a record: its struct is parts[0], whose first member is filled in here. False: not
 * written, and counted. Closes the file when the disk is full: *why then says so. */
bool harp_trace_file_append(struct harp_trace_file *file, uint16_t kind, uint16_t flags,
                            struct harp_trace_part *parts, unsigned count,
                            enum harp_trace_why *why);

/* Segments that have begun, those that were overwritten too. */
uint64_t harp_trace_file_begun(const struct harp_trace_file *file);

/* The program ends: says so, and stays open. */
void harp_trace_file_exits(struct harp_trace_file *file);
/* A call was not recorded because it was made inside another. */
void harp_trace_file_inner(struct harp_trace_file *file);
/* Ends it; nothing if it is closed. */
void harp_trace_file_close(struct harp_trace_file *file, enum harp_trace_why why);
/* In a forked child, whose parent goes on with the file: forgets it. No lock is believed. */
void harp_trace_file_forget(struct harp_trace_file *file);

#endif
