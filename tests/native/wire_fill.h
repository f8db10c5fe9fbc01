/* SPDX-License-Identifier: Apache-2.0
 *
 * Calls made up from the codec's tables: any op, any values that may go over the wire.
 */
#ifndef HARP_TESTS_WIRE_FILL_H
#define HARP_TESTS_WIRE_FILL_H

#include "src/wire/codec.h"
#include "src/wire/table.h"

/* Memory of made-up calls: one block each, so that ASan sees its ends. */
struct wire_fill {
    uint64_t seed;
    void **blocks;
    unsigned count, room;
};

uint32_t wire_random(struct wire_fill *fill);
void *wire_block(struct wire_fill *fill, uint64_t bytes);
void wire_fill_free(struct wire_fill *fill);

/* Arguments as a program would pass them; some are not encodable (a copy from host memory in a
 * graph): put_request says -ENOTSUP. */
void wire_fill_request(struct wire_fill *fill, struct harp_wire_call *call);

/* Outputs as a driver would leave them, in a call that get_request read. */
void wire_fill_reply(struct wire_fill *fill, struct harp_wire_call *call);

/* Transfers whose id is the address itself. */
extern struct harp_wire_side wire_side;

#endif
