/* SPDX-License-Identifier: Apache-2.0
 *
 * CUDA_VISIBLE_DEVICES, read as the driver does: indices or the beginnings of UUIDs, in the order
 * given; the list ends at the first entry that is no device, or names one again; set and empty
 * means none.
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

static void uuid_text(const uint8_t uuid[16], char text[48])
{
    int n = snprintf(text, 48, "GPU-");

    for (int i = 0; i < 16; i++)
        n += snprintf(text + n, 48 - (size_t)n,
                      i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", uuid[i]);
}

static int find_uuid(const char *entry, size_t bytes, const uint8_t (*uuids)[16], int count)
{
    int found = -1;

    for (int i = 0; i < count; i++) {
        char text[48];

        uuid_text(uuids[i], text);
        if (bytes <= strlen(text) && strncasecmp(entry, text, bytes) == 0) {
            if (found >= 0)
                return -1; /* fits two */
            found = i;
        }
    }
    return found;
}

static int find(const char *entry, size_t bytes, const uint8_t (*uuids)[16], int count)
{
    char *end;
    long index;

    if (bytes >= 4 && strncasecmp(entry, "GPU-", 4) == 0)
        return find_uuid(entry, bytes, uuids, count);
    if (bytes == 0 || !isdigit((unsigned char)*entry))
        return -1;
    index = strtol(entry, &end, 10);
    return end == entry + bytes && index < count ? (int)index : -1;
}

int soft_visible_parse(const char *text, const uint8_t (*uuids)[16], int count, int *ordinals)
{
    int found = 0;

    if (text == NULL) {
        for (int i = 0; i < count; i++)
            ordinals[i] = i;
        return count;
    }
    while (found < count) {
        size_t bytes;
        int ordinal;

        text += strspn(text, " \t");
        bytes = strcspn(text, ", \t");
        ordinal = find(text, bytes, uuids, count);
        for (int i = 0; i < found; i++)
            if (ordinals[i] == ordinal)
                ordinal = -1;
        if (ordinal < 0)
            break;
        ordinals[found++] = ordinal;
        text += bytes;
        text += strspn(text, " \t");
        if (*text != ',')
            break;
        text++;
    }
    return found;
}

static void read_env(void)
{
    uint8_t uuids[SOFT_MAX_DEVICES][16];
    int there[SOFT_MAX_DEVICES], count = 0;

    /* a device that is lost now is not enumerated: it is as if it was not there */
    for (int i = 0; i < soft_state_device_count(soft_the_state); i++)
        if (!soft_fault_lost(soft_the_state, i)) {
            soft_state_uuid(soft_the_state, i, uuids[count]);
            there[count++] = i;
        }
    visible_count = soft_visible_parse(getenv("CUDA_VISIBLE_DEVICES"), (const uint8_t (*)[16])uuids,
                                       count, visible);
    for (int i = 0; i < visible_count; i++)
        visible[i] = there[visible[i]];
}

int soft_visible_count(void)
{
    pthread_once(&once, read_env);
    return visible_count;
}

int soft_visible_ordinal(CUdevice device)
{
    return device >= 0 && device < soft_visible_count() ? visible[device] : -1;
}
