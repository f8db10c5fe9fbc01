/* SPDX-License-Identifier: Apache-2.0
 *
 * See state_knobs.h. The ranges hold what drivers are known to do (2, 10 and 30 ms slices, switches
 * of some hundred microseconds) with a factor of ten to each side.
 */
#include "soft/gpu/state_knobs.h"

#include <stdio.h>
#include <stdlib.h>

#include "soft/gpu/shared.h"

static bool read_us(const char *name, uint64_t low, uint64_t high, uint64_t *ns, char *why,
                    size_t why_bytes)
{
    const char *text = getenv(name);
    uint64_t us = 0;

    *ns = SOFT_KNOB_UNSET;
    if (text == NULL || text[0] == '\0')
        return true;
    for (const char *p = text; *p != '\0'; p++) {
        if (*p < '0' || *p > '9' || us > high)
            goto bad;
        us = us * 10 + (uint64_t)(*p - '0');
    }
    if (us < low || us > high)
        goto bad;
    *ns = us * 1000;
    return true;
bad:
    snprintf(why, why_bytes,
             "%s=%.32s: it takes whole microseconds from %llu to %llu; remedy: such a number, or "
             "unset it, which means as the device's profile says",
             name, text, (unsigned long long)low, (unsigned long long)high);
    return false;
}

bool soft_knobs_read(uint64_t *slice_ns, uint64_t *switch_ns, char *why, size_t why_bytes)
{
    return read_us("HARP_SOFT_SLICE_US", 200, 300000, slice_ns, why, why_bytes) &&
           read_us("HARP_SOFT_SWITCH_US", 0, 10000, switch_ns, why, why_bytes);
}

uint64_t soft_knobs_slice_ns(const struct soft_shared *map, const struct soft_profile *profile)
{
    return map->slice_ns != SOFT_KNOB_UNSET ? map->slice_ns : profile->slice_ns;
}

uint64_t soft_knobs_switch_ns(const struct soft_shared *map, const struct soft_profile *profile)
{
    return map->switch_ns != SOFT_KNOB_UNSET ? map->switch_ns : profile->switch_ns;
}
