/* SPDX-License-Identifier: Apache-2.0
 *
 * The service's log and its clock.
 */
#ifndef HARP_PTXC_SERVE_LOG_H
#define HARP_PTXC_SERVE_LOG_H

#include <stdint.h>

uint64_t serve_now_ms(void);
/* One line on standard error. */
void serve_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
