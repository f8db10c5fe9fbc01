/* SPDX-License-Identifier: Apache-2.0
 *
 * Conversions between pairs of 8-bit floating-point values (.e4m3x2, .e5m2x2) and others.
 */
#include <string.h>

#include "soft/ptxc/emit.h"

static bool only(const struct ptx_instr *in, const char *const *words, uint32_t n)
{
    for (uint32_t i = 0; i < in->mod_count; i++) {
        bool known = ptx_type_of(in->mods[i], strlen(in->mods[i])) != TY_NONE;
        for (uint32_t k = 0; k < n && !known; k++)
            known = strcmp(in->mods[i], words[k]) == 0;
        if (!known)
            return false;
    }
    return true;
}

/* cvt.rn.satfinite{.relu}.T.f32 d, a, b: a goes to the upper half. cvt.rn.satfinite{.relu}.T.f16x2
 * d, a and cvt.rn{.relu}.f16x2.T d, a. */
EMITTER(emit_cvt_eights)
{
    static const char *const words[] = {"rn", "relu", "satfinite"};
    struct ptx_instr *in = e->in;
    enum ptx_type to = type_mod(in, 0), from = type_mod(in, 1);
    bool relu = has_mod(in, "relu"), narrow = to == TY_E4M3X2 || to == TY_E5M2X2;
    enum ptx_type eights = narrow ? to : from, other = narrow ? from : to;
    const char *kind = eights == TY_E4M3X2 ? "e4m3" : "e5m2";
    e->eights = true;
    if (!only(in, words, narrow ? 3 : 2) || !has_mod(in, "rn") ||
        (narrow && !has_mod(in, "satfinite")) || type_mod(in, 2) != TY_NONE ||
        !(other == TY_F16X2 || (narrow && other == TY_F32)))
        invalid(e, "there is no such form of this instruction");
    if (in->op_count != (other == TY_F32 ? 3u : 2u))
        invalid(e, "too few or too many operands");
    const char *a = read_as(e, &in->ops[1], from), *value;
    if (!narrow)
        value = say(e, "f16x2_of_%s(%s, %d)", kind, a, relu);
    else if (other == TY_F16X2)
        value = say(e, "%s_of_f16x2(%s, %d)", kind, a, relu);
    else
        value = say(e, "(uint16_t)(%s_store(%s, %d) << 8 | %s_store(%s, %d))", kind, a, relu, kind,
                    read_as(e, &in->ops[2], from), relu);
    write_as(e, &in->ops[0], to, value);
}
