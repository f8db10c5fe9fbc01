/* SPDX-License-Identifier: Apache-2.0 */
#include "soft/ptxc/emit.h"

#include <inttypes.h>
#include <string.h>

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

const char *register_c(const struct ptx_reg *reg)
{
    return ptx_types[home_of(reg)].c;
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
        {"ntid.x", "BD0", TY_U32},
        {"ntid.y", "BD1", TY_U32},
        {"ntid.z", "BD2", TY_U32},
        {"ntid.w", "0u", TY_U32},
        {"ctaid.x", "CT0", TY_U32},
        {"ctaid.y", "CT1", TY_U32},
        {"ctaid.z", "CT2", TY_U32},
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
        /* A block is a cluster of its own: kernels that want larger ones are refused. */
        {"is_explicit_cluster", "0", TY_PRED},
        {"cluster_ctarank", "0u", TY_U32},
        {"cluster_nctarank", "1u", TY_U32},
        {"cluster_ctaid.x", "0u", TY_U32},
        {"cluster_ctaid.y", "0u", TY_U32},
        {"cluster_ctaid.z", "0u", TY_U32},
        {"cluster_ctaid.w", "0u", TY_U32},
        {"cluster_nctaid.x", "1u", TY_U32},
        {"cluster_nctaid.y", "1u", TY_U32},
        {"cluster_nctaid.z", "1u", TY_U32},
        {"cluster_nctaid.w", "0u", TY_U32},
        {"clusterid.x", "CT0", TY_U32},
        {"clusterid.y", "CT1", TY_U32},
        {"clusterid.z", "CT2", TY_U32},
        {"clusterid.w", "0u", TY_U32},
        {"nclusterid.x", "T->L->grid[0]", TY_U32},
        {"nclusterid.y", "T->L->grid[1]", TY_U32},
        {"nclusterid.z", "T->L->grid[2]", TY_U32},
        {"nclusterid.w", "0u", TY_U32},
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
        if (decl->taken)
            return say(e, "(frame + %uu + (uint64_t)%" PRIu64 "u)", decl->ordinal, offset);
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
    if (ptx_types[type].kind == KIND_UINT || ptx_types[type].kind == KIND_SINT ||
        (op->kind == OPND_F64 && type == TY_B32))
        invalid(e, "a floating-point constant where an integer belongs");
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

/* .f32 registers are no integers and the other way round; .b32 is either. */
static void check_kind(struct emitter *e, const struct ptx_reg *reg, enum ptx_type type)
{
    enum ptx_kind a = (enum ptx_kind)ptx_types[reg->type].kind;
    enum ptx_kind b = (enum ptx_kind)ptx_types[type].kind;
    bool a_int = a == KIND_UINT || a == KIND_SINT, b_int = b == KIND_UINT || b == KIND_SINT;
    if ((a == KIND_FLOAT && b_int) || (a_int && b == KIND_FLOAT))
        invalid(e, say(e, "register %s is .%s", reg->name, ptx_types[reg->type].name));
}

/* Only mov reads special registers and takes addresses (and cvta those of variables). */
static void want_mov(struct emitter *e, bool special)
{
    if (strcmp(e->in->op, "mov") != 0 && strcmp(e->in->op, special ? "cvt" : "cvta") != 0)
        invalid(e, "a register belongs here");
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
        check_kind(e, reg, type);
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
        want_mov(e, true);
        const char *expr = special(e, op->name, &of);
        if (ptx_types[of].bytes != bytes && !(loose && ptx_types[of].bytes > bytes) &&
            !(bytes == 8 && ptx_types[of].bytes == 4))
            invalid(e, say(e, "%%%s has %u bits", op->name, ptx_types[of].bytes * 8));
        return cast_bits(e, expr, type);
    }
    case OPND_DECL:
        want_mov(e, false);
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
    check_kind(e, reg, type);
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

void survey_body(struct emitter *e, struct ptx_body *body)
{
    e->survey = true;
    e->body = body;
    for (e->at = 0; e->at < body->code_count; e->at++) {
        e->in = body->code[e->at];
        survey_scheme(e, e->in);
        emit_instruction(e);
    }
    e->survey = false;
}
