/* SPDX-License-Identifier: Apache-2.0
 *
 * Between wire_loop.c and the stubs that wire_loop.py makes for it.
 */
#ifndef HARP_TESTS_WIRE_LOOP_H
#define HARP_TESTS_WIRE_LOOP_H

#include <stdint.h>
#include <string.h>

#include "generated/wire_ops.h"

struct loop_symbol {
    const char *name;
    void (**real)(void);
};
extern const struct loop_symbol loop_symbols[];
extern const unsigned loop_symbol_count;

#define LOOP_DIRECT 0xffffffffu /* the codec refuses: to be made without it */

/* Puts what the driver takes in place of what was prepared. */
typedef void loop_prepare(uint64_t *args);

uint32_t loop_call(unsigned op, void (*fn)(void), const uint64_t *args, unsigned count,
                   loop_prepare *unpack);
void loop_note(const char *how, const char *name);

uint64_t loop_image(struct harp_wire_image *image, const void *data);
void loop_unimage(uint64_t *slot);

static inline uint64_t loop_bits(float value)
{
    uint64_t slot = 0;
    memcpy(&slot, &value, sizeof value);
    return slot;
}

#endif
