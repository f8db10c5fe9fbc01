/* SPDX-License-Identifier: Apache-2.0
 *
 * cuModule*: load, unload, look up.
 */
#include <stdio.h>
#include <string.h>

#include "soft/gpu/module.h"

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
    if (path != NULL)
        result = soft_image_file(path, cc, &image, why, sizeof why);
    else
        result = soft_image_load(data, cc, &image, why, sizeof why);
    if (result == CUDA_SUCCESS) {
        pthread_mutex_lock(&soft_module_lock);
        result = soft_module_create(ctx, image, NULL, &module, why, sizeof why);
        pthread_mutex_unlock(&soft_module_lock);
        soft_image_unref(image);
    }
    soft_jit_report(jit, result, why, soft_now_ns() - start_ns);
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
    CUresult result = soft_jit_options(&jit, numOptions, options, optionValues);
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
    if (module->globals != 0)
        (void)soft_ctx_wait(module->ctx); /* kernels in flight may use its variables */
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
    if (mode == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *mode = CU_MODULE_LAZY_LOADING;
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
    result = soft_kernel_code(&module->image->kernels[at], &code, why, sizeof why);
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
