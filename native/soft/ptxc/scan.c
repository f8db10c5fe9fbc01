/* SPDX-License-Identifier: Apache-2.0
 *
 * What a body declares and mentions, without parsing its instructions; and from that, what a
 * kernel and its callees need of shared and local memory.
 */
#include <string.h>

#include "soft/ptxc/module.h"

static void add_shared(void *arg, struct ptx_decl *decl)
{
    struct ptx_func *func = ((void **)arg)[0];
    struct job *job = ((void **)arg)[1];
    func->shared =
        job_grow(job, func->shared, func->shared_count, &func->shared_room, sizeof(*decl));
    func->shared[func->shared_count++] = *decl;
}

static void add_local(void *arg, struct ptx_decl *decl)
{
    struct ptx_func *func = ((void **)arg)[0];
    uint64_t at = (func->local_bytes + decl->align - 1) & ~((uint64_t)decl->align - 1);
    func->local_bytes = at + decl->bytes;
}

/* mov.b64 %rd, parameter; The address of a function's parameter is one of local memory. */
static void scan_taken(struct ptx_func *func, const struct ptx_token *t, struct ptx_lexer ahead)
{
    struct ptx_token next;
    ptx_lex(&ahead, &next);
    if (next.kind != TOK_PUNCT || !strchr(";+-", next.punct))
        return;
    for (uint32_t i = 0; i < func->param_count; i++) {
        struct ptx_decl *d = &func->params[i];
        if (d->taken || strlen(d->name) != t->bytes || memcmp(d->name, t->text, t->bytes) != 0)
            continue;
        d->taken = true;
        func->local_bytes += d->bytes + d->align + 16; /* wherever it will lie among the others */
    }
}

static void scan_registers(struct module_reader *reader, struct ptx_func *func)
{
    uint32_t bytes = 0, count = 0;
    for (; reader->token.kind == TOK_DOT; reader_next(reader)) {
        enum ptx_type type = ptx_type_of(reader->token.text, reader->token.bytes);
        bytes = type == TY_PRED ? 0 : ptx_types[type].bytes;
    }
    for (; reader->token.kind != TOK_END && reader->token.punct != ';'; reader_next(reader)) {
        if (reader->token.kind == TOK_WORD)
            count++;
        else if (reader->token.kind == TOK_INT)
            count += reader->token.value < 1u << 24 ? (uint32_t)reader->token.value : 1u << 24;
        if (count > 1u << 24)
            break;
    }
    func->registers += count * ((bytes + 3) / 4);
    if (func->registers > 1u << 28)
        func->registers = 1u << 28;
}

void module_scan(struct ptx_module *module, struct ptx_func *func)
{
    if (func->scanned || !func->has_body)
        return;
    func->scanned = true;
    struct module_reader reader = {.module = module, .lexer = func->body};
    void *arg[2] = {func, module->job};
    uint32_t stamp = ++module->stamp;
    bool comma = false;
    for (reader_next(&reader); reader.token.kind != TOK_END; reader_next(&reader)) {
        struct ptx_token t = reader.token;
        bool behind_comma = comma;
        comma = t.kind == TOK_PUNCT && t.punct == ',';
        if (behind_comma && t.kind == TOK_WORD && !func->entry)
            scan_taken(func, &t, reader.lexer);
        if (t.kind == TOK_BAD)
            reader_fail(&reader, "expected an instruction");
        if (t.kind == TOK_WORD && *t.text != '%') {
            struct ptx_symbol *s = module_find(module, t.text, t.bytes);
            /* In front of modifiers stands an instruction, whatever else is called `add`. */
            bool instruction = reader.lexer.at < reader.lexer.end && *reader.lexer.at == '.';
            if (s && !instruction && s->stamp != stamp) {
                s->stamp = stamp;
                func->refs = job_grow(module->job, func->refs, func->ref_count, &func->ref_room,
                                      sizeof(struct ptx_symbol *));
                func->refs[func->ref_count++] = s;
            }
            /* The modifiers of an instruction are not declarations: skip them. */
            struct ptx_lexer at = reader.lexer;
            while (at.at < at.end && *at.at == '.') {
                ptx_lex(&at, &t);
                if (t.kind != TOK_DOT)
                    break;
                reader.lexer = at;
            }
            continue;
        }
        if (t.kind != TOK_DOT)
            continue;
        bool shared = ptx_token_is(&t, TOK_DOT, "shared");
        if (ptx_token_is(&t, TOK_DOT, "reg")) {
            reader_next(&reader);
            scan_registers(&reader, func);
        } else if (shared || ptx_token_is(&t, TOK_DOT, "local")) {
            struct ptx_decl prefix = {.where = shared ? IN_SHARED : IN_LOCAL};
            reader_next(&reader);
            reader_decl(&reader, &prefix, false, shared ? add_shared : add_local, arg);
        }
    }
}

static uint64_t align_up(uint64_t at, uint64_t align)
{
    return (at + align - 1) & ~(align - 1);
}

static void reach(struct ptx_module *module, struct ptx_func *func, struct module_layout *out,
                  uint32_t *room)
{
    if (func->reached)
        return;
    func->reached = true;
    out->funcs = job_grow(module->job, out->funcs, out->func_count, room, sizeof(func));
    out->funcs[out->func_count++] = func;
}

/* Functions whose address stands in a variable's initialiser can be called by any indirect call. */
static void reach_stored(struct ptx_module *module, struct ptx_decl *var, struct module_layout *out,
                         uint32_t *room)
{
    uint64_t low = PTX_FUNC_ADDRESS(1), high = PTX_FUNC_ADDRESS(module->func_count);
    if (var->where != IN_GLOBAL && var->where != IN_CONST)
        return;
    for (uint64_t at = 0; at + 8 <= var->init_bytes; at += 8) {
        uint64_t value;
        memcpy(&value, var->init + at, 8);
        if (value < low || value > high || value % 16)
            continue;
        for (struct ptx_func *f = module->funcs; f; f = f->next)
            if (PTX_FUNC_ADDRESS(f->id) == value)
                reach(module, f, out, room);
    }
}

/* LLVM declares a shared array without a value as external: one with a size is laid out here, one
 * without is the launch's. */
static bool is_dynamic(const struct ptx_decl *var)
{
    return var->flexible || (var->external && var->bytes == 0);
}

void module_layout(struct ptx_module *module, struct ptx_func *kernel, struct module_layout *out)
{
    uint32_t room = 0;
    uint64_t at = 0, dynamic_align = 1;
    *out = (struct module_layout){0};
    for (struct ptx_func *f = module->funcs; f; f = f->next)
        f->reached = false;
    uint32_t stamp = ++module->stamp;
    reach(module, kernel, out, &room);
    for (uint32_t i = 0; i < out->func_count; i++) {
        struct ptx_func *f = out->funcs[i];
        module_scan(module, f);
        for (uint32_t k = 0; k < f->ref_count; k++) {
            struct ptx_symbol *s = f->refs[k];
            if (s->func && !s->func->entry) {
                reach(module, s->func, out, &room);
            } else if (s->var && s->stamp != stamp) {
                s->stamp = stamp;
                reach_stored(module, s->var, out, &room);
            }
        }
        out->local_bytes = align_up(out->local_bytes, 16) + f->local_bytes;
    }
    for (uint32_t i = 0; i < module->var_count; i++) {
        struct ptx_decl *var = module->vars[i];
        struct ptx_symbol *s = module_find(module, var->name, strlen(var->name));
        if (var->where != IN_SHARED || s->stamp != stamp)
            continue;
        if (is_dynamic(var)) {
            out->dynamic_shared = true;
            dynamic_align = var->align > dynamic_align ? var->align : dynamic_align;
            continue;
        }
        at = align_up(at, var->align);
        var->ordinal = (uint32_t)at;
        at += var->bytes;
        if (at > 1u << 30)
            job_fail(module->job, PTXC_INVALID, "line %u: `%s`: too much shared memory", var->line,
                     var->name);
    }
    for (uint32_t i = 0; i < out->func_count; i++) {
        struct ptx_func *f = out->funcs[i];
        for (uint32_t k = 0; k < f->shared_count; k++) {
            if (f->shared[k].flexible)
                job_fail(module->job, PTXC_INVALID, "line %u: `%s`: expected a size",
                         f->shared[k].line, f->shared[k].name);
            at = align_up(at, f->shared[k].align);
            f->shared[k].ordinal = (uint32_t)at;
            at += f->shared[k].bytes;
            if (at > 1u << 30)
                job_fail(module->job, PTXC_INVALID, "line %u: `%s`: too much shared memory",
                         f->shared[k].line, f->shared[k].name);
        }
    }
    if (out->dynamic_shared)
        at = align_up(at, dynamic_align);
    for (uint32_t i = 0; i < module->var_count; i++)
        if (module->vars[i]->where == IN_SHARED && is_dynamic(module->vars[i]))
            module->vars[i]->ordinal = (uint32_t)at;
    out->shared_bytes = at;
    if (out->local_bytes > 512u << 10)
        job_fail(module->job, PTXC_INVALID, "`%s`: %llu bytes of local memory, at most 524288",
                 kernel->name, (unsigned long long)out->local_bytes);
}
