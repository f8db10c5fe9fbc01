/* SPDX-License-Identifier: Apache-2.0
 *
 * nvmlDeviceGetFieldValues: many numbers in one call, each with a result of its own. Fields are
 * named by NVML's numbers; what is not listed here is NOT_SUPPORTED.
 */
#include <string.h>

#include "soft/nvml/nvml.h"

enum field { /* NVML_FI_DEV_..., those that are answered */
             ECC_CURRENT = 1,
             ECC_PENDING = 2,
             ECC_TOTALS = 3, /* corrected, uncorrected, volatile then aggregate: 3..6 */
             ECC_TOTALS_LAST = 6,
             ECC_VOLATILE = 7, /* L1, L2, device, registers, texture: corrected, uncorrected each */
             ECC_VOLATILE_CBU = 17,
             ECC_AGGREGATE = 18,
             ECC_AGGREGATE_CBU = 28,
             RETIRED_CORRECTED = 29,
             RETIRED_UNCORRECTED = 30,
             RETIRED_PENDING = 31,
             PERF_POLICY = 74,
             PERF_POLICY_LAST = 81,
             MEMORY_TEMP = 82,
             TOTAL_ENERGY = 83,
             NVLINK_COUNT = 91,
             RETIRED_PENDING_CORRECTED = 92,
             RETIRED_PENDING_UNCORRECTED = 93,
             PCIE_REPLAYS = 94,
             PCIE_REPLAY_ROLLOVER = 95,
             REMAPPED_CORRECTED = 142,
             REMAPPED_UNCORRECTED = 143,
             REMAPPED_PENDING = 144,
             REMAPPED_FAILURE = 145,
             NVSWITCH_LINKS = 147,
             NVLINK_STATE = 165,
             C2C_LINKS = 170,
             PCIE_ERRORS = 173, /* kinds of errors on the link: 173..183 */
             PCIE_ERRORS_LAST = 183,
             RESETLESS_MIG = 184,
             POWER_AVERAGE = 185,
             POWER_INSTANT = 186,
             POWER_LEAST = 187,
             POWER_MOST = 188,
             POWER_DEFAULT = 189,
             POWER_CURRENT = 190,
             ENERGY = 191,
             POWER_REQUESTED = 192,
             TLIMIT_SHUTDOWN = 193,
             TLIMIT_SLOWDOWN = 194,
             TLIMIT_MEMORY = 195,
             TLIMIT_GPU = 196,
             RESET_STATUS = 226,
             DRAIN_AND_RESET_STATUS = 227,
             RECOVERY_ACTION = 230,
             EVENT_SLOWDOWNS = 269, /* ns slowed down: 269..271 */
             EVENT_SLOWDOWNS_LAST = 271,
             ROWS_INACTIVE = 301, /* corrected, uncorrected */
             ROWS_INACTIVE_LAST = 302,
};

static void put_uint(nvmlFieldValue_t *field, unsigned value)
{
    field->valueType = NVML_VALUE_TYPE_UNSIGNED_INT;
    field->value.uiVal = value;
}

static void put_ull(nvmlFieldValue_t *field, uint64_t value)
{
    field->valueType = NVML_VALUE_TYPE_UNSIGNED_LONG_LONG;
    field->value.ullVal = value;
}

static void put_int(nvmlFieldValue_t *field, int value)
{
    field->valueType = NVML_VALUE_TYPE_SIGNED_INT;
    field->value.siVal = value;
}

static nvmlReturn_t ecc(const struct soft_target *t, nvmlFieldValue_t *field)
{
    static const enum soft_ecc_place places[] = {SOFT_ECC_L1, SOFT_ECC_L2, SOFT_ECC_DRAM,
                                                 SOFT_ECC_REGISTERS, SOFT_ECC_TEXTURE};
    unsigned id = field->fieldId;
    enum soft_ecc_scope scope = SOFT_ECC_VOLATILE;
    enum soft_ecc_kind kind = SOFT_ECC_UNCORRECTED;
    enum soft_ecc_place place = SOFT_ECC_CBU;
    if (id <= ECC_TOTALS_LAST) {
        scope = (enum soft_ecc_scope)((id - ECC_TOTALS) / 2);
        kind = (enum soft_ecc_kind)((id - ECC_TOTALS) % 2);
        place = SOFT_ECC_PLACES;
    } else {
        unsigned first = id < ECC_AGGREGATE ? ECC_VOLATILE : ECC_AGGREGATE;
        scope = id < ECC_AGGREGATE ? SOFT_ECC_VOLATILE : SOFT_ECC_AGGREGATE;
        if (id != ECC_VOLATILE_CBU && id != ECC_AGGREGATE_CBU) {
            kind = (enum soft_ecc_kind)((id - first) % 2);
            place = places[(id - first) / 2];
        }
    }
    put_ull(field, soft_state_ecc_get(t->state, t->dev, scope, kind, place));
    return NVML_SUCCESS;
}

static nvmlReturn_t repairs(const struct soft_target *t, nvmlFieldValue_t *field)
{
    unsigned id = field->fieldId;
    bool rows = id >= REMAPPED_CORRECTED;
    if (rows != t->profile->remaps_rows)
        return NVML_ERROR_NOT_SUPPORTED;
    switch (id) {
    case RETIRED_CORRECTED:
    case RETIRED_UNCORRECTED:
        put_ull(field,
                (uint64_t)soft_state_pages_retired(
                    t->state, t->dev, (enum soft_ecc_kind)(id - RETIRED_CORRECTED), NULL, 0));
        break;
    case REMAPPED_CORRECTED:
    case REMAPPED_UNCORRECTED:
        put_uint(field, soft_state_rows_remapped(t->state, t->dev,
                                                 (enum soft_ecc_kind)(id - REMAPPED_CORRECTED)));
        break;
    case REMAPPED_FAILURE:
        put_uint(field, soft_state_setting(t->state, t->dev, SOFT_SET_ROWS_FAILED) != 0);
        break;
    case ROWS_INACTIVE:
    case ROWS_INACTIVE_LAST:
        put_uint(field, 0);
        break;
    default: /* pending, of any kind */
        put_uint(field, soft_state_setting(t->state, t->dev, SOFT_SET_ROWS_PENDING) != 0);
    }
    return NVML_SUCCESS;
}

static nvmlReturn_t links(const struct soft_target *t, nvmlFieldValue_t *field)
{
    if (field->fieldId == C2C_LINKS) {
        put_uint(field, 0);
        return NVML_SUCCESS;
    }
    if (t->profile->nvlinks == 0)
        return NVML_ERROR_NOT_SUPPORTED;
    if (field->fieldId == NVLINK_STATE && field->scopeId >= (unsigned)t->profile->nvlinks)
        return NVML_ERROR_INVALID_ARGUMENT;
    put_uint(field, field->fieldId == NVLINK_COUNT ? (unsigned)t->profile->nvlinks : 0);
    return NVML_SUCCESS;
}

static nvmlReturn_t power(const struct soft_target *t, nvmlFieldValue_t *field)
{
    uint64_t window = field->fieldId == POWER_INSTANT ? SOFT_BUCKET_NS : NVML_WINDOW_NS;
    switch (field->fieldId) {
    case TOTAL_ENERGY:
    case ENERGY:
        put_ull(field, soft_state_energy_mj(t->state, t->dev));
        break;
    case POWER_LEAST:
        put_uint(field, (unsigned)t->profile->power_min_w * 1000);
        break;
    case POWER_MOST:
    case POWER_DEFAULT:
        put_uint(field, (unsigned)t->profile->power_w * 1000);
        break;
    case POWER_CURRENT:
    case POWER_REQUESTED:
        put_uint(field, soft_nvml_limit_mw(t));
        break;
    default:
        put_uint(field, soft_state_power_mw(t->state, t->dev, window));
    }
    return NVML_SUCCESS;
}

/* Limits are told as distances from the highest operating temperature. */
static nvmlReturn_t heat(const struct soft_target *t, nvmlFieldValue_t *field)
{
    const struct soft_profile *p = t->profile;
    if ((field->fieldId == MEMORY_TEMP || field->fieldId == TLIMIT_MEMORY) && p->max_memory_c == 0)
        return NVML_ERROR_NOT_SUPPORTED;
    switch (field->fieldId) {
    case MEMORY_TEMP:
        put_uint(field, soft_nvml_memory_celsius(t));
        break;
    case TLIMIT_SHUTDOWN:
        put_int(field, p->max_c - p->shutdown_c);
        break;
    case TLIMIT_SLOWDOWN:
        put_int(field, p->max_c - p->slow_c);
        break;
    case TLIMIT_MEMORY:
        put_int(field, p->max_memory_c - (int)soft_nvml_memory_celsius(t));
        break;
    default:
        put_int(field, 0);
    }
    return NVML_SUCCESS;
}

static bool within(unsigned id, unsigned first, unsigned last)
{
    return id >= first && id <= last;
}

static nvmlReturn_t answer(const struct soft_target *t, nvmlFieldValue_t *field)
{
    unsigned id = field->fieldId;
    if (within(id, ECC_CURRENT, ECC_PENDING) || id == RESETLESS_MIG) {
        put_uint(field, id == RESETLESS_MIG ? t->profile->cc_major >= 9 : 1);
        return NVML_SUCCESS;
    }
    if (within(id, ECC_TOTALS, ECC_AGGREGATE_CBU))
        return ecc(t, field);
    if (within(id, RETIRED_CORRECTED, RETIRED_PENDING) ||
        within(id, RETIRED_PENDING_CORRECTED, RETIRED_PENDING_UNCORRECTED) ||
        within(id, REMAPPED_CORRECTED, REMAPPED_FAILURE) ||
        within(id, ROWS_INACTIVE, ROWS_INACTIVE_LAST))
        return repairs(t, field);
    if (id == NVLINK_COUNT || id == NVSWITCH_LINKS || id == NVLINK_STATE || id == C2C_LINKS)
        return links(t, field);
    if (within(id, POWER_AVERAGE, POWER_REQUESTED) || id == TOTAL_ENERGY)
        return power(t, field);
    if (within(id, TLIMIT_SHUTDOWN, TLIMIT_GPU) || id == MEMORY_TEMP)
        return heat(t, field);
    if (within(id, PERF_POLICY, PERF_POLICY_LAST) ||
        within(id, EVENT_SLOWDOWNS, EVENT_SLOWDOWNS_LAST)) {
        put_ull(field, 0); /* never slowed down */
        return NVML_SUCCESS;
    }
    if (within(id, PCIE_REPLAYS, PCIE_REPLAY_ROLLOVER) ||
        within(id, PCIE_ERRORS, PCIE_ERRORS_LAST) ||
        within(id, RESET_STATUS, DRAIN_AND_RESET_STATUS) || id == RECOVERY_ACTION) {
        put_uint(field, 0); /* no error ever; nothing to be done */
        return NVML_SUCCESS;
    }
    return NVML_ERROR_NOT_SUPPORTED;
}

nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t *values)
{
    ANY_OR_RETURN(device, values);
    if (count <= 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    for (int i = 0; i < count; i++) {
        values[i].timestamp = (long long)soft_nvml_wall_us(soft_now_ns());
        values[i].latencyUsec = 0;
        values[i].value = (nvmlValue_t){.ullVal = 0};
        values[i].nvmlReturn = t.mig ? NVML_ERROR_NOT_SUPPORTED : answer(&t, &values[i]);
    }
    return NVML_SUCCESS;
}

/* None of them is a counter that can be cleared. */
nvmlReturn_t nvmlDeviceClearFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t *values)
{
    BOARD_OR_RETURN(device, values);
    if (count <= 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    for (int i = 0; i < count; i++)
        values[i].nvmlReturn = NVML_ERROR_NOT_SUPPORTED;
    return NVML_SUCCESS;
}
