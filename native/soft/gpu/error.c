/* SPDX-License-Identifier: Apache-2.0
 *
 * Names of the result codes and what they mean, from their rows.
 */
#include "soft/gpu/soft.h"

static const char *name_of(CUresult code)
{
    switch (code) {
#define HARP_RESULT(result, text)                                                                  \
    case result:                                                                                   \
        return #result;
#include "generated/results.inc"
#undef HARP_RESULT
    }
    return NULL;
}

static const char *text_of(CUresult code)
{
    switch (code) {
#define HARP_RESULT(result, text)                                                                  \
    case result:                                                                                   \
        return text;
#include "generated/results.inc"
#undef HARP_RESULT
    }
    return NULL;
}

static CUresult answer(const char *found, const char **out)
{
    if (out == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *out = found;
    return found != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

SOFT_API CUresult cuGetErrorName(CUresult error, const char **name)
{
    return answer(name_of(error), name);
}

SOFT_API CUresult cuGetErrorString(CUresult error, const char **text)
{
    return answer(text_of(error), text);
}
