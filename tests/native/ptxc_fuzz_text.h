/* SPDX-License-Identifier: Apache-2.0
 *
 * PTX texts for ptxc_fuzz.c: whole ones, made from the translator's own table, and damage to them.
 */
#ifndef PTXC_FUZZ_TEXT_H
#define PTXC_FUZZ_TEXT_H

#include <stddef.h>
#include <stdint.h>

enum { TEXT_ROOM = 1 << 16, LINES = 12, KINDS = 14 };

struct fuzz_text {
    char at[TEXT_ROOM];
    size_t bytes;
    int rows[LINES], row_count; /* of the table, one for each line made from it */
};

extern uint64_t fuzz_state;
uint32_t draw(uint32_t below);
/* A module whose kernel k has some lines, each made from a row of the table or a sample. */
void text_make(struct fuzz_text *text);
/* Does something to it; which of KINDS. */
int text_damage(struct fuzz_text *text);

#endif
