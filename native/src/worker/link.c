/* SPDX-License-Identifier: Apache-2.0
 *
 * Links of the JIT. A driver keeps the arrays of options that a link was made with, and the buffers
 * they name, until it is destroyed: here they are ours. What calls change in them is told before
 * their reply (harpLinkValues, harpJitLog), as it would be seen in the client's own.
 */
#include <stdlib.h>
#include <string.h>

#include "src/worker/handles.h"
#include "src/worker/worker.h"

#define OPTIONS_MAX 64u
#define LOG_MAX     (64u << 10)
#define LINKS_MAX   1024u /* each has logs */

struct link {
    CUlinkState state;
    unsigned count;
    CUjit_option options[OPTIONS_MAX];
    void *values[OPTIONS_MAX];
    uint64_t told[OPTIONS_MAX];
    char *logs[2]; /* info, errors */
    uint64_t id;   /* while it is being destroyed */
    struct link *next;
};

/* Guarded by lock, and so is a link that is listed: another lane may end it while it is told of. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct link *links;
static atomic_uint count; /* also those that a call makes or ends */

static struct link **find(uint64_t state)
{
    struct link **at = &links;
    while (*at != NULL && (uintptr_t)(*at)->state != state)
        at = &(*at)->next;
    return at;
}

static void forget(struct link *link)
{
    free(link->logs[0]);
    free(link->logs[1]);
    free(link);
    atomic_fetch_sub(&count, 1);
}

static bool is_buffer(CUjit_option option, unsigned *which)
{
    *which = option == CU_JIT_ERROR_LOG_BUFFER;
    return option == CU_JIT_INFO_LOG_BUFFER || option == CU_JIT_ERROR_LOG_BUFFER;
}

static bool is_size(CUjit_option option, unsigned *which)
{
    *which = option == CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES;
    return option == CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES ||
           option == CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES;
}

CUresult link_prepare(struct lane *lane, uint64_t *args)
{
    const uint64_t options = args[0], *values = (const uint64_t *)(uintptr_t)args[2];
    unsigned which;
    if (options > OPTIONS_MAX)
        return CUDA_ERROR_NOT_SUPPORTED;
    struct link *link = NULL;
    if (atomic_fetch_add(&count, 1) < LINKS_MAX)
        link = calloc(1, sizeof *link);
    if (link == NULL) {
        atomic_fetch_sub(&count, 1);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    link->count = args[1] == 0 || values == NULL ? 0 : (unsigned)options;
    for (unsigned i = 0; i < link->count; i++) {
        memcpy(&link->options[i], (const uint8_t *)(uintptr_t)args[1] + 4 * i, 4);
        link->values[i] = (void *)(uintptr_t)values[i];
        if (is_size(link->options[i], &which) && (uint32_t)values[i] > LOG_MAX)
            link->values[i] = (void *)(uintptr_t)LOG_MAX;
        if (!is_buffer(link->options[i], &which))
            continue;
        /* Said twice, a size is whichever the driver takes. */
        if (link->logs[which] == NULL)
            link->logs[which] = calloc(1, LOG_MAX + 1);
        if (link->logs[which] == NULL) {
            forget(link);
            return CUDA_ERROR_OUT_OF_MEMORY;
        }
        link->values[i] = link->logs[which];
    }
    if (link->count != 0) {
        args[1] = (uintptr_t)link->options;
        args[2] = (uintptr_t)link->values;
    }
    lane->link = link;
    return CUDA_SUCCESS;
}

/* The values as the client may see them: addresses are ours. */
static void seen(const struct link *link, uint64_t *values)
{
    unsigned which;
    for (unsigned i = 0; i < link->count; i++)
        values[i] = is_buffer(link->options[i], &which) ? 0 : (uintptr_t)link->values[i];
}

static void tell(struct lane *lane, struct link *link, uint64_t id)
{
    uint64_t values[OPTIONS_MAX];
    seen(link, values);
    for (unsigned which = 0; which < 2; which++) {
        uint64_t args[HARP_WIRE_SLOTS] = {which, (uintptr_t)link->logs[which]};
        if (link->logs[which] != NULL && link->logs[which][0] != '\0')
            call_tell(lane->session, HARP_OP_harpJitLog, lane->id, args);
    }
    if (memcmp(values, link->told, link->count * sizeof *values) == 0)
        return;
    memcpy(link->told, values, sizeof values);
    uint64_t args[HARP_WIRE_SLOTS] = {id, (uintptr_t)values, link->count};
    call_tell(lane->session, HARP_OP_harpLinkValues, lane->id, args);
}

static void keep(struct link *link)
{
    pthread_mutex_lock(&lock);
    link->next = links;
    links = link;
    pthread_mutex_unlock(&lock);
}

static void created(struct lane *lane, CUresult result, const uint64_t *carried)
{
    struct link *link = lane->link;
    lane->link = NULL;
    if (link == NULL)
        return;
    seen(link, link->told);
    if (link->count != 0) /* the reply has what the driver has answered */
        memcpy((void *)(uintptr_t)carried[2], link->told, link->count * sizeof *link->told);
    if (result != CUDA_SUCCESS || carried[3] == 0) {
        forget(link);
        return;
    }
    memcpy(&link->state, (const void *)(uintptr_t)carried[3], sizeof link->state);
    keep(link);
}

void link_before(struct lane *lane, unsigned op, const uint64_t *args)
{
    if (op != HARP_OP_cuLinkDestroy)
        return;
    pthread_mutex_lock(&lock);
    struct link **at = find(args[0]), *link = *at;
    if (link != NULL)
        *at = link->next;
    pthread_mutex_unlock(&lock);
    if (link != NULL && handles_id(HARP_HANDLE_CUlinkState, args[0], &link->id) != 0)
        link->id = 0;
    lane->link = link;
}

static void destroyed(struct lane *lane, CUresult result)
{
    struct link *link = lane->link;
    lane->link = NULL;
    if (link == NULL)
        return;
    if (link->id != 0)
        tell(lane, link, link->id);
    if (result == CUDA_SUCCESS)
        forget(link);
    else
        keep(link);
}

void link_after(struct lane *lane, unsigned op, CUresult result, const uint64_t *carried)
{
    uint64_t id;
    switch (op) {
    case HARP_OP_cuLinkCreate:
    case HARP_OP_cuLinkCreate_v2:
        created(lane, result, carried);
        return;
    case HARP_OP_cuLinkDestroy:
        destroyed(lane, result);
        return;
    case HARP_OP_cuLinkAddData:
    case HARP_OP_cuLinkAddData_v2:
    case HARP_OP_cuLinkComplete:
        break;
    default:
        return;
    }
    pthread_mutex_lock(&lock);
    struct link *link = *find(carried[0]);
    if (link != NULL && handles_id(HARP_HANDLE_CUlinkState, carried[0], &id) == 0)
        tell(lane, link, id);
    pthread_mutex_unlock(&lock);
}
