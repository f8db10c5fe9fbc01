/* SPDX-License-Identifier: Apache-2.0
 *
 * Logs of the JIT, and links: the worker says a log before its reply, and the program's buffers are
 * this side's.
 */
#include <pthread.h>
#include <stdlib.h>

#include "src/shim/remote/calls.h"
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
    const struct harp_lane *lane = harp_lane();
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
