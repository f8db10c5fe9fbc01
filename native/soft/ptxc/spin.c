/* SPDX-License-Identifier: Apache-2.0
 *
 * The loop of a header h is every statement from which a jump back to h is reached without passing
 * h. Whatever runs for ever lies in the loop of its first statement in the text, so it is enough to
 * ask of each header: does something that decides how its loop goes on depend on what is watched in
 * it? Decides: every branch, but for those that only skip statements which decide nothing.
 *
 * Where that is not certain (memory, meetings, calls, too much to look at) the loop waits.
 */
#include "soft/ptxc/spin.h"

#include <string.h>

#define WORK_MOST (1u << 26) /* steps for one body */
#define SKIP_MOST 512u       /* statements that a branch skips */

struct spin_state {
    struct spin_loop *loops; /* by statement of the header */
    uint32_t *first, *from;  /* predecessors of each statement: from[first[i] .. first[i + 1]] */
    uint32_t *stamp, *list;  /* members of the loop at hand */
    uint32_t now, count, low, high;
    bool *needed; /* registers that decide how it goes on; behind them the carry flag */
    uint64_t work;
    uint32_t watched; /* statements of the body that watch or call */
};

/* What malloc finds depends on what others give back. */
static bool asks_for_memory(const struct ptx_instr *in)
{
    if (!is_op(in, "call"))
        return false;
    for (uint32_t i = 0; i < in->op_count; i++)
        if (in->ops[i].kind == OPND_FUNC && !in->ops[i].func->has_body &&
            strcmp(in->ops[i].func->name, "malloc") == 0)
            return true;
    return false;
}

bool watches(const struct ptx_instr *in)
{
    if (is_op(in, "ld"))
        return has_mod(in, "volatile") || has_mod(in, "acquire") || has_mod(in, "relaxed") ||
               has_mod(in, "mmio");
    if (is_op(in, "atom"))
        return true;
    if (is_op(in, "mbarrier"))
        return has_mod(in, "test_wait") || has_mod(in, "try_wait");
    if (asks_for_memory(in))
        return true;
    for (uint32_t i = 0; i < in->op_count; i++)
        if (in->ops[i].kind == OPND_SPECIAL && (strncmp(in->ops[i].name, "clock", 5) == 0 ||
                                                strncmp(in->ops[i].name, "globaltimer", 11) == 0))
            return true;
    return false;
}

static bool watches_other_blocks(const struct ptx_instr *in)
{
    bool shared = has_mod(in, "shared") || has_mod(in, "shared::cta") || has_mod(in, "local");
    if (is_op(in, "ld"))
        return !shared && watches(in);
    return is_op(in, "atom") && !shared && has_mod(in, "add") && in->op_count == 3 &&
           in->ops[2].kind == OPND_INT && in->ops[2].value == 0;
}

static bool leaves(const struct ptx_instr *in)
{
    return is_op(in, "ret") || is_op(in, "exit") || is_op(in, "trap");
}

/* Statements that `in` may jump to: how many, and which. */
static uint32_t targets(const struct ptx_instr *in, struct ptx_label *const **list)
{
    if (is_op(in, "bra") && in->op_count == 1 && in->ops[0].kind == OPND_LABEL) {
        *list = &in->ops[0].label;
        return in->ops[0].label != NULL;
    }
    if (is_op(in, "brx") && in->op_count == 2 && in->ops[1].kind == OPND_LABEL &&
        in->ops[1].label) {
        *list = in->ops[1].label->targets;
        return in->ops[1].label->target_count;
    }
    return 0;
}

static bool falls_through(const struct ptx_instr *in)
{
    return in->guard || !(leaves(in) || is_op(in, "bra") || is_op(in, "brx"));
}

static void find_predecessors(struct emitter *e, struct spin_state *s)
{
    struct ptx_body *body = e->body;
    uint32_t n = body->code_count, edges = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t i = 0; i < n; i++) {
            struct ptx_label *const *list = NULL;
            uint32_t count = targets(body->code[i], &list);
            for (uint32_t k = 0; k <= count; k++) {
                uint32_t to = k < count ? list[k]->at : i + 1;
                if (k == count && !falls_through(body->code[i]))
                    continue;
                if (pass == 0)
                    s->first[to]++, edges++;
                else
                    s->from[--s->first[to]] = i;
            }
        }
        if (pass == 1)
            return;
        s->from = job_new(e->job, edges + 1, sizeof(uint32_t));
        for (uint32_t i = 1; i <= n + 1; i++)
            s->first[i] += s->first[i - 1];
    }
}

static struct spin_state *state_of(struct emitter *e)
{
    struct ptx_body *body = e->body;
    if (body->spin)
        return body->spin;
    struct spin_state *s = body->spin = job_new(e->job, 1, sizeof(*s));
    uint32_t n = body->code_count;
    for (uint32_t i = 0; i < n; i++)
        s->watched += watches(body->code[i]) || is_op(body->code[i], "call");
    s->loops = job_new(e->job, n + 1, sizeof(*s->loops));
    if (!s->watched)
        return s;
    s->first = job_new(e->job, n + 2, sizeof(uint32_t));
    s->stamp = job_new(e->job, n + 1, sizeof(uint32_t));
    s->list = job_new(e->job, n + 1, sizeof(uint32_t));
    s->needed = job_new(e->job, body->reg_count + 1, sizeof(bool));
    find_predecessors(e, s);
    return s;
}

static void join(struct spin_state *s, uint32_t at)
{
    if (s->stamp[at] == s->now)
        return;
    s->stamp[at] = s->now;
    s->list[s->count++] = at;
    s->low = at < s->low ? at : s->low;
    s->high = at > s->high ? at : s->high;
}

/* The members of the loop. */
static void collect(struct spin_state *s, uint32_t header)
{
    s->now++;
    s->count = 0;
    s->low = s->high = header;
    join(s, header);
    for (uint32_t k = s->first[header]; k < s->first[header + 1]; k++)
        if (s->from[k] >= header)
            join(s, s->from[k]);
    for (uint32_t done = 1; done < s->count; done++)
        for (uint32_t k = s->first[s->list[done]]; k < s->first[s->list[done] + 1]; k++)
            join(s, s->from[k]);
    s->work += s->count;
}

static bool inside(const struct spin_state *s, uint32_t at)
{
    return at >= s->low && at <= s->high && s->stamp[at] == s->now;
}

/* Behind the last statement that a branch at `at` may skip, if all ways through them come out there
 * and nowhere else; 0: they do not. */
static uint32_t skipped_to(struct emitter *e, struct spin_state *s, uint32_t at)
{
    struct ptx_label *const *list;
    uint32_t end = at + 1;
    if (!is_op(e->body->code[at], "bra"))
        return 0;
    for (uint32_t i = at; i < end; i++) {
        const struct ptx_instr *in = e->body->code[i];
        if (!inside(s, i) || leaves(in) || is_op(in, "brx") || end - at > SKIP_MOST)
            return 0;
        for (uint32_t k = targets(in, &list); k-- > 0;) {
            if (list[k]->at <= at)
                return 0;
            end = list[k]->at > end ? list[k]->at : end;
        }
        s->work++;
    }
    return inside(s, end) ? end : 0;
}

static bool needs(const struct spin_state *s, const struct ptx_operand *op)
{
    if (op->kind == OPND_REG && (s->needed[op->reg] || (op->pair && s->needed[op->pair - 1])))
        return true;
    if (op->kind == OPND_VECTOR)
        for (uint32_t i = 0; i < op->part_count; i++)
            if (needs(s, &op->parts[i]))
                return true;
    return false;
}

static bool need(struct spin_state *s, const struct ptx_operand *op)
{
    bool more = false;
    if (op->kind == OPND_REG) {
        more = !s->needed[op->reg];
        s->needed[op->reg] = true;
    }
    for (uint32_t i = 0; i < op->part_count; i++)
        more |= need(s, &op->parts[i]);
    return more;
}

static bool need_guard(struct spin_state *s, const struct ptx_instr *in)
{
    bool more = in->guard && !s->needed[in->guard - 1];
    if (in->guard)
        s->needed[in->guard - 1] = true;
    return more;
}

/* Is its result what others do, or may it be? */
static bool is_others(const struct ptx_instr *in)
{
    if (watches(in) || meets(in) || is_op(in, "ldu"))
        return true;
    if (is_op(in, "ld"))
        return !has_mod(in, "param") && !has_mod(in, "const") && !has_mod(in, "nc");
    return false;
}

static bool writes_needed(struct emitter *e, const struct spin_state *s, const struct ptx_instr *in)
{
    if (s->needed[e->body->reg_count] && has_mod(in, "cc"))
        return true;
    return in->op_count && needs(s, &in->ops[0]);
}

static bool need_carry(struct emitter *e, struct spin_state *s, const struct ptx_instr *in)
{
    bool *carry = &s->needed[e->body->reg_count];
    bool more = !*carry && (is_op(in, "addc") || is_op(in, "subc") || is_op(in, "madc"));
    *carry |= more;
    return more;
}

static bool decides_something(struct emitter *e, const struct spin_state *s, uint32_t from,
                              uint32_t to)
{
    for (uint32_t i = from; i < to; i++)
        if (writes_needed(e, s, e->body->code[i]))
            return true;
    return false;
}

/* From the branches backwards over what they depend on. */
static bool depends(struct emitter *e, struct spin_state *s)
{
    memset(s->needed, 0, (e->body->reg_count + 1) * sizeof(bool));
    s->work += e->body->reg_count;
    for (bool more = true; more;) {
        more = false;
        for (uint32_t i = s->high + 1; i-- > s->low;) {
            const struct ptx_instr *in = e->body->code[i];
            s->work++;
            if (!inside(s, i))
                continue;
            if (is_op(in, "brx")) {
                more |= need(s, &in->ops[0]);
                more |= need_guard(s, in);
            } else if (in->guard && (leaves(in) || is_op(in, "bra"))) {
                uint32_t end = s->needed[in->guard - 1] ? 0 : skipped_to(e, s, i);
                if (!end || decides_something(e, s, i + 1, end))
                    more |= need_guard(s, in);
                s->work += end ? end - i : 0;
            } else if (writes_needed(e, s, in)) {
                if (is_others(in))
                    return true;
                for (uint32_t k = 1; k < in->op_count; k++)
                    more |= need(s, &in->ops[k]);
                more |= need_guard(s, in);
                more |= need_carry(e, s, in);
            }
        }
        if (s->work > WORK_MOST)
            return true;
    }
    return false;
}

const struct spin_loop *spin_loop(struct emitter *e, uint32_t to)
{
    struct spin_state *s = state_of(e);
    struct spin_loop *loop = &s->loops[to];
    if (loop->known)
        return loop;
    loop->known = true;
    if (!s->watched)
        return loop;
    if (s->work > WORK_MOST) {
        *loop = (struct spin_loop){true, true, true, true, true};
        return loop;
    }
    collect(s, to);
    for (uint32_t k = 0; k < s->count; k++) {
        const struct ptx_instr *in = e->body->code[s->list[k]];
        loop->watches |= watches(in);
        loop->blocks |= watches_other_blocks(in);
        loop->calls |= is_op(in, "call");
    }
    loop->waits = loop->watches && !loop->calls && depends(e, s);
    return loop;
}
