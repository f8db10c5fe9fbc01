/* SPDX-License-Identifier: Apache-2.0
 *
 * From a kernel's PTX to code that runs: harp-ptxc compiles it in a process of its own, this opens
 * the object it names.
 *
 * Contract with harp-ptxc (function_spawn.c runs it): PTX on standard input; on
 * success one line with the absolute path of the object on standard output. Or a service runs it
 * (function_service.c): the object comes as a file in memory.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "soft/gpu/function_spawn.h"
#include "soft/gpu/module.h"
#include "soft/ptxc/cache.h"

static bool is_ours(const char *path, const struct stat *st, bool kind, char *why, size_t why_bytes)
{
    bool ours = st->st_uid == geteuid() || st->st_uid == 0;
    if (ours && kind && (st->st_mode & 022) == 0)
        return true;
    snprintf(why, why_bytes,
             "compiled kernel: %.200s belongs to uid %u with mode %o; it must be ours and "
             "writable by nobody else",
             path, (unsigned)st->st_uid, (unsigned)st->st_mode & 07777u);
    return false;
}

/* Loading an object runs it: it must be ours or root's, and nobody else's to write. What is looked
 * at is what is loaded: its descriptor, or -1. */
static int open_trusted(const char *path, char *why, size_t why_bytes)
{
    char folder[4096];
    struct stat st;
    snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    if (path[0] != '/' || slash == NULL || strlen(path) >= sizeof folder) {
        snprintf(why, why_bytes, "harp-ptxc named no absolute path: %.200s", path);
        return -1;
    }
    slash[slash == folder] = '\0';
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 || lstat(folder, &st) != 0) {
        snprintf(why, why_bytes, "compiled kernel %.200s: %s", path, strerror(errno));
    } else if (is_ours(folder, &st, S_ISDIR(st.st_mode), why, why_bytes) && fstat(fd, &st) == 0 &&
               is_ours(path, &st, S_ISREG(st.st_mode), why, why_bytes)) {
        if (cache_is_whole(fd, path))
            return fd;
        snprintf(why, why_bytes, "compiled kernel %.200s is damaged", path);
    }
    if (fd >= 0)
        close(fd);
    return -1;
}

/* The loader takes a path that it has seen for the object it had then, and descriptors' numbers
 * come again: each load spells its path in another way. */
static void path_of(int fd, char *path, size_t bytes)
{
    static _Atomic uint32_t loads;
    uint32_t number = atomic_fetch_add_explicit(&loads, 1, memory_order_relaxed);
    char steps[65] = "";
    for (int bit = 0; bit < 32; bit++)
        memcpy(steps + 2 * bit, (number >> bit) & 1 ? "/." : "//", 3);
    snprintf(path, bytes, "/proc/self/fd%s/%d", steps, fd);
}

/* `name`: what it is called where something is wrong. */
static CUresult open_object(int fd, const char *name, void **object, const struct ptx_kernel **code,
                            char *why, size_t why_bytes)
{
    char path[128];
    path_of(fd, path, sizeof path);
    void *opened = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (opened == NULL) {
        snprintf(why, why_bytes, "compiled kernel does not load: %s", dlerror());
        return CUDA_ERROR_SHARED_OBJECT_INIT_FAILED;
    }
    const struct ptx_kernel *found = dlsym(opened, "harp_kernel");
    if (found == NULL || found->abi != PTX_RT_ABI || found->run_block == NULL) {
        snprintf(why, why_bytes, "%.300s is of another version of harp-ptxc; empty its cache",
                 name);
        dlclose(opened);
        return CUDA_ERROR_SHARED_OBJECT_INIT_FAILED;
    }
    *object = opened;
    *code = found;
    return CUDA_SUCCESS;
}

CUresult soft_code_build(const char *ptx, size_t ptx_bytes, const char *name, int cc, bool quick,
                         void **object, const struct ptx_kernel **code, char *why, size_t why_bytes)
{
    struct soft_spawned done = {.object = -1};
    int err = soft_spawn_ptxc(ptx, ptx_bytes, name, cc, quick, &done);
    if (err != 0) {
        snprintf(why, why_bytes, "%s", done.errors);
        return CUDA_ERROR_JIT_COMPILER_NOT_FOUND;
    }
    if (done.object < 0 && done.path[0] != '\0') {
        done.object = open_trusted(done.path, why, why_bytes);
        if (done.object < 0)
            return CUDA_ERROR_JIT_COMPILER_NOT_FOUND;
    }
    if (done.object >= 0) {
        const char *called = done.path[0] != '\0' ? done.path : "what the service compiled";
        CUresult result = open_object(done.object, called, object, code, why, why_bytes);
        close(done.object);
        return result;
    }
    snprintf(why, why_bytes, "%s",
             done.errors[0] != '\0' ? done.errors : "harp-ptxc failed without a word");
    switch (done.exit_status) {
    case SOFT_PTXC_INVALID:
        return CUDA_ERROR_INVALID_PTX;
    case SOFT_PTXC_UNSUPPORTED:
        return CUDA_ERROR_NOT_SUPPORTED;
    case SOFT_PTXC_NO_COMPILER:
        return CUDA_ERROR_JIT_COMPILER_NOT_FOUND;
    default:
        return CUDA_ERROR_UNKNOWN;
    }
}

static CUresult compile(struct soft_kernel *kernel, char *why, size_t why_bytes)
{
    const struct ptx_kernel *code = NULL;
    kernel->counter = soft_counter_of(kernel->entry->name);
    if (kernel->counter == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    CUresult result =
        soft_code_build(kernel->image->ptx, kernel->image->ptx_bytes, kernel->entry->name,
                        kernel->image->cc, true, &kernel->object, &code, why, why_bytes);
    if (result == CUDA_SUCCESS)
        atomic_store_explicit(&kernel->code, code, memory_order_release);
    return result;
}

CUresult soft_kernel_code(struct soft_kernel *kernel, const struct ptx_kernel **code, char *why,
                          size_t why_bytes)
{
    *code = atomic_load_explicit(&kernel->code, memory_order_acquire);
    if (*code != NULL)
        return CUDA_SUCCESS;
    CUresult result = CUDA_SUCCESS;
    pthread_mutex_lock(&kernel->lock);
    if (kernel->code == NULL && kernel->failure == CUDA_SUCCESS) {
        char reason[512] = "";
        uint64_t start_ns = soft_now_ns();
        result = compile(kernel, reason, sizeof reason);
        if (result == CUDA_SUCCESS) {
            soft_log("kernel_compiled kernel=%s ms=%llu", kernel->entry->name,
                     (unsigned long long)(soft_now_ns() - start_ns) / 1000000);
        } else {
            soft_log("kernel_refused kernel=%s code=%d why=\"%s\"", kernel->entry->name,
                     (int)result, reason);
            kernel->why = strdup(reason);
            /* a missing compiler may come back; what the PTX says does not change */
            if (result == CUDA_ERROR_NOT_SUPPORTED || result == CUDA_ERROR_INVALID_PTX)
                kernel->failure = result;
        }
    }
    if (kernel->failure != CUDA_SUCCESS)
        result = kernel->failure;
    if (result != CUDA_SUCCESS && why != NULL && why_bytes > 0)
        snprintf(why, why_bytes, "%s", kernel->why != NULL ? kernel->why : "no memory");
    *code = kernel->code;
    pthread_mutex_unlock(&kernel->lock);
    return result;
}

bool soft_kernel_is_loaded(struct soft_kernel *kernel)
{
    return atomic_load_explicit(&kernel->code, memory_order_acquire) != NULL;
}

void soft_kernel_close(struct soft_kernel *kernel)
{
    soft_hot_forget(kernel);
    if (kernel->object != NULL)
        dlclose(kernel->object);
    if (kernel->better != NULL)
        dlclose(kernel->better);
    kernel->object = kernel->better = NULL;
}
