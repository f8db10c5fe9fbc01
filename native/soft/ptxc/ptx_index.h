/* SPDX-License-Identifier: Apache-2.0
 *
 * What the software GPU must know of a PTX module without compiling it: its kernels, their
 * parameters, its variables. A quick scan in the client's process; linked into the software GPU
 * and into harp-ptxc (one truth for both). Fuzzed: any bytes may come in.
 */
#ifndef HARP_PTX_INDEX_H
#define HARP_PTX_INDEX_H

#include <stddef.h>
#include <stdint.h>

struct ptx_param {
    uint32_t offset, bytes, align;
};

struct ptx_entry {
    char *name;
    struct ptx_param *params;
    uint32_t param_count;
    uint32_t params_bytes; /* whole packed block */
    uint32_t reqntid[3];   /* 0: not given */
    uint32_t maxntid[3];   /* 0: not given */
    uint32_t minnctapersm;
    uint32_t static_shared_bytes; /* variables in .shared used by or visible to this kernel */
    uint32_t local_bytes;
    uint32_t registers;  /* estimate: live .reg declarations, 32-bit units, capped at 255 */
    uint64_t text_bytes; /* of its body and of those of all functions it may call */
};

enum ptx_space { PTX_GLOBAL, PTX_CONST };

struct ptx_variable {
    char *name;
    enum ptx_space space;
    uint64_t bytes;
    uint32_t align;
    uint8_t *init; /* NULL: zeroes */
    uint64_t init_bytes;
    uint32_t visible;  /* reachable by cuModuleGetGlobal */
    uint32_t managed;  /* wants memory that the host reaches as well */
    struct ptx_reloc { /* initialisers that hold addresses of other variables */
        uint64_t offset;
        uint32_t variable;
        uint64_t addend;
    } *relocs;
    uint32_t reloc_count;
};

struct ptx_index {
    uint32_t ptx_major, ptx_minor; /* .version */
    uint32_t target_sm;            /* .target sm_NN */
    char target_kind;              /* 'a' of sm_90a: that one only; 'f': its family; 0: newer too */
    uint32_t address_size;
    struct ptx_entry *entries;
    uint32_t entry_count;
    struct ptx_variable *variables;
    uint32_t variable_count;
    void *memory; /* all of the above; ptx_index_free's */
};

/* Reads `text` (need not be NUL-terminated) and, unless it is very large, checks that its
 * instructions exist; those that exist but are not supported pass (harp-ptxc refuses their kernel).
 * 0, or -EINVAL with one line of explanation (line number and token) in `why`, or -ENOMEM. */
int ptx_index_read(const char *text, size_t bytes, struct ptx_index *out, char *why,
                   size_t why_bytes);
/* The same for a module that will be linked with others: what is external may be defined nowhere.
 */
int ptx_index_object(const char *text, size_t bytes, struct ptx_index *out, char *why,
                     size_t why_bytes);
void ptx_index_free(struct ptx_index *index);

#endif
