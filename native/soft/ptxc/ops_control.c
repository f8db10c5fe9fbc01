/* SPDX-License-Identifier: Apache-2.0
 *
 * Branches, ends, and instructions in which threads meet.
 */
#include <string.h>

#include "soft/ptxc/emit.h"
#include "soft/ptxc/spin.h"

/* ---------------------------------------------------------------------------- branches -------- */

void survey_scheme(struct emitter *e, const struct ptx_instr *in)
{
    if (meets(in)) {
        e->fibers = true;
        e->warps |= in->op[0] != 'b' || has_mod(in, "warp");
    }
    if (strcmp(in->op, "bar") == 0 || strcmp(in->op, "barrier") == 0)
        e->barrier |= !has_mod(in, "warp");
    bool arrives = strcmp(in->op, "cp") == 0 && has_mod(in, "mbarrier");
    bool cluster = strcmp(in->op, "barrier") == 0 && has_mod(in, "cluster");
    if (strcmp(in->op, "mbarrier") == 0 || arrives || cluster)
        e->meets = e->fibers = true;
    if (strcmp(in->op, "alloca") == 0)
        e->allocates = true;
    if (strcmp(in->op, "exit") == 0 && !e->body->func->entry)
        e->deep_exit = true;
    if (watches(in) && !e->body->func->entry)
        e->deep_watch = true;
    if (strcmp(in->op, "nanosleep") == 0)
        e->sleeps = true;
}

/* Must a thread that goes round this loop let others run? */
static bool gives_way(struct emitter *e, uint32_t to)
{
    const struct spin_loop *loop = spin_loop(e, to);
    bool waits = loop->calls ? loop->watches || e->deep_watch : loop->waits;
    e->loop_calls |= loop->calls;
    if (waits && e->survey) /* calls alone: known after the survey */
        e->fibers |= loop->watches;
    e->grid_sync |= waits && loop->blocks;
    return waits;
}

/* Before a jump to one of these statements, some of them at or before this one. */
static void emit_back_edge(struct emitter *e, struct ptx_label *const *to, uint32_t count)
{
    bool back = false, waits = false;
    for (uint32_t i = 0; i < count; i++)
        if (to[i]->at <= e->at) {
            back = true;
            waits |= gives_way(e, to[i]->at);
        }
    if (waits && e->fibers) {
        e->waits = true;
        put(e, "RT_SPIN; ");
    }
    if (back)
        put(e, "if (UNLIKELY(ic >= due)) due = rt_breathe(T, ic); ");
}

EMITTER(emit_bra)
{
    want_operands(e, 1, 1);
    const struct ptx_operand *to = &e->in->ops[0];
    if (to->kind != OPND_LABEL || !to->label)
        invalid(e, "a label belongs here");
    emit_back_edge(e, &to->label, 1);
    put(e, "goto L%u;", to->label->at);
}

EMITTER(emit_brx)
{
    want_operands(e, 2, 2);
    const struct ptx_operand *list = &e->in->ops[1];
    if (list->kind != OPND_LABEL || !list->label || !list->label->target_count)
        invalid(e, "a list of .branchtargets belongs here");
    const char *index = read_as(e, &e->in->ops[0], TY_U32);
    put(e, "{const uint32_t i_ = %s;", index);
    emit_back_edge(e, list->label->targets, list->label->target_count);
    put(e, "switch (i_) {");
    for (uint32_t i = 0; i < list->label->target_count; i++)
        put(e, "case %u: goto L%u;", i, list->label->targets[i]->at);
    put(e, "default: rt_stop(T, PTX_STOP_ILLEGAL_INSTRUCTION, 0, %s);}}", where(e));
}

/* -------------------------------------------------------------------------------- ends -------- */

EMITTER(emit_ret)
{
    bool deep_exit = e->in->op[0] == 'e' && !e->body->func->entry;
    put(e, deep_exit ? "{RT_FLUSH; rt_exit(T);}" : "goto done;");
}

EMITTER(emit_stop)
{
    put(e, "{RT_FLUSH; rt_stop(T, PTX_STOP_TRAP, 0, %s);}", where(e));
}

/* Virtual: the thread's clock moves, nobody waits. At most 1 ms, as documented. */
EMITTER(emit_nanosleep)
{
    want_operands(e, 1, 1);
    put(e, "{const uint32_t n_ = %s; T->sleep += n_ < 1000000u ? n_ : 1000000u;}",
        read_as(e, &e->in->ops[0], TY_U32));
}

/* --------------------------------------------------------------------------- meeting ---------- */

static bool only_mods(const struct ptx_instr *in, const char *list)
{
    for (uint32_t i = 0; i < in->mod_count; i++) {
        size_t n = strlen(in->mods[i]);
        const char *at = list;
        bool found = false;
        for (; *at && !found; at += *at == ' ') {
            size_t m = strcspn(at, " ");
            found = m == n && memcmp(at, in->mods[i], n) == 0;
            at += m;
        }
        if (!found)
            return false;
    }
    return true;
}

EMITTER(emit_bar)
{
    struct ptx_instr *in = e->in;
    const struct ptx_operand *ops = in->ops;
    if (has_mod(in, "warp")) {
        if (!only_mods(in, "warp sync"))
            refuse(e, "this form is not supported");
        want_operands(e, 1, 1);
        put(e, "rt_warp(T, OP_SYNC, %s, 0, %s);", read_as(e, &ops[0], TY_U32), where(e));
        return;
    }
    if (!only_mods(in, "cta sync arrive red aligned popc and or u32 pred"))
        refuse(e, "this form is not supported");
    bool red = has_mod(in, "red"), arrive = has_mod(in, "arrive");
    if (red + arrive + has_mod(in, "sync") != 1)
        invalid(e, "one of .sync, .arrive and .red belongs here");
    if (!red) {
        want_operands(e, arrive ? 2 : 1, 2);
        put(e, "rt_bar(T, %s, %s, %d, 0, %s);", read_as(e, &ops[0], TY_U32),
            in->op_count == 2 ? read_as(e, &ops[1], TY_U32) : "0", !arrive, where(e));
        return;
    }
    want_operands(e, 3, 4);
    bool counted = in->op_count == 4, popc = has_mod(in, "popc");
    if (popc + has_mod(in, "and") + has_mod(in, "or") != 1)
        invalid(e, "one of .popc, .and and .or belongs here");
    put(e, "rt_bar(T, %s, %s, 1, %s, %s);", read_as(e, &ops[1], TY_U32),
        counted ? read_as(e, &ops[2], TY_U32) : "0", read_as(e, &ops[counted ? 3 : 2], TY_PRED),
        where(e));
    if (popc)
        write_as(e, &ops[0], TY_U32, "(uint32_t)T->out");
    else
        write_as(e, &ops[0], TY_PRED,
                 has_mod(in, "and") ? "(_Bool)(T->out_pred & 1)" : "(_Bool)(T->out_pred & 2)");
}

/* d|p = value | predicate of the last exchange */
static void write_pair(struct emitter *e, const struct ptx_operand *to, const char *value)
{
    struct ptx_operand first = *to;
    first.pair = 0;
    first.sink_pair = false;
    write_as(e, &first, TY_B32, value);
    if (to->pair) {
        struct ptx_operand second = {.kind = OPND_REG, .reg = to->pair - 1};
        write_as(e, &second, TY_PRED, "(_Bool)T->out_pred");
    }
}

static const char *op_name(struct emitter *e, const char *const (*table)[2])
{
    for (; (*table)[0]; table++)
        if (has_mod(e->in, (*table)[0]))
            return (*table)[1];
    invalid(e, "its mode is missing");
}

EMITTER(emit_shfl)
{
    static const char *const modes[][2] = {
        {"up", "OP_UP"}, {"down", "OP_DOWN"}, {"bfly", "OP_BFLY"}, {"idx", "OP_IDX"}, {0, 0}};
    const struct ptx_operand *ops = e->in->ops;
    want_operands(e, 5, 5);
    write_pair(e, &ops[0],
               say(e, "rt_shfl(T, %s, %s, %s, %s, %s, %s)", op_name(e, modes),
                   read_as(e, &ops[4], TY_U32), read_bits(e, &ops[1], TY_B32),
                   read_as(e, &ops[2], TY_U32), read_as(e, &ops[3], TY_U32), where(e)));
}

EMITTER(emit_vote)
{
    static const char *const modes[][2] = {
        {"all", "OP_ALL"}, {"any", "OP_ANY"}, {"uni", "OP_UNI"}, {"ballot", "OP_BALLOT"}, {0, 0}};
    const struct ptx_operand *ops = e->in->ops;
    bool ballot = has_mod(e->in, "ballot");
    want_operands(e, 3, 3);
    if (ballot != (type_mod(e->in, 0) == TY_B32))
        invalid(e, "not the type of this vote");
    write_as(e, &ops[0], ballot ? TY_B32 : TY_PRED,
             say(e, "(%s)rt_warp1(T, %s, %s, %s, %s)", ballot ? "uint32_t" : "_Bool",
                 op_name(e, modes), read_as(e, &ops[2], TY_U32), read_as(e, &ops[1], TY_PRED),
                 where(e)));
}

EMITTER(emit_match)
{
    const struct ptx_operand *ops = e->in->ops;
    want_operands(e, 3, 3);
    write_pair(e, &ops[0],
               say(e, "(uint32_t)rt_warp1(T, %s, %s, %s, %s)",
                   has_mod(e->in, "any") ? "OP_MATCH_ANY" : "OP_MATCH_ALL",
                   read_as(e, &ops[2], TY_U32), read_as(e, &ops[1], type_mod(e->in, 0)), where(e)));
}

EMITTER(emit_redux)
{
    static const char *const modes[][2] = {{"add", "OP_ADD"},
                                           {"min", "OP_MIN_U"},
                                           {"max", "OP_MAX_U"},
                                           {"and", "OP_AND"},
                                           {"or", "OP_OR"},
                                           {"xor", "OP_XOR"},
                                           {0, 0}};
    const struct ptx_operand *ops = e->in->ops;
    enum ptx_type type = type_mod(e->in, 0);
    const char *op = op_name(e, modes);
    want_operands(e, 3, 3);
    bool logic = has_mod(e->in, "and") || has_mod(e->in, "or") || has_mod(e->in, "xor");
    if (logic != (type == TY_B32))
        invalid(e, "not the type of this reduction");
    if (type == TY_S32 && has_mod(e->in, "min"))
        op = "OP_MIN_S";
    if (type == TY_S32 && has_mod(e->in, "max"))
        op = "OP_MAX_S";
    write_as(e, &ops[0], TY_B32,
             say(e, "(uint32_t)rt_warp1(T, %s, %s, %s, %s)", op, read_as(e, &ops[2], TY_U32),
                 read_as(e, &ops[1], TY_B32), where(e)));
}

EMITTER(emit_activemask)
{
    want_operands(e, 1, 1);
    write_as(e, &e->in->ops[0], TY_B32, say(e, "rt_activemask(T, %uu, %s)", ++e->sites, where(e)));
}

EMITTER(emit_elect)
{
    want_operands(e, 2, 2);
    if (!e->in->ops[0].pair)
        invalid(e, "two results, d|p, belong here");
    write_pair(e, &e->in->ops[0],
               say(e, "(uint32_t)rt_warp1(T, OP_ELECT, %s, 0, %s)",
                   read_as(e, &e->in->ops[1], TY_U32), where(e)));
}

/* --------------------------------------------------------------------------- matrices --------- */

static void mma_part(struct emitter *e, const struct ptx_operand *v, uint32_t n, const char *name)
{
    if (v->kind != OPND_VECTOR || v->part_count != n)
        invalid(e, say(e, "a vector of %u registers belongs here", n));
    for (uint32_t i = 0; i < n; i++)
        put(e, "m_.%s[%u] = %s;", name, i, read_bits(e, &v->parts[i], TY_B32));
}

EMITTER(emit_mma)
{
    struct ptx_instr *in = e->in;
    enum ptx_type d = type_mod(in, 0), a = type_mod(in, 1), b = type_mod(in, 2),
                  c = type_mod(in, 3);
    uint32_t k = has_mod(in, "m16n8k16") ? 16 : has_mod(in, "m16n8k8") ? 8 : 4;
    want_operands(e, 4, 4);
    bool half = (a == TY_F16 || a == TY_BF16) && k >= 8, tf32 = a == TY_TF32 && k <= 8;
    if (a != b || c != d || (!half && !tf32) || (d != TY_F32 && !(d == TY_F16 && a == TY_F16)))
        refuse(e, "these types and this shape");
    uint32_t outs = d == TY_F16 ? 2 : 4;
    put(e, "{struct mma m_ = {.k = %u, .in = %d, .f16_out = %d};", k,
        a == TY_F16    ? 0
        : a == TY_BF16 ? 1
                       : 2,
        d == TY_F16);
    mma_part(e, &in->ops[1], half ? k / 4 : k / 2, "a");
    mma_part(e, &in->ops[2], half ? k / 8 : k / 4, "b");
    mma_part(e, &in->ops[3], outs, "c");
    if (in->ops[0].kind != OPND_VECTOR || in->ops[0].part_count != outs)
        invalid(e, say(e, "a vector of %u registers belongs here", outs));
    put(e, "T->lanes = &m_; rt_warp(T, OP_MMA, ~0u, %u, %s);",
        k * 16 + (uint32_t)a * 512 + (d == TY_F16), where(e));
    for (uint32_t i = 0; i < outs; i++)
        write_bits(e, &in->ops[0].parts[i], TY_B32, say(e, "m_.d[%u]", i));
    put(e, "}");
}
