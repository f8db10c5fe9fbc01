/* SPDX-License-Identifier: Apache-2.0
 *
 * The drivers that can be played. See driver.h. Releases: the first with that CUDA version, by the
 * table in the toolkit's release notes (12.7 had a driver and no toolkit).
 */
#include "soft/gpu/driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "soft/gpu/fault.h"

static const struct {
    const char *text;
    int version;
    const char *release;
} drivers[] = {
    {"12.0", 12000, "525.60.13"}, {"12.1", 12010, "530.30.02"}, {"12.2", 12020, "535.54.03"},
    {"12.3", 12030, "545.23.06"}, {"12.4", 12040, "550.54.14"}, {"12.5", 12050, "555.42.02"},
    {"12.6", 12060, "560.28.03"}, {"12.7", 12070, "565.57.01"}, {"12.8", 12080, "570.86.10"},
    {"12.9", 12090, "575.51.03"}, {"13.0", 13000, "580.65.06"},
};
#define DRIVERS (sizeof drivers / sizeof drivers[0])

static int find(const char *text)
{
    for (size_t i = 0; i < DRIVERS; i++)
        if (strcmp(text, drivers[i].text) == 0)
            return (int)i;
    return -1;
}

int soft_driver_parse(const char *text)
{
    int at = text != NULL ? find(text) : -1;

    return at >= 0 ? drivers[at].version : SOFT_DRIVER_VERSION;
}

bool soft_driver_check(const char *text, char *why, size_t why_bytes)
{
    if (text == NULL || text[0] == '\0' || find(text) >= 0)
        return true;
    snprintf(why, why_bytes,
             "HARP_SOFT_DRIVER: no driver of CUDA '%.32s' can be played; remedy: one of 12.0 to "
             "12.9, or 13.0 (which is what it is when unset)",
             text);
    return false;
}

int soft_driver_version(void)
{
    const struct soft_state *state = soft_fault_state();

    return state != NULL ? state->map->driver : soft_driver_parse(getenv("HARP_SOFT_DRIVER"));
}

const char *soft_driver_release(int version)
{
    for (size_t i = 0; i < DRIVERS; i++)
        if (drivers[i].version == version)
            return drivers[i].release;
    return drivers[DRIVERS - 1].release;
}

bool soft_driver_hides_attribute(int attribute)
{
    int since = 0;

    switch (attribute) {
#define SOFT_ATTRIBUTE_SINCE(number, version)                                                      \
    case number:                                                                                   \
        since = version;                                                                           \
        break;
#include "generated/soft_attributes.inc"
    default:
        break;
    }
    return since > soft_driver_version();
}
