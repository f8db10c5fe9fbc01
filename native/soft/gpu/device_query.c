/* SPDX-License-Identifier: Apache-2.0
 *
 * What a device is asked rarely.
 */
#include "soft/gpu/soft.h"

static CUresult check(CUdevice dev, const void *out)
{
    CUresult r = soft_ready();

    if (r != CUDA_SUCCESS)
        return r;
    if (out == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    return soft_device_profile(dev) == NULL ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS;
}

/* Texels of one linear texture: the same for every format. */
SOFT_API CUresult cuDeviceGetTexture1DLinearMaxWidth(size_t *width, CUarray_format format,
                                                     unsigned channels, CUdevice dev)
{
    CUresult r = check(dev, width);

    if (r != CUDA_SUCCESS)
        return r;
    switch ((int)format) {
    case CU_AD_FORMAT_UNSIGNED_INT8:
    case CU_AD_FORMAT_UNSIGNED_INT16:
    case CU_AD_FORMAT_UNSIGNED_INT32:
    case CU_AD_FORMAT_SIGNED_INT8:
    case CU_AD_FORMAT_SIGNED_INT16:
    case CU_AD_FORMAT_SIGNED_INT32:
    case CU_AD_FORMAT_HALF:
    case CU_AD_FORMAT_FLOAT:
        break;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (channels != 1 && channels != 2 && channels != 4)
        return CUDA_ERROR_INVALID_VALUE;
    *width = 1u << 28;
    return CUDA_SUCCESS;
}

/* LUIDs are Windows'. */
SOFT_API CUresult cuDeviceGetLuid(char *luid, unsigned int *mask, CUdevice dev)
{
    CUresult r = check(dev, luid);

    if (r == CUDA_SUCCESS && mask == NULL)
        r = CUDA_ERROR_INVALID_VALUE;
    return r != CUDA_SUCCESS ? r : CUDA_ERROR_NOT_SUPPORTED;
}
