/* SPDX-License-Identifier: Apache-2.0
 *
 * The trace file: README.md in this folder says what it is. harp/trace/format.py has the same in
 * Python, and tests/unit/trace compares the two.
 */
#ifndef HARP_TRACE_FORMAT_H
#define HARP_TRACE_FORMAT_H

#include <stddef.h>
#include <stdint.h>

#define HARP_TRACE_MAGIC         "HARPTRC1"
#define HARP_TRACE_VERSION       1u
#define HARP_TRACE_HEADER_BYTES  4096u
#define HARP_TRACE_SEGMENT_BYTES (1u << 20)
#define HARP_TRACE_SEGMENT_MAGIC 0x31474553u  /* SEG1 */
#define HARP_TRACE_COMMIT        0x43525052u  /* RPRC */
#define HARP_TRACE_PIECE_BYTES   (256u << 10) /* of data in one record, at most */

enum harp_trace_flag {                        /* of the file */
                       HARP_TRACE_DATA = 1,   /* host bytes, up to data_bytes a call, and images */
                       HARP_TRACE_DEVICE = 2, /* calls are measured on the device */
                       HARP_TRACE_REMOTE = 4, /* the GPU is elsewhere */
                       HARP_TRACE_LIVE = 8,   /* began in the middle: handles may be older */
                       HARP_TRACE_KEEP_FIRST = 16 /* when it is full, what comes is dropped */
};

enum harp_trace_why { /* the file ended; 0: it did not */
                      HARP_TRACE_RUNNING,
                      HARP_TRACE_TOLD,      /* harp trace stop */
                      HARP_TRACE_DISK_FULL, /* no room on the disk */
                      HARP_TRACE_FULL,      /* KEEP_FIRST, and all segments are */
                      HARP_TRACE_EXITED     /* the program ends; what it still calls may follow */
};

struct harp_trace_header {
    char magic[8];
    uint32_t version;
    uint32_t header_bytes;
    uint32_t segment_bytes;
    uint32_t segments;
    uint64_t data_offset; /* of segment 0 */
    uint32_t symbols_offset;
    uint32_t symbols_bytes;
    uint32_t symbols;
    uint32_t flags;
    uint8_t table_hash[32];
    uint32_t wire_format;
    uint32_t cuda; /* version of the rows */
    uint64_t realtime_ns;
    uint64_t monotonic_ns;
    uint32_t pid;
    uint32_t parent;
    uint64_t data_bytes; /* kept of one call's host bytes, at most */
    uint32_t driver;     /* cuDriverGetVersion; 0: not known */
    uint32_t spare;
    /* kept while it is written */
    uint64_t begun;        /* 128: segments that have begun */
    uint64_t calls;        /* that have begun */
    uint64_t dropped;      /* records that were not written */
    uint64_t lost_records; /* that were overwritten */
    uint64_t inner_calls; /* made inside another call of the thread, or while there was no memory */
    uint64_t ended_ns;    /* 0: still written, or killed */
    uint32_t why;
    uint32_t spare2;
    uint64_t reserved[9];
    char program[256]; /* 256: its short name */
    char about[3584];  /* 512: JSON, NUL-terminated */
};
_Static_assert(offsetof(struct harp_trace_header, begun) == 128, "a file format");
_Static_assert(offsetof(struct harp_trace_header, program) == 256, "a file format");
_Static_assert(sizeof(struct harp_trace_header) == HARP_TRACE_HEADER_BYTES, "a file format");

enum harp_trace_symbol_kind {
    HARP_TRACE_OTHER,
    HARP_TRACE_LAUNCH,
    HARP_TRACE_GRAPH_LAUNCH,
    HARP_TRACE_COPY,
    HARP_TRACE_FILL,
    HARP_TRACE_ALLOC,
    HARP_TRACE_FREE,
    HARP_TRACE_SYNC,
    HARP_TRACE_CONTEXT,
    HARP_TRACE_QUERY
};

struct harp_trace_symbol { /* then the name, of `length` bytes; the next one follows at once */
    uint16_t op;           /* 0: none */
    uint8_t kind;
    uint8_t flags; /* 1: per-thread default stream */
    uint16_t length;
    uint16_t parameters;
};

struct harp_trace_segment {
    uint32_t magic;
    uint32_t spare;
    uint64_t number; /* from 0; its place in the file is number mod segments */
    uint64_t begin_ns;
    uint64_t records_before; /* of all segments before it */
    uint64_t reserved[4];
};
_Static_assert(sizeof(struct harp_trace_segment) == 64, "a file format");

enum harp_trace_kind {
    HARP_TRACE_CALL = 1,
    HARP_TRACE_DEVICE_TIME,
    HARP_TRACE_HOST_BYTES,
    HARP_TRACE_IMAGE,
    HARP_TRACE_NAME,
    HARP_TRACE_NOTE
};

struct harp_trace_record {
    uint64_t commit; /* HARP_TRACE_COMMIT << 32 | number in the segment, from 1 */
    uint32_t bytes;  /* of all of it; a multiple of 8 */
    uint16_t kind;
    uint16_t flags;
};

#define HARP_TRACE_PER_THREAD 1u  /* NULL streams are the thread's own */
#define HARP_TRACE_RAW        2u  /* the request is the slots as they were */
#define HARP_TRACE_NO_REPLY   4u  /* the outputs could not be said */
#define HARP_TRACE_TIMED      8u  /* DEVICE_TIME follows, unless the trace ends before */
#define HARP_TRACE_CAPTURED   16u /* into a graph: the device did nothing yet */
#define HARP_TRACE_CUT        32u /* not all host bytes were kept */

struct harp_trace_call {
    struct harp_trace_record record;
    uint64_t sequence;
    uint64_t begin_ns;
    uint64_t end_ns;
    uint64_t entered_ns;
    uint32_t thread;
    uint32_t result;
    uint16_t symbol;
    uint16_t spare;
    uint32_t request_bytes;
    uint32_t reply_bytes; /* right after the request */
    uint32_t transfers;
    uint64_t stream;
    uint64_t bytes;
    uint64_t made;
};
_Static_assert(sizeof(struct harp_trace_call) == 96, "a file format");

struct harp_trace_device {
    struct harp_trace_record record;
    uint64_t sequence;
    uint64_t begin_ns; /* on the host's clock, about; 0: not known */
    uint64_t duration_ns;
};
_Static_assert(sizeof(struct harp_trace_device) == 40, "a file format");

struct harp_trace_data { /* then the bytes, as many as `bytes` */
    struct harp_trace_record record;
    uint64_t sequence;
    uint32_t transfer;
    uint32_t way; /* enum harp_wire_way */
    uint64_t offset;
    uint64_t total;
    uint32_t bytes;
    uint32_t spare;
};
_Static_assert(sizeof(struct harp_trace_data) == 56, "a file format");

struct harp_trace_image {
    struct harp_trace_record record;
    uint8_t sha256[32];
    uint64_t offset;
    uint64_t total;
    uint32_t bytes; /* 0: only the hash is kept */
    uint32_t spare;
};
_Static_assert(sizeof(struct harp_trace_image) == 72, "a file format");

struct harp_trace_name {
    struct harp_trace_record record;
    uint64_t handle;
    uint32_t handle_kind; /* enum harp_handle */
    uint32_t bytes;
};
_Static_assert(sizeof(struct harp_trace_name) == 32, "a file format");

struct harp_trace_note {
    struct harp_trace_record record;
    uint64_t at_ns;
    uint32_t bytes;
    uint32_t spare;
};
_Static_assert(sizeof(struct harp_trace_note) == 32, "a file format");

#endif
