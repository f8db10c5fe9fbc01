/* SPDX-License-Identifier: Apache-2.0
 *
 * The software GPU's NVML: what its files know of each other.
 *
 * It reads the machine-wide state (soft/gpu/state.h) and nothing else: no device is opened, no slot
 * taken, so that looking costs nobody memory. All boards of the machine are shown, whatever
 * CUDA_VISIBLE_DEVICES says, as NVML does. What has no sensor follows from what the engines do by a
 * formula that stands where it is computed; nothing is random.
 *
 * A handle is a board, or an instance of one (a MIG device). Most questions are about boards; an
 * instance answers those with NOT_SUPPORTED.
 */
#ifndef HARP_SOFT_NVML_H
#define HARP_SOFT_NVML_H

#include "generated/nvml_abi.h"
#include "soft/gpu/state.h"

#define NVML_WINDOW_NS 1000000000ull /* what utilisation and power look back on */

struct soft_target { /* what a handle means */
    struct soft_state *state;
    int board;
    int dev;                            /* the instance's device; else the board's first */
    int size;                           /* devices that it covers, from `dev` on */
    bool mig;                           /* an instance */
    bool split;                         /* a board that has instances */
    const struct soft_profile *profile; /* of the instance, or of the whole board */
};

/* init.c: the state, between init and shutdown; NVML_ERROR_UNINITIALIZED otherwise. */
nvmlReturn_t soft_nvml_state(struct soft_state **state);
/* Copies `text` with its NUL; INSUFFICIENT_SIZE if it does not fit. */
nvmlReturn_t soft_nvml_text(const char *text, char *out, unsigned length);
void soft_nvml_unimplemented(const char *name);
/* Who may change a board: NVML_SUCCESS or NO_PERMISSION. */
nvmlReturn_t soft_nvml_privilege(void);

/* handle.c: initialised, a good handle (else INVALID_ARGUMENT), not lost. */
nvmlReturn_t soft_nvml_target(nvmlDevice_t handle, struct soft_target *target);
/* The same for questions that only boards answer. */
nvmlReturn_t soft_nvml_board(nvmlDevice_t handle, struct soft_target *target);
nvmlDevice_t soft_nvml_board_handle(int board);
nvmlDevice_t soft_nvml_instance_handle(int dev);
/* "GPU-" or "MIG-", and the UUID in the usual form. */
void soft_nvml_uuid(const struct soft_target *target, char text[48]);

/* Head of a question about any device, and of one about a board: `t` is its target, or it has
 * returned; so it has if there is nowhere to write. */
#define ANY_OR_RETURN(handle, out)                                                                 \
    struct soft_target t;                                                                          \
    do {                                                                                           \
        nvmlReturn_t checked = soft_nvml_target(handle, &t);                                       \
        if (checked != NVML_SUCCESS)                                                               \
            return checked;                                                                        \
        if ((out) == NULL)                                                                         \
            return NVML_ERROR_INVALID_ARGUMENT;                                                    \
    } while (0)
#define BOARD_OR_RETURN(handle, out)                                                               \
    struct soft_target t;                                                                          \
    do {                                                                                           \
        nvmlReturn_t checked = soft_nvml_board(handle, &t);                                        \
        if (checked != NVML_SUCCESS)                                                               \
            return checked;                                                                        \
        if ((out) == NULL)                                                                         \
            return NVML_ERROR_INVALID_ARGUMENT;                                                    \
    } while (0)
/* Head of a question about a board in MIG mode. */
#define SPLIT_OR_RETURN(handle, out)                                                               \
    BOARD_OR_RETURN(handle, out);                                                                  \
    do {                                                                                           \
        if (!t.split)                                                                              \
            return NVML_ERROR_NOT_SUPPORTED;                                                       \
    } while (0)
/* Head of a change of a board. */
#define CHANGE_OR_RETURN(handle)                                                                   \
    struct soft_target t;                                                                          \
    do {                                                                                           \
        nvmlReturn_t checked = soft_nvml_board(handle, &t);                                        \
        if (checked == NVML_SUCCESS)                                                               \
            checked = soft_nvml_privilege();                                                       \
        if (checked != NVML_SUCCESS)                                                               \
            return checked;                                                                        \
    } while (0)

/* usage.c: percent of the last window; the busiest of the devices that it covers. */
unsigned soft_nvml_busy(const struct soft_target *target, enum soft_engine engine);
/* power.c */
unsigned soft_nvml_celsius(const struct soft_target *target);
unsigned soft_nvml_memory_celsius(const struct soft_target *target);
uint32_t soft_nvml_limit_mw(const struct soft_target *target);
/* clock.c */
unsigned soft_nvml_memory_mhz(const struct soft_target *target);

/* process.c: all slots at once; malloc'ed, NULL without memory. */
struct soft_slot *soft_nvml_slots(struct soft_state *state, int *count);
struct soft_user { /* a process on one of the devices that a target covers */
    int32_t pid;
    int dev;
    uint64_t start_ns, bytes, compute_ns, copy_ns;
};
/* Those that hold something; malloc'ed. */
nvmlReturn_t soft_nvml_users(const struct soft_target *target, unsigned *count,
                             struct soft_user **users);
uint64_t soft_nvml_wall_us(uint64_t device_ns); /* device time on the wall clock */

#endif
