/* SPDX-License-Identifier: Apache-2.0
 *
 * What faults do to the machine, as its hardware and kernel driver would: contexts end, devices are
 * lost, take longer, count errors. A context learns of its end from a word beside its entry among
 * the device's clients, so that those made afterwards are not concerned.
 *
 * Xids and their effect on running work follow NVIDIA's catalogue (docs.nvidia.com/deploy/
 * xid-errors) and "GPU memory error management" (deploy/a100-gpu-mem-error-mgmt); which error that
 * is in CUDA follows the texts of CUresult. 79 is 999 because that is what clients report of a GPU
 * that fell off the bus; CUDA has no error that says so.
 */
#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "soft/gpu/fault.h"

static const struct {
    uint32_t xid;
    CUresult result;
} fatal[] = {
    {13, CUDA_ERROR_LAUNCH_FAILED},        /* engine exception */
    {31, CUDA_ERROR_ILLEGAL_ADDRESS},      /* page fault of the GPU's MMU */
    {43, CUDA_ERROR_LAUNCH_FAILED},        /* the program's fault; it must end, the GPU is well */
    {48, CUDA_ERROR_ECC_UNCORRECTABLE},    /* double-bit error */
    {74, CUDA_ERROR_NVLINK_UNCORRECTABLE}, /* NVLink */
    {79, CUDA_ERROR_UNKNOWN},              /* off the bus; lost as well */
    {94, CUDA_ERROR_ECC_UNCORRECTABLE},    /* contained: pid= says whom it hit */
    {95, CUDA_ERROR_ECC_UNCORRECTABLE},    /* not contained: everybody */
};
/* 63 and 64 (a row is or could not be remapped) and all others tell and end nothing. */

bool soft_fault_lost(const struct soft_state *state, int dev)
{
    return soft_state_lost(state, dev);
}

int soft_fault_killed(const struct soft_state *state, int dev, int client)
{
    return (int)atomic_load_explicit(&state->map->fault.killed[dev][client], memory_order_relaxed);
}

uint64_t soft_fault_stretch(const struct soft_state *state, int dev, uint64_t ns)
{
    uint32_t milli = atomic_load_explicit(&state->map->fault.milli[dev], memory_order_relaxed);

    return milli == 0 ? ns : ns / 1000 * milli + ns % 1000 * milli / 1000;
}

static bool concerns(struct soft_state *state, const struct soft_fault_rule *rule, int slot)
{
    char name[64];

    if (rule->pid != 0 && soft_slot_pid(state, slot) != rule->pid)
        return false;
    memcpy(name, state->map->slot[slot].name, sizeof name);
    name[sizeof name - 1] = '\0';
    return rule->program[0] == '\0' || strcmp(name, rule->program) == 0;
}

/* Ends the contexts that `dev` has now. Their threads are woken to see it. */
static void kill_contexts(struct soft_state *state, int dev, const struct soft_fault_rule *rule,
                          CUresult why)
{
    struct soft_shared_dev *d = &state->map->dev[dev];

    for (int c = 0; c < SOFT_MAX_CLIENTS; c++) {
        int slot = (int)(atomic_load(&d->client[c].owner) & 0xffff) - 1;
        uint32_t none = 0;

        if (slot < 0 || slot >= SOFT_MAX_SLOTS || !concerns(state, rule, slot))
            continue;
        atomic_compare_exchange_strong(&state->map->fault.killed[dev][c], &none, (uint32_t)why);
        for (int e = 0; e < SOFT_ENGINES; e++) {
            atomic_fetch_add(&d->client[c].at[e].bell, 1);
            syscall(SYS_futex, &d->client[c].at[e].bell, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
        }
    }
}

/* NVML's side. */
static void tell_event(struct soft_state *state, const struct soft_fault_rule *rule)
{
    if (rule->kind == SOFT_FAULT_XID) {
        soft_state_event_post(state, rule->dev, SOFT_EVENT_XID, rule->number, rule->pid);
    } else {
        soft_state_ecc_add(state, rule->dev,
                           rule->uncorrected ? SOFT_ECC_UNCORRECTED : SOFT_ECC_CORRECTED,
                           SOFT_ECC_DRAM, rule->errors);
        soft_state_event_post(state, rule->dev, rule->uncorrected ? SOFT_EVENT_DBE : SOFT_EVENT_SBE,
                              0, rule->pid);
    }
}

static void once(struct soft_state *state, const struct soft_fault_rule *rule)
{
    CUresult why = CUDA_SUCCESS;

    tell_event(state, rule);
    if (rule->kind == SOFT_FAULT_ECC && rule->uncorrected)
        why = CUDA_ERROR_ECC_UNCORRECTABLE;
    for (size_t i = 0; rule->kind == SOFT_FAULT_XID && i < sizeof fatal / sizeof fatal[0]; i++)
        if (fatal[i].xid == rule->number)
            why = fatal[i].result;
    if (why != CUDA_SUCCESS)
        kill_contexts(state, rule->dev, rule, why);
}

/* All that is on the board, as it hangs on the bus with all its instances. */
static void set_lost(struct soft_state *state, int board, bool lost)
{
    static const struct soft_fault_rule all = {.dev = -1};
    int dev = soft_state_board_dev(state, board);

    if (soft_state_lost(state, dev) == lost)
        return;
    soft_state_lost_set(state, dev, lost);
    if (lost)
        soft_state_event_post(state, dev, SOFT_EVENT_LOST, 0, 0);
    for (int i = 0; lost && i < soft_state_device_count(state); i++)
        if (soft_state_board(state, i) == board)
            kill_contexts(state, i, &all, CUDA_ERROR_UNKNOWN);
}

static bool loses(const struct soft_state *state, const struct soft_fault_rule *rule, int board)
{
    return (rule->kind == SOFT_FAULT_LOST ||
            (rule->kind == SOFT_FAULT_XID && rule->number == 79)) &&
           rule->dev < soft_state_device_count(state) &&
           soft_state_board(state, rule->dev) == board;
}

void soft_fault_apply(struct soft_state *state, const struct soft_fault_file *file)
{
    struct soft_shared_fault *f = &state->map->fault;
    uint64_t was = atomic_load(&f->applied), teardown_ns = 0;
    int devices = state->map->device_count;

    if (was == file->id || soft_fault_file_id(state) != file->id ||
        !atomic_compare_exchange_strong(&f->applied, &was, file->id))
        return;
    for (int dev = 0; dev < devices; dev++) {
        uint32_t milli = 0;

        for (int i = 0; i < file->count; i++)
            if (file->rule[i].kind == SOFT_FAULT_SLOWDEV &&
                (file->rule[i].dev == -1 || file->rule[i].dev == dev))
                milli = file->rule[i].milli;
        atomic_store(&f->milli[dev], milli);
    }
    for (int board = 0; board < soft_state_board_count(state); board++) {
        bool lost = false;

        for (int i = 0; i < file->count; i++)
            lost = lost || loses(state, &file->rule[i], board);
        set_lost(state, board, lost);
    }
    for (int i = 0; i < file->count; i++) {
        const struct soft_fault_rule *rule = &file->rule[i];

        if (rule->kind == SOFT_FAULT_SLOWTEARDOWN)
            teardown_ns = rule->ns;
        if ((rule->kind == SOFT_FAULT_XID || rule->kind == SOFT_FAULT_ECC) && rule->dev < devices)
            once(state, rule);
    }
    atomic_store(&f->teardown_ns, teardown_ns);
}
