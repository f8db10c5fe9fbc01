/* SPDX-License-Identifier: Apache-2.0
 *
 * First use: loads the real library and fills the tables. Compiled twice, for libharp
 * (HARP_ENTRY_CUDA) and for its NVML twin (HARP_ENTRY_NVML).
 */
#include "src/shim/entry/entry.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/shim/backend/table.h"

#ifdef HARP_ENTRY_NVML
#include "generated/shim_nvml_symbols.h"
#else
#include "src/shim/remote/calls.h"
#include "src/shim/trace/trace.h"
#endif

#ifdef HARP_ENTRY_NVML
enum { NO_LIBRARY = 12, NO_FUNCTION = 13 }; /* LIBRARY_NOT_FOUND, FUNCTION_NOT_FOUND */
static const char soname[] = "libnvidia-ml.so.1", other[] = "libcuda.so.1";
#else
enum { NO_LIBRARY = 100, NO_FUNCTION = 36 }; /* NO_DEVICE, CALL_REQUIRES_NEWER_DRIVER */
static const char soname[] = "libcuda.so.1", other[] = "libnvidia-ml.so.1";
#endif

static char own[PATH_MAX], sibling[PATH_MAX]; /* written once under `path_once` */
static pthread_once_t path_once = PTHREAD_ONCE_INIT;

static void *handle;              /* of the real library; written once under `load_once` */
static const void *real_function; /* some function of it; written once under `load_once`, atomic */
static pthread_once_t load_once = PTHREAD_ONCE_INIT;
static pthread_t loader_thread; /* valid while `loading` */
static volatile int loading;

static int no_library(void)
{
    return NO_LIBRARY;
}

static int no_function(void)
{
    return NO_FUNCTION;
}

#ifdef HARP_ENTRY_NVML
/* nvmlErrorString, which answers no code but words. */
static const char *no_words(int code)
{
    return code == 0             ? "Success"
           : code == NO_LIBRARY  ? "NVML is not there"
           : code == NO_FUNCTION ? "NVML lacks this function"
                                 : "an NVML error";
}
#endif

/* What answers for a function that the library lacks, or that has no library. */
static void *missing(unsigned symbol, bool library)
{
#ifdef HARP_ENTRY_NVML
    if (symbol == HARP_SYM_nvmlErrorString)
        return (void *)no_words;
#endif
    (void)symbol;
    return library ? (void *)no_function : (void *)no_library;
}

/* Without a grant nothing is hooked; but of a program that is traced cuGetProcAddress answers our
 * names, lest calls go round them. */
static bool resolves(unsigned symbol)
{
#ifdef HARP_ENTRY_NVML
    (void)symbol;
    return false;
#else
    return harp_env()->trace != NULL &&
           (symbol == HARP_SYM_cuGetProcAddress || symbol == HARP_SYM_cuGetProcAddress_v2);
#endif
}

static void find_paths(void)
{
    Dl_info info;
    if (dladdr((const void *)find_paths, &info) == 0 || info.dli_fname == NULL)
        return;
    if (realpath(info.dli_fname, own) == NULL)
        own[0] = '\0';
    /* the sibling lies beside the name we were loaded by, not beside what it links to */
    const char *slash = strrchr(info.dli_fname, '/');
    int folder = slash != NULL ? (int)(slash - info.dli_fname) : 1;
    const char *from = slash != NULL ? info.dli_fname : ".";
    snprintf(sibling, sizeof sibling, "%.*s/%s", folder, from, other);
    if (access(sibling, R_OK) == 0)
        return;
#ifdef HARP_ENTRY_NVML
    snprintf(sibling, sizeof sibling, "%.*s/libharp.so", folder, from);
#else
    snprintf(sibling, sizeof sibling, "%.*s/libharp-nvml.so", folder, from);
#endif
    if (access(sibling, R_OK) != 0)
        sibling[0] = '\0';
}

const char *harp_own_path(void)
{
    pthread_once(&path_once, find_paths);
    return own;
}

const char *harp_sibling_path(void)
{
    pthread_once(&path_once, find_paths);
    return sibling;
}

const void *harp_real_base(void)
{
    Dl_info info;
    const void *function = __atomic_load_n(&real_function, __ATOMIC_ACQUIRE);
    return function != NULL && dladdr(function, &info) != 0 ? info.dli_fbase : NULL;
}

/* A GPU elsewhere: there is no library below us. This machine's NVML, if it has one, is of other
 * devices, and that of a session is not carried. */
static bool load_remote(void)
{
    if (harp_env()->remote == NULL)
        return false;
    for (unsigned i = 0; i < harp_sym_count; i++) {
#ifdef HARP_ENTRY_NVML
        void *to = missing(i, false);
#else
        void *to = harp_remote_own[i] != NULL ? harp_remote_own[i] : harp_remote_sent[i];
        to = harp_remote_entered[i] != NULL ? harp_remote_entered[i] : to;
#endif
        __atomic_store_n(&harp_entry[i], to, __ATOMIC_RELEASE);
    }
#ifdef HARP_ENTRY_NVML
    harp_log("nvml_elsewhere why=\"the GPU is elsewhere, and NVML is not carried there\" "
             "effect=\"all of it answers NVML_ERROR_LIBRARY_NOT_FOUND\" "
             "remedy=\"ask the driver API, or NVML where the GPU is\"");
#endif
    return true;
}

static void load(void)
{
    int saved = errno;
    const struct harp_env *env = harp_env();
    if (load_remote()) {
#ifndef HARP_ENTRY_NVML
        harp_trace_loaded();
#endif
        errno = saved;
        return;
    }
    loader_thread = pthread_self();
    loading = 1;
    harp_enter(); /* what the driver loads and calls while it starts is its own affair */
#ifdef HARP_ENTRY_NVML
    handle = harp_loader_open(env->nvml_real, soname);
#else
    handle = harp_loader_open(env->cuda_real, soname);
#endif
    harp_leave();
    if (handle != NULL)
        harp_symbols(handle, harp_sym_name, harp_sym_hash, harp_sym_count, harp_real);
    for (unsigned i = 0; i < harp_sym_count; i++) {
        void *to = harp_real[i];
        if (to != NULL && to == harp_sym_stub[i])
            to = harp_real[i] = NULL; /* that would be ourselves */
        if (to == NULL)
            to = missing(i, handle != NULL);
        else if ((env->grant != NULL || resolves(i)) && harp_sym_hook[i] != NULL)
            to = harp_sym_hook[i];
        if (harp_real[i] != NULL && real_function == NULL)
            __atomic_store_n(&real_function, harp_real[i], __ATOMIC_RELEASE);
        __atomic_store_n(&harp_entry[i], to, __ATOMIC_RELEASE);
    }
    loading = 0;
#ifndef HARP_ENTRY_NVML
    harp_trace_loaded();
#endif
    errno = saved;
}

bool harp_entry_load(void)
{
    pthread_once(&load_once, load);
    return handle != NULL;
}

/* Called by the lazy half of an exported jump. */
__attribute__((visibility("hidden"))) void *harp_entry_resolve(unsigned long index)
{
    /* A constructor of the driver that calls an exported name comes back here while the table is
     * being filled; it cannot wait for itself. */
    if (loading && pthread_equal(loader_thread, pthread_self()))
        return (void *)no_function;
    harp_entry_load();
    return harp_entry[index];
}
