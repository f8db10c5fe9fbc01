/* SPDX-License-Identifier: Apache-2.0
 *
 * cuLaunchKernelEx: a launch with attributes. Hints are checked, taken and mean nothing here; what
 * would change what runs is done or refused by name.
 */
#include "soft/gpu/event.h"
#include "soft/gpu/launch.h"

static CUresult refuse(const char *what)
{
    soft_log("launch_refused why=\"%s\"", what);
    return CUDA_ERROR_NOT_SUPPORTED;
}

static CUresult cluster(unsigned x, unsigned y, unsigned z)
{
    if (x == 0 || y == 0 || z == 0)
        return CUDA_ERROR_INVALID_VALUE;
    return x * y * z == 1 ? CUDA_SUCCESS : refuse("thread block clusters are not supported");
}

/* Such an event may complete at the kernel's first trigger, and at its end at the latest. Here the
 * end it is: earlier would promise what a later kernel of ours could break. */
static CUresult note_event(CUevent handle, int flags, struct soft_launch_wish *wish)
{
    struct soft_event *event;
    CUresult result = soft_event_of(handle, &event);
    if (result != CUDA_SUCCESS)
        return result;
    if (flags != CU_EVENT_RECORD_DEFAULT || (event->flags & CU_EVENT_DISABLE_TIMING) == 0 ||
        wish->event_count == sizeof wish->events / sizeof wish->events[0])
        return CUDA_ERROR_INVALID_VALUE;
    wish->events[wish->event_count++] = event;
    return CUDA_SUCCESS;
}

CUresult soft_launch_attribute(const CUlaunchAttribute *attribute, struct soft_launch_wish *wish)
{
    const CUlaunchAttributeValue *value = &attribute->value;
    switch ((int)attribute->id) {
    case CU_LAUNCH_ATTRIBUTE_COOPERATIVE:
        wish->shape.cooperative = value->cooperative != 0;
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION:
        return cluster(value->clusterDim.x, value->clusterDim.y, value->clusterDim.z);
    case CU_LAUNCH_ATTRIBUTE_PREFERRED_CLUSTER_DIMENSION:
        return cluster(value->preferredClusterDim.x, value->preferredClusterDim.y,
                       value->preferredClusterDim.z);
    case CU_LAUNCH_ATTRIBUTE_PRIORITY:
        wish->attributes.priority = soft_priority_clamp(value->priority);
        wish->own_priority = true;
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT:
        return note_event(value->programmaticEvent.event, value->programmaticEvent.flags, wish);
    case CU_LAUNCH_ATTRIBUTE_LAUNCH_COMPLETION_EVENT:
        return note_event(value->launchCompletionEvent.event, value->launchCompletionEvent.flags,
                          wish);
    case CU_LAUNCH_ATTRIBUTE_DEVICE_UPDATABLE_KERNEL_NODE:
        if (value->deviceUpdatableKernelNode.deviceUpdatable == 0)
            return CUDA_SUCCESS;
        return refuse("kernel nodes that the device updates are not supported");
    case CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW:
        wish->attributes.window = value->accessPolicyWindow;
        return soft_window_fits(&value->accessPolicyWindow) ? CUDA_SUCCESS
                                                            : CUDA_ERROR_INVALID_VALUE;
    case CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
        wish->attributes.cluster_policy = value->clusterSchedulingPolicyPreference;
        return (unsigned)value->clusterSchedulingPolicyPreference <=
                       CU_CLUSTER_SCHEDULING_POLICY_LOAD_BALANCING
                   ? CUDA_SUCCESS
                   : CUDA_ERROR_INVALID_VALUE;
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP: /* there is one domain */
        return value->memSyncDomainMap.default_ == 0 && value->memSyncDomainMap.remote == 0
                   ? CUDA_SUCCESS
                   : CUDA_ERROR_INVALID_VALUE;
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN:
        wish->attributes.domain = value->memSyncDomain;
        return (unsigned)value->memSyncDomain <= CU_LAUNCH_MEM_SYNC_DOMAIN_REMOTE
                   ? CUDA_SUCCESS
                   : CUDA_ERROR_INVALID_VALUE;
    case CU_LAUNCH_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
        wish->attributes.carveout = value->sharedMemCarveout;
        return (int)value->sharedMemCarveout >= -1 && (int)value->sharedMemCarveout <= 100
                   ? CUDA_SUCCESS
                   : CUDA_ERROR_INVALID_VALUE;
    case CU_LAUNCH_ATTRIBUTE_IGNORE:
    case CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY:
    case CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION: /* allows overlap, demands none */
    case CU_LAUNCH_ATTRIBUTE_NVLINK_UTIL_CENTRIC_SCHEDULING:
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

static CUresult record_behind(struct soft_stream *stream, struct soft_event *event)
{
    struct soft_cmd *cmd = NULL;
    CUresult result = soft_event_record_new(event, &cmd);
    return result == CUDA_SUCCESS ? soft_submit(stream, cmd) : result;
}

static CUresult launch_as(const struct soft_launch_wish *wish, CUfunction f, CUstream handle,
                          void **params, void **extra)
{
    struct soft_stream *stream;
    CUresult result = soft_stream_of(handle, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    if (wish->event_count > 0 && soft_stream_capture(stream) != NULL)
        return refuse("events at the beginning of captured kernels are not supported");
    for (unsigned i = 0; i < wish->event_count; i++)
        if (wish->events[i]->ctx != stream->ctx)
            return CUDA_ERROR_INVALID_HANDLE;
    struct soft_launch *launch = NULL;
    result = soft_launch_new(stream->ctx, f, &wish->shape, params, extra, &launch);
    if (result != CUDA_SUCCESS)
        return result;
    launch->attributes = wish->attributes;
    launch->cmd.own_priority = wish->own_priority;
    launch->cmd.priority = wish->attributes.priority;
    result = soft_launch_local(stream, launch);
    if (result != CUDA_SUCCESS) {
        launch->cmd.ops->destroy(&launch->cmd);
        return result;
    }
    result = soft_submit(stream, &launch->cmd);
    for (unsigned i = 0; result == CUDA_SUCCESS && i < wish->event_count; i++)
        result = record_behind(stream, wish->events[i]);
    return result;
}

CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction f, void **kernelParams,
                          void **extra)
{
    struct soft_ctx *ctx;
    CUresult result = soft_current(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (config == NULL || (config->numAttrs > 0 && config->attrs == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    if (f == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    struct soft_launch_wish wish = {
        .shape = {{config->gridDimX, config->gridDimY, config->gridDimZ},
                  {config->blockDimX, config->blockDimY, config->blockDimZ},
                  config->sharedMemBytes,
                  false}};
    for (unsigned i = 0; i < config->numAttrs; i++) {
        result = soft_launch_attribute(&config->attrs[i], &wish);
        if (result != CUDA_SUCCESS)
            return result;
    }
    return launch_as(&wish, f, config->hStream, kernelParams, extra);
}

/* Grids over several devices need devices that can: COOPERATIVE_MULTI_DEVICE_LAUNCH is 0. */
CUresult cuLaunchCooperativeKernelMultiDevice(CUDA_LAUNCH_PARAMS *launchParamsList,
                                              unsigned int numDevices, unsigned int flags)
{
    const unsigned known = CUDA_COOPERATIVE_LAUNCH_MULTI_DEVICE_NO_PRE_LAUNCH_SYNC |
                           CUDA_COOPERATIVE_LAUNCH_MULTI_DEVICE_NO_POST_LAUNCH_SYNC;
    CUresult result = soft_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (launchParamsList == NULL || numDevices == 0 || (flags & ~known) != 0 ||
        numDevices > (unsigned)soft_visible_count())
        return CUDA_ERROR_INVALID_VALUE;
    return refuse("cooperative launches over several devices are not supported");
}
