/* SPDX-License-Identifier: Apache-2.0
 *
 * Instructions on values that are more than one expression: moves with vectors, comparisons, carry
 * chains.
 */
#include <string.h>

#include "soft/ptxc/emit.h"

/* mov.b64 d, {lo, hi} and mov.b64 {lo, hi}, a */
static void mov_vector(struct emitter *e, enum ptx_type type)
{
    const struct ptx_operand *to = &e->in->ops[0], *from = &e->in->ops[1];
    bool pack = from->kind == OPND_VECTOR;
    const struct ptx_operand *v = pack ? from : to;
    uint32_t n = v->part_count, bytes = ptx_types[type].bytes / (n ? n : 1);
    static const enum ptx_type by_bytes[] = {[1] = TY_B8, [2] = TY_B16, [4] = TY_B32, [8] = TY_B64};
    if ((n != 2 && n != 4) || bytes < 1 || bytes > 8 || bytes * n != ptx_types[type].bytes ||
        (pack && to->kind == OPND_VECTOR))
        invalid(e, "this vector does not fit the type");
    enum ptx_type part = by_bytes[bytes];
    const char *wide = ptx_types[type].bytes == 16  ? "u128"
                       : ptx_types[type].bytes == 8 ? "uint64_t"
                                                    : "uint32_t";
    if (pack) {
        const char *sum = "0";
        for (uint32_t i = 0; i < n; i++)
            sum = say(e, "%s | (%s)%s << %u", sum, wide, read_bits(e, &v->parts[i], part),
                      i * bytes * 8);
        write_bits(e, to, type, sum);
        return;
    }
    put(e, "{const %s v_ = %s;", wide, read_bits(e, from, type));
    for (uint32_t i = 0; i < n; i++)
        write_bits(e, &v->parts[i], part,
                   say(e, "(%s)(v_ >> %u)", ptx_types[part].c, i * bytes * 8));
    put(e, "}");
}

EMITTER(emit_mov)
{
    enum ptx_type type = type_mod(e->in, 0);
    want_operands(e, 2, 2);
    const struct ptx_operand *to = &e->in->ops[0], *from = &e->in->ops[1];
    if (to->kind == OPND_VECTOR || from->kind == OPND_VECTOR) {
        mov_vector(e, ptx_types[type].bytes == 4   ? TY_B32
                      : ptx_types[type].bytes == 8 ? TY_B64
                                                   : type);
        return;
    }
    if (from->kind == OPND_REG && type != TY_PRED &&
        ptx_types[e->body->regs[from->reg].type].bytes != ptx_types[type].bytes)
        invalid(e, "an operand of another size belongs here");
    if (to->kind == OPND_REG && type != TY_PRED &&
        ptx_types[e->body->regs[to->reg].type].bytes != ptx_types[type].bytes)
        invalid(e, "a destination of another size belongs here");
    write_bits(e, to, type, read_bits(e, from, type));
}

/* ------------------------------------------------------------------------ comparisons --------- */

/* C for a cmp b; NULL if the type has no such comparison. */
static const char *compare(struct emitter *e, const char *cmp, enum ptx_type t, const char *a,
                           const char *b)
{
    static const struct {
        const char *name, *real, *integer; /* of two operands */
        bool unsigned_only;
    } table[] = {
        {"eq", "%s == %s", "%s == %s", false},
        {"ne", "({const double a_ = (double)(%s), b_ = (double)(%s); a_ < b_ || a_ > b_;})",
         "%s != %s", false},
        {"lt", "%s < %s", "%s < %s", false},
        {"le", "%s <= %s", "%s <= %s", false},
        {"gt", "%s > %s", "%s > %s", false},
        {"ge", "%s >= %s", "%s >= %s", false},
        {"lo", NULL, "%s < %s", true},
        {"ls", NULL, "%s <= %s", true},
        {"hi", NULL, "%s > %s", true},
        {"hs", NULL, "%s >= %s", true},
        {"equ", "!({const double a_ = (double)(%s), b_ = (double)(%s); a_ < b_ || a_ > b_;})", NULL,
         false},
        {"neu", "!(%s == %s)", NULL, false},
        {"ltu", "!(%s >= %s)", NULL, false},
        {"leu", "!(%s > %s)", NULL, false},
        {"gtu", "!(%s <= %s)", NULL, false},
        {"geu", "!(%s < %s)", NULL, false},
        {"num", "({const double a_ = (double)(%s), b_ = (double)(%s); a_ == a_ && b_ == b_;})",
         NULL, false},
        {"nan", "({const double a_ = (double)(%s), b_ = (double)(%s); a_ != a_ || b_ != b_;})",
         NULL, false},
    };
    bool real = ptx_types[t].kind == KIND_FLOAT || ptx_types[t].kind == KIND_SMALL;
    if (t == TY_F16 || t == TY_BF16) {
        a = say(e, "%s_load(%s)", ptx_types[t].name, a);
        b = say(e, "%s_load(%s)", ptx_types[t].name, b);
    }
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        const char *format = real ? table[i].real : table[i].integer;
        if (strcmp(table[i].name, cmp) != 0 || !format)
            continue;
        if (ptx_types[t].kind == KIND_BITS && strcmp(cmp, "eq") != 0 && strcmp(cmp, "ne") != 0)
            return NULL;
        if (table[i].unsigned_only && ptx_types[t].kind != KIND_UINT)
            return NULL;
        struct text text = {0};
        const char *operand[2] = {a, b};
        int n = 0;
        for (const char *at = format; *at; at++)
            if (*at == '%')
                put_to(e, &text, "%s", operand[n++]), at++;
            else
                put_to(e, &text, "%c", *at);
        return text.at;
    }
    return NULL;
}

struct comparison {
    const char *cmp, *boolean;
    bool ftz;
    enum ptx_type type;
};

static struct comparison comparison_mods(struct emitter *e, uint32_t type_at)
{
    struct comparison c = {.type = type_mod(e->in, type_at)};
    for (uint32_t i = 0; i < e->in->mod_count; i++) {
        const char *mod = e->in->mods[i];
        if (ptx_type_of(mod, strlen(mod)) != TY_NONE)
            continue;
        if (strcmp(mod, "ftz") == 0)
            c.ftz = true;
        else if (!c.cmp)
            c.cmp = mod;
        else if (!c.boolean &&
                 (strcmp(mod, "and") == 0 || strcmp(mod, "or") == 0 || strcmp(mod, "xor") == 0))
            c.boolean = mod;
        else
            refuse(e, say(e, ".%s", mod));
    }
    if (!c.cmp || c.type == TY_NONE)
        invalid(e, "a comparison and a type belong here");
    if (c.ftz && c.type != TY_F32 && c.type != TY_F16 && c.type != TY_F16X2)
        invalid(e, ".ftz is for .f32 and .f16");
    if (ptx_types[c.type].bytes == 1 || ptx_types[c.type].bytes == 16 || c.type == TY_U16X2 ||
        c.type == TY_S16X2 || c.type == TY_TF32)
        invalid(e, "not a type that can be compared");
    return c;
}

static const char *combine(struct emitter *e, const struct comparison *c, const char *value,
                           const struct ptx_operand *p)
{
    if (!c->boolean)
        return value;
    const char *with = read_as(e, p, TY_PRED);
    return say(e,
               strcmp(c->boolean, "and") == 0  ? "((%s) && (%s))"
               : strcmp(c->boolean, "or") == 0 ? "((%s) || (%s))"
                                               : "((%s) != (%s))",
               value, with);
}

static const char *compared(struct emitter *e, const struct comparison *c,
                            const struct ptx_operand *a, const struct ptx_operand *b)
{
    const char *x = read_as(e, a, c->type), *y = read_as(e, b, c->type);
    if (c->ftz && (c->type == TY_F32 || c->type == TY_F16)) {
        x = say(e, "ftz_%s(%s)", ptx_types[c->type].name, x);
        y = say(e, "ftz_%s(%s)", ptx_types[c->type].name, y);
    }
    const char *value = compare(e, c->cmp, c->type, x, y);
    if (!value)
        invalid(e, say(e, ".%s is no comparison of .%s", c->cmp, ptx_types[c->type].name));
    return say(e, "(_Bool)(%s)", value);
}

EMITTER(emit_setp)
{
    struct comparison c = comparison_mods(e, 0);
    want_operands(e, c.boolean ? 4 : 3, c.boolean ? 4 : 3);
    const struct ptx_operand *to = &e->in->ops[0];
    if (c.type == TY_PRED || c.type == TY_B8 || c.type == TY_U8 || c.type == TY_S8)
        invalid(e, "not a type that can be compared");
    if (c.type == TY_F16X2 || c.type == TY_BF16X2) {
        /* One result a lane: p|q. */
        enum ptx_type half = c.type == TY_F16X2 ? TY_F16 : TY_BF16;
        put(e, "{const uint32_t x_ = %s, y_ = %s; const _Bool c_ = %s;",
            read_as(e, &e->in->ops[1], c.type), read_as(e, &e->in->ops[2], c.type),
            c.boolean ? read_as(e, &e->in->ops[3], TY_PRED) : "0");
        for (uint32_t i = 0; i < 2; i++) {
            const char *value =
                compare(e, c.cmp, half, i ? "HI16(x_)" : "LO16(x_)", i ? "HI16(y_)" : "LO16(y_)");
            if (!value)
                invalid(e, "no such comparison");
            if (c.ftz)
                refuse(e, ".ftz on two halves");
            if (c.boolean)
                value = say(e,
                            strcmp(c.boolean, "and") == 0  ? "((%s) && c_)"
                            : strcmp(c.boolean, "or") == 0 ? "((%s) || c_)"
                                                           : "((_Bool)(%s) != c_)",
                            value);
            struct ptx_operand out = *to;
            if (i) {
                if (!to->pair)
                    continue;
                out = (struct ptx_operand){.kind = OPND_REG, .reg = to->pair - 1};
            }
            out.pair = 0;
            write_as(e, &out, TY_PRED, value);
        }
        put(e, "}");
        return;
    }
    if ((to->pair || to->sink_pair) && (c.type == TY_F16 || c.type == TY_BF16))
        invalid(e, "this comparison has one result");
    const char *value = compared(e, &c, &e->in->ops[1], &e->in->ops[2]);
    const struct ptx_operand *p = &e->in->ops[3];
    if (!to->pair) {
        write_as(e, to, TY_PRED, combine(e, &c, value, p));
        return;
    }
    /* q gets the complement of the comparison, combined in the same way. */
    struct ptx_operand first = *to, second = {.kind = OPND_REG, .reg = to->pair - 1};
    first.pair = 0;
    put(e, "{const _Bool v_ = %s, c_ = %s;", value, c.boolean ? read_as(e, p, TY_PRED) : "0");
    const char *format = !c.boolean                      ? "%sv_"
                         : strcmp(c.boolean, "and") == 0 ? "(%sv_ && c_)"
                         : strcmp(c.boolean, "or") == 0  ? "(%sv_ || c_)"
                                                         : "(%sv_ != c_)";
    write_as(e, &first, TY_PRED, say(e, format, ""));
    write_as(e, &second, TY_PRED, say(e, format, "!"));
    put(e, "}");
}

EMITTER(emit_set)
{
    enum ptx_type to = type_mod(e->in, 0);
    struct comparison c = comparison_mods(e, 1);
    want_operands(e, c.boolean ? 4 : 3, c.boolean ? 4 : 3);
    if (to != TY_U32 && to != TY_S32 && to != TY_F32 && to != TY_F16 && to != TY_BF16)
        refuse(e, "this result type");
    bool half = ptx_types[c.type].kind == KIND_SMALL;
    if (half && c.type != TY_F16 && c.type != TY_BF16)
        refuse(e, "this operand type");
    if (half && to == TY_F32)
        invalid(e, "not a result type of this comparison");
    const char *value =
        combine(e, &c, compared(e, &c, &e->in->ops[1], &e->in->ops[2]), &e->in->ops[3]);
    const char *yes = to == TY_F32    ? "1.0f"
                      : to == TY_F16  ? "0x3c00"
                      : to == TY_BF16 ? "0x3f80"
                                      : "-1";
    write_as(e, &e->in->ops[0], to,
             say(e, "(%s) ? (%s)%s : (%s)0", value, ptx_types[to].c, yes, ptx_types[to].c));
}

EMITTER(emit_slct)
{
    enum ptx_type type = type_mod(e->in, 0), by = type_mod(e->in, 1);
    want_operands(e, 4, 4);
    if (by != TY_S32 && by != TY_F32)
        invalid(e, "slct selects by .s32 or .f32");
    if (ptx_types[type].kind == KIND_SMALL || type == TY_PRED || ptx_types[type].bytes == 1 ||
        (has_mod(e->in, "ftz") && by != TY_F32))
        invalid(e, "there is no such form of this instruction");
    const char *c = read_as(e, &e->in->ops[3], by);
    if (has_mod(e->in, "ftz") && by == TY_F32)
        c = say(e, "ftz_f32(%s)", c);
    write_bits(e, &e->in->ops[0], type,
               say(e, "(%s >= 0) ? %s : %s", c, read_bits(e, &e->in->ops[1], type),
                   read_bits(e, &e->in->ops[2], type)));
}

/* --------------------------------------------------------------------------- the rest --------- */

EMITTER(emit_lop3)
{
    bool to_pred = has_mod(e->in, "and") || has_mod(e->in, "or");
    want_operands(e, to_pred ? 6 : 5, to_pred ? 6 : 5);
    struct ptx_operand *ops = e->in->ops;
    if (ops[4].kind != OPND_INT || ops[4].value > 255)
        refuse(e, "the look-up table is a constant from 0 to 255");
    const char *value =
        say(e, "lop3(%s, %s, %s, 0x%xu)", read_as(e, &ops[1], TY_B32), read_as(e, &ops[2], TY_B32),
            read_as(e, &ops[3], TY_B32), (uint32_t)ops[4].value);
    if (!to_pred) {
        write_as(e, &ops[0], TY_B32, value);
        return;
    }
    if (!ops[0].pair)
        invalid(e, "two results, d|p, belong here");
    struct ptx_operand first = ops[0], second = {.kind = OPND_REG, .reg = ops[0].pair - 1};
    first.pair = 0;
    put(e, "{const uint32_t v_ = %s; const _Bool q_ = %s;", value, read_as(e, &ops[5], TY_PRED));
    write_as(e, &first, TY_B32, "v_");
    write_as(e, &second, TY_PRED, has_mod(e->in, "and") ? "v_ != 0 && q_" : "v_ != 0 || q_");
    put(e, "}");
}

EMITTER(emit_carry)
{
    enum ptx_type type = type_mod(e->in, 0), bits = ptx_types[type].bytes == 8 ? TY_B64 : TY_B32;
    const char *op = e->in->op;
    bool mad = op[0] == 'm', sub = op[0] == 's';
    bool carry_in = op[strlen(op) - 1] == 'c', carry_out = has_mod(e->in, "cc");
    want_operands(e, mad ? 4 : 3, mad ? 4 : 3);
    struct ptx_operand *ops = e->in->ops;
    const char *a = read_as(e, &ops[1], type), *b = read_as(e, &ops[2], type);
    if (mad) {
        a = has_mod(e->in, "hi")
                ? say(e, "mulhi_%s(%s, %s)", ptx_types[type].name, a, b)
                : say(e, "((%s)%s * (%s)%s)", ptx_types[bits].c, a, ptx_types[bits].c, b);
        b = read_as(e, &ops[3], type);
    }
    put(e, "{uint32_t c_; const %s v_ = %sx_%s((%s)%s, (%s)%s, %s, &c_);%s", ptx_types[bits].c,
        sub ? "sub" : "add", ptx_types[bits].name, ptx_types[bits].c, a, ptx_types[bits].c, b,
        carry_in ? "cc" : "0", carry_out ? "cc = c_;" : "");
    write_as(e, &ops[0], bits, "v_");
    put(e, "}");
}

EMITTER(emit_dp)
{
    enum ptx_type a = type_mod(e->in, 0), b = type_mod(e->in, 1);
    want_operands(e, 4, 4);
    if (b == TY_NONE)
        invalid(e, "two types belong here");
    struct ptx_operand *ops = e->in->ops;
    bool four = strcmp(e->in->op, "dp4a") == 0;
    const char *value =
        say(e, "%s(%s, %s, %s, %d, %d%s)", e->in->op, read_as(e, &ops[1], TY_B32),
            read_as(e, &ops[2], TY_B32), read_as(e, &ops[3], TY_B32), a == TY_S32, b == TY_S32,
            four                   ? ""
            : has_mod(e->in, "hi") ? ", 1"
                                   : ", 0");
    write_as(e, &ops[0], TY_B32, value);
}
