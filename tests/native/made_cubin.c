/* SPDX-License-Identifier: Apache-2.0 */
#include "made_cubin.h"

#include <elf.h>
#include <string.h>

struct out {
    uint8_t *at;
    size_t used;
};

static void add(struct out *o, const void *data, size_t bytes)
{
    memcpy(o->at + o->used, data, bytes);
    o->used += bytes;
}

static void param(struct out *o, unsigned n, struct made_param is, int wide)
{
    const uint8_t head[] = {4,          wide ? 0x45 : 0x17, 12, 0, 0, 0, 0, 0,
                            (uint8_t)n, (uint8_t)(n >> 8)};
    uint32_t size = wide ? is.bytes : (uint32_t)is.bytes << 18 | 0x1f000;
    add(o, head, sizeof head);
    add(o, &is.offset, 2);
    add(o, &size, 4);
}

static void info(struct out *o, const struct made_kernel *k)
{
    const uint8_t version[] = {4, 0x37, 4, 0, 0x7e, 0, 0, 0}, most[] = {3, 0x1b, 0xff, 0};
    const uint8_t bank[] = {4, 0x0a, 8, 0, 2, 0, 0, 0, 0x60, 1, (uint8_t)k->total, 0};
    const uint8_t none[] = {1, 0x2a, 0, 0},
                  total[] = {3, 0x19, (uint8_t)k->total, (uint8_t)((unsigned)k->total >> 8)};
    unsigned n = 0;
    add(o, version, sizeof version);
    add(o, bank, sizeof bank);
    if (k->total >= 0)
        add(o, total, sizeof total);
    while (n < 8 && k->param[n].bytes != 0)
        n++;
    while (n-- > 0) /* the last comes first */
        param(o, n, k->param[n], k->wide);
    for (n = 0; n <= k->bytes && k->bytes != 0; n++) {
        unsigned at = n < k->bytes ? n : n - 1;
        param(o, at, (struct made_param){(uint16_t)at, 1}, 0);
    }
    add(o, most, sizeof most);
    add(o, none, sizeof none);
}

size_t made_cubin(uint8_t *out, const struct made_kernel *kernels, unsigned count)
{
    struct out o = {out, sizeof(Elf64_Ehdr)};
    Elf64_Ehdr head = {.e_type = ET_EXEC, .e_machine = 190, .e_version = 1, .e_flags = 0x500550};
    Elf64_Shdr sections[64];
    char names[8192];
    size_t named = 1;
    unsigned n = 2;
    memset(sections, 0, sizeof sections);
    memset(names, 0, sizeof names);
    strcpy(names + named, ".shstrtab");
    sections[1].sh_name = (uint32_t)named;
    named += sizeof ".shstrtab";
    for (unsigned i = 0; i < count; i++) {
        const char *const prefix[] = {".nv.info.", ".text."};
        for (unsigned k = 0; k < 2; k++, n++) {
            sections[n].sh_name = (uint32_t)named;
            sections[n].sh_offset = o.used;
            sections[n].sh_type = k == 0 ? 0x70000000u : SHT_PROGBITS;
            strcpy(names + named, prefix[k]);
            strcat(names + named, kernels[i].name);
            named += strlen(names + named) + 1;
            if (k == 0)
                info(&o, &kernels[i]);
            else
                add(&o, "code of that kernel", 16);
            sections[n].sh_size = o.used - sections[n].sh_offset;
        }
    }
    sections[1].sh_type = SHT_STRTAB;
    sections[1].sh_offset = o.used;
    sections[1].sh_size = named;
    add(&o, names, named);
    memcpy(head.e_ident, ELFMAG, SELFMAG);
    head.e_ident[EI_CLASS] = ELFCLASS64;
    head.e_ident[EI_DATA] = ELFDATA2LSB;
    head.e_ident[EI_VERSION] = EV_CURRENT;
    head.e_ehsize = sizeof head;
    head.e_shoff = o.used;
    head.e_shentsize = sizeof sections[0];
    head.e_shnum = (uint16_t)n;
    head.e_shstrndx = 1;
    add(&o, sections, n * sizeof sections[0]);
    memcpy(out, &head, sizeof head);
    return o.used;
}

size_t made_fatbin(uint8_t *out, const struct made_entry *entries, unsigned count)
{
    struct out o = {out, 16};
    for (unsigned i = 0; i < count; i++) {
        uint8_t head[64] = {(uint8_t)entries[i].kind, 0, 1, 1, sizeof head};
        uint64_t bytes = (entries[i].bytes + 7) & ~7ull;
        memcpy(head + 8, &bytes, 8);
        head[28] = 80;
        memcpy(head + 40, &entries[i].flags, 8);
        add(&o, head, sizeof head);
        memset(o.at + o.used, 0, bytes);
        memcpy(o.at + o.used, entries[i].data, entries[i].bytes);
        o.used += bytes;
    }
    const uint8_t head[8] = {0x50, 0xed, 0x55, 0xba, 1, 0, 16, 0};
    uint64_t bytes = o.used - 16;
    memcpy(out, head, sizeof head);
    memcpy(out + 8, &bytes, 8);
    return o.used;
}
