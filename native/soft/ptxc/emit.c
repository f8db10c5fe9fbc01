/* SPDX-License-Identifier: Apache-2.0 */
#include "soft/ptxc/emit.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "soft/ptxc/prelude.h"
#include "soft/ptxc/ptx_rt.h"

/* -------------------------------------------------------------------------------- text -------- */

static void append(struct emitter *e, struct text *text, const char *format, va_list args)
{
    for (;;) {
        size_t left = text->room - text->bytes;
        va_list again;
        va_copy(again, args);
        int n = vsnprintf(text->at ? text->at + text->bytes : NULL, left, format, again);
        va_end(again);
        if (n >= 0 && (size_t)n < left) {
            text->bytes += (size_t)n;
            return;
        }
        size_t room = text->room * 2 + (size_t)(n < 0 ? 0 : n) + 256;
        char *more = job_new(e->job, room, 1);
        if (text->bytes)
            memcpy(more, text->at, text->bytes);
        text->at = more;
        text->room = room;
    }
}

void put(struct emitter *e, const char *format, ...)
{
    va_list args;
    if (e->survey)
        return;
    va_start(args, format);
    append(e, &e->out, format, args);
    va_end(args);
}

void put_to(struct emitter *e, struct text *text, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    append(e, text, format, args);
    va_end(args);
}

const char *say(struct emitter *e, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n < 0)
        job_fail(e->job, PTXC_INTERNAL, "text");
    char *out = job_new(e->job, (size_t)n + 1, 1);
    vsnprintf(out, (size_t)n + 1, format, again);
    va_end(again);
    return out;
}

static _Noreturn void complain(struct emitter *e, int code, const char *why)
{
    uint32_t bytes = e->in->bytes > 120 ? 120 : e->in->bytes;
    char text[121];
    for (uint32_t i = 0; i < bytes; i++)
        text[i] = e->in->text[i] < 0x20 ? ' ' : e->in->text[i];
    text[bytes] = 0;
    job_fail(e->job, code, "kernel %s: line %u: instruction `%s`: %s", e->kernel->name, e->in->line,
             text, why);
}

void refuse(struct emitter *e, const char *why)
{
    complain(e, PTXC_UNSUPPORTED, why);
}

void invalid(struct emitter *e, const char *why)
{
    complain(e, PTXC_INVALID, why);
}

const char *where(struct emitter *e)
{
    char mods[160] = "";
    for (uint32_t i = 0; i < e->in->mod_count; i++) {
        size_t at = strlen(mods);
        snprintf(mods + at, sizeof(mods) - at, ".%s", e->in->mods[i]);
    }
    return say(e, "\"%s: line %u: %s%s\"", e->kernel->name, e->in->line, e->in->op, mods);
}

bool has_mod(const struct ptx_instr *in, const char *mod)
{
    for (uint32_t i = 0; i < in->mod_count; i++)
        if (strcmp(in->mods[i], mod) == 0)
            return true;
    return false;
}

enum ptx_type type_mod(const struct ptx_instr *in, uint32_t n)
{
    for (uint32_t i = 0; i < in->mod_count; i++) {
        enum ptx_type t = ptx_type_of(in->mods[i], strlen(in->mods[i]));
        if (t != TY_NONE && n-- == 0)
            return t;
    }
    return TY_NONE;
}

/* ---------------------------------------------------------------------------- registers ------- */

/* How the register lives in C: a float only if nothing looks at its bits. */
static enum ptx_type home_of(const struct ptx_reg *reg)
{
    uint32_t bytes = ptx_types[reg->type].bytes;
    if (reg->type == TY_PRED || bytes == 16)
        return reg->type;
    bool real = ptx_types[reg->type].kind == KIND_FLOAT;
    if (bytes >= 4 && ((reg->as_float && !reg->as_bits) || (real && reg->as_float == reg->as_bits)))
        return bytes == 4 ? TY_F32 : TY_F64;
    return bytes == 8 ? TY_B64 : bytes == 4 ? TY_B32 : bytes == 2 ? TY_B16 : TY_B8;
}

static const char *bits_of(struct emitter *e, const struct ptx_operand *op)
{
    const struct ptx_reg *reg = &e->body->regs[op->reg];
    enum ptx_type home = home_of(reg);
    if (home == TY_F32)
        return say(e, "asu32(r%u)", op->reg);
    if (home == TY_F64)
        return say(e, "asu64(r%u)", op->reg);
    return say(e, "r%u", op->reg);
}

static void note(struct emitter *e, const struct ptx_operand *op, enum ptx_type type, bool neutral)
{
    struct ptx_reg *reg = &e->body->regs[op->reg];
    if (!e->survey || neutral)
        return;
    if (ptx_types[type].kind == KIND_FLOAT)
        reg->as_float = true;
    else
        reg->as_bits = true;
}

static const char *cast_bits(struct emitter *e, const char *bits, enum ptx_type type)
{
    if (type == TY_F32)
        return say(e, "asf32((uint32_t)(%s))", bits);
    if (type == TY_F64)
        return say(e, "asf64((uint64_t)(%s))", bits);
    return say(e, "((%s)(%s))", ptx_types[type].c, bits);
}

static const char *special(struct emitter *e, const char *name, enum ptx_type *type)
{
    static const struct {
        const char *name, *expr;
        enum ptx_type type;
    } table[] = {
        {"tid.x", "TID0", TY_U32},
        {"tid.y", "TID1", TY_U32},
        {"tid.z", "TID2", TY_U32},
        {"tid.w", "0u", TY_U32},
        {"ntid.x", "T->L->block[0]", TY_U32},
        {"ntid.y", "T->L->block[1]", TY_U32},
        {"ntid.z", "T->L->block[2]", TY_U32},
        {"ntid.w", "0u", TY_U32},
        {"ctaid.x", "T->B->ctaid[0]", TY_U32},
        {"ctaid.y", "T->B->ctaid[1]", TY_U32},
        {"ctaid.z", "T->B->ctaid[2]", TY_U32},
        {"ctaid.w", "0u", TY_U32},
        {"nctaid.x", "T->L->grid[0]", TY_U32},
        {"nctaid.y", "T->L->grid[1]", TY_U32},
        {"nctaid.z", "T->L->grid[2]", TY_U32},
        {"nctaid.w", "0u", TY_U32},
        {"laneid", "(LIN & 31)", TY_U32},
        {"warpid", "(LIN >> 5)", TY_U32},
        {"nwarpid", "64u", TY_U32},
        {"smid", "T->B->smid", TY_U32},
        {"nsmid", "T->L->sm_count", TY_U32},
        {"gridid", "T->L->grid_id", TY_U64},
        {"lanemask_eq", "(1u << (LIN & 31))", TY_U32},
        {"lanemask_lt", "((1u << (LIN & 31)) - 1)", TY_U32},
        {"lanemask_le", "((2u << (LIN & 31)) - 1)", TY_U32},
        {"lanemask_gt", "(~((2u << (LIN & 31)) - 1))", TY_U32},
        {"lanemask_ge", "(~((1u << (LIN & 31)) - 1))", TY_U32},
        {"clock", "((uint32_t)rt_now(T))", TY_U32},
        {"clock_hi", "((uint32_t)(rt_now(T) >> 32))", TY_U32},
        {"clock64", "rt_now(T)", TY_U64},
        {"globaltimer", "rt_now(T)", TY_U64},
        {"globaltimer_lo", "((uint32_t)rt_now(T))", TY_U32},
        {"globaltimer_hi", "((uint32_t)(rt_now(T) >> 32))", TY_U32},
        {"dynamic_smem_size", "T->L->dyn_shared_bytes", TY_U32},
        {"total_smem_size", "T->B->shared_bytes", TY_U32},
        {"aggr_smem_size", "(T->B->shared_bytes + 1024u)", TY_U32},
        {"current_graph_exec", "0ull", TY_U64},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (strcmp(table[i].name, name) == 0) {
            *type = table[i].type;
            return table[i].expr;
        }
    refuse(e, say(e, "%%%s is neither a declared register nor a special one that is known", name));
}

bool is_kernel_param(const struct emitter *e, const struct ptx_decl *decl)
{
    const struct ptx_func *f = e->body->func;
    return f->entry && decl >= f->params && decl < f->params + f->param_count;
}

const char *address_of(struct emitter *e, const struct ptx_decl *decl, uint64_t offset)
{
    switch (decl->where) {
    case IN_GLOBAL:
    case IN_CONST:
        return say(e, "(T->L->global_addrs[%u] + %" PRIu64 "u)", decl->ordinal, offset);
    case IN_SHARED:
        return say(e, "(%uu + (uint64_t)%" PRIu64 "u)", decl->ordinal, offset);
    case IN_LOCAL:
        return say(e, "(frame + %uu + (uint64_t)%" PRIu64 "u)", decl->ordinal, offset);
    case IN_PARAM:
        if (is_kernel_param(e, decl)) {
            uint64_t at = 0;
            for (const struct ptx_decl *p = e->body->func->params;; p++) {
                at = (at + p->align - 1) & ~((uint64_t)p->align - 1);
                if (p == decl)
                    break;
                at += p->bytes;
            }
            return say(e, "(uint64_t)%" PRIu64 "u", at + offset);
        }
        refuse(e, "the address of a function's parameter");
    default:
        invalid(e, "this name has no address");
    }
}

static uint64_t literal(struct emitter *e, const struct ptx_operand *op, enum ptx_type type)
{
    uint64_t v = op->value;
    uint32_t bytes = ptx_types[type].bytes;
    if (op->kind == OPND_INT) {
        if (type == TY_F32 || type == TY_F64)
            invalid(e, "an integer constant where a floating-point one belongs");
        return v;
    }
    if (op->kind == OPND_F64 && bytes == 4) {
        double d;
        float f;
        uint32_t u;
        memcpy(&d, &v, 8);
        f = (float)d;
        memcpy(&u, &f, 4);
        return u;
    }
    if (op->kind == OPND_F32 && bytes == 8) {
        double d;
        float f;
        uint32_t u = (uint32_t)v;
        memcpy(&f, &u, 4);
        d = (double)f;
        memcpy(&v, &d, 8);
        return v;
    }
    if (bytes < 4)
        invalid(e, "a floating-point constant where a 16-bit value belongs");
    return v;
}

static const char *read_any(struct emitter *e, const struct ptx_operand *op, enum ptx_type type,
                            bool loose, bool neutral)
{
    uint32_t bytes = ptx_types[type].bytes;
    switch (op->kind) {
    case OPND_REG: {
        const struct ptx_reg *reg = &e->body->regs[op->reg];
        uint32_t width = ptx_types[reg->type].bytes;
        if ((reg->type == TY_PRED) != (type == TY_PRED))
            invalid(e, say(e, "register %s is .%s", reg->name, ptx_types[reg->type].name));
        if (type == TY_PRED)
            return say(e, op->negated ? "!r%u" : "r%u", op->reg);
        if (loose ? width < bytes : width != bytes)
            invalid(e, say(e, "register %s has %u bits", reg->name, width * 8));
        if (op->negated)
            invalid(e, "only predicates can be negated");
        note(e, op, width == bytes ? type : TY_B32, neutral);
        enum ptx_type home = home_of(reg);
        if (home == type)
            return say(e, "r%u", op->reg);
        return cast_bits(e, bits_of(e, op), type);
    }
    case OPND_INT:
    case OPND_F32:
    case OPND_F64:
        if (type == TY_PRED)
            return op->value ? "1" : "0";
        return cast_bits(e, say(e, "0x%" PRIx64 "ull", literal(e, op, type)), type);
    case OPND_SPECIAL: {
        enum ptx_type of;
        const char *expr = special(e, op->name, &of);
        if (ptx_types[of].bytes != bytes && !(loose && ptx_types[of].bytes > bytes) &&
            !(bytes == 8 && ptx_types[of].bytes == 4))
            invalid(e, say(e, "%%%s has %u bits", op->name, ptx_types[of].bytes * 8));
        return cast_bits(e, expr, type);
    }
    case OPND_DECL:
        if (bytes < 4)
            invalid(e, "an address where a 16-bit value belongs");
        return cast_bits(e, address_of(e, op->decl, op->value), type);
    case OPND_FUNC:
        return cast_bits(e, say(e, "0x%" PRIx64 "ull", PTX_FUNC_ADDRESS(op->func->id)), type);
    default:
        invalid(e, "an operand of another kind belongs here");
    }
}

const char *read_as(struct emitter *e, const struct ptx_operand *op, enum ptx_type type)
{
    return read_any(e, op, type, false, false);
}
const char *read_loose(struct emitter *e, const struct ptx_operand *op, enum ptx_type type)
{
    return read_any(e, op, type, true, false);
}
const char *read_bits(struct emitter *e, const struct ptx_operand *op, enum ptx_type type)
{
    return read_any(e, op, type, true, true);
}

static void write_any(struct emitter *e, const struct ptx_operand *op, enum ptx_type type,
                      const char *value, bool neutral)
{
    if (op->kind == OPND_SINK) {
        put(e, "(void)(%s);", value);
        return;
    }
    if (op->kind != OPND_REG)
        invalid(e, "the destination must be a register");
    const struct ptx_reg *reg = &e->body->regs[op->reg];
    const struct ptx_type_info *to = &ptx_types[reg->type], *from = &ptx_types[type];
    if ((reg->type == TY_PRED) != (type == TY_PRED))
        invalid(e, say(e, "register %s is .%s", reg->name, to->name));
    if (to->bytes < from->bytes)
        invalid(e, say(e, "register %s has only %u bits", reg->name, to->bytes * 8));
    note(e, op, to->bytes == from->bytes ? type : TY_B32, neutral);
    enum ptx_type home = home_of(reg);
    if (home == type || type == TY_PRED) {
        put(e, "r%u = %s;", op->reg, value);
        return;
    }
    /* Through the bits of the value, extended to the register as its signedness says. */
    const char *bits = type == TY_F32   ? say(e, "asu32(%s)", value)
                       : type == TY_F64 ? say(e, "asu64(%s)", value)
                                        : value;
    static const char *const wide[2][17] = {
        {[1] = "uint8_t", [2] = "uint16_t", [4] = "uint32_t", [8] = "uint64_t", [16] = "u128"},
        {[1] = "int8_t", [2] = "int16_t", [4] = "int32_t", [8] = "int64_t", [16] = "__int128"}};
    bits = say(e, "(%s)(%s)(%s)", wide[from->kind == KIND_SINT][to->bytes],
               from->kind == KIND_FLOAT ? wide[0][from->bytes] : from->c, bits);
    if (home == TY_F32)
        put(e, "r%u = asf32((uint32_t)(%s));", op->reg, bits);
    else if (home == TY_F64)
        put(e, "r%u = asf64((uint64_t)(%s));", op->reg, bits);
    else
        put(e, "r%u = %s;", op->reg, bits);
}

void write_as(struct emitter *e, const struct ptx_operand *op, enum ptx_type type,
              const char *value)
{
    write_any(e, op, type, value, false);
}
void write_bits(struct emitter *e, const struct ptx_operand *op, enum ptx_type type,
                const char *value)
{
    write_any(e, op, type, value, true);
}

const char *memory_address(struct emitter *e, const struct ptx_operand *mem)
{
    if (mem->kind != OPND_MEM || mem->part_count != 1)
        invalid(e, "an address in [] belongs here");
    const struct ptx_operand *base = &mem->parts[0];
    if (base->kind == OPND_DECL)
        return address_of(e, base->decl, base->value + mem->value);
    if (base->kind == OPND_INT)
        return say(e, "(uint64_t)0x%" PRIx64 "u", base->value + mem->value);
    if (base->kind != OPND_REG)
        invalid(e, "an address is a register, a name or a number");
    const struct ptx_reg *reg = &e->body->regs[base->reg];
    uint32_t bytes = ptx_types[reg->type].bytes;
    if (reg->type == TY_PRED || (bytes != 4 && bytes != 8))
        invalid(e, say(e, "register %s cannot hold an address", reg->name));
    const char *value = read_as(e, base, bytes == 8 ? TY_U64 : TY_U32);
    if (!mem->value)
        return say(e, "(uint64_t)%s", value);
    if (bytes == 4) /* 32-bit addresses wrap */
        return say(e, "(uint64_t)(uint32_t)(%s + 0x%xu)", value, (uint32_t)mem->value);
    return say(e, "(%s + 0x%" PRIx64 "ull)", value, mem->value);
}

/* ---------------------------------------------------------------------------- functions ------- */

static bool ends_block(const struct ptx_instr *in)
{
    static const char *const ops[] = {"bra", "brx", "call", "ret", "exit", "trap"};
    for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++)
        if (strcmp(in->op, ops[i]) == 0)
            return true;
    return false;
}

static void emit_code(struct emitter *e, bool *starts)
{
    struct ptx_body *body = e->body;
    for (uint32_t i = 0; i < body->code_count; i++) {
        struct ptx_instr *in = body->code[i];
        e->in = in;
        e->at = i;
        if (starts[i]) {
            uint32_t n = 0;
            do
                n++;
            while (i + n < body->code_count && !starts[i + n]);
            put(e, "L%u: ic += %u;\n", i, n);
        }
        if (in->guard)
            put(e, "if (%sr%u) {", in->guard_negated ? "!" : "", in->guard - 1);
        emit_instruction(e);
        put(e, in->guard ? "}\n" : "\n");
    }
    /* Labels behind the last instruction, and running off the end: as `ret`. */
    put(e, "L%u: goto done;\n", body->code_count);
}

static bool *block_starts(struct emitter *e)
{
    struct ptx_body *body = e->body;
    bool *starts = job_new(e->job, body->code_count + 1, sizeof(bool));
    starts[0] = true;
    for (uint32_t i = 0; i < body->label_count; i++)
        starts[body->labels[i]->at] = true;
    for (uint32_t i = 0; i < body->code_count; i++)
        if (ends_block(body->code[i]))
            starts[i + 1] = true;
    return starts;
}

static void emit_registers(struct emitter *e)
{
    struct ptx_body *body = e->body;
    uint32_t in_line = 0;
    for (uint32_t i = 0; i < body->reg_count; i++) {
        if (!body->regs[i].used)
            continue;
        put(e, "%s r%u = 0;%s", ptx_types[home_of(&body->regs[i])].c, i,
            ++in_line % 6 ? " " : "\n");
    }
    put(e, "\n");
    for (uint32_t i = 0; i < body->param_count; i++)
        put(e, "_Alignas(16) unsigned char q%u[%u];\n", i,
            body->params[i]->bytes ? (uint32_t)body->params[i]->bytes : 1u);
}

static void signature(struct emitter *e, const struct ptx_func *f)
{
    put(e, "static void f%u(struct thread *const T", f->id);
    for (uint32_t i = 0; i < f->ret_count; i++)
        put(e, ", unsigned char *o%u", i);
    for (uint32_t i = 0; i < f->param_count; i++)
        put(e, ", const unsigned char *a%u", i);
    put(e, ")");
}

static const char *frame_where(struct emitter *e)
{
    return say(e, "\"%s: local memory of %s\"", e->kernel->name, e->body->func->name);
}

static void emit_function(struct emitter *e, struct ptx_body *body)
{
    e->body = body;
    signature(e, body->func);
    put(e, "\n{\nRT_LOCALS;\nuint32_t frame = 0; (void)frame;\n");
    if (e->recursive)
        put(e, "RT_STACK_CHECK(%s);\n", frame_where(e));
    put(e, "const uint32_t local_before = T->local_used;\n");
    if (body->local_bytes)
        put(e, "frame = rt_frame(T, %" PRIu64 "u, %s);\n", body->local_bytes, frame_where(e));
    emit_registers(e);
    emit_code(e, block_starts(e));
    put(e, "done: T->local_used = local_before; RT_FLUSH;\n}\n");
}

static void emit_entry(struct emitter *e, struct ptx_body *body)
{
    e->body = body;
    if (e->fibers) {
        put(e, "static void rt_kernel(struct thread *const T)\n{\nRT_LOCALS;\n"
               "const uint32_t TID0 = T->tid[0], TID1 = T->tid[1], TID2 = T->tid[2];\n"
               "(void)TID0, (void)TID1, (void)TID2;\nuint32_t frame = 0; (void)frame;\n");
        if (body->local_bytes)
            put(e, "frame = rt_frame(T, %" PRIu64 "u, %s);\n", body->local_bytes, frame_where(e));
        emit_registers(e);
        emit_code(e, block_starts(e));
        put(e, "done: RT_FLUSH;\n}\n");
        return;
    }
    put(e, "static void rt_kernel(struct thread *const T)\n{\nRT_LOCALS;\n"
           "const uint32_t NT0 = T->L->block[0], NT1 = T->L->block[1], NT2 = T->L->block[2];\n"
           "uint32_t LIN = 0; (void)LIN;\n"
           "for (uint32_t TID2 = 0; TID2 < NT2; TID2++)\n"
           "for (uint32_t TID1 = 0; TID1 < NT1; TID1++)\n"
           "for (uint32_t TID0 = 0; TID0 < NT0; TID0++, LIN++) {\n"
           "uint32_t frame = 0; (void)frame;\n");
    if (e->layout.func_count > 1)
        put(e, "T->tid[0] = TID0, T->tid[1] = TID1, T->tid[2] = TID2, T->lin = LIN;\n");
    if (body->local_bytes)
        put(e, "T->local_used = 0; frame = rt_frame(T, %" PRIu64 "u, %s);\n", body->local_bytes,
            frame_where(e));
    emit_registers(e);
    emit_code(e, block_starts(e));
    put(e, "done:; RT_NEXT_THREAD;\n}\nRT_FLUSH;\n}\n");
}

/* ------------------------------------------------------------------------------ kernel -------- */

static void survey(struct emitter *e)
{
    e->survey = true;
    for (uint32_t f = 0; f < e->layout.func_count; f++) {
        e->body = e->bodies[f];
        for (uint32_t i = 0; i < e->body->code_count; i++) {
            e->in = e->body->code[i];
            e->at = i;
            survey_scheme(e, e->in);
            emit_instruction(e);
        }
    }
    e->survey = false;
}

/* Depth first over calls: a function met again on the way is recursive. */
static void find_cycles(struct emitter *e)
{
    uint32_t n = e->layout.func_count;
    uint8_t *state = job_new(e->job, n + 1, 1);
    uint32_t *stack = job_new(e->job, n + 1, sizeof(uint32_t));
    uint32_t *next = job_new(e->job, n + 1, sizeof(uint32_t)), depth = 1;
    state[0] = 1;
    while (depth) {
        uint32_t at = stack[depth - 1];
        struct ptx_func *f = e->layout.funcs[at];
        if (next[at] == f->ref_count) {
            state[at] = 2;
            depth--;
            continue;
        }
        struct ptx_func *callee = f->refs[next[at]++]->func;
        for (uint32_t i = 0; callee && i < n; i++) {
            if (e->layout.funcs[i] != callee)
                continue;
            if (state[i] == 1)
                e->recursive = true;
            if (!state[i]) {
                state[i] = 1;
                stack[depth++] = i;
            }
        }
    }
}

static void emit_tail(struct emitter *e)
{
    if (e->fibers)
        put(e,
            "__attribute__((visibility(\"hidden\"), used)) const volatile uint64_t harp_stack[4] = "
            "{0x%llxull, RT_STACK_LEAST, RT_PER_THREAD, 0};\n",
            PTXC_STACK_MARK);
    put(e,
        "__attribute__((visibility(\"default\"))) const struct ptx_kernel harp_kernel = {\n"
        ".abi = PTX_RT_ABI, .flags = %uu, .name = \"%s\", .static_shared_bytes = %" PRIu64
        "u,\n.local_bytes = RT_LOCAL_BYTES, .scratch_fixed_bytes = RT_FIXED,\n"
        ".scratch_thread_bytes = 0x%llxull, .run_block = rt_run_block};\n",
        (e->barrier ? PTX_KERNEL_HAS_BARRIER : 0) | (e->grid_sync ? PTX_KERNEL_GRID_SYNC : 0),
        e->kernel->name, e->layout.shared_bytes, e->fibers ? PTXC_THREAD_MARK : 0ull);
}

void emit_kernel(struct emitter *e, const char *name)
{
    struct ptx_symbol *s = module_find(e->module, name, strlen(name));
    if (!s || !s->func || !s->func->entry || !s->func->has_body)
        job_fail(e->job, PTXC_INVALID, "kernel %s: not in this module", name);
    e->kernel = s->func;
    if (e->kernel->cluster)
        job_fail(e->job, PTXC_UNSUPPORTED, "kernel %s: line %u: thread block clusters", name,
                 e->kernel->line);
    module_layout(e->module, e->kernel, &e->layout);
    e->bodies = job_new(e->job, e->layout.func_count, sizeof(struct ptx_body *));
    for (uint32_t i = 0; i < e->layout.func_count; i++) {
        struct ptx_func *f = e->layout.funcs[i];
        if (!f->has_body) /* its call decides: vprintf and __assertfail are known */
            f->body = (struct ptx_lexer){.at = "", .end = "", .line = f->line};
        e->bodies[i] = body_read(e->module, f);
    }
    find_cycles(e);
    survey(e);
    if (e->recursive || e->deep_exit)
        e->fibers = true;
    put(e, "#define RT_FIBERS %d\n#define RT_RECURSIVE %d\n", e->fibers, e->recursive);
    put(e, "#define RT_LOCAL_BYTES %" PRIu64 "u\n",
        (e->layout.local_bytes + 15 + (e->recursive ? 16384u : 0u)) & ~(uint64_t)15);
    put(e, "#define RT_NEXT_THREAD %s\n",
        e->sleeps ? "(T->in = T->sleep > T->in ? T->sleep : T->in, T->sleep = 0)" : "(void)0");
    put(e, "%s%s%s%s%s", prelude_abi, prelude_core, prelude_arith, prelude_float, prelude_atomic);
    if (e->fibers)
        put(e, "%s", prelude_fiber);
    put(e, "#define LIN T->lin\n#define TID0 T->tid[0]\n#define TID1 T->tid[1]\n#define TID2 "
           "T->tid[2]\n");
    for (uint32_t i = 1; i < e->layout.func_count; i++)
        if (e->layout.funcs[i]->has_body) {
            signature(e, e->layout.funcs[i]);
            put(e, ";\n");
        }
    for (uint32_t i = 1; i < e->layout.func_count; i++)
        if (e->layout.funcs[i]->has_body)
            emit_function(e, e->bodies[i]);
    put(e, "#undef TID0\n#undef TID1\n#undef TID2\n%s", e->fibers ? "" : "#undef LIN\n");
    emit_entry(e, e->bodies[0]);
    put(e, "%s", prelude_tail);
    emit_tail(e);
}
