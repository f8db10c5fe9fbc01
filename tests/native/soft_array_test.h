/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tests of arrays share.
 */
#ifndef SOFT_ARRAY_TEST_H
#define SOFT_ARRAY_TEST_H

#include "soft_test.h"

static inline CUarray make(size_t w, size_t h, size_t d, CUarray_format format, unsigned channels,
                           unsigned flags)
{
    CUDA_ARRAY3D_DESCRIPTOR desc = {w, h, d, format, channels, flags};
    CUarray a = NULL;

    OK(cuArray3DCreate_v2(&a, &desc));
    CHECK(a != NULL);
    return a;
}

#endif
