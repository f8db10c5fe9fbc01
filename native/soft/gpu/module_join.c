/* SPDX-License-Identifier: Apache-2.0
 *
 * A module is cut into statements: directives, functions, variables. The joined text holds all of
 * them in their order but for the headers and for weak definitions that another one replaces. A
 * name without linkage that several modules have is renamed in each.
 */
#include "soft/gpu/module_join.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "soft/ptxc/lex.h"

enum { HEADER = 1, EXTERNAL = 2, WEAK = 4, VISIBLE = 8, DEFINED = 16, DROPPED = 32 };

struct statement {
    const char *from, *to;
    size_t part;
    unsigned flags;
    const char *name; /* the first it declares; NULL: none */
    uint32_t name_bytes, names;
    bool renamed;
};

struct join {
    const struct soft_part *parts;
    struct statement *statements;
    size_t count, room;
    char *out;
    size_t out_bytes, out_room;
    bool no_memory;
};

/* --------------------------------------------------------------------------- statements ------- */

static bool is_punct(const struct ptx_token *token, char punct)
{
    return token->kind == TOK_PUNCT && token->punct == punct;
}

static bool is_end(const struct ptx_token *token)
{
    return token->kind == TOK_END || token->kind == TOK_BAD;
}

static unsigned linkage(const struct ptx_token *token)
{
    static const struct {
        const char *word;
        unsigned flag;
    } words[] = {{"visible", VISIBLE}, {"weak", WEAK}, {"common", WEAK}, {"extern", EXTERNAL}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (ptx_token_is(token, TOK_DOT, words[i].word))
            return words[i].flag;
    return 0;
}

static bool any_of(const struct ptx_token *token, const char *const *words)
{
    for (; *words != NULL; words++)
        if (ptx_token_is(token, TOK_DOT, *words))
            return true;
    return false;
}

static void add_name(struct statement *s, const struct ptx_token *token)
{
    if (s->names++ > 0)
        return;
    s->name = token->text;
    s->name_bytes = token->bytes;
}

/* Up to and with the body or the ';'. A .pragma among the directives has a ';' of its own. */
static void read_function(struct ptx_lexer *lexer, struct statement *s)
{
    struct ptx_token token;
    bool pragma = false;
    for (int depth = 0;;) {
        ptx_lex(lexer, &token);
        if (is_end(&token))
            return;
        pragma = pragma || ptx_token_is(&token, TOK_DOT, "pragma");
        if (is_punct(&token, '('))
            depth++;
        else if (is_punct(&token, ')'))
            depth--;
        else if (token.kind == TOK_WORD && depth == 0 && s->names == 0)
            add_name(s, &token);
        else if (is_punct(&token, ';') && !pragma)
            return;
        else if (is_punct(&token, ';'))
            pragma = false;
        else if (is_punct(&token, '{')) {
            s->flags |= DEFINED;
            ptx_skip_braces(lexer);
            return;
        }
    }
}

static void read_variables(struct ptx_lexer *lexer, struct statement *s)
{
    struct ptx_token token;
    bool value = false;
    for (int depth = 0;;) {
        ptx_lex(lexer, &token);
        if (is_end(&token) || (is_punct(&token, ';') && depth == 0))
            break;
        if (is_punct(&token, '(') || is_punct(&token, '{') || is_punct(&token, '['))
            depth++;
        else if (is_punct(&token, ')') || is_punct(&token, '}') || is_punct(&token, ']'))
            depth--;
        else if (depth == 0 && is_punct(&token, ','))
            value = false;
        else if (depth == 0 && is_punct(&token, '='))
            value = true;
        else if (depth == 0 && token.kind == TOK_WORD && !value)
            add_name(s, &token);
    }
    if ((s->flags & EXTERNAL) == 0)
        s->flags |= DEFINED;
}

/* .version, .target, .address_size: the joined text has its own. */
static void read_header(struct ptx_lexer *lexer)
{
    struct ptx_token token;
    struct ptx_lexer ahead;
    do {
        ptx_lex(lexer, &token);
        ahead = *lexer;
        ptx_lex(&ahead, &token);
        if (is_punct(&token, ','))
            *lexer = ahead;
    } while (is_punct(&token, ','));
}

static void read_other(struct ptx_lexer *lexer, const struct ptx_token *first)
{
    struct ptx_token token;
    if (ptx_token_is(first, TOK_DOT, "file") || ptx_token_is(first, TOK_DOT, "loc")) {
        for (struct ptx_lexer ahead = *lexer;; *lexer = ahead) { /* the line's rest */
            ptx_lex(&ahead, &token);
            if (is_end(&token) || token.line != first->line)
                return;
        }
    }
    do {
        ptx_lex(lexer, &token);
        if (is_punct(&token, '{')) {
            ptx_skip_braces(lexer);
            return;
        }
    } while (!is_end(&token) && !is_punct(&token, ';'));
}

static bool read_statement(struct ptx_lexer *lexer, struct statement *s)
{
    static const char *const headers[] = {"version", "target", "address_size", NULL};
    static const char *const functions[] = {"entry", "func", NULL};
    static const char *const spaces[] = {"global", "const", "shared", "local", "tex", NULL};
    struct ptx_token token;
    ptx_lex(lexer, &token);
    if (token.kind != TOK_DOT)
        return false;
    s->from = token.text - 1;
    for (unsigned flag; (flag = linkage(&token)) != 0; ptx_lex(lexer, &token))
        s->flags |= flag;
    if (any_of(&token, headers)) {
        s->flags |= HEADER;
        read_header(lexer);
    } else if (any_of(&token, functions)) {
        if (ptx_token_is(&token, TOK_DOT, "entry"))
            s->flags |= VISIBLE; /* the client asks for it by name */
        read_function(lexer, s);
    } else if (any_of(&token, spaces)) {
        read_variables(lexer, s);
    } else {
        read_other(lexer, &token);
    }
    s->to = lexer->at;
    return true;
}

static bool cut(struct join *join, size_t part)
{
    const char *text = join->parts[part].text;
    struct ptx_lexer lexer = {.at = text, .end = text + strlen(text), .line = 1};
    for (;;) {
        if (join->count == join->room) {
            size_t room = join->room * 2 + 64;
            struct statement *wider = realloc(join->statements, room * sizeof *wider);
            if (wider == NULL)
                return false;
            join->statements = wider;
            join->room = room;
        }
        struct statement *s = &join->statements[join->count];
        *s = (struct statement){.part = part};
        if (!read_statement(&lexer, s))
            return true;
        join->count++;
    }
}

/* ------------------------------------------------------------------------------- names -------- */

static bool is_local(const struct statement *s)
{
    return s->name != NULL && (s->flags & (HEADER | EXTERNAL | WEAK | VISIBLE)) == 0;
}

static int by_name(const void *a, const void *b)
{
    const struct statement *const *x = a, *const *y = b;
    uint32_t shorter = (*x)->name_bytes < (*y)->name_bytes ? (*x)->name_bytes : (*y)->name_bytes;
    int order = memcmp((*x)->name, (*y)->name, shorter);
    if (order == 0 && (*x)->name_bytes != (*y)->name_bytes)
        order = (*x)->name_bytes < (*y)->name_bytes ? -1 : 1;
    return order != 0 ? order : (*x < *y ? -1 : 1);
}

static bool same_name(const struct statement *a, const struct statement *b)
{
    return a->name_bytes == b->name_bytes && memcmp(a->name, b->name, a->name_bytes) == 0;
}

/* Statements that declare one name: which definition stays? */
static bool settle(struct join *join, struct statement **group, size_t count, char *why,
                   size_t why_bytes)
{
    struct statement *stays = NULL;
    bool shared = false;
    for (size_t i = 1; i < count; i++)
        shared = shared || group[i]->part != group[0]->part;
    for (size_t i = 0; i < count; i++) {
        struct statement *s = group[i];
        if (is_local(s)) {
            s->renamed = shared;
            continue;
        }
        if ((s->flags & DEFINED) == 0)
            continue;
        if (stays == NULL || ((stays->flags & WEAK) != 0 && (s->flags & WEAK) == 0)) {
            if (stays != NULL)
                stays->flags |= DROPPED;
            stays = s;
        } else if ((s->flags & WEAK) != 0) {
            s->flags |= DROPPED;
        } else {
            snprintf(why, why_bytes, "%.*s is defined in %s and in %s",
                     s->name_bytes > 200 ? 200 : (int)s->name_bytes, s->name,
                     join->parts[stays->part].name, join->parts[s->part].name);
            return false;
        }
    }
    return true;
}

static bool resolve(struct join *join, char *why, size_t why_bytes)
{
    struct statement **named = calloc(join->count + 1, sizeof(struct statement *));
    size_t count = 0;
    bool good = named != NULL;
    join->no_memory = named == NULL;
    for (size_t i = 0; good && i < join->count; i++)
        if (join->statements[i].name != NULL)
            named[count++] = &join->statements[i];
    if (good && count > 0)
        qsort(named, count, sizeof(struct statement *), by_name);
    for (size_t i = 0, next; good && i < count; i = next) {
        for (next = i + 1; next < count && same_name(named[i], named[next]);)
            next++;
        good = settle(join, named + i, next - i, why, why_bytes);
    }
    free(named);
    return good;
}

/* -------------------------------------------------------------------------------- text -------- */

static void put(struct join *join, const char *text, size_t bytes)
{
    if (join->out_bytes + bytes + 1 > join->out_room) {
        size_t room = (join->out_bytes + bytes + 1) * 2;
        char *wider = realloc(join->out, room);
        if (wider == NULL) {
            join->no_memory = true;
            return;
        }
        join->out = wider;
        join->out_room = room;
    }
    memcpy(join->out + join->out_bytes, text, bytes);
    join->out_bytes += bytes;
    join->out[join->out_bytes] = '\0';
}

static bool is_renamed(const struct join *join, size_t part, const struct ptx_token *token)
{
    for (size_t i = 0; i < join->count; i++) {
        const struct statement *s = &join->statements[i];
        if (s->renamed && s->part == part && s->name_bytes == token->bytes &&
            memcmp(s->name, token->text, token->bytes) == 0)
            return true;
    }
    return false;
}

/* Where an instruction's name stands; a function may be called like one. */
static bool is_opcode(const struct ptx_token *before, bool predicate, const char *behind)
{
    bool first = predicate || (before->kind == TOK_PUNCT && strchr(";{}:", before->punct) != NULL);
    return first && *behind != ':';
}

static void put_statement(struct join *join, const struct statement *s, bool renames)
{
    struct ptx_lexer lexer = {.at = s->from, .end = s->to, .line = 1};
    struct ptx_token token = {0}, before = {0}, earlier = {0};
    const char *done = s->from;
    while (renames) {
        earlier = before;
        before = token;
        ptx_lex(&lexer, &token);
        if (is_end(&token))
            break;
        bool predicate =
            before.kind == TOK_WORD && (is_punct(&earlier, '@') || is_punct(&earlier, '!'));
        if (token.kind != TOK_WORD || is_opcode(&before, predicate, lexer.at) ||
            !is_renamed(join, s->part, &token))
            continue;
        char tail[32];
        int n = snprintf(tail, sizeof tail, "$part%zu", s->part);
        const char *end = token.text + token.bytes;
        put(join, done, (size_t)(end - done));
        put(join, tail, (size_t)n);
        done = end;
    }
    put(join, done, (size_t)(s->to - done));
    put(join, "\n", 1);
}

char *soft_ptx_join(const struct soft_part *parts, size_t count, const char *head, char *why,
                    size_t why_bytes)
{
    struct join join = {.parts = parts};
    bool good = true;
    for (size_t i = 0; good && i < count; i++)
        good = cut(&join, i);
    if (good && resolve(&join, why, why_bytes)) {
        put(&join, head, strlen(head));
        bool renames = false;
        for (size_t i = 0; i < join.count; i++)
            renames = renames || join.statements[i].renamed;
        for (size_t i = 0; i < join.count; i++)
            if ((join.statements[i].flags & (HEADER | DROPPED)) == 0)
                put_statement(&join, &join.statements[i], renames);
        good = !join.no_memory;
    } else {
        good = false;
    }
    free(join.statements);
    if (good)
        return join.out;
    free(join.out);
    return NULL;
}
