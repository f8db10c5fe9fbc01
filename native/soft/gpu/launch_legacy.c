/* SPDX-License-Identifier: Apache-2.0
 *
 * The launch API of CUDA 3: a function carries its block shape, shared memory and a parameter
 * buffer that calls fill piece by piece.
 */
#include <stdlib.h>
#include <string.h>

#include "soft/gpu/launch.h"

#define PARAMS_LIMIT 4096u /* of that API */

static CUresult function_of(CUfunction handle, struct soft_function **out)
{
    struct soft_ctx *ctx;
    CUresult result = soft_current(&ctx);
    return result == CUDA_SUCCESS ? soft_function_of(handle, ctx, out) : result;
}

CUresult cuFuncSetBlockShape(CUfunction hfunc, int x, int y, int z)
{
    struct soft_function *function;
    CUresult result = function_of(hfunc, &function);
    if (result != CUDA_SUCCESS)
        return result;
    if (x <= 0 || y <= 0 || z <= 0)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&soft_module_lock);
    function->block[0] = (uint32_t)x;
    function->block[1] = (uint32_t)y;
    function->block[2] = (uint32_t)z;
    pthread_mutex_unlock(&soft_module_lock);
    return CUDA_SUCCESS;
}

CUresult cuFuncSetSharedSize(CUfunction hfunc, unsigned int bytes)
{
    struct soft_function *function;
    CUresult result = function_of(hfunc, &function);
    if (result == CUDA_SUCCESS)
        function->shared_bytes = bytes;
    return result;
}

CUresult cuParamSetSize(CUfunction hfunc, unsigned int numbytes)
{
    struct soft_function *function;
    CUresult result = function_of(hfunc, &function);
    if (result != CUDA_SUCCESS)
        return result;
    if (numbytes > PARAMS_LIMIT)
        return CUDA_ERROR_INVALID_VALUE;
    function->param_bytes = numbytes;
    return CUDA_SUCCESS;
}

CUresult cuParamSetv(CUfunction hfunc, int offset, void *ptr, unsigned int numbytes)
{
    struct soft_function *function;
    CUresult result = function_of(hfunc, &function);
    if (result != CUDA_SUCCESS)
        return result;
    if (ptr == NULL || offset < 0 || (uint64_t)offset + numbytes > PARAMS_LIMIT)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&soft_module_lock);
    if (function->params == NULL)
        function->params = calloc(1, PARAMS_LIMIT);
    if (function->params == NULL)
        result = CUDA_ERROR_OUT_OF_MEMORY;
    else
        memcpy(function->params + offset, ptr, numbytes);
    pthread_mutex_unlock(&soft_module_lock);
    return result;
}

CUresult cuParamSeti(CUfunction hfunc, int offset, unsigned int value)
{
    return cuParamSetv(hfunc, offset, &value, sizeof value);
}

CUresult cuParamSetf(CUfunction hfunc, int offset, float value)
{
    return cuParamSetv(hfunc, offset, &value, sizeof value);
}

static CUresult launch(CUfunction f, int grid_width, int grid_height, CUstream stream)
{
    struct soft_function *function;
    CUresult result = function_of(f, &function);
    if (result != CUDA_SUCCESS)
        return result;
    if (grid_width <= 0 || grid_height <= 0 || function->block[0] == 0)
        return CUDA_ERROR_INVALID_VALUE;
    static unsigned char none;
    size_t bytes = function->params != NULL ? function->param_bytes : 0;
    void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER,
                     function->params != NULL ? function->params : &none,
                     CU_LAUNCH_PARAM_BUFFER_SIZE, &bytes, CU_LAUNCH_PARAM_END};
    return cuLaunchKernel(f, (unsigned)grid_width, (unsigned)grid_height, 1, function->block[0],
                          function->block[1], function->block[2], function->shared_bytes, stream,
                          NULL, extra);
}

CUresult cuLaunch(CUfunction f)
{
    return launch(f, 1, 1, NULL);
}

CUresult cuLaunchGrid(CUfunction f, int grid_width, int grid_height)
{
    return launch(f, grid_width, grid_height, NULL);
}

CUresult cuLaunchGridAsync(CUfunction f, int grid_width, int grid_height, CUstream hStream)
{
    return launch(f, grid_width, grid_height, hStream);
}
