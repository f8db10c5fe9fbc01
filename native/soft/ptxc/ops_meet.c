/* SPDX-License-Identifier: Apache-2.0
 *
 * Barriers in shared memory, clusters of one block, memory on the stack.
 */
#include <string.h>

#include "soft/ptxc/emit.h"

/* Local memory that lasts until the function returns. */
EMITTER(emit_alloca)
{
    struct ptx_instr *in = e->in;
    enum ptx_type type = type_mod(in, 0);
    const char *op = in->op;
    if (strcmp(op, "stacksave") == 0) {
        want_operands(e, 1, 1);
        write_as(e, &in->ops[0], type, say(e, "(%s)T->local_used", ptx_types[type].c));
        return;
    }
    if (strcmp(op, "stackrestore") == 0) {
        want_operands(e, 1, 1);
        put(e, "rt_unalloca(T, %s, %s);", read_as(e, &in->ops[0], type), where(e));
        return;
    }
    want_operands(e, 2, 3);
    uint64_t align = in->op_count == 3 ? in->ops[2].value : 8;
    if (in->op_count == 3 && (in->ops[2].kind != OPND_INT || !align || align & (align - 1)))
        invalid(e, "an alignment is a power of two");
    if (align > 1u << 12)
        refuse(e, "an alignment of more than 4096");
    write_as(e, &in->ops[0], type,
             say(e, "(%s)rt_alloca(T, %s, %uu, %s)", ptx_types[type].c,
                 read_as(e, &in->ops[1], type), (uint32_t)align, where(e)));
}

/* ------------------------------------------------------------------------ mbarrier ------------ */

static bool only(const struct ptx_instr *in, const char *words)
{
    for (uint32_t i = 0; i < in->mod_count; i++) {
        size_t n = strlen(in->mods[i]);
        const char *at = words;
        for (; *at; at += strcspn(at, " "), at += *at == ' ')
            if (strcspn(at, " ") == n && memcmp(at, in->mods[i], n) == 0)
                break;
        if (!*at)
            return false;
    }
    return true;
}

/* C pointer of the object, which lies in shared memory. */
static const char *object(struct emitter *e, const struct ptx_operand *mem)
{
    const char *address = memory_address(e, mem);
    bool window = has_mod(e->in, "shared") || has_mod(e->in, "shared::cta") ||
                  has_mod(e->in, "shared::cluster");
    if (!window && mem->parts[0].kind != OPND_DECL) /* generic: without its window */
        address = say(e, "(%s - SHARED_WINDOW)", address);
    return say(e, "(uint64_t *)RT_SHARED(%s, 8u, %s)", address, where(e));
}

static void arrive(struct emitter *e, bool drop)
{
    struct ptx_instr *in = e->in;
    bool open = has_mod(in, "noComplete");
    want_operands(e, open ? 3 : 2, 3);
    /* Where the object may be another block's nobody is told its state. */
    if (has_mod(in, "shared::cluster") && (open || in->ops[0].kind != OPND_SINK))
        invalid(e, "`_` belongs here");
    const char *count = in->op_count == 3 ? read_as(e, &in->ops[2], TY_U32) : "1u";
    const char *value = say(e, "rt_mb_arrive(T, %s, %s, %d, %d, %s)", object(e, &in->ops[1]), count,
                            drop, open, where(e));
    write_as(e, &in->ops[0], TY_B64, value);
}

static void test(struct emitter *e)
{
    struct ptx_instr *in = e->in;
    bool waits = has_mod(in, "try_wait"), parity = has_mod(in, "parity");
    want_operands(e, 3, waits ? 4 : 3);
    const char *state = read_as(e, &in->ops[2], parity ? TY_U32 : TY_B64);
    put(e, "{uint64_t *const p_ = %s; int v_ = rt_mb_%s(T, p_, %s, %s);", object(e, &in->ops[1]),
        parity ? "parity" : "test", state, where(e));
    if (waits)
        put(e, "if (!v_) {rt_mb_pause(T); v_ = rt_mb_%s(T, p_, %s, %s);}",
            parity ? "parity" : "test", state, where(e));
    write_as(e, &in->ops[0], TY_PRED, "(_Bool)v_");
    put(e, "}");
}

EMITTER(emit_mbarrier)
{
    static const char *const kinds[] = {"init",      "inval",    "arrive",       "arrive_drop",
                                        "test_wait", "try_wait", "pending_count"};
    struct ptx_instr *in = e->in;
    uint32_t kind = 0;
    bool copied = strcmp(in->op, "cp") == 0;
    while (kind < 7 && !has_mod(in, kinds[kind]))
        kind++;
    /* The bytes of a bulk copy are counted by these. */
    if (has_mod(in, "expect_tx") || has_mod(in, "complete_tx"))
        refuse(e, "transactions of bulk copies");
    if (kind == 7 || type_mod(in, 0) != TY_B64 || type_mod(in, 1) != TY_NONE)
        refuse(e, "this form is not supported");
    bool arrives = !copied && (kind == 2 || kind == 3);
    if (has_mod(in, "shared::cluster") && !arrives)
        refuse(e, "this form is not supported");
    if (!only(in,
              "init inval arrive arrive_drop test_wait try_wait pending_count noComplete parity "
              "shared shared::cta shared::cluster release acquire relaxed cta cluster b64 async "
              "mbarrier noinc"))
        refuse(e, "this form is not supported");
    if (copied) { /* the copies are made: who counts itself arrives, others leave it as it was */
        want_operands(e, 1, 1);
        put(e, "%s(T, %s, 1u, 0, 0, %s);", has_mod(in, "noinc") ? "rt_mb_arrive" : "rt_mb_copied",
            object(e, &in->ops[0]), where(e));
        return;
    }
    switch (kind) {
    case 0:
        want_operands(e, 2, 2);
        put(e, "rt_mb_init(T, %s, %s, %s);", object(e, &in->ops[0]),
            read_as(e, &in->ops[1], TY_U32), where(e));
        break;
    case 1:
        want_operands(e, 1, 1);
        put(e, "*%s = 0;", object(e, &in->ops[0]));
        break;
    case 2:
    case 3:
        arrive(e, kind == 3);
        break;
    case 4:
    case 5:
        test(e);
        break;
    default:
        want_operands(e, 2, 2);
        write_as(e, &in->ops[0], TY_U32,
                 say(e, "(uint32_t)(%s & MB_MOST)", read_as(e, &in->ops[1], TY_B64)));
    }
}

/* ------------------------------------------------------------------- clusters of one ---------- */

EMITTER(emit_cluster_barrier)
{
    put(e, "rt_cluster_%s(T, %s);", has_mod(e->in, "wait") ? "wait" : "arrive", where(e));
}

/* The shared memory of rank 0, the only one, is one's own. */
EMITTER(emit_mapa)
{
    struct ptx_instr *in = e->in;
    enum ptx_type type = type_mod(in, 0);
    if (strcmp(in->op, "getctarank") == 0) {
        want_operands(e, 2, 2);
        put(e, "(void)%s;", read_as(e, &in->ops[1], type));
        write_as(e, &in->ops[0], TY_U32, "0u");
        return;
    }
    want_operands(e, 3, 3);
    put(e, "if (%s) rt_stop(T, PTX_STOP_ILLEGAL_INSTRUCTION, 0, %s);",
        read_as(e, &in->ops[2], TY_U32), where(e));
    write_as(e, &in->ops[0], type, read_as(e, &in->ops[1], type));
}
