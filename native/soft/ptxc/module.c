/* SPDX-License-Identifier: Apache-2.0
 *
 * A module's text from its .version to its end: directives, functions, variables.
 */
#include "soft/ptxc/module.h"

#include <string.h>

void reader_next(struct module_reader *reader)
{
    ptx_lex(&reader->lexer, &reader->token);
}

void reader_fail(struct module_reader *reader, const char *expected)
{
    const struct ptx_token *t = &reader->token;
    int bytes = t->bytes > 40 ? 40 : (int)t->bytes;
    job_fail(reader->module->job, PTXC_INVALID, "line %u: %s instead of `%.*s`", t->line, expected,
             t->kind == TOK_END ? 11 : bytes, t->kind == TOK_END ? "end of text" : t->text);
}

bool reader_take(struct module_reader *reader, char punct)
{
    if (reader->token.kind != TOK_PUNCT || reader->token.punct != punct)
        return false;
    reader_next(reader);
    return true;
}

void reader_expect(struct module_reader *reader, char punct)
{
    char text[] = "expected `?`";
    if (!reader_take(reader, punct)) {
        text[10] = punct;
        reader_fail(reader, text);
    }
}

uint32_t name_hash(const char *name, size_t bytes)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < bytes; i++)
        h = (h ^ (unsigned char)name[i]) * 16777619u;
    return h ^ h >> 15;
}

struct ptx_symbol *module_find(struct ptx_module *module, const char *name, size_t bytes)
{
    struct ptx_symbol *s = module->buckets[name_hash(name, bytes) % MODULE_BUCKETS];
    while (s && (strncmp(s->name, name, bytes) != 0 || s->name[bytes]))
        s = s->chain;
    return s;
}

static struct ptx_symbol *add_symbol(struct ptx_module *module, const char *name)
{
    struct ptx_symbol **bucket = &module->buckets[name_hash(name, strlen(name)) % MODULE_BUCKETS];
    struct ptx_symbol *s = job_new(module->job, 1, sizeof(*s));
    s->name = name;
    s->chain = *bucket;
    *bucket = s;
    return s;
}

static void read_triple(struct module_reader *reader, uint32_t out[3])
{
    uint32_t value[3] = {0, 1, 1};
    for (int i = 0; i < 3; i++) {
        value[i] = reader_count(reader);
        if (!reader_take(reader, ','))
            break;
    }
    memcpy(out, value, sizeof(value));
}

static void read_directives(struct module_reader *reader, struct ptx_func *func)
{
    static const char *const clusters[] = {"reqnctapercluster", "maxclusterrank"};
    uint32_t ignored[3];
    while (reader->token.kind == TOK_DOT) {
        struct ptx_token t = reader->token;
        reader_next(reader);
        if (ptx_token_is(&t, TOK_DOT, "maxntid"))
            read_triple(reader, func->maxntid);
        else if (ptx_token_is(&t, TOK_DOT, "reqntid"))
            read_triple(reader, func->reqntid);
        else if (ptx_token_is(&t, TOK_DOT, "minnctapersm"))
            func->minnctapersm = reader_count(reader);
        else if (ptx_token_is(&t, TOK_DOT, "maxnreg"))
            func->maxnreg = reader_count(reader);
        else if (ptx_token_is(&t, TOK_DOT, "maxnctapersm"))
            reader_count(reader);
        else if (ptx_token_is(&t, TOK_DOT, "abi_preserve") ||
                 ptx_token_is(&t, TOK_DOT, "abi_preserve_control"))
            reader_count(reader);
        else if (ptx_token_is(&t, TOK_DOT, clusters[0]) || ptx_token_is(&t, TOK_DOT, clusters[1])) {
            read_triple(reader, ignored);
            func->cluster |=
                ignored[0] * ignored[1] * ignored[2] > 1 && ptx_token_is(&t, TOK_DOT, clusters[0]);
        } else if (ptx_token_is(&t, TOK_DOT, "explicitcluster") ||
                   ptx_token_is(&t, TOK_DOT, "blocksareclusters"))
            func->cluster = true;
        else if (ptx_token_is(&t, TOK_DOT, "pragma")) {
            while (reader->token.kind == TOK_STRING || reader->token.punct == ',')
                reader_next(reader);
            reader_expect(reader, ';');
        } else if (ptx_token_is(&t, TOK_DOT, "attribute")) {
            reader_expect(reader, '(');
            while (!reader_take(reader, ')')) {
                if (reader->token.kind == TOK_END || reader->token.kind == TOK_BAD)
                    reader_fail(reader, "expected `)`");
                reader_next(reader);
            }
        } else if (!ptx_token_is(&t, TOK_DOT, "noreturn")) {
            reader->token = t;
            reader_fail(reader, "expected a performance directive or `{`");
        }
    }
}

static void read_func(struct module_reader *reader, bool entry)
{
    struct ptx_module *module = reader->module;
    struct ptx_decl *rets = NULL, *params = NULL;
    uint32_t ret_count = 0, param_count = 0;
    if (!entry && reader_take(reader, '('))
        reader_params(reader, true, &rets, &ret_count);
    uint32_t line = reader->token.line;
    const char *name = reader_name(reader);
    if (reader_take(reader, '('))
        reader_params(reader, true, &params, &param_count);
    struct ptx_symbol *symbol = module_find(module, name, strlen(name));
    if (symbol && (!symbol->func || symbol->func->has_body || symbol->func->entry != entry)) {
        /* A declaration behind the definition is fine, a second definition is not. */
        struct ptx_func spare = {0};
        read_directives(reader, &spare);
        if (!symbol->func || !reader_take(reader, ';'))
            job_fail(module->job, PTXC_INVALID, "line %u: `%s` is defined twice", line, name);
        return;
    }
    struct ptx_func *func = symbol ? symbol->func : NULL;
    if (!func) {
        func = job_new(module->job, 1, sizeof(*func));
        func->name = name;
        func->id = ++module->func_count;
        func->entry = entry;
        if (module->last_func)
            module->last_func->next = func;
        else
            module->funcs = func;
        module->last_func = func;
        add_symbol(module, name)->func = func;
    }
    func->line = line;
    func->rets = rets;
    func->ret_count = ret_count;
    func->params = params;
    func->param_count = param_count;
    read_directives(reader, func);
    if (reader_take(reader, ';'))
        return;
    if (reader->token.kind != TOK_PUNCT || reader->token.punct != '{')
        reader_fail(reader, "expected `{` or `;`");
    func->body = reader->lexer;
    func->has_body = true;
    if (!ptx_skip_braces(&reader->lexer)) {
        reader_next(reader);
        job_fail(module->job, PTXC_INVALID, "line %u: `%s` has no closing `}`", line, name);
    }
    func->body.end = reader->lexer.at - 1;
    reader_next(reader);
}

static void var_add(void *arg, struct ptx_decl *decl)
{
    struct ptx_module *module = arg;
    struct ptx_symbol *s = module_find(module, decl->name, strlen(decl->name));
    if (s && (s->func || (!s->var->external && !decl->external)))
        job_fail(module->job, PTXC_INVALID, "line %u: `%s` is defined twice", decl->line,
                 decl->name);
    if (s && decl->external)
        return;
    struct ptx_decl *var = s ? s->var : job_new(module->job, 1, sizeof(*var));
    *var = *decl;
    if (s)
        return;
    module->vars = job_grow(module->job, module->vars, module->var_count, &module->var_room,
                            sizeof(struct ptx_decl *));
    module->vars[module->var_count++] = var;
    add_symbol(module, decl->name)->var = var;
}

static enum ptx_where space_of(const struct ptx_token *t)
{
    static const struct {
        const char *name;
        enum ptx_where where;
    } spaces[] = {{"global", IN_GLOBAL}, {"const", IN_CONST}, {"shared", IN_SHARED},
                  {"local", IN_LOCAL},   {"tex", IN_GLOBAL},  {"param", IN_PARAM},
                  {"reg", IN_REG}};
    for (size_t i = 0; i < sizeof(spaces) / sizeof(spaces[0]); i++)
        if (ptx_token_is(t, TOK_DOT, spaces[i].name))
            return spaces[i].where;
    return IN_NONE;
}

static void skip_line(struct module_reader *reader)
{
    uint32_t line = reader->token.line;
    while (reader->token.kind != TOK_END && reader->token.kind != TOK_BAD &&
           reader->token.line == line)
        reader_next(reader);
}

static void read_version(struct module_reader *reader)
{
    struct ptx_token *t = &reader->token;
    if (t->kind != TOK_F64)
        reader_fail(reader, "expected a version");
    uint32_t i = 0, *part = &reader->module->major;
    for (; i < t->bytes; i++) {
        if (t->text[i] == '.')
            part = &reader->module->minor;
        else if (*part < 1000)
            *part = *part * 10 + (uint32_t)(t->text[i] - '0');
    }
    reader_next(reader);
}

static void read_target(struct module_reader *reader)
{
    do {
        if (reader->token.kind != TOK_WORD)
            reader_fail(reader, "expected a target");
        if (reader->token.bytes > 3 && memcmp(reader->token.text, "sm_", 3) == 0) {
            uint32_t sm = 0;
            for (uint32_t i = 3; i < reader->token.bytes && sm < 10000; i++)
                if (reader->token.text[i] >= '0' && reader->token.text[i] <= '9')
                    sm = sm * 10 + (uint32_t)(reader->token.text[i] - '0');
            reader->module->target = sm;
            char last = reader->token.text[reader->token.bytes - 1];
            reader->module->target_kind = last >= 'a' && last <= 'z' ? last : '\0';
        }
        reader_next(reader);
    } while (reader_take(reader, ','));
}

static void read_top(struct module_reader *reader)
{
    struct ptx_module *module = reader->module;
    struct ptx_decl prefix = {0};
    for (;; reader_next(reader)) {
        if (ptx_token_is(&reader->token, TOK_DOT, "visible") ||
            ptx_token_is(&reader->token, TOK_DOT, "weak") ||
            ptx_token_is(&reader->token, TOK_DOT, "common"))
            prefix.visible = true;
        else if (ptx_token_is(&reader->token, TOK_DOT, "extern"))
            prefix.external = true;
        else
            break;
    }
    struct ptx_token t = reader->token;
    if (t.kind != TOK_DOT)
        reader_fail(reader, "expected a directive");
    reader_next(reader);
    prefix.where = space_of(&t);
    if (ptx_token_is(&t, TOK_DOT, "entry")) {
        read_func(reader, true);
    } else if (ptx_token_is(&t, TOK_DOT, "func")) {
        /* .attribute(...) or .noreturn may stand before the name. */
        while (reader->token.kind == TOK_DOT) {
            struct ptx_func spare = {0};
            read_directives(reader, &spare);
        }
        read_func(reader, false);
    } else if (prefix.where != IN_NONE && prefix.where != IN_REG && prefix.where != IN_PARAM) {
        reader_decl(reader, &prefix, false, var_add, module);
        reader_expect(reader, ';');
    } else if (ptx_token_is(&t, TOK_DOT, "version")) {
        read_version(reader);
    } else if (ptx_token_is(&t, TOK_DOT, "target")) {
        read_target(reader);
    } else if (ptx_token_is(&t, TOK_DOT, "address_size")) {
        module->address_bytes = reader_count(reader) / 8;
    } else if (ptx_token_is(&t, TOK_DOT, "file") || ptx_token_is(&t, TOK_DOT, "loc")) {
        if (reader->token.line == t.line)
            skip_line(reader);
    } else if (ptx_token_is(&t, TOK_DOT, "section")) {
        while (reader->token.kind != TOK_PUNCT || reader->token.punct != '{') {
            if (reader->token.kind == TOK_END || reader->token.kind == TOK_BAD)
                reader_fail(reader, "expected `{`");
            reader_next(reader);
        }
        if (!ptx_skip_braces(&reader->lexer))
            reader_fail(reader, "expected `}` after this section,");
        reader_next(reader);
    } else if (ptx_token_is(&t, TOK_DOT, "pragma")) {
        while (reader->token.kind == TOK_STRING || reader->token.punct == ',')
            reader_next(reader);
        reader_expect(reader, ';');
    } else {
        reader->token = t;
        reader_fail(reader, "expected a directive");
    }
}

static struct ptx_module *read_module(struct job *job, const char *text, size_t bytes, bool object)
{
    struct ptx_module *module = job_new(job, 1, sizeof(*module));
    module->job = job;
    module->object = object;
    struct module_reader reader = {.module = module,
                                   .lexer = {.at = text, .end = text + bytes, .line = 1}};
    /* Drivers take NUL-terminated text; loaders pass sizes with or without the NULs. */
    while (bytes && text[bytes - 1] == 0)
        bytes--;
    reader.lexer.end = text + bytes;
    reader_next(&reader);
    if (!ptx_token_is(&reader.token, TOK_DOT, "version"))
        reader_fail(&reader, "expected .version");
    while (reader.token.kind != TOK_END)
        read_top(&reader);
    if (!module->target)
        job_fail(job, PTXC_INVALID, "line 1: no .target");
    uint32_t ordinal = 0;
    for (uint32_t i = 0; i < module->var_count; i++) {
        struct ptx_decl *var = module->vars[i];
        bool stored = var->where == IN_GLOBAL || var->where == IN_CONST;
        if (stored && var->external && !object)
            job_fail(job, PTXC_INVALID, "line %u: external variable `%s` is defined nowhere",
                     var->line, var->name);
        if (stored)
            var->ordinal = ordinal++;
    }
    return module;
}

struct ptx_module *module_read(struct job *job, const char *text, size_t bytes)
{
    return read_module(job, text, bytes, false);
}

struct ptx_module *module_read_object(struct job *job, const char *text, size_t bytes)
{
    return read_module(job, text, bytes, true);
}
