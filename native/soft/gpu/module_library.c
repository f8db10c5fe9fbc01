/* SPDX-License-Identifier: Apache-2.0
 *
 * Libraries: code without a context. A kernel handle stands for a function in whichever context
 * is current when it is used; the module behind it is made then.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "soft/gpu/module_library.h"

/* A library may be loaded before any context: the newest device decides what it may hold. */
static CUresult newest_cc(int *cc)
{
    struct soft_ctx *ctx;
    CUresult result = soft_current(&ctx);
    if (result == CUDA_SUCCESS) {
        *cc = soft_profile_cc(soft_ctx_profile(ctx));
        return CUDA_SUCCESS;
    }
    if (result != CUDA_ERROR_INVALID_CONTEXT)
        return result;
    int count = 0;
    result = cuDeviceGetCount(&count);
    *cc = 0;
    for (int dev = 0; result == CUDA_SUCCESS && dev < count; dev++) {
        int major = 0, minor = 0;
        result = cuDeviceComputeCapability(&major, &minor, dev);
        if (major * 10 + minor > *cc)
            *cc = major * 10 + minor;
    }
    return result == CUDA_SUCCESS && count == 0 ? CUDA_ERROR_NO_DEVICE : result;
}

static void library_free(struct soft_library *library)
{
    soft_handle_remove(SOFT_H_LIBRARY, library);
    if (library->kernels != NULL)
        for (uint32_t i = 0; i < library->image->index.entry_count; i++)
            soft_handle_remove(SOFT_H_KERNEL, &library->kernels[i]);
    free(library->kernels);
    soft_image_unref(library->image);
    free(library);
}

static CUresult library_of_image(struct soft_image *image, CUlibrary *out)
{
    struct soft_library *library = calloc(1, sizeof *library);
    if (library == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    soft_image_ref(image);
    library->image = image;
    uint32_t count = image->index.entry_count;
    library->kernels = calloc(count + 1, sizeof *library->kernels);
    CUresult result = CUDA_SUCCESS;
    if (library->kernels == NULL || soft_handle_add(SOFT_H_LIBRARY, library) != 0)
        result = CUDA_ERROR_OUT_OF_MEMORY;
    for (uint32_t i = 0; result == CUDA_SUCCESS && i < count; i++) {
        struct soft_library_kernel *kernel = &library->kernels[i];
        kernel->library = library;
        kernel->at = i;
        for (int dev = 0; dev < SOFT_MAX_DEVICES; dev++) {
            kernel->settings[dev].kernel = &image->kernels[i];
            kernel->settings[dev].carveout = -1;
            kernel->settings[dev].max_dynamic_shared = -1;
        }
        if (soft_handle_add(SOFT_H_KERNEL, kernel) != 0)
            result = CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (result != CUDA_SUCCESS) {
        library_free(library);
        return result;
    }
    *out = (CUlibrary)library;
    return CUDA_SUCCESS;
}

static CUresult load(CUlibrary *out, const void *code, const char *path, CUjit_option *jit_options,
                     void **jit_values, unsigned jit_count, CUlibraryOption *options, void **values,
                     unsigned count)
{
    int cc = 0;
    CUresult result = newest_cc(&cc);
    if (result != CUDA_SUCCESS)
        return result;
    struct soft_jit jit;
    result = soft_jit_options(&jit, jit_count, jit_options, jit_values);
    if (result != CUDA_SUCCESS)
        return result;
    if (out == NULL || (code == NULL && path == NULL) || (count > 0 && options == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    for (unsigned i = 0; i < count; i++) {
        if ((int)options[i] < 0 || options[i] >= CU_LIBRARY_NUM_OPTIONS)
            return CUDA_ERROR_INVALID_VALUE;
        if (options[i] == CU_LIBRARY_HOST_UNIVERSAL_FUNCTION_AND_DATA_TABLE)
            return CUDA_ERROR_NOT_SUPPORTED;
    }
    char why[512] = "";
    uint64_t start_ns = soft_now_ns();
    struct soft_image *image = NULL;
    result = path != NULL ? soft_image_file(path, cc, &image, why, sizeof why)
                          : soft_image_load(code, cc, &image, why, sizeof why);
    if (result == CUDA_SUCCESS) {
        result = library_of_image(image, out);
        soft_image_unref(image);
    }
    soft_jit_report(&jit, result, why, soft_now_ns() - start_ns);
    return result;
}

CUresult cuLibraryLoadData(CUlibrary *library, const void *code, CUjit_option *jitOptions,
                           void **jitOptionsValues, unsigned int numJitOptions,
                           CUlibraryOption *libraryOptions, void **libraryOptionValues,
                           unsigned int numLibraryOptions)
{
    return load(library, code, NULL, jitOptions, jitOptionsValues, numJitOptions, libraryOptions,
                libraryOptionValues, numLibraryOptions);
}

CUresult cuLibraryLoadFromFile(CUlibrary *library, const char *fileName, CUjit_option *jitOptions,
                               void **jitOptionsValues, unsigned int numJitOptions,
                               CUlibraryOption *libraryOptions, void **libraryOptionValues,
                               unsigned int numLibraryOptions)
{
    return load(library, NULL, fileName, jitOptions, jitOptionsValues, numJitOptions,
                libraryOptions, libraryOptionValues, numLibraryOptions);
}

static struct soft_library *library_of(CUlibrary handle)
{
    return soft_handle_is(SOFT_H_LIBRARY, handle) ? (struct soft_library *)handle : NULL;
}

CUresult cuLibraryUnload(CUlibrary library)
{
    pthread_mutex_lock(&soft_module_lock);
    struct soft_library *it = library_of(library);
    if (it == NULL) {
        pthread_mutex_unlock(&soft_module_lock);
        return CUDA_ERROR_INVALID_HANDLE;
    }
    /* (1) Wait with the lock open: a finishing kernel may need it. The caller may not use the
     * library from another thread meanwhile. */
    struct soft_ctx *busy[SOFT_MAX_DEVICES];
    size_t count = 0;
    for (struct soft_module *module = it->modules; module != NULL; module = module->next)
        if (module->globals != 0 && count < SOFT_MAX_DEVICES)
            busy[count++] = module->ctx;
    pthread_mutex_unlock(&soft_module_lock);
    while (count > 0)
        (void)soft_ctx_wait(busy[--count]);
    pthread_mutex_lock(&soft_module_lock);
    while (it->modules != NULL)
        soft_module_destroy(it->modules); /* takes itself out of the list */
    library_free(it);
    pthread_mutex_unlock(&soft_module_lock);
    return CUDA_SUCCESS;
}

void soft_library_forget(struct soft_library *library, struct soft_module *module)
{
    for (struct soft_module **link = &library->modules; *link != NULL; link = &(*link)->next)
        if (*link == module) {
            *link = module->next;
            return;
        }
}

/* With soft_module_lock held. */
static CUresult library_module(struct soft_library *library, struct soft_ctx *ctx,
                               struct soft_module **out)
{
    for (struct soft_module *module = library->modules; module != NULL; module = module->next)
        if (module->ctx == ctx && module->ctx_id == soft_ctx_id(ctx)) {
            *out = module;
            return CUDA_SUCCESS;
        }
    char why[256] = "";
    CUresult result = soft_module_create(ctx, library->image, library, out, why, sizeof why);
    if (result != CUDA_SUCCESS) {
        soft_log("library_module_failed code=%d why=\"%s\"", (int)result, why);
        return result;
    }
    for (uint32_t i = 0; i < library->image->index.entry_count; i++)
        soft_function_copy_settings(&(*out)->functions[i],
                                    &library->kernels[i].settings[soft_ctx_device(ctx)]);
    (*out)->next = library->modules;
    library->modules = *out;
    return CUDA_SUCCESS;
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
    CUresult result = library_module(kernel->library, ctx, &module);
    pthread_mutex_unlock(&soft_module_lock);
    if (result == CUDA_SUCCESS)
        *out = &module->functions[kernel->at];
    return result;
}

CUresult cuLibraryGetKernel(CUkernel *pKernel, CUlibrary library, const char *name)
{
    struct soft_library *it = library_of(library);
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
    struct soft_library *it = library_of(lib);
    if (it == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (count == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *count = it->image->index.entry_count;
    return CUDA_SUCCESS;
}

CUresult cuLibraryEnumerateKernels(CUkernel *kernels, unsigned int numKernels, CUlibrary lib)
{
    struct soft_library *it = library_of(lib);
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
    result = library_module(library, ctx, module);
    pthread_mutex_unlock(&soft_module_lock);
    return result;
}

CUresult cuLibraryGetModule(CUmodule *pMod, CUlibrary library)
{
    struct soft_library *it = library_of(library);
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
    struct soft_library *it = library_of(library);
    if (it == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (name == NULL || (dptr == NULL && bytes == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    struct soft_module *module = NULL;
    CUresult result = current_module(it, &module);
    return result == CUDA_SUCCESS ? soft_module_global(module, name, dptr, bytes) : result;
}

/* Managed variables are refused when the PTX is read, so there is none to find. */
CUresult cuLibraryGetManaged(CUdeviceptr *dptr, size_t *bytes, CUlibrary library, const char *name)
{
    if (library_of(library) == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    return name == NULL || (dptr == NULL && bytes == NULL) ? CUDA_ERROR_INVALID_VALUE
                                                           : CUDA_ERROR_NOT_FOUND;
}

CUresult cuLibraryGetUnifiedFunction(void **fptr, CUlibrary library, const char *symbol)
{
    if (library_of(library) == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    return fptr == NULL || symbol == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_NOT_FOUND;
}
