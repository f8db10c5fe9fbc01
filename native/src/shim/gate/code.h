/* SPDX-License-Identifier: Apache-2.0
 *
 * What modules and libraries hold in each context: variables and the code of kernels that were
 * needed. Every call leases first; all may be called from hooks, none is called with a lock held.
 */
#ifndef HARP_SHIM_CODE_H
#define HARP_SHIM_CODE_H

#include "src/shim/gate/image.h"
#include "src/shim/gate/memory.h"

struct harp_loaded; /* a module or a library; `handle` is the driver's */

/* About to load an image (taken over, also on failure) into the current context, or into all of
 * them if it is a library and loading is eager. CUDA_ERROR_OUT_OF_MEMORY: *out is NULL. *out may
 * be NULL on success too: nothing to keep account of. */
CUresult harp_code_loading(struct harp_image *image, bool library, struct harp_loaded **out);
/* The driver's verdict. */
void harp_code_loaded(struct harp_loaded *l, CUresult r, const void *handle);
/* Before the driver unloads it; NULL: not known. Then its verdict. */
struct harp_loaded *harp_code_unloading(const void *handle);
void harp_code_unloaded(struct harp_loaded *l, bool gone);

/* A library is about to be used in the current context, and so is the kernel of that name (NULL:
 * none). `handle`: of a module, of a library, or of the module that a library has here.
 * *added: what this very call leased, for harp_code_not_used() if the driver then fails. */
struct harp_use {
    const void *handle;
    CUcontext ctx;
    uint64_t kernel; /* its name's hash; 0: leased nothing */
};
CUresult harp_code_use(const void *handle, bool library, const char *kernel, struct harp_use *use);
void harp_code_not_used(const struct harp_use *use);
/* The module that a library turned out to have in the current context. */
void harp_code_module(const void *library, CUmodule module);

#endif
