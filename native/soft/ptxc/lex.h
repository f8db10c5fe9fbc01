/* SPDX-License-Identifier: Apache-2.0
 *
 * PTX text -> tokens. Any bytes may come in; nothing is copied.
 */
#ifndef HARP_PTXC_LEX_H
#define HARP_PTXC_LEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum ptx_tok {
    TOK_END,
    TOK_WORD,   /* add, %r1, foo$bar, _ */
    TOK_DOT,    /* .global, .L2::128B: text without the first dot */
    TOK_INT,    /* value */
    TOK_F32,    /* 0f3F800000: value holds the bits */
    TOK_F64,    /* 0d..., 1.5: value holds the bits */
    TOK_STRING, /* text without the quotes */
    TOK_PUNCT,  /* punct */
    TOK_BAD,
};

struct ptx_token {
    enum ptx_tok kind;
    char punct;
    uint32_t line;
    const char *text;
    uint32_t bytes;
    uint64_t value;
};

struct ptx_lexer {
    const char *at, *end;
    uint32_t line;
};

void ptx_lex(struct ptx_lexer *lexer, struct ptx_token *token);
/* `at` stands behind a '{': moves behind its '}'. False when the text ends first. */
bool ptx_skip_braces(struct ptx_lexer *lexer);
bool ptx_token_is(const struct ptx_token *token, enum ptx_tok kind, const char *text);

#endif
