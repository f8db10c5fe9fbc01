/* SPDX-License-Identifier: Apache-2.0
 *
 * Which kernels are made for rows, and what their registers are like over a row.
 */
#include <string.h>

#include "soft/ptxc/rows.h"
#include "soft/ptxc/spin.h"

/* More: the text for rows would take the compiler longer than it saves. */
enum { STATEMENTS_MAX = 600, STATE_BYTES_MAX = 24 << 10 };

static bool is_one_of(const char *word, const char *list)
{
    size_t n = strlen(word);
    for (const char *at = list; (at = strstr(at, word)); at += n)
        if ((at == list || at[-1] == ' ') && (at[n] == ' ' || !at[n]))
            return true;
    return false;
}

/* Instructions of one thread alone, whose text may stand in a loop over threads. */
static const char alone[] =
    "add sub mul mad mul24 mad24 sad div rem abs neg min max fma rcp sqrt rsqrt sin cos lg2 ex2 "
    "tanh copysign testp and or xor not cnot shl shr shf popc clz brev bfind bfe bfi prmt lop3 "
    "setp set selp slct mov cvt ld ldu st red cvta";
static const char control[] = "bra ret exit trap bar barrier membar fence";
/* The same for a whole row, but for tid.x, which grows by one. */
static const char specials[] = "tid.x tid.y tid.z ntid.x ntid.y ntid.z ctaid.x ctaid.y ctaid.z "
                               "nctaid.x nctaid.y nctaid.z smid nsmid gridid dynamic_smem_size "
                               "total_smem_size";

static bool operand_fits(const struct ptx_operand *op)
{
    if (op->kind == OPND_SPECIAL)
        return is_one_of(op->name, specials);
    if (op->kind == OPND_FUNC || op->kind == OPND_LIST)
        return false;
    for (uint32_t i = 0; i < op->part_count; i++)
        if (!operand_fits(&op->parts[i]))
            return false;
    return true;
}

static bool instruction_fits(const struct ptx_instr *in)
{
    if (watches(in) || has_mod(in, "cc") || has_mod(in, "local"))
        return false;
    if (!is_one_of(in->op, alone) && !is_one_of(in->op, control))
        return false;
    if (in->op[0] == 'b' && in->op[1] == 'a') { /* a plain barrier; what it says is a number */
        if (!has_mod(in, "sync") || has_mod(in, "warp") || in->op_count > 2)
            return false;
        for (uint32_t i = 0; i < in->op_count; i++)
            if (in->ops[i].kind != OPND_INT)
                return false;
    }
    for (uint32_t i = 0; i < in->op_count; i++)
        if (!operand_fits(&in->ops[i]))
            return false;
    return true;
}

/* ------------------------------------------------------------------------------ classes ------- */

static const struct row_class own = {ROW_OWN, 0}, same = {ROW_STRIDE, 0};

static bool is_register_int(const struct emitter *e, uint32_t reg)
{
    const char *c = register_c(&e->body->regs[reg]);
    return strcmp(c, "uint32_t") == 0 || strcmp(c, "uint64_t") == 0;
}

static bool is_int(enum ptx_type t)
{
    return ptx_types[t].kind == KIND_UINT || ptx_types[t].kind == KIND_SINT ||
           ptx_types[t].kind == KIND_BITS;
}

struct row_class rows_class(const struct rows *rows, const struct ptx_operand *op)
{
    struct row_class sum = same;
    switch (op->kind) {
    case OPND_REG:
        return rows->regs[op->reg];
    case OPND_SPECIAL:
        return strcmp(op->name, "tid.x") == 0 ? (struct row_class){ROW_STRIDE, 1} : same;
    case OPND_MEM:
        return rows_class(rows, &op->parts[0]);
    case OPND_VECTOR:
        for (uint32_t i = 0; i < op->part_count; i++) {
            struct row_class one = rows_class(rows, &op->parts[i]);
            if (one.kind == ROW_UNSEEN || sum.kind == ROW_UNSEEN)
                sum.kind = ROW_UNSEEN;
            else if (one.kind == ROW_OWN || one.stride)
                sum = own;
        }
        return sum;
    default:
        return same;
    }
}

static bool has_result(const struct ptx_instr *in)
{
    return !is_one_of(in->op, control) && strcmp(in->op, "st") != 0 && strcmp(in->op, "red") != 0;
}

static int64_t cut(int64_t stride, uint32_t bytes)
{
    return bytes == 4 ? (int64_t)(int32_t)(uint32_t)stride : stride;
}

/* stride x constant, where the constant is one of the two; false: neither is. */
static bool product(const struct rows *rows, const struct ptx_operand *a,
                    const struct ptx_operand *b, enum ptx_type t, int64_t *out)
{
    const struct ptx_operand *number = b->kind == OPND_INT ? b : a;
    const struct ptx_operand *other = number == b ? a : b;
    struct row_class c = rows_class(rows, other);
    if (number->kind != OPND_INT || c.kind != ROW_STRIDE)
        return false;
    int64_t by = t == TY_S32   ? (int64_t)(int32_t)(uint32_t)number->value
                 : t == TY_U32 ? (int64_t)(uint32_t)number->value
                               : (int64_t)number->value;
    return !__builtin_mul_overflow(c.stride, by, out);
}

/* The stride of a result some of whose operands have one. Operands are 4 or 8 bytes wide. */
static bool stride_of(const struct rows *rows, const struct ptx_instr *in, int64_t *out)
{
    const struct ptx_operand *ops = in->ops;
    enum ptx_type t = type_mod(in, 0), from = type_mod(in, 1);
    bool plain = in->mod_count == 1 && in->op_count == 3;
    struct row_class c;
    if (strcmp(in->op, "mov") == 0 && ops[1].kind != OPND_VECTOR) {
        *out = rows_class(rows, &ops[1]).stride;
        return true;
    }
    if (plain && strcmp(in->op, "add") == 0)
        return !__builtin_add_overflow(rows_class(rows, &ops[1]).stride,
                                       rows_class(rows, &ops[2]).stride, out);
    if (plain && strcmp(in->op, "sub") == 0)
        return !__builtin_sub_overflow(rows_class(rows, &ops[1]).stride,
                                       rows_class(rows, &ops[2]).stride, out);
    if (plain && strcmp(in->op, "shl") == 0 && ops[2].kind == OPND_INT && ops[2].value < 31)
        return !__builtin_mul_overflow(rows_class(rows, &ops[1]).stride, 1ll << ops[2].value, out);
    if (in->mod_count == 2 && (has_mod(in, "lo") || has_mod(in, "wide"))) {
        if (strcmp(in->op, "mul") == 0)
            return product(rows, &ops[1], &ops[2], t, out);
        if (strcmp(in->op, "mad") != 0 || in->op_count != 4)
            return false;
        c = rows_class(rows, &ops[3]);
        if (!rows_class(rows, &ops[1]).stride && !rows_class(rows, &ops[2]).stride) {
            *out = c.stride;
            return true;
        }
        return product(rows, &ops[1], &ops[2], t, out) &&
               !__builtin_add_overflow(*out, c.stride, out);
    }
    if (strcmp(in->op, "cvt") == 0 && in->mod_count == 2 && is_int(from) &&
        ptx_types[from].bytes >= 4 && ops[1].kind == OPND_REG) {
        *out = rows_class(rows, &ops[1]).stride;
        return true;
    }
    if (strcmp(in->op, "cvta") == 0) {
        *out = rows_class(rows, &ops[1]).stride;
        return true;
    }
    return false;
}

const struct ptx_operand *rows_steady(const struct rows *rows, const struct ptx_instr *in)
{
    static const char *const orders[] = {"lt", "le", "gt", "ge", "lo", "ls", "hi", "hs"};
    enum ptx_type t = type_mod(in, 0);
    bool order = false;
    if (strcmp(in->op, "setp") != 0 || in->op_count != 3 || in->mod_count != 2 ||
        (in->guard && rows->regs[in->guard - 1].kind == ROW_OWN) || in->ops[0].kind != OPND_REG ||
        in->ops[0].pair || (t != TY_U32 && t != TY_S32 && t != TY_U64 && t != TY_S64))
        return NULL;
    for (size_t i = 0; i < sizeof(orders) / sizeof(orders[0]); i++)
        order |= has_mod(in, orders[i]);
    struct row_class a = rows_class(rows, &in->ops[1]), b = rows_class(rows, &in->ops[2]);
    if (!order || a.kind != ROW_STRIDE || b.kind != ROW_STRIDE || !a.stride == !b.stride)
        return NULL;
    const struct ptx_operand *op = &in->ops[a.stride ? 1 : 2];
    return op->kind == OPND_REG && rows->bytes[op->reg] == ptx_types[t].bytes ? op : NULL;
}

/* Are all its registers as wide as its types say, so that nothing is cut or extended? */
static bool widths_fit(const struct emitter *e, const struct ptx_instr *in)
{
    enum ptx_type to = type_mod(in, 0);
    enum ptx_type from = type_mod(in, 1) == TY_NONE ? to : type_mod(in, 1);
    uint32_t wide = ptx_types[to].bytes * (has_mod(in, "wide") ? 2u : 1u);
    if (!is_int(to) || (wide != 4 && wide != 8))
        return false;
    for (uint32_t i = 0; i < in->op_count; i++) {
        const struct ptx_operand *op = &in->ops[i];
        bool small = strcmp(in->op, "shl") == 0 && i == 2;
        uint32_t want = i == 0 || (i == 3 && has_mod(in, "wide")) ? wide
                        : small                                   ? 4
                                                                  : ptx_types[from].bytes;
        if (op->kind == OPND_REG &&
            (ptx_types[e->body->regs[op->reg].type].bytes != want || !is_register_int(e, op->reg)))
            return false;
    }
    return true;
}

static struct row_class result_class(const struct emitter *e, const struct rows *rows,
                                     const struct ptx_instr *in)
{
    bool strides = false;
    for (uint32_t i = 1; i < in->op_count; i++) {
        struct row_class c = rows_class(rows, &in->ops[i]);
        if (c.kind != ROW_STRIDE)
            return c;
        strides |= c.stride != 0;
    }
    if (!strides)
        return same;
    struct row_class out = {ROW_STRIDE, 0};
    if (in->ops[0].kind != OPND_REG || in->ops[0].pair || !widths_fit(e, in) ||
        !stride_of(rows, in, &out.stride))
        return own;
    out.stride = cut(out.stride, ptx_types[e->body->regs[in->ops[0].reg].type].bytes);
    return out.stride > 4096 || out.stride < -4096 ? own : out;
}

static bool join(struct rows *rows, uint32_t reg, struct row_class with)
{
    struct row_class *at = &rows->regs[reg];
    if (with.kind == ROW_UNSEEN || at->kind == ROW_OWN)
        return false;
    if (at->kind == with.kind && at->stride == with.stride)
        return false;
    *at = at->kind == ROW_UNSEEN ? with : own;
    return true;
}

static bool join_operand(struct rows *rows, const struct ptx_operand *op, struct row_class with)
{
    bool changed = false;
    if (op->kind == OPND_REG) {
        changed |= join(rows, op->reg, with);
        if (op->pair)
            changed |= join(rows, op->pair - 1, with);
    }
    for (uint32_t i = 0; i < op->part_count; i++)
        changed |= join_operand(rows, &op->parts[i], with);
    return changed;
}

static void find_classes(struct emitter *e, struct rows *rows)
{
    struct ptx_body *body = e->body;
    bool changed = true;
    /* Upwards only, so it ends: unseen, a stride, own. */
    while (changed) {
        changed = false;
        for (uint32_t i = 0; i < body->code_count; i++) {
            const struct ptx_instr *in = body->code[i];
            if (!has_result(in) || !in->op_count)
                continue;
            struct row_class c = result_class(e, rows, in);
            if (in->guard && rows->regs[in->guard - 1].kind == ROW_OWN)
                c = own;
            /* Of several results made at once either all are the threads' own or none is. */
            if (rows_result_is_own(rows, &in->ops[0]))
                c = own;
            changed |= join_operand(rows, &in->ops[0], c);
        }
        if (changed)
            continue;
        /* A ring of registers that only feed each other, or one never written: the same. */
        for (uint32_t i = 0; i < body->reg_count && !changed; i++)
            if (rows->regs[i].kind == ROW_UNSEEN) {
                rows->regs[i] = same;
                changed = true;
            }
    }
}

bool rows_plan(struct emitter *e, struct ptx_body *body, struct rows *rows)
{
    uint64_t state = 0;
    e->body = body;
    if (e->layout.func_count != 1 || body->local_bytes || body->param_count || e->grid_sync ||
        e->recursive || e->deep_exit || e->sleeps || body->code_count > STATEMENTS_MAX)
        return false;
    for (uint32_t i = 0; i < body->code_count; i++)
        if (!instruction_fits(body->code[i]))
            return false;
    for (uint32_t i = 0; i < body->reg_count; i++)
        if (body->regs[i].used)
            state += (uint64_t)ptx_types[body->regs[i].type].bytes * ROW;
    if (state > STATE_BYTES_MAX)
        return false;
    rows->regs = job_new(e->job, body->reg_count + 1, sizeof(struct row_class));
    rows->entries = job_new(e->job, body->code_count + 1, sizeof(bool));
    rows->counts = job_new(e->job, body->reg_count + 1, sizeof(bool));
    rows->bytes = job_new(e->job, body->reg_count + 1, sizeof(uint8_t));
    for (uint32_t i = 0; i < body->reg_count; i++)
        rows->bytes[i] = (uint8_t)ptx_types[body->regs[i].type].bytes;
    find_classes(e, rows);
    rows_find_entries(e, rows);
    return true;
}
