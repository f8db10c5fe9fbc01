/* SPDX-License-Identifier: Apache-2.0
 *
 * JIT options: log buffers are filled, the time is told, the rest is checked and has no meaning
 * for a software GPU (register limits, optimisation levels, targets).
 */
#include <string.h>

#include "soft/gpu/module.h"

/* Option values are scalars stored in a void pointer's own bytes, low end first. */
static size_t scalar(const void *value)
{
    uint32_t low;
    memcpy(&low, &value, sizeof low);
    return low;
}

CUresult soft_jit_options(struct soft_jit *jit, unsigned count, const CUjit_option *options,
                          void **values)
{
    *jit = (struct soft_jit){0};
    if (count > 0 && (options == NULL || values == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    for (unsigned i = 0; i < count; i++) {
        switch ((int)options[i]) {
        case CU_JIT_INFO_LOG_BUFFER:
            jit->info = values[i];
            break;
        case CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES:
            jit->info_bytes = scalar(values[i]);
            jit->info_used = &values[i];
            break;
        case CU_JIT_ERROR_LOG_BUFFER:
            jit->error = values[i];
            break;
        case CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES:
            jit->error_bytes = scalar(values[i]);
            jit->error_used = &values[i];
            break;
        case CU_JIT_WALL_TIME:
            jit->wall_time = &values[i];
            break;
        case CU_JIT_GLOBAL_SYMBOL_NAMES:
        case CU_JIT_GLOBAL_SYMBOL_ADDRESSES:
        case CU_JIT_GLOBAL_SYMBOL_COUNT:
            return CUDA_ERROR_NOT_SUPPORTED;
        default:
            if ((int)options[i] < 0 || (int)options[i] >= CU_JIT_NUM_OPTIONS)
                return CUDA_ERROR_INVALID_VALUE;
        }
    }
    return CUDA_SUCCESS;
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
