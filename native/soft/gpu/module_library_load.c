/* SPDX-License-Identifier: Apache-2.0
 *
 * Loading and unloading libraries: from code to an image for each device.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "soft/gpu/managed.h"
#include "soft/gpu/module_fatbin.h"
#include "soft/gpu/module_library.h"

static void library_free(struct soft_library *library)
{
    soft_handle_remove(SOFT_H_LIBRARY, library);
    if (library->kernels != NULL)
        for (uint32_t i = 0; i < library->image->index.entry_count; i++)
            soft_handle_remove(SOFT_H_KERNEL, &library->kernels[i]);
    free(library->kernels);
    soft_managed_variables_free(&library->managed);
    for (int dev = 0; dev < SOFT_MAX_DEVICES; dev++)
        if (library->images[dev] != NULL)
            soft_image_unref(library->images[dev]);
    free(library);
}

/* A device that may not have managed memory has no image with any. */
static void check_variables(struct soft_library *library, int dev, char *why, size_t why_bytes)
{
    library->refusals[dev] =
        soft_variables_check(library->images[dev], soft_visible_ordinal(dev), why, why_bytes);
    if (library->refusals[dev] == CUDA_SUCCESS)
        return;
    soft_image_unref(library->images[dev]);
    library->images[dev] = NULL;
}

/* Picks an image for each device: one text may hold several, and devices differ. The code is not
 * needed any more afterwards, preserved or not. */
static CUresult pick_images(struct soft_library *library, const void *code, uint64_t room,
                            int first, char *why, size_t why_bytes)
{
    int count = 0, ccs[SOFT_MAX_DEVICES];
    CUresult result = cuDeviceGetCount(&count);
    if (result != CUDA_SUCCESS)
        return result;
    for (int i = 0; i < count && i < SOFT_MAX_DEVICES; i++) {
        int dev = i == 0 ? first : i == first ? 0 : i; /* `first` comes first: its reason is told */
        char reason[512] = "";
        ccs[dev] = soft_profile_cc(soft_device_profile(dev));
        for (int k = 0; k < i && library->images[dev] == NULL; k++) {
            int other = k == 0 ? first : k == first ? 0 : k;
            if (ccs[other] == ccs[dev] && library->images[other] != NULL) {
                library->images[dev] = library->images[other];
                soft_image_ref(library->images[dev]);
            }
        }
        if (library->images[dev] == NULL)
            library->refusals[dev] =
                soft_image_load(code, room, ccs[dev], &library->images[dev], reason, sizeof reason);
        if (library->images[dev] != NULL)
            check_variables(library, dev, reason, sizeof reason);
        if (library->image == NULL)
            library->image = library->images[dev];
        if (i == 0)
            snprintf(why, why_bytes, "%s", reason);
    }
    return library->image != NULL ? CUDA_SUCCESS : library->refusals[first];
}

static CUresult add_kernels(struct soft_library *library)
{
    struct soft_image *image = library->image;
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
            struct soft_image *own = library->images[dev];
            uint32_t at = i;
            if (own == image || (own != NULL && soft_module_entry(own, image->index.entries[i].name,
                                                                  &at) == CUDA_SUCCESS))
                kernel->settings[dev].kernel = &own->kernels[at];
            kernel->settings[dev].carveout = -1;
            kernel->settings[dev].max_dynamic_shared = -1;
        }
        if (soft_handle_add(SOFT_H_KERNEL, kernel) != 0)
            result = CUDA_ERROR_OUT_OF_MEMORY;
    }
    return result;
}

/* Eager loading: all code into all contexts that there are. Later ones get it when they use it. */
static CUresult load_everywhere(struct soft_library *library, char *why, size_t why_bytes)
{
    CUresult result = CUDA_SUCCESS;
    size_t count = 0, room = 0;
    soft_lock();
    for (struct soft_ctx *ctx = soft_ctx_first(); ctx != NULL; ctx = ctx->next)
        room++;
    struct soft_ctx **all = calloc(room + 1, sizeof *all);
    for (struct soft_ctx *ctx = soft_ctx_first(); all != NULL && ctx != NULL; ctx = ctx->next)
        if (ctx->alive && library->images[soft_ctx_device(ctx)] != NULL)
            all[count++] = ctx;
    soft_unlock();
    if (all == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    for (size_t i = 0; result == CUDA_SUCCESS && i < count; i++) {
        struct soft_module *module = NULL;
        pthread_mutex_lock(&soft_module_lock);
        result = soft_library_module(library, all[i], &module);
        pthread_mutex_unlock(&soft_module_lock);
        if (result == CUDA_SUCCESS)
            result = soft_module_load_all(module, why, why_bytes);
    }
    free(all);
    return result;
}

static CUresult check_options(const CUlibraryOption *options, unsigned count, bool from_file)
{
    for (unsigned i = 0; i < count; i++) {
        if ((int)options[i] < 0 || options[i] >= CU_LIBRARY_NUM_OPTIONS)
            return CUDA_ERROR_INVALID_VALUE;
        if (options[i] == CU_LIBRARY_HOST_UNIVERSAL_FUNCTION_AND_DATA_TABLE)
            return CUDA_ERROR_NOT_SUPPORTED;
        /* a file's bytes are nobody's to preserve */
        if (options[i] == CU_LIBRARY_BINARY_IS_PRESERVED && from_file)
            return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

static void unload(struct soft_library *library)
{
    pthread_mutex_lock(&soft_module_lock);
    while (library->modules != NULL)
        soft_module_destroy(library->modules); /* takes itself out of the list */
    library_free(library);
    pthread_mutex_unlock(&soft_module_lock);
}

static CUresult make_library(const void *code, uint64_t room, int first, bool verbose,
                             CUlibrary *out, char *why, size_t why_bytes, char **info)
{
    struct soft_library *library = calloc(1, sizeof *library);
    if (library == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    CUresult result = pick_images(library, code, room, first, why, why_bytes);
    if (result == CUDA_SUCCESS)
        result = add_kernels(library);
    if (result == CUDA_SUCCESS && soft_loading_eager())
        result = load_everywhere(library, why, why_bytes);
    if (result != CUDA_SUCCESS) {
        unload(library);
        return result;
    }
    if (verbose)
        *info = soft_image_describe(library->image);
    *out = (CUlibrary)library;
    return CUDA_SUCCESS;
}

/* A library may be loaded before any context. */
static CUresult first_device(int *dev)
{
    struct soft_ctx *ctx;
    CUresult result = soft_current(&ctx);
    *dev = result == CUDA_SUCCESS ? soft_ctx_device(ctx) : 0;
    return result == CUDA_ERROR_INVALID_CONTEXT ? CUDA_SUCCESS : result;
}

static CUresult load(CUlibrary *out, const void *code, const char *path, CUjit_option *jit_options,
                     void **jit_values, unsigned jit_count, CUlibraryOption *options, void **values,
                     unsigned count)
{
    int first = 0;
    CUresult result = first_device(&first);
    if (result != CUDA_SUCCESS)
        return result;
    struct soft_jit jit;
    result = soft_jit_options(&jit, jit_count, jit_options, jit_values, false);
    if (result != CUDA_SUCCESS)
        return result;
    if (out == NULL || (code == NULL && path == NULL) || (count > 0 && options == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    (void)values; /* no option has one */
    result = check_options(options, count, path != NULL);
    if (result != CUDA_SUCCESS)
        return result;
    char why[512] = "", *file = NULL, *info = NULL;
    size_t bytes = 0;
    uint64_t start_ns = soft_now_ns();
    if (path != NULL) {
        result = soft_file_read(path, &file, &bytes);
        if (result != CUDA_SUCCESS)
            snprintf(why, sizeof why, "cannot read %s", path);
    }
    int cc = soft_profile_cc(soft_device_profile(first));
    if (result == CUDA_SUCCESS && !soft_jit_target_runs(&jit, cc, why, sizeof why))
        result = CUDA_ERROR_NO_BINARY_FOR_GPU;
    if (result == CUDA_SUCCESS)
        result =
            make_library(file != NULL ? file : code, file != NULL ? bytes : SOFT_FATBIN_UNKNOWN,
                         first, jit.verbose, out, why, sizeof why, &info);
    free(file);
    soft_jit_report(&jit, result, result == CUDA_SUCCESS && info != NULL ? info : why,
                    soft_now_ns() - start_ns);
    free(info);
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

/* A context in which a module of the library is; NULL past the last. */
static struct soft_ctx *context_at(struct soft_library *library, size_t at)
{
    struct soft_module *module = library->modules;
    while (module != NULL && at-- > 0)
        module = module->next;
    return module != NULL ? module->ctx : NULL;
}

CUresult cuLibraryUnload(CUlibrary library)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    pthread_mutex_lock(&soft_module_lock);
    struct soft_library *it = soft_library_of(library);
    struct soft_ctx *busy = NULL;
    /* Wait with the lock open: a finishing kernel may need it. The caller may not use the library
     * from another thread meanwhile. */
    for (size_t i = 0; it != NULL && (busy = context_at(it, i)) != NULL; i++) {
        pthread_mutex_unlock(&soft_module_lock);
        soft_ctx_wait_quietly(busy);
        pthread_mutex_lock(&soft_module_lock);
    }
    bool managed = it != NULL && it->managed.base != 0;
    pthread_mutex_unlock(&soft_module_lock);
    if (managed)
        soft_ctx_wait_all();
    if (it == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    unload(it);
    return CUDA_SUCCESS;
}
