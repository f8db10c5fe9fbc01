/* SPDX-License-Identifier: Apache-2.0
 *
 * What must hold in a test that is one process.
 */
#ifndef HARP_TESTS_CHECK_H
#define HARP_TESTS_CHECK_H

#include <stdio.h>
#include <stdlib.h>

#define CHECK(cond)                                                                                \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #cond);                     \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

#endif
