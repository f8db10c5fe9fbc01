/* SPDX-License-Identifier: Apache-2.0
 *
 * What body.c and body_operand.c share.
 */
#ifndef HARP_PTXC_BODY_PARTS_H
#define HARP_PTXC_BODY_PARTS_H

#include "soft/ptxc/body.h"

enum { NAME_BUCKETS = 1024 };

struct local_name { /* a register, register family, parameter, variable or label */
    const char *name;
    size_t bytes;
    struct local_name *chain;
    uint32_t scope;
    uint32_t reg, reg_count; /* family: %r<reg_count> */
    struct ptx_decl *decl;
    struct ptx_label *label;
    bool family, is_reg;
};

struct body_reader {
    struct module_reader r;
    struct ptx_module *module;
    struct job *job;
    struct ptx_body *body;
    struct local_name *buckets[NAME_BUCKETS];
    uint32_t *parents; /* of each scope */
    uint32_t scope, scope_count, scope_room;
    bool in_call; /* reading the operands of a call: (...) is a list */
    uint32_t next_shared;
    struct pending { /* label operands, resolved at the end: labels may stand behind their use */
        struct ptx_label **slot;
        const char *name;
        uint32_t scope, line;
    } *pending;
    uint32_t pending_count, pending_room;
};

/* The innermost of that name which `scope` sees, or NULL. */
struct local_name *body_find(struct body_reader *b, const char *name, size_t bytes, uint32_t scope,
                             bool family);
/* A register of the name, alone or as a member of a family: its number + 1, or 0. */
uint32_t body_find_reg(struct body_reader *b, const char *name, size_t bytes);
bool body_at(struct body_reader *b, char punct);
/* `out` is zeroed. `in_mem`: inside of brackets, where any operand may have an offset. */
void body_operand(struct body_reader *b, struct ptx_operand *out, bool in_mem, int depth);

#endif
