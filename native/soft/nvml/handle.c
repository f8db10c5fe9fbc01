/* SPDX-License-Identifier: Apache-2.0
 *
 * Handles: of boards by index, UUID, serial number and PCI address; of instances by UUID and by
 * their place on the board. A handle is the address of a byte that nobody reads.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "soft/nvml/nvml.h"

static char boards[SOFT_MAX_DEVICES];
static char instances[SOFT_MAX_DEVICES]; /* by device */

nvmlDevice_t soft_nvml_board_handle(int board)
{
    return (nvmlDevice_t)(void *)&boards[board];
}

nvmlDevice_t soft_nvml_instance_handle(int dev)
{
    return (nvmlDevice_t)(void *)&instances[dev];
}

/* Place of a handle in one of the arrays; -1: it is not of it. */
static int place(nvmlDevice_t handle, const char *array)
{
    uintptr_t at = (uintptr_t)handle - (uintptr_t)array;
    return at < SOFT_MAX_DEVICES ? (int)at : -1;
}

static nvmlReturn_t find(nvmlDevice_t handle, struct soft_target *target)
{
    nvmlReturn_t result = soft_nvml_state(&target->state);
    if (result != NVML_SUCCESS)
        return result;
    struct soft_state *state = target->state;
    int board = place(handle, boards), dev = place(handle, instances);
    target->mig = dev >= 0;
    if (target->mig) {
        if (dev >= soft_state_device_count(state) ||
            soft_state_instance(state, dev) == SOFT_NO_INSTANCE)
            return NVML_ERROR_INVALID_ARGUMENT;
        target->board = soft_state_board(state, dev);
        target->dev = dev;
        target->size = 1;
        target->split = false;
        target->profile = soft_state_profile(state, dev);
        return NVML_SUCCESS;
    }
    if (board < 0 || board >= soft_state_board_count(state))
        return NVML_ERROR_INVALID_ARGUMENT;
    target->board = board;
    target->dev = soft_state_board_dev(state, board);
    target->size = soft_state_board_size(state, board);
    target->split = soft_state_instance(state, target->dev) != SOFT_NO_INSTANCE;
    target->profile = soft_state_board_profile(state, board);
    return NVML_SUCCESS;
}

nvmlReturn_t soft_nvml_target(nvmlDevice_t handle, struct soft_target *target)
{
    nvmlReturn_t result = find(handle, target);
    if (result == NVML_SUCCESS && soft_state_lost(target->state, target->dev))
        result = NVML_ERROR_GPU_IS_LOST;
    return result;
}

nvmlReturn_t soft_nvml_board(nvmlDevice_t handle, struct soft_target *target)
{
    nvmlReturn_t result = soft_nvml_target(handle, target);
    return result == NVML_SUCCESS && target->mig ? NVML_ERROR_NOT_SUPPORTED : result;
}

void soft_nvml_uuid(const struct soft_target *target, char text[48])
{
    uint8_t id[16];
    if (target->mig)
        soft_state_uuid(target->state, target->dev, id);
    else
        soft_state_board_uuid(target->state, target->board, id);
    snprintf(text, 48, "%s-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
             target->mig ? "MIG" : "GPU", id[0], id[1], id[2], id[3], id[4], id[5], id[6], id[7],
             id[8], id[9], id[10], id[11], id[12], id[13], id[14], id[15]);
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count)
{
    struct soft_state *state;
    nvmlReturn_t result = soft_nvml_state(&state);
    if (result != NVML_SUCCESS)
        return result;
    if (count == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *count = (unsigned)soft_state_board_count(state);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCount(unsigned int *count)
{
    return nvmlDeviceGetCount_v2(count);
}

/* Hands a handle out, if the device behind it is still there. */
static nvmlReturn_t give(nvmlDevice_t handle, nvmlDevice_t *out)
{
    struct soft_target t;
    nvmlReturn_t result = soft_nvml_target(handle, &t);
    if (result == NVML_SUCCESS)
        *out = handle;
    return result;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device)
{
    struct soft_state *state;
    nvmlReturn_t result = soft_nvml_state(&state);
    if (result != NVML_SUCCESS)
        return result;
    if (device == NULL || index >= (unsigned)soft_state_board_count(state))
        return NVML_ERROR_INVALID_ARGUMENT;
    return give(soft_nvml_board_handle((int)index), device);
}

nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned int index, nvmlDevice_t *device)
{
    return nvmlDeviceGetHandleByIndex_v2(index, device);
}

/* The board or the instance whose UUID it is. */
nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
    struct soft_state *state;
    nvmlReturn_t result = soft_nvml_state(&state);
    if (result != NVML_SUCCESS)
        return result;
    if (uuid == NULL || device == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    for (int i = 0; i < 2 * SOFT_MAX_DEVICES; i++) {
        nvmlDevice_t handle = i < SOFT_MAX_DEVICES
                                  ? soft_nvml_board_handle(i)
                                  : soft_nvml_instance_handle(i - SOFT_MAX_DEVICES);
        struct soft_target t;
        char text[48];
        if (find(handle, &t) != NVML_SUCCESS)
            continue;
        soft_nvml_uuid(&t, text);
        if (strcmp(text, uuid) == 0)
            return give(handle, device);
    }
    return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetHandleByUUIDV(const nvmlUUID_t *uuid, nvmlDevice_t *device)
{
    struct soft_state *state;
    nvmlReturn_t result = soft_nvml_state(&state);
    if (result != NVML_SUCCESS)
        return result;
    if (uuid == NULL || device == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (uuid->version != HARP_NVML_STRUCT(nvmlUUID_t, 1))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    if (uuid->type == 1) { /* text */
        char text[sizeof uuid->value.str + 1] = "";
        memcpy(text, uuid->value.str, sizeof uuid->value.str);
        return nvmlDeviceGetHandleByUUID(text, device);
    }
    if (uuid->type != 2) /* bytes */
        return NVML_ERROR_INVALID_ARGUMENT;
    for (int dev = 0; dev < soft_state_device_count(state); dev++) {
        uint8_t own[16], board[16];
        soft_state_uuid(state, dev, own);
        soft_state_board_uuid(state, soft_state_board(state, dev), board);
        if (memcmp(board, uuid->value.bytes, 16) == 0)
            return give(soft_nvml_board_handle(soft_state_board(state, dev)), device);
        if (memcmp(own, uuid->value.bytes, 16) == 0)
            return give(soft_nvml_instance_handle(dev), device);
    }
    return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetHandleBySerial(const char *serial, nvmlDevice_t *device)
{
    struct soft_state *state;
    nvmlReturn_t result = soft_nvml_state(&state);
    if (result != NVML_SUCCESS)
        return result;
    if (serial == NULL || device == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    for (int board = 0; board < soft_state_board_count(state); board++) {
        char text[32];
        if (nvmlDeviceGetSerial(soft_nvml_board_handle(board), text, sizeof text) == NVML_SUCCESS &&
            strcmp(text, serial) == 0)
            return give(soft_nvml_board_handle(board), device);
    }
    return NVML_ERROR_NOT_FOUND;
}

/* domain:bus:device.function, the domain and the function may be left out. */
nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus, nvmlDevice_t *device)
{
    struct soft_state *state;
    nvmlReturn_t result = soft_nvml_state(&state);
    if (result != NVML_SUCCESS)
        return result;
    if (bus == NULL || device == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    unsigned domain = 0, number = 0, slot = 0;
    if (sscanf(bus, "%x:%x:%x", &domain, &number, &slot) != 3) {
        domain = 0;
        if (sscanf(bus, "%x:%x", &number, &slot) != 2)
            return NVML_ERROR_INVALID_ARGUMENT;
    }
    for (int dev = 0; dev < soft_state_device_count(state); dev++)
        if (domain == 0 && slot == 0 && number == soft_state_pci_bus(state, dev))
            return give(soft_nvml_board_handle(soft_state_board(state, dev)), device);
    return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId(const char *bus, nvmlDevice_t *device)
{
    return nvmlDeviceGetHandleByPciBusId_v2(bus, device);
}
