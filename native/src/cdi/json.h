/* SPDX-License-Identifier: Apache-2.0
 *
 * As much of JSON as a hook needs: one text, somewhere inside objects.
 */
#ifndef HARP_CDI_JSON_H
#define HARP_CDI_JSON_H

#include <stdbool.h>
#include <stddef.h>

/* The text at a path of keys (`depth` of them), ended by a NUL and with none in it. False: not
 * there, no text, longer than `room`, or the JSON is broken before it. Any bytes may come in. */
bool json_text(const char *json, size_t bytes, const char *const *path, size_t depth, char *out,
               size_t room);

#endif
