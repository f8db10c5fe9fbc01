/* SPDX-License-Identifier: Apache-2.0
 *
 * A body's operands, and what the names in them mean.
 */
#include "soft/ptxc/body_parts.h"

#include <string.h>

/* The innermost of that name which `scope` sees. */
struct local_name *body_find(struct body_reader *b, const char *name, size_t bytes, uint32_t scope,
                             bool family)
{
    struct local_name *best = NULL;
    for (struct local_name *n = b->buckets[name_hash(name, bytes) % NAME_BUCKETS]; n;
         n = n->chain) {
        if (n->bytes != bytes || n->family != family || memcmp(n->name, name, bytes) != 0)
            continue;
        for (uint32_t s = scope;; s = b->parents[s]) {
            if (s == n->scope && (!best || best->scope < n->scope))
                best = n;
            if (!s)
                break;
        }
    }
    return best;
}

/* A register of the name, alone or as a member of a family: reg + 1, or 0. */
uint32_t body_find_reg(struct body_reader *b, const char *name, size_t bytes)
{
    struct local_name *n = body_find(b, name, bytes, b->scope, false);
    if (n && n->is_reg)
        return n->reg + 1;
    size_t stem = bytes;
    while (stem > 1 && name[stem - 1] >= '0' && name[stem - 1] <= '9')
        stem--;
    /* %r1<10> declares %r10 ... %r19: try every way to split off the number. */
    for (size_t cut = stem; cut < bytes && cut < stem + 9; cut++) {
        uint64_t number = 0;
        if (bytes - cut > 9 || (name[cut] == '0' && bytes - cut > 1))
            continue;
        for (size_t i = cut; i < bytes; i++)
            number = number * 10 + (uint64_t)(name[i] - '0');
        n = body_find(b, name, cut, b->scope, true);
        if (n && number < n->reg_count)
            return n->reg + (uint32_t)number + 1;
    }
    return 0;
}

static void add_part(struct body_reader *b, struct ptx_operand *out, int depth)
{
    out->parts =
        job_grow(b->job, out->parts, out->part_count, &out->part_room, sizeof(*out->parts));
    body_operand(b, &out->parts[out->part_count++], false, depth + 1);
}

bool body_at(struct body_reader *b, char punct)
{
    return b->r.token.kind == TOK_PUNCT && b->r.token.punct == punct;
}

static void read_offset(struct body_reader *b, struct ptx_operand *out)
{
    if (body_at(b, '+') || body_at(b, '-'))
        out->value += reader_constant(&b->r);
}

static void read_name_operand(struct body_reader *b, struct ptx_operand *out)
{
    struct ptx_token t = b->r.token;
    reader_next(&b->r);
    if (t.bytes == 1 && *t.text == '_') {
        out->kind = OPND_SINK;
    } else {
        uint32_t reg = body_find_reg(b, t.text, t.bytes);
        if (reg) {
            out->kind = OPND_REG;
            out->reg = reg - 1;
            b->body->regs[out->reg].used = true;
        } else if (*t.text == '%') {
            /* A special register, perhaps with a component: %tid.x, %clock64. */
            out->kind = OPND_SPECIAL;
            size_t bytes = t.bytes - 1;
            if (b->r.token.kind == TOK_DOT && b->r.token.bytes == 1) {
                bytes += 2;
                reader_next(&b->r);
            }
            out->name = job_text(b->job, t.text + 1, bytes);
        } else {
            struct local_name *n = body_find(b, t.text, t.bytes, b->scope, false);
            struct ptx_symbol *s = module_find(b->module, t.text, t.bytes);
            struct ptx_func *func = b->body->func;
            if (n && n->decl) {
                out->kind = OPND_DECL;
                out->decl = n->decl;
            } else {
                for (uint32_t i = 0; i < func->param_count + func->ret_count; i++) {
                    struct ptx_decl *d = i < func->param_count ? &func->params[i]
                                                               : &func->rets[i - func->param_count];
                    if (strlen(d->name) == t.bytes && memcmp(d->name, t.text, t.bytes) == 0) {
                        out->kind = OPND_DECL;
                        out->decl = d;
                        break;
                    }
                }
            }
            if (out->decl) {
                ;
            } else if (s && s->var) {
                out->kind = OPND_DECL;
                out->decl = s->var;
            } else if (s && s->func) {
                out->kind = OPND_FUNC;
                out->func = s->func;
            } else {
                out->kind = OPND_LABEL;
                out->name = job_text(b->job, t.text, t.bytes);
            }
            if (body_at(b, '[') && out->decl) { /* variable[constant] */
                reader_next(&b->r);
                out->value = reader_constant(&b->r);
                reader_expect(&b->r, ']');
            }
        }
    }
    if (body_at(b, '|')) {
        reader_next(&b->r);
        if (b->r.token.kind == TOK_WORD && b->r.token.bytes == 1 && *b->r.token.text == '_') {
            out->sink_pair = true;
        } else {
            uint32_t pair = b->r.token.kind == TOK_WORD
                                ? body_find_reg(b, b->r.token.text, b->r.token.bytes)
                                : 0;
            if (!pair)
                reader_fail(&b->r, "expected a predicate");
            b->body->regs[pair - 1].used = true;
            out->pair = pair;
        }
        reader_next(&b->r);
    }
}

void body_operand(struct body_reader *b, struct ptx_operand *out, bool in_mem, int depth)
{
    if (depth > 8)
        reader_fail(&b->r, "expected a simpler operand");
    switch (b->r.token.kind) {
    case TOK_WORD:
        read_name_operand(b, out);
        if (!out->pair && !out->sink_pair && (in_mem || out->kind == OPND_DECL))
            read_offset(b, out);
        return;
    case TOK_F32:
    case TOK_F64:
        out->kind = b->r.token.kind == TOK_F32 ? OPND_F32 : OPND_F64;
        out->value = b->r.token.value;
        reader_next(&b->r);
        return;
    case TOK_INT:
        out->kind = OPND_INT;
        out->value = reader_constant(&b->r);
        return;
    case TOK_PUNCT:
        break;
    default:
        reader_fail(&b->r, "expected an operand");
    }
    if (reader_take(&b->r, '[')) {
        /* More than one part: a tensor or texture address; its instruction is refused by name. */
        out->kind = OPND_MEM;
        do {
            out->parts =
                job_grow(b->job, out->parts, out->part_count, &out->part_room, sizeof(*out->parts));
            body_operand(b, &out->parts[out->part_count++], true, depth + 1);
        } while (reader_take(&b->r, ','));
        if (out->parts[0].kind != OPND_INT) {
            out->value = out->parts[0].value;
            out->parts[0].value = 0;
        }
        reader_expect(&b->r, ']');
    } else if (reader_take(&b->r, '{')) {
        out->kind = OPND_VECTOR;
        do
            add_part(b, out, depth);
        while (reader_take(&b->r, ','));
        reader_expect(&b->r, '}');
    } else if (body_at(b, '(')) {
        if (!b->in_call) {
            out->kind = OPND_INT;
            out->value = reader_constant(&b->r);
            return;
        }
        reader_next(&b->r);
        out->kind = OPND_LIST;
        if (reader_take(&b->r, ')'))
            return;
        do
            add_part(b, out, depth);
        while (reader_take(&b->r, ','));
        reader_expect(&b->r, ')');
    } else if (reader_take(&b->r, '!')) {
        body_operand(b, out, false, depth + 1);
        out->negated = !out->negated;
    } else if (body_at(b, '-')) {
        struct module_reader before = b->r;
        reader_next(&b->r);
        if (b->r.token.kind == TOK_F32 || b->r.token.kind == TOK_F64) {
            out->kind = b->r.token.kind == TOK_F32 ? OPND_F32 : OPND_F64;
            out->value = b->r.token.value ^ (1ull << (b->r.token.kind == TOK_F32 ? 31 : 63));
            reader_next(&b->r);
        } else if (b->r.token.kind == TOK_WORD) {
            body_operand(b, out, false, depth + 1);
            out->negated = true;
        } else {
            b->r = before;
            out->kind = OPND_INT;
            out->value = reader_constant(&b->r);
        }
    } else {
        out->kind = OPND_INT;
        out->value = reader_constant(&b->r);
    }
}
