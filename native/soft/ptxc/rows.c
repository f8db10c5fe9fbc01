/* SPDX-License-Identifier: Apache-2.0 */
#include "soft/ptxc/rows.h"

#include <inttypes.h>
#include <string.h>

static bool is_own(const struct rows *rows, uint32_t reg)
{
    return rows->regs[reg].kind == ROW_OWN;
}

static bool is_memory(const struct ptx_instr *in)
{
    return is_op(in, "ld") || is_op(in, "ldu") || is_op(in, "st");
}

static const struct ptx_operand *memory_operand(const struct ptx_instr *in)
{
    return &in->ops[is_op(in, "st") ? 0 : 1];
}

/* A guard on which the threads of a row may differ. */
static bool is_split(const struct rows *rows, const struct ptx_instr *in)
{
    return in->guard && is_own(rows, in->guard - 1);
}

static bool leaves(const struct ptx_instr *in)
{
    return is_op(in, "bra") || is_op(in, "ret") || is_op(in, "exit");
}

/* What ends in a loop over threads only if it is one thread's. */
static bool is_meeting(const struct ptx_instr *in)
{
    return is_op(in, "bar") || is_op(in, "barrier") || is_op(in, "trap") || is_op(in, "membar") ||
           is_op(in, "fence");
}

/* A 32-bit operand with a stride that is made 64 bits wide: exact unless it wraps in the row. */
static const struct ptx_operand *widened(const struct rows *rows, const struct ptx_instr *in)
{
    bool wide = has_mod(in, "wide"), cvt = is_op(in, "cvt");
    enum ptx_type to = type_mod(in, 0), from = type_mod(in, 1);
    if (!wide && !(cvt && ptx_types[to].bytes == 8 && ptx_types[from].bytes == 4))
        return NULL;
    for (uint32_t i = 1; i < in->op_count && i < 3; i++)
        if (in->ops[i].kind == OPND_REG && rows->regs[in->ops[i].reg].kind == ROW_STRIDE &&
            rows->regs[in->ops[i].reg].stride)
            return &in->ops[i];
    return NULL;
}

bool rows_result_is_own(const struct rows *rows, const struct ptx_operand *to)
{
    if (to->kind == OPND_REG)
        return is_own(rows, to->reg) || (to->pair && is_own(rows, to->pair - 1));
    for (uint32_t i = 0; i < to->part_count; i++)
        if (rows_result_is_own(rows, &to->parts[i]))
            return true;
    return false;
}

/* Once for the whole row, on the first thread's registers? */
static bool is_once(const struct rows *rows, const struct ptx_instr *in)
{
    if (is_op(in, "red") || is_split(rows, in))
        return false;
    if (is_op(in, "st")) {
        for (uint32_t i = 0; i < in->op_count; i++) {
            struct row_class c = rows_class(rows, &in->ops[i]);
            if (c.kind != ROW_STRIDE || c.stride)
                return false;
        }
        return true;
    }
    if (leaves(in) || is_meeting(in))
        return true;
    for (uint32_t i = 1; i < in->op_count; i++)
        if (rows_class(rows, &in->ops[i]).kind != ROW_STRIDE)
            return false;
    return !rows_result_is_own(rows, &in->ops[0]);
}

void rows_find_entries(struct emitter *e, struct rows *rows)
{
    for (uint32_t i = 0; i < e->body->code_count; i++) {
        const struct ptx_instr *in = e->body->code[i];
        if (is_split(rows, in) && leaves(in)) {
            rows->counts[in->guard - 1] = true;
            rows->entries[i + 1] = true;
            if (is_op(in, "bra") && in->op_count && in->ops[0].label)
                rows->entries[in->ops[0].label->at] = true;
        } else if ((is_split(rows, in) && is_meeting(in)) ||
                   (is_once(rows, in) && widened(rows, in))) {
            rows->entries[i] = true;
        }
    }
}

/* ----------------------------------------------------------------------------- hand over ------ */

void rows_emit_state(struct emitter *e, const struct rows *rows)
{
    (void)rows;
    put(e, "struct rt_rows {\n");
    for (uint32_t i = 0; i < e->body->reg_count; i++)
        if (e->body->regs[i].used)
            put(e, "%s v%u[16];\n", register_c(&e->body->regs[i]), i);
    put(e, "};\n");
}

void rows_emit_resume(struct emitter *e, const struct rows *rows)
{
    put(e, "if (UNLIKELY(in != NULL)) {\n");
    for (uint32_t i = 0; i < e->body->reg_count; i++)
        if (e->body->regs[i].used)
            put(e, "r%u = in->v%u[lane];\n", i, i);
    put(e, "in = NULL; RT_RESUMED(T);\nswitch (from) {\n");
    for (uint32_t i = 0; i <= e->body->code_count; i++)
        if (rows->entries[i])
            put(e, "case %u: goto L%u;\n", i, i);
    put(e, "default: goto L%u;\n}\n}\n", e->body->code_count);
}

static void emit_way_out(struct emitter *e, const struct rows *rows)
{
    put(e, "part:;\nstruct rt_rows out_;\n");
    for (uint32_t i = 0; i < e->body->reg_count; i++) {
        if (!e->body->regs[i].used)
            continue;
        const char *c = register_c(&e->body->regs[i]);
        if (is_own(rows, i))
            put(e, "ROW_GET_%u(out_.v%u, V%u);\n", rows->bytes[i], i, i);
        else if (rows->regs[i].stride)
            put(e, "EACH out_.v%u[l_] = (%s)(r%u + l_ * (%s)%" PRId64 "ll);\n", i, c, i, c,
                rows->regs[i].stride);
        else
            put(e, "EACH out_.v%u[l_] = r%u;\n", i, i);
    }
    put(e, "RT_FLUSH;\n");
    if (e->fibers)
        put(e, "rt_part(T, &out_, to_);\n"
               "rt_alone(T, TID0, TID0 + 1, TID1, TID2, to_[0], &out_, 0);\n");
    else
        put(e, "EACH rt_alone(T, TID0 + l_, TID0 + l_ + 1, TID1, TID2, to_[l_], &out_, l_);\n"
               "due = RT_DUE;\n");
    put(e, "%s\n", e->fibers ? "return;" : "goto done;");
}

/* ------------------------------------------------------------------------- instructions ------- */

#define KEPT_NONE UINT32_MAX

struct seen {
    uint32_t regs[64], count;
    bool tid_x;
};

static void note_register(struct seen *seen, uint32_t reg)
{
    for (uint32_t i = 0; i < seen->count; i++)
        if (seen->regs[i] == reg)
            return;
    if (seen->count < sizeof(seen->regs) / sizeof(seen->regs[0]))
        seen->regs[seen->count++] = reg;
}

static void note_operand(struct seen *seen, const struct ptx_operand *op)
{
    if (op->kind == OPND_REG) {
        note_register(seen, op->reg);
        if (op->pair)
            note_register(seen, op->pair - 1);
    }
    if (op->kind == OPND_SPECIAL && strcmp(op->name, "tid.x") == 0)
        seen->tid_x = true;
    for (uint32_t i = 0; i < op->part_count; i++)
        note_operand(seen, &op->parts[i]);
}

/* Between statements an own register is V5, of vectors that the compiler keeps in registers; within
 * one it is an array, v5, which loops go over and which the compiler sees through. */
static void emit_array(struct emitter *e, const struct rows *rows, uint32_t reg)
{
    put(e, "%s v%u[16]; ROW_GET_%u(v%u, V%u); ", register_c(&e->body->regs[reg]), reg,
        rows->bytes[reg], reg, reg);
}

static void emit_back(struct emitter *e, const struct rows *rows, uint32_t reg)
{
    put(e, "ROW_PUT_%u(V%u, v%u); ", rows->bytes[reg], reg, reg);
    if (rows->counts[reg])
        put(e, "n%u = rt_count(v%u); ", reg, reg);
}

/* One thread's text in a loop over the row, `loop`. Inside, r5 is the thread's; round it b5 the
 * first's, or v5 an array of all. That of `kept`, a register or KEPT_NONE, is the caller's. */
static void emit_loop(struct emitter *e, const struct rows *rows, const char *loop, uint32_t kept)
{
    struct ptx_instr *in = e->in;
    struct seen seen = {0};
    bool split = is_split(rows, in);
    for (uint32_t i = 0; i < in->op_count; i++)
        note_operand(&seen, &in->ops[i]);
    if (split)
        note_register(&seen, in->guard - 1);
    put(e, "{");
    for (uint32_t i = 0; i < seen.count; i++) {
        uint32_t reg = seen.regs[i];
        if (is_own(rows, reg) && reg != kept)
            emit_array(e, rows, reg);
        else if (!is_own(rows, reg) && rows->regs[reg].stride)
            put(e, "const %s b%u = r%u; ", register_c(&e->body->regs[reg]), reg, reg);
    }
    if (seen.tid_x)
        put(e, "const uint32_t X_ = TID0; ");
    put(e, "%s {", loop);
    if (seen.tid_x)
        put(e, "const uint32_t TID0 = X_ + l_; ");
    for (uint32_t i = 0; i < seen.count; i++) {
        uint32_t reg = seen.regs[i];
        const char *c = register_c(&e->body->regs[reg]);
        if (is_own(rows, reg))
            put(e, "%s r%u = v%u[l_]; ", c, reg, reg);
        else if (rows->regs[reg].stride)
            put(e, "const %s r%u = (%s)(b%u + l_ * (%s)%" PRId64 "ll); ", c, reg, c, reg, c,
                rows->regs[reg].stride);
    }
    if (split)
        put(e, "if (%sr%u) {", in->guard_negated ? "!" : "", in->guard - 1);
    emit_instruction(e);
    if (split)
        put(e, "}");
    struct seen results = {0};
    if (!is_op(in, "st") && !is_op(in, "red"))
        note_operand(&results, &in->ops[0]);
    for (uint32_t i = 0; i < results.count; i++)
        put(e, "v%u[l_] = r%u; ", results.regs[i], results.regs[i]);
    put(e, "}");
    for (uint32_t i = 0; i < results.count; i++)
        if (results.regs[i] != kept)
            emit_back(e, rows, results.regs[i]);
    put(e, "}");
}

static void emit_each(struct emitter *e, const struct rows *rows)
{
    emit_loop(e, rows, e->row_pointer ? "EACH_APART" : "EACH", KEPT_NONE);
}

static void emit_steady(struct emitter *e, const struct rows *rows, const struct ptx_operand *op)
{
    enum ptx_type t = type_mod(e->in, 0);
    uint32_t to = e->in->ops[0].reg;
    put(e, "{_Bool v%u[16]; ", to);
    emit_loop(e, rows, "ENDS", to);
    put(e, "if (LIKELY(v%u[0] == v%u[15] && !RT_WRAPS_%s(r%u, %" PRId64 "ll))) {", to, to,
        t == TY_U32   ? "u32"
        : t == TY_S32 ? "s32"
        : t == TY_U64 ? "u64"
                      : "s64",
        op->reg, rows->regs[op->reg].stride);
    put(e, "const _Bool all_ = v%u[0]; EACH v%u[l_] = all_; ROW_PUT_1(V%u, v%u); ", to, to, to, to);
    if (rows->counts[to])
        put(e, "n%u = all_ ? 16 : 0;", to);
    put(e, "} else {");
    emit_each(e, rows);
    put(e, "}}");
}

/* Bytes of one thread's access, if the row's can be checked at once; else 0. */
static uint32_t row_access(const struct emitter *e, const struct rows *rows)
{
    const struct ptx_instr *in = e->in;
    enum ptx_type t = type_mod(in, 0);
    if (!is_memory(in) || is_split(rows, in) || in->op_count < 2 || t == TY_NONE)
        return 0;
    if (has_mod(in, "param") || has_mod(in, "param::entry") || has_mod(in, "param::func"))
        return 0;
    const struct ptx_operand *base = &memory_operand(in)->parts[0];
    struct row_class c = rows_class(rows, memory_operand(in));
    uint32_t bytes = ptx_types[t].bytes * (has_mod(in, "v4") ? 4u : has_mod(in, "v2") ? 2u : 1u);
    if (base->kind != OPND_REG)
        return 0;
    if (c.kind == ROW_OWN) /* maybe one behind the other: that is seen when it runs */
        return rows->bytes[base->reg] == 4 || rows->bytes[base->reg] == 8 ? bytes : 0;
    return c.kind == ROW_STRIDE && c.stride > 0 && c.stride % bytes == 0 ? bytes : 0;
}

/* The register whose bytes are those that the row reads or writes, one for one; NULL: none. */
static const struct ptx_operand *row_whole(const struct rows *rows, const struct ptx_instr *in,
                                           uint32_t bytes, int64_t stride)
{
    static const char *const apart[] = {"volatile", "relaxed", "acquire", "release", "mmio"};
    const struct ptx_operand *data = &in->ops[is_op(in, "st") ? 1 : 0];
    for (size_t i = 0; i < sizeof(apart) / sizeof(apart[0]); i++)
        if (has_mod(in, apart[i]))
            return NULL;
    return stride == bytes && data->kind == OPND_REG && is_own(rows, data->reg) &&
                   rows->bytes[data->reg] == bytes
               ? data
               : NULL;
}

static void emit_access(struct emitter *e, const struct rows *rows, uint32_t bytes)
{
    struct ptx_instr *in = e->in;
    const struct ptx_operand *mem = memory_operand(in);
    bool shared = has_mod(in, "shared") || has_mod(in, "shared::cta"), store = is_op(in, "st");
    uint32_t reg = mem->parts[0].reg;
    int64_t stride = is_own(rows, reg) ? bytes : rows->regs[reg].stride;
    put(e, "{");
    if (is_own(rows, reg)) {
        emit_array(e, rows, reg);
        put(e, "const %s r%u = v%u[0]; ", register_c(&e->body->regs[reg]), reg, reg);
    }
    put(e, "const uint64_t m_ = %s; if (", memory_address(e, mem));
    if (is_own(rows, reg))
        put(e, "rt_even_%u(v%u, %uu) && ", rows->bytes[reg], reg, bytes);
    if (shared)
        put(e, "LIKELY(RT_ROW_SHARED(m_, %uu, %" PRId64 "u))) {unsigned char *q_ = SB + m_; ",
            bytes, stride);
    else
        put(e,
            "LIKELY(RT_ROW_GLOBAL(m_, %uu, %" PRId64 "u, %d))) {unsigned char *q_ = "
            "(unsigned char *)(m_ + (uint64_t)AD); %s += %uu; ",
            bytes, stride, store, store ? "sb" : "lb", bytes * ROW);
    const struct ptx_operand *whole = row_whole(rows, in, bytes, stride);
    if (whole && store) {
        put(e, "ROW_GET_%u(q_, V%u);", bytes, whole->reg);
    } else if (whole) {
        put(e, "ROW_PUT_%u(V%u, q_);", bytes, whole->reg);
    } else {
        e->row_pointer = say(e, "(q_ + l_ * %" PRId64 "u)", stride);
        emit_each(e, rows);
        e->row_pointer = NULL;
    }
    put(e, "} else ");
    emit_each(e, rows);
    put(e, "}");
}

static void emit_split_jump(struct emitter *e, const struct rows *rows)
{
    struct ptx_instr *in = e->in;
    uint32_t to = is_op(in, "bra") && in->ops[0].label ? in->ops[0].label->at : e->body->code_count;
    const char *sign = in->guard_negated ? "!" : "";
    put(e, "{const uint32_t n_ = n%u; if (n_ == %u) {", in->guard - 1,
        in->guard_negated ? 0u : 16u);
    emit_instruction(e);
    put(e, "} if (n_ != %u) {", in->guard_negated ? 16u : 0u);
    emit_array(e, rows, in->guard - 1);
    put(e, "EACH to_[l_] = %sv%u[l_] ? %u : %u; goto part;}}", sign, in->guard - 1, to, e->at + 1);
}

/* Before a statement that begins a block: its instructions are counted again by each thread. */
static void emit_part_here(struct emitter *e, const struct rows *rows)
{
    put(e, "{ic -= %u; EACH to_[l_] = %u; goto part;}", rows->counted * ROW, e->at);
}

static void emit_one(struct emitter *e, const struct rows *rows)
{
    struct ptx_instr *in = e->in;
    if (is_split(rows, in) && leaves(in)) {
        emit_split_jump(e, rows);
        return;
    }
    if (is_split(rows, in) && is_meeting(in)) {
        emit_part_here(e, rows);
        return;
    }
    if (in->guard && !is_split(rows, in))
        put(e, "if (%sr%u) {", in->guard_negated ? "!" : "", in->guard - 1);
    uint32_t bytes = row_access(e, rows);
    if (is_once(rows, in)) {
        const struct ptx_operand *narrow = widened(rows, in);
        enum ptx_type from = is_op(in, "cvt") ? type_mod(in, 1) : type_mod(in, 0);
        if (narrow) {
            put(e, "if (UNLIKELY(RT_WRAPS_%s(r%u, %" PRId64 "ll))) ",
                ptx_types[from].kind == KIND_SINT ? "s32" : "u32", narrow->reg,
                rows->regs[narrow->reg].stride);
            emit_part_here(e, rows);
        }
        e->times = ROW;
        emit_instruction(e);
        e->times = 0;
    } else if (bytes) {
        emit_access(e, rows, bytes);
    } else if (rows_steady(rows, in)) {
        emit_steady(e, rows, rows_steady(rows, in));
    } else {
        emit_each(e, rows);
    }
    if (in->guard && !is_split(rows, in))
        put(e, "}");
}

void rows_emit(struct emitter *e, struct rows *rows, const bool *starts)
{
    struct ptx_body *body = e->body;
    put(e, "uint32_t to_[16];\n");
    for (uint32_t i = 0; i < body->reg_count; i++) {
        if (!body->regs[i].used)
            continue;
        const char *c = register_c(&body->regs[i]);
        if (is_own(rows, i))
            put(e, "struct rt_row%u V%u = {0};\n", rows->bytes[i], i);
        else
            put(e, "%s r%u = 0;\n", c, i);
        if (rows->counts[i])
            put(e, "uint32_t n%u = 0;\n", i);
    }
    for (uint32_t i = 0; i < body->code_count; i++) {
        e->in = body->code[i];
        e->at = i;
        if (starts[i]) {
            uint32_t n = 0;
            do
                n++;
            while (i + n < body->code_count && !starts[i + n]);
            put(e, "L%u: ic += %u;\n", i, n * ROW);
            rows->counted = n;
        }
        emit_one(e, rows);
        put(e, "\n");
    }
    put(e, "L%u: goto done;\n", body->code_count);
    emit_way_out(e, rows);
}
