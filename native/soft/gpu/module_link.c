/* SPDX-License-Identifier: Apache-2.0
 *
 * cuLink*: the "linker" joins PTX texts (module_join.c) and hands PTX back as the cubin: our loader
 * reads it. The joined text has one header, with the newest version and target of its parts.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "soft/gpu/module.h"
#include "soft/gpu/module_fatbin.h"
#include "soft/gpu/module_join.h"

struct link {
    int cc;
    struct soft_jit jit; /* the client keeps its buffers alive as long as the link */
    struct soft_part *parts;
    size_t count, room;
    unsigned version, target; /* newest seen */
    char kind;                /* of the target: 'a' of sm_90a */
    uint64_t spent_ns;
    char *joined; /* what cuLinkComplete gave out */
    bool complete;
};

static struct link *link_of(CUlinkState handle)
{
    return soft_handle_is(SOFT_H_LINK, handle) ? (struct link *)handle : NULL;
}

CUresult cuLinkCreate_v2(unsigned int numOptions, CUjit_option *options, void **optionValues,
                         CUlinkState *stateOut)
{
    struct soft_ctx *ctx;
    CUresult result = soft_current(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (stateOut == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    struct soft_jit jit;
    result = soft_jit_options(&jit, numOptions, options, optionValues, true);
    if (result != CUDA_SUCCESS)
        return result;
    struct link *link = calloc(1, sizeof *link);
    if (link == NULL || soft_handle_add(SOFT_H_LINK, link) != 0) {
        free(link);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    link->cc = soft_profile_cc(soft_ctx_profile(ctx));
    link->jit = jit;
    *stateOut = (CUlinkState)link;
    return CUDA_SUCCESS;
}

CUresult cuLinkCreate(unsigned int numOptions, CUjit_option *options, void **optionValues,
                      CUlinkState *stateOut)
{
    return cuLinkCreate_v2(numOptions, options, optionValues, stateOut);
}

/* Takes `ptx` over. */
static CUresult add_ptx(struct link *link, char *ptx, const char *name, char *why, size_t why_bytes)
{
    struct ptx_index index = {0};
    char reason[256] = "";
    CUresult result = CUDA_SUCCESS;
    if (ptx_index_object(ptx, strlen(ptx), &index, reason, sizeof reason) != 0) {
        snprintf(why, why_bytes, "%.64s: %s", name, reason);
        result = CUDA_ERROR_INVALID_PTX;
    } else if (index.ptx_major * 10 + index.ptx_minor > SOFT_PTX_NEWEST) {
        snprintf(why, why_bytes, "%.64s: .version %u.%u is newer than this driver's", name,
                 index.ptx_major, index.ptx_minor);
        result = CUDA_ERROR_UNSUPPORTED_PTX_VERSION;
    } else if (!soft_target_fits(&index, link->cc, why, why_bytes)) {
        result = CUDA_ERROR_INVALID_PTX;
    } else if (link->count == link->room) {
        size_t room = link->room * 2 + 4;
        struct soft_part *wider = realloc(link->parts, room * sizeof *wider);
        if (wider != NULL)
            link->parts = wider, link->room = room;
        else
            result = CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (result == CUDA_SUCCESS) {
        struct soft_part *part = &link->parts[link->count++];
        part->text = ptx;
        snprintf(part->name, sizeof part->name, "%s", name);
        unsigned version = index.ptx_major * 10 + index.ptx_minor;
        link->version = version > link->version ? version : link->version;
        if (index.target_sm > link->target ||
            (index.target_sm == link->target && index.target_kind != '\0'))
            link->target = index.target_sm, link->kind = index.target_kind;
    } else {
        free(ptx);
    }
    ptx_index_free(&index);
    return result;
}

/* One part of each container: fat binaries that lie behind each other belong to one program. */
static CUresult add_fatbin(struct link *link, const unsigned char *data, size_t size,
                           const char *name, char *why, size_t why_bytes)
{
    uint64_t at = 0, used = 0;
    CUresult result;
    do {
        char *ptx = NULL;
        result = soft_image_ptx(data + at, size - at, link->cc, &ptx, &used, why, why_bytes);
        if (result == CUDA_SUCCESS)
            result = add_ptx(link, ptx, name, why, why_bytes);
        at += used;
    } while (result == CUDA_SUCCESS && used < size && soft_fatbin_follows(data, size, &at));
    return result;
}

/* The device's runtime is machine code as well, but what kernels call of it the software GPU has
 * itself, or refuses by name: nothing of the archive is needed. */
static bool is_device_runtime(CUjitInputType type, const void *data, size_t size, const char *name)
{
    static const char magic[] = "!<arch>\n";
    const char *slash = strrchr(name, '/');
    return type == CU_JIT_INPUT_LIBRARY && size > sizeof magic &&
           memcmp(data, magic, sizeof magic - 1) == 0 &&
           strcmp(slash != NULL ? slash + 1 : name, "libcudadevrt.a") == 0;
}

static CUresult add(struct link *link, CUjitInputType type, const void *data, size_t size,
                    const char *name)
{
    char why[512] = "";
    char *text = NULL, *ptx = NULL;
    uint64_t used, start_ns = soft_now_ns();
    CUresult result = CUDA_SUCCESS;
    if (name == NULL)
        name = type == CU_JIT_INPUT_PTX ? "ptx input" : "input";
    switch ((int)type) {
    case CU_JIT_INPUT_PTX:
        text = strndup(data, size);
        if (text == NULL)
            return CUDA_ERROR_OUT_OF_MEMORY;
        result = soft_image_ptx(text, strlen(text) + 1, link->cc, &ptx, &used, why, sizeof why);
        if (result == CUDA_ERROR_INVALID_IMAGE)
            result = CUDA_ERROR_INVALID_PTX;
        if (result == CUDA_SUCCESS)
            result = add_ptx(link, ptx, name, why, sizeof why);
        break;
    case CU_JIT_INPUT_FATBINARY:
        result = add_fatbin(link, data, size, name, why, sizeof why);
        break;
    case CU_JIT_INPUT_CUBIN:
    case CU_JIT_INPUT_OBJECT:
    case CU_JIT_INPUT_LIBRARY:
        if (is_device_runtime(type, data, size, name))
            break;
        snprintf(why, sizeof why, "%.64s is machine code; the software GPU links PTX only", name);
        result = CUDA_ERROR_NO_BINARY_FOR_GPU;
        break;
    case CU_JIT_INPUT_NVVM:
        snprintf(why, sizeof why, "LTO-IR is not supported; the software GPU links PTX only");
        result = CUDA_ERROR_NOT_SUPPORTED;
        break;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
    link->spent_ns += soft_now_ns() - start_ns;
    if (result != CUDA_SUCCESS)
        soft_jit_report(&link->jit, result, why, link->spent_ns);
    free(text);
    return result;
}

CUresult cuLinkAddData_v2(CUlinkState state, CUjitInputType type, void *data, size_t size,
                          const char *name, unsigned int numOptions, CUjit_option *options,
                          void **optionValues)
{
    struct soft_ctx *ctx;
    CUresult result = soft_current(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    struct link *link = link_of(state);
    if (link == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (data == NULL || size == 0 || link->complete)
        return CUDA_ERROR_INVALID_VALUE;
    struct soft_jit ignored;
    result = soft_jit_options(&ignored, numOptions, options, optionValues, true);
    return result == CUDA_SUCCESS ? add(link, type, data, size, name) : result;
}

CUresult cuLinkAddData(CUlinkState state, CUjitInputType type, void *data, size_t size,
                       const char *name, unsigned int numOptions, CUjit_option *options,
                       void **optionValues)
{
    return cuLinkAddData_v2(state, type, data, size, name, numOptions, options, optionValues);
}

CUresult cuLinkAddFile_v2(CUlinkState state, CUjitInputType type, const char *path,
                          unsigned int numOptions, CUjit_option *options, void **optionValues)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    if (path == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    char *data = NULL;
    size_t bytes = 0;
    CUresult result = soft_file_read(path, &data, &bytes);
    if (result == CUDA_SUCCESS)
        result =
            cuLinkAddData_v2(state, type, data, bytes, path, numOptions, options, optionValues);
    free(data);
    return result;
}

CUresult cuLinkAddFile(CUlinkState state, CUjitInputType type, const char *path,
                       unsigned int numOptions, CUjit_option *options, void **optionValues)
{
    return cuLinkAddFile_v2(state, type, path, numOptions, options, optionValues);
}

/* The joined text, checked as a whole: what one part calls another one must have. */
static CUresult join(struct link *link, char *why, size_t why_bytes)
{
    char head[96], reason[256] = "";
    struct ptx_index index = {0};
    char kind[] = {link->kind, '\0'};
    snprintf(head, sizeof head, ".version %u.%u\n.target sm_%u%s\n.address_size 64\n",
             link->version / 10, link->version % 10, link->target, kind);
    link->joined = soft_ptx_join(link->parts, link->count, head, why, why_bytes);
    if (link->joined == NULL)
        return why[0] != '\0' ? CUDA_ERROR_INVALID_IMAGE : CUDA_ERROR_OUT_OF_MEMORY;
    size_t bytes = strlen(link->joined);
    if (ptx_index_read(link->joined, bytes, &index, reason, sizeof reason) != 0) {
        snprintf(why, why_bytes, "linked ptx, %s", reason);
        return soft_ptx_is_object(link->joined, bytes) ? CUDA_ERROR_NO_BINARY_FOR_GPU
                                                       : CUDA_ERROR_INVALID_PTX;
    }
    ptx_index_free(&index);
    return CUDA_SUCCESS;
}

CUresult cuLinkComplete(CUlinkState state, void **cubinOut, size_t *sizeOut)
{
    struct soft_ctx *ctx;
    CUresult result = soft_current(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    struct link *link = link_of(state);
    if (link == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (cubinOut == NULL || link->count == 0 || link->complete)
        return CUDA_ERROR_INVALID_VALUE;
    link->complete = true;
    char why[512] = "";
    uint64_t start_ns = soft_now_ns();
    result = join(link, why, sizeof why);
    link->spent_ns += soft_now_ns() - start_ns;
    if (result == CUDA_SUCCESS && link->jit.verbose)
        snprintf(why, sizeof why, "info: %zu inputs linked for sm_%d\n", link->count, link->cc);
    soft_jit_report(&link->jit, result, why, link->spent_ns);
    if (result != CUDA_SUCCESS)
        return result;
    *cubinOut = link->joined;
    if (sizeOut != NULL)
        *sizeOut = strlen(link->joined) + 1;
    return CUDA_SUCCESS;
}

CUresult cuLinkDestroy(CUlinkState state)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    struct link *link = link_of(state);
    if (link == NULL || !soft_handle_remove(SOFT_H_LINK, link))
        return CUDA_ERROR_INVALID_HANDLE;
    for (size_t i = 0; i < link->count; i++)
        free(link->parts[i].text);
    free(link->parts);
    free(link->joined);
    free(link);
    return CUDA_SUCCESS;
}
