/* SPDX-License-Identifier: Apache-2.0
 *
 * ECC, retired pages, remapped rows: counters of the state file, which only injected faults move.
 */
#include "soft/nvml/nvml.h"

static bool good(nvmlMemoryErrorType_t type, nvmlEccCounterType_t counter)
{
    return (unsigned)type <= NVML_MEMORY_ERROR_TYPE_UNCORRECTED &&
           (unsigned)counter <= NVML_AGGREGATE_ECC;
}

static uint64_t errors(const struct soft_target *t, nvmlMemoryErrorType_t type,
                       nvmlEccCounterType_t counter, enum soft_ecc_place place)
{
    return soft_state_ecc_get(t->state, t->dev, (enum soft_ecc_scope)counter,
                              (enum soft_ecc_kind)type, place);
}

nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t device, nvmlEnableState_t *current,
                                  nvmlEnableState_t *pending)
{
    BOARD_OR_RETURN(device, current);
    if (pending == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *current = *pending = NVML_FEATURE_ENABLED;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetDefaultEccMode(nvmlDevice_t device, nvmlEnableState_t *mode)
{
    BOARD_OR_RETURN(device, mode);
    *mode = NVML_FEATURE_ENABLED;
    return NVML_SUCCESS;
}

/* It could not be turned off: there is no reset for it to wait for. */
nvmlReturn_t nvmlDeviceSetEccMode(nvmlDevice_t device, nvmlEnableState_t mode)
{
    CHANGE_OR_RETURN(device);
    if ((unsigned)mode > NVML_FEATURE_ENABLED)
        return NVML_ERROR_INVALID_ARGUMENT;
    return mode == NVML_FEATURE_ENABLED ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
}

nvmlReturn_t nvmlDeviceClearEccErrorCounts(nvmlDevice_t device, nvmlEccCounterType_t counter)
{
    CHANGE_OR_RETURN(device);
    if ((unsigned)counter > NVML_AGGREGATE_ECC)
        return NVML_ERROR_INVALID_ARGUMENT;
    soft_state_ecc_clear(t.state, t.dev, (enum soft_ecc_scope)counter);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, nvmlMemoryErrorType_t type,
                                         nvmlEccCounterType_t counter, unsigned long long *count)
{
    BOARD_OR_RETURN(device, count);
    if (!good(type, counter))
        return NVML_ERROR_INVALID_ARGUMENT;
    *count = errors(&t, type, counter, SOFT_ECC_PLACES);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetDetailedEccErrors(nvmlDevice_t device, nvmlMemoryErrorType_t type,
                                            nvmlEccCounterType_t counter,
                                            nvmlEccErrorCounts_t *counts)
{
    BOARD_OR_RETURN(device, counts);
    if (!good(type, counter))
        return NVML_ERROR_INVALID_ARGUMENT;
    *counts = (nvmlEccErrorCounts_t){
        .l1Cache = errors(&t, type, counter, SOFT_ECC_L1),
        .l2Cache = errors(&t, type, counter, SOFT_ECC_L2),
        .deviceMemory = errors(&t, type, counter, SOFT_ECC_DRAM),
        .registerFile = errors(&t, type, counter, SOFT_ECC_REGISTERS),
    };
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryErrorCounter(nvmlDevice_t device, nvmlMemoryErrorType_t type,
                                             nvmlEccCounterType_t counter,
                                             nvmlMemoryLocation_t place, unsigned long long *count)
{
    BOARD_OR_RETURN(device, count);
    if (!good(type, counter) || (unsigned)place >= SOFT_ECC_PLACES)
        return NVML_ERROR_INVALID_ARGUMENT;
    *count = errors(&t, type, counter, (enum soft_ecc_place)place);
    return NVML_SUCCESS;
}

/* SRAM is all that is not the device's memory; of uncorrected errors none is told to be of parity.
 */
nvmlReturn_t nvmlDeviceGetSramEccErrorStatus(nvmlDevice_t device,
                                             nvmlEccSramErrorStatus_v1_t *status)
{
    BOARD_OR_RETURN(device, status);
    if (status->version != HARP_NVML_STRUCT(nvmlEccSramErrorStatus_v1_t, 1))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    if (t.profile->cc_major < 8)
        return NVML_ERROR_NOT_SUPPORTED;
    unsigned version = status->version;
    uint64_t sums[2][2];
    for (int counter = 0; counter < 2; counter++)
        for (int type = 0; type < 2; type++)
            sums[counter][type] = errors(&t, (nvmlMemoryErrorType_t)type,
                                         (nvmlEccCounterType_t)counter, SOFT_ECC_PLACES) -
                                  errors(&t, (nvmlMemoryErrorType_t)type,
                                         (nvmlEccCounterType_t)counter, SOFT_ECC_DRAM);
    uint64_t l2 = errors(&t, NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_AGGREGATE_ECC, SOFT_ECC_L2);
    *status = (nvmlEccSramErrorStatus_v1_t){
        .version = version,
        .volatileCor = sums[NVML_VOLATILE_ECC][0],
        .volatileUncSecDed = sums[NVML_VOLATILE_ECC][1],
        .aggregateCor = sums[NVML_AGGREGATE_ECC][0],
        .aggregateUncSecDed = sums[NVML_AGGREGATE_ECC][1],
        .aggregateUncBucketL2 = l2,
        .aggregateUncBucketSm = sums[NVML_AGGREGATE_ECC][1] - l2,
    };
    return NVML_SUCCESS;
}

/* Errors are counted, their addresses inside an SM are not known. */
nvmlReturn_t nvmlDeviceGetSramUniqueUncorrectedEccErrorCounts(
    nvmlDevice_t device, nvmlEccSramUniqueUncorrectedErrorCounts_v1_t *counts)
{
    BOARD_OR_RETURN(device, counts);
    if (counts->version != HARP_NVML_STRUCT(nvmlEccSramUniqueUncorrectedErrorCounts_v1_t, 1))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    if (t.profile->cc_major < 8)
        return NVML_ERROR_NOT_SUPPORTED;
    counts->entryCount = 0;
    return NVML_SUCCESS;
}

/* -------------------------------------------------------------------------------- repairs ---- */
nvmlReturn_t nvmlDeviceGetRetiredPages_v2(nvmlDevice_t device, nvmlPageRetirementCause_t cause,
                                          unsigned int *count, unsigned long long *addresses,
                                          unsigned long long *times)
{
    BOARD_OR_RETURN(device, count);
    if (t.profile->remaps_rows)
        return NVML_ERROR_NOT_SUPPORTED;
    if ((unsigned)cause > NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR)
        return NVML_ERROR_INVALID_ARGUMENT;
    uint64_t pages[SOFT_RETIRED];
    int n =
        soft_state_pages_retired(t.state, t.dev, (enum soft_ecc_kind)cause, pages, SOFT_RETIRED);
    unsigned room = addresses != NULL ? *count : 0;
    *count = (unsigned)n;
    if ((unsigned)n > room)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    for (int i = 0; i < n; i++) {
        addresses[i] = pages[i];
        if (times != NULL)
            times[i] = 0; /* not kept */
    }
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetRetiredPages(nvmlDevice_t device, nvmlPageRetirementCause_t cause,
                                       unsigned int *count, unsigned long long *addresses)
{
    return nvmlDeviceGetRetiredPages_v2(device, cause, count, addresses, NULL);
}

nvmlReturn_t nvmlDeviceGetRetiredPagesPendingStatus(nvmlDevice_t device, nvmlEnableState_t *pending)
{
    BOARD_OR_RETURN(device, pending);
    if (t.profile->remaps_rows)
        return NVML_ERROR_NOT_SUPPORTED;
    *pending = soft_state_setting(t.state, t.dev, SOFT_SET_ROWS_PENDING) != 0
                   ? NVML_FEATURE_ENABLED
                   : NVML_FEATURE_DISABLED;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t device, unsigned int *corrected,
                                       unsigned int *uncorrected, unsigned int *pending,
                                       unsigned int *failed)
{
    BOARD_OR_RETURN(device, corrected);
    if (uncorrected == NULL || pending == NULL || failed == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (!t.profile->remaps_rows)
        return NVML_ERROR_NOT_SUPPORTED;
    *corrected = soft_state_rows_remapped(t.state, t.dev, SOFT_ECC_CORRECTED);
    *uncorrected = soft_state_rows_remapped(t.state, t.dev, SOFT_ECC_UNCORRECTED);
    *pending = soft_state_setting(t.state, t.dev, SOFT_SET_ROWS_PENDING) != 0;
    *failed = soft_state_setting(t.state, t.dev, SOFT_SET_ROWS_FAILED) != 0;
    return NVML_SUCCESS;
}

/* What was remapped is in use; nothing is given up again. */
nvmlReturn_t nvmlDeviceGetRemappedRows_v2(nvmlDevice_t device, nvmlRemappedRowsInfo_v2_t *info)
{
    if (info == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    nvmlRemappedRowsInfo_v2_t rows = {0};
    nvmlReturn_t result =
        nvmlDeviceGetRemappedRows(device, &rows.corrActiveRemaps, &rows.uncActiveRemaps,
                                  &rows.bPending, &rows.bfailureOccurred);
    if (result == NVML_SUCCESS)
        *info = rows;
    return result;
}

/* Banks by how many spare rows they have left: as many as one for each 16 MiB; each remapping is
 * taken to be in a bank of its own. */
nvmlReturn_t nvmlDeviceGetRowRemapperHistogram(nvmlDevice_t device,
                                               nvmlRowRemapperHistogramValues_t *values)
{
    BOARD_OR_RETURN(device, values);
    if (!t.profile->remaps_rows)
        return NVML_ERROR_NOT_SUPPORTED;
    unsigned banks = (unsigned)(t.profile->memory_bytes >> 24);
    unsigned used = soft_state_rows_remapped(t.state, t.dev, SOFT_ECC_CORRECTED) +
                    soft_state_rows_remapped(t.state, t.dev, SOFT_ECC_UNCORRECTED);
    if (used > banks)
        used = banks;
    *values = (nvmlRowRemapperHistogramValues_t){.max = banks - used, .high = used};
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetRepairStatus(nvmlDevice_t device, nvmlRepairStatus_v1_t *status)
{
    BOARD_OR_RETURN(device, status);
    if (status->version != HARP_NVML_STRUCT(nvmlRepairStatus_v1_t, 1))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    status->bChannelRepairPending = status->bTpcRepairPending = 0;
    return NVML_SUCCESS;
}
