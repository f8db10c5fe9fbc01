/* SPDX-License-Identifier: Apache-2.0
 *
 * Device memory is zeroed before it goes back to the driver, by the session's own calls and at its
 * end: what one tenant has left there the next one cannot read. What is not is in README.md.
 */
#ifndef HARP_WORKER_WIPE_H
#define HARP_WORKER_WIPE_H

#include <stdbool.h>
#include <stdint.h>

#include "generated/cuda_abi.h"
#include "src/worker/held.h"

struct lane;

/* Memory is left as it is (--no-wipe). */
void wipe_not(void);
/* Around a call. false: the session is over, and it is not made. */
bool wipe_call_begins(void);
void wipe_call_ends(void);
/* The session has begun to end: what is held is wiped. */
bool wipe_is_over(void);
/* Whether a call is the end of a context, unless another one is made meanwhile. */
bool wipe_is_end(unsigned op, const uint64_t *args, struct held *context);
/* Before the call is made, and when it has been. `args`: as the driver is given them. */
void wipe_before(struct lane *lane, unsigned op, const uint64_t *args);
void wipe_after(struct lane *lane, unsigned op, CUresult result, const uint64_t *args);
/* The end of the session: all that is held, as far as there is time. Says what is left. */
void wipe_all(void);

/* --- between wipe.c, wipe_after.c and wipe_end.c --- */

bool wipe_is_off(void);
/* With the last of its handles, which is still there. */
bool wipe_last(struct lane *lane, uint64_t handle, const struct held *physical);
/* What no call is about to free. */
void wipe_held(void);

/* Memory whose handles are gone, kept over the unmap that may be the last one. */
struct wipe_kept {
    uint64_t handle;
    struct held physical;
};

/* --- wipe_memory.c: in a context of ours or the program's, which is as it was afterwards --- */

struct wipe_place {
    struct lane *lane;
    uint64_t context, stream;
    int mode; /* of the thread's captures */
    bool pushed;
};

/* `context`, or one of the same device. By `lane`, or (NULL) by who makes no calls. false: there is
 * none. */
bool wipe_enter(struct lane *lane, struct wipe_place *in, uint64_t context, int device);
void wipe_leave(struct wipe_place *in);
/* Whatever may still write there has ended. */
void wipe_settle(void);
/* false: the driver has refused. */
bool wipe_finish(const struct wipe_place *in);
bool wipe_linear(const struct wipe_place *in, uint64_t address, uint64_t bytes);
bool wipe_array(const struct wipe_place *in, const struct held *array);
bool wipe_physical(const struct wipe_place *in, uint64_t handle, uint64_t bytes, int device);

#endif
