/* SPDX-License-Identifier: Apache-2.0
 *
 * Modules, libraries and functions: what their files know of each other.
 *
 * An image is PTX text with its index, shared by all modules made of it; it owns one kernel per
 * entry, which is compiled by harp-ptxc once per process, at first use. A module is an image in a
 * context: its variables have addresses there. A function is a kernel of a module with the
 * attributes the client set. A library is an image without a context; it makes a module in each
 * context in which one of its kernels is used.
 *
 * Lock order: soft_module_lock (handles, lists) > a kernel's own lock (compilation).
 */
#ifndef HARP_SOFT_MODULE_H
#define HARP_SOFT_MODULE_H

#include <pthread.h>
#include <stdatomic.h>

#include "soft/gpu/soft.h"
#include "soft/ptxc/ptx_index.h"

/* ------------------------------------------------------------------------- function_code.c ---- */
struct soft_kernel { /* one entry of an image: no context in it */
    struct soft_image *image;
    const struct ptx_entry *entry;
    pthread_mutex_t lock; /* guards the compilation */
    _Atomic(const struct ptx_kernel *) code; /* NULL until compiled */
    CUresult failure; /* of the compilation, for good; guarded by lock */
    char *why;
    /* what has run, for harp_soft_counters */
    _Atomic uint64_t launches, blocks, instructions, load_bytes, store_bytes;
};

/* Compiles at first use. On failure `why` (may be NULL) gets one line: kernel and instruction. */
CUresult soft_kernel_code(struct soft_kernel *kernel, const struct ptx_kernel **code,
                          char *why, size_t why_bytes);
bool soft_kernel_is_loaded(struct soft_kernel *kernel);
/* The kernel goes: what it has counted is kept under its name. */
void soft_kernel_retire(struct soft_kernel *kernel);

/* ------------------------------------------------------------------------- module_image.c ----- */
struct soft_image {
    _Atomic uint32_t refs;
    char *ptx; /* NUL-terminated */
    size_t ptx_bytes;
    struct ptx_index index;
    struct soft_kernel *kernels; /* index.entry_count of them */
};

/* Picks the PTX for compute capability `cc` (90 = 9.0) from what the client handed over: PTX
 * text, or a fat binary. `why`: the reason, in the words of a JIT log. */
CUresult soft_image_load(const void *data, int cc, struct soft_image **out, char *why,
                         size_t why_bytes);
CUresult soft_image_file(const char *path, int cc, struct soft_image **out, char *why,
                         size_t why_bytes);
/* Reads a whole file with a NUL behind it; CUDA_ERROR_FILE_NOT_FOUND. */
CUresult soft_file_read(const char *path, char **data, size_t *bytes);
void soft_image_ref(struct soft_image *image);
void soft_image_unref(struct soft_image *image);
/* PTX of a fat binary or text, unparsed (malloc'ed): what the linker is fed with. */
CUresult soft_image_ptx(const void *data, int cc, char **ptx, char *why, size_t why_bytes);
int soft_profile_cc(const struct soft_profile *profile);

/* --------------------------------------------------------------------------- module_jit.c ----- */
struct soft_jit { /* JIT options of a load or link call */
    char *info, *error;
    size_t info_bytes, error_bytes;
    void **info_used, **error_used, **wall_time; /* option values to write back */
};
CUresult soft_jit_options(struct soft_jit *jit, unsigned count, const CUjit_option *options,
                          void **values);
/* Writes the logs and their lengths, as the driver does on success and on failure. */
void soft_jit_report(const struct soft_jit *jit, CUresult result, const char *why, uint64_t ns);

/* -------------------------------------------------------------------------------- module.c ---- */
struct soft_function {
    struct soft_module *module;
    struct soft_kernel *kernel;
    _Atomic uint32_t max_dynamic_shared; /* 0: never set, then up to 48 KiB with the static part */
    _Atomic int carveout, cache_config, nonportable_cluster, cluster_policy;
    /* the API of CUDA 3 (launch_legacy.c); guarded by soft_module_lock */
    uint32_t block[3], shared_bytes, param_bytes;
    unsigned char *params;
};

struct soft_module {
    _Atomic uint32_t refs; /* one of its own while loaded, one per command that runs its code */
    struct soft_ctx *ctx;
    uint64_t ctx_id;
    struct soft_image *image;
    struct soft_function *functions; /* index.entry_count of them */
    uint64_t *global_addrs;          /* index.variable_count of them */
    CUdeviceptr globals;             /* the one allocation behind them; 0: none */
    struct soft_library *library;    /* NULL: loaded by cuModuleLoad* */
    struct soft_module *next;        /* of the library */
    struct soft_module *all_next;
};

extern pthread_mutex_t soft_module_lock;

void soft_module_ref(struct soft_module *module);
void soft_module_unref(struct soft_module *module);
/* Module of `image` in `ctx`; takes no reference of the caller's away. With soft_module_lock held,
 * as for soft_module_destroy. */
CUresult soft_module_create(struct soft_ctx *ctx, struct soft_image *image,
                            struct soft_library *library, struct soft_module **out, char *why,
                            size_t why_bytes);
void soft_module_destroy(struct soft_module *module);
CUresult soft_module_global(const struct soft_module *module, const char *name, CUdeviceptr *ptr,
                            size_t *bytes);
/* Place of the kernel `name` in the image's index; CUDA_ERROR_NOT_FOUND. */
CUresult soft_module_entry(const struct soft_image *image, const char *name, uint32_t *at);
/* Waits until the context has nothing to do, whatever became of its commands. */
void soft_ctx_idle(struct soft_ctx *ctx);

/* ----------------------------------------------------------------------- module_handles.c ----- */
enum soft_handle {
    SOFT_HANDLE_NONE,
    SOFT_HANDLE_MODULE,
    SOFT_HANDLE_FUNCTION,
    SOFT_HANDLE_LIBRARY,
    SOFT_HANDLE_KERNEL,
    SOFT_HANDLE_LINK,
    SOFT_HANDLE_GRAPH,
    SOFT_HANDLE_NODE,
    SOFT_HANDLE_EXEC,
};
/* Which of our objects a pointer from the client is. Any pointer may be asked. */
CUresult soft_handle_add(const void *handle, enum soft_handle kind);
void soft_handle_remove(const void *handle);
enum soft_handle soft_handle_kind(const void *handle);

/* -------------------------------------------------------------------------- module_library.c -- */
/* With soft_module_lock held: the module goes. */
void soft_library_forget(struct soft_library *library, struct soft_module *module);
/* The function meant by a CUfunction or a CUkernel in the current context `ctx`. A kernel of a
 * library gets its module there at first use. */
CUresult soft_function_of(CUfunction handle, struct soft_ctx *ctx, struct soft_function **out);

#endif
