/* SPDX-License-Identifier: Apache-2.0
 *
 * cuKernel*: a kernel of a library, which has attributes per device and no context.
 */
#include "soft/gpu/module_library.h"

void soft_function_copy_settings(struct soft_function *to, struct soft_function *from)
{
    to->max_dynamic_shared = from->max_dynamic_shared;
    to->carveout = from->carveout;
    to->cache_config = from->cache_config;
    to->nonportable_cluster = from->nonportable_cluster;
    to->cluster_policy = from->cluster_policy;
}

static struct soft_library_kernel *kernel_of(CUkernel handle)
{
    return soft_handle_is(SOFT_H_KERNEL, handle) ? (struct soft_library_kernel *)handle : NULL;
}

CUresult cuKernelGetFunction(CUfunction *pFunc, CUkernel kernel)
{
    struct soft_ctx *ctx;
    CUresult result = soft_current(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (kernel_of(kernel) == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (pFunc == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    struct soft_function *function = NULL;
    result = soft_function_of((CUfunction)kernel, ctx, &function);
    if (result == CUDA_SUCCESS)
        *pFunc = (CUfunction)function;
    return result;
}

CUresult cuKernelGetLibrary(CUlibrary *pLib, CUkernel kernel)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    struct soft_library_kernel *it = kernel_of(kernel);
    if (it == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (pLib == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *pLib = (CUlibrary)it->library;
    return CUDA_SUCCESS;
}

CUresult cuKernelGetName(const char **name, CUkernel hfunc)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    struct soft_library_kernel *it = kernel_of(hfunc);
    if (it == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (name == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *name = it->library->image->index.entries[it->at].name;
    return CUDA_SUCCESS;
}

CUresult cuKernelGetParamInfo(CUkernel kernel, size_t paramIndex, size_t *paramOffset,
                              size_t *paramSize)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    struct soft_library_kernel *it = kernel_of(kernel);
    if (it == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    return soft_entry_param(&it->library->image->index.entries[it->at], paramIndex, paramOffset,
                            paramSize);
}

static CUresult settings_of(CUkernel kernel, CUdevice dev, struct soft_library_kernel **it)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    *it = kernel_of(kernel);
    if (*it == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    int count = 0;
    CUresult result = cuDeviceGetCount(&count);
    if (result != CUDA_SUCCESS)
        return result;
    if (dev < 0 || dev >= count)
        return CUDA_ERROR_INVALID_DEVICE;
    struct soft_library *library = (*it)->library;
    if ((*it)->settings[dev].kernel != NULL)
        return CUDA_SUCCESS;
    return library->images[dev] != NULL ? CUDA_ERROR_NOT_FOUND : library->refusals[dev];
}

CUresult cuKernelGetAttribute(int *pi, CUfunction_attribute attrib, CUkernel kernel, CUdevice dev)
{
    struct soft_library_kernel *it;
    CUresult result = settings_of(kernel, dev, &it);
    if (result != CUDA_SUCCESS)
        return result;
    return soft_function_attribute(&it->settings[dev], dev, attrib, pi);
}

CUresult cuKernelSetAttribute(CUfunction_attribute attrib, int val, CUkernel kernel, CUdevice dev)
{
    struct soft_library_kernel *it;
    CUresult result = settings_of(kernel, dev, &it);
    if (result != CUDA_SUCCESS)
        return result;
    result = soft_function_set_attribute(&it->settings[dev], dev, attrib, val);
    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&soft_module_lock);
    uint32_t at = 0;
    for (struct soft_module *module = it->library->modules; module != NULL; module = module->next)
        if (soft_ctx_device(module->ctx) == dev &&
            soft_library_place(it, module, &at) == CUDA_SUCCESS)
            soft_function_copy_settings(&module->functions[at], &it->settings[dev]);
    pthread_mutex_unlock(&soft_module_lock);
    return CUDA_SUCCESS;
}

CUresult cuKernelSetCacheConfig(CUkernel kernel, CUfunc_cache config, CUdevice dev)
{
    struct soft_library_kernel *it;
    CUresult result = settings_of(kernel, dev, &it);
    if (result != CUDA_SUCCESS)
        return result;
    if ((int)config < 0 || config > CU_FUNC_CACHE_PREFER_EQUAL)
        return CUDA_ERROR_INVALID_VALUE;
    it->settings[dev].cache_config = (int)config; /* a preference; a software GPU has no L1 */
    return CUDA_SUCCESS;
}
