/* SPDX-License-Identifier: Apache-2.0
 *
 * CUDA_VISIBLE_DEVICES, read as the driver does: numbers of boards or the beginnings of UUIDs, in
 * the order given; the list ends at the first entry that is no device, or names one again; set and
 * empty means none.
 *
 * Instances (MIG) as NVIDIA documents them: a process sees one at most, the first of those it might
 * see, and beside it no other device. "MIG-<uuid>" names one, and so does the older form
 * "MIG-GPU-<uuid of the board>/<gpu instance>/<compute instance>"; a board means all of its own.
 */
#include "soft/gpu/context.h"
#include "soft/gpu/fault.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int visible[SOFT_MAX_DEVICES]; /* written by read_env only */
static int visible_count;

static int uuid_text(const char *kind, const uint8_t uuid[16], char text[48])
{
    int n = snprintf(text, 48, "%s-", kind);

    for (int i = 0; i < 16; i++)
        n += snprintf(text + n, 48 - (size_t)n,
                      i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", uuid[i]);
    return n;
}

static bool begins(const char *entry, size_t bytes, const char *kind, const uint8_t uuid[16])
{
    char text[48];

    return bytes <= (size_t)uuid_text(kind, uuid, text) && strncasecmp(entry, text, bytes) == 0;
}

static bool is_old_name(const char *entry, size_t bytes, const struct soft_visible *device)
{
    char text[96] = "MIG-";

    uuid_text("GPU", device->board_uuid, text + 4);
    snprintf(text + strlen(text), 32, "/%u/0", device->instance);
    return strlen(text) == bytes && strncasecmp(entry, text, bytes) == 0;
}

static bool is_named(const char *entry, size_t bytes, const struct soft_visible *device)
{
    char *end;

    if (bytes >= 4 && strncasecmp(entry, "MIG-", 4) == 0)
        return device->instance != SOFT_NO_INSTANCE &&
               (begins(entry, bytes, "MIG", device->uuid) || is_old_name(entry, bytes, device));
    if (bytes >= 4 && strncasecmp(entry, "GPU-", 4) == 0)
        return begins(entry, bytes, "GPU", device->board_uuid);
    return bytes > 0 && isdigit((unsigned char)*entry) &&
           strtol(entry, &end, 10) == device->board && end == entry + bytes;
}

/* Adds the devices that an entry names. False: it names none, too many, or one for the second time.
 */
static bool add(const char *entry, size_t bytes, const struct soft_visible *devices, int count,
                int *ordinals, int *found)
{
    bool mig = bytes >= 4 && strncasecmp(entry, "MIG-", 4) == 0;
    int first = -1, before = *found;

    for (int i = 0; i < count; i++) {
        if (!is_named(entry, bytes, &devices[i]))
            continue;
        if (first >= 0 && (mig || devices[i].board != devices[first].board)) {
            *found = before;
            return false; /* fits two */
        }
        for (int k = 0; k < before; k++)
            if (ordinals[k] == i)
                return false;
        first = first < 0 ? i : first;
        ordinals[(*found)++] = i;
    }
    return first >= 0;
}

static int one_instance(const struct soft_visible *devices, int *ordinals, int found)
{
    for (int i = 0; i < found; i++)
        if (devices[ordinals[i]].instance != SOFT_NO_INSTANCE) {
            ordinals[0] = ordinals[i];
            return 1;
        }
    return found;
}

int soft_visible_parse(const char *text, const struct soft_visible *devices, int count,
                       int *ordinals)
{
    int found = 0;

    if (text == NULL) {
        for (int i = 0; i < count; i++)
            ordinals[i] = i;
        return one_instance(devices, ordinals, count);
    }
    while (found < count) {
        size_t bytes;

        text += strspn(text, " \t");
        bytes = strcspn(text, ", \t");
        if (!add(text, bytes, devices, count, ordinals, &found))
            break;
        text += bytes;
        text += strspn(text, " \t");
        if (*text != ',')
            break;
        text++;
    }
    return one_instance(devices, ordinals, found);
}

static void read_env(void)
{
    struct soft_visible devices[SOFT_MAX_DEVICES];
    int there[SOFT_MAX_DEVICES], count = 0;

    /* a device that is lost now is not enumerated: it is as if it was not there */
    for (int i = 0; i < soft_state_device_count(soft_the_state); i++) {
        if (soft_fault_lost(soft_the_state, i))
            continue;
        there[count] = i;
        devices[count].board = soft_state_board(soft_the_state, i);
        devices[count].instance = soft_state_instance(soft_the_state, i);
        soft_state_uuid(soft_the_state, i, devices[count].uuid);
        soft_state_board_uuid(soft_the_state, devices[count].board, devices[count].board_uuid);
        count++;
    }
    visible_count = soft_visible_parse(getenv("CUDA_VISIBLE_DEVICES"), devices, count, visible);
    for (int i = 0; i < visible_count; i++)
        visible[i] = there[visible[i]];
}

int soft_visible_count(void)
{
    pthread_once(&once, read_env);
    return visible_count;
}

CUdevice soft_visible_device(int ordinal)
{
    for (int i = 0; i < soft_visible_count(); i++)
        if (visible[i] == ordinal)
            return i;
    return CU_DEVICE_INVALID;
}

_Atomic int8_t soft_places[SOFT_MAX_DEVICES] = {0, 1, 2,  3,  4,  5,  6,  7,
                                                8, 9, 10, 11, 12, 13, 14, 15};

int soft_from(int dev)
{
    for (int i = 0; i < SOFT_MAX_DEVICES; i++)
        if (soft_at(i) == dev)
            return i;
    return -1;
}

int soft_visible_ordinal(CUdevice device)
{
    return device >= 0 && device < soft_visible_count() ? visible[device] : -1;
}
