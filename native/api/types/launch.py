# SPDX-License-Identifier: Apache-2.0
# fmt: off
"""Launches, streams, events, capture."""

from __future__ import annotations

from native.api.model import Type, enum, struct, union

TYPES: tuple[Type, ...] = (
    enum("CUevent_sched_flags", """
        CU_EVENT_SCHED_AUTO 0, CU_EVENT_SCHED_SPIN 1, CU_EVENT_SCHED_YIELD 2,
        CU_EVENT_SCHED_BLOCKING_SYNC 4"""),
    enum("CUstream_flags", """
        CU_STREAM_DEFAULT 0, CU_STREAM_NON_BLOCKING 1"""),
    enum("CUevent_flags", """
        CU_EVENT_DEFAULT 0, CU_EVENT_BLOCKING_SYNC 1, CU_EVENT_DISABLE_TIMING 2,
        CU_EVENT_INTERPROCESS 4"""),
    enum("CUevent_record_flags", """
        CU_EVENT_RECORD_DEFAULT 0, CU_EVENT_RECORD_EXTERNAL 1"""),
    enum("CUevent_wait_flags", """
        CU_EVENT_WAIT_DEFAULT 0, CU_EVENT_WAIT_EXTERNAL 1"""),
    enum("CUstreamWaitValue_flags", """
        CU_STREAM_WAIT_VALUE_GEQ 0, CU_STREAM_WAIT_VALUE_EQ 1, CU_STREAM_WAIT_VALUE_AND 2,
        CU_STREAM_WAIT_VALUE_NOR 3, CU_STREAM_WAIT_VALUE_FLUSH 0x40000000"""),
    enum("CUstreamWriteValue_flags", """
        CU_STREAM_WRITE_VALUE_DEFAULT 0, CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER 1"""),
    enum("CUstreamBatchMemOpType", """
        CU_STREAM_MEM_OP_WAIT_VALUE_32 1, CU_STREAM_MEM_OP_WRITE_VALUE_32 2,
        CU_STREAM_MEM_OP_WAIT_VALUE_64 4, CU_STREAM_MEM_OP_WRITE_VALUE_64 5,
        CU_STREAM_MEM_OP_BARRIER 6, CU_STREAM_MEM_OP_FLUSH_REMOTE_WRITES 3"""),
    enum("CUstreamMemoryBarrier_flags", """
        CU_STREAM_MEMORY_BARRIER_TYPE_SYS 0, CU_STREAM_MEMORY_BARRIER_TYPE_GPU 1"""),
    union("CUstreamBatchMemOpParams_v1", 48, """
        CUstreamBatchMemOpType operation; struct { CUstreamBatchMemOpType operation;
        CUdeviceptr address; union { cuuint32_t value; cuuint64_t value64; };
        unsigned int flags; CUdeviceptr alias; } waitValue;
        struct { CUstreamBatchMemOpType operation; CUdeviceptr address;
        union { cuuint32_t value; cuuint64_t value64; }; unsigned int flags; CUdeviceptr alias;
        } writeValue; struct { CUstreamBatchMemOpType operation; unsigned int flags;
        } flushRemoteWrites; struct { CUstreamBatchMemOpType operation; unsigned int flags;
        } memoryBarrier; cuuint64_t pad[6];""",
        wire="""
        waitValue=waitValue.value64 writeValue=writeValue.value64
        waitValue.operation=none waitValue.alias=none
        writeValue.operation=none writeValue.alias=none
        flushRemoteWrites.operation=none memoryBarrier.operation=none pad=none
        what=case(operation,1:waitValue,4:waitValue,2:writeValue,5:writeValue,
        3:flushRemoteWrites,6:memoryBarrier)"""),
    enum("CUstreamUpdateCaptureDependencies_flags", """
        CU_STREAM_ADD_CAPTURE_DEPENDENCIES 0, CU_STREAM_SET_CAPTURE_DEPENDENCIES 1"""),
    enum("CUasyncNotificationType", """
        CU_ASYNC_NOTIFICATION_TYPE_OVER_BUDGET 1"""),
    struct("CUasyncNotificationInfo", 16, """
        CUasyncNotificationType type; union { struct { unsigned long long bytesOverBudget;
        } overBudget; } info;"""),
    enum("CUaccessProperty", """
        CU_ACCESS_PROPERTY_NORMAL 0, CU_ACCESS_PROPERTY_STREAMING 1,
        CU_ACCESS_PROPERTY_PERSISTING 2"""),
    struct("CUaccessPolicyWindow_v1", 32, """
        void *base_ptr; size_t num_bytes; float hitRatio; CUaccessProperty hitProp, missProp;""",
        wire="base_ptr=device"),
    enum("CUsynchronizationPolicy", """
        CU_SYNC_POLICY_AUTO 1, CU_SYNC_POLICY_SPIN 2, CU_SYNC_POLICY_YIELD 3,
        CU_SYNC_POLICY_BLOCKING_SYNC 4"""),
    enum("CUclusterSchedulingPolicy", """
        CU_CLUSTER_SCHEDULING_POLICY_DEFAULT 0, CU_CLUSTER_SCHEDULING_POLICY_SPREAD 1,
        CU_CLUSTER_SCHEDULING_POLICY_LOAD_BALANCING 2"""),
    enum("CUlaunchMemSyncDomain", """
        CU_LAUNCH_MEM_SYNC_DOMAIN_DEFAULT 0, CU_LAUNCH_MEM_SYNC_DOMAIN_REMOTE 1"""),
    struct("CUlaunchMemSyncDomainMap", 2, """
        unsigned char default_, remote;"""),
    enum("CUlaunchAttributeID", """
        CU_LAUNCH_ATTRIBUTE_IGNORE 0, CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW 1,
        CU_LAUNCH_ATTRIBUTE_COOPERATIVE 2, CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY 3,
        CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION 4,
        CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE 5,
        CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION 6,
        CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT 7, CU_LAUNCH_ATTRIBUTE_PRIORITY 8,
        CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP 9, CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN 10,
        CU_LAUNCH_ATTRIBUTE_PREFERRED_CLUSTER_DIMENSION 11,
        CU_LAUNCH_ATTRIBUTE_LAUNCH_COMPLETION_EVENT 12,
        CU_LAUNCH_ATTRIBUTE_DEVICE_UPDATABLE_KERNEL_NODE 13,
        CU_LAUNCH_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT 14,
        CU_LAUNCH_ATTRIBUTE_NVLINK_UTIL_CENTRIC_SCHEDULING 16, CU_LAUNCH_ATTRIBUTE_MAX 17"""),
    union("CUlaunchAttributeValue", 64, """
        char pad[64]; CUaccessPolicyWindow accessPolicyWindow; int cooperative;
        CUsynchronizationPolicy syncPolicy; struct { unsigned int x, y, z; } clusterDim;
        CUclusterSchedulingPolicy clusterSchedulingPolicyPreference;
        int programmaticStreamSerializationAllowed; struct { CUevent event;
        int flags, triggerAtBlockStart; } programmaticEvent; struct { CUevent event; int flags;
        } launchCompletionEvent; int priority; CUlaunchMemSyncDomainMap memSyncDomainMap;
        CUlaunchMemSyncDomain memSyncDomain; struct { unsigned int x, y, z;
        } preferredClusterDim; struct { int deviceUpdatable; CUgraphDeviceNode devNode;
        } deviceUpdatableKernelNode;
        unsigned int sharedMemCarveout, nvlinkUtilCentricScheduling;""",
        wire="""
        tagged(0:-,1:accessPolicyWindow,2:cooperative,3:syncPolicy,4:clusterDim,
        5:clusterSchedulingPolicyPreference,6:programmaticStreamSerializationAllowed,
        7:programmaticEvent,8:priority,9:memSyncDomainMap,10:memSyncDomain,
        11:preferredClusterDim,12:launchCompletionEvent,14:sharedMemCarveout,
        16:nvlinkUtilCentricScheduling)"""),
    struct("CUlaunchAttribute", 72, """
        CUlaunchAttributeID id; char pad[4]; CUlaunchAttributeValue value;""",
        wire="pad=none value=tag(id)"),
    struct("CUlaunchConfig", 56, """
        unsigned int gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes;
        CUstream hStream; CUlaunchAttribute *attrs; unsigned int numAttrs;""",
        wire="attrs=[numAttrs]"),
    enum("CUstreamCaptureStatus", """
        CU_STREAM_CAPTURE_STATUS_NONE 0, CU_STREAM_CAPTURE_STATUS_ACTIVE 1,
        CU_STREAM_CAPTURE_STATUS_INVALIDATED 2"""),
    enum("CUstreamCaptureMode", """
        CU_STREAM_CAPTURE_MODE_GLOBAL 0, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL 1,
        CU_STREAM_CAPTURE_MODE_RELAXED 2"""),
    struct("CUDA_LAUNCH_PARAMS_v1", 56, """
        CUfunction function;
        unsigned int gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes;
        CUstream hStream; void **kernelParams;"""),
)
