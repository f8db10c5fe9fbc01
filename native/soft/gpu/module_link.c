/* SPDX-License-Identifier: Apache-2.0
 *
 * cuLink*: the "linker" joins PTX texts and hands PTX back as the cubin: our loader reads it. The
 * joined text has one header, with the newest version and target of its parts.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "soft/gpu/module.h"

struct link {
    int cc;
    struct soft_jit jit; /* the client keeps its buffers alive as long as the link */
    char *body;
    size_t bytes, room;
    unsigned version, target; /* newest seen */
    char *joined;             /* what cuLinkComplete gave out */
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
    result = soft_jit_options(&jit, numOptions, options, optionValues);
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

static CUresult append(struct link *link, const char *text, size_t bytes)
{
    if (link->bytes + bytes + 2 > link->room) {
        size_t room = (link->bytes + bytes + 2) * 2;
        char *wider = realloc(link->body, room);
        if (wider == NULL)
            return CUDA_ERROR_OUT_OF_MEMORY;
        link->body = wider;
        link->room = room;
    }
    memcpy(link->body + link->bytes, text, bytes);
    link->bytes += bytes;
    link->body[link->bytes] = '\0';
    return CUDA_SUCCESS;
}

/* Copies all but the header directives, which stand on lines of their own. */
static CUresult append_body(struct link *link, const char *ptx)
{
    CUresult result = CUDA_SUCCESS;
    while (*ptx != '\0' && result == CUDA_SUCCESS) {
        size_t line = strcspn(ptx, "\n");
        size_t blank = strspn(ptx, " \t");
        size_t whole = line + (ptx[line] == '\n' ? 1 : 0);
        const char *word = ptx + blank;
        bool header = strncmp(word, ".version", 8) == 0 || strncmp(word, ".target", 7) == 0 ||
                      strncmp(word, ".address_size", 13) == 0;
        if (!header)
            result = append(link, ptx, whole);
        ptx += whole;
    }
    return result == CUDA_SUCCESS ? append(link, "\n", 1) : result;
}

static CUresult add_ptx(struct link *link, const char *ptx, const char *name, char *why,
                        size_t why_bytes)
{
    struct ptx_index index = {0};
    char reason[256] = "";
    if (ptx_index_read(ptx, strlen(ptx), &index, reason, sizeof reason) != 0) {
        snprintf(why, why_bytes, "%.64s: %s", name != NULL ? name : "ptx input", reason);
        return CUDA_ERROR_INVALID_PTX;
    }
    unsigned version = index.ptx_major * 10 + index.ptx_minor;
    if (version > link->version)
        link->version = version;
    if (index.target_sm > link->target)
        link->target = index.target_sm;
    ptx_index_free(&index);
    return append_body(link, ptx);
}

static CUresult add(struct link *link, CUjitInputType type, const void *data, size_t size,
                    const char *name)
{
    char why[384] = "";
    char *text = NULL, *ptx = NULL;
    CUresult result = CUDA_SUCCESS;
    switch ((int)type) {
    case CU_JIT_INPUT_PTX:
        text = strndup(data, size);
        if (text == NULL)
            return CUDA_ERROR_OUT_OF_MEMORY;
        result = soft_image_ptx(text, link->cc, &ptx, why, sizeof why);
        if (result == CUDA_ERROR_INVALID_IMAGE)
            result = CUDA_ERROR_INVALID_PTX;
        break;
    case CU_JIT_INPUT_FATBINARY:
        result = soft_image_ptx(data, link->cc, &ptx, why, sizeof why);
        break;
    case CU_JIT_INPUT_CUBIN:
    case CU_JIT_INPUT_OBJECT:
    case CU_JIT_INPUT_LIBRARY:
        snprintf(why, sizeof why, "%.64s is machine code; the software GPU links PTX only",
                 name != NULL ? name : "input");
        result = CUDA_ERROR_NO_BINARY_FOR_GPU;
        break;
    case CU_JIT_INPUT_NVVM:
        snprintf(why, sizeof why, "LTO-IR is not supported; the software GPU links PTX only");
        result = CUDA_ERROR_NOT_SUPPORTED;
        break;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (result == CUDA_SUCCESS)
        result = add_ptx(link, ptx, name, why, sizeof why);
    if (result != CUDA_SUCCESS)
        soft_jit_report(&link->jit, result, why, 0);
    free(text);
    free(ptx);
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
    if (data == NULL || size == 0 || link->joined != NULL)
        return CUDA_ERROR_INVALID_VALUE;
    struct soft_jit ignored;
    result = soft_jit_options(&ignored, numOptions, options, optionValues);
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

CUresult cuLinkComplete(CUlinkState state, void **cubinOut, size_t *sizeOut)
{
    struct soft_ctx *ctx;
    CUresult result = soft_current(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    struct link *link = link_of(state);
    if (link == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (cubinOut == NULL || link->body == NULL || link->joined != NULL)
        return CUDA_ERROR_INVALID_VALUE;
    size_t room = link->bytes + 128;
    link->joined = malloc(room);
    if (link->joined == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    int n = snprintf(link->joined, room, ".version %u.%u\n.target sm_%u\n.address_size 64\n%s",
                     link->version / 10, link->version % 10, link->target, link->body);
    struct ptx_index index = {0};
    char reason[256] = "";
    if (ptx_index_read(link->joined, (size_t)n, &index, reason, sizeof reason) != 0) {
        char why[384];
        snprintf(why, sizeof why, "linked ptx, %s", reason);
        soft_jit_report(&link->jit, CUDA_ERROR_INVALID_PTX, why, 0);
        return CUDA_ERROR_INVALID_PTX;
    }
    ptx_index_free(&index);
    soft_jit_report(&link->jit, CUDA_SUCCESS, "", 0);
    *cubinOut = link->joined;
    if (sizeOut != NULL)
        *sizeOut = (size_t)n + 1;
    return CUDA_SUCCESS;
}

CUresult cuLinkDestroy(CUlinkState state)
{
    struct link *link = link_of(state);
    if (link == NULL || !soft_handle_remove(SOFT_H_LINK, link))
        return CUDA_ERROR_INVALID_HANDLE;
    free(link->body);
    free(link->joined);
    free(link);
    return CUDA_SUCCESS;
}
