/* SPDX-License-Identifier: Apache-2.0
 *
 * cvt: of numbers to each other. Of eight bits: ops_eights.c.
 */
#include <string.h>

#include "soft/ptxc/emit.h"

static bool is_int(enum ptx_type t)
{
    return ptx_types[t].kind == KIND_UINT || ptx_types[t].kind == KIND_SINT;
}

static int bits_of_type(enum ptx_type t)
{
    return ptx_types[t].bytes * 8;
}

static const char *clamp_int(struct emitter *e, const char *v, enum ptx_type to)
{
    /* In 128 bits every source fits. */
    static const char *const low[] = {
        [1] = "INT8_MIN", [2] = "INT16_MIN", [4] = "INT32_MIN", [8] = "INT64_MIN"};
    static const char *const high[2][9] = {
        {[1] = "UINT8_MAX", [2] = "UINT16_MAX", [4] = "UINT32_MAX", [8] = "UINT64_MAX"},
        {[1] = "INT8_MAX", [2] = "INT16_MAX", [4] = "INT32_MAX", [8] = "INT64_MAX"}};
    bool s = ptx_types[to].kind == KIND_SINT;
    uint32_t bytes = ptx_types[to].bytes;
    return say(e,
               "({const __int128 v_ = (__int128)%s, l_ = %s, h_ = %s; (%s)(v_ < l_ ? l_ : v_ > h_ "
               "? h_ : v_);})",
               v, s ? low[bytes] : "0", high[s][bytes], ptx_types[to].c);
}

static const char *as_double(struct emitter *e, const char *v, enum ptx_type from)
{
    switch (from) {
    case TY_F16:
        return say(e, "(double)f16_load(%s)", v);
    case TY_BF16:
        return say(e, "(double)bf16_load(%s)", v);
    default:
        return say(e, "(double)%s", v);
    }
}

struct cvt {
    const char *rounding; /* RN RZ RM RP */
    bool integer, any, ftz, sat, relu, finite;
};

static struct cvt cvt_mods(struct emitter *e)
{
    static const char *const names[] = {"rn", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi"};
    static const char *const modes[] = {"RN", "RZ", "RM", "RP"};
    struct cvt c = {.rounding = "RN"};
    for (uint32_t i = 0; i < e->in->mod_count; i++) {
        const char *mod = e->in->mods[i];
        bool known = ptx_type_of(mod, strlen(mod)) != TY_NONE;
        for (size_t k = 0; k < 8; k++)
            if (strcmp(mod, names[k]) == 0) {
                c.rounding = modes[k & 3];
                c.integer = k >= 4;
                c.any = known = true;
            }
        if (strcmp(mod, "ftz") == 0)
            c.ftz = known = true;
        else if (strcmp(mod, "sat") == 0)
            c.sat = known = true;
        else if (strcmp(mod, "relu") == 0)
            c.relu = known = true;
        else if (strcmp(mod, "satfinite") == 0)
            c.finite = known = true;
        else if (strcmp(mod, "rna") == 0)
            known = true;
        if (!known)
            refuse(e, say(e, ".%s", mod));
    }
    return c;
}

static const char *float_to_int(struct emitter *e, const struct cvt *c, const char *v,
                                enum ptx_type to, enum ptx_type from)
{
    int bits = bits_of_type(to);
    bool high_nan = from == TY_F64 || bits == 64;
    if (!c->integer)
        invalid(e, "floating point to integer needs .rni, .rzi, .rmi or .rpi");
    if (ptx_types[to].kind == KIND_SINT)
        return say(e, "(%s)f64_to_s(%s, %s, %d, %s)", ptx_types[to].c, as_double(e, v, from),
                   c->rounding, bits, high_nan ? say(e, "(int64_t)(~0ull << %d)", bits - 1) : "0");
    return say(e, "(%s)f64_to_u(%s, %s, %d, %s)", ptx_types[to].c, as_double(e, v, from),
               c->rounding, bits, high_nan ? say(e, "1ull << %d", bits - 1) : "0");
}

static const char *int_to_float(struct emitter *e, const struct cvt *c, const char *v,
                                enum ptx_type to, enum ptx_type from)
{
    const char *sign = ptx_types[from].kind == KIND_SINT ? "s" : "u";
    if (!c->any || c->integer)
        invalid(e, "integer to floating point needs .rn, .rz, .rm or .rp");
    bool nearest = strcmp(c->rounding, "RN") == 0;
    switch (to) {
    case TY_F32:
        return nearest
                   ? say(e, "(float)%s", v)
                   : say(e, "asf32((uint32_t)fp_from_%s64(%s, 8, 23, %s))", sign, v, c->rounding);
    case TY_F64:
        return nearest ? say(e, "(double)%s", v)
                       : say(e, "asf64(fp_from_%s64(%s, 11, 52, %s))", sign, v, c->rounding);
    case TY_F16:
        return say(e, "(uint16_t)fp_from_%s64(%s, 5, 10, %s)", sign, v, c->rounding);
    default:
        return say(e, "(uint16_t)fp_from_%s64(%s, 8, 7, %s)", sign, v, c->rounding);
    }
}

static const char *float_to_float(struct emitter *e, const struct cvt *c, const char *v,
                                  enum ptx_type to, enum ptx_type from)
{
    bool nearest = strcmp(c->rounding, "RN") == 0;
    uint32_t n = ptx_types[to].bytes, m = ptx_types[from].bytes;
    if (to == from && !c->integer)
        return v;
    if (c->integer) { /* to an integral value */
        if (to != from)
            invalid(e, "rounding to an integral value keeps the type");
        if (to == TY_F16)
            return say(e, "f16_store((float)f64_integer(%s, %s))", as_double(e, v, from),
                       c->rounding);
        if (to == TY_BF16)
            return say(e, "bf16_store((float)f64_integer(%s, %s))", as_double(e, v, from),
                       c->rounding);
        return say(e, "(%s)f64_integer((double)%s, %s)", ptx_types[to].c, v, c->rounding);
    }
    if (n < m && !c->any)
        invalid(e, "a narrowing conversion needs .rn, .rz, .rm or .rp");
    if (n == m && !c->any && (to == TY_F16 || to == TY_BF16))
        refuse(e, "without a rounding mode");
    switch (to) {
    case TY_F16:
        return nearest && from == TY_F32
                   ? say(e, "f16_store(%s)", v)
                   : say(e, "f16_round(%s, %s)", as_double(e, v, from), c->rounding);
    case TY_BF16:
        return nearest && from == TY_F32
                   ? say(e, "bf16_store(%s)", v)
                   : say(e, "bf16_round(%s, %s)", as_double(e, v, from), c->rounding);
    case TY_F32:
        return from == TY_F64   ? say(e, "f32_round(%s, %s)", v, c->rounding)
               : from == TY_F16 ? say(e, "f16_load(%s)", v)
                                : say(e, "bf16_load(%s)", v);
    default:
        return as_double(e, v, from);
    }
}

static bool cvt_type(enum ptx_type t)
{
    return is_int(t) || t == TY_F16 || t == TY_BF16 || t == TY_F32 || t == TY_F64;
}

/* cvt.rn.f16x2.f32 d, a, b: a goes to the upper half. */
static void cvt_pair(struct emitter *e, const struct cvt *c, enum ptx_type to)
{
    const char *t = to == TY_F16X2 ? "f16" : "bf16";
    want_operands(e, 3, 3);
    const char *half[2];
    for (int i = 0; i < 2; i++) {
        const char *v = read_as(e, &e->in->ops[2 - i], TY_F32);
        if (c->ftz)
            v = say(e, "ftz_f32(%s)", v);
        v = strcmp(c->rounding, "RN") == 0 ? say(e, "%s_store(%s)", t, v)
                                           : say(e, "%s_round((double)%s, %s)", t, v, c->rounding);
        if (c->finite)
            v = say(e, "finite_%s(%s)", t, v);
        half[i] = c->relu ? say(e, "relu_%s(%s)", t, v) : c->sat ? say(e, "sat_%s(%s)", t, v) : v;
    }
    if (!c->any || c->integer)
        invalid(e, "this conversion needs .rn or .rz");
    write_as(e, &e->in->ops[0], to, say(e, "PAIR2(%s, %s)", half[0], half[1]));
}

EMITTER(emit_cvt)
{
    enum ptx_type to = type_mod(e->in, 0), from = type_mod(e->in, 1);
    struct cvt c;
    if (has_mod(e->in, "pack"))
        refuse(e, "cvt.pack");
    if (to == TY_E4M3X2 || to == TY_E5M2X2 || from == TY_E4M3X2 || from == TY_E5M2X2) {
        emit_cvt_eights(e, row);
        return;
    }
    c = cvt_mods(e);
    if (type_mod(e->in, 2) != TY_NONE || from == TY_NONE)
        invalid(e, "cvt names two types");
    bool small =
        to == TY_F16 || to == TY_BF16 || to == TY_F16X2 || to == TY_BF16X2 || to == TY_TF32;
    if (c.relu && (!small || from != TY_F32))
        invalid(e, ".relu is for .f32 to a smaller type");
    if (c.finite && (!small || from != TY_F32 || c.sat))
        invalid(e, ".satfinite is for .f32 to a smaller type");
    if (c.ftz && from != TY_F32 && to != TY_F32)
        invalid(e, ".ftz is for .f32");
    if ((to == TY_F16X2 || to == TY_BF16X2) && from == TY_F32) {
        cvt_pair(e, &c, to);
        return;
    }
    want_operands(e, 2, 2);
    const struct ptx_operand *dest = &e->in->ops[0], *src = &e->in->ops[1];
    if (to == TY_TF32 && from == TY_F32) {
        const char *v = read_as(e, src, TY_F32);
        if (!c.any && !has_mod(e->in, "rna"))
            invalid(e, "this conversion needs .rn, .rz or .rna");
        v = has_mod(e->in, "rna") ? say(e, "tf32_rna(%s)", v)
                                  : say(e, "tf32_round(%s, %s)", v, c.rounding);
        if (c.finite)
            v = say(e, "finite_tf32(%s)", v);
        if (c.relu)
            v = say(e, "((int32_t)%s < 0 ? 0 : %s)", v, v);
        write_as(e, dest, TY_B32, v);
        return;
    }
    if (!cvt_type(to) || !cvt_type(from) || has_mod(e->in, "rna"))
        refuse(e, "this pair of types");
    const char *v = read_loose(e, src, from);
    if (c.ftz && from == TY_F32)
        v = say(e, "ftz_f32(%s)", v);
    if (is_int(to) && is_int(from)) {
        if (c.any || c.ftz)
            invalid(e, "integer to integer rounds nothing");
        v = c.sat ? clamp_int(e, v, to) : say(e, "(%s)%s", ptx_types[to].c, v);
    } else if (is_int(to)) {
        v = float_to_int(e, &c, v, to, from); /* clamps with and without .sat */
    } else {
        v = is_int(from) ? int_to_float(e, &c, v, to, from) : float_to_float(e, &c, v, to, from);
        if (c.sat)
            v = say(e, "sat_%s(%s)", ptx_types[to].name, v);
        if (c.finite)
            v = say(e, "finite_%s(%s)", ptx_types[to].name, v);
        if (c.relu)
            v = say(e, "relu_%s(%s)", ptx_types[to].name, v);
        if (c.ftz && to == TY_F32)
            v = say(e, "ftz_f32(%s)", v);
    }
    write_as(e, dest, to, v);
}
