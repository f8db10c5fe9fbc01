/* SPDX-License-Identifier: Apache-2.0
 *
 * Libraries and their kernels, for the files that implement them.
 */
#ifndef HARP_SOFT_MODULE_LIBRARY_H
#define HARP_SOFT_MODULE_LIBRARY_H

#include "soft/gpu/module.h"

struct soft_library_kernel {
    struct soft_library *library;
    uint32_t at;                                     /* in the index of library->image */
    struct soft_function settings[SOFT_MAX_DEVICES]; /* attributes only, per device */
};

struct soft_library {
    struct soft_image *image; /* names the kernels: of the current context's or the first device */
    struct soft_image *images[SOFT_MAX_DEVICES]; /* by device; NULL: nothing in it runs there */
    CUresult refusals[SOFT_MAX_DEVICES];         /* why */
    struct soft_library_kernel *kernels;
    struct soft_module *modules;           /* one per context; guarded by soft_module_lock */
    struct soft_managed_variables managed; /* of all of them; guarded so too */
};

/* NULL: no library. */
struct soft_library *soft_library_of(CUlibrary handle);
/* The library's module in `ctx`, made at first need. With soft_module_lock held. */
CUresult soft_library_module(struct soft_library *library, struct soft_ctx *ctx,
                             struct soft_module **out);
/* Place of the kernel in `module`; CUDA_ERROR_NOT_FOUND: the image of its device lacks it. */
CUresult soft_library_place(const struct soft_library_kernel *kernel,
                            const struct soft_module *module, uint32_t *at);
/* module_variables.c. Is there such a variable; where is it, once a module of the library is. With
 * soft_module_lock held. */
bool soft_library_has_managed(const struct soft_library *library, const char *name);
CUresult soft_library_managed(const struct soft_library *library, const char *name,
                              CUdeviceptr *ptr, size_t *bytes);
/* The attributes a client can set. */
void soft_function_copy_settings(struct soft_function *to, struct soft_function *from);

#endif
