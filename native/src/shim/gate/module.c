/* SPDX-License-Identifier: Apache-2.0
 *
 * Modules and libraries: their variables live in device memory from the load on, the code of a
 * kernel from its first use by name (of all kernels from the load on, where loading is eager). Both
 * are leased before the driver is asked, by what the image says: see code.h.
 *
 * Not seen here, but by harpd's reconcile: what is in compressed images, and kernels of a library
 * that are launched without cuKernelGetFunction.
 */
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

#include "src/shim/entry/entry.h"
#include "src/shim/gate/code.h"
#include "src/shim/gate/local.h"
#include "src/shim/gate/memory.h"

static void told(const struct harp_image *image)
{
    if (!image->known)
        harp_log("module_not_charged why=\"its image is compressed\"");
}

static bool read_data(const void *data, struct harp_image *image)
{
    if (data == NULL)
        return false; /* the driver's own error */
    harp_image_read(data, image);
    told(image);
    return true;
}

static bool read_file(const void *name, struct harp_image *image)
{
    const char *path = name;
    int fd = path != NULL ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    off_t size = fd >= 0 ? lseek(fd, 0, SEEK_END) : 0;
    char *text = size > 4 ? malloc((size_t)size + 1) : NULL;
    bool read = text != NULL && pread(fd, text, (size_t)size, 0) == (ssize_t)size;
    if (read) {
        text[size] = '\0';
        harp_image_read_file(text, (uint64_t)size, image);
        told(image);
    }
    free(text);
    if (fd >= 0)
        close(fd);
    return read;
}

#define LOAD(handle, library, read, from, call)                                                    \
    do {                                                                                           \
        struct harp_image harp_image;                                                              \
        struct harp_loaded *harp_l;                                                                \
        CUresult harp_r;                                                                           \
        if (harp_inside() || (handle) == NULL || !read((from), &harp_image))                       \
            return call;                                                                           \
        if ((harp_r = harp_code_loading(&harp_image, (library), &harp_l)) != CUDA_SUCCESS)         \
            return harp_r;                                                                         \
        HARP_INSIDE(harp_r, call);                                                                 \
        harp_code_loaded(harp_l, harp_r, *(handle));                                               \
        return harp_r;                                                                             \
    } while (0)

#define UNLOAD(handle, call)                                                                       \
    do {                                                                                           \
        CUresult harp_r;                                                                           \
        if (harp_inside())                                                                         \
            return call;                                                                           \
        harp_local_forget();                                                                       \
        struct harp_loaded *harp_l = harp_code_unloading(handle);                                  \
        HARP_INSIDE(harp_r, call);                                                                 \
        harp_code_unloaded(harp_l, harp_r == CUDA_SUCCESS);                                        \
        return harp_r;                                                                             \
    } while (0)

#define USE(handle, library, kernel, call)                                                         \
    do {                                                                                           \
        struct harp_use harp_u;                                                                    \
        CUresult harp_r;                                                                           \
        if (harp_inside())                                                                         \
            return call;                                                                           \
        if ((harp_r = harp_code_use((handle), (library), (kernel), &harp_u)) != CUDA_SUCCESS)      \
            return harp_r;                                                                         \
        HARP_INSIDE(harp_r, call);                                                                 \
        if (harp_r != CUDA_SUCCESS)                                                                \
            harp_code_not_used(&harp_u);                                                           \
        return harp_r;                                                                             \
    } while (0)

CUresult harp_hook_cuModuleLoad(CUmodule *module, const char *fname)
{
    LOAD(module, false, read_file, fname, HARP_REAL(cuModuleLoad)(module, fname));
}

CUresult harp_hook_cuModuleLoadData(CUmodule *module, const void *image)
{
    LOAD(module, false, read_data, image, HARP_REAL(cuModuleLoadData)(module, image));
}

CUresult harp_hook_cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned int numOptions,
                                      CUjit_option *options, void **optionValues)
{
    LOAD(module, false, read_data, image,
         HARP_REAL(cuModuleLoadDataEx)(module, image, numOptions, options, optionValues));
}

CUresult harp_hook_cuModuleLoadFatBinary(CUmodule *module, const void *fatCubin)
{
    LOAD(module, false, read_data, fatCubin, HARP_REAL(cuModuleLoadFatBinary)(module, fatCubin));
}

CUresult harp_hook_cuModuleUnload(CUmodule hmod)
{
    UNLOAD(hmod, HARP_REAL(cuModuleUnload)(hmod));
}

CUresult harp_hook_cuModuleGetFunction(CUfunction *hfunc, CUmodule hmod, const char *name)
{
    USE(hmod, false, name, HARP_REAL(cuModuleGetFunction)(hfunc, hmod, name));
}

/* Whose kernel a function is; drivers before 12.3 do not tell. */
CUresult harp_hook_cuFuncLoad(CUfunction function)
{
    CUmodule module = NULL;
    const char *name = NULL;
    CUresult r = CUDA_ERROR_NOT_SUPPORTED;
    if (!harp_inside() && HARP_HAS(cuFuncGetModule) && HARP_HAS(cuFuncGetName)) {
        HARP_INSIDE(r, HARP_REAL(cuFuncGetModule)(&module, function));
        if (r == CUDA_SUCCESS)
            HARP_INSIDE(r, HARP_REAL(cuFuncGetName)(&name, function));
    }
    if (r != CUDA_SUCCESS)
        return HARP_REAL(cuFuncLoad)(function);
    USE(module, false, name, HARP_REAL(cuFuncLoad)(function));
}

/* Libraries are of no context: each gets its own of them when it uses them. The current one is
 * charged for their variables at once, if there is one. */
CUresult harp_hook_cuLibraryLoadData(CUlibrary *library, const void *code, CUjit_option *jitOptions,
                                     void **jitOptionsValues, unsigned int numJitOptions,
                                     CUlibraryOption *libraryOptions, void **libraryOptionValues,
                                     unsigned int numLibraryOptions)
{
    LOAD(library, true, read_data, code,
         HARP_REAL(cuLibraryLoadData)(library, code, jitOptions, jitOptionsValues, numJitOptions,
                                      libraryOptions, libraryOptionValues, numLibraryOptions));
}

CUresult harp_hook_cuLibraryLoadFromFile(CUlibrary *library, const char *fileName,
                                         CUjit_option *jitOptions, void **jitOptionsValues,
                                         unsigned int numJitOptions,
                                         CUlibraryOption *libraryOptions,
                                         void **libraryOptionValues, unsigned int numLibraryOptions)
{
    LOAD(library, true, read_file, fileName,
         HARP_REAL(cuLibraryLoadFromFile)(library, fileName, jitOptions, jitOptionsValues,
                                          numJitOptions, libraryOptions, libraryOptionValues,
                                          numLibraryOptions));
}

CUresult harp_hook_cuLibraryUnload(CUlibrary library)
{
    UNLOAD(library, HARP_REAL(cuLibraryUnload)(library));
}

CUresult harp_hook_cuLibraryGetModule(CUmodule *pMod, CUlibrary library)
{
    struct harp_use use;
    CUresult r;
    if (harp_inside())
        return HARP_REAL(cuLibraryGetModule)(pMod, library);
    if ((r = harp_code_use(library, true, NULL, &use)) != CUDA_SUCCESS)
        return r;
    HARP_INSIDE(r, HARP_REAL(cuLibraryGetModule)(pMod, library));
    if (r == CUDA_SUCCESS)
        harp_code_module(library, *pMod);
    return r;
}

CUresult harp_hook_cuLibraryGetGlobal(CUdeviceptr *dptr, size_t *bytes, CUlibrary library,
                                      const char *name)
{
    USE(library, true, NULL, HARP_REAL(cuLibraryGetGlobal)(dptr, bytes, library, name));
}

CUresult harp_hook_cuLibraryGetManaged(CUdeviceptr *dptr, size_t *bytes, CUlibrary library,
                                       const char *name)
{
    USE(library, true, NULL, HARP_REAL(cuLibraryGetManaged)(dptr, bytes, library, name));
}

/* As for cuFuncLoad; drivers before 12.5 do not tell. */
CUresult harp_hook_cuKernelGetFunction(CUfunction *pFunc, CUkernel kernel)
{
    CUlibrary library = NULL;
    const char *name = NULL;
    CUresult r = CUDA_ERROR_NOT_SUPPORTED;
    if (!harp_inside() && HARP_HAS(cuKernelGetLibrary) && HARP_HAS(cuKernelGetName)) {
        HARP_INSIDE(r, HARP_REAL(cuKernelGetLibrary)(&library, kernel));
        if (r == CUDA_SUCCESS)
            HARP_INSIDE(r, HARP_REAL(cuKernelGetName)(&name, kernel));
    }
    if (r != CUDA_SUCCESS)
        return HARP_REAL(cuKernelGetFunction)(pFunc, kernel);
    USE(library, true, name, HARP_REAL(cuKernelGetFunction)(pFunc, kernel));
}
