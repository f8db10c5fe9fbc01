/* SPDX-License-Identifier: Apache-2.0
 *
 * Sixteen threads at a time: a kernel once more in C, where each instruction is made for a row of
 * threads that follow each other in x before the next one is.
 *
 * (1) A register that has the same value in all threads of a row, or one that grows by a constant
 *     from thread to thread (its stride), is one variable: the first thread's. Its arithmetic is
 *     the one thread's, so addresses cost a row as much as a thread. Others are vectors, and their
 *     instructions loops over an array of them that the compiler makes vector instructions of.
 * (2) A row stays together while its threads branch alike. Where they do not, each goes on alone
 *     from there in the text for one thread, which is there too.
 * (3) An access to a range that is all mapped is checked once; else thread by thread, as alone.
 *     Addresses that nothing was known of may lie one behind the other too: that is looked at
 * first.
 */
#ifndef HARP_PTXC_ROWS_H
#define HARP_PTXC_ROWS_H

#include "soft/ptxc/emit.h"

enum { ROW = 16 };

struct row_class { /* of a register */
    enum { ROW_UNSEEN, ROW_STRIDE, ROW_OWN } kind;
    int64_t stride; /* of ROW_STRIDE; 0: the same in all threads */
};

struct rows {
    struct row_class *regs; /* of the kernel's registers */
    uint32_t counted;       /* instructions of a thread that the block of e->at counts */
    bool *entries;          /* statements where threads may go on alone; room for the end */
    bool *counts;           /* predicates on which a row may part: in how many threads they hold */
    uint8_t *bytes;         /* of a register */
};

/* What is known about the kernel's registers; false: this kernel is not made for rows. */
bool rows_plan(struct emitter *e, struct ptx_body *body, struct rows *rows);
struct row_class rows_class(const struct rows *rows, const struct ptx_operand *op);
/* Is one of the registers of this result the threads' own? */
bool rows_result_is_own(const struct rows *rows, const struct ptx_operand *to);
/* The operand with a stride, if this compares one that grows or falls along the row with one that
 * is the same all along: then the first thread and the last decide for all between them. */
const struct ptx_operand *rows_steady(const struct rows *rows, const struct ptx_instr *in);
/* Statements before which a row may part, into rows->entries. */
void rows_find_entries(struct emitter *e, struct rows *rows);
/* The registers of a row as they are handed to threads that go on alone: a struct's members. */
void rows_emit_state(struct emitter *e, const struct rows *rows);
/* In the text for one thread: takes them over and goes on where `from` says. */
void rows_emit_resume(struct emitter *e, const struct rows *rows);
/* The text for a row: variables, statements and the way out, between { and }. */
void rows_emit(struct emitter *e, struct rows *rows, const bool *starts);

#endif
