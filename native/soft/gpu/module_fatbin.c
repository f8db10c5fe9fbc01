/* SPDX-License-Identifier: Apache-2.0
 *
 * Header {0xba55ed50, version u16, header bytes u16, bytes behind it u64}, then entries {kind u16
 * @0 (1 PTX, 2 ELF), header bytes u32 @4, padded payload u64 @8, packed bytes u32 @16, sm u32 @28,
 * flags u64 @40 (0x2000 LZ4, 0x8000 zstd), unpacked bytes u64 @56}. Headers may be longer than what
 * is known of them. No size is believed before it was compared with the one round it.
 */
#include "soft/gpu/module_fatbin.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "soft/gpu/module.h"
#include "soft/gpu/module_unpack.h"
#include "soft/gpu/zstd.h"

#define MAGIC       0xba55ed50u
#define HEADER_MIN  16u
#define ENTRY_MIN   64u
#define FLAG_LZ4    0x2000u
#define FLAG_ZSTD   0x8000u
#define TEXT_MAX    (1ull << 30)
#define LZ4_RATIO   256u /* no LZ4 block grows more */
#define ENTRIES_MAX 4096u

enum { KIND_PTX = 1, KIND_ELF = 2, KIND_ELF_RELOCATABLE = 16 };

struct entry {
    unsigned kind;
    uint32_t sm, packed;
    uint64_t flags, unpacked, payload_bytes;
    const unsigned char *payload;
};

static uint64_t number(const unsigned char *at, size_t bytes)
{
    uint64_t value = 0;
    memcpy(&value, at, bytes); /* little end first, as the machine */
    return value;
}

/* Bounds of the entries; false: damaged. */
static bool open_container(const unsigned char *fatbin, uint64_t room,
                           const unsigned char **entries, uint64_t *bytes)
{
    if (room < HEADER_MIN || number(fatbin, 4) != MAGIC || number(fatbin + 4, 2) != 1)
        return false;
    uint64_t header = number(fatbin + 6, 2);
    *bytes = number(fatbin + 8, 8);
    if (header < HEADER_MIN || header > room || *bytes > room - header || *bytes > TEXT_MAX)
        return false;
    *entries = fatbin + header;
    return true;
}

/* The entry at *at; moves on. False: damaged. */
static bool next_entry(const unsigned char **at, uint64_t *left, struct entry *entry)
{
    const unsigned char *p = *at;
    if (*left < ENTRY_MIN)
        return false;
    uint64_t header = number(p + 4, 4), payload = number(p + 8, 8);
    if (header < ENTRY_MIN || header > *left || payload > *left - header)
        return false;
    *entry = (struct entry){.kind = (unsigned)number(p, 2),
                            .sm = (uint32_t)number(p + 28, 4),
                            .packed = (uint32_t)number(p + 16, 4),
                            .flags = number(p + 40, 8),
                            .unpacked = number(p + 56, 8),
                            .payload_bytes = payload,
                            .payload = p + header};
    *at += header + payload;
    *left -= header + payload;
    return true;
}

/* ----------------------------------------------------------------------------- payloads ------- */

static CUresult unpack(const struct entry *entry, char *text, const char **how)
{
    unsigned char *out = (unsigned char *)text;
    size_t packed = entry->packed != 0 ? entry->packed : (size_t)entry->payload_bytes;
    int err;
    if ((entry->flags & FLAG_ZSTD) != 0) {
        *how = "zstd";
        err = soft_zstd_unpack(entry->payload, packed, out, (size_t)entry->unpacked);
    } else {
        *how = "LZ4";
        ssize_t n = soft_lz4_unpack(entry->payload, packed, out, (size_t)entry->unpacked);
        err = n < 0 ? -EINVAL : 0;
    }
    return err == 0         ? CUDA_SUCCESS
           : err == -ENOMEM ? CUDA_ERROR_OUT_OF_MEMORY
                            : CUDA_ERROR_INVALID_IMAGE;
}

static CUresult entry_text(const struct entry *entry, char **out, char *why, size_t why_bytes)
{
    if ((entry->flags & (FLAG_LZ4 | FLAG_ZSTD)) == 0) {
        *out = strndup((const char *)entry->payload, (size_t)entry->payload_bytes);
        return *out == NULL ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
    }
    bool lz4 = (entry->flags & FLAG_LZ4) != 0, zstd = (entry->flags & FLAG_ZSTD) != 0;
    if ((lz4 && zstd) || entry->packed > entry->payload_bytes || entry->unpacked == 0 ||
        entry->unpacked > TEXT_MAX || (lz4 && entry->unpacked / LZ4_RATIO > entry->payload_bytes)) {
        snprintf(why, why_bytes,
                 "fat binary: PTX entry for sm_%u: %llu bytes out of %llu, flags %llx", entry->sm,
                 (unsigned long long)entry->unpacked, (unsigned long long)entry->payload_bytes,
                 (unsigned long long)entry->flags);
        return CUDA_ERROR_INVALID_IMAGE;
    }
    char *text = malloc((size_t)entry->unpacked + 1);
    const char *how = "";
    if (text == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    CUresult result = unpack(entry, text, &how);
    if (result != CUDA_SUCCESS) {
        free(text);
        snprintf(why, why_bytes, "fat binary: PTX entry for sm_%u: damaged %s stream", entry->sm,
                 how);
        return result;
    }
    text[entry->unpacked] = '\0';
    *out = text;
    return CUDA_SUCCESS;
}

/* ------------------------------------------------------------------------------- choice ------- */

struct census { /* what else was there, for the log */
    unsigned sass, newer, others, bound;
};

/* The newest PTX older than `below` (entries of one age in their order, from `skip` on). */
static bool best_entry(const unsigned char *at, uint64_t left, int cc, uint32_t below,
                       unsigned skip, struct entry *best)
{
    struct entry entry;
    bool found = false;
    unsigned alike = 0;
    while (next_entry(&at, &left, &entry)) {
        if (entry.kind != KIND_PTX || entry.sm > (uint32_t)cc || entry.sm > below)
            continue;
        if (entry.sm == below && alike++ < skip)
            continue;
        if (!found || entry.sm > best->sm)
            *best = entry;
        found = true;
    }
    return found;
}

static CUresult count_entries(const unsigned char *at, uint64_t left, int cc, struct census *census,
                              char *why, size_t why_bytes)
{
    struct entry entry;
    for (unsigned count = 0; left >= ENTRY_MIN; count++) {
        if (!next_entry(&at, &left, &entry) || count == ENTRIES_MAX) {
            snprintf(why, why_bytes, "fat binary: damaged entry %u", count);
            return CUDA_ERROR_INVALID_IMAGE;
        }
        if (entry.kind == KIND_ELF || entry.kind == KIND_ELF_RELOCATABLE)
            census->sass++;
        else if (entry.kind != KIND_PTX)
            census->others++;
        else if (entry.sm > (uint32_t)cc)
            census->newer++;
    }
    return CUDA_SUCCESS;
}

static CUresult pick(const unsigned char *at, uint64_t left, int cc, struct census *census,
                     char **ptx, char *why, size_t why_bytes)
{
    struct entry entry = {0};
    char *best = NULL;
    uint32_t below = UINT32_MAX, best_sm = 0;
    unsigned skip = 0;
    while (best_entry(at, left, cc, below, skip, &entry) && (best == NULL || entry.sm == best_sm)) {
        skip = entry.sm == below ? skip + 1 : 1;
        below = entry.sm;
        char *text = NULL, kind = '\0';
        uint32_t sm = entry.sm;
        CUresult result = entry_text(&entry, &text, why, why_bytes);
        if (result != CUDA_SUCCESS) {
            free(best);
            return result;
        }
        /* The header does not tell sm_90 from sm_90a: the text does. Of two of one age, what was
         * made for this very device is the better one. */
        bool known = soft_ptx_target(text, strlen(text), &sm, &kind);
        if (known && !soft_target_runs(sm, kind, cc)) {
            census->bound++;
            free(text);
        } else if (best == NULL || kind != '\0') {
            free(best);
            best = text;
            best_sm = entry.sm;
        } else {
            free(text);
        }
    }
    *ptx = best;
    return CUDA_SUCCESS;
}

CUresult soft_fatbin_ptx(const unsigned char *fatbin, uint64_t room, int cc, char **ptx,
                         uint64_t *used, char *why, size_t why_bytes)
{
    const unsigned char *at;
    uint64_t left;
    struct census census = {0};
    if (!open_container(fatbin, room, &at, &left)) {
        snprintf(why, why_bytes, "fat binary: damaged header, or cut short");
        return CUDA_ERROR_INVALID_IMAGE;
    }
    *used = (uint64_t)(at - fatbin) + left;
    CUresult result = count_entries(at, left, cc, &census, why, why_bytes);
    if (result == CUDA_SUCCESS)
        result = pick(at, left, cc, &census, ptx, why, why_bytes);
    if (result != CUDA_SUCCESS || *ptx != NULL)
        return result;
    snprintf(why, why_bytes,
             "fat binary holds no PTX that this software GPU (sm_%d) can run: %u machine code "
             "(SASS) images, %u PTX for newer devices, %u PTX for one other device only, %u images "
             "of other kinds; build with PTX (-gencode arch=compute_%d,code=compute_%d)",
             cc, census.sass, census.newer, census.bound, census.others, cc, cc);
    return CUDA_ERROR_NO_BINARY_FOR_GPU;
}

bool soft_fatbin_follows(const unsigned char *data, uint64_t bytes, uint64_t *used)
{
    uint64_t at = *used;
    while (at < bytes && data[at] == 0)
        at++;
    if (at >= bytes || bytes - at < 4 || number(data + at, 4) != MAGIC)
        return false;
    *used = at;
    return true;
}
