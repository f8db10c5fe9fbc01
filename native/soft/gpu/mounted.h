/* SPDX-License-Identifier: Apache-2.0
 *
 * What a container has mounted for it: harp/cdi.py, device_plugin/answer.py.
 */
#ifndef HARP_SOFT_MOUNTED_H
#define HARP_SOFT_MOUNTED_H

#include <stdbool.h>

/* Whether `path`, below /opt/harp, was put there by who started the container. On a plain host
 * /opt/harp may be somebody's own: then it is not, so that nobody can trap another. */
bool soft_is_mounted(const char *path);

#endif
