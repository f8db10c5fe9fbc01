/* SPDX-License-Identifier: Apache-2.0
 *
 * JIT options: log buffers are filled, the time is told, the rest is checked and has no meaning
 * for a software GPU (register limits, optimisation levels, targets).
 */
#include <stdio.h>
#include <string.h>

#include "soft/gpu/module.h"

/* Option values are scalars stored in a void pointer's own bytes, low end first. */
static size_t scalar(const void *value)
{
    uint32_t low;
    memcpy(&low, &value, sizeof low);
    return low;
}

static bool is_flag(size_t value)
{
    return value <= 1;
}

/* What an option without meaning here may be; the ranges are those that CUDA documents. */
static CUresult check(CUjit_option option, size_t value, bool linking)
{
    bool good = true;
    switch ((int)option) {
    case CU_JIT_OPTIMIZATION_LEVEL:
        good = value <= 4;
        break;
    case CU_JIT_FALLBACK_STRATEGY: /* the linker has no choice */
        good = !linking && value <= CU_PREFER_BINARY;
        break;
    case CU_JIT_CACHE_MODE:
        good = value <= CU_JIT_CACHE_OPTION_CA;
        break;
    case CU_JIT_GENERATE_DEBUG_INFO:
    case CU_JIT_GENERATE_LINE_INFO:
    case CU_JIT_LTO:
    case CU_JIT_FTZ:
    case CU_JIT_PREC_DIV:
    case CU_JIT_PREC_SQRT:
    case CU_JIT_FMA:
    case CU_JIT_OPTIMIZE_UNUSED_DEVICE_VARIABLES:
    case CU_JIT_POSITION_INDEPENDENT_CODE:
    case CU_JIT_OVERRIDE_DIRECTIVE_VALUES:
        good = is_flag(value);
        break;
    default:
        good = (int)option >= 0 && (int)option < CU_JIT_NUM_OPTIONS;
    }
    return good ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

static CUresult take(struct soft_jit *jit, CUjit_option option, void **value, bool linking)
{
    switch ((int)option) {
    case CU_JIT_INFO_LOG_BUFFER:
        jit->info = *value;
        break;
    case CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES:
        jit->info_bytes = scalar(*value);
        jit->info_used = value;
        break;
    case CU_JIT_ERROR_LOG_BUFFER:
        jit->error = *value;
        break;
    case CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES:
        jit->error_bytes = scalar(*value);
        jit->error_used = value;
        break;
    case CU_JIT_WALL_TIME:
        jit->wall_time = value;
        break;
    case CU_JIT_LOG_VERBOSE:
        jit->verbose = scalar(*value) != 0;
        break;
    case CU_JIT_TARGET:
        jit->target = (unsigned)scalar(*value);
        break;
    case CU_JIT_THREADS_PER_BLOCK:
        jit->threads_told = true;
        break;
    case CU_JIT_GLOBAL_SYMBOL_NAMES:
    case CU_JIT_GLOBAL_SYMBOL_ADDRESSES:
    case CU_JIT_GLOBAL_SYMBOL_COUNT:
        return CUDA_ERROR_NOT_SUPPORTED;
    default:
        return check(option, scalar(*value), linking);
    }
    return CUDA_SUCCESS;
}

CUresult soft_jit_options(struct soft_jit *jit, unsigned count, const CUjit_option *options,
                          void **values, bool linking)
{
    *jit = (struct soft_jit){0};
    if (count > 0 && (options == NULL || values == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    for (unsigned i = 0; i < count; i++) {
        CUresult result = take(jit, options[i], &values[i], linking);
        if (result != CUDA_SUCCESS)
            return result;
    }
    /* a block size is tuned for one device: it and a target exclude each other */
    return jit->threads_told && jit->target != 0 ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

/* A CUjit_target is the number of the architecture, with 'a' or 'f' above it. */
bool soft_jit_target_runs(const struct soft_jit *jit, int cc, char *why, size_t why_bytes)
{
    static const char kinds[] = {'\0', 'a', 'f'};
    unsigned sm = jit->target & 0xffff, kind = jit->target >> 16;
    if (jit->target == 0 || (kind < sizeof kinds && soft_target_runs(sm, kinds[kind], cc)))
        return true;
    snprintf(why, why_bytes, "CU_JIT_TARGET %u is not what the device's sm_%d runs", jit->target,
             cc);
    return false;
}

static void fill(char *buffer, size_t bytes, void **used, const char *text)
{
    size_t length = strlen(text);
    if (buffer == NULL || bytes == 0) {
        length = 0;
    } else {
        if (length > bytes - 1)
            length = bytes - 1;
        memcpy(buffer, text, length);
        buffer[length] = '\0';
    }
    if (used != NULL) {
        /* the length includes the NUL where there is text, as the driver counts */
        uint32_t told = length > 0 ? (uint32_t)length + 1 : 0;
        *used = NULL;
        memcpy(used, &told, sizeof told);
    }
}

void soft_jit_report(const struct soft_jit *jit, CUresult result, const char *why, uint64_t ns)
{
    fill(jit->error, jit->error_bytes, jit->error_used, result == CUDA_SUCCESS ? "" : why);
    fill(jit->info, jit->info_bytes, jit->info_used, result == CUDA_SUCCESS ? why : "");
    if (jit->wall_time != NULL) {
        float ms = (float)ns / 1e6f;
        *jit->wall_time = NULL;
        memcpy(jit->wall_time, &ms, sizeof ms);
    }
    if (result != CUDA_SUCCESS)
        soft_log("module_load_failed code=%d why=\"%s\"", (int)result, why);
}
