/* SPDX-License-Identifier: Apache-2.0
 *
 * Logs of the JIT, and links: the worker says a log before its reply, and the program's buffers are
 * this side's.
 */
#include <pthread.h>
#include <stdlib.h>

#include "src/shim/remote/calls.h"
#include "src/shim/remote/forget.h"
#include "src/shim/remote/prepared.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards the one below */
static char *logs[HARP_REMOTE_LANES + 1][2];

int harp_remote_jit_came(uint32_t lane, unsigned which, const char *text)
{
    if (lane > HARP_REMOTE_LANES || which > 1 || text == NULL)
        return -1;
    char *copy = strdup(text);
    pthread_mutex_lock(&lock);
    free(logs[lane][which]);
    logs[lane][which] = copy;
    pthread_mutex_unlock(&lock);
    return 0;
}

void harp_remote_jit_begin(struct harp_jit *jit, unsigned count, const CUjit_option *options,
                           void *const *values)
{
    *jit = (struct harp_jit){.text = {NULL}};
    if (options == NULL || values == NULL)
        return;
    for (unsigned i = 0; i < count; i++)
        switch ((int)options[i]) {
        case CU_JIT_INFO_LOG_BUFFER:
            jit->text[0] = values[i];
            break;
        case CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES:
            jit->room[0] = (uint32_t)(uintptr_t)values[i];
            break;
        case CU_JIT_ERROR_LOG_BUFFER:
            jit->text[1] = values[i];
            break;
        case CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES:
            jit->room[1] = (uint32_t)(uintptr_t)values[i];
            break;
        default:
            break;
        }
}

void harp_remote_jit_end(const struct harp_jit *jit)
{
    const struct harp_lane *lane = harp_remote_ready() == CUDA_SUCCESS ? harp_lane() : NULL;
    if (lane == NULL)
        return;
    for (unsigned i = 0; i < 2; i++) {
        pthread_mutex_lock(&lock);
        char *said = logs[lane->number][i];
        logs[lane->number][i] = NULL;
        pthread_mutex_unlock(&lock);
        size_t n = said == NULL ? 0 : strlen(said);
        if (jit->text[i] != NULL && jit->room[i] != 0 && n != 0) {
            n = n < jit->room[i] ? n : jit->room[i] - 1;
            memcpy(jit->text[i], said, n);
            jit->text[i][n] = '\0';
        }
        free(said);
    }
}

void harp_remote_forget_logs(void)
{
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < 2 * (HARP_REMOTE_LANES + 1); i++) {
        free(logs[i / 2][i % 2]);
        logs[i / 2][i % 2] = NULL;
    }
    pthread_mutex_unlock(&lock);
}

/* --- links -------------------------------------------------------------------------------------
 */

/* A link writes to the buffers that it was made with, whatever call has something to say. */
static void link_logs(CUlinkState state)
{
    const struct harp_thing *link = harp_thing_of(HARP_HANDLE_CUlinkState, (uintptr_t)state);
    if (link != NULL && link->facts != NULL)
        harp_remote_jit_end(link->facts);
}

CUresult harp_remote_cuLinkCreate_v2(unsigned int numOptions, CUjit_option *options,
                                     void **optionValues, CUlinkState *stateOut)
{
    struct harp_jit jit;
    harp_remote_jit_begin(&jit, numOptions, options, optionValues);
    CUresult r = harp_sent_cuLinkCreate_v2(numOptions, options, optionValues, stateOut);
    struct harp_thing *link =
        r == CUDA_SUCCESS ? harp_thing_of(HARP_HANDLE_CUlinkState, (uintptr_t)*stateOut) : NULL;
    struct harp_jit *kept = link != NULL ? malloc(sizeof *kept) : NULL;
    if (kept != NULL) {
        *kept = jit;
        link->facts = kept;
    }
    return r;
}

CUresult harp_remote_cuLinkCreate(unsigned int numOptions, CUjit_option *options,
                                  void **optionValues, CUlinkState *stateOut)
{
    return harp_remote_cuLinkCreate_v2(numOptions, options, optionValues, stateOut);
}

CUresult harp_remote_cuLinkComplete(CUlinkState state, void **cubinOut, size_t *sizeOut)
{
    CUresult r = harp_sent_cuLinkComplete(state, cubinOut, sizeOut);
    link_logs(state);
    return r;
}

CUresult harp_remote_cuLinkAddData_v2(CUlinkState state, CUjitInputType type, void *data,
                                      size_t size, const char *name, unsigned int numOptions,
                                      CUjit_option *options, void **optionValues)
{
    const void *from = data;
    if (data == NULL || size == 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (type == CU_JIT_INPUT_FATBINARY && size >= 16) { /* a wrapper holds an address */
        const size_t bytes = harp_remote_image_bytes(data, &from);
        size = from == data ? size : bytes;
    }
    if (size == 0)
        return CUDA_ERROR_INVALID_IMAGE;
    uint64_t args[] = {(uintptr_t)state, type,       (uintptr_t)from,    size,
                       (uintptr_t)name,  numOptions, (uintptr_t)options, (uintptr_t)optionValues};
    CUresult r = harp_remote_with_image(HARP_OP_cuLinkAddData_v2, args, 8, 2, from, size);
    link_logs(state);
    return r;
}

CUresult harp_remote_cuLinkAddFile_v2(CUlinkState state, CUjitInputType type, const char *path,
                                      unsigned int numOptions, CUjit_option *options,
                                      void **optionValues)
{
    char *data = NULL;
    size_t bytes;
    CUresult r = harp_remote_ready();
    if (r == CUDA_SUCCESS && path == NULL)
        r = CUDA_ERROR_INVALID_VALUE;
    if (r == CUDA_SUCCESS)
        r = harp_remote_read_file(path, &data, &bytes);
    if (r == CUDA_SUCCESS)
        r = harp_remote_cuLinkAddData_v2(state, type, data, bytes, path, numOptions, options,
                                         optionValues);
    free(data);
    return r;
}

/* The first interface differs in nothing that goes over the wire. */
CUresult harp_remote_cuLinkAddData(CUlinkState state, CUjitInputType type, void *data, size_t size,
                                   const char *name, unsigned int numOptions, CUjit_option *options,
                                   void **optionValues)
{
    return harp_remote_cuLinkAddData_v2(state, type, data, size, name, numOptions, options,
                                        optionValues);
}

CUresult harp_remote_cuLinkAddFile(CUlinkState state, CUjitInputType type, const char *path,
                                   unsigned int numOptions, CUjit_option *options,
                                   void **optionValues)
{
    return harp_remote_cuLinkAddFile_v2(state, type, path, numOptions, options, optionValues);
}
