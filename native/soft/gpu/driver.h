/* SPDX-License-Identifier: Apache-2.0
 *
 * Driver flavours: which CUDA version's driver the machine plays. Whoever makes the state decides
 * ($HARP_SOFT_DRIVER, "12.0" to "13.0"); the devices of a machine have one driver.
 */
#ifndef HARP_SOFT_DRIVER_H
#define HARP_SOFT_DRIVER_H

#include <stdbool.h>
#include <stddef.h>

/* 12020 for "12.2"; the newest for NULL, "" and what soft_driver_check() refuses. */
int soft_driver_parse(const char *text);
/* False: no such driver; `why` says what is wrong and what to do. */
bool soft_driver_check(const char *text, char *why, size_t why_bytes);
/* The machine's, before and after cuInit; where there is no machine yet, the one it would have. */
int soft_driver_version(void);
/* Release of the driver of a CUDA version: "535.54.03". */
const char *soft_driver_release(int version);
/* Device attributes that this driver does not know yet. */
bool soft_driver_hides_attribute(int attribute);

#endif
