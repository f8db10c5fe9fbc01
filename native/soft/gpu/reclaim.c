/* SPDX-License-Identifier: Apache-2.0
 *
 * What a full device could do without.
 */
#include "soft/gpu/managed.h"

bool soft_reclaim(int ordinal, uint64_t bytes)
{
    return soft_managed_reclaim(ordinal, bytes);
}
