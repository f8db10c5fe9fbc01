/* SPDX-License-Identifier: Apache-2.0
 *
 * Names of the result codes, from their rows, and what they mean in a few words of our own.
 */
#include "soft/gpu/soft.h"

static const char *const text_of[] = {
    [CUDA_SUCCESS] = "no error",
    [CUDA_ERROR_INVALID_VALUE] = "an argument is not valid",
    [CUDA_ERROR_OUT_OF_MEMORY] = "out of memory",
    [CUDA_ERROR_NOT_INITIALIZED] = "the driver is not initialized in this process",
    [CUDA_ERROR_DEINITIALIZED] = "the driver is shutting down",
    [CUDA_ERROR_PROFILER_DISABLED] = "no profiler",
    [CUDA_ERROR_PROFILER_NOT_INITIALIZED] = "profiler not initialized",
    [CUDA_ERROR_PROFILER_ALREADY_STARTED] = "profiler already started",
    [CUDA_ERROR_PROFILER_ALREADY_STOPPED] = "profiler already stopped",
    [CUDA_ERROR_STUB_LIBRARY] = "this library is a stub",
    [CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER] = "the call needs a newer driver",
    [CUDA_ERROR_DEVICE_UNAVAILABLE] = "the device is unavailable",
    [CUDA_ERROR_NO_DEVICE] = "no CUDA device",
    [CUDA_ERROR_INVALID_DEVICE] = "no such device",
    [CUDA_ERROR_DEVICE_NOT_LICENSED] = "device not licensed",
    [CUDA_ERROR_INVALID_IMAGE] = "the kernel image is not valid",
    [CUDA_ERROR_INVALID_CONTEXT] = "no valid context",
    [CUDA_ERROR_CONTEXT_ALREADY_CURRENT] = "the context is current already",
    [CUDA_ERROR_MAP_FAILED] = "mapping failed",
    [CUDA_ERROR_UNMAP_FAILED] = "unmapping failed",
    [CUDA_ERROR_ARRAY_IS_MAPPED] = "the array is mapped",
    [CUDA_ERROR_ALREADY_MAPPED] = "mapped already",
    [CUDA_ERROR_NO_BINARY_FOR_GPU] = "no kernel image for this device",
    [CUDA_ERROR_ALREADY_ACQUIRED] = "acquired already",
    [CUDA_ERROR_NOT_MAPPED] = "not mapped",
    [CUDA_ERROR_NOT_MAPPED_AS_ARRAY] = "not mapped as an array",
    [CUDA_ERROR_NOT_MAPPED_AS_POINTER] = "not mapped as a pointer",
    [CUDA_ERROR_ECC_UNCORRECTABLE] = "uncorrectable memory error",
    [CUDA_ERROR_UNSUPPORTED_LIMIT] = "no such limit on this device",
    [CUDA_ERROR_CONTEXT_ALREADY_IN_USE] = "the context is used by another thread",
    [CUDA_ERROR_PEER_ACCESS_UNSUPPORTED] = "no peer access between these devices",
    [CUDA_ERROR_INVALID_PTX] = "the PTX is not valid",
    [CUDA_ERROR_INVALID_GRAPHICS_CONTEXT] = "graphics context not valid",
    [CUDA_ERROR_NVLINK_UNCORRECTABLE] = "uncorrectable NVLink error",
    [CUDA_ERROR_JIT_COMPILER_NOT_FOUND] = "the PTX compiler was not found",
    [CUDA_ERROR_UNSUPPORTED_PTX_VERSION] = "the PTX is of a newer version",
    [CUDA_ERROR_JIT_COMPILATION_DISABLED] = "PTX compilation is disabled",
    [CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY] = "affinity type not supported",
    [CUDA_ERROR_UNSUPPORTED_DEVSIDE_SYNC] = "device-side synchronization not supported",
    [CUDA_ERROR_CONTAINED] = "contained error",
    [CUDA_ERROR_INVALID_SOURCE] = "the kernel source is not valid",
    [CUDA_ERROR_FILE_NOT_FOUND] = "file not found",
    [CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND] = "symbol not found in a shared object",
    [CUDA_ERROR_SHARED_OBJECT_INIT_FAILED] = "a shared object failed to initialize",
    [CUDA_ERROR_OPERATING_SYSTEM] = "an operating system call failed",
    [CUDA_ERROR_INVALID_HANDLE] = "no such handle",
    [CUDA_ERROR_ILLEGAL_STATE] = "the object's state does not allow this",
    [CUDA_ERROR_LOSSY_QUERY] = "the query would lose information",
    [CUDA_ERROR_NOT_FOUND] = "name not found",
    [CUDA_ERROR_NOT_READY] = "not finished yet",
    [CUDA_ERROR_ILLEGAL_ADDRESS] = "a kernel used an illegal address",
    [CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES] = "too many resources asked for by a launch",
    [CUDA_ERROR_LAUNCH_TIMEOUT] = "a kernel ran too long",
    [CUDA_ERROR_LAUNCH_INCOMPATIBLE_TEXTURING] = "incompatible texturing mode",
    [CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED] = "peer access is enabled already",
    [CUDA_ERROR_PEER_ACCESS_NOT_ENABLED] = "peer access is not enabled",
    [CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE] = "the primary context is active",
    [CUDA_ERROR_CONTEXT_IS_DESTROYED] = "the context is destroyed",
    [CUDA_ERROR_ASSERT] = "an assertion failed in a kernel",
    [CUDA_ERROR_TOO_MANY_PEERS] = "too many peers",
    [CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED] = "the host memory is registered already",
    [CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED] = "the host memory is not registered",
    [CUDA_ERROR_HARDWARE_STACK_ERROR] = "stack error on the device",
    [CUDA_ERROR_ILLEGAL_INSTRUCTION] = "illegal instruction in a kernel",
    [CUDA_ERROR_MISALIGNED_ADDRESS] = "a kernel used a misaligned address",
    [CUDA_ERROR_INVALID_ADDRESS_SPACE] = "address of the wrong space in a kernel",
    [CUDA_ERROR_INVALID_PC] = "program counter out of range in a kernel",
    [CUDA_ERROR_LAUNCH_FAILED] = "a kernel failed",
    [CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE] = "too many blocks for a cooperative launch",
    [CUDA_ERROR_TENSOR_MEMORY_LEAK] = "tensor memory was not freed by a kernel",
    [CUDA_ERROR_NOT_PERMITTED] = "not permitted",
    [CUDA_ERROR_NOT_SUPPORTED] = "not supported",
    [CUDA_ERROR_SYSTEM_NOT_READY] = "the system is not ready",
    [CUDA_ERROR_SYSTEM_DRIVER_MISMATCH] = "driver parts do not match",
    [CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE] = "compatibility mode not supported on this device",
    [CUDA_ERROR_MPS_CONNECTION_FAILED] = "MPS: no connection",
    [CUDA_ERROR_MPS_RPC_FAILURE] = "MPS: call failed",
    [CUDA_ERROR_MPS_SERVER_NOT_READY] = "MPS: server not ready",
    [CUDA_ERROR_MPS_MAX_CLIENTS_REACHED] = "MPS: too many clients",
    [CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED] = "MPS: too many connections",
    [CUDA_ERROR_MPS_CLIENT_TERMINATED] = "MPS: client terminated",
    [CUDA_ERROR_CDP_NOT_SUPPORTED] = "dynamic parallelism not supported",
    [CUDA_ERROR_CDP_VERSION_MISMATCH] = "dynamic parallelism version mismatch",
    [CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED] = "not permitted while the stream captures",
    [CUDA_ERROR_STREAM_CAPTURE_INVALIDATED] = "the capture failed earlier",
    [CUDA_ERROR_STREAM_CAPTURE_MERGE] = "two captures would merge",
    [CUDA_ERROR_STREAM_CAPTURE_UNMATCHED] = "not the stream that began the capture",
    [CUDA_ERROR_STREAM_CAPTURE_UNJOINED] = "a captured stream was not joined",
    [CUDA_ERROR_STREAM_CAPTURE_ISOLATION] = "dependency crosses out of the capture",
    [CUDA_ERROR_STREAM_CAPTURE_IMPLICIT] = "implicit dependency on a capturing stream",
    [CUDA_ERROR_CAPTURED_EVENT] = "the event was recorded in a capture",
    [CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD] = "the capture began in another thread",
    [CUDA_ERROR_TIMEOUT] = "timed out",
    [CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE] = "the graph differs too much to update",
    [CUDA_ERROR_EXTERNAL_DEVICE] = "an external device failed",
    [CUDA_ERROR_INVALID_CLUSTER_SIZE] = "cluster size not valid",
    [CUDA_ERROR_FUNCTION_NOT_LOADED] = "function not loaded",
    [CUDA_ERROR_INVALID_RESOURCE_TYPE] = "resource type not valid",
    [CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION] = "resource configuration not valid",
    [CUDA_ERROR_KEY_ROTATION] = "key rotation",
    [CUDA_ERROR_UNKNOWN] = "unknown error",
};

static const char *name_of(CUresult code)
{
    switch (code) {
#define SOFT_RESULT(result)                                                                        \
    case result:                                                                                   \
        return #result;
#include "generated/soft_results.inc"
#undef SOFT_RESULT
    }
    return NULL;
}

static CUresult answer(const char *found, const char **out)
{
    if (out == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *out = found;
    return found != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

SOFT_API CUresult cuGetErrorName(CUresult error, const char **name)
{
    return answer(name_of(error), name);
}

SOFT_API CUresult cuGetErrorString(CUresult error, const char **text)
{
    return answer(name_of(error) != NULL ? text_of[error] : NULL, text);
}
