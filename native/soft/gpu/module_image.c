/* SPDX-License-Identifier: Apache-2.0
 *
 * From what the client handed over to PTX text with an index.
 *
 * Accepted: PTX text, and fat binaries (with or without their wrapper) that hold PTX. Machine code
 * (cubin, ELF, SASS entries) is refused: a software GPU has no use for it and says so.
 *
 * A wrapper, {0x466243b1, version, pointer}, is what a fat binary has in a program's memory.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "soft/gpu/module.h"
#include "soft/gpu/module_fatbin.h"
#include "soft/ptxc/lex.h"

#define WRAPPER_MAGIC 0x466243b1u
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

bool soft_ptx_target(const char *text, size_t bytes, uint32_t *sm, char *kind)
{
    struct ptx_lexer lexer = {.at = text, .end = text + bytes, .line = 1};
    struct ptx_token token;
    for (int i = 0; i < 64; i++) { /* it stands near the top */
        ptx_lex(&lexer, &token);
        if (token.kind == TOK_END || token.kind == TOK_BAD)
            return false;
        if (ptx_token_is(&token, TOK_DOT, "target"))
            break;
    }
    ptx_lex(&lexer, &token);
    if (token.kind != TOK_WORD || token.bytes < 4 || memcmp(token.text, "sm_", 3) != 0)
        return false;
    *sm = 0;
    for (uint32_t i = 3; i < token.bytes && *sm < 10000; i++)
        if (token.text[i] >= '0' && token.text[i] <= '9')
            *sm = *sm * 10 + (uint32_t)(token.text[i] - '0');
    char last = token.text[token.bytes - 1];
    *kind = last >= 'a' && last <= 'z' ? last : '\0';
    return true;
}

/* PTX runs on its target and on all newer ones; that of sm_NNa on no other at all, that of sm_NNf
 * on newer ones of the same major number. */
bool soft_target_runs(uint32_t sm, char kind, int cc)
{
    if (kind == 'a')
        return sm == (uint32_t)cc;
    return sm <= (uint32_t)cc && (kind != 'f' || sm / 10 == (uint32_t)cc / 10);
}

CUresult soft_image_ptx(const void *data, uint64_t room, int cc, char **ptx, uint64_t *used,
                        char *why, size_t why_bytes)
{
    const unsigned char *bytes = data;
    *used = room;
    /* byte by byte: text may be shorter than a magic number */
    if (bytes[0] == 0x7f && bytes[1] == 'E' && bytes[2] == 'L' && bytes[3] == 'F') {
        snprintf(why, why_bytes,
                 "image is machine code (a cubin); the software GPU runs PTX only: load PTX "
                 "instead");
        return CUDA_ERROR_NO_BINARY_FOR_GPU;
    }
    bool wrapped = bytes[0] == 0xb1 && bytes[1] == 0x43 && bytes[2] == 0x62 && bytes[3] == 0x46;
    if (wrapped) {
        uint32_t version = word(bytes + 4);
        uint64_t inner;
        memcpy(&inner, bytes + 8, sizeof inner);
        bytes = (const unsigned char *)(uintptr_t)inner;
        room = SOFT_FATBIN_UNKNOWN;
        if (bytes == NULL || version == 0 || version > 2) {
            snprintf(why, why_bytes, "fat binary: wrapper of version %u with%s contents", version,
                     bytes == NULL ? "out" : "");
            return CUDA_ERROR_INVALID_IMAGE;
        }
    }
    if (bytes[0] == 0x50 && bytes[1] == 0xed && bytes[2] == 0x55 && bytes[3] == 0xba)
        return soft_fatbin_ptx(bytes, room, cc, ptx, used, why, why_bytes);
    if (wrapped || !looks_like_ptx((const char *)bytes)) {
        snprintf(why, why_bytes,
                 "image is neither PTX text (it must begin with .version) nor a "
                 "fat binary");
        return CUDA_ERROR_INVALID_IMAGE;
    }
    *ptx = strdup((const char *)bytes);
    return *ptx == NULL ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}

/* Is it good as a part of something, though not alone? What such a text calls is missing: drivers
 * say of it that there is no binary. */
bool soft_ptx_is_object(const char *text, size_t bytes)
{
    struct ptx_index index;
    char ignored[64];
    bool good = ptx_index_object(text, bytes, &index, ignored, sizeof ignored) == 0;
    ptx_index_free(&index);
    return good;
}

bool soft_target_fits(const struct ptx_index *index, int cc, char *why, size_t why_bytes)
{
    if (soft_target_runs(index->target_sm, index->target_kind, cc))
        return true;
    char kind[] = {index->target_kind, '\0'};
    snprintf(why, why_bytes, "ptx input: .target sm_%u%s %s the device's sm_%d", index->target_sm,
             kind, index->target_sm > (uint32_t)cc ? "is newer than" : "does not run on", cc);
    return false;
}

static CUresult image_index(struct soft_image *image, int cc, char *why, size_t why_bytes)
{
    char reason[256] = "";
    int err = ptx_index_read(image->ptx, image->ptx_bytes, &image->index, reason, sizeof reason);
    if (err == -ENOMEM)
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (err != 0) {
        snprintf(why, why_bytes, "ptx input, %s", reason);
        return soft_ptx_is_object(image->ptx, image->ptx_bytes) ? CUDA_ERROR_NO_BINARY_FOR_GPU
                                                                : CUDA_ERROR_INVALID_PTX;
    }
    unsigned version = image->index.ptx_major * 10 + image->index.ptx_minor;
    if (version > SOFT_PTX_NEWEST) {
        snprintf(why, why_bytes, "ptx input: .version %u.%u is newer than this driver's 9.0",
                 image->index.ptx_major, image->index.ptx_minor);
        return CUDA_ERROR_UNSUPPORTED_PTX_VERSION;
    }
    if (!soft_target_fits(&image->index, cc, why, why_bytes))
        return CUDA_ERROR_INVALID_PTX;
    if (image->index.address_size != 64 && image->index.address_size != 0) {
        snprintf(why, why_bytes, "ptx input: .address_size %u; only 64 is supported",
                 image->index.address_size);
        return CUDA_ERROR_INVALID_PTX;
    }
    return CUDA_SUCCESS;
}

CUresult soft_image_load(const void *data, uint64_t room, int cc, struct soft_image **out,
                         char *why, size_t why_bytes)
{
    uint64_t used = room;
    bool known = room != SOFT_FATBIN_UNKNOWN;
    if (known && room >= 4 && word(data) == WRAPPER_MAGIC) {
        snprintf(why, why_bytes,
                 "a fat binary's wrapper holds a pointer, which means nothing here");
        return CUDA_ERROR_INVALID_IMAGE;
    }
    if (soft_jit_disabled()) {
        snprintf(why, why_bytes, "the environment forbids to compile PTX (CUDA_DISABLE_PTX_JIT)");
        return CUDA_ERROR_JIT_COMPILATION_DISABLED;
    }
    struct soft_image *image = calloc(1, sizeof *image);
    if (image == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    image->refs = 1;
    image->cc = cc;
    image->text = calloc(1, sizeof *image->text);
    if (image->text == NULL) {
        free(image);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    image->text->refs = 1;
    CUresult result = soft_image_ptx(data, room, cc, &image->text->ptx, &used, why, why_bytes);
    image->ptx = image->text->ptx;
    if (result == CUDA_SUCCESS && known && soft_fatbin_follows(data, room, &used)) {
        snprintf(why, why_bytes,
                 "several fat binaries behind each other are parts of a program; "
                 "link them with cuLinkAddData");
        result = CUDA_ERROR_INVALID_IMAGE;
    }
    if (result != CUDA_SUCCESS)
        goto out;
    image->text->bytes = image->ptx_bytes = strlen(image->ptx);
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
    soft_text_unref(image->text);
    free(image);
}

struct soft_text *soft_text_ref(struct soft_text *text)
{
    atomic_fetch_add_explicit(&text->refs, 1, memory_order_relaxed);
    return text;
}

void soft_text_unref(struct soft_text *text)
{
    if (atomic_fetch_sub_explicit(&text->refs, 1, memory_order_acq_rel) != 1)
        return;
    free(text->ptx);
    free(text);
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

/* What a verbose JIT log holds, malloc'ed; NULL: no memory. */
char *soft_image_describe(const struct soft_image *image)
{
    size_t room = 1, used = 0;
    for (uint32_t i = 0; i < image->index.entry_count; i++)
        room += strlen(image->index.entries[i].name) + 160;
    char *text = calloc(1, room);
    for (uint32_t i = 0; text != NULL && i < image->index.entry_count; i++) {
        const struct ptx_entry *entry = &image->index.entries[i];
        int n =
            snprintf(text + used, room - used,
                     "info: %s for sm_%d: %u registers, %u bytes of shared, %u of local memory, "
                     "%u of parameters\n",
                     entry->name, image->cc, soft_entry_regs(entry), entry->static_shared_bytes,
                     entry->local_bytes, entry->params_bytes);
        used += n > 0 ? (size_t)n : 0;
    }
    return text;
}
