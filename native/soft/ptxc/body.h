/* SPDX-License-Identifier: Apache-2.0
 *
 * A function's body: registers, statements, operands. Scopes are resolved here, so that the
 * emitter sees numbers only.
 */
#ifndef HARP_PTXC_BODY_H
#define HARP_PTXC_BODY_H

#include "soft/ptxc/module.h"

struct ptx_reg {
    const char *name;
    enum ptx_type type;
    bool used;
    bool as_float, as_bits; /* how instructions look at it: decides its C type */
};

struct ptx_label {
    const char *name;
    uint32_t scope;
    uint32_t at; /* statement it stands before */
    bool placed;
    /* .branchtargets, .calltargets and .callprototype have a label too */
    struct ptx_label **targets;
    uint32_t target_count;
    struct ptx_func *prototype;
};

enum ptx_operand_kind {
    OPND_REG,
    OPND_INT,     /* value */
    OPND_F32,     /* value: bits */
    OPND_F64,     /* value: bits */
    OPND_SPECIAL, /* name, e.g. "tid.x" */
    OPND_DECL,    /* decl + value: a variable or parameter */
    OPND_FUNC,    /* func */
    OPND_LABEL,   /* label, not yet resolved to a statement: see label->at */
    OPND_SINK,    /* _ */
    OPND_MEM,     /* [parts[0] + value] */
    OPND_VECTOR,  /* {parts} */
    OPND_LIST,    /* (parts): of a call */
};

struct ptx_operand {
    enum ptx_operand_kind kind;
    bool negated; /* !p, -r */
    uint32_t reg;
    uint32_t pair; /* p|q: register + 1, or 0 */
    bool pair_sink, sink_pair;
    uint64_t value;
    const char *name;
    struct ptx_decl *decl;
    struct ptx_func *func;
    struct ptx_label *label;
    struct ptx_operand *parts;
    uint32_t part_count, part_room;
};

enum { MAX_OPERANDS = 8, MAX_MODS = 20 };

struct ptx_instr {
    const char *op;
    const char **mods;
    uint32_t mod_count;
    struct ptx_operand *ops;
    uint32_t op_count;
    uint32_t guard; /* register + 1, or 0 */
    bool guard_negated;
    uint32_t line;
    const char *text; /* of the statement, one line, as written */
    uint32_t bytes;
};

struct ptx_body {
    struct ptx_func *func;
    struct ptx_reg *regs;
    uint32_t reg_count, reg_room;
    struct ptx_instr **code;
    uint32_t code_count, code_room;
    struct ptx_label **labels;
    uint32_t label_count, label_room;
    struct ptx_decl **params; /* .param declared inside, for calls: C arrays */
    uint32_t param_count, param_room;
    struct ptx_decl **locals; /* .local: ordinal is the offset in the frame */
    uint32_t local_count, local_room;
    uint64_t local_bytes;
    struct spin_state *spin; /* spin.c's, made by the emitter: which loops wait for something */
};

/* Needs module_layout() to have placed the function's shared variables. */
struct ptx_body *body_read(struct ptx_module *module, struct ptx_func *func);

#endif
