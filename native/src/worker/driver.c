/* SPDX-License-Identifier: Apache-2.0
 *
 * The driver that calls end in: libharp where the session is a tenant, or a driver itself.
 */
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>

#include "src/wire/table.h"
#include "src/worker/worker.h"

static void *driver;
/* By op: the plain function and the per-thread twin, once looked up. */
static struct {
    _Atomic(void *) fn[2];
    atomic_bool known[2];
} found[HARP_OPS];

int driver_open(const char *path, char *text, size_t size)
{
    driver = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (driver == NULL) {
        snprintf(text, size, "the driver cannot be opened: %s", dlerror());
        return -ENOENT;
    }
    return 0;
}

void (*driver_named(const char *name))(void)
{
    return (void (*)(void))dlsym(driver, name);
}

/* In place of a function that a driver does not have: an old one is no reason to end a session. */
static CUresult absent(void)
{
    return CUDA_ERROR_NOT_FOUND;
}

void (*driver_own(const char *name))(void)
{
    void (*fn)(void) = driver_named(name);
    return fn != NULL ? fn : (void (*)(void))absent;
}

static void *look(unsigned op, bool per_thread)
{
    static const char *const ends[] = {"_ptsz", "_ptds"};
    const char *name = harp_wire_op(op)->name;
    for (unsigned i = 0; per_thread && i < 2; i++) {
        char twin[128];
        snprintf(twin, sizeof twin, "%s%s", name, ends[i]);
        void *fn = dlsym(driver, twin);
        if (fn != NULL)
            return fn;
    }
    return dlsym(driver, name); /* calls without a stream have no twin */
}

void (*driver_fn(unsigned op, bool per_thread))(void)
{
    if (!atomic_load_explicit(&found[op].known[per_thread], memory_order_acquire)) {
        atomic_store_explicit(&found[op].fn[per_thread], look(op, per_thread),
                              memory_order_relaxed);
        atomic_store_explicit(&found[op].known[per_thread], true, memory_order_release);
    }
    return (void (*)(void))atomic_load_explicit(&found[op].fn[per_thread], memory_order_relaxed);
}
