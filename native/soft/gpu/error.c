/* SPDX-License-Identifier: Apache-2.0
 *
 * Names of the result codes, and what they mean in a few words of our own.
 */
#include "soft/gpu/soft.h"

#define ROW(code, text) {code, #code, text}

static const struct {
    CUresult code;
    const char *name, *text;
} rows[] = {
    ROW(CUDA_SUCCESS, "no error"),
    ROW(CUDA_ERROR_INVALID_VALUE, "an argument is not valid"),
    ROW(CUDA_ERROR_OUT_OF_MEMORY, "out of memory"),
    ROW(CUDA_ERROR_NOT_INITIALIZED, "the driver is not initialized in this process"),
    ROW(CUDA_ERROR_DEINITIALIZED, "the driver is shutting down"),
    ROW(CUDA_ERROR_PROFILER_DISABLED, "no profiler"),
    ROW(CUDA_ERROR_PROFILER_NOT_INITIALIZED, "profiler not initialized"),
    ROW(CUDA_ERROR_PROFILER_ALREADY_STARTED, "profiler already started"),
    ROW(CUDA_ERROR_PROFILER_ALREADY_STOPPED, "profiler already stopped"),
    ROW(CUDA_ERROR_STUB_LIBRARY, "this library is a stub"),
    ROW(CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER, "the call needs a newer driver"),
    ROW(CUDA_ERROR_DEVICE_UNAVAILABLE, "the device is unavailable"),
    ROW(CUDA_ERROR_NO_DEVICE, "no CUDA device"),
    ROW(CUDA_ERROR_INVALID_DEVICE, "no such device"),
    ROW(CUDA_ERROR_DEVICE_NOT_LICENSED, "device not licensed"),
    ROW(CUDA_ERROR_INVALID_IMAGE, "the kernel image is not valid"),
    ROW(CUDA_ERROR_INVALID_CONTEXT, "no valid context"),
    ROW(CUDA_ERROR_CONTEXT_ALREADY_CURRENT, "the context is current already"),
    ROW(CUDA_ERROR_MAP_FAILED, "mapping failed"),
    ROW(CUDA_ERROR_UNMAP_FAILED, "unmapping failed"),
    ROW(CUDA_ERROR_ARRAY_IS_MAPPED, "the array is mapped"),
    ROW(CUDA_ERROR_ALREADY_MAPPED, "mapped already"),
    ROW(CUDA_ERROR_NO_BINARY_FOR_GPU, "no kernel image for this device"),
    ROW(CUDA_ERROR_ALREADY_ACQUIRED, "acquired already"),
    ROW(CUDA_ERROR_NOT_MAPPED, "not mapped"),
    ROW(CUDA_ERROR_NOT_MAPPED_AS_ARRAY, "not mapped as an array"),
    ROW(CUDA_ERROR_NOT_MAPPED_AS_POINTER, "not mapped as a pointer"),
    ROW(CUDA_ERROR_ECC_UNCORRECTABLE, "uncorrectable memory error"),
    ROW(CUDA_ERROR_UNSUPPORTED_LIMIT, "no such limit on this device"),
    ROW(CUDA_ERROR_CONTEXT_ALREADY_IN_USE, "the context is used by another thread"),
    ROW(CUDA_ERROR_PEER_ACCESS_UNSUPPORTED, "no peer access between these devices"),
    ROW(CUDA_ERROR_INVALID_PTX, "the PTX is not valid"),
    ROW(CUDA_ERROR_INVALID_GRAPHICS_CONTEXT, "graphics context not valid"),
    ROW(CUDA_ERROR_NVLINK_UNCORRECTABLE, "uncorrectable NVLink error"),
    ROW(CUDA_ERROR_JIT_COMPILER_NOT_FOUND, "the PTX compiler was not found"),
    ROW(CUDA_ERROR_UNSUPPORTED_PTX_VERSION, "the PTX is of a newer version"),
    ROW(CUDA_ERROR_JIT_COMPILATION_DISABLED, "PTX compilation is disabled"),
    ROW(CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY, "affinity type not supported"),
    ROW(CUDA_ERROR_UNSUPPORTED_DEVSIDE_SYNC, "device-side synchronization not supported"),
    ROW(CUDA_ERROR_CONTAINED, "contained error"),
    ROW(CUDA_ERROR_INVALID_SOURCE, "the kernel source is not valid"),
    ROW(CUDA_ERROR_FILE_NOT_FOUND, "file not found"),
    ROW(CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND, "symbol not found in a shared object"),
    ROW(CUDA_ERROR_SHARED_OBJECT_INIT_FAILED, "a shared object failed to initialize"),
    ROW(CUDA_ERROR_OPERATING_SYSTEM, "an operating system call failed"),
    ROW(CUDA_ERROR_INVALID_HANDLE, "no such handle"),
    ROW(CUDA_ERROR_ILLEGAL_STATE, "the object's state does not allow this"),
    ROW(CUDA_ERROR_LOSSY_QUERY, "the query would lose information"),
    ROW(CUDA_ERROR_NOT_FOUND, "name not found"),
    ROW(CUDA_ERROR_NOT_READY, "not finished yet"),
    ROW(CUDA_ERROR_ILLEGAL_ADDRESS, "a kernel used an illegal address"),
    ROW(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "too many resources asked for by a launch"),
    ROW(CUDA_ERROR_LAUNCH_TIMEOUT, "a kernel ran too long"),
    ROW(CUDA_ERROR_LAUNCH_INCOMPATIBLE_TEXTURING, "incompatible texturing mode"),
    ROW(CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED, "peer access is enabled already"),
    ROW(CUDA_ERROR_PEER_ACCESS_NOT_ENABLED, "peer access is not enabled"),
    ROW(CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE, "the primary context is active"),
    ROW(CUDA_ERROR_CONTEXT_IS_DESTROYED, "the context is destroyed"),
    ROW(CUDA_ERROR_ASSERT, "an assertion failed in a kernel"),
    ROW(CUDA_ERROR_TOO_MANY_PEERS, "too many peers"),
    ROW(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, "the host memory is registered already"),
    ROW(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, "the host memory is not registered"),
    ROW(CUDA_ERROR_HARDWARE_STACK_ERROR, "stack error on the device"),
    ROW(CUDA_ERROR_ILLEGAL_INSTRUCTION, "illegal instruction in a kernel"),
    ROW(CUDA_ERROR_MISALIGNED_ADDRESS, "a kernel used a misaligned address"),
    ROW(CUDA_ERROR_INVALID_ADDRESS_SPACE, "address of the wrong space in a kernel"),
    ROW(CUDA_ERROR_INVALID_PC, "program counter out of range in a kernel"),
    ROW(CUDA_ERROR_LAUNCH_FAILED, "a kernel failed"),
    ROW(CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE, "too many blocks for a cooperative launch"),
    ROW(CUDA_ERROR_TENSOR_MEMORY_LEAK, "tensor memory was not freed by a kernel"),
    ROW(CUDA_ERROR_NOT_PERMITTED, "not permitted"),
    ROW(CUDA_ERROR_NOT_SUPPORTED, "not supported"),
    ROW(CUDA_ERROR_SYSTEM_NOT_READY, "the system is not ready"),
    ROW(CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, "driver parts do not match"),
    ROW(CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE,
        "compatibility mode not supported on this device"),
    ROW(CUDA_ERROR_MPS_CONNECTION_FAILED, "MPS: no connection"),
    ROW(CUDA_ERROR_MPS_RPC_FAILURE, "MPS: call failed"),
    ROW(CUDA_ERROR_MPS_SERVER_NOT_READY, "MPS: server not ready"),
    ROW(CUDA_ERROR_MPS_MAX_CLIENTS_REACHED, "MPS: too many clients"),
    ROW(CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED, "MPS: too many connections"),
    ROW(CUDA_ERROR_MPS_CLIENT_TERMINATED, "MPS: client terminated"),
    ROW(CUDA_ERROR_CDP_NOT_SUPPORTED, "dynamic parallelism not supported"),
    ROW(CUDA_ERROR_CDP_VERSION_MISMATCH, "dynamic parallelism version mismatch"),
    ROW(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "not permitted while the stream captures"),
    ROW(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "the capture failed earlier"),
    ROW(CUDA_ERROR_STREAM_CAPTURE_MERGE, "two captures would merge"),
    ROW(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, "not the stream that began the capture"),
    ROW(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "a captured stream was not joined"),
    ROW(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, "dependency crosses out of the capture"),
    ROW(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "implicit dependency on a capturing stream"),
    ROW(CUDA_ERROR_CAPTURED_EVENT, "the event was recorded in a capture"),
    ROW(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, "the capture began in another thread"),
    ROW(CUDA_ERROR_TIMEOUT, "timed out"),
    ROW(CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, "the graph differs too much to update"),
    ROW(CUDA_ERROR_EXTERNAL_DEVICE, "an external device failed"),
    ROW(CUDA_ERROR_INVALID_CLUSTER_SIZE, "cluster size not valid"),
    ROW(CUDA_ERROR_FUNCTION_NOT_LOADED, "function not loaded"),
    ROW(CUDA_ERROR_INVALID_RESOURCE_TYPE, "resource type not valid"),
    ROW(CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION, "resource configuration not valid"),
    ROW(CUDA_ERROR_KEY_ROTATION, "key rotation"),
    ROW(CUDA_ERROR_UNKNOWN, "unknown error"),
};

SOFT_API CUresult cuGetErrorName(CUresult error, const char **name)
{
    if (name == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (rows[i].code == error) {
            *name = rows[i].name;
            return CUDA_SUCCESS;
        }
    *name = NULL;
    return CUDA_ERROR_INVALID_VALUE;
}

SOFT_API CUresult cuGetErrorString(CUresult error, const char **text)
{
    if (text == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (rows[i].code == error) {
            *text = rows[i].text;
            return CUDA_SUCCESS;
        }
    *text = NULL;
    return CUDA_ERROR_INVALID_VALUE;
}
