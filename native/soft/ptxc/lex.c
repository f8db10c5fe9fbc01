/* SPDX-License-Identifier: Apache-2.0 */
#include "soft/ptxc/lex.h"

#include <locale.h>
#include <stdlib.h>
#include <string.h>

enum { C_SPACE = 1, C_WORD = 2, C_DIGIT = 4, C_HEX = 8 };

/* One class byte per character, filled on first use would need a lock: so it is a function. */
static unsigned char_class(char ch)
{
    unsigned char c = (unsigned char)ch;
    if (c >= '0' && c <= '9')
        return C_DIGIT | C_HEX;
    unsigned char low = c | 0x20;
    if (low >= 'a' && low <= 'z')
        return low <= 'f' ? C_WORD | C_HEX : C_WORD;
    if (c == '_' || c == '$' || c == '%')
        return C_WORD;
    if (c == ' ' || (c >= '\t' && c <= '\r'))
        return C_SPACE;
    return 0;
}

static bool in_word(char c)
{
    return c != '%' && (char_class(c) & (C_WORD | C_DIGIT));
}

/* Spaces and comments. False: a comment never ends. */
static bool skip_space(struct ptx_lexer *lexer)
{
    const char *at = lexer->at, *end = lexer->end;
    for (; at < end; at++) {
        if (*at == '\n') {
            lexer->line++;
        } else if (char_class(*at) == C_SPACE) {
            continue;
        } else if (*at == '/' && end - at > 1 && at[1] == '/') {
            const char *stop = memchr(at, '\n', (size_t)(end - at));
            at = (stop ? stop : end) - 1;
        } else if (*at == '/' && end - at > 1 && at[1] == '*') {
            for (at += 2; end - at > 1 && !(at[0] == '*' && at[1] == '/'); at++)
                lexer->line += *at == '\n';
            if (end - at <= 1) {
                lexer->at = end;
                return false;
            }
            at++;
        } else {
            break;
        }
    }
    lexer->at = at;
    return true;
}

static int hex_value(char c)
{
    return c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10;
}

/* `digits` digits of `base` from `at`; 0 digits = as many as there are. */
static bool read_digits(const char **at, const char *end, unsigned base, int digits, uint64_t *out)
{
    uint64_t value = 0;
    int n = 0;
    for (; *at < end && (char_class(**at) & C_HEX) && (!digits || n < digits); (*at)++, n++) {
        unsigned digit = (unsigned)hex_value(**at);
        if (digit >= base)
            break;
        if (value > (UINT64_MAX - digit) / base)
            return false;
        value = value * base + digit;
    }
    *out = value;
    return digits ? n == digits : n > 0;
}

static bool read_decimal(const char *from, const char *to, uint64_t *bits)
{
    char buffer[128], *stop;
    size_t bytes = (size_t)(to - from);
    if (bytes >= sizeof(buffer))
        return false;
    memcpy(buffer, from, bytes);
    buffer[bytes] = 0;
    /* The client's locale may have another decimal point. */
    locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (!c)
        return false;
    double value = strtod_l(buffer, &stop, c);
    freelocale(c);
    memcpy(bits, &value, sizeof(value));
    return *stop == 0;
}

static enum ptx_tok lex_number(struct ptx_lexer *lexer, uint64_t *value)
{
    const char *at = lexer->at, *end = lexer->end, *start = at;
    char second = end - at > 1 ? (char)(at[1] | 0x20) : 0;
    enum ptx_tok kind = TOK_INT;
    bool good;
    if (*at == '0' && (second == 'f' || second == 'd')) {
        at += 2;
        kind = second == 'f' ? TOK_F32 : TOK_F64;
        good = read_digits(&at, end, 16, second == 'f' ? 8 : 16, value);
    } else if (*at == '0' && second == 'x') {
        at += 2;
        good = read_digits(&at, end, 16, 0, value);
    } else if (*at == '0' && second == 'b' && end - at > 2 && (at[2] == '0' || at[2] == '1')) {
        at += 2;
        good = read_digits(&at, end, 2, 0, value);
    } else {
        const char *digit = at;
        while (digit < end && char_class(*digit) & C_DIGIT)
            digit++;
        bool point = digit < end && *digit == '.';
        bool power = digit < end && (*digit | 0x20) == 'e';
        if (point || power) {
            kind = TOK_F64;
            if (point)
                for (digit++; digit < end && char_class(*digit) & C_DIGIT;)
                    digit++;
            if (digit < end && (*digit | 0x20) == 'e') {
                digit++;
                if (digit < end && (*digit == '+' || *digit == '-'))
                    digit++;
                while (digit < end && char_class(*digit) & C_DIGIT)
                    digit++;
            }
            good = read_decimal(start, digit, value);
            at = digit;
        } else {
            good = read_digits(&at, end, *at == '0' ? 8 : 10, 0, value);
        }
    }
    if (kind == TOK_INT && at < end && (*at | 0x20) == 'u')
        at++;
    if (at < end && in_word(*at))
        good = false;
    lexer->at = at;
    return good ? kind : TOK_BAD;
}

void ptx_lex(struct ptx_lexer *lexer, struct ptx_token *token)
{
    bool closed = skip_space(lexer);
    const char *end = lexer->end;
    token->line = lexer->line;
    token->text = lexer->at;
    token->bytes = 0;
    token->punct = 0;
    token->value = 0;
    if (lexer->at >= end) {
        token->kind = closed ? TOK_END : TOK_BAD;
        return;
    }
    const char *at = lexer->at;
    unsigned kind = char_class(*at);
    if (kind & C_DIGIT) {
        token->kind = lex_number(lexer, &token->value);
    } else if (kind & C_WORD && (*at != '%' || (end - at > 1 && in_word(at[1])))) {
        for (at++; at < end && in_word(*at);)
            at++;
        token->kind = TOK_WORD;
        lexer->at = at;
    } else if (*at == '.' && end - at > 1 && in_word(at[1])) {
        at++;
        token->text = at;
        for (;;) {
            while (at < end && in_word(*at))
                at++;
            if (end - at > 2 && at[0] == ':' && at[1] == ':' && in_word(at[2]))
                at += 2;
            else
                break;
        }
        token->kind = TOK_DOT;
        lexer->at = at;
    } else if (*at == '"') {
        const char *stop = memchr(at + 1, '"', (size_t)(end - at - 1));
        token->text = at + 1;
        if (!stop) {
            token->kind = TOK_BAD;
            lexer->at = end;
            return;
        }
        for (const char *c = at; c < stop; c++)
            lexer->line += *c == '\n';
        token->kind = TOK_STRING;
        token->bytes = (uint32_t)(stop - token->text);
        lexer->at = stop + 1;
        return;
    } else {
        token->kind = *at > 0x20 && *at < 0x7f ? TOK_PUNCT : TOK_BAD;
        token->punct = *at;
        lexer->at = at + 1;
    }
    token->bytes = (uint32_t)(lexer->at - token->text);
}

bool ptx_skip_braces(struct ptx_lexer *lexer)
{
    unsigned depth = 1;
    while (skip_space(lexer) && lexer->at < lexer->end) {
        char c = *lexer->at++;
        if (c == '{') {
            depth++;
        } else if (c == '}') {
            if (!--depth)
                return true;
        } else if (c == '"') {
            while (lexer->at < lexer->end && *lexer->at != '"')
                lexer->line += *lexer->at++ == '\n';
            if (lexer->at < lexer->end)
                lexer->at++;
        }
    }
    return false;
}

bool ptx_token_is(const struct ptx_token *token, enum ptx_tok kind, const char *text)
{
    return token->kind == kind && strlen(text) == token->bytes &&
           memcmp(token->text, text, token->bytes) == 0;
}
