/* SPDX-License-Identifier: Apache-2.0
 *
 * The instruction table: one row per form. A new instruction is a new row (and a row of
 * tests/contract/test_ptx_opcodes.py); only what no expression can say needs a function.
 */
#include <string.h>

#include "soft/ptxc/emit.h"

#define INT16_64 "u16 s16 u32 s32 u64 s64"
#define BITS     "b16 b32 b64"
#define ROUNDING "rn|rz|rm|rp?"
#define HINTS                                                                                      \
    "L1::evict_normal|L1::evict_unchanged|L1::evict_first|L1::evict_last|L1::no_allocate? "        \
    "L2::evict_last|L2::evict_normal|L2::evict_first? L2::64B|L2::128B|L2::256B? "                 \
    "L2::cache_hint? "

/* Rows are data: one row, one line. clang-format would break them. */
/* clang-format off */
const struct ptx_row ptx_rows[] = {
    /* integer arithmetic */
    {"add",            INT16_64, "", "d a b", "$a + $b", 0},
    {"add",            "s32", "sat", "d a b", "sat_s32((int64_t)$a + $b)", 0},
    {"add",            "u16x2 s16x2", "", "d a b", "add_$t($a, $b)", 0},
    {"sub",            INT16_64, "", "d a b", "$a - $b", 0},
    {"sub",            "s32", "sat", "d a b", "sat_s32((int64_t)$a - $b)", 0},
    {"add",            "u32 s32 u64 s64", "cc", "d a b", 0, emit_carry},
    {"addc",           "u32 s32 u64 s64", "cc?", "d a b", 0, emit_carry},
    {"sub",            "u32 s32 u64 s64", "cc", "d a b", 0, emit_carry},
    {"subc",           "u32 s32 u64 s64", "cc?", "d a b", 0, emit_carry},
    {"mad",            "u32 s32 u64 s64", "lo|hi cc", "d a b c", 0, emit_carry},
    {"madc",           "u32 s32 u64 s64", "lo|hi cc?", "d a b c", 0, emit_carry},
    {"mul",            INT16_64, "lo", "d a b", "($U)$a * ($U)$b", 0},
    {"mul",            INT16_64, "hi", "d a b", "mulhi_$t($a, $b)", 0},
    {"mul",            "u16 s16 u32 s32", "wide", "d:w a b", "($W)$a * ($W)$b", 0},
    {"mad",            INT16_64, "lo", "d a b c", "($U)$a * ($U)$b + ($U)$c", 0},
    {"mad",            INT16_64, "hi", "d a b c", "mulhi_$t($a, $b) + $c", 0},
    {"mad",            "s32", "hi sat", "d a b c", "sat_s32((int64_t)mulhi_s32($a, $b) + $c)", 0},
    {"mad",            "u16 s16 u32 s32", "wide", "d:w a b c:w", "($W)$a * ($W)$b + $c", 0},
    {"mul24",          "u32 s32", "lo|hi", "d a b", "mul24$1_$t($a, $b)", 0},
    {"mad24",          "u32 s32", "lo|hi", "d a b c", "mul24$1_$t($a, $b) + $c", 0},
    {"mad24",          "s32", "hi sat", "d a b c", "sat_s32((int64_t)mul24hi_s32($a, $b) + $c)", 0},
    {"sad",            INT16_64, "", "d a b c", "sad_$t($a, $b, ($U)$c)", 0},
    {"div",            INT16_64, "", "d a b", "div_$t($a, $b)", 0},
    {"rem",            INT16_64, "", "d a b", "rem_$t($a, $b)", 0},
    {"abs",            "s16 s32 s64", "", "d a", "$a < 0 ? ($C)(0 - ($U)$a) : $a", 0},
    {"neg",            "s16 s32 s64", "", "d a", "0 - ($U)$a", 0},
    {"min",            INT16_64, "", "d a b", "$a < $b ? $a : $b", 0},
    {"max",            INT16_64, "", "d a b", "$a > $b ? $a : $b", 0},
    {"min",            "s32", "relu", "d a b", "$a < $b ? $a > 0 ? $a : 0 : $b > 0 ? $b : 0", 0},
    {"max",            "s32", "relu", "d a b", "$a > $b ? $a > 0 ? $a : 0 : $b > 0 ? $b : 0", 0},
    {"min",            "u16x2 s16x2", "", "d a b", "min_$t($a, $b)", 0},
    {"max",            "u16x2 s16x2", "", "d a b", "max_$t($a, $b)", 0},
    {"min",            "s16x2", "relu", "d a b", "min_$t($a, $b)", 0},
    {"max",            "s16x2", "relu", "d a b", "max_$t($a, $b)", 0},
    {"dp4a",           "u32 s32", "", "d a b c", 0, emit_dp},
    {"dp2a",           "u32 s32", "lo|hi", "d a b c", 0, emit_dp},

    /* bits */
    {"and",            BITS, "", "d a b", "$a & $b", 0},
    {"or",             BITS, "", "d a b", "$a | $b", 0},
    {"xor",            BITS, "", "d a b", "$a ^ $b", 0},
    {"not",            BITS, "", "d a", "~$a", 0},
    {"cnot",           BITS, "", "d a", "$a == 0", 0},
    {"and",            "pred", "", "d a b", "$a && $b", 0},
    {"or",             "pred", "", "d a b", "$a || $b", 0},
    {"xor",            "pred", "", "d a b", "$a != $b", 0},
    {"not",            "pred", "", "d a", "!$a", 0},
    {"shl",            BITS, "", "d a b:u32", "shl_$t($a, $b)", 0},
    {"shr",            BITS " " INT16_64, "", "d a b:u32", "shr_$t($a, $b)", 0},
    {"shf",            "b32", "l|r wrap|clamp", "d a b c:u32", "shf_$1_$2($a, $b, $c)", 0},
    {"popc",           "b32 b64", "", "d:u32 a", "popc_$t($a)", 0},
    {"clz",            "b32 b64", "", "d:u32 a", "clz_$t($a)", 0},
    {"brev",           "b32 b64", "", "d a", "brev_$t($a)", 0},
    {"bfind",          "u32 s32 u64 s64", "", "d:u32 a", "bfind_$t($a)", 0},
    {"bfind",          "u32 s32 u64 s64", "shiftamt", "d:u32 a", "bfindshift(bfind_$t($a), sizeof($C) * 8 - 1)", 0},
    {"bfe",            "u32 s32 u64 s64", "", "d a b:u32 c:u32", "bfe_$t($a, $b, $c)", 0},
    {"bfi",            "b32 b64", "", "d a b c:u32 e:u32", "bfi_$t($a, $b, $c, $e)", 0},
    {"bmsk",           "b32", "clamp|wrap", "d a b", "bmsk_$1($a, $b)", 0},
    {"szext",          "u32 s32", "clamp", "d a b:u32", "szext_$t(($U)$a, $b)", 0},
    {"szext",          "u32 s32", "wrap", "d a b:u32", "szext_$t(($U)$a, $b & 31)", 0},
    {"fns",            "b32", "", "d a b:b32 c:s32", "fns_b32($a, $b, $c)", 0},
    {"prmt",           "b32", "f4e|b4e|rc8|ecl|ecr|rc16?", "d a b c", "prmt_$1($a, $b, $c)", 0},
    {"lop3",           "b32", "and|or?", "*", 0, emit_lop3},

    /* floating point: .ftz, .sat and .relu are applied to operands and result by the emitter */
    {"add",            "f32", ROUNDING " ftz? sat?", "d a b", "$t_add($a, $b, $R)", 0},
    {"add",            "f64", ROUNDING, "d a b", "$t_add($a, $b, $R)", 0},
    {"add",            "f16 f16x2", "rn? ftz? sat?", "d a b", "$t_add($a, $b, RN)", 0},
    {"add",            "bf16 bf16x2", "rn?", "d a b", "$t_add($a, $b, RN)", 0},
    {"sub",            "f32", ROUNDING " ftz? sat?", "d a b", "$t_sub($a, $b, $R)", 0},
    {"sub",            "f64", ROUNDING, "d a b", "$t_sub($a, $b, $R)", 0},
    {"sub",            "f16 f16x2", "rn? ftz? sat?", "d a b", "$t_sub($a, $b, RN)", 0},
    {"sub",            "bf16 bf16x2", "rn?", "d a b", "$t_sub($a, $b, RN)", 0},
    {"mul",            "f32", ROUNDING " ftz? sat?", "d a b", "$t_mul($a, $b, $R)", 0},
    {"mul",            "f64", ROUNDING, "d a b", "$t_mul($a, $b, $R)", 0},
    {"mul",            "f16 f16x2", "rn? ftz? sat?", "d a b", "$t_mul($a, $b, RN)", 0},
    {"mul",            "bf16 bf16x2", "rn?", "d a b", "$t_mul($a, $b, RN)", 0},
    {"fma",            "f32", "rn|rz|rm|rp ftz? sat?", "d a b c", "$t_fma(T, $a, $b, $c, $R)", 0},
    {"fma",            "f64", "rn|rz|rm|rp", "d a b c", "$t_fma(T, $a, $b, $c, $R)", 0},
    {"fma",            "f16 f16x2", "rn ftz? sat|relu?", "d a b c", "$t_fma(T, $a, $b, $c, RN)", 0},
    {"fma",            "bf16 bf16x2", "rn relu?", "d a b c", "$t_fma(T, $a, $b, $c, RN)", 0},
    {"mad",            "f32", "rn|rz|rm|rp ftz? sat?", "d a b c", "$t_fma(T, $a, $b, $c, $R)", 0},
    {"mad",            "f64", "rn|rz|rm|rp", "d a b c", "$t_fma(T, $a, $b, $c, $R)", 0},
    {"div",            "f32", "rn|rz|rm|rp ftz?", "d a b", "$t_div($a, $b, $R)", 0},
    {"div",            "f32", "full ftz?", "d a b", "$a / $b", 0},
    {"div",            "f32", "approx ftz?", "d a b", "f32_divapprox($a, $b)", 0},
    {"div",            "f64", "rn|rz|rm|rp", "d a b", "$t_div($a, $b, $R)", 0},
    {"rcp",            "f32", "rn|rz|rm|rp ftz?", "d a", "$t_div(1.0f, $a, $R)", 0},
    {"rcp",            "f32", "approx ftz?", "d a", "1.0f / $a", 0},
    {"rcp",            "f64", "rn|rz|rm|rp", "d a", "$t_div(1.0, $a, $R)", 0},
    {"rcp",            "f64", "approx ftz", "d a", "f64_gross(1.0 / f64_gross($a))", 0},
    {"sqrt",           "f32", "rn|rz|rm|rp ftz?", "d a", "$t_sqrt($a, $R)", 0},
    {"sqrt",           "f32", "approx ftz?", "d a", "f32_sqrt($a, RN)", 0},
    {"sqrt",           "f64", "rn|rz|rm|rp", "d a", "$t_sqrt($a, $R)", 0},
    {"rsqrt",          "f32", "approx ftz?", "d a", "1.0f / f32_sqrt($a, RN)", 0},
    {"rsqrt",          "f64", "approx", "d a", "1.0 / f64_sqrt($a, RN)", 0},
    {"rsqrt",          "f64", "approx ftz", "d a", "f64_gross(1.0 / f64_sqrt(f64_gross($a), RN))", 0},
    {"sin",            "f32", "approx ftz?", "d a", "f32_sin($a)", 0},
    {"cos",            "f32", "approx ftz?", "d a", "f32_cos($a)", 0},
    {"lg2",            "f32", "approx ftz?", "d a", "f32_lg2($a)", 0},
    {"ex2",            "f32", "approx ftz?", "d a", "f32_ex2($a)", 0},
    {"ex2",            "f16 f16x2", "approx", "d a", "$t_ex2($a)", 0},
    {"ex2",            "bf16 bf16x2", "approx ftz", "d a", "$t_ex2($a)", 0},
    {"tanh",           "f32 f16 f16x2 bf16 bf16x2", "approx", "d a", "$t_tanh($a)", 0},
    {"abs",            "f32 f16 f16x2", "ftz?", "d a", "$t_abs($a)", 0},
    {"abs",            "f64 bf16 bf16x2", "", "d a", "$t_abs($a)", 0},
    {"neg",            "f32 f16 f16x2", "ftz?", "d a", "$t_neg($a)", 0},
    {"neg",            "f64 bf16 bf16x2", "", "d a", "$t_neg($a)", 0},
    {"min",            "f32 f16 f16x2", "ftz? NaN?", "d a b", "$t_min$2($a, $b)", 0},
    {"max",            "f32 f16 f16x2", "ftz? NaN?", "d a b", "$t_max$2($a, $b)", 0},
    {"min",            "f32", "ftz? NaN? xorsign abs", "d a b", "xorsign_f32($a, $b, f32_min$2(f32_abs($a), f32_abs($b)))", 0},
    {"max",            "f32", "ftz? NaN? xorsign abs", "d a b", "xorsign_f32($a, $b, f32_max$2(f32_abs($a), f32_abs($b)))", 0},
    {"min",            "f16 f16x2", "ftz? NaN? xorsign abs", "d a b", "xorsign_$t($a, $b, $t_min$2($t_abs($a), $t_abs($b)))", 0},
    {"max",            "f16 f16x2", "ftz? NaN? xorsign abs", "d a b", "xorsign_$t($a, $b, $t_max$2($t_abs($a), $t_abs($b)))", 0},
    {"min",            "bf16 bf16x2", "NaN? xorsign abs", "d a b", "xorsign_$t($a, $b, $t_min$1($t_abs($a), $t_abs($b)))", 0},
    {"max",            "bf16 bf16x2", "NaN? xorsign abs", "d a b", "xorsign_$t($a, $b, $t_max$1($t_abs($a), $t_abs($b)))", 0},
    {"min",            "f64", "", "d a b", "$t_min($a, $b)", 0},
    {"max",            "f64", "", "d a b", "$t_max($a, $b)", 0},
    {"min",            "bf16 bf16x2", "NaN?", "d a b", "$t_min$1($a, $b)", 0},
    {"max",            "bf16 bf16x2", "NaN?", "d a b", "$t_max$1($a, $b)", 0},
    {"copysign",       "f32", "", "d a b", "asf32((asu32($a) & 0x80000000) | (asu32($b) & 0x7fffffff))", 0},
    {"copysign",       "f64", "", "d a b", "asf64((asu64($a) & 1ull << 63) | (asu64($b) & ~(1ull << 63)))", 0},
    {"testp",          "f32 f64", "finite", "d:pred a", "testp_$t($a, 0)", 0},
    {"testp",          "f32 f64", "infinite", "d:pred a", "testp_$t($a, 1)", 0},
    {"testp",          "f32 f64", "normal", "d:pred a", "testp_$t($a, 2)", 0},
    {"testp",          "f32 f64", "subnormal", "d:pred a", "testp_$t($a, 3)", 0},
    {"testp",          "f32 f64", "number", "d:pred a", "testp_$t($a, 4)", 0},
    {"testp",          "f32 f64", "notanumber", "d:pred a", "testp_$t($a, 5)", 0},

    /* compare, select, move, convert */
    {"setp",           "*", "*", "*", 0, emit_setp},
    {"set",            "*", "*", "*", 0, emit_set},
    {"selp",           BITS " " INT16_64 " f32 f64", "", "d~ a~ b~ p", "$p ? $a : $b", 0},
    {"slct",           "*", "ftz?", "*", 0, emit_slct},
    {"mov",            "pred f16 f16x2 bf16 bf16x2 b128 f32 f64 " BITS " " INT16_64, "", "*", 0, emit_mov},
    {"cvt",            "*", "*", "*", 0, emit_cvt},

    /* memory */
    {"ld",             "*", "*", "*", 0, emit_ld},
    {"ldu",            "*", "*", "*", 0, emit_ld},
    {"st",             "*", "*", "*", 0, emit_st},
    {"atom",           "*", "*", "*", 0, emit_atom},
    {"red",            "*", "*", "*", 0, emit_atom},
    {"cvta",           "u32 u64", "to? global|shared|local|const|param|shared::cta|shared::cluster", "d a", 0, emit_cvta},
    {"isspacep",       "", "global|shared|local|const|param|shared::cta|shared::cluster", "*", 0, emit_isspacep},
    {"membar",         "", "cta|gl|gpu|sys|cluster", "", 0, emit_fence},
    {"fence",          "", "sc|acq_rel|acquire|release? cta|cluster|gpu|sys", "", 0, emit_fence},
    {"fence",          "", "proxy alias|async", "", 0, emit_fence},
    {"fence",          "", "proxy async global|shared::cta|shared::cluster", "", 0, emit_fence},
    {"fence",          "", "proxy async::generic acquire sync_restrict::shared::cluster cluster", "", 0, emit_fence},
    {"fence",          "", "proxy async::generic release sync_restrict::shared::cta cluster", "", 0, emit_fence},
    {"fence",          "", "acquire sync_restrict::shared::cluster cluster", "", 0, emit_fence},
    {"fence",          "", "release sync_restrict::shared::cta cluster", "", 0, emit_fence},
    {"fence",          "", "mbarrier_init release cluster", "", 0, emit_fence},
    {"mapa",           "u32 u64", "shared::cluster?", "d a b:u32", 0, emit_mapa},
    {"getctarank",     "u32 u64", "shared::cluster?", "d:u32 a", 0, emit_mapa},
    {"alloca",         "u32 u64", "", "*", 0, emit_alloca},
    {"stacksave",      "u32 u64", "", "d", 0, emit_alloca},
    {"stackrestore",   "u32 u64", "", "a", 0, emit_alloca},
    {"cp",             "", "async ca|cg shared|shared::cta global " HINTS, "*", 0, emit_cp_async},
    {"cp",             "", "async commit_group", "", 0, emit_nothing},
    {"cp",             "", "async wait_group", "n", 0, emit_nothing},
    {"cp",             "", "async wait_all", "", 0, emit_nothing},
    {"prefetch",       "", "global|local? L1|L2|L2::evict_last|L2::evict_normal", "*", 0, emit_nothing},
    {"prefetchu",      "", "L1", "*", 0, emit_nothing},
    {"createpolicy",   "b64", "*", "*", 0, emit_policy},
    {"applypriority",  "", "global? L2::evict_normal", "*", 0, emit_nothing},
    {"discard",        "", "global? L2", "*", 0, emit_nothing}, /* what it leaves is anything */

    /* control */
    {"bra",            "", "uni?", "*", 0, emit_bra},
    {"brx",            "", "idx uni?", "*", 0, emit_brx},
    {"call",           "", "uni?", "*", 0, emit_call},
    {"ret",            "", "uni?", "", 0, emit_ret},
    {"exit",           "", "", "", 0, emit_ret},
    {"trap",           "", "", "", 0, emit_stop},
    {"brkpt",          "", "", "", 0, emit_stop},
    {"nanosleep",      "u32", "", "a", 0, emit_nanosleep},
    {"pmevent",        "", "mask?", "*", 0, emit_nothing},
    {"griddepcontrol", "", "wait|launch_dependents", "", 0, emit_nothing},
    {"setmaxnreg",     "u32", "inc|dec sync aligned", "n", 0, emit_nothing},

    /* threads meeting */
    {"barrier",        "", "cluster arrive release|relaxed? aligned?", "", 0, emit_cluster_barrier},
    {"barrier",        "", "cluster wait acquire? aligned?", "", 0, emit_cluster_barrier},
    {"mbarrier",       "*", "*", "*", 0, emit_mbarrier},
    {"cp",             "b64", "async mbarrier arrive noinc? shared|shared::cta?", "*", 0, emit_mbarrier},
    {"bar",            "*", "*", "*", 0, emit_bar},
    {"barrier",        "*", "*", "*", 0, emit_bar},
    {"shfl",           "b32", "sync up|down|bfly|idx", "*", 0, emit_shfl},
    {"vote",           "pred b32", "sync all|any|uni|ballot", "*", 0, emit_vote},
    {"match",          "b32 b64", "any|all sync", "*", 0, emit_match},
    {"redux",          "u32 s32 b32", "sync add|min|max|and|or|xor", "*", 0, emit_redux},
    {"activemask",     "b32", "", "d", 0, emit_activemask},
    {"elect",          "", "sync", "*", 0, emit_elect},
    {"mma",            "*", "sync aligned m16n8k16|m16n8k8|m16n8k4 row col", "*", 0, emit_mma},
};
/* clang-format on */
const size_t ptx_row_count = sizeof(ptx_rows) / sizeof(ptx_rows[0]);

/* ------------------------------------------------------------------------------ matching ------ */

/* Is `word` among the space-separated `list`, or in the group "a|b" if bar? */
static bool in_list(const char *list, size_t bytes, char separator, const char *word)
{
    size_t n = strlen(word);
    for (const char *at = list, *end = list + bytes; at < end;) {
        const char *stop = memchr(at, separator, (size_t)(end - at));
        stop = stop ? stop : end;
        if ((size_t)(stop - at) == n && memcmp(at, word, n) == 0)
            return true;
        at = stop + 1;
    }
    return false;
}

/* Fills `picked` with the alternative of each group. */
static bool mods_match(const struct ptx_row *row, const struct ptx_instr *in, const char **picked)
{
    uint32_t used = 0, others = 0, group = 0;
    if (strcmp(row->mods, "*") == 0)
        return true;
    for (uint32_t i = 0; i < in->mod_count; i++)
        others += ptx_type_of(in->mods[i], strlen(in->mods[i])) == TY_NONE;
    for (const char *at = row->mods; *at; group++) {
        const char *stop = strchr(at, ' ');
        size_t bytes = stop ? (size_t)(stop - at) : strlen(at);
        bool optional = bytes && at[bytes - 1] == '?';
        picked[group] = "";
        for (uint32_t i = 0; i < in->mod_count && !*picked[group]; i++)
            if (ptx_type_of(in->mods[i], strlen(in->mods[i])) == TY_NONE &&
                in_list(at, bytes - optional, '|', in->mods[i])) {
                picked[group] = in->mods[i];
                used++;
            }
        if (!*picked[group] && !optional)
            return false;
        at = stop ? stop + 1 : at + bytes;
        while (*at == ' ')
            at++;
    }
    return used == others;
}

static bool row_matches(const struct ptx_row *row, const struct ptx_instr *in, const char **picked)
{
    if (strcmp(row->op, in->op) != 0)
        return false;
    uint32_t n = 0;
    while (type_mod(in, n) != TY_NONE)
        n++;
    enum ptx_type last = n ? type_mod(in, n - 1) : TY_NONE;
    if (strcmp(row->types, "*") != 0) {
        if (!*row->types
                ? n != 0
                : !n || !in_list(row->types, strlen(row->types), ' ', ptx_types[last].name))
            return false;
        if (n > 1 && row->expr)
            return false;
    }
    return mods_match(row, in, picked);
}

/* ---------------------------------------------------------------------- expressions ----------- */

static enum ptx_type wide_of(enum ptx_type t)
{
    switch (t) {
    case TY_U16:
        return TY_U32;
    case TY_S16:
        return TY_S32;
    case TY_U32:
        return TY_U64;
    case TY_S32:
        return TY_S64;
    default:
        return t;
    }
}

static const char *unsigned_c(enum ptx_type t)
{
    switch (ptx_types[t].bytes) {
    case 1:
        return "uint8_t";
    case 2:
        return "uint32_t"; /* products of 16-bit values must not overflow int */
    case 4:
        return "uint32_t";
    default:
        return "uint64_t";
    }
}

static void emit_expression(struct emitter *e, const struct ptx_row *row, const char **picked)
{
    struct ptx_instr *in = e->in;
    enum ptx_type type = type_mod(in, 0), to = type;
    const char *value[128] = {0};
    const struct ptx_operand *dest = NULL;
    bool ftz = has_mod(in, "ftz"), sat = has_mod(in, "sat") && ptx_types[type].kind >= KIND_SMALL;
    bool relu = has_mod(in, "relu") && ptx_types[type].kind == KIND_SMALL, neutral = false;
    uint32_t n = 0;
    for (const char *at = row->operands; *at; n++) {
        char role = *at++;
        bool bits = *at == '~';
        at += bits;
        enum ptx_type t = role == 'p' ? TY_PRED : type;
        if (*at == ':') {
            size_t bytes = strcspn(at + 1, " ");
            t = bytes == 1 && at[1] == 'w' ? wide_of(type) : ptx_type_of(at + 1, bytes);
            at += 1 + bytes;
        }
        at += *at == ' ';
        if (n >= in->op_count)
            invalid(e, "too few operands");
        const struct ptx_operand *op = &in->ops[n];
        if (op->pair || op->sink_pair)
            invalid(e, "this instruction has no second result");
        if (role == 'd') {
            dest = op;
            to = t;
            neutral = bits;
            continue;
        }
        const char *v = bits ? read_bits(e, op, t) : read_as(e, op, t);
        if (bits && op->kind == OPND_REG &&
            ptx_types[e->body->regs[op->reg].type].bytes != ptx_types[t].bytes)
            invalid(e, "an operand of another size belongs here");
        if (ftz && t == type && type != TY_F64 && type != TY_BF16 && type != TY_BF16X2)
            v = say(e, "ftz_%s(%s)", ptx_types[t].name, v);
        value[(unsigned char)role] = v;
    }
    if (n != in->op_count)
        invalid(e, "too many operands");
    struct text text = {0};
    const char *rounding = has_mod(in, "rz")   ? "RZ"
                           : has_mod(in, "rm") ? "RM"
                           : has_mod(in, "rp") ? "RP"
                                               : "RN";
    for (const char *at = row->expr; *at; at++) {
        if (*at != '$') {
            put_to(e, &text, "%c", *at);
            continue;
        }
        switch (*++at) {
        case 't':
            put_to(e, &text, "%s", ptx_types[type].name);
            break;
        case 'C':
            put_to(e, &text, "%s", ptx_types[type].c);
            break;
        case 'U':
            put_to(e, &text, "%s", unsigned_c(type));
            break;
        case 'W':
            put_to(e, &text, "%s", ptx_types[wide_of(type)].c);
            break;
        case 'R':
            put_to(e, &text, "%s", rounding);
            break;
        case '1':
        case '2': {
            const char *word = picked[*at - '1'];
            put_to(e, &text, "%s", strcmp(word, "NaN") == 0 ? "nan" : word);
            break;
        }
        default:
            if (!value[(unsigned char)*at])
                job_fail(e->job, PTXC_INTERNAL, "row of `%s`: $%c", row->op, *at);
            put_to(e, &text, "%s", value[(unsigned char)*at]);
        }
    }
    const char *expr = text.at;
    if (sat)
        expr = say(e, "sat_%s(%s)", ptx_types[type].name, expr);
    if (relu)
        expr = say(e, "relu_%s(%s)", ptx_types[type].name, expr);
    if (ftz && to == type && type != TY_F64 && type != TY_BF16 && type != TY_BF16X2)
        expr = say(e, "ftz_%s(%s)", ptx_types[type].name, expr);
    if (!dest)
        job_fail(e->job, PTXC_INTERNAL, "row of `%s` has no destination", row->op);
    if (to != TY_PRED)
        expr = say(e, "(%s)(%s)", ptx_types[to].c, expr);
    if (neutral)
        write_bits(e, dest, to, expr);
    else
        write_as(e, dest, to, expr);
}

/* Of these the table has every form that the newest target here, sm_90, knows: any other is wrong.
 */
static const char complete[] =
    "add sub mul mad fma div rem abs neg min max mul24 mad24 sad and or xor not "
    "cnot "
    "shl shr shf popc clz brev bfind bfe bfi bmsk szext fns prmt lop3 sin cos lg2 ex2 tanh rcp "
    "sqrt "
    "rsqrt copysign testp selp slct bra ret exit trap brkpt activemask vote match nanosleep";
/* Legal on sm_90, not supported here. */
static const char unsupported[] =
    "wgmma wmma mma ldmatrix stmatrix movmatrix tex tld4 txq istypep suld sust sured suq  "
    "multimem tensormap tcgen05 clusterlaunchcontrol "
    "vadd vsub vabsdiff vmin vmax vshl vshr vmad vset vadd2 vsub2 vavrg2 vabsdiff2 vmin2 vmax2 "
    "vset2 vadd4 vsub4 vavrg4 vabsdiff4 vmin4 vmax4 vset4";

void emit_instruction(struct emitter *e)
{
    const char *picked[MAX_MODS + 4] = {"", "", "", ""};
    bool known = false;
    for (size_t i = 0; i < ptx_row_count; i++) {
        if (!row_matches(&ptx_rows[i], e->in, picked)) {
            known |= strcmp(ptx_rows[i].op, e->in->op) == 0;
            continue;
        }
        if (ptx_rows[i].emit)
            ptx_rows[i].emit(e, &ptx_rows[i]);
        else
            emit_expression(e, &ptx_rows[i], picked);
        return;
    }
    if (!known && !in_list(unsupported, strlen(unsupported), ' ', e->in->op))
        invalid(e, "there is no such instruction");
    if (known && in_list(complete, strlen(complete), ' ', e->in->op) && !has_mod(e->in, "oob"))
        invalid(e, "there is no such form of this instruction");
    refuse(e, known ? "this form is not supported" : "not supported");
}
