/* SPDX-License-Identifier: Apache-2.0
 *
 * What the session knows of its devices without asking again.
 */
#ifndef HARP_SHIM_REMOTE_SNAPSHOT_H
#define HARP_SHIM_REMOTE_SNAPSHOT_H

#include "src/shim/remote/session.h"

/* The device's facts, asked for once; NULL: why in *r (no such device, not initialised, ...). */
const struct harp_wire_device *harp_remote_device(CUdevice dev, CUresult *r);
/* The version of the driver that answers; before cuInit: that of our rows. */
int harp_remote_driver_version(void);

#endif
