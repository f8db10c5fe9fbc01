# SPDX-License-Identifier: Apache-2.0
# fmt: off
"""NVML's types, as far as the calls with prototypes need them."""

from __future__ import annotations

from native.api.model import Const, Type, aliases, consts, enum, handles, struct, union

TYPES: tuple[Type, ...] = (
    *handles("""
        nvmlDevice_t nvmlDevice_st
        nvmlUnit_t nvmlUnit_st
        nvmlEventSet_t nvmlEventSet_st
        nvmlGpuInstance_t nvmlGpuInstance_st
        nvmlComputeInstance_t nvmlComputeInstance_st"""),
    *aliases("""
        nvmlDeviceArchitecture_t unsigned int
        nvmlAffinityScope_t unsigned int
        nvmlProcessInfo_t nvmlProcessInfo_v2_t
        nvmlProcessDetailList_t nvmlProcessDetailList_v1_t
        nvmlProcessesUtilizationInfo_t nvmlProcessesUtilizationInfo_v1_t"""),
    enum("nvmlReturn_t", """
        NVML_SUCCESS 0, NVML_ERROR_UNINITIALIZED 1, NVML_ERROR_INVALID_ARGUMENT 2,
        NVML_ERROR_NOT_SUPPORTED 3, NVML_ERROR_NO_PERMISSION 4, NVML_ERROR_ALREADY_INITIALIZED 5,
        NVML_ERROR_NOT_FOUND 6, NVML_ERROR_INSUFFICIENT_SIZE 7, NVML_ERROR_INSUFFICIENT_POWER 8,
        NVML_ERROR_DRIVER_NOT_LOADED 9, NVML_ERROR_TIMEOUT 10, NVML_ERROR_IRQ_ISSUE 11,
        NVML_ERROR_LIBRARY_NOT_FOUND 12, NVML_ERROR_FUNCTION_NOT_FOUND 13,
        NVML_ERROR_CORRUPTED_INFOROM 14, NVML_ERROR_GPU_IS_LOST 15, NVML_ERROR_RESET_REQUIRED 16,
        NVML_ERROR_OPERATING_SYSTEM 17, NVML_ERROR_LIB_RM_VERSION_MISMATCH 18,
        NVML_ERROR_IN_USE 19, NVML_ERROR_MEMORY 20, NVML_ERROR_NO_DATA 21,
        NVML_ERROR_VGPU_ECC_NOT_SUPPORTED 22, NVML_ERROR_INSUFFICIENT_RESOURCES 23,
        NVML_ERROR_FREQ_NOT_SUPPORTED 24, NVML_ERROR_ARGUMENT_VERSION_MISMATCH 25,
        NVML_ERROR_DEPRECATED 26, NVML_ERROR_NOT_READY 27, NVML_ERROR_GPU_NOT_FOUND 28,
        NVML_ERROR_INVALID_STATE 29, NVML_ERROR_RESET_TYPE_NOT_SUPPORTED 30,
        NVML_ERROR_UNKNOWN 999"""),
    enum("nvmlEnableState_t", """
        NVML_FEATURE_DISABLED 0, NVML_FEATURE_ENABLED 1"""),
    enum("nvmlBrandType_t", """
        NVML_BRAND_UNKNOWN 0, NVML_BRAND_QUADRO 1, NVML_BRAND_TESLA 2, NVML_BRAND_NVS 3,
        NVML_BRAND_GRID 4, NVML_BRAND_GEFORCE 5, NVML_BRAND_TITAN 6, NVML_BRAND_NVIDIA 14"""),
    enum("nvmlTemperatureSensors_t", """
        NVML_TEMPERATURE_GPU 0"""),
    enum("nvmlTemperatureThresholds_t", """
        NVML_TEMPERATURE_THRESHOLD_SHUTDOWN 0, NVML_TEMPERATURE_THRESHOLD_SLOWDOWN 1,
        NVML_TEMPERATURE_THRESHOLD_MEM_MAX 2, NVML_TEMPERATURE_THRESHOLD_GPU_MAX 3,
        NVML_TEMPERATURE_THRESHOLD_ACOUSTIC_MIN 4, NVML_TEMPERATURE_THRESHOLD_ACOUSTIC_CURR 5,
        NVML_TEMPERATURE_THRESHOLD_ACOUSTIC_MAX 6, NVML_TEMPERATURE_THRESHOLD_GPS_CURR 7"""),
    enum("nvmlComputeMode_t", """
        NVML_COMPUTEMODE_DEFAULT 0, NVML_COMPUTEMODE_EXCLUSIVE_THREAD 1,
        NVML_COMPUTEMODE_PROHIBITED 2, NVML_COMPUTEMODE_EXCLUSIVE_PROCESS 3"""),
    enum("nvmlClockType_t", """
        NVML_CLOCK_GRAPHICS 0, NVML_CLOCK_SM 1, NVML_CLOCK_MEM 2, NVML_CLOCK_VIDEO 3"""),
    enum("nvmlClockId_t", """
        NVML_CLOCK_ID_CURRENT 0, NVML_CLOCK_ID_APP_CLOCK_TARGET 1,
        NVML_CLOCK_ID_APP_CLOCK_DEFAULT 2, NVML_CLOCK_ID_CUSTOMER_BOOST_MAX 3"""),
    enum("nvmlPstates_t", """
        NVML_PSTATE_0 0, NVML_PSTATE_1 1, NVML_PSTATE_2 2, NVML_PSTATE_3 3, NVML_PSTATE_4 4,
        NVML_PSTATE_5 5, NVML_PSTATE_6 6, NVML_PSTATE_7 7, NVML_PSTATE_8 8, NVML_PSTATE_9 9,
        NVML_PSTATE_10 10, NVML_PSTATE_11 11, NVML_PSTATE_12 12, NVML_PSTATE_13 13,
        NVML_PSTATE_14 14, NVML_PSTATE_15 15, NVML_PSTATE_UNKNOWN 32"""),
    enum("nvmlValueType_t", """
        NVML_VALUE_TYPE_DOUBLE 0, NVML_VALUE_TYPE_UNSIGNED_INT 1, NVML_VALUE_TYPE_UNSIGNED_LONG 2,
        NVML_VALUE_TYPE_UNSIGNED_LONG_LONG 3, NVML_VALUE_TYPE_SIGNED_LONG_LONG 4,
        NVML_VALUE_TYPE_SIGNED_INT 5, NVML_VALUE_TYPE_UNSIGNED_SHORT 6"""),
    enum("nvmlSamplingType_t", """
        NVML_TOTAL_POWER_SAMPLES 0, NVML_GPU_UTILIZATION_SAMPLES 1,
        NVML_MEMORY_UTILIZATION_SAMPLES 2, NVML_ENC_UTILIZATION_SAMPLES 3,
        NVML_DEC_UTILIZATION_SAMPLES 4, NVML_PROCESSOR_CLK_SAMPLES 5, NVML_MEMORY_CLK_SAMPLES 6,
        NVML_MODULE_POWER_SAMPLES 7, NVML_JPG_UTILIZATION_SAMPLES 8,
        NVML_OFA_UTILIZATION_SAMPLES 9"""),
    enum("nvmlGpuVirtualizationMode_t", """
        NVML_GPU_VIRTUALIZATION_MODE_NONE 0, NVML_GPU_VIRTUALIZATION_MODE_PASSTHROUGH 1,
        NVML_GPU_VIRTUALIZATION_MODE_VGPU 2, NVML_GPU_VIRTUALIZATION_MODE_HOST_VGPU 3,
        NVML_GPU_VIRTUALIZATION_MODE_HOST_VSGA 4"""),
    enum("nvmlGpuTopologyLevel_t", """
        NVML_TOPOLOGY_INTERNAL 0, NVML_TOPOLOGY_SINGLE 10, NVML_TOPOLOGY_MULTIPLE 20,
        NVML_TOPOLOGY_HOSTBRIDGE 30, NVML_TOPOLOGY_NODE 40, NVML_TOPOLOGY_SYSTEM 50"""),
    enum("nvmlPcieUtilCounter_t", """
        NVML_PCIE_UTIL_TX_BYTES 0, NVML_PCIE_UTIL_RX_BYTES 1"""),
    enum("nvmlMemoryErrorType_t", """
        NVML_MEMORY_ERROR_TYPE_CORRECTED 0, NVML_MEMORY_ERROR_TYPE_UNCORRECTED 1"""),
    enum("nvmlEccCounterType_t", """
        NVML_VOLATILE_ECC 0, NVML_AGGREGATE_ECC 1"""),
    enum("nvmlMemoryLocation_t", """
        NVML_MEMORY_LOCATION_L1_CACHE 0, NVML_MEMORY_LOCATION_L2_CACHE 1,
        NVML_MEMORY_LOCATION_DRAM 2, NVML_MEMORY_LOCATION_REGISTER_FILE 3,
        NVML_MEMORY_LOCATION_TEXTURE_MEMORY 4, NVML_MEMORY_LOCATION_TEXTURE_SHM 5,
        NVML_MEMORY_LOCATION_CBU 6, NVML_MEMORY_LOCATION_SRAM 7"""),
    enum("nvmlPageRetirementCause_t", """
        NVML_PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS 0,
        NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR 1"""),
    enum("nvmlInforomObject_t", """
        NVML_INFOROM_OEM 0, NVML_INFOROM_ECC 1, NVML_INFOROM_POWER 2, NVML_INFOROM_DEN 3"""),
    enum("nvmlEncoderType_t", """
        NVML_ENCODER_QUERY_H264 0, NVML_ENCODER_QUERY_HEVC 1, NVML_ENCODER_QUERY_AV1 2"""),
    enum("nvmlRestrictedAPI_t", """
        NVML_RESTRICTED_API_SET_APPLICATION_CLOCKS 0,
        NVML_RESTRICTED_API_SET_AUTO_BOOSTED_CLOCKS 1"""),
    enum("nvmlPerfPolicyType_t", """
        NVML_PERF_POLICY_POWER 0, NVML_PERF_POLICY_THERMAL 1, NVML_PERF_POLICY_SYNC_BOOST 2,
        NVML_PERF_POLICY_BOARD_LIMIT 3, NVML_PERF_POLICY_LOW_UTILIZATION 4,
        NVML_PERF_POLICY_RELIABILITY 5, NVML_PERF_POLICY_TOTAL_APP_CLOCKS 10,
        NVML_PERF_POLICY_TOTAL_BASE_CLOCKS 11"""),
    enum("nvmlGpuP2PCapsIndex_t", """
        NVML_P2P_CAPS_INDEX_READ 0, NVML_P2P_CAPS_INDEX_WRITE 1, NVML_P2P_CAPS_INDEX_NVLINK 2,
        NVML_P2P_CAPS_INDEX_ATOMICS 3, NVML_P2P_CAPS_INDEX_PROP 4"""),
    enum("nvmlGpuP2PStatus_t", """
        NVML_P2P_STATUS_OK 0, NVML_P2P_STATUS_CHIPSET_NOT_SUPPORTED 1,
        NVML_P2P_STATUS_GPU_NOT_SUPPORTED 2, NVML_P2P_STATUS_IOH_TOPOLOGY_NOT_SUPPORTED 3,
        NVML_P2P_STATUS_DISABLED_BY_REGKEY 4, NVML_P2P_STATUS_NOT_SUPPORTED 5,
        NVML_P2P_STATUS_UNKNOWN 6"""),
    struct("nvmlMemory_t", 24, "unsigned long long total, free, used;"),
    struct("nvmlMemory_v2_t", 40, """
        unsigned int version; unsigned long long total, reserved, free, used;"""),
    struct("nvmlBAR1Memory_t", 24, "unsigned long long bar1Total, bar1Free, bar1Used;"),
    struct("nvmlUtilization_t", 8, "unsigned int gpu, memory;"),
    struct("nvmlProcessInfo_v1_t", 16, "unsigned int pid; unsigned long long usedGpuMemory;"),
    struct("nvmlProcessInfo_v2_t", 24, """
        unsigned int pid; unsigned long long usedGpuMemory;
        unsigned int gpuInstanceId, computeInstanceId;"""),
    struct("nvmlProcessDetail_v1_t", 32, """
        unsigned int pid; unsigned long long usedGpuMemory;
        unsigned int gpuInstanceId, computeInstanceId;
        unsigned long long usedGpuCcProtectedMemory;"""),
    struct("nvmlProcessDetailList_v1_t", 24, """
        unsigned int version, mode, numProcArrayEntries; nvmlProcessDetail_v1_t *procArray;"""),
    struct("nvmlPciInfo_v2_t", 52, """
        char busId[16]; unsigned int domain, bus, device, pciDeviceId, pciSubSystemId, reserved0,
        reserved1, reserved2, reserved3;"""),
    struct("nvmlPciInfo_t", 68, """
        char busIdLegacy[16]; unsigned int domain, bus, device, pciDeviceId, pciSubSystemId;
        char busId[32];"""),
    struct("nvmlPciInfoExt_v1_t", 64, """
        unsigned int version, domain, bus, device, pciDeviceId, pciSubSystemId, baseClass,
        subClass; char busId[32];"""),
    struct("nvmlProcessUtilizationSample_t", 32, """
        unsigned int pid; unsigned long long timeStamp;
        unsigned int smUtil, memUtil, encUtil, decUtil;"""),
    struct("nvmlProcessUtilizationInfo_v1_t", 40, """
        unsigned long long timeStamp;
        unsigned int pid, smUtil, memUtil, encUtil, decUtil, jpgUtil, ofaUtil;"""),
    struct("nvmlProcessesUtilizationInfo_v1_t", 24, """
        unsigned int version, processSamplesCount; unsigned long long lastSeenTimeStamp;
        nvmlProcessUtilizationInfo_v1_t *procUtilArray;"""),
    union("nvmlValue_t", 8, """
        double dVal; unsigned int uiVal; unsigned long ulVal; unsigned long long ullVal;
        signed long long sllVal; int siVal; unsigned short usVal;"""),
    struct("nvmlSample_t", 16, "unsigned long long timeStamp; nvmlValue_t sampleValue;"),
    struct("nvmlFieldValue_t", 40, """
        unsigned int fieldId, scopeId; long long timestamp, latencyUsec;
        nvmlValueType_t valueType; nvmlReturn_t nvmlReturn; nvmlValue_t value;"""),
    struct("nvmlAccountingStats_t", 56, """
        unsigned int gpuUtilization, memoryUtilization;
        unsigned long long maxMemoryUsage, time, startTime; unsigned int isRunning, reserved[5];"""),
    struct("nvmlDeviceAttributes_t", 40, """
        unsigned int multiprocessorCount, sharedCopyEngineCount, sharedDecoderCount,
        sharedEncoderCount, sharedJpegCount, sharedOfaCount, gpuInstanceSliceCount,
        computeInstanceSliceCount; unsigned long long memorySizeMB;"""),
    struct("nvmlSystemDriverBranchInfo_v1_t", 84, "unsigned int version; char branch[80];"),
    struct("nvmlHwbcEntry_t", 36, "unsigned int hwbcId; char firmwareVersion[32];"),
    union("nvmlUUIDValue_t", 41, "char str[41]; unsigned char bytes[16];"),
    struct("nvmlUUID_t", 52, "unsigned int version, type; nvmlUUIDValue_t value;"),
    struct("nvmlC2cModeInfo_v1_t", 4, "unsigned int isC2cEnabled;"),
    struct("nvmlBridgeChipInfo_t", 8, "unsigned int type, fwVersion;"),
    struct("nvmlBridgeChipHierarchy_t", 1028, """
        unsigned char bridgeCount; nvmlBridgeChipInfo_t bridgeChipInfo[128];"""),
    struct("nvmlEncoderSessionInfo_t", 36, """
        unsigned int sessionId, pid, vgpuInstance, codecType, hResolution, vResolution,
        averageFps, averageLatency, reserved;"""),
    struct("nvmlFBCStats_t", 12, "unsigned int sessionsCount, averageFPS, averageLatency;"),
    struct("nvmlFBCSessionInfo_t", 48, """
        unsigned int sessionId, pid, vgpuInstance, displayOrdinal, sessionType, sessionFlags,
        hMaxResolution, vMaxResolution, hResolution, vResolution, averageFPS, averageLatency;"""),
    struct("nvmlGpuDynamicPstatesUtilization_t", 16, """
        unsigned int bIsPresent, percentage, incThreshold, decThreshold;"""),
    struct("nvmlGpuDynamicPstatesInfo_t", 132, """
        unsigned int flags; nvmlGpuDynamicPstatesUtilization_t utilization[8];"""),
    struct("nvmlGpuThermalSensor_t", 20, """
        int controller, defaultMinTemp, defaultMaxTemp, currentTemp, target;"""),
    struct("nvmlGpuThermalSettings_t", 64, """
        unsigned int count; nvmlGpuThermalSensor_t sensor[3];"""),
    struct("nvmlAccountingStats_v2_t", 64, """
        unsigned int pid, isRunning, gpuUtilization, memoryUtilization;
        unsigned long long maxMemoryUsage; unsigned int sampleCount;
        unsigned long long sumGpuUtil, sumFbUtil, time, startTime;"""),
    struct("nvmlGpmSupport_t", 8, "unsigned int version, isSupportedDevice;"),
    struct("nvmlTemperature_v1_t", 12, """
        unsigned int version; nvmlTemperatureSensors_t sensorType; int temperature;"""),
    struct("nvmlMarginTemperature_v1_t", 8, "unsigned int version; int marginTemperature;"),
    struct("nvmlPowerValue_v2_t", 12, "unsigned int version, powerScope, powerValueMw;"),
    struct("nvmlViolationTime_t", 16, "unsigned long long referenceTime, violationTime;"),
    struct("nvmlEccErrorCounts_t", 32, """
        unsigned long long l1Cache, l2Cache, deviceMemory, registerFile;"""),
    struct("nvmlEccSramErrorStatus_v1_t", 104, """
        unsigned int version; unsigned long long aggregateUncParity, aggregateUncSecDed,
        aggregateCor, volatileUncParity, volatileUncSecDed, volatileCor, aggregateUncBucketL2,
        aggregateUncBucketSm, aggregateUncBucketPcie, aggregateUncBucketMcu,
        aggregateUncBucketOther; unsigned int bThresholdExceeded;"""),
    struct("nvmlRowRemapperHistogramValues_t", 20, "unsigned int max, high, partial, low, none;"),
    struct("nvmlRepairStatus_v1_t", 12, """
        unsigned int version, bChannelRepairPending, bTpcRepairPending;"""),
    struct("nvmlPdi_v1_t", 16, "unsigned int version; unsigned long long value;"),
    struct("nvmlRemappedRowsInfo_v2_t", 24, """
        unsigned int corrActiveRemaps, corrInactiveRemaps, uncActiveRemaps, uncInactiveRemaps,
        bPending, bfailureOccurred;"""),
    struct("nvmlEccSramUniqueUncorrectedErrorCounts_v1_t", 16, """
        unsigned int version, entryCount; void *entries;"""),
    struct("nvmlEventData_v1_t", 24, """
        nvmlDevice_t device; unsigned long long eventType, eventData;"""),
    struct("nvmlEventData_t", 32, """
        nvmlDevice_t device; unsigned long long eventType, eventData;
        unsigned int gpuInstanceId, computeInstanceId;"""),
    struct("nvmlGpuInstancePlacement_t", 8, "unsigned int start, size;"),
    struct("nvmlGpuInstanceInfo_t", 24, """
        nvmlDevice_t device; unsigned int id, profileId; nvmlGpuInstancePlacement_t placement;"""),
    struct("nvmlGpuInstanceProfileInfo_t", 48, """
        unsigned int id, isP2pSupported, sliceCount, instanceCount, multiprocessorCount,
        copyEngineCount, decoderCount, encoderCount, jpegCount, ofaCount;
        unsigned long long memorySizeMB;"""),
    struct("nvmlGpuInstanceProfileInfo_v2_t", 152, """
        unsigned int version, id, isP2pSupported, sliceCount, instanceCount, multiprocessorCount,
        copyEngineCount, decoderCount, encoderCount, jpegCount, ofaCount;
        unsigned long long memorySizeMB; char name[96];"""),
    struct("nvmlGpuInstanceProfileInfo_v3_t", 152, """
        unsigned int version, id, sliceCount, instanceCount, multiprocessorCount,
        copyEngineCount, decoderCount, encoderCount, jpegCount, ofaCount;
        unsigned long long memorySizeMB; char name[96]; unsigned int capabilities;"""),
    struct("nvmlComputeInstancePlacement_t", 8, "unsigned int start, size;"),
    struct("nvmlComputeInstanceInfo_t", 32, """
        nvmlDevice_t device; nvmlGpuInstance_t gpuInstance; unsigned int id, profileId;
        nvmlComputeInstancePlacement_t placement;"""),
    struct("nvmlComputeInstanceProfileInfo_t", 36, """
        unsigned int id, sliceCount, instanceCount, multiprocessorCount, sharedCopyEngineCount,
        sharedDecoderCount, sharedEncoderCount, sharedJpegCount, sharedOfaCount;"""),
    struct("nvmlComputeInstanceProfileInfo_v2_t", 136, """
        unsigned int version, id, sliceCount, instanceCount, multiprocessorCount,
        sharedCopyEngineCount, sharedDecoderCount, sharedEncoderCount, sharedJpegCount,
        sharedOfaCount; char name[96];"""),
    struct("nvmlComputeInstanceProfileInfo_v3_t", 140, """
        unsigned int version, id, sliceCount, instanceCount, multiprocessorCount,
        sharedCopyEngineCount, sharedDecoderCount, sharedEncoderCount, sharedJpegCount,
        sharedOfaCount; char name[96]; unsigned int capabilities;"""),
)

CONSTS: tuple[Const, ...] = consts("""
    NVML_INIT_FLAG_NO_GPUS 1
    NVML_INIT_FLAG_NO_ATTACH 2
    NVML_DEVICE_UUID_BUFFER_SIZE 80
    NVML_DEVICE_UUID_V2_BUFFER_SIZE 96
    NVML_DEVICE_NAME_BUFFER_SIZE 64
    NVML_DEVICE_NAME_V2_BUFFER_SIZE 96
    NVML_DEVICE_SERIAL_BUFFER_SIZE 30
    NVML_DEVICE_PCI_BUS_ID_BUFFER_SIZE 32
    NVML_DEVICE_VBIOS_VERSION_BUFFER_SIZE 32
    NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE 80
    NVML_SYSTEM_NVML_VERSION_BUFFER_SIZE 80
    NVML_VALUE_NOT_AVAILABLE (-1)
    NVML_DEVICE_ARCH_VOLTA 5
    NVML_DEVICE_ARCH_TURING 6
    NVML_DEVICE_ARCH_AMPERE 7
    NVML_DEVICE_ARCH_ADA 8
    NVML_DEVICE_ARCH_HOPPER 9
    NVML_DEVICE_ARCH_BLACKWELL 10
    NVML_DEVICE_ARCH_UNKNOWN 0xffffffff
    NVML_DEVICE_MIG_DISABLE 0
    NVML_DEVICE_MIG_ENABLE 1
    NVML_AFFINITY_SCOPE_NODE 0
    NVML_AFFINITY_SCOPE_SOCKET 1
    NVML_GPU_INSTANCE_PROFILE_3_SLICE 2
    NVML_GPU_INSTANCE_PROFILE_COUNT 0x12
    NVML_COMPUTE_INSTANCE_PROFILE_3_SLICE 2
    NVML_COMPUTE_INSTANCE_PROFILE_COUNT 9
    nvmlEventTypeSingleBitEccError 0x1ull
    nvmlEventTypeDoubleBitEccError 0x2ull
    nvmlEventTypeXidCriticalError 0x8ull
    nvmlEventTypeDramRetirementEvent 0x400ull
    nvmlEventTypeGpuUnavailableError 0x4000ull
    nvmlEventTypeAll 0xff9full
""")
