/* SPDX-License-Identifier: Apache-2.0
 *
 * Event sets: what happens on boards from their registration on, out of the ring of the state file.
 * A waiter sleeps on the ring's futex; of several at one set one gets each event.
 */
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>

#include "soft/nvml/nvml.h"

#define SUPPORTED                                                                                  \
    (nvmlEventTypeSingleBitEccError | nvmlEventTypeDoubleBitEccError |                             \
     nvmlEventTypeXidCriticalError | nvmlEventTypeDramRetirementEvent |                            \
     nvmlEventTypeGpuUnavailableError)

struct nvmlEventSet_st {
    struct nvmlEventSet_st *next;
    unsigned waiters;
    bool freed; /* by its owner; the last waiter frees it */
    uint32_t cursor;
    unsigned long long types[SOFT_MAX_DEVICES]; /* by board */
    uint32_t since[SOFT_MAX_DEVICES];           /* place in the ring at registration */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards all sets */
static struct nvmlEventSet_st *sets;

static struct nvmlEventSet_st **find(nvmlEventSet_t set)
{
    struct nvmlEventSet_st **at = &sets;
    while (*at != NULL && *at != set)
        at = &(*at)->next;
    return at;
}

nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t device, unsigned long long *types)
{
    ANY_OR_RETURN(device, types);
    *types = SUPPORTED;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set)
{
    struct soft_state *state;
    nvmlReturn_t result = soft_nvml_state(&state);
    if (result != NVML_SUCCESS)
        return result;
    if (set == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    struct nvmlEventSet_st *fresh = calloc(1, sizeof *fresh);
    if (fresh == NULL)
        return NVML_ERROR_MEMORY;
    fresh->cursor = soft_state_event_now(state);
    pthread_mutex_lock(&lock);
    fresh->next = sets;
    sets = fresh;
    pthread_mutex_unlock(&lock);
    *set = fresh;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long types,
                                      nvmlEventSet_t set)
{
    ANY_OR_RETURN(device, set);
    if ((types & ~nvmlEventTypeAll) != 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    if ((types & ~SUPPORTED) != 0)
        return NVML_ERROR_NOT_SUPPORTED;
    nvmlReturn_t result = NVML_ERROR_INVALID_ARGUMENT;
    pthread_mutex_lock(&lock);
    if (*find(set) != NULL) {
        if (set->types[t.board] == 0)
            set->since[t.board] = soft_state_event_now(t.state);
        set->types[t.board] |= types;
        result = NVML_SUCCESS;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set)
{
    struct soft_state *state;
    nvmlReturn_t result = soft_nvml_state(&state);
    if (result != NVML_SUCCESS)
        return result;
    pthread_mutex_lock(&lock);
    struct nvmlEventSet_st **at = find(set);
    struct nvmlEventSet_st *found = *at;
    if (found == NULL) {
        result = NVML_ERROR_INVALID_ARGUMENT;
    } else {
        *at = found->next;
        found->freed = true;
        if (found->waiters == 0)
            free(found);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

/* The next event that the set asked for; with the lock held. */
static bool next(struct soft_state *state, struct nvmlEventSet_st *set,
                 struct soft_state_event *event)
{
    while (soft_state_event_next(state, &set->cursor, event)) {
        if (event->dev < 0 || event->dev >= soft_state_device_count(state))
            continue;
        int board = soft_state_board(state, event->dev);
        if ((set->types[board] & event->type) != 0 &&
            (int32_t)(set->cursor - 1 - set->since[board]) >= 0)
            return true;
    }
    return false;
}

static nvmlReturn_t wait_for(nvmlEventSet_t handle, unsigned timeout_ms, struct soft_state **state,
                             struct soft_state_event *event)
{
    nvmlReturn_t result = soft_nvml_state(state);
    uint64_t until = soft_now_ns() + (uint64_t)timeout_ms * 1000000u;
    if (result != NVML_SUCCESS)
        return result;
    pthread_mutex_lock(&lock);
    struct nvmlEventSet_st *set = *find(handle);
    if (set == NULL) {
        pthread_mutex_unlock(&lock);
        return NVML_ERROR_INVALID_ARGUMENT;
    }
    set->waiters++;
    result = NVML_ERROR_TIMEOUT;
    for (;;) {
        if (set->freed || soft_nvml_state(state) != NVML_SUCCESS) {
            result = NVML_ERROR_UNINITIALIZED;
            break;
        }
        if (next(*state, set, event)) {
            result = NVML_SUCCESS;
            break;
        }
        uint32_t cursor = set->cursor;
        if (soft_now_ns() >= until)
            break;
        pthread_mutex_unlock(&lock);
        soft_state_event_wait(*state, cursor, until);
        pthread_mutex_lock(&lock);
    }
    if (--set->waiters == 0 && set->freed)
        free(set);
    pthread_mutex_unlock(&lock);
    return result;
}

nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data, unsigned int timeout_ms)
{
    struct soft_state *state;
    struct soft_state_event event;
    if (data == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    nvmlReturn_t result = wait_for(set, timeout_ms, &state, &event);
    if (result != NVML_SUCCESS)
        return result;
    uint32_t instance = soft_state_instance(state, event.dev);
    *data = (nvmlEventData_t){
        .device = soft_nvml_board_handle(soft_state_board(state, event.dev)),
        .eventType = event.type,
        .eventData = event.type == nvmlEventTypeXidCriticalError ? event.data : 0,
        .gpuInstanceId = instance,
        .computeInstanceId = instance == SOFT_NO_INSTANCE ? SOFT_NO_INSTANCE : 0,
    };
    return NVML_SUCCESS;
}

/* The older struct has no instances. */
nvmlReturn_t nvmlEventSetWait(nvmlEventSet_t set, nvmlEventData_v1_t *data, unsigned int timeout_ms)
{
    nvmlEventData_t whole;
    if (data == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    nvmlReturn_t result = nvmlEventSetWait_v2(set, &whole, timeout_ms);
    if (result == NVML_SUCCESS)
        *data = (nvmlEventData_v1_t){whole.device, whole.eventType, whole.eventData};
    return result;
}
