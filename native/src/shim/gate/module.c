/* SPDX-License-Identifier: Apache-2.0
 *
 * Modules: their variables live in device memory. Leased before the driver loads the image, by what
 * the image declares. Code is part of the context's overhead.
 *
 * Less than SMALL bytes pass for code: harpd's reconcile sees them. More are rounded up to
 * granules.
 */
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

#include "harp/lease.h"
#include "src/shim/entry/entry.h"
#include "src/shim/gate/image.h"
#include "src/shim/gate/ledger.h"
#include "src/shim/gate/memory.h"
#include "src/shim/gate/session.h"

#define SMALL (64u << 10)

struct loading {
    int dev; /* -1: nothing charged */
    CUcontext ctx;
    uint64_t charged;
};

static CUresult before(struct loading *l, uint64_t bytes)
{
    *l = (struct loading){.dev = -1};
    if (bytes < SMALL || harp_device_current(&l->dev, &l->ctx) != CUDA_SUCCESS || l->dev < 0) {
        l->dev = -1;
        return CUDA_SUCCESS; /* the driver's own error */
    }
    l->charged = harp_granules(bytes);
    return harp_lease(l->dev, HARP_MEM_DEVICE, l->charged);
}

static void after(const struct loading *l, CUresult r, const void *module)
{
    if (l->dev < 0)
        return;
    if (r != CUDA_SUCCESS ||
        harp_handle_made((uint64_t)(uintptr_t)module, (uint64_t)(uintptr_t)l->ctx, l->dev,
                         l->charged) != CUDA_SUCCESS)
        harp_unlease(l->dev, HARP_MEM_DEVICE, l->charged);
}

static uint64_t told(uint64_t bytes, bool known)
{
    if (!known)
        harp_log("module_not_charged why=\"its image is compressed\"");
    return bytes;
}

static uint64_t image_bytes(const void *image)
{
    bool known = true;
    uint64_t bytes = image != NULL && !harp_inside() ? harp_image_bytes(image, &known) : 0;
    return told(bytes, known);
}

static uint64_t file_bytes(const char *path)
{
    int fd = path != NULL && !harp_inside() ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    off_t size = fd >= 0 ? lseek(fd, 0, SEEK_END) : 0;
    uint64_t bytes = 0;
    char *text = size > 4 ? malloc((size_t)size + 1) : NULL;
    if (text != NULL && pread(fd, text, (size_t)size, 0) == (ssize_t)size) {
        text[size] = '\0';
        bool known;
        bytes = harp_image_file_bytes(text, (uint64_t)size, &known);
        bytes = told(bytes, known);
    }
    free(text);
    if (fd >= 0)
        close(fd);
    return bytes;
}

#define LOAD(module, bytes, call)                                                                  \
    do {                                                                                           \
        struct loading harp_l;                                                                     \
        CUresult harp_r;                                                                           \
        if (harp_inside() || (module) == NULL)                                                     \
            return call;                                                                           \
        if ((harp_r = before(&harp_l, (bytes))) != CUDA_SUCCESS)                                   \
            return harp_r;                                                                         \
        HARP_INSIDE(harp_r, call);                                                                 \
        after(&harp_l, harp_r, *(module));                                                         \
        return harp_r;                                                                             \
    } while (0)

CUresult harp_hook_cuModuleLoad(CUmodule *module, const char *fname)
{
    LOAD(module, file_bytes(fname), HARP_REAL(cuModuleLoad)(module, fname));
}

CUresult harp_hook_cuModuleLoadData(CUmodule *module, const void *image)
{
    LOAD(module, image_bytes(image), HARP_REAL(cuModuleLoadData)(module, image));
}

CUresult harp_hook_cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned int numOptions,
                                      CUjit_option *options, void **optionValues)
{
    LOAD(module, image_bytes(image),
         HARP_REAL(cuModuleLoadDataEx)(module, image, numOptions, options, optionValues));
}

CUresult harp_hook_cuModuleLoadFatBinary(CUmodule *module, const void *fatCubin)
{
    LOAD(module, image_bytes(fatCubin), HARP_REAL(cuModuleLoadFatBinary)(module, fatCubin));
}

CUresult harp_hook_cuModuleUnload(CUmodule hmod)
{
    if (harp_inside())
        return HARP_REAL(cuModuleUnload)(hmod);
    struct harp_drop gone = harp_handle_drop((uint64_t)(uintptr_t)hmod);
    CUresult r;
    HARP_INSIDE(r, HARP_REAL(cuModuleUnload)(hmod));
    harp_handle_dropped(&gone, r == CUDA_SUCCESS);
    return r;
}

/* A library is loaded into each context that uses it, when it does; charged once, to the current
 * one, or not at all when there is none yet. */
CUresult harp_hook_cuLibraryLoadData(CUlibrary *library, const void *code, CUjit_option *jitOptions,
                                     void **jitOptionsValues, unsigned int numJitOptions,
                                     CUlibraryOption *libraryOptions, void **libraryOptionValues,
                                     unsigned int numLibraryOptions)
{
    LOAD(library, image_bytes(code),
         HARP_REAL(cuLibraryLoadData)(library, code, jitOptions, jitOptionsValues, numJitOptions,
                                      libraryOptions, libraryOptionValues, numLibraryOptions));
}

CUresult harp_hook_cuLibraryLoadFromFile(CUlibrary *library, const char *fileName,
                                         CUjit_option *jitOptions, void **jitOptionsValues,
                                         unsigned int numJitOptions,
                                         CUlibraryOption *libraryOptions,
                                         void **libraryOptionValues, unsigned int numLibraryOptions)
{
    LOAD(library, file_bytes(fileName),
         HARP_REAL(cuLibraryLoadFromFile)(library, fileName, jitOptions, jitOptionsValues,
                                          numJitOptions, libraryOptions, libraryOptionValues,
                                          numLibraryOptions));
}

CUresult harp_hook_cuLibraryUnload(CUlibrary library)
{
    if (harp_inside())
        return HARP_REAL(cuLibraryUnload)(library);
    struct harp_drop gone = harp_handle_drop((uint64_t)(uintptr_t)library);
    CUresult r;
    HARP_INSIDE(r, HARP_REAL(cuLibraryUnload)(library));
    harp_handle_dropped(&gone, r == CUDA_SUCCESS);
    return r;
}
