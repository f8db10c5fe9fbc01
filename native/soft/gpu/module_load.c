/* SPDX-License-Identifier: Apache-2.0
 *
 * cuModule*: load, unload, look up.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "soft/gpu/managed.h"
#include "soft/gpu/module.h"
#include "soft/gpu/module_fatbin.h"

/* A module that cannot be loaded as a whole is not loaded at all. */
static CUresult load_all(struct soft_module *module, char *why, size_t why_bytes)
{
    CUresult result = soft_module_load_all(module, why, why_bytes);
    if (result != CUDA_SUCCESS) {
        pthread_mutex_lock(&soft_module_lock);
        soft_module_destroy(module);
        pthread_mutex_unlock(&soft_module_lock);
    }
    return result;
}

static CUresult load(CUmodule *out, const void *data, const char *path, const struct soft_jit *jit)
{
    struct soft_ctx *ctx;
    CUresult result = soft_current(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (out == NULL || (data == NULL && path == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    uint64_t start_ns = soft_now_ns();
    char why[512] = "";
    int cc = soft_profile_cc(soft_ctx_profile(ctx));
    struct soft_image *image = NULL;
    struct soft_module *module = NULL;
    char *file = NULL, *info = NULL;
    size_t bytes = 0;
    uint64_t room = SOFT_FATBIN_UNKNOWN;
    if (path != NULL) {
        result = soft_file_read(path, &file, &bytes);
        room = bytes;
        if (result != CUDA_SUCCESS)
            snprintf(why, sizeof why, "cannot read %s", path);
    }
    if (result == CUDA_SUCCESS && !soft_jit_target_runs(jit, cc, why, sizeof why))
        result = CUDA_ERROR_NO_BINARY_FOR_GPU;
    if (result == CUDA_SUCCESS)
        result = soft_image_load(file != NULL ? file : data, room, cc, &image, why, sizeof why);
    free(file);
    if (result == CUDA_SUCCESS) {
        if (jit->verbose)
            info = soft_image_describe(image);
        pthread_mutex_lock(&soft_module_lock);
        result = soft_module_create(ctx, image, NULL, &module, why, sizeof why);
        pthread_mutex_unlock(&soft_module_lock);
        soft_image_unref(image);
    }
    if (result == CUDA_SUCCESS && soft_loading_eager())
        result = load_all(module, why, sizeof why);
    soft_jit_report(jit, result, result == CUDA_SUCCESS && info != NULL ? info : why,
                    soft_now_ns() - start_ns);
    free(info);
    if (result == CUDA_SUCCESS)
        *out = (CUmodule)module;
    return result;
}

CUresult cuModuleLoad(CUmodule *module, const char *fname)
{
    struct soft_jit jit = {0};
    return load(module, NULL, fname, &jit);
}

CUresult cuModuleLoadData(CUmodule *module, const void *image)
{
    struct soft_jit jit = {0};
    return load(module, image, NULL, &jit);
}

CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned int numOptions,
                            CUjit_option *options, void **optionValues)
{
    struct soft_jit jit;
    CUresult result = soft_jit_options(&jit, numOptions, options, optionValues, false);
    return result == CUDA_SUCCESS ? load(module, image, NULL, &jit) : result;
}

CUresult cuModuleLoadFatBinary(CUmodule *module, const void *fatCubin)
{
    struct soft_jit jit = {0};
    return load(module, fatCubin, NULL, &jit);
}

/* Checks every call on a module makes. */
static CUresult module_of(CUmodule handle, struct soft_module **out)
{
    struct soft_ctx *ctx;
    CUresult result = soft_current(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (!soft_handle_is(SOFT_H_MODULE, handle))
        return CUDA_ERROR_INVALID_HANDLE;
    *out = (struct soft_module *)handle;
    return CUDA_SUCCESS;
}

CUresult cuModuleUnload(CUmodule hmod)
{
    struct soft_module *module;
    CUresult result = module_of(hmod, &module);
    if (result != CUDA_SUCCESS)
        return result;
    if (module->library != NULL)
        return CUDA_ERROR_NOT_PERMITTED; /* it belongs to its library */
    soft_ctx_wait_quietly(module->ctx);  /* kernels in flight run its code and use its variables */
    if (module->managed.base != 0)
        soft_ctx_wait_all();
    pthread_mutex_lock(&soft_module_lock);
    if (soft_handle_is(SOFT_H_MODULE, hmod))
        soft_module_destroy(module);
    else
        result = CUDA_ERROR_INVALID_HANDLE;
    pthread_mutex_unlock(&soft_module_lock);
    return result;
}

CUresult cuModuleGetLoadingMode(CUmoduleLoadingMode *mode)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    if (mode == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *mode = soft_loading_eager() ? CU_MODULE_EAGER_LOADING : CU_MODULE_LAZY_LOADING;
    return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction *hfunc, CUmodule hmod, const char *name)
{
    struct soft_module *module;
    CUresult result = module_of(hmod, &module);
    if (result != CUDA_SUCCESS)
        return result;
    if (hfunc == NULL || name == NULL || name[0] == '\0')
        return CUDA_ERROR_INVALID_VALUE;
    uint32_t at = 0;
    result = soft_module_entry(module->image, name, &at);
    if (result != CUDA_SUCCESS)
        return result;
    /* compiled here, where the caller still looks at the answer, not inside the first launch */
    char why[512];
    const struct ptx_kernel *code;
    result = soft_function_load(&module->functions[at], &code, why, sizeof why);
    if (result != CUDA_SUCCESS)
        return result;
    *hfunc = (CUfunction)&module->functions[at];
    return CUDA_SUCCESS;
}

CUresult cuModuleGetFunctionCount(unsigned int *count, CUmodule mod)
{
    struct soft_module *module;
    CUresult result = module_of(mod, &module);
    if (result != CUDA_SUCCESS)
        return result;
    if (count == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *count = module->image->index.entry_count;
    return CUDA_SUCCESS;
}

CUresult cuModuleEnumerateFunctions(CUfunction *functions, unsigned int numFunctions, CUmodule mod)
{
    struct soft_module *module;
    CUresult result = module_of(mod, &module);
    if (result != CUDA_SUCCESS)
        return result;
    if (functions == NULL || numFunctions == 0)
        return CUDA_ERROR_INVALID_VALUE;
    for (uint32_t i = 0; i < numFunctions && i < module->image->index.entry_count; i++)
        functions[i] = (CUfunction)&module->functions[i];
    return CUDA_SUCCESS;
}

CUresult cuModuleGetGlobal_v2(CUdeviceptr *dptr, size_t *bytes, CUmodule hmod, const char *name)
{
    struct soft_module *module;
    CUresult result = module_of(hmod, &module);
    if (result != CUDA_SUCCESS)
        return result;
    if (name == NULL || (dptr == NULL && bytes == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    return soft_module_global(module, name, dptr, bytes);
}

/* Texture and surface references left with CUDA 12; PTX that declares them is refused earlier. */
CUresult cuModuleGetTexRef(CUtexref *pTexRef, CUmodule hmod, const char *name)
{
    struct soft_module *module;
    CUresult result = module_of(hmod, &module);
    if (result != CUDA_SUCCESS)
        return result;
    return pTexRef == NULL || name == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_NOT_FOUND;
}

CUresult cuModuleGetSurfRef(CUsurfref *pSurfRef, CUmodule hmod, const char *name)
{
    struct soft_module *module;
    CUresult result = module_of(hmod, &module);
    if (result != CUDA_SUCCESS)
        return result;
    return pSurfRef == NULL || name == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_NOT_FOUND;
}
