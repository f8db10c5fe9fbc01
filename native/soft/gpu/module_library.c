/* SPDX-License-Identifier: Apache-2.0
 *
 * Libraries: code without a context. A kernel handle stands for a function in whichever context
 * is current when it is used; the module behind it is made then.
 */
#include "soft/gpu/module_library.h"

struct soft_library *soft_library_of(CUlibrary handle)
{
    return soft_handle_is(SOFT_H_LIBRARY, handle) ? (struct soft_library *)handle : NULL;
}

void soft_library_forget(struct soft_library *library, struct soft_module *module)
{
    for (struct soft_module **link = &library->modules; *link != NULL; link = &(*link)->next)
        if (*link == module) {
            *link = module->next;
            return;
        }
}

CUresult soft_library_module(struct soft_library *library, struct soft_ctx *ctx,
                             struct soft_module **out)
{
    for (struct soft_module *module = library->modules; module != NULL; module = module->next)
        if (module->ctx == ctx && module->ctx_id == soft_ctx_id(ctx)) {
            *out = module;
            return CUDA_SUCCESS;
        }
    char why[256] = "";
    int dev = soft_ctx_device(ctx);
    if (library->images[dev] == NULL)
        return library->refusals[dev];
    CUresult result = soft_module_create(ctx, library->images[dev], library, out, why, sizeof why);
    if (result != CUDA_SUCCESS) {
        soft_log("library_module_failed code=%d why=\"%s\"", (int)result, why);
        return result;
    }
    for (uint32_t i = 0; i < library->image->index.entry_count; i++) {
        uint32_t at = 0;
        if (soft_library_place(&library->kernels[i], *out, &at) == CUDA_SUCCESS)
            soft_function_copy_settings(&(*out)->functions[at], &library->kernels[i].settings[dev]);
    }
    (*out)->next = library->modules;
    library->modules = *out;
    return CUDA_SUCCESS;
}

CUresult soft_library_place(const struct soft_library_kernel *kernel,
                            const struct soft_module *module, uint32_t *at)
{
    *at = kernel->at;
    if (module->image == kernel->library->image)
        return CUDA_SUCCESS;
    const struct ptx_index *names = &kernel->library->image->index;
    return soft_module_entry(module->image, names->entries[kernel->at].name, at);
}

CUresult soft_function_of(CUfunction handle, struct soft_ctx *ctx, struct soft_function **out)
{
    if (soft_handle_is(SOFT_H_FUNCTION, handle)) {
        *out = (struct soft_function *)handle;
        return CUDA_SUCCESS;
    }
    if (!soft_handle_is(SOFT_H_KERNEL, handle))
        return CUDA_ERROR_INVALID_HANDLE;
    struct soft_library_kernel *kernel = (struct soft_library_kernel *)handle;
    struct soft_module *module = NULL;
    pthread_mutex_lock(&soft_module_lock);
    CUresult result = soft_library_module(kernel->library, ctx, &module);
    pthread_mutex_unlock(&soft_module_lock);
    uint32_t at = 0;
    if (result == CUDA_SUCCESS)
        result = soft_library_place(kernel, module, &at);
    if (result == CUDA_SUCCESS)
        *out = &module->functions[at];
    return result;
}

CUresult cuLibraryGetKernel(CUkernel *pKernel, CUlibrary library, const char *name)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    struct soft_library *it = soft_library_of(library);
    if (it == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (pKernel == NULL || name == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    uint32_t at = 0;
    CUresult result = soft_module_entry(it->image, name, &at);
    if (result == CUDA_SUCCESS)
        *pKernel = (CUkernel)&it->kernels[at];
    return result;
}

CUresult cuLibraryGetKernelCount(unsigned int *count, CUlibrary lib)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    struct soft_library *it = soft_library_of(lib);
    if (it == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (count == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *count = it->image->index.entry_count;
    return CUDA_SUCCESS;
}

CUresult cuLibraryEnumerateKernels(CUkernel *kernels, unsigned int numKernels, CUlibrary lib)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    struct soft_library *it = soft_library_of(lib);
    if (it == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (kernels == NULL || numKernels == 0)
        return CUDA_ERROR_INVALID_VALUE;
    for (uint32_t i = 0; i < numKernels && i < it->image->index.entry_count; i++)
        kernels[i] = (CUkernel)&it->kernels[i];
    return CUDA_SUCCESS;
}

static CUresult current_module(struct soft_library *library, struct soft_module **module)
{
    struct soft_ctx *ctx;
    CUresult result = soft_current(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&soft_module_lock);
    result = soft_library_module(library, ctx, module);
    pthread_mutex_unlock(&soft_module_lock);
    return result;
}

CUresult cuLibraryGetModule(CUmodule *pMod, CUlibrary library)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    struct soft_library *it = soft_library_of(library);
    if (it == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (pMod == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    struct soft_module *module = NULL;
    CUresult result = current_module(it, &module);
    if (result == CUDA_SUCCESS)
        *pMod = (CUmodule)module;
    return result;
}

CUresult cuLibraryGetGlobal(CUdeviceptr *dptr, size_t *bytes, CUlibrary library, const char *name)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    struct soft_library *it = soft_library_of(library);
    if (it == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (name == NULL || (dptr == NULL && bytes == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    struct soft_module *module = NULL;
    CUresult result = current_module(it, &module);
    return result == CUDA_SUCCESS ? soft_module_global(module, name, dptr, bytes) : result;
}

/* They are there once the library is in any context; the current one's turn comes if it is not. */
CUresult cuLibraryGetManaged(CUdeviceptr *dptr, size_t *bytes, CUlibrary library, const char *name)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    struct soft_library *it = soft_library_of(library);
    if (it == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (name == NULL || (dptr == NULL && bytes == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&soft_module_lock);
    bool known = soft_library_has_managed(it, name), there = it->managed.base != 0;
    pthread_mutex_unlock(&soft_module_lock);
    struct soft_module *module = NULL;
    CUresult result = !known ? CUDA_ERROR_NOT_FOUND : CUDA_SUCCESS;
    if (known && !there)
        result = current_module(it, &module);
    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&soft_module_lock);
    result = soft_library_managed(it, name, dptr, bytes);
    pthread_mutex_unlock(&soft_module_lock);
    return result;
}

CUresult cuLibraryGetUnifiedFunction(void **fptr, CUlibrary library, const char *symbol)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    if (soft_library_of(library) == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    return fptr == NULL || symbol == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_NOT_FOUND;
}
