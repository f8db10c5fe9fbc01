/* SPDX-License-Identifier: Apache-2.0
 *
 * What running harp-ptxc takes from the client's environment.
 */
#ifndef HARP_SOFT_FUNCTION_ENVIRONMENT_H
#define HARP_SOFT_FUNCTION_ENVIRONMENT_H

#include <stdint.h>

struct soft_environment {
    char **passed;           /* a compiler's, ended by NULL */
    char *program;           /* $HARP_PTXC, or NULL, as the next */
    char *service;           /* $HARP_PTXC_SOCKET */
    int64_t service_wait_ms; /* $HARP_PTXC_WAIT_MS */
};

/* As it was when this process first asked, which is in a call of the client's; kept for good, for
 * compiles in the background must not read what the client may be changing. NULL: no memory. */
const struct soft_environment *soft_environment(void);

#endif
