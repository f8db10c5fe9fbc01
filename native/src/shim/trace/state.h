/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of this folder share. Nothing else includes this.
 */
#ifndef HARP_SHIM_TRACE_STATE_H
#define HARP_SHIM_TRACE_STATE_H

#include "src/shim/trace/trace.h"
#include "src/trace/file.h"
#include "src/wire/codec.h"

#define HARP_TRACE_TRANSFERS    8u
#define HARP_TRACE_PARAMS_MOST  32764u /* bytes of a kernel's parameters, on any device */
#define HARP_TRACE_REQUEST_MOST (512u << 10)
#define HARP_TRACE_REPLY_MOST   (256u << 10)

struct harp_trace_moved { /* host bytes of a call */
    enum harp_wire_way way;
    uint64_t bytes;
    const void *data;
};

struct harp_trace_thread {
    bool busy;
    uint32_t id;
    /* of the call that it is in */
    uint64_t generation, sequence, begin_ns, entered_ns, stream, bytes;
    unsigned symbol;
    uint16_t flags;
    uint64_t made_at; /* where in the request the handle belongs that the call makes; 0: nowhere */
    uint32_t transfers;
    struct harp_trace_moved moved[HARP_TRACE_TRANSFERS];
    struct harp_wire_call call;
    struct harp_wire_packed packed;
    struct harp_wire_image image;
    CUDA_KERNEL_NODE_PARAMS node;
    struct harp_wire_buffer request, reply;
    uint8_t params[HARP_TRACE_PARAMS_MOST];
    uint8_t piece[HARP_TRACE_PIECE_BYTES];
    uint8_t room[HARP_TRACE_REQUEST_MOST + HARP_TRACE_REPLY_MOST]; /* touched as far as needed */
};

struct harp_trace_state {
    struct harp_trace_file file;
    uint64_t generation; /* of the file: atomic; 0: off */
    uint64_t sequence;   /* atomic */
    uint64_t data_bytes; /* kept of a call's host bytes; 0: none, and no images */
};
extern struct harp_trace_state harp_trace;

/* record.c: appends, and ends the trace if it must. */
void harp_trace_write(uint16_t kind, uint16_t flags, struct harp_trace_part *parts, unsigned count);
void harp_trace_note(const char *format, ...) __attribute__((format(printf, 1, 2)));
uint64_t harp_trace_now_ns(void);

/* control.c: in a forked child, before its first recorded call. False: there is no trace. */
bool harp_trace_forked(void);
bool harp_trace_is_child(void);
/* record.c: this thread is another now. */
void harp_trace_thread_forked(void);
void harp_trace_over(enum harp_trace_why why);

/* prepare.c: slots that are not what the program passed. False: the call is told as bare slots. */
bool harp_trace_prepare(struct harp_trace_thread *t);
/* Functions may be gone, or others. */
void harp_trace_forget_functions(void);
void harp_trace_prepare_reset(void);

/* host.c: host bytes that go one way, as far as they are kept. */
void harp_trace_keep(struct harp_trace_thread *t, bool after);
void harp_trace_keep_image(struct harp_trace_thread *t, const void *data, uint64_t bytes);
void harp_trace_host_reset(void);

#endif
