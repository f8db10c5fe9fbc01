/* SPDX-License-Identifier: Apache-2.0
 *
 * Branches, calls, ends, and instructions in which threads meet.
 */
#include <inttypes.h>
#include <string.h>

#include "soft/ptxc/emit.h"

static void want_operands(struct emitter *e, uint32_t least, uint32_t most)
{
    if (e->in->op_count < least)
        invalid(e, "too few operands");
    if (e->in->op_count > most)
        invalid(e, "too many operands");
}

/* ---------------------------------------------------------------------------- branches -------- */

/* Does it look at something that another thread, or time, changes? */
bool watches(const struct ptx_instr *in)
{
    if (strcmp(in->op, "ld") == 0)
        return has_mod(in, "volatile") || has_mod(in, "acquire") || has_mod(in, "relaxed") ||
               has_mod(in, "mmio");
    if (strcmp(in->op, "atom") == 0)
        return true;
    if (strcmp(in->op, "mbarrier") == 0)
        return has_mod(in, "test_wait") || has_mod(in, "try_wait");
    for (uint32_t i = 0; i < in->op_count; i++)
        if (in->ops[i].kind == OPND_SPECIAL && (strncmp(in->ops[i].name, "clock", 5) == 0 ||
                                                strncmp(in->ops[i].name, "globaltimer", 11) == 0))
            return true;
    return false;
}

static bool watches_other_blocks(const struct ptx_instr *in)
{
    bool shared = has_mod(in, "shared") || has_mod(in, "shared::cta") || has_mod(in, "local");
    if (strcmp(in->op, "ld") == 0)
        return !shared && watches(in);
    return strcmp(in->op, "atom") == 0 && !shared && has_mod(in, "add") && in->op_count == 3 &&
           in->ops[2].kind == OPND_INT && in->ops[2].value == 0;
}

void survey_scheme(struct emitter *e, const struct ptx_instr *in)
{
    static const char *const meeting[] = {"bar",   "barrier", "shfl",       "vote", "match",
                                          "redux", "elect",   "activemask", "mma",  "mbarrier"};
    for (size_t i = 0; i < sizeof(meeting) / sizeof(meeting[0]); i++)
        if (strcmp(in->op, meeting[i]) == 0) {
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

/* Before a jump to statement `to` at or before this one. */
static void emit_back_edge(struct emitter *e, uint32_t to)
{
    struct ptx_body *body = e->body;
    if (!body->watch_sum) {
        body->watch_sum = job_new(e->job, body->code_count + 1, sizeof(uint32_t));
        body->block_sum = job_new(e->job, body->code_count + 1, sizeof(uint32_t));
        for (uint32_t i = 0; i < body->code_count; i++) {
            bool call = strcmp(body->code[i]->op, "call") == 0;
            body->watch_sum[i + 1] = body->watch_sum[i] + (watches(body->code[i]) || call);
            body->block_sum[i + 1] = body->block_sum[i] + watches_other_blocks(body->code[i]);
        }
    }
    bool spins = body->watch_sum[e->at] != body->watch_sum[to];
    if (body->block_sum[e->at] != body->block_sum[to])
        e->grid_sync = true;
    if (spins && !e->survey)
        for (uint32_t i = to; i < e->at; i++) {
            spins =
                watches(body->code[i]) || (strcmp(body->code[i]->op, "call") == 0 && e->deep_watch);
            if (spins)
                break;
        }
    if (spins && e->survey) /* a loop with calls only: known after the survey */
        for (uint32_t i = to; i < e->at && !e->fibers; i++)
            e->fibers = watches(body->code[i]);
    if (spins && e->fibers)
        put(e, "RT_SPIN; ");
    put(e, "if (UNLIKELY(ic >= due)) due = rt_breathe(T, ic); ");
}

EMITTER(emit_bra)
{
    want_operands(e, 1, 1);
    const struct ptx_operand *to = &e->in->ops[0];
    if (to->kind != OPND_LABEL || !to->label)
        invalid(e, "a label belongs here");
    if (to->label->at <= e->at)
        emit_back_edge(e, to->label->at);
    put(e, "goto L%u;", to->label->at);
}

EMITTER(emit_brx)
{
    want_operands(e, 2, 2);
    const struct ptx_operand *list = &e->in->ops[1];
    if (list->kind != OPND_LABEL || !list->label || !list->label->target_count)
        invalid(e, "a list of .branchtargets belongs here");
    const char *index = read_as(e, &e->in->ops[0], TY_U32);
    uint32_t back = UINT32_MAX;
    for (uint32_t i = 0; i < list->label->target_count; i++)
        if (list->label->targets[i]->at <= e->at && list->label->targets[i]->at < back)
            back = list->label->targets[i]->at;
    put(e, "{const uint32_t i_ = %s;", index);
    if (back != UINT32_MAX)
        emit_back_edge(e, back);
    put(e, "switch (i_) {");
    for (uint32_t i = 0; i < list->label->target_count; i++)
        put(e, "case %u: goto L%u;", i, list->label->targets[i]->at);
    put(e, "default: rt_stop(T, PTX_STOP_ILLEGAL_INSTRUCTION, 0, %s);}}", where(e));
}

/* ------------------------------------------------------------------------------- calls -------- */

static const char *param_of_call(struct emitter *e, const struct ptx_operand *op)
{
    const struct ptx_func *f = e->body->func;
    if (op->kind != OPND_DECL || op->decl->where != IN_PARAM || op->value)
        refuse(e, "an argument that is no .param variable");
    if (op->decl >= f->params && op->decl < f->params + f->param_count) {
        if (f->entry)
            refuse(e, "a kernel parameter passed on as it is");
        return say(e, "a%u", (uint32_t)(op->decl - f->params));
    }
    if (op->decl >= f->rets && op->decl < f->rets + f->ret_count)
        return say(e, "o%u", (uint32_t)(op->decl - f->rets));
    return say(e, "q%u", op->decl->ordinal);
}

struct call {
    const struct ptx_operand *target, *rets, *args, *prototype;
    uint32_t ret_count, arg_count;
};

static const char *call_text(struct emitter *e, const struct call *c, const struct ptx_func *f)
{
    const char *text = say(e, "f%u(T", f->id);
    for (uint32_t i = 0; i < c->ret_count; i++)
        text = say(e, "%s, %s", text, param_of_call(e, &c->rets->parts[i]));
    for (uint32_t i = 0; i < c->arg_count; i++)
        text = say(e, "%s, %s", text, param_of_call(e, &c->args->parts[i]));
    return say(e, "%s);", text);
}

static bool shape_matches(const struct call *c, const struct ptx_func *f)
{
    if (f->ret_count != c->ret_count || f->param_count != c->arg_count)
        return false;
    for (uint32_t i = 0; i < c->ret_count; i++)
        if (c->rets->parts[i].kind != OPND_DECL || c->rets->parts[i].decl->bytes < f->rets[i].bytes)
            return false;
    for (uint32_t i = 0; i < c->arg_count; i++)
        if (c->args->parts[i].kind != OPND_DECL ||
            c->args->parts[i].decl->bytes < f->params[i].bytes)
            return false;
    return true;
}

/* What the real linker takes from a library on the device. */
static bool is_device_runtime(const char *name)
{
    static const char *const known[] = {"malloc", "free", "vprintf", "__assertfail", "cuda", "cnp"};
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (i < 4 ? strcmp(name, known[i]) == 0 : strncmp(name, known[i], strlen(known[i])) == 0)
            return true;
    return false;
}

static void call_external(struct emitter *e, const struct call *c, const struct ptx_func *f)
{
    if (strcmp(f->name, "vprintf") == 0 && c->arg_count == 2 && c->ret_count == 1 &&
        shape_matches(c, f)) {
        const char *out = param_of_call(e, &c->rets->parts[0]);
        put(e,
            "{const uint32_t v_ = rt_vprintf(T, RT_LDP(uint64_t, %s), RT_LDP(uint64_t, %s), %s);"
            "__builtin_memcpy(%s, &v_, 4);}",
            param_of_call(e, &c->args->parts[0]), param_of_call(e, &c->args->parts[1]), where(e),
            out);
    } else if (strcmp(f->name, "__assertfail") == 0 && c->arg_count == 5 && shape_matches(c, f)) {
        const char *a[5];
        for (uint32_t i = 0; i < 5; i++)
            a[i] = param_of_call(e, &c->args->parts[i]);
        put(e,
            "RT_FLUSH; rt_assert(T, RT_LDP(uint64_t, %s), RT_LDP(uint64_t, %s), "
            "RT_LDP(uint32_t, %s), RT_LDP(uint64_t, %s), %s);",
            a[0], a[1], a[2], a[3], where(e));
    } else if (e->module->object) {
        refuse(e, say(e, "function %s is not linked yet", f->name));
    } else if (is_device_runtime(f->name)) {
        refuse(e, say(e, "function %s of the device runtime", f->name));
    } else {
        invalid(e, say(e, "function %s is defined nowhere", f->name));
    }
}

static void call_indirect(struct emitter *e, const struct call *c)
{
    if (!c->prototype || c->prototype->kind != OPND_LABEL)
        invalid(e, "an indirect call needs its prototype");
    put(e, "switch (%s) {", read_as(e, c->target, TY_U64));
    for (uint32_t i = 1; i < e->layout.func_count; i++) {
        const struct ptx_func *f = e->layout.funcs[i];
        if (f->has_body && shape_matches(c, f))
            put(e, "case 0x%" PRIx64 "ull: %s break;", PTX_FUNC_ADDRESS(f->id), call_text(e, c, f));
    }
    put(e, "default: rt_stop(T, PTX_STOP_ILLEGAL_INSTRUCTION, 0, %s);}", where(e));
    e->recursive = true; /* nothing says that it is not */
}

EMITTER(emit_call)
{
    struct call c = {0};
    const struct ptx_operand *ops = e->in->ops;
    uint32_t n = e->in->op_count, i = 0;
    if (i < n && ops[i].kind == OPND_LIST)
        c.rets = &ops[i++];
    if (i < n)
        c.target = &ops[i++];
    if (i < n && ops[i].kind == OPND_LIST)
        c.args = &ops[i++];
    if (i < n)
        c.prototype = &ops[i++];
    if (!c.target || i != n)
        invalid(e, "the parts of a call are in disorder");
    c.ret_count = c.rets ? c.rets->part_count : 0;
    c.arg_count = c.args ? c.args->part_count : 0;
    if (c.target->kind == OPND_REG) {
        call_indirect(e, &c);
        return;
    }
    if (c.target->kind != OPND_FUNC)
        invalid(e, "a function belongs here");
    const struct ptx_func *f = c.target->func;
    if (!f->has_body) {
        call_external(e, &c, f);
        return;
    }
    if (f->entry)
        invalid(e, "a kernel cannot be called");
    if (!shape_matches(&c, f))
        invalid(e, "the arguments do not fit the function");
    put(e, "%s", call_text(e, &c, f));
}

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
