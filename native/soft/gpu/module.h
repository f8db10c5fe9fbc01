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
 * Lock order: soft_module_lock (lists) > a kernel's own lock (compilation).
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
    pthread_mutex_t lock;                    /* guards the compilation */
    _Atomic(const struct ptx_kernel *) code; /* NULL until compiled */
    void *object, *better;                   /* dlopen handles; `better` is function_hot.c's */
    _Atomic uint64_t instructions;           /* that it took in this process */
    _Atomic bool hot;                        /* a faster one has been asked for */
    struct soft_hot *asked;                  /* function_hot.c's */
    CUresult failure;                        /* of the compilation, for good; guarded by lock */
    char *why;
    struct soft_counter *counter; /* of its name; lives for ever */
};

/* Compiles at first use. On failure `why` (may be NULL) gets one line: kernel and instruction. */
CUresult soft_kernel_code(struct soft_kernel *kernel, const struct ptx_kernel **code, char *why,
                          size_t why_bytes);
bool soft_kernel_is_loaded(struct soft_kernel *kernel);
/* The kernel goes: its object is closed. */
void soft_kernel_close(struct soft_kernel *kernel);

/* The same for any text, not kept anywhere: the object is the caller's to close. `quick`: soon
 * compiled rather than fast. */
CUresult soft_code_build(const char *ptx, size_t ptx_bytes, const char *name, int cc, bool quick,
                         void **object, const struct ptx_kernel **code, char *why,
                         size_t why_bytes);

/* --------------------------------------------------------------------------- function_hot.c --- */
/* That a kernel takes, in as long as a compile takes: then it is worth a second one. */
#define SOFT_HOT_INSTRUCTIONS (1u << 28)
/* The kernel does much work: has it compiled once more, on a thread of ours, if there is a faster
 * form. What runs meanwhile goes on; soft_kernel_code() and launches take the new one when it is
 * there. Cheap; any number of times. */
void soft_kernel_is_hot(struct soft_kernel *kernel);
/* The kernel goes: nothing is put into it any more. */
void soft_hot_forget(struct soft_kernel *kernel);

/* ---------------------------------------------------------------------- function_counters.c --- */
struct soft_counter { /* what ran under one kernel name in this process */
    struct soft_counter *next;
    _Atomic uint64_t launches, blocks, threads, instructions, load_bytes, store_bytes;
    char name[];
};
/* Finds or makes it; NULL: no memory. */
struct soft_counter *soft_counter_of(const char *name);

/* ------------------------------------------------------------------------- module_image.c ----- */
#define SOFT_PTX_NEWEST 90u /* of CUDA 13.0 */

struct soft_text { /* of an image, which may go before those who read it */
    _Atomic uint32_t refs;
    char *ptx; /* NUL-terminated */
    size_t bytes;
};

struct soft_image {
    _Atomic uint32_t refs;
    int cc; /* of the device it was picked for */
    struct soft_text *text;
    char *ptx; /* the text's, as the next */
    size_t ptx_bytes;
    _Atomic int prints; /* 0: not known yet; 1 or -1 */
    struct ptx_index index;
    struct soft_kernel *kernels; /* index.entry_count of them */
};

/* Picks the PTX for compute capability `cc` (90 = 9.0) from what the client handed over: PTX
 * text (NUL-terminated in any case), or a fat binary. `room`: how many bytes there are, or
 * SOFT_FATBIN_UNKNOWN. `why`: the reason, in the words of a JIT log. */
CUresult soft_image_load(const void *data, uint64_t room, int cc, struct soft_image **out,
                         char *why, size_t why_bytes);
char *soft_image_describe(const struct soft_image *image);
/* Reads a whole file with a NUL behind it; CUDA_ERROR_FILE_NOT_FOUND. */
CUresult soft_file_read(const char *path, char **data, size_t *bytes);
void soft_image_ref(struct soft_image *image);
bool soft_image_prints(struct soft_image *image); /* its kernels may call printf */
void soft_image_unref(struct soft_image *image);
struct soft_text *soft_text_ref(struct soft_text *text);
void soft_text_unref(struct soft_text *text);
/* PTX of a fat binary or text, unparsed (malloc'ed): what the linker is fed with. `used`: bytes
 * that the fat binary takes of `room`. */
CUresult soft_image_ptx(const void *data, uint64_t room, int cc, char **ptx, uint64_t *used,
                        char *why, size_t why_bytes);
/* The .target of a text; false: none was found. `kind`: 'a' of sm_90a, or NUL. */
bool soft_ptx_target(const char *text, size_t bytes, uint32_t *sm, char *kind);
bool soft_ptx_is_object(const char *text, size_t bytes);
bool soft_target_runs(uint32_t sm, char kind, int cc);
bool soft_target_fits(const struct ptx_index *index, int cc, char *why, size_t why_bytes);
int soft_profile_cc(const struct soft_profile *profile);

/* --------------------------------------------------------------------------- module_jit.c ----- */
struct soft_jit { /* JIT options of a load or link call */
    char *info, *error;
    size_t info_bytes, error_bytes;
    void **info_used, **error_used, **wall_time; /* option values to write back */
    bool verbose, threads_told;
    unsigned target; /* CUjit_target; 0: the device's */
};
/* `linking`: for cuLink*, which takes no fallback strategy. */
CUresult soft_jit_options(struct soft_jit *jit, unsigned count, const CUjit_option *options,
                          void **values, bool linking);
/* Does code for the target that was asked for run on `cc`? */
bool soft_jit_target_runs(const struct soft_jit *jit, int cc, char *why, size_t why_bytes);
/* Writes the logs and their lengths, as the driver does on success and on failure. */
void soft_jit_report(const struct soft_jit *jit, CUresult result, const char *why, uint64_t ns);

/* ------------------------------------------------------------------------- module_mode.c ------ */
bool soft_loading_eager(void); /* CUDA_MODULE_LOADING */
bool soft_jit_disabled(void);  /* CUDA_DISABLE_PTX_JIT, CUDA_DISABLE_JIT */

/* -------------------------------------------------------------------------------- module.c ---- */
struct soft_function {
    struct soft_module *module;
    struct soft_kernel *kernel;
    _Atomic int max_dynamic_shared; /* -1: never set, then up to 48 KiB with the static part */
    _Atomic int carveout, cache_config, nonportable_cluster, cluster_policy;
    _Atomic(const struct ptx_kernel *) code; /* NULL until it is loaded in the module's context */
    CUdeviceptr code_memory;                 /* what its code takes there; soft_module_lock */
    /* the API of CUDA 3 (launch_legacy.c); guarded by soft_module_lock */
    uint32_t block[3], shared_bytes, param_bytes;
    unsigned char *params;
};

struct soft_managed_variable {
    const char *name; /* the image's */
    uint64_t at, bytes, align;
    bool visible, written;
};

struct soft_managed_variables {
    CUdeviceptr base; /* 0: there are none, or not yet */
    uint32_t count;
    struct soft_managed_variable *variables;
};

struct soft_module {
    _Atomic uint32_t refs; /* one of its own while loaded, one per command that runs its code */
    struct soft_ctx *ctx;
    uint64_t ctx_id;
    struct soft_image *image;
    struct soft_function *functions; /* index.entry_count of them */
    uint64_t *global_addrs;          /* index.variable_count of them */
    CUdeviceptr globals; /* the one allocation behind those that are not managed; 0: none */
    struct soft_managed_variables managed; /* none where there is a library: it has them */
    struct soft_library *library;          /* NULL: loaded by cuModuleLoad* */
    struct soft_module *next;              /* of the library */
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
/* Loads the function: compiles, takes device memory for its code. Without soft_module_lock. `why`
 * (may be NULL): as of soft_kernel_code(). */
CUresult soft_function_load(struct soft_function *function, const struct ptx_kernel **code,
                            char *why, size_t why_bytes);
/* All functions of the module: what eager loading does. */
CUresult soft_module_load_all(struct soft_module *module, char *why, size_t why_bytes);
/* Place of the kernel `name` in the image's index; CUDA_ERROR_NOT_FOUND. */
CUresult soft_module_entry(const struct soft_image *image, const char *name, uint32_t *at);

/* --------------------------------------------------------------------- module_variables.c ----- */
/* May the image be loaded on that device, for its variables' sake? */
CUresult soft_variables_check(const struct soft_image *image, int ordinal, char *why,
                              size_t why_bytes);
/* Gives all variables addresses and values. With soft_module_lock held. What it made of them is the
 * module's, whatever the result. */
CUresult soft_variables_place(struct soft_module *module, char *why, size_t why_bytes);
void soft_managed_variables_free(struct soft_managed_variables *all); /* nobody uses them */
CUresult soft_module_global(const struct soft_module *module, const char *name, CUdeviceptr *ptr,
                            size_t *bytes);

/* ------------------------------------------------------------------------------ function.c ---- */
CUresult soft_entry_param(const struct ptx_entry *entry, size_t index, size_t *offset,
                          size_t *bytes);
uint32_t soft_entry_regs(const struct ptx_entry *entry);
/* Largest block, in threads. */
uint32_t soft_entry_max_threads(const struct ptx_entry *entry, const struct soft_profile *profile);
/* Largest dynamic shared memory of a launch. */
uint32_t soft_function_dynamic_limit(struct soft_function *function);
CUresult soft_function_attribute(struct soft_function *function, int dev,
                                 CUfunction_attribute attribute, int *value);
CUresult soft_function_set_attribute(struct soft_function *function, int dev,
                                     CUfunction_attribute attribute, int value);

const struct soft_profile *soft_device_profile(CUdevice dev); /* the core's; NULL: none */

/* ----------------------------------------------------------------------------- occupancy.c ---- */
/* Blocks of `threads` threads and `dynamic_bytes` that fit on one SM at once; 0: none. */
int soft_occupancy(const struct ptx_entry *entry, const struct soft_profile *profile,
                   uint32_t threads, uint64_t dynamic_bytes);

/* -------------------------------------------------------------------------- module_library.c -- */
/* With soft_module_lock held: the module goes. */
void soft_library_forget(struct soft_library *library, struct soft_module *module);
/* The function meant by a CUfunction or a CUkernel in the current context `ctx`. A kernel of a
 * library gets its module there at first use. */
CUresult soft_function_of(CUfunction handle, struct soft_ctx *ctx, struct soft_function **out);

#endif
