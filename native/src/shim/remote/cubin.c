/* SPDX-License-Identifier: Apache-2.0
 *
 * Parameters by machine code. A cubin has a section .nv.info.KERNEL, a list of {format u8, what u8,
 * u16}: a number, or (format 4) how many bytes follow. Of these a parameter has one of two: index
 * u32, ordinal u16, offset u16, and its size in the upper 14 bits of a u32 (0x17), or as a u16
 * (0x45). 0x19 is a number, the bytes of all. Nobody documents this: what does not add up to that
 * number is not believed, and the kernel is asked for.
 *
 * Of a fat binary (its format: the software GPU's module_fatbin.c) the entries that are not
 * packed. The others say the same: a kernel's parameters may not depend on the device (CUDA C++
 * Programming Guide, __CUDA_ARCH__). Entries that are read and differ: it is asked for.
 */
#include <elf.h>
#include <stdlib.h>
#include <string.h>

#include "src/shim/remote/layout.h"

#define MACHINE      190u /* of an ELF file for CUDA */
#define FAT          0xba55ed50u
#define PACKED       0xa000u /* an entry's flags: LZ4, zstd */
#define ENTRY        64u     /* bytes of an entry's head, at least */
#define PARAMS_MOST  1024u
#define BYTES_MOST   32764u
#define RECORDS_MOST (16u << 20)
#define TEXT_MOST    (16u << 20)

/* A text of PTX, or records {name bytes u32, parameters u32, name, parameters}, each of a multiple
 * of 4 bytes. */
struct harp_layouts {
    bool text;
    size_t used, size;
    uint8_t data[];
};

struct bytes {
    const uint8_t *at;
    size_t size;
};

static uint64_t number(const uint8_t *at, size_t bytes)
{
    uint64_t value = 0;
    memcpy(&value, at, bytes); /* little end first, as all machines that this runs on */
    return value;
}

/* A part of it; at NULL: it has no such part. */
static struct bytes part(const struct bytes *of, uint64_t from, uint64_t size)
{
    if (from > of->size || size > of->size - from)
        return (struct bytes){NULL, 0};
    return (struct bytes){of->at + from, (size_t)size};
}

/* --- one kernel ------------------------------------------------------------------------------- */

struct found {
    uint32_t count, bytes; /* as 0x19 says it; UINT32_MAX: it does not */
    struct {
        uint32_t offset, bytes;
    } param[PARAMS_MOST];
};

static bool take_param(const uint8_t *at, bool wide, struct found *f)
{
    uint64_t ordinal = number(at + 4, 2), bytes = number(at + 8, 4);
    bytes = wide ? bytes & 0xffff : bytes >> 18;
    if (ordinal >= PARAMS_MOST || bytes == 0 || f->param[ordinal].bytes != 0)
        return false;
    f->param[ordinal].offset = (uint32_t)number(at + 6, 2);
    f->param[ordinal].bytes = (uint32_t)bytes;
    f->count++;
    return true;
}

/* They follow one another, and end where the kernel's parameters end. */
static bool adds_up(const struct found *f)
{
    uint32_t end = 0;
    for (uint32_t i = 0; i < f->count; i++) {
        if (f->param[i].bytes == 0 || f->param[i].offset < end)
            return false;
        end = f->param[i].offset + f->param[i].bytes;
    }
    return end <= BYTES_MOST && end == (f->bytes == UINT32_MAX ? 0 : f->bytes);
}

static bool kernel(const struct bytes *info, struct found *f)
{
    memset(f, 0, sizeof *f);
    f->bytes = UINT32_MAX;
    for (size_t at = 0; at != info->size;) {
        struct bytes head = part(info, at, 4);
        if (head.at == NULL)
            return false;
        unsigned format = head.at[0], what = head.at[1];
        uint32_t value = (uint32_t)number(head.at + 2, 2);
        struct bytes body = part(info, at + 4, format == 4 ? value : 0);
        bool is = what == 0x17 || what == 0x45;
        if (format < 1 || format > 4 || body.at == NULL)
            return false;
        if (is && (body.size != 12 || !take_param(body.at, what == 0x45, f)))
            return false;
        if (what == 0x19 && format == 3)
            f->bytes = value;
        at += 4 + body.size;
    }
    return adds_up(f);
}

/* --- an image --------------------------------------------------------------------------------- */

static size_t even(size_t bytes)
{
    return (bytes + 3) & ~(size_t)3;
}

/* false: no memory, or more than anybody should keep. */
static bool room(struct harp_layouts **all, size_t bytes)
{
    size_t need = (*all)->used + bytes;
    if (need <= (*all)->size)
        return true;
    size_t size = 2 * need + 4096;
    struct harp_layouts *more = need > RECORDS_MOST ? NULL : realloc(*all, sizeof **all + size);
    if (more == NULL)
        return false;
    more->size = size;
    *all = more;
    return true;
}

static bool keep(struct harp_layouts **all, const char *name, size_t length, const struct found *f)
{
    const uint32_t head[] = {(uint32_t)length, f->count};
    size_t params = f->count * sizeof f->param[0];
    if (!room(all, sizeof head + even(length) + params))
        return false;
    uint8_t *to = (*all)->data + (*all)->used;
    memcpy(to, head, sizeof head);
    memset(to + sizeof head, 0, even(length));
    memcpy(to + sizeof head, name, length);
    memcpy(to + sizeof head + even(length), f->param, params);
    (*all)->used += sizeof head + even(length) + params;
    return true;
}

static bool cubin(struct harp_layouts **all, const struct bytes *image)
{
    static const char prefix[] = ".nv.info.";
    Elf64_Ehdr head;
    Elf64_Shdr s;
    if (image->size < sizeof head)
        return true;
    memcpy(&head, image->at, sizeof head);
    struct bytes sections = part(image, head.e_shoff, (uint64_t)head.e_shnum * sizeof s);
    if (memcmp(head.e_ident, ELFMAG, SELFMAG) != 0 || head.e_ident[EI_CLASS] != ELFCLASS64 ||
        head.e_machine != MACHINE || head.e_shentsize != sizeof s || sections.at == NULL ||
        head.e_shstrndx >= head.e_shnum)
        return true;
    memcpy(&s, sections.at + head.e_shstrndx * sizeof s, sizeof s);
    struct bytes names = part(image, s.sh_offset, s.sh_type != SHT_NOBITS ? s.sh_size : 0);
    struct found *f = malloc(sizeof *f);
    bool kept = f != NULL;
    for (unsigned i = 0; i < head.e_shnum && kept; i++) {
        memcpy(&s, sections.at + i * sizeof s, sizeof s);
        struct bytes name = part(&names, s.sh_name, names.size - s.sh_name);
        size_t length = name.at != NULL ? strnlen((const char *)name.at, name.size) : 0;
        struct bytes info = part(image, s.sh_offset, s.sh_size);
        if (s.sh_type == SHT_NOBITS || length == name.size || length < sizeof prefix ||
            memcmp(name.at, prefix, sizeof prefix - 1) != 0)
            continue;
        if (info.at != NULL && kernel(&info, f))
            kept =
                keep(all, (const char *)name.at + sizeof prefix - 1, length + 1 - sizeof prefix, f);
    }
    free(f);
    return kept;
}

static struct harp_layouts *text(const struct bytes *ptx)
{
    struct harp_layouts *all = ptx->size > TEXT_MOST ? NULL : malloc(sizeof *all + ptx->size + 1);
    if (all == NULL)
        return NULL;
    *all = (struct harp_layouts){.text = true, .used = ptx->size, .size = ptx->size + 1};
    memcpy(all->data, ptx->at, ptx->size);
    all->data[ptx->size] = '\0';
    return all;
}

/* All machine code; if there is none, the first text. */
static bool container(struct harp_layouts **all, const struct bytes *image, struct bytes *ptx)
{
    struct bytes rest = part(image, number(image->at + 6, 2), number(image->at + 8, 8));
    bool kept = true;
    while (kept && rest.size >= ENTRY) {
        uint64_t head = number(rest.at + 4, 4), bytes = number(rest.at + 8, 8);
        struct bytes entry = part(&rest, head, bytes);
        if (head < ENTRY || entry.at == NULL)
            break;
        bool open = (number(rest.at + 40, 8) & PACKED) == 0;
        if (open && number(rest.at, 2) == 2)
            kept = cubin(all, &entry);
        else if (open && number(rest.at, 2) == 1 && ptx->at == NULL)
            *ptx = (struct bytes){entry.at, strnlen((const char *)entry.at, entry.size)};
        rest = part(&rest, head + bytes, rest.size - head - bytes);
    }
    return kept;
}

struct harp_layouts *harp_layouts_of(const void *data, size_t size)
{
    struct bytes image = {data, size}, ptx = {NULL, 0};
    struct harp_layouts *all = malloc(sizeof *all);
    if (all == NULL)
        return NULL;
    *all = (struct harp_layouts){.text = false};
    bool kept = true;
    if (size >= 16 && number(data, 4) == FAT)
        kept = container(&all, &image, &ptx);
    else if (size > SELFMAG && memcmp(data, ELFMAG, SELFMAG) == 0)
        kept = cubin(&all, &image);
    else
        ptx = (struct bytes){data, strnlen(data, size)};
    if (kept && all->used != 0)
        return all;
    free(all);
    return kept && ptx.size != 0 ? text(&ptx) : NULL;
}

bool harp_layouts_find(const struct harp_layouts *all, const char *name, struct harp_layout *layout,
                       uint32_t most)
{
    size_t length = strlen(name);
    const uint8_t *first = NULL;
    if (all->text)
        return harp_layout_of((const char *)all->data, name, layout, most);
    for (size_t at = 0; at < all->used;) {
        uint32_t head[2];
        memcpy(head, all->data + at, sizeof head);
        const uint8_t *here = all->data + at + sizeof head;
        size_t params = head[1] * sizeof layout->param[0];
        at += sizeof head + even(head[0]) + params;
        if (head[0] != length || memcmp(here, name, length) != 0)
            continue;
        here += even(length);
        if (first != NULL && (layout->count != head[1] || memcmp(first, here, params) != 0))
            return false; /* one device's code takes others */
        if (head[1] > most)
            return false;
        first = here;
        layout->count = head[1];
    }
    if (first == NULL)
        return false;
    memcpy(layout->param, first, layout->count * sizeof layout->param[0]);
    layout->bytes = layout->count == 0 ? 0
                                       : layout->param[layout->count - 1].offset +
                                             layout->param[layout->count - 1].bytes;
    return true;
}
