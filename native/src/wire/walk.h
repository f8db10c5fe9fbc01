/* SPDX-License-Identifier: Apache-2.0
 *
 * The walk over the tables. A field list is walked the same way four times: the client puts a
 * request, the worker gets it, the worker puts the reply, the client gets it. What is on the wire:
 *
 *   scalars    as they lie in memory, those of one field together, zeroes to a multiple of 4
 *   handles    8 bytes of id           device addresses  8 bytes
 *   pointers   a word, 0: NULL, else 1 + elements; then the elements if they travel this way
 *   host bytes a word, 0: NULL, 1: they follow, 2: 8 bytes of transfer id follow
 *
 * little-endian, fields in table order: values, then single pointers, then what others count.
 */
#ifndef HARP_WIRE_WALK_H
#define HARP_WIRE_WALK_H

#include <stdbool.h>
#include <stdint.h>

#include "src/wire/codec.h"
#include "src/wire/table.h"

enum phase { REQUEST, REPLY };

struct walk {
    struct harp_wire_call *call;
    const struct harp_wire_op *op;
    const struct harp_wire_side *side;
    struct harp_wire_buffer *body;
    struct harp_wire_buffer *arena; /* NULL: putting */
    enum phase phase;
    uint8_t way; /* of this phase */
};

#define HARP_WALK_BOTH (HARP_WIRE_IN | HARP_WIRE_OUT)

int harp_walk_begin(struct walk *w, struct harp_wire_call *call, const struct harp_wire_side *side,
                    struct harp_wire_buffer *body, struct harp_wire_buffer *arena,
                    enum phase phase);

/* --- bytes of the body --- */

int harp_walk_put_bytes(struct walk *w, const void *data, uint64_t bytes);
/* Where the next bytes of the body are. */
int harp_walk_take_bytes(struct walk *w, uint64_t bytes, uint8_t **data);
int harp_walk_get_bytes(struct walk *w, void *data, uint64_t bytes);

/* --- what the tables say of a field, by what is in memory --- */

void *harp_walk_load_pointer(const void *base, unsigned at);
const struct harp_wire_program *harp_walk_chosen(const struct harp_wire_field *f, const void *base);
uint64_t harp_walk_size_of(const struct harp_wire_field *f);
/* Elements of a field, by what is in memory. */
int harp_walk_count_of(const struct harp_wire_field *f, const void *base, uint64_t *count);
/* What a body of the largest size can hold. */
int harp_walk_bounded(const struct harp_wire_field *f, uint64_t count);
bool harp_walk_inlined(const struct walk *w, uint64_t bytes);
/* The same of bytes that are read when the call is made. */
bool harp_walk_small(const struct walk *w, uint64_t bytes);
bool harp_walk_stands_for_itself(unsigned kind, uint64_t value);
/* Elements that a reply has of an output, by what the callee has put there. */
int harp_walk_answered(const struct harp_wire_field *f, const void *base, uint64_t room,
                       uint64_t *count);

/* --- both ways --- */

int harp_walk_transfer(struct walk *w, enum harp_wire_way way, uint64_t bytes, void **data,
                       uint64_t *id);
/* Word by word, all in requests, the driver's answers in replies. */
int harp_walk_words(struct walk *w, const struct harp_wire_field *f, const void *base,
                    uint64_t *values, uint64_t count);
int harp_walk_note_made(struct walk *w, const struct harp_wire_field *f, uint64_t id);

#endif
