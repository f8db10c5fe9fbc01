/* SPDX-License-Identifier: Apache-2.0
 *
 * NVML beside the state it reads: errors that are counted, boards that are lost, instances,
 * settings by root and by others, accounting of the ended.
 */
#include "generated/nvml_abi.h"
#include "soft_test.h"

#define YES(call) CHECK_IS(NVML_SUCCESS, call)

static struct soft_state *state;

static nvmlDevice_t board(unsigned index)
{
    nvmlDevice_t device;
    char why[512];

    YES(nvmlInit_v2());
    state = soft_state_open(why, sizeof why);
    YES(nvmlDeviceGetHandleByIndex_v2(index, &device));
    return device;
}

static nvmlFieldValue_t field(nvmlDevice_t device, unsigned id)
{
    nvmlFieldValue_t value = {.fieldId = id};

    YES(nvmlDeviceGetFieldValues(device, 1, &value));
    return value;
}

static void ecc_counters(void *arg)
{
    nvmlDevice_t device = board(0);
    unsigned long long count;
    nvmlEccErrorCounts_t detail;
    unsigned corrected, uncorrected, pending, failed;

    soft_state_ecc_add(state, 0, SOFT_ECC_CORRECTED, SOFT_ECC_DRAM, 5);
    soft_state_ecc_add(state, 0, SOFT_ECC_UNCORRECTED, SOFT_ECC_L2, 2);
    soft_state_ecc_add(state, 0, SOFT_ECC_UNCORRECTED, SOFT_ECC_CBU, 1);
    YES(nvmlDeviceGetTotalEccErrors(device, NVML_MEMORY_ERROR_TYPE_CORRECTED, NVML_VOLATILE_ECC,
                                    &count));
    CHECK_IS(5, count);
    YES(nvmlDeviceGetTotalEccErrors(device, NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_AGGREGATE_ECC,
                                    &count));
    CHECK_IS(3, count);
    YES(nvmlDeviceGetDetailedEccErrors(device, NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
                                       NVML_VOLATILE_ECC, &detail));
    CHECK_IS(2, detail.l2Cache);
    CHECK_IS(0, detail.deviceMemory);
    YES(nvmlDeviceGetMemoryErrorCounter(device, NVML_MEMORY_ERROR_TYPE_CORRECTED, NVML_VOLATILE_ECC,
                                        NVML_MEMORY_LOCATION_DRAM, &count));
    CHECK_IS(5, count);
    CHECK_IS(5, field(device, 3).value.ullVal);  /* volatile, corrected */
    CHECK_IS(3, field(device, 4).value.ullVal);  /* volatile, uncorrected */
    CHECK_IS(5, field(device, 5).value.ullVal);  /* aggregate, corrected */
    CHECK_IS(3, field(device, 6).value.ullVal);  /* aggregate, uncorrected */
    CHECK_IS(2, field(device, 10).value.ullVal); /* volatile, uncorrected, L2 */
    CHECK_IS(5, field(device, 11).value.ullVal); /* volatile, corrected, memory */
    CHECK_IS(1, field(device, 17).value.ullVal); /* volatile, uncorrected, CBU */
    CHECK_IS(5, field(device, 22).value.ullVal); /* aggregate, corrected, memory */
    CHECK_IS(1, field(device, 28).value.ullVal); /* aggregate, uncorrected, CBU */
    CHECK_IS(
        NVML_ERROR_INVALID_ARGUMENT,
        nvmlDeviceGetTotalEccErrors(device, (nvmlMemoryErrorType_t)2, NVML_VOLATILE_ECC, &count));
    soft_state_rows_remap(state, 0, SOFT_ECC_UNCORRECTED, 1);
    soft_state_set(state, 0, SOFT_SET_ROWS_PENDING, 1);
    YES(nvmlDeviceGetRemappedRows(device, &corrected, &uncorrected, &pending, &failed));
    CHECK_IS(0, corrected);
    CHECK_IS(1, uncorrected);
    CHECK_IS(1, pending);
    CHECK_IS(0, failed);
    CHECK_IS(1, field(device, 143).value.uiVal);
    CHECK_IS(1, field(device, 144).value.uiVal);
    CHECK_IS(NVML_ERROR_NOT_SUPPORTED, (int)field(device, 30).nvmlReturn);
}

/* A T4 retires pages instead. */
static void retired_pages(void *arg)
{
    nvmlDevice_t device = board(0);
    unsigned long long addresses[4], times[4];
    unsigned count = 0, x;
    nvmlEnableState_t pending;

    soft_state_page_retire(state, 0, SOFT_ECC_UNCORRECTED, 0x12345000);
    CHECK_IS(NVML_ERROR_INSUFFICIENT_SIZE,
             nvmlDeviceGetRetiredPages(device, NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR,
                                       &count, NULL));
    CHECK_IS(1, count);
    count = 4;
    YES(nvmlDeviceGetRetiredPages_v2(device, NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR,
                                     &count, addresses, times));
    CHECK_IS(1, count);
    CHECK_IS(0x12345000, addresses[0]);
    count = 4;
    YES(nvmlDeviceGetRetiredPages(device, NVML_PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS,
                                  &count, addresses));
    CHECK_IS(0, count);
    YES(nvmlDeviceGetRetiredPagesPendingStatus(device, &pending));
    CHECK_IS(NVML_FEATURE_DISABLED, pending);
    CHECK_IS(1, field(device, 30).value.ullVal);
    CHECK_IS(NVML_ERROR_NOT_SUPPORTED, nvmlDeviceGetRemappedRows(device, &x, &x, &x, &x));
}

static void lost_board(void *arg)
{
    nvmlDevice_t device = board(0), other, again;
    char text[96];
    unsigned value;
    nvmlMemory_t memory;
    nvmlEventSet_t set;
    nvmlEventData_t event;

    YES(nvmlDeviceGetHandleByIndex_v2(1, &other));
    YES(nvmlDeviceGetUUID(device, text, sizeof text));
    YES(nvmlEventSetCreate(&set));
    YES(nvmlDeviceRegisterEvents(device, nvmlEventTypeGpuUnavailableError, set));
    YES(nvmlDeviceRegisterEvents(other, nvmlEventTypeXidCriticalError, set));
    soft_state_lost_set(state, 0, true);
    soft_state_event_post(state, 1, SOFT_EVENT_LOST, 0, 0); /* not asked for */
    soft_state_event_post(state, 0, SOFT_EVENT_XID, 79, 0); /* nor this */
    soft_state_event_post(state, 0, SOFT_EVENT_LOST, 0, 0);
    YES(nvmlEventSetWait_v2(set, &event, 0));
    CHECK(event.device == device);
    CHECK_IS(nvmlEventTypeGpuUnavailableError, event.eventType);
    CHECK_IS(NVML_ERROR_TIMEOUT, nvmlEventSetWait_v2(set, &event, 0));
    CHECK_IS(NVML_ERROR_GPU_IS_LOST, nvmlDeviceGetName(device, text, sizeof text));
    CHECK_IS(NVML_ERROR_GPU_IS_LOST, nvmlDeviceGetMemoryInfo(device, &memory));
    CHECK_IS(NVML_ERROR_GPU_IS_LOST,
             nvmlDeviceGetTemperature(device, NVML_TEMPERATURE_GPU, &value));
    CHECK_IS(NVML_ERROR_GPU_IS_LOST, nvmlDeviceGetHandleByIndex_v2(0, &again));
    CHECK_IS(NVML_ERROR_GPU_IS_LOST, nvmlDeviceGetHandleByUUID(text, &again));
    YES(nvmlDeviceGetName(other, text, sizeof text));
    YES(nvmlDeviceGetCount_v2(&value));
    CHECK_IS(2, value);
    soft_state_lost_set(state, 0, false);
    YES(nvmlDeviceGetName(device, text, sizeof text));
}

/* A set hears of what comes after it asked; of more than the ring remembers, the latest. */
static void events_late(void *arg)
{
    enum { TOO_MANY = 44 };
    nvmlDevice_t device = board(0);
    nvmlEventSet_t set;
    nvmlEventData_t event;

    YES(nvmlEventSetCreate(&set));
    soft_state_event_post(state, 0, SOFT_EVENT_XID, 13, 0);
    YES(nvmlDeviceRegisterEvents(device, nvmlEventTypeXidCriticalError, set));
    CHECK_IS(NVML_ERROR_TIMEOUT, nvmlEventSetWait_v2(set, &event, 0));
    for (unsigned i = 0; i < SOFT_EVENTS + TOO_MANY; i++)
        soft_state_event_post(state, 0, SOFT_EVENT_XID, i, 0);
    for (unsigned i = TOO_MANY; i < SOFT_EVENTS + TOO_MANY; i++) {
        YES(nvmlEventSetWait_v2(set, &event, 0));
        CHECK_IS(i, event.eventData);
    }
    CHECK_IS(NVML_ERROR_TIMEOUT, nvmlEventSetWait_v2(set, &event, 0));
    YES(nvmlEventSetFree(set));
}

/* ----------------------------------------------------------------------------- instances ----- */
static void instances(void *arg)
{
    nvmlDevice_t device = board(1), mig, parent;
    unsigned a, b, is_mig;
    nvmlDeviceAttributes_t attributes;
    nvmlGpuInstance_t gi;
    nvmlGpuInstanceInfo_t gi_info;
    nvmlComputeInstance_t ci;
    nvmlComputeInstanceInfo_t ci_info;
    nvmlGpuInstanceProfileInfo_v2_t profile = {
        .version = HARP_NVML_STRUCT(nvmlGpuInstanceProfileInfo_v2_t, 2)};
    nvmlUtilization_t utilization;
    nvmlMemory_t memory;

    YES(nvmlDeviceGetMigMode(device, &a, &b));
    CHECK(a == 1 && b == 1);
    YES(nvmlDeviceGetMaxMigDeviceCount(device, &a));
    CHECK_IS(7, a);
    CHECK_IS(NVML_ERROR_NOT_FOUND, nvmlDeviceGetMigDeviceHandleByIndex(device, 2, &mig));
    CHECK_IS(NVML_ERROR_INVALID_ARGUMENT, nvmlDeviceGetMigDeviceHandleByIndex(device, 7, &mig));
    CHECK_IS(NVML_ERROR_NOT_SUPPORTED, nvmlDeviceGetUtilizationRates(device, &utilization));
    CHECK_IS(NVML_ERROR_NOT_SUPPORTED, nvmlDeviceGetAttributes_v2(device, &attributes));
    for (unsigned i = 0; i < 2; i++) {
        YES(nvmlDeviceGetMigDeviceHandleByIndex(device, i, &mig));
        YES(nvmlDeviceIsMigDeviceHandle(mig, &is_mig));
        CHECK_IS(1, is_mig);
        YES(nvmlDeviceGetDeviceHandleFromMigDeviceHandle(mig, &parent));
        CHECK(parent == device);
        YES(nvmlDeviceGetGpuInstanceId(mig, &a));
        CHECK_IS(i + 1, a);
        YES(nvmlDeviceGetComputeInstanceId(mig, &b));
        CHECK_IS(0, b);
        YES(nvmlDeviceGetAttributes_v2(mig, &attributes));
        CHECK_IS(60, attributes.multiprocessorCount);
        CHECK_IS(3, attributes.gpuInstanceSliceCount);
        YES(nvmlDeviceGetMemoryInfo(mig, &memory));
        CHECK_IS(memory.total >> 20, attributes.memorySizeMB);
        YES(nvmlDeviceGetGpuInstanceById(device, a, &gi));
        YES(nvmlGpuInstanceGetInfo(gi, &gi_info));
        CHECK(gi_info.device == device && gi_info.id == a);
        CHECK_IS(4 * i, gi_info.placement.start);
        YES(nvmlGpuInstanceGetComputeInstanceById(gi, b, &ci));
        YES(nvmlComputeInstanceGetInfo_v2(ci, &ci_info));
        CHECK(ci_info.device == device && ci_info.gpuInstance == gi);
        CHECK_IS(NVML_ERROR_NOT_SUPPORTED, nvmlDeviceGetTemperature(mig, NVML_TEMPERATURE_GPU, &a));
    }
    YES(nvmlDeviceGetGpuInstanceProfileInfoV(device, NVML_GPU_INSTANCE_PROFILE_3_SLICE, &profile));
    CHECK(strcmp(profile.name, "MIG 3g.40gb") == 0);
    CHECK_IS(gi_info.profileId, profile.id);
    CHECK_IS(2, profile.instanceCount);
    CHECK_IS(NVML_ERROR_NOT_SUPPORTED, nvmlDeviceGetGpuInstanceProfileInfoV(device, 0, &profile));
    YES(nvmlDeviceGetHandleByIndex_v2(0, &device));
    YES(nvmlDeviceGetMigMode(device, &a, &b));
    CHECK(a == 0 && b == 0);
    YES(nvmlDeviceGetMaxMigDeviceCount(device, &a));
    CHECK_IS(0, a);
    CHECK_IS(NVML_ERROR_NOT_SUPPORTED, nvmlDeviceGetMigDeviceHandleByIndex(device, 0, &mig));
    CHECK_IS(NVML_ERROR_NOT_SUPPORTED, nvmlDeviceGetGpuInstanceId(device, &a));
}

static void instance_events(void *arg)
{
    nvmlDevice_t device = board(0), mig;
    nvmlEventSet_t set;
    nvmlEventData_t event;
    nvmlEventData_v1_t old[2] = {{0}};

    YES(nvmlDeviceGetMigDeviceHandleByIndex(device, 1, &mig));
    YES(nvmlEventSetCreate(&set));
    YES(nvmlDeviceRegisterEvents(device, nvmlEventTypeXidCriticalError, set));
    soft_state_event_post(state, 1, SOFT_EVENT_XID, 31, 42);
    YES(nvmlEventSetWait_v2(set, &event, 0));
    CHECK(event.device == device);
    CHECK_IS(2, event.gpuInstanceId);
    CHECK_IS(0, event.computeInstanceId);
    soft_state_event_post(state, 0, SOFT_EVENT_XID, 13, 42);
    YES(nvmlEventSetWait(set, old, 0));
    CHECK_IS(13, old[0].eventData);
    CHECK(old[1].device == NULL); /* nothing is written behind the older struct */
}

/* ------------------------------------------------------------------------------ settings ----- */
static nvmlReturn_t all_setters(nvmlDevice_t d, nvmlReturn_t want)
{
    nvmlReturn_t activation, said[] = {
                                 nvmlDeviceSetPersistenceMode(d, NVML_FEATURE_ENABLED),
                                 nvmlDeviceSetComputeMode(d, NVML_COMPUTEMODE_DEFAULT),
                                 nvmlDeviceSetEccMode(d, NVML_FEATURE_ENABLED),
                                 nvmlDeviceClearEccErrorCounts(d, NVML_VOLATILE_ECC),
                                 nvmlDeviceSetPowerManagementLimit(d, 300000),
                                 nvmlDeviceSetApplicationsClocks(d, 2619, 1980),
                                 nvmlDeviceResetApplicationsClocks(d),
                                 nvmlDeviceSetGpuLockedClocks(d, 1000, 1500),
                                 nvmlDeviceResetGpuLockedClocks(d),
                                 nvmlDeviceSetAccountingMode(d, NVML_FEATURE_ENABLED),
                                 nvmlDeviceClearAccountingPids(d),
                                 nvmlDeviceSetMigMode(d, NVML_DEVICE_MIG_DISABLE, &activation),
                             };

    for (size_t i = 0; i < sizeof said / sizeof said[0]; i++)
        if (said[i] != want) {
            fprintf(stderr, "setter %zu said %d, not %d\n", i, (int)said[i], (int)want);
            return said[i];
        }
    return want;
}

static void by_somebody(void *arg)
{
    nvmlDevice_t device = board(0);
    unsigned limit;

    CHECK(setuid(65534) == 0);
    CHECK_IS(NVML_ERROR_NO_PERMISSION, all_setters(device, NVML_ERROR_NO_PERMISSION));
    YES(nvmlDeviceGetPowerManagementLimit(device, &limit));
    CHECK_IS(700000, limit);
}

static void settings(void *arg)
{
    nvmlDevice_t device = board(0);
    unsigned value, least, most;
    nvmlEnableState_t mode;

    if (geteuid() != 0) { /* the other half needs root */
        CHECK_IS(NVML_ERROR_NO_PERMISSION, all_setters(device, NVML_ERROR_NO_PERMISSION));
        return;
    }
    reap_ok(child(by_somebody, NULL));
    YES(all_setters(device, NVML_SUCCESS));
    YES(nvmlDeviceGetPowerManagementLimit(device, &value));
    CHECK_IS(300000, value);
    YES(nvmlDeviceGetPowerManagementDefaultLimit(device, &value));
    CHECK_IS(700000, value);
    YES(nvmlDeviceGetPowerManagementLimitConstraints(device, &least, &most));
    CHECK_IS(NVML_ERROR_INVALID_ARGUMENT, nvmlDeviceSetPowerManagementLimit(device, least - 1));
    CHECK_IS(NVML_ERROR_INVALID_ARGUMENT, nvmlDeviceSetPowerManagementLimit(device, most + 1));
    YES(nvmlDeviceSetPersistenceMode(device, NVML_FEATURE_DISABLED));
    YES(nvmlDeviceGetPersistenceMode(device, &mode));
    CHECK_IS(NVML_FEATURE_DISABLED, mode);
    CHECK_IS(NVML_ERROR_INVALID_ARGUMENT, nvmlDeviceSetApplicationsClocks(device, 2619, 1981));
    YES(nvmlDeviceSetApplicationsClocks(device, 2619, 1200));
    YES(nvmlDeviceGetApplicationsClock(device, NVML_CLOCK_SM, &value));
    CHECK_IS(1200, value);
    CHECK_IS(1200, soft_state_sm_most_mhz(state, 0));
    YES(nvmlDeviceSetGpuLockedClocks(device, 100, 900));
    CHECK_IS(900, soft_state_sm_most_mhz(state, 0));
    YES(nvmlDeviceGetClockInfo(device, NVML_CLOCK_SM, &value));
    CHECK_IS(345, value); /* idle, and no lower than it can */
    CHECK_IS(NVML_ERROR_NOT_SUPPORTED,
             nvmlDeviceSetComputeMode(device, NVML_COMPUTEMODE_PROHIBITED));
    CHECK_IS(NVML_ERROR_NOT_SUPPORTED, nvmlDeviceSetEccMode(device, NVML_FEATURE_DISABLED));
    soft_state_ecc_add(state, 0, SOFT_ECC_CORRECTED, SOFT_ECC_DRAM, 5);
    YES(nvmlDeviceClearEccErrorCounts(device, NVML_VOLATILE_ECC));
    CHECK_IS(0, field(device, 3).value.ullVal);
    CHECK_IS(5, field(device, 5).value.ullVal);
}

/* ---------------------------------------------------------------------------- accounting ----- */
static void worker(void *arg)
{
    CUdeviceptr p;

    context();
    OK(cuMemAlloc_v2(&p, 100ull << 20));
    launch(NULL, 20 * MS, 0);
    OK(cuCtxSynchronize());
    OK(cuMemFree_v2(p));
}

static pid_t work(void)
{
    pid_t pid = child(worker, NULL);

    reap_ok(pid);
    return pid;
}

static void accounting(void *arg)
{
    nvmlDevice_t device = board(0);
    nvmlAccountingStats_t stats;
    nvmlAccountingStats_v2_t second = {0};
    nvmlEnableState_t mode;
    unsigned pids[8], count = 0;
    uint64_t from, lived;
    pid_t before = work(), pid;

    YES(nvmlDeviceGetAccountingMode(device, &mode));
    CHECK_IS(NVML_FEATURE_DISABLED, mode);
    CHECK_IS(NVML_ERROR_NOT_FOUND, nvmlDeviceGetAccountingStats(device, (unsigned)before, &stats));
    soft_state_accounting_set(state, 0, soft_now_ns());
    YES(nvmlDeviceGetAccountingMode(device, &mode));
    CHECK_IS(NVML_FEATURE_ENABLED, mode);
    from = soft_now_ns();
    pid = work();
    lived = soft_now_ns() - from;
    sleep_ns(200 * MS); /* that nobody looked for a while does not lengthen its life */
    CHECK_IS(NVML_ERROR_NOT_FOUND, nvmlDeviceGetAccountingStats(device, (unsigned)before, &stats));
    YES(nvmlDeviceGetAccountingStats(device, (unsigned)pid, &stats));
    CHECK_IS(124ull << 20, stats.maxMemoryUsage); /* with its context */
    CHECK_IS(0, stats.isRunning);
    CHECK_BETWEEN(20, lived / MS + 1, stats.time);
    CHECK_BETWEEN(1, 100, stats.gpuUtilization);
    CHECK_BETWEEN((double)time(NULL) - 60, (double)time(NULL) + 1, (double)stats.startTime / 1e6);
    second.pid = (unsigned)pid;
    YES(nvmlDeviceGetAccountingStats_v2(device, &second));
    CHECK_IS(stats.maxMemoryUsage, second.maxMemoryUsage);
    CHECK_IS(NVML_ERROR_INSUFFICIENT_SIZE, nvmlDeviceGetAccountingPids(device, &count, NULL));
    CHECK_IS(1, count);
    count = 8;
    YES(nvmlDeviceGetAccountingPids(device, &count, pids));
    CHECK_IS(pid, pids[0]);
    soft_state_accounting_forget(state, 0, soft_now_ns());
    count = 8;
    YES(nvmlDeviceGetAccountingPids(device, &count, pids));
    CHECK_IS(0, count);
}

int main(void)
{
    test_run("ecc counters", "h100-80g", "0", ecc_counters);
    test_run("retired pages", "t4-16g", "0", retired_pages);
    test_run("lost board", "a100-40g,tiny", "0", lost_board);
    test_run("events late", "tiny", "0", events_late);
    test_run("instances", "h100-80g,h100-mig-2x40g", "0", instances);
    test_run("events of instances", "h100-mig-2x40g", "0", instance_events);
    test_run("settings", "h100-80g", "0", settings);
    test_run("accounting", "tiny", "0", accounting);
    return 0;
}
