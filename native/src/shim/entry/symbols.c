/* SPDX-License-Identifier: Apache-2.0
 *
 * What dlsym answers for the hundreds of names of the driver, in a fraction of its time: the
 * library's own hash table (DT_GNU_HASH) is read here, with hashes that were made at build time.
 *
 * (1) Only what is beyond doubt is taken: the one entry of that name in the library itself, a plain
 *     function, of a version that is the default. All else is dlsym's: what lies in a
 *     library that the driver needs, what a function chooses (IFUNC), several versions, no table.
 * (2) Not even that if dlsym says otherwise of some of them: who audits the loader or stands before
 *     dlsym goes on doing so.
 */
#include <dlfcn.h>
#include <link.h>
#include <string.h>

#include "src/shim/entry/entry.h"

#define WORD_BITS (8 * (unsigned)sizeof(ElfW(Addr)))
#define SAMPLE    64u /* one name of so many is asked of dlsym as well */
#define HIDDEN    0x8000u

struct table {
    const ElfW(Sym) * symbols;
    const char *strings;
    const ElfW(Half) * versions; /* NULL: none have any */
    const ElfW(Addr) * bloom;
    const uint32_t *bucket, *chain; /* of `buckets`; by number of the symbol, from `first` on */
    uint32_t buckets, first, words, shift;
    ElfW(Addr) base;
};

struct extent {
    const struct link_map *map;
    const ElfW(Phdr) * segments; /* NULL: not found */
    unsigned count;
};

static int is_it(struct dl_phdr_info *info, size_t size, void *arg)
{
    struct extent *e = arg;
    (void)size;
    for (unsigned i = 0; i < info->dlpi_phnum; i++)
        if (info->dlpi_phdr[i].p_type == PT_DYNAMIC &&
            info->dlpi_addr + info->dlpi_phdr[i].p_vaddr == (uintptr_t)e->map->l_ld) {
            e->segments = info->dlpi_phdr;
            e->count = info->dlpi_phnum;
        }
    return e->segments != NULL;
}

/* A pointer of the dynamic section, which glibc has relocated and musl has not. NULL: neither way
 * within the library. */
static const void *within(const struct extent *e, ElfW(Addr) at)
{
    for (int relocated = 1; relocated >= 0; relocated--) {
        ElfW(Addr) offset = relocated ? at - e->map->l_addr : at;
        for (unsigned i = 0; i < e->count; i++) {
            const ElfW(Phdr) *p = &e->segments[i];
            if (p->p_type == PT_LOAD && (p->p_flags & PF_R) != 0 &&
                offset - p->p_vaddr < p->p_memsz)
                return (const void *)(e->map->l_addr + offset);
        }
    }
    return NULL;
}

static bool read_table(void *handle, struct table *t)
{
    struct extent e = {0};
    const uint32_t *hash = NULL;
    size_t symbol_bytes = 0;
    memset(t, 0, sizeof *t);
    if (dlinfo(handle, RTLD_DI_LINKMAP, &e.map) != 0 || dl_iterate_phdr(is_it, &e) == 0)
        return false;
    t->base = e.map->l_addr;
    for (const ElfW(Dyn) *d = e.map->l_ld; d->d_tag != DT_NULL; d++) {
        if (d->d_tag == DT_SYMTAB)
            t->symbols = within(&e, d->d_un.d_ptr);
        else if (d->d_tag == DT_STRTAB)
            t->strings = within(&e, d->d_un.d_ptr);
        else if (d->d_tag == DT_VERSYM && (t->versions = within(&e, d->d_un.d_ptr)) == NULL)
            return false;
        else if (d->d_tag == DT_GNU_HASH)
            hash = within(&e, d->d_un.d_ptr);
        else if (d->d_tag == DT_SYMENT)
            symbol_bytes = d->d_un.d_val;
    }
    if (t->symbols == NULL || t->strings == NULL || hash == NULL ||
        symbol_bytes != sizeof(ElfW(Sym)))
        return false;
    t->buckets = hash[0];
    t->first = hash[1];
    t->words = hash[2];
    t->shift = hash[3];
    t->bloom = (const ElfW(Addr) *)(hash + 4);
    t->bucket = (const uint32_t *)(t->bloom + t->words);
    t->chain = t->bucket + t->buckets;
    return t->buckets != 0 && t->words != 0 && (t->words & (t->words - 1)) == 0 && t->shift < 32;
}

static bool plain(const struct table *t, uint32_t i)
{
    const ElfW(Sym) *s = &t->symbols[i];
    unsigned type = ELF64_ST_TYPE(s->st_info), bind = ELF64_ST_BIND(s->st_info);
    unsigned seen = ELF64_ST_VISIBILITY(s->st_other);
    return s->st_value != 0 && s->st_shndx != SHN_UNDEF && s->st_shndx != SHN_ABS &&
           type == STT_FUNC && (bind == STB_GLOBAL || bind == STB_WEAK) &&
           (seen == STV_DEFAULT || seen == STV_PROTECTED) &&
           (t->versions == NULL || (t->versions[i] & HIDDEN) == 0);
}

/* NULL: dlsym knows, or nobody. */
static void *look_up(const struct table *t, const char *name, uint32_t hash)
{
    ElfW(Addr) word = t->bloom[hash / WORD_BITS & (t->words - 1)];
    if ((word >> hash % WORD_BITS & word >> (hash >> t->shift) % WORD_BITS & 1) == 0)
        return NULL;
    uint32_t i = t->bucket[hash % t->buckets], match = 0;
    if (i < t->first || i == 0)
        return NULL;
    for (;; i++) {
        uint32_t here = t->chain[i - t->first]; /* its lowest bit: the last of the bucket */
        if ((here ^ hash) >> 1 == 0 && strcmp(t->strings + t->symbols[i].st_name, name) == 0) {
            if (match != 0)
                return NULL;
            match = i;
        }
        if ((here & 1) != 0)
            break;
    }
    return match != 0 && plain(t, match) ? (void *)(t->base + t->symbols[match].st_value) : NULL;
}

void harp_symbols(void *handle, const char *const *names, const uint32_t *hashes, unsigned count,
                  void **found)
{
    struct table t;
    bool trusted = read_table(handle, &t);
    for (unsigned i = 0; i < count; i++)
        found[i] = trusted ? look_up(&t, names[i], hashes[i]) : NULL;
    for (unsigned i = 0; i < count && trusted; i += SAMPLE)
        trusted = found[i] == NULL || found[i] == dlsym(handle, names[i]);
    for (unsigned i = 0; i < count; i++)
        if (!trusted || found[i] == NULL)
            found[i] = dlsym(handle, names[i]);
}
