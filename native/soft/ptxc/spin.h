/* SPDX-License-Identifier: Apache-2.0
 *
 * Which loops wait for what others do: those whose end depends on a value that they watch. A loop
 * that only counts, adds or polls by the way ends by itself, and its thread need not give way.
 */
#ifndef HARP_PTXC_SPIN_H
#define HARP_PTXC_SPIN_H

#include "soft/ptxc/emit.h"

struct spin_loop {
    bool known;
    bool watches; /* something in it looks at what others, or time, change */
    bool calls;   /* it calls functions: what they look at is theirs to say */
    bool waits;   /* no calls: whether it goes on depends on what it looks at */
    bool blocks;  /* what it looks at may be other blocks' doing */
};

/* Does it look at something that another thread, or time, changes? */
bool watches(const struct ptx_instr *in);
/* The loop of all jumps back to statement `to` of e->body. */
const struct spin_loop *spin_loop(struct emitter *e, uint32_t to);

#endif
