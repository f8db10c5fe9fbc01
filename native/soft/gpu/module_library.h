/* SPDX-License-Identifier: Apache-2.0
 *
 * Libraries and their kernels, for the two files that implement them.
 */
#ifndef HARP_SOFT_MODULE_LIBRARY_H
#define HARP_SOFT_MODULE_LIBRARY_H

#include "soft/gpu/module.h"

struct soft_library_kernel {
    struct soft_library *library;
    uint32_t at;                                     /* in the image's index */
    struct soft_function settings[SOFT_MAX_DEVICES]; /* attributes only, per device */
};

struct soft_library {
    struct soft_image *image;
    struct soft_library_kernel *kernels;
    struct soft_module *modules; /* one per context; guarded by soft_module_lock */
};

/* The attributes a client can set. */
void soft_function_copy_settings(struct soft_function *to, struct soft_function *from);

#endif
