/* SPDX-License-Identifier: Apache-2.0
 *
 * Accounting: what each process had of a board, the living from their slots, the ended from the
 * state file's ledger of the gone. Processes that began before it was turned on do not count.
 */
#include <stdlib.h>

#include "soft/nvml/nvml.h"

#define BUFFER 4000u /* pids that are remembered, as NVML has it */

struct account {
    int32_t pid;
    bool running;
    uint64_t start_ns, end_ns, peak_bytes, compute_ns, copy_ns;
};

static void add(struct account *accounts, unsigned *n, const struct soft_target *t, int32_t pid,
                const struct soft_slot_dev *use, uint64_t start_ns, uint64_t end_ns)
{
    struct account account = {
        .pid = pid, .running = end_ns == 0, .start_ns = start_ns, .end_ns = end_ns};
    for (int dev = t->dev; dev < t->dev + t->size; dev++) {
        account.peak_bytes += use[dev].peak_bytes;
        account.compute_ns += use[dev].busy_ns[SOFT_COMPUTE];
        account.copy_ns += use[dev].busy_ns[SOFT_COPY_IN] + use[dev].busy_ns[SOFT_COPY_OUT];
    }
    if (account.peak_bytes == 0 || start_ns < soft_state_accounting(t->state, t->dev))
        return;
    for (unsigned i = 0; i < *n; i++)
        if (accounts[i].pid == pid)
            return; /* a later process of that number was met first */
    if (*n < BUFFER)
        accounts[(*n)++] = account;
}

/* All that count, the newest first; malloc'ed. */
static nvmlReturn_t collect(const struct soft_target *t, struct account **accounts, unsigned *n)
{
    struct soft_gone *gone = calloc(SOFT_GONE, sizeof *gone);
    int live = 0, dead = 0;
    struct soft_slot *slots = soft_nvml_slots(t->state, &live);
    *accounts = calloc(BUFFER, sizeof **accounts);
    *n = 0;
    nvmlReturn_t result = NVML_ERROR_MEMORY;
    if (gone == NULL || slots == NULL || *accounts == NULL)
        goto out;
    result = NVML_SUCCESS;
    if (soft_state_accounting(t->state, t->dev) == 0)
        goto out;
    uint64_t forgotten = soft_state_accounting_forgotten(t->state, t->dev);
    for (int i = 0; i < live; i++)
        if (slots[i].state == SOFT_SLOT_LIVE)
            add(*accounts, n, t, slots[i].pid, slots[i].dev, slots[i].start_ns, 0);
        else if (slots[i].dead_ns > forgotten)
            add(*accounts, n, t, slots[i].pid, slots[i].dev, slots[i].start_ns, slots[i].dead_ns);
    dead = soft_state_gone(t->state, gone, SOFT_GONE);
    for (int i = 0; i < dead; i++)
        if (gone[i].dead_ns > forgotten)
            add(*accounts, n, t, gone[i].pid, gone[i].dev, gone[i].start_ns, gone[i].dead_ns);
out:
    free(gone);
    free(slots);
    if (result != NVML_SUCCESS) {
        free(*accounts);
        *accounts = NULL;
    }
    return result;
}

static unsigned percent(uint64_t busy_ns, uint64_t all_ns)
{
    uint64_t value = all_ns == 0 ? 0 : busy_ns / (all_ns / 100 + 1);
    return value > 100 ? 100 : (unsigned)value;
}

static nvmlReturn_t find(nvmlDevice_t device, unsigned pid, struct account *out)
{
    BOARD_OR_RETURN(device, out);
    struct account *accounts;
    unsigned n;
    nvmlReturn_t result = collect(&t, &accounts, &n);
    if (result != NVML_SUCCESS)
        return result;
    result = NVML_ERROR_NOT_FOUND;
    for (unsigned i = 0; i < n && result != NVML_SUCCESS; i++)
        if ((unsigned)accounts[i].pid == pid) {
            *out = accounts[i];
            result = NVML_SUCCESS;
        }
    free(accounts);
    return result;
}

static uint64_t age_ns(const struct account *account)
{
    return (account->running ? soft_now_ns() : account->end_ns) - account->start_ns;
}

nvmlReturn_t nvmlDeviceGetAccountingStats(nvmlDevice_t device, unsigned int pid,
                                          nvmlAccountingStats_t *stats)
{
    struct account account;
    if (stats == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    nvmlReturn_t result = find(device, pid, &account);
    if (result == NVML_SUCCESS)
        *stats = (nvmlAccountingStats_t){
            .gpuUtilization = percent(account.compute_ns, age_ns(&account)),
            .memoryUtilization = percent(account.copy_ns, age_ns(&account)),
            .maxMemoryUsage = account.peak_bytes,
            .time = account.running ? 0 : age_ns(&account) / 1000000,
            .startTime = soft_nvml_wall_us(account.start_ns),
            .isRunning = account.running,
        };
    return result;
}

/* Sums are of samples that nobody takes here: percent times one sample. */
nvmlReturn_t nvmlDeviceGetAccountingStats_v2(nvmlDevice_t device, nvmlAccountingStats_v2_t *stats)
{
    struct account account;
    if (stats == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    nvmlReturn_t result = find(device, stats->pid, &account);
    if (result == NVML_SUCCESS)
        *stats = (nvmlAccountingStats_v2_t){
            .pid = stats->pid,
            .isRunning = account.running,
            .gpuUtilization = percent(account.compute_ns, age_ns(&account)),
            .memoryUtilization = percent(account.copy_ns, age_ns(&account)),
            .maxMemoryUsage = account.peak_bytes,
            .sampleCount = 1,
            .sumGpuUtil = percent(account.compute_ns, age_ns(&account)),
            .sumFbUtil = percent(account.copy_ns, age_ns(&account)),
            .time = account.running ? 0 : age_ns(&account) / 1000000,
            .startTime = soft_nvml_wall_us(account.start_ns),
        };
    return result;
}

nvmlReturn_t nvmlDeviceGetAccountingPids(nvmlDevice_t device, unsigned int *count,
                                         unsigned int *pids)
{
    BOARD_OR_RETURN(device, count);
    struct account *accounts;
    unsigned n, room = pids != NULL ? *count : 0;
    nvmlReturn_t result = collect(&t, &accounts, &n);
    if (result != NVML_SUCCESS)
        return result;
    *count = n;
    if (n > room)
        result = NVML_ERROR_INSUFFICIENT_SIZE;
    for (unsigned i = 0; result == NVML_SUCCESS && i < n; i++)
        pids[i] = (unsigned)accounts[i].pid;
    free(accounts);
    return result;
}

nvmlReturn_t nvmlDeviceGetAccountingBufferSize(nvmlDevice_t device, unsigned int *size)
{
    BOARD_OR_RETURN(device, size);
    *size = BUFFER;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetAccountingMode(nvmlDevice_t device, nvmlEnableState_t *mode)
{
    BOARD_OR_RETURN(device, mode);
    *mode =
        soft_state_accounting(t.state, t.dev) != 0 ? NVML_FEATURE_ENABLED : NVML_FEATURE_DISABLED;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceSetAccountingMode(nvmlDevice_t device, nvmlEnableState_t mode)
{
    CHANGE_OR_RETURN(device);
    if ((unsigned)mode > NVML_FEATURE_ENABLED)
        return NVML_ERROR_INVALID_ARGUMENT;
    bool on = soft_state_accounting(t.state, t.dev) != 0;
    if (on != (mode == NVML_FEATURE_ENABLED))
        soft_state_accounting_set(t.state, t.dev, on ? 0 : soft_now_ns());
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceClearAccountingPids(nvmlDevice_t device)
{
    CHANGE_OR_RETURN(device);
    soft_state_accounting_forget(t.state, t.dev, soft_now_ns());
    return NVML_SUCCESS;
}
