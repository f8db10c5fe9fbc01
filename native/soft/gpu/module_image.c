/* SPDX-License-Identifier: Apache-2.0
 *
 * From what the client handed over to PTX text with an index.
 *
 * Accepted: PTX text, and fat binaries (with or without their wrapper) that hold PTX. Machine code
 * (cubin, ELF, SASS entries) is refused: a software GPU has no use for it and says so.
 *
 * Fat binary: wrapper {0x466243b1, version, pointer}, then a header {0xba55ed50, version u16,
 * header bytes u16, payload bytes u64} and entries {kind u16 @0 (1 PTX, 2 ELF), header bytes u32
 * @4, padded payload u32 @8, compressed bytes u32 @16, sm u32 @28, flags u64 @40 (0x2000 LZ4,
 * 0x8000 zstd), uncompressed bytes u64 @56}.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "soft/gpu/module.h"
#include "soft/gpu/module_unpack.h"

#define WRAPPER_MAGIC 0x466243b1u
#define FATBIN_MAGIC  0xba55ed50u
#define FLAG_LZ4      0x2000u
#define FLAG_ZSTD     0x8000u
#define PTX_NEWEST    90u /* of CUDA 13.0 */
#define IMAGE_MAX     (1ull << 30)

int soft_profile_cc(const struct soft_profile *profile)
{
    return profile->cc_major * 10 + profile->cc_minor;
}

static uint32_t word(const unsigned char *p)
{
    uint32_t value;
    memcpy(&value, p, sizeof value);
    return value;
}

static uint64_t quad(const unsigned char *p)
{
    uint64_t value;
    memcpy(&value, p, sizeof value);
    return value;
}

/* PTX begins with .version, after white space and comments. */
static bool looks_like_ptx(const char *text)
{
    for (;;) {
        while (*text == ' ' || *text == '\t' || *text == '\n' || *text == '\r')
            text++;
        if (text[0] == '/' && text[1] == '/') {
            text += strcspn(text, "\n");
        } else if (text[0] == '/' && text[1] == '*') {
            const char *end = strstr(text + 2, "*/");
            if (end == NULL)
                return false;
            text = end + 2;
        } else {
            return strncmp(text, ".version", 8) == 0;
        }
    }
}

struct pick { /* the best PTX entry so far, and what else was there */
    const unsigned char *entry;
    uint32_t sm;
    unsigned sass, newer, packed;
};

static bool packed_beyond_us(const unsigned char *entry)
{
    return (quad(entry + 40) & FLAG_ZSTD) != 0;
}

static CUresult fatbin_entry_text(const unsigned char *entry, char **ptx, char *why,
                                  size_t why_bytes)
{
    const unsigned char *payload = entry + word(entry + 4);
    uint64_t flags = quad(entry + 40);
    size_t bytes = word(entry + 8);
    if ((flags & FLAG_LZ4) == 0) {
        *ptx = strndup((const char *)payload, bytes);
        return *ptx == NULL ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
    }
    size_t packed = word(entry + 16);
    uint64_t whole = quad(entry + 56);
    if (packed == 0 || packed > bytes)
        packed = bytes;
    if (whole == 0 || whole > IMAGE_MAX) {
        snprintf(why, why_bytes, "fat binary: PTX entry of %llu bytes", (unsigned long long)whole);
        return CUDA_ERROR_INVALID_IMAGE;
    }
    char *text = malloc((size_t)whole + 1);
    if (text == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (soft_lz4_unpack(payload, packed, (unsigned char *)text, (size_t)whole) < 0) {
        free(text);
        snprintf(why, why_bytes, "fat binary: damaged LZ4 stream in its PTX entry");
        return CUDA_ERROR_INVALID_IMAGE;
    }
    text[whole] = '\0';
    *ptx = text;
    return CUDA_SUCCESS;
}

static CUresult fatbin_ptx(const unsigned char *fatbin, int cc, char **ptx, char *why,
                           size_t why_bytes)
{
    uint16_t header_bytes;
    memcpy(&header_bytes, fatbin + 6, sizeof header_bytes);
    uint64_t left = quad(fatbin + 8);
    if (header_bytes < 16 || left > IMAGE_MAX) {
        snprintf(why, why_bytes, "fat binary: damaged header");
        return CUDA_ERROR_INVALID_IMAGE;
    }
    struct pick pick = {0};
    const unsigned char *entry = fatbin + header_bytes;
    while (left >= 64) {
        uint16_t kind;
        memcpy(&kind, entry, sizeof kind);
        uint64_t bytes = (uint64_t)word(entry + 4) + word(entry + 8);
        if (word(entry + 4) < 64 || bytes > left) {
            snprintf(why, why_bytes, "fat binary: damaged entry");
            return CUDA_ERROR_INVALID_IMAGE;
        }
        uint32_t sm = word(entry + 28);
        if (kind == 2)
            pick.sass++;
        else if (kind == 1 && sm > (uint32_t)cc)
            pick.newer++;
        else if (kind == 1 && packed_beyond_us(entry))
            pick.packed++;
        else if (kind == 1 && (pick.entry == NULL || sm > pick.sm))
            pick.entry = entry, pick.sm = sm;
        entry += bytes;
        left -= bytes;
    }
    if (pick.entry == NULL) {
        snprintf(why, why_bytes,
                 "fat binary holds no PTX that this software GPU (sm_%d) can run: %u machine code "
                 "(SASS) images, %u PTX for newer devices, %u PTX packed with zstd; build with "
                 "PTX (-gencode arch=compute_%d,code=compute_%d --no-compress)",
                 cc, pick.sass, pick.newer, pick.packed, cc, cc);
        return CUDA_ERROR_NO_BINARY_FOR_GPU;
    }
    return fatbin_entry_text(pick.entry, ptx, why, why_bytes);
}

CUresult soft_image_ptx(const void *data, int cc, char **ptx, char *why, size_t why_bytes)
{
    const unsigned char *bytes = data;
    /* byte by byte: text may be shorter than a magic number */
    if (bytes[0] == 0x7f && bytes[1] == 'E' && bytes[2] == 'L' && bytes[3] == 'F') {
        snprintf(why, why_bytes,
                 "image is machine code (a cubin); the software GPU runs PTX only: load PTX "
                 "instead");
        return CUDA_ERROR_NO_BINARY_FOR_GPU;
    }
    bool wrapped = bytes[0] == 0xb1 && bytes[1] == 0x43 && bytes[2] == 0x62 && bytes[3] == 0x46;
    if (wrapped) {
        uint64_t inner = quad(bytes + 8);
        bytes = (const unsigned char *)(uintptr_t)inner;
        if (bytes == NULL) {
            snprintf(why, why_bytes, "fat binary: empty wrapper");
            return CUDA_ERROR_INVALID_IMAGE;
        }
    }
    if (bytes[0] == 0x50 && bytes[1] == 0xed && bytes[2] == 0x55 && bytes[3] == 0xba)
        return fatbin_ptx(bytes, cc, ptx, why, why_bytes);
    if (wrapped || !looks_like_ptx((const char *)bytes)) {
        snprintf(why, why_bytes,
                 "image is neither PTX text (it must begin with .version) nor a "
                 "fat binary");
        return CUDA_ERROR_INVALID_IMAGE;
    }
    *ptx = strdup((const char *)bytes);
    return *ptx == NULL ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}

static CUresult image_index(struct soft_image *image, int cc, char *why, size_t why_bytes)
{
    char reason[256] = "";
    int err = ptx_index_read(image->ptx, image->ptx_bytes, &image->index, reason, sizeof reason);
    if (err == -ENOMEM)
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (err != 0) {
        snprintf(why, why_bytes, "ptx input, %s", reason);
        return CUDA_ERROR_INVALID_PTX;
    }
    unsigned version = image->index.ptx_major * 10 + image->index.ptx_minor;
    if (version > PTX_NEWEST) {
        snprintf(why, why_bytes, "ptx input: .version %u.%u is newer than this driver's 9.0",
                 image->index.ptx_major, image->index.ptx_minor);
        return CUDA_ERROR_UNSUPPORTED_PTX_VERSION;
    }
    if (image->index.target_sm > (uint32_t)cc) {
        snprintf(why, why_bytes, "ptx input: .target sm_%u is newer than the device's sm_%d",
                 image->index.target_sm, cc);
        return CUDA_ERROR_INVALID_PTX;
    }
    if (image->index.address_size != 64 && image->index.address_size != 0) {
        snprintf(why, why_bytes, "ptx input: .address_size %u; only 64 is supported",
                 image->index.address_size);
        return CUDA_ERROR_INVALID_PTX;
    }
    return CUDA_SUCCESS;
}

CUresult soft_image_load(const void *data, int cc, struct soft_image **out, char *why,
                         size_t why_bytes)
{
    struct soft_image *image = calloc(1, sizeof *image);
    if (image == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    image->refs = 1;
    image->cc = cc;
    CUresult result = soft_image_ptx(data, cc, &image->ptx, why, why_bytes);
    if (result != CUDA_SUCCESS)
        goto out;
    image->ptx_bytes = strlen(image->ptx);
    result = image_index(image, cc, why, why_bytes);
    if (result != CUDA_SUCCESS)
        goto out;
    image->kernels = calloc(image->index.entry_count + 1, sizeof *image->kernels);
    if (image->kernels == NULL) {
        result = CUDA_ERROR_OUT_OF_MEMORY;
        goto out;
    }
    for (uint32_t i = 0; i < image->index.entry_count; i++) {
        image->kernels[i].image = image;
        image->kernels[i].entry = &image->index.entries[i];
        pthread_mutex_init(&image->kernels[i].lock, NULL);
    }
    *out = image;
    return CUDA_SUCCESS;
out:
    soft_image_unref(image);
    return result;
}

bool soft_image_prints(struct soft_image *image)
{
    if (image->prints == 0)
        image->prints = strstr(image->ptx, "vprintf") != NULL ? 1 : -1;
    return image->prints > 0;
}

void soft_image_ref(struct soft_image *image)
{
    atomic_fetch_add_explicit(&image->refs, 1, memory_order_relaxed);
}

void soft_image_unref(struct soft_image *image)
{
    if (atomic_fetch_sub_explicit(&image->refs, 1, memory_order_acq_rel) != 1)
        return;
    if (image->kernels != NULL) {
        for (uint32_t i = 0; i < image->index.entry_count; i++) {
            soft_kernel_close(&image->kernels[i]);
            pthread_mutex_destroy(&image->kernels[i].lock);
            free(image->kernels[i].why);
        }
        free(image->kernels);
    }
    ptx_index_free(&image->index);
    free(image->ptx);
    free(image);
}

CUresult soft_file_read(const char *path, char **data, size_t *bytes)
{
    CUresult result = CUDA_ERROR_FILE_NOT_FOUND;
    char *text = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size > IMAGE_MAX)
        goto out;
    text = calloc(1, (size_t)st.st_size + 4);
    if (text == NULL) {
        result = CUDA_ERROR_OUT_OF_MEMORY;
        goto out;
    }
    size_t done = 0;
    while (done < (size_t)st.st_size) {
        ssize_t n = read(fd, text + done, (size_t)st.st_size - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        done += (size_t)n;
    }
    *data = text;
    *bytes = done;
    text = NULL;
    result = CUDA_SUCCESS;
out:
    free(text);
    if (fd >= 0)
        close(fd);
    return result;
}

CUresult soft_image_file(const char *path, int cc, struct soft_image **out, char *why,
                         size_t why_bytes)
{
    char *data = NULL;
    size_t bytes = 0;
    CUresult result = soft_file_read(path, &data, &bytes);
    if (result != CUDA_SUCCESS) {
        snprintf(why, why_bytes, "cannot read %s", path);
        return result;
    }
    /* a fat binary in a file is bounded by the file; soft_file_read() leaves zeroes behind it */
    const unsigned char *head = (const unsigned char *)data;
    bool fat = bytes >= 4 && word(head) == FATBIN_MAGIC;
    if (fat && (bytes < 16 || quad(head + 8) > bytes ||
                head[6] + 256u * head[7] + quad(head + 8) > bytes)) {
        snprintf(why, why_bytes, "%s: fat binary is cut short", path);
        result = CUDA_ERROR_INVALID_IMAGE;
    } else if (bytes >= 4 && word(head) == WRAPPER_MAGIC) {
        snprintf(why, why_bytes, "%s: a fat binary wrapper means nothing in a file", path);
        result = CUDA_ERROR_INVALID_IMAGE;
    } else {
        result = soft_image_load(data, cc, out, why, why_bytes);
    }
    free(data);
    return result;
}
