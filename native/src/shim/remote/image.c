/* SPDX-License-Identifier: Apache-2.0
 *
 * Images: how long they are, their hash, and that the server has them. A second process sends none.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "soft/ptxc/sha256.h"
#include "src/shim/remote/calls.h"
#include "src/shim/remote/prepared.h"

#define FILE_MOST (1ull << 30)
#define HAD       64u /* images that this process knows the server to have */

/* --- how long --------------------------------------------------------------------------------- */

static uint64_t later(uint64_t end, uint64_t from, uint64_t bytes)
{
    return from + bytes > end ? from + bytes : end;
}

/* Up to the last thing that its headers name. */
static size_t elf_bytes(const unsigned char *image)
{
    Elf64_Ehdr head;
    memcpy(&head, image, sizeof head);
    uint64_t end = sizeof head;
    end = later(end, head.e_shoff, (uint64_t)head.e_shnum * sizeof(Elf64_Shdr));
    end = later(end, head.e_phoff, (uint64_t)head.e_phnum * sizeof(Elf64_Phdr));
    if (head.e_ident[EI_CLASS] != ELFCLASS64 || head.e_shentsize != sizeof(Elf64_Shdr))
        return 0;
    for (unsigned i = 0; i < head.e_shnum; i++) {
        Elf64_Shdr s;
        memcpy(&s, image + head.e_shoff + i * sizeof s, sizeof s);
        if (s.sh_type != SHT_NOBITS)
            end = later(end, s.sh_offset, s.sh_size);
    }
    return end;
}

size_t harp_remote_image_bytes(const void *image, const void **from)
{
    uint32_t magic;
    memcpy(&magic, image, sizeof magic); /* an image is longer than four bytes, or no image */
    *from = image;
    if (magic == 0x466243b1u) { /* the wrapper of a linked fat binary: magic, version, data */
        uint32_t version;
        memcpy(&version, (const char *)image + 4, sizeof version);
        memcpy(from, (const char *)image + 8, sizeof *from);
        if ((version != 1 && version != 2) || *from == NULL)
            return 0; /* of others nobody knows what lies where */
        memcpy(&magic, *from, sizeof magic);
    }
    if (magic == 0xba55ed50u) { /* magic, version, bytes of the head, bytes after it */
        uint16_t head;
        uint64_t bytes;
        memcpy(&head, (const char *)*from + 6, sizeof head);
        memcpy(&bytes, (const char *)*from + 8, sizeof bytes);
        return head + bytes;
    }
    if (memcmp(*from, ELFMAG, SELFMAG) == 0)
        return elf_bytes(*from);
    return strlen(*from) + 1;
}

/* --- known to the server ---------------------------------------------------------------------- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards the two below */
static struct harp_wire_image had[HAD];
static unsigned had_next;

static bool knows(const struct harp_wire_image *image)
{
    bool found = false;
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < HAD && !found; i++)
        found = memcmp(&had[i], image, sizeof *image) == 0;
    pthread_mutex_unlock(&lock);
    return found;
}

static void hash(const void *data, size_t bytes, struct harp_wire_image *image)
{
    struct sha256 sha;
    char hex[65];
    sha256_init(&sha);
    sha256_add(&sha, data, bytes);
    sha256_hex(&sha, hex);
    for (unsigned i = 0; i < sizeof image->sha256; i++) {
        const char pair[3] = {hex[2 * i], hex[2 * i + 1], '\0'};
        image->sha256[i] = (unsigned char)strtoul(pair, NULL, 16);
    }
    image->bytes = bytes;
}

/* Asked for, and sent if it is not there. */
static CUresult put(const void *data, const struct harp_wire_image *image, bool ask)
{
    unsigned found = 0;
    const uint64_t find[] = {(uintptr_t)image, (uintptr_t)&found};
    CUresult r = ask ? harp_remote_make(HARP_OP_harpImageFind, find, 2) : CUDA_SUCCESS;
    if (r == CUDA_SUCCESS && !found) {
        const uint64_t args[] = {(uintptr_t)image, (uintptr_t)data, image->bytes};
        r = harp_remote_make(HARP_OP_harpImagePut, args, 3);
    }
    if (r == CUDA_SUCCESS && ask) {
        pthread_mutex_lock(&lock);
        had[had_next] = *image;
        had_next = (had_next + 1) % HAD;
        pthread_mutex_unlock(&lock);
    }
    return r;
}

/* Of PTX, which is a text; of others nobody looks. */
static bool has_managed(const char *image, size_t bytes)
{
    return bytes > SELFMAG && memcmp(image, ELFMAG, SELFMAG) != 0 &&
           memchr(image, '\0', bytes) != NULL && strstr(image, ".attribute(.managed)") != NULL;
}

CUresult harp_remote_with_image(unsigned op, uint64_t *args, unsigned count, unsigned at,
                                const void *data, size_t bytes)
{
    struct harp_wire_image image;
    CUresult r = harp_remote_ready();
    if (r != CUDA_SUCCESS)
        return r;
    if (has_managed(data, bytes))
        return harp_remote_refused(HARP_SYM_cuModuleLoadData, CUDA_ERROR_NOT_SUPPORTED,
                                   "a .managed variable: its pages would cross the wire");
    hash(data, bytes, &image);
    if (!knows(&image))
        r = put(data, &image, true);
    if (r != CUDA_SUCCESS)
        return r;
    args[at] = (uintptr_t)&image;
    r = harp_remote_make(op, args, count);
    if (r != CUDA_ERROR_FILE_NOT_FOUND)
        return r;
    r = put(data, &image, false); /* others' images have taken its place meanwhile */
    return r == CUDA_SUCCESS ? harp_remote_make(op, args, count) : r;
}

/* Makes a module or library, args[0], of an image; what that says of its kernels is kept with it.
 */
static CUresult load(unsigned op, uint64_t *args, unsigned count, unsigned at, const void *data,
                     size_t bytes)
{
    CUresult r = harp_remote_with_image(op, args, count, at, data, bytes);
    struct harp_thing *thing =
        r != CUDA_SUCCESS ? NULL
                          : harp_thing_of(op == HARP_OP_cuLibraryLoadData ? HARP_HANDLE_CUlibrary
                                                                          : HARP_HANDLE_CUmodule,
                                          *(const uint64_t *)(uintptr_t)args[0]);
    if (thing != NULL)
        thing->facts = harp_layouts_of(data, bytes); /* nobody has the handle yet */
    return r;
}

static CUresult given(unsigned op, uint64_t *args, unsigned count, unsigned at)
{
    const void *data = (const void *)(uintptr_t)args[at];
    CUresult r = harp_remote_ready();
    if (r != CUDA_SUCCESS)
        return r;
    if (data == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    size_t bytes = harp_remote_image_bytes(data, &data);
    if (bytes == 0)
        return CUDA_ERROR_INVALID_IMAGE;
    return load(op, args, count, at, data, bytes);
}

/* --- calls ------------------------------------------------------------------------------------ */

CUresult harp_remote_cuModuleLoadData(CUmodule *module, const void *image)
{
    uint64_t args[] = {(uintptr_t)module, (uintptr_t)image};
    return given(HARP_OP_cuModuleLoadData, args, 2, 1);
}

CUresult harp_remote_cuModuleLoadFatBinary(CUmodule *module, const void *fatCubin)
{
    uint64_t args[] = {(uintptr_t)module, (uintptr_t)fatCubin};
    return given(HARP_OP_cuModuleLoadFatBinary, args, 2, 1);
}

CUresult harp_remote_cuModuleLoadDataEx(CUmodule *module, const void *image,
                                        unsigned int numOptions, CUjit_option *options,
                                        void **optionValues)
{
    uint64_t args[] = {(uintptr_t)module, (uintptr_t)image, numOptions, (uintptr_t)options,
                       (uintptr_t)optionValues};
    struct harp_jit jit;
    harp_remote_jit_begin(&jit, numOptions, options, optionValues);
    CUresult r = given(HARP_OP_cuModuleLoadDataEx, args, 5, 1);
    harp_remote_jit_end(&jit);
    return r;
}

CUresult harp_remote_cuLibraryLoadData(CUlibrary *library, const void *code,
                                       CUjit_option *jitOptions, void **jitOptionsValues,
                                       unsigned int numJitOptions, CUlibraryOption *libraryOptions,
                                       void **libraryOptionValues, unsigned int numLibraryOptions)
{
    uint64_t args[] = {(uintptr_t)library,
                       (uintptr_t)code,
                       (uintptr_t)jitOptions,
                       (uintptr_t)jitOptionsValues,
                       numJitOptions,
                       (uintptr_t)libraryOptions,
                       (uintptr_t)libraryOptionValues,
                       numLibraryOptions};
    struct harp_jit jit;
    harp_remote_jit_begin(&jit, numJitOptions, jitOptions, jitOptionsValues);
    CUresult r = given(HARP_OP_cuLibraryLoadData, args, 8, 1);
    harp_remote_jit_end(&jit);
    return r;
}

CUresult harp_remote_cuModuleGetFunction(CUfunction *hfunc, CUmodule hmod, const char *name)
{
    CUresult r = harp_sent_cuModuleGetFunction(hfunc, hmod, name);
    const struct harp_thing *in = harp_thing_of(HARP_HANDLE_CUmodule, (uintptr_t)hmod);
    if (r == CUDA_SUCCESS && in != NULL && in->facts != NULL)
        harp_remote_note_layout(*hfunc, in->facts, name);
    return r;
}

CUresult harp_remote_cuLibraryGetKernel(CUkernel *pKernel, CUlibrary library, const char *name)
{
    CUresult r = harp_sent_cuLibraryGetKernel(pKernel, library, name);
    const struct harp_thing *in = harp_thing_of(HARP_HANDLE_CUlibrary, (uintptr_t)library);
    if (r == CUDA_SUCCESS && in != NULL && in->facts != NULL)
        harp_remote_note_layout((CUfunction)*pKernel, in->facts, name);
    return r;
}

/* Whether a file has all that its headers speak of. A wrapper holds an address: that is no file. */
static bool whole(const char *data, size_t bytes)
{
    uint32_t magic;
    uint16_t head;
    uint64_t rest;
    Elf64_Ehdr elf;
    if (bytes < sizeof elf)
        return true; /* a text, or nothing that anybody takes */
    memcpy(&magic, data, sizeof magic);
    memcpy(&head, data + 6, sizeof head);
    memcpy(&rest, data + 8, sizeof rest);
    if (magic == 0xba55ed50u)
        return head <= bytes && rest <= bytes - head;
    if (memcmp(data, ELFMAG, SELFMAG) != 0)
        return magic != 0x466243b1u;
    memcpy(&elf, data, sizeof elf);
    return elf.e_shoff <= bytes && elf.e_shnum * sizeof(Elf64_Shdr) <= bytes - elf.e_shoff &&
           elf_bytes((const unsigned char *)data) <= bytes;
}

static CUresult read_file(const char *name, char **data, size_t *bytes)
{
    struct stat st;
    int fd = open(name, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0 || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size > FILE_MOST) {
        if (fd >= 0)
            close(fd);
        return CUDA_ERROR_FILE_NOT_FOUND;
    }
    size_t size = (size_t)st.st_size, have = 0;
    *data = malloc(size + 16);
    ssize_t n = 1;
    while (*data != NULL && have < size && n > 0) {
        n = read(fd, *data + have, size - have);
        have += n > 0 ? (size_t)n : 0;
    }
    close(fd);
    if (*data == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    memset(*data + have, 0, size + 16 - have); /* PTX ends with NUL */
    *bytes = have + 1;
    if (whole(*data, have))
        return CUDA_SUCCESS;
    free(*data);
    *data = NULL;
    return CUDA_ERROR_INVALID_IMAGE;
}

CUresult harp_remote_read_file(const char *name, char **data, size_t *bytes)
{
    int saved = errno;
    CUresult r = read_file(name, data, bytes);
    errno = saved;
    return r;
}

CUresult harp_remote_cuModuleLoad(CUmodule *module, const char *fname)
{
    char *data = NULL;
    size_t bytes;
    CUresult r = harp_remote_ready();
    if (r == CUDA_SUCCESS && (module == NULL || fname == NULL))
        r = CUDA_ERROR_INVALID_VALUE;
    if (r == CUDA_SUCCESS)
        r = harp_remote_read_file(fname, &data, &bytes);
    uint64_t args[] = {(uintptr_t)module, 0};
    if (r == CUDA_SUCCESS)
        r = load(HARP_OP_cuModuleLoadData, args, 2, 1, data, bytes);
    free(data);
    return r;
}

CUresult harp_remote_cuLibraryLoadFromFile(CUlibrary *library, const char *fileName,
                                           CUjit_option *jitOptions, void **jitOptionsValues,
                                           unsigned int numJitOptions,
                                           CUlibraryOption *libraryOptions,
                                           void **libraryOptionValues,
                                           unsigned int numLibraryOptions)
{
    char *data = NULL;
    size_t bytes;
    CUresult r = harp_remote_ready();
    if (r == CUDA_SUCCESS && (library == NULL || fileName == NULL))
        r = CUDA_ERROR_INVALID_VALUE;
    if (r == CUDA_SUCCESS)
        r = harp_remote_read_file(fileName, &data, &bytes);
    uint64_t args[] = {(uintptr_t)library,
                       0,
                       (uintptr_t)jitOptions,
                       (uintptr_t)jitOptionsValues,
                       numJitOptions,
                       (uintptr_t)libraryOptions,
                       (uintptr_t)libraryOptionValues,
                       numLibraryOptions};
    if (r == CUDA_SUCCESS)
        r = load(HARP_OP_cuLibraryLoadData, args, 8, 1, data, bytes);
    free(data);
    return r;
}
