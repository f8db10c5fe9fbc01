/* SPDX-License-Identifier: Apache-2.0
 *
 * cuFunc*: attributes, names, parameters of a function.
 */
#include <string.h>

#include "soft/gpu/module.h"

#define SHARED_DEFAULT 49152 /* per block without opting in */
#define REGS_MAX       255u

CUresult soft_entry_param(const struct ptx_entry *entry, size_t index, size_t *offset,
                          size_t *bytes)
{
    if (offset == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (index >= entry->param_count)
        return CUDA_ERROR_INVALID_VALUE;
    *offset = entry->params[index].offset;
    if (bytes != NULL)
        *bytes = entry->params[index].bytes;
    return CUDA_SUCCESS;
}

uint32_t soft_entry_regs(const struct ptx_entry *entry)
{
    uint32_t regs = entry->registers < 16 ? 16 : entry->registers;
    return regs > REGS_MAX ? REGS_MAX : regs;
}

uint32_t soft_entry_max_threads(const struct ptx_entry *entry, const struct soft_profile *profile)
{
    uint32_t limit = 1024;
    const uint32_t *given = entry->reqntid[0] != 0 ? entry->reqntid : entry->maxntid;
    if (given[0] != 0) {
        uint64_t asked = (uint64_t)given[0] * (given[1] ? given[1] : 1) * (given[2] ? given[2] : 1);
        if (asked < limit)
            limit = (uint32_t)asked;
    } else {
        /* without a bound the compiler does not keep registers in check */
        uint32_t per_warp = (soft_entry_regs(entry) * 32 + 255) / 256 * 256;
        uint32_t warps = (uint32_t)profile->regs_per_sm / per_warp;
        warps -= warps % 4; /* a register file per scheduler, four of them */
        if (warps * 32 < limit)
            limit = warps * 32;
    }
    return limit;
}

uint32_t soft_function_dynamic_limit(struct soft_function *function)
{
    uint32_t fixed = function->kernel->entry->static_shared_bytes;
    int set = function->max_dynamic_shared;
    if (set >= 0)
        return (uint32_t)set;
    return fixed < SHARED_DEFAULT ? SHARED_DEFAULT - fixed : 0;
}

static const struct soft_profile *profile_of(const struct soft_function *function, int dev)
{
    if (function->module != NULL)
        return soft_ctx_profile(function->module->ctx);
    return soft_device_profile(dev);
}

CUresult soft_function_attribute(struct soft_function *function, int dev,
                                 CUfunction_attribute attribute, int *value)
{
    if (value == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    const struct ptx_entry *entry = function->kernel->entry;
    const struct ptx_index *index = &function->kernel->image->index;
    const struct soft_profile *profile = profile_of(function, dev);
    if (profile == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    switch ((int)attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
        *value = (int)soft_entry_max_threads(entry, profile);
        break;
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES:
        *value = (int)entry->static_shared_bytes;
        break;
    case CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES: {
        uint64_t bytes = 0;
        for (uint32_t i = 0; i < index->variable_count; i++)
            if (index->variables[i].space == PTX_CONST)
                bytes += index->variables[i].bytes;
        *value = (int)bytes;
        break;
    }
    case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES:
        *value = (int)entry->local_bytes;
        break;
    case CU_FUNC_ATTRIBUTE_NUM_REGS:
        *value = (int)soft_entry_regs(entry);
        break;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION:
        *value = (int)index->target_sm; /* of the image picked, not of the device */
        break;
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION:
        *value = soft_profile_cc(profile);
        break;
    case CU_FUNC_ATTRIBUTE_CACHE_MODE_CA:
    case CU_FUNC_ATTRIBUTE_CLUSTER_SIZE_MUST_BE_SET:
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH:
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_HEIGHT:
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_DEPTH:
        *value = 0;
        break;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
        *value = (int)soft_function_dynamic_limit(function);
        break;
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
        *value = function->carveout;
        break;
    case CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED:
        *value = function->nonportable_cluster;
        break;
    case CU_FUNC_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
        *value = function->cluster_policy;
        break;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

CUresult soft_function_set_attribute(struct soft_function *function, int dev,
                                     CUfunction_attribute attribute, int value)
{
    const struct soft_profile *profile = profile_of(function, dev);
    if (profile == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    uint32_t fixed = function->kernel->entry->static_shared_bytes;
    switch ((int)attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
        if (value < 0 || (uint32_t)value + fixed > (uint32_t)profile->shared_optin)
            return CUDA_ERROR_INVALID_VALUE;
        function->max_dynamic_shared = value;
        return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
        if (value < -1 || value > 100)
            return CUDA_ERROR_INVALID_VALUE;
        function->carveout = value;
        return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED:
        if (value != 0 && value != 1)
            return CUDA_ERROR_INVALID_VALUE;
        function->nonportable_cluster = value;
        return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
        if (value < 0 || value > 2)
            return CUDA_ERROR_INVALID_VALUE;
        function->cluster_policy = value;
        return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH:
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_HEIGHT:
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_DEPTH:
        return value == 0 ? CUDA_SUCCESS : CUDA_ERROR_NOT_SUPPORTED; /* no clusters here */
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

/* Checks every call on a function makes; a CUkernel is as good as a CUfunction. */
static CUresult function_of(CUfunction handle, struct soft_function **out, struct soft_ctx **ctx)
{
    CUresult result = soft_current(ctx);
    return result == CUDA_SUCCESS ? soft_function_of(handle, *ctx, out) : result;
}

CUresult cuFuncGetAttribute(int *pi, CUfunction_attribute attrib, CUfunction hfunc)
{
    struct soft_ctx *ctx;
    struct soft_function *function;
    CUresult result = function_of(hfunc, &function, &ctx);
    if (result != CUDA_SUCCESS)
        return result;
    return soft_function_attribute(function, soft_ctx_device(ctx), attrib, pi);
}

CUresult cuFuncSetAttribute(CUfunction hfunc, CUfunction_attribute attrib, int value)
{
    struct soft_ctx *ctx;
    struct soft_function *function;
    CUresult result = function_of(hfunc, &function, &ctx);
    if (result != CUDA_SUCCESS)
        return result;
    return soft_function_set_attribute(function, soft_ctx_device(ctx), attrib, value);
}

CUresult cuFuncSetCacheConfig(CUfunction hfunc, CUfunc_cache config)
{
    struct soft_ctx *ctx;
    struct soft_function *function;
    CUresult result = function_of(hfunc, &function, &ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if ((int)config < 0 || config > CU_FUNC_CACHE_PREFER_EQUAL)
        return CUDA_ERROR_INVALID_VALUE;
    function->cache_config = (int)config;
    return CUDA_SUCCESS;
}

CUresult cuFuncSetSharedMemConfig(CUfunction hfunc, CUsharedconfig config)
{
    struct soft_ctx *ctx;
    struct soft_function *function;
    CUresult result = function_of(hfunc, &function, &ctx);
    if (result != CUDA_SUCCESS)
        return result;
    return (int)config < 0 || (int)config > 2 ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult cuFuncGetModule(CUmodule *hmod, CUfunction hfunc)
{
    struct soft_ctx *ctx;
    struct soft_function *function;
    CUresult result = function_of(hfunc, &function, &ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (hmod == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *hmod = (CUmodule)function->module;
    return CUDA_SUCCESS;
}

CUresult cuFuncGetName(const char **name, CUfunction hfunc)
{
    struct soft_ctx *ctx;
    struct soft_function *function;
    CUresult result = function_of(hfunc, &function, &ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (name == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *name = function->kernel->entry->name;
    return CUDA_SUCCESS;
}

CUresult cuFuncGetParamInfo(CUfunction func, size_t paramIndex, size_t *paramOffset,
                            size_t *paramSize)
{
    struct soft_ctx *ctx;
    struct soft_function *function;
    CUresult result = function_of(func, &function, &ctx);
    if (result != CUDA_SUCCESS)
        return result;
    return soft_entry_param(function->kernel->entry, paramIndex, paramOffset, paramSize);
}

CUresult cuFuncIsLoaded(CUfunctionLoadingState *state, CUfunction function)
{
    struct soft_ctx *ctx;
    struct soft_function *it;
    CUresult result = function_of(function, &it, &ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (state == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *state = atomic_load_explicit(&it->code, memory_order_acquire) != NULL
                 ? CU_FUNCTION_LOADING_STATE_LOADED
                 : CU_FUNCTION_LOADING_STATE_UNLOADED;
    return CUDA_SUCCESS;
}

CUresult cuFuncLoad(CUfunction function)
{
    struct soft_ctx *ctx;
    struct soft_function *it;
    CUresult result = function_of(function, &it, &ctx);
    if (result != CUDA_SUCCESS)
        return result;
    const struct ptx_kernel *code;
    return soft_function_load(it, &code, NULL, 0);
}
