/* SPDX-License-Identifier: Apache-2.0
 *
 * A body's statements: declarations, labels, directives, instructions.
 */
#include "soft/ptxc/body_parts.h"

#include <string.h>

enum { MAX_DEPTH = 64 };

static struct local_name *add_name(struct body_reader *b, const char *name, size_t bytes)
{
    struct local_name *n = job_new(b->job, 1, sizeof(*n));
    uint32_t at = name_hash(name, bytes) % NAME_BUCKETS;
    n->name = name;
    n->bytes = bytes;
    n->scope = b->scope;
    n->chain = b->buckets[at];
    b->buckets[at] = n;
    return n;
}

/* ------------------------------------------------------------------------ declarations -------- */

static uint32_t add_reg(struct body_reader *b, const char *name, enum ptx_type type)
{
    struct ptx_body *body = b->body;
    body->regs =
        job_grow(b->job, body->regs, body->reg_count, &body->reg_room, sizeof(*body->regs));
    body->regs[body->reg_count] = (struct ptx_reg){.name = name, .type = type};
    return body->reg_count++;
}

static void read_registers(struct body_reader *b)
{
    enum ptx_type type = TY_NONE;
    for (; b->r.token.kind == TOK_DOT; reader_next(&b->r)) {
        enum ptx_type named = ptx_type_of(b->r.token.text, b->r.token.bytes);
        if (named == TY_NONE)
            job_fail(b->job, PTXC_UNSUPPORTED, "line %u: register declaration `.%.*s`",
                     b->r.token.line, (int)b->r.token.bytes, b->r.token.text);
        type = named;
    }
    if (type == TY_NONE)
        reader_fail(&b->r, "expected a type");
    do {
        const char *name = reader_name(&b->r);
        struct local_name *n = add_name(b, name, strlen(name));
        n->is_reg = true;
        if (reader_take(&b->r, '<')) {
            uint64_t count = reader_constant(&b->r);
            if (count > 1u << 20 || b->body->reg_count > 1u << 22)
                reader_fail(&b->r, "expected fewer registers");
            reader_expect(&b->r, '>');
            n->family = true;
            n->reg_count = (uint32_t)count;
            n->reg = b->body->reg_count;
            for (uint64_t i = 0; i < count; i++)
                add_reg(b, name, type);
        } else {
            n->reg = add_reg(b, name, type);
        }
    } while (reader_take(&b->r, ','));
    reader_expect(&b->r, ';');
}

static void add_decl(void *arg, struct ptx_decl *read)
{
    struct body_reader *b = arg;
    struct ptx_body *body = b->body;
    struct ptx_decl *d = job_new(b->job, 1, sizeof(*d));
    *d = *read;
    if (d->flexible)
        job_fail(b->job, PTXC_INVALID, "line %u: `%s`: expected a size", d->line, d->name);
    if (d->where == IN_SHARED) {
        struct ptx_func *func = body->func;
        if (b->next_shared >= func->shared_count)
            job_fail(b->job, PTXC_INTERNAL, "line %u: `%s` was not seen by the scan", d->line,
                     d->name);
        d->ordinal = func->shared[b->next_shared++].ordinal;
    } else if (d->where == IN_LOCAL) {
        uint64_t at = (body->local_bytes + d->align - 1) & ~((uint64_t)d->align - 1);
        d->ordinal = (uint32_t)at;
        body->local_bytes = at + d->bytes;
        body->locals =
            job_grow(b->job, body->locals, body->local_count, &body->local_room, sizeof(d));
        body->locals[body->local_count++] = d;
    } else {
        if (d->bytes > 1u << 16)
            job_fail(b->job, PTXC_INVALID, "line %u: parameter `%s` is too large", d->line,
                     d->name);
        d->ordinal = body->param_count;
        body->params =
            job_grow(b->job, body->params, body->param_count, &body->param_room, sizeof(d));
        body->params[body->param_count++] = d;
    }
    add_name(b, d->name, strlen(d->name))->decl = d;
}

/* ------------------------------------------------------------------------------ labels -------- */

static struct ptx_label *label_named(struct body_reader *b, const char *name, uint32_t scope)
{
    struct ptx_body *body = b->body;
    struct ptx_label *label = job_new(b->job, 1, sizeof(*label));
    label->name = name;
    label->scope = scope;
    body->labels =
        job_grow(b->job, body->labels, body->label_count, &body->label_room, sizeof(label));
    body->labels[body->label_count++] = label;
    return label;
}

static void want_label(struct body_reader *b, struct ptx_label **slot, const char *name,
                       uint32_t line)
{
    b->pending =
        job_grow(b->job, b->pending, b->pending_count, &b->pending_room, sizeof(*b->pending));
    b->pending[b->pending_count++] =
        (struct pending){.slot = slot, .name = name, .scope = b->scope, .line = line};
}

/* -------------------------------------------------------------------------- statements -------- */

static void resolve_operand(struct body_reader *b, struct ptx_operand *op, uint32_t line)
{
    if (op->kind == OPND_LABEL)
        want_label(b, &op->label, op->name, line);
    for (uint32_t i = 0; i < op->part_count; i++)
        resolve_operand(b, &op->parts[i], line);
}

static void read_instruction(struct body_reader *b)
{
    struct ptx_body *body = b->body;
    struct ptx_instr *in = job_new(b->job, 1, sizeof(*in));
    const char *mods[MAX_MODS];
    struct ptx_operand ops[MAX_OPERANDS];
    memset(ops, 0, sizeof(ops));
    in->line = b->r.token.line;
    in->text = b->r.token.text;
    if (reader_take(&b->r, '@')) {
        in->guard_negated = reader_take(&b->r, '!');
        uint32_t reg =
            b->r.token.kind == TOK_WORD ? body_find_reg(b, b->r.token.text, b->r.token.bytes) : 0;
        if (!reg || body->regs[reg - 1].type != TY_PRED)
            reader_fail(&b->r, "expected a predicate");
        in->guard = reg;
        body->regs[reg - 1].used = true;
        reader_next(&b->r);
    }
    if (b->r.token.kind != TOK_WORD)
        reader_fail(&b->r, "expected an instruction");
    in->op = job_text(b->job, b->r.token.text, b->r.token.bytes);
    b->in_call = strcmp(in->op, "call") == 0;
    reader_next(&b->r);
    while (b->r.token.kind == TOK_DOT) {
        if (in->mod_count == MAX_MODS)
            reader_fail(&b->r, "expected fewer modifiers");
        mods[in->mod_count++] = job_text(b->job, b->r.token.text, b->r.token.bytes);
        reader_next(&b->r);
    }
    if (!body_at(b, ';')) {
        do {
            if (in->op_count == MAX_OPERANDS)
                reader_fail(&b->r, "expected fewer operands");
            body_operand(b, &ops[in->op_count++], false, 0);
        } while (reader_take(&b->r, ','));
    }
    in->mods = job_new(b->job, in->mod_count + 1, sizeof(*mods));
    if (in->mod_count)
        memcpy(in->mods, mods, in->mod_count * sizeof(*mods));
    in->ops = job_new(b->job, in->op_count + 1, sizeof(*ops));
    memcpy(in->ops, ops, in->op_count * sizeof(*ops));
    in->bytes = (uint32_t)(b->r.token.text - in->text);
    while (in->bytes && (unsigned char)in->text[in->bytes - 1] <= ' ')
        in->bytes--;
    reader_expect(&b->r, ';');
    for (uint32_t i = 0; i < in->op_count; i++)
        resolve_operand(b, &in->ops[i], in->line);
    body->code = job_grow(b->job, body->code, body->code_count, &body->code_room, sizeof(in));
    body->code[body->code_count++] = in;
}

static void read_targets(struct body_reader *b, struct ptx_label *label, bool calls)
{
    const char **names = NULL;
    uint32_t room = 0, count = 0, line = b->r.token.line;
    do {
        names = job_grow(b->job, names, count, &room, sizeof(*names));
        names[count++] = reader_name(&b->r);
    } while (reader_take(&b->r, ','));
    reader_expect(&b->r, ';');
    if (calls)
        return; /* an indirect call tries all functions of its shape */
    label->targets = job_new(b->job, count, sizeof(*label->targets));
    label->target_count = count;
    for (uint32_t i = 0; i < count; i++)
        want_label(b, &label->targets[i], names[i], line);
}

static void read_prototype(struct body_reader *b, struct ptx_label *label)
{
    struct ptx_func *f = job_new(b->job, 1, sizeof(*f));
    label->prototype = f;
    if (reader_take(&b->r, '('))
        reader_params(&b->r, false, &f->rets, &f->ret_count);
    f->name = reader_name(&b->r);
    reader_expect(&b->r, '(');
    reader_params(&b->r, false, &f->params, &f->param_count);
    while (!body_at(b, ';')) {
        if (b->r.token.kind == TOK_END || b->r.token.kind == TOK_BAD)
            reader_fail(&b->r, "expected `;`");
        reader_next(&b->r);
    }
    reader_expect(&b->r, ';');
}

static void read_directive(struct body_reader *b, struct ptx_label *label)
{
    struct ptx_token t = b->r.token;
    struct ptx_decl prefix = {0};
    reader_next(&b->r);
    if (ptx_token_is(&t, TOK_DOT, "reg")) {
        read_registers(b);
        return;
    }
    if (ptx_token_is(&t, TOK_DOT, "param"))
        prefix.where = IN_PARAM;
    else if (ptx_token_is(&t, TOK_DOT, "local"))
        prefix.where = IN_LOCAL;
    else if (ptx_token_is(&t, TOK_DOT, "shared"))
        prefix.where = IN_SHARED;
    if (prefix.where != IN_NONE) {
        reader_decl(&b->r, &prefix, false, add_decl, b);
        reader_expect(&b->r, ';');
    } else if (ptx_token_is(&t, TOK_DOT, "loc") || ptx_token_is(&t, TOK_DOT, "file")) {
        while (b->r.token.line == t.line && b->r.token.kind != TOK_END &&
               b->r.token.kind != TOK_BAD)
            reader_next(&b->r);
    } else if (ptx_token_is(&t, TOK_DOT, "pragma")) {
        while (b->r.token.kind == TOK_STRING || body_at(b, ','))
            reader_next(&b->r);
        reader_expect(&b->r, ';');
    } else if (label && ptx_token_is(&t, TOK_DOT, "branchtargets")) {
        read_targets(b, label, false);
    } else if (label && ptx_token_is(&t, TOK_DOT, "calltargets")) {
        read_targets(b, label, true);
    } else if (label && ptx_token_is(&t, TOK_DOT, "callprototype")) {
        read_prototype(b, label);
    } else {
        job_fail(b->job, PTXC_UNSUPPORTED, "line %u: directive `.%.*s`", t.line, (int)t.bytes,
                 t.text);
    }
}

static void read_label(struct body_reader *b, const char *name)
{
    struct local_name *n = body_find(b, name, strlen(name), b->scope, false);
    if (n && n->label && n->scope == b->scope)
        job_fail(b->job, PTXC_INVALID, "line %u: label `%s` is placed twice", b->r.token.line,
                 name);
    struct ptx_label *label = label_named(b, name, b->scope);
    label->at = b->body->code_count;
    label->placed = true;
    add_name(b, name, strlen(name))->label = label;
    if (b->r.token.kind == TOK_DOT && (ptx_token_is(&b->r.token, TOK_DOT, "branchtargets") ||
                                       ptx_token_is(&b->r.token, TOK_DOT, "calltargets") ||
                                       ptx_token_is(&b->r.token, TOK_DOT, "callprototype")))
        read_directive(b, label);
}

static void read_statement(struct body_reader *b)
{
    if (b->r.token.kind == TOK_DOT) {
        read_directive(b, NULL);
        return;
    }
    if (b->r.token.kind == TOK_WORD) {
        struct ptx_lexer ahead = b->r.lexer;
        struct ptx_token t;
        ptx_lex(&ahead, &t);
        if (t.kind == TOK_PUNCT && t.punct == ':') {
            const char *name = reader_name(&b->r);
            reader_next(&b->r);
            read_label(b, name);
            return;
        }
    }
    if (reader_take(&b->r, ';'))
        return;
    read_instruction(b);
}

struct ptx_body *body_read(struct ptx_module *module, struct ptx_func *func)
{
    struct body_reader *b = job_new(module->job, 1, sizeof(*b));
    b->r.module = b->module = module;
    b->job = module->job;
    b->r.lexer = func->body;
    b->body = job_new(b->job, 1, sizeof(*b->body));
    b->body->func = func;
    b->parents = job_grow(b->job, NULL, 0, &b->scope_room, sizeof(uint32_t));
    b->scope_count = 1;
    for (uint32_t i = 0; i < func->param_count; i++) {
        struct ptx_decl *d = &func->params[i];
        if (d->taken) {
            d->ordinal = (uint32_t)((b->body->local_bytes + d->align - 1) & ~(d->align - 1));
            b->body->local_bytes = d->ordinal + d->bytes;
        }
    }
    for (uint32_t i = 0; i < func->param_count + func->ret_count; i++)
        if ((i < func->param_count ? func->params[i] : func->rets[i - func->param_count]).where !=
            IN_PARAM)
            job_fail(b->job, PTXC_UNSUPPORTED, "line %u: function `%s`: .reg parameters",
                     func->line, func->name);
    uint32_t depth = 0;
    for (reader_next(&b->r); b->r.token.kind != TOK_END;) {
        if (reader_take(&b->r, '{')) {
            if (++depth > MAX_DEPTH)
                job_fail(b->job, PTXC_UNSUPPORTED, "line %u: too many nested scopes",
                         b->r.token.line);
            b->parents =
                job_grow(b->job, b->parents, b->scope_count, &b->scope_room, sizeof(uint32_t));
            b->parents[b->scope_count] = b->scope;
            b->scope = b->scope_count++;
        } else if (reader_take(&b->r, '}')) {
            if (!depth--)
                reader_fail(&b->r, "expected an instruction");
            b->scope = b->parents[b->scope];
        } else {
            read_statement(b);
        }
    }
    for (uint32_t i = 0; i < b->pending_count; i++) {
        struct pending *p = &b->pending[i];
        struct local_name *n = body_find(b, p->name, strlen(p->name), p->scope, false);
        if (!n || !n->label)
            job_fail(b->job, PTXC_INVALID, "line %u: `%s` is declared nowhere", p->line, p->name);
        *p->slot = n->label;
    }
    return b->body;
}
