/* SPDX-License-Identifier: Apache-2.0
 *
 * One kernel and its callees -> C text.
 *
 * A kernel whose threads never wait for each other becomes three loops over a body; any other one
 * becomes fibers (rt/fiber.h). Registers are C locals; control flow is goto.
 */
#ifndef HARP_PTXC_EMIT_H
#define HARP_PTXC_EMIT_H

#include "soft/ptxc/body.h"

struct text {
    char *at;
    size_t bytes, room;
};

struct rows;

struct emitter {
    struct job *job;
    struct ptx_module *module;
    struct ptx_func *kernel;
    struct module_layout layout;
    struct ptx_body **bodies; /* of layout.funcs */
    struct text out;
    /* what stands where now */
    struct ptx_body *body;
    struct ptx_instr *in;
    uint32_t at; /* statement */
    bool quick;  /* soon compiled rather than fast: PTX_KERNEL_QUICK */
    bool survey; /* first pass: only learn how registers are used */
    /* properties of the kernel */
    bool fibers, barrier, grid_sync, recursive, deep_exit, deep_watch, sleeps, warps;
    bool allocates, eights, meets; /* alloca; 8-bit floating point; mbarrier and clusters */
    bool heap, grid_barrier;       /* functions of the device's runtime */
    bool loop_calls;               /* functions are called in loops */
    bool waits;                    /* RT_SPIN stands somewhere */
    uint32_t sites;
    /* text for a row of threads (rows.h) */
    struct rows *rows;       /* NULL: for single threads only */
    uint32_t times;          /* threads that one statement stands for; 0: one */
    const char *row_pointer; /* C pointer that stands for one that is checked */
};

/* Appends C text. In the survey pass it is thrown away. */
void put(struct emitter *e, const char *format, ...) __attribute__((format(printf, 2, 3)));
void put_to(struct emitter *e, struct text *text, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Text in the job's memory. */
const char *say(struct emitter *e, const char *format, ...) __attribute__((format(printf, 2, 3)));
_Noreturn void refuse(struct emitter *e, const char *why);
_Noreturn void invalid(struct emitter *e, const char *why);

bool has_mod(const struct ptx_instr *in, const char *mod);
/* The n-th modifier that names a type, from 0; TY_NONE if there are fewer. */
bool is_op(const struct ptx_instr *in, const char *op);
/* Threads meet in it, or tell each other something. */
bool meets(const struct ptx_instr *in);
enum ptx_type type_mod(const struct ptx_instr *in, uint32_t n);
void want_operands(struct emitter *e, uint32_t least, uint32_t most); /* or it is invalid */

/* C expression, of the C type of `type`, for an operand's value. */
const char *read_as(struct emitter *e, const struct ptx_operand *op, enum ptx_type type);
/* As read_as, but a wider register is cut down (ld, st, cvt). */
const char *read_loose(struct emitter *e, const struct ptx_operand *op, enum ptx_type type);
/* op = value; value is of the C type of `type`. Wider registers are extended. */
void write_as(struct emitter *e, const struct ptx_operand *op, enum ptx_type type,
              const char *value);
/* Bits may be looked at as anything (mov, ld, st, selp): says nothing about the register. */
const char *read_bits(struct emitter *e, const struct ptx_operand *op, enum ptx_type type);
void write_bits(struct emitter *e, const struct ptx_operand *op, enum ptx_type type,
                const char *value);
/* C string literal: "kernel: line N: opcode". */
const char *where(struct emitter *e);
/* Address of a variable in its own space, as uint64_t. */
const char *address_of(struct emitter *e, const struct ptx_decl *decl, uint64_t offset);
/* [operand] -> C expression, uint64_t, in the space of the instruction. */
const char *memory_address(struct emitter *e, const struct ptx_operand *mem);
bool is_kernel_param(const struct emitter *e, const struct ptx_decl *decl);

struct ptx_row { /* one form of an instruction: ops.c */
    const char *op;
    const char *types;    /* allowed last types, space separated; "" = none wanted; "*" = any */
    const char *mods;     /* groups "a|b", optional ones end in ? */
    const char *operands; /* "d a b:u32": role and type; t = the type, w = twice as wide */
    const char *expr;     /* $a... operands, $t type, $C its C type, $R rounding, $1 group 1 */
    void (*emit)(struct emitter *e, const struct ptx_row *row); /* instead of expr */
};

/* C type of the register's variable. */
const char *register_c(const struct ptx_reg *reg);
/* First pass over a body: checks every instruction, learns how registers are used. */
void survey_body(struct emitter *e, struct ptx_body *body);
/* Emits e->in, without its guard. */
void emit_instruction(struct emitter *e);
/* What scheme the instruction asks for: sets the properties above. */
void survey_scheme(struct emitter *e, const struct ptx_instr *in);

/* The whole C text of the kernel `name`, prelude included. Two numbers in it, PTXC_STACK_MARK and
 * PTXC_THREAD_MARK, are replaced in the compiled file, once the compiler has said how much stack
 * the functions take (stack.c). */
void emit_kernel(struct emitter *e, const char *name);
/* More statements than this: address checks by call and -O1; much more: -O0. With all of -O2, gcc
 * 12 took 2.9 s over 2000 statements and 9 GB over 30000; so it takes 0.3 s and 0.2 GB. */
enum { PTXC_BIG = 1200, PTXC_HUGE = 12000 };
#define PTXC_STACK_MARK  0x9d3c51f7a2b6e840ull
#define PTXC_THREAD_MARK 0x9d3c51f7a2b6e841ull

extern const struct ptx_row ptx_rows[];
extern const size_t ptx_row_count;

#define EMITTER(name) void name(struct emitter *e, const struct ptx_row *row)
EMITTER(emit_mov);
EMITTER(emit_cvt);
EMITTER(emit_setp);
EMITTER(emit_set);
EMITTER(emit_slct);
EMITTER(emit_lop3);
EMITTER(emit_carry);
EMITTER(emit_dp);
EMITTER(emit_ld);
EMITTER(emit_st);
EMITTER(emit_atom);
EMITTER(emit_cvta);
EMITTER(emit_isspacep);
EMITTER(emit_cp_async);
EMITTER(emit_fence);
EMITTER(emit_nothing);
EMITTER(emit_policy);
EMITTER(emit_bra);
EMITTER(emit_brx);
EMITTER(emit_call);
EMITTER(emit_ret);
EMITTER(emit_stop);
EMITTER(emit_bar);
EMITTER(emit_shfl);
EMITTER(emit_vote);
EMITTER(emit_match);
EMITTER(emit_redux);
EMITTER(emit_activemask);
EMITTER(emit_elect);
EMITTER(emit_nanosleep);
EMITTER(emit_mma);
EMITTER(emit_alloca);
EMITTER(emit_mbarrier);
EMITTER(emit_cluster_barrier);
EMITTER(emit_mapa);
EMITTER(emit_cvt_eights);

#endif
