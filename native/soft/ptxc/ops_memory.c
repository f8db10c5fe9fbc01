/* SPDX-License-Identifier: Apache-2.0
 *
 * Loads, stores, atomics, address conversion, asynchronous copies.
 */
#include <inttypes.h>
#include <string.h>

#include "soft/ptxc/emit.h"

enum space { SP_GENERIC, SP_GLOBAL, SP_CONST, SP_SHARED, SP_LOCAL, SP_PARAM };

struct access {
    enum space space;
    uint32_t lanes;
    bool loose; /* volatile, relaxed, acquire, release, mmio: one access, not merged or moved */
    bool acquire, release;
    const char *op; /* of an atomic */
    enum ptx_type type;
    bool cas, noftz;
};

static bool starts(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

static bool known_hint(const char *mod)
{
    static const char *const hints[] = {"weak", "cta", "gpu", "sys", "cluster", "ca", "cg",
                                        "cs",   "lu",  "cv",  "nc",  "unified", "wb", "wt"};
    for (size_t i = 0; i < sizeof(hints) / sizeof(hints[0]); i++)
        if (strcmp(mod, hints[i]) == 0)
            return true;
    return starts(mod, "L1::") || starts(mod, "L2::") || starts(mod, "level::");
}

/* Modifiers that exist, but not on this access. */
static void check_access(struct emitter *e, const struct access *a)
{
    static const char *const load_only[] = {"ca", "lu", "cv", "nc"};
    static const char *const store_only[] = {"wb", "wt"};
    bool load = e->in->op[0] == 'l', store = strcmp(e->in->op, "st") == 0;
    for (size_t i = 0; store && i < sizeof(load_only) / sizeof(load_only[0]); i++)
        if (has_mod(e->in, load_only[i]))
            invalid(e, say(e, ".%s is for loads", load_only[i]));
    for (size_t i = 0; load && i < sizeof(store_only) / sizeof(store_only[0]); i++)
        if (has_mod(e->in, store_only[i]))
            invalid(e, say(e, ".%s is for stores", store_only[i]));
    if (has_mod(e->in, "nc") && (a->space != SP_GLOBAL || a->loose))
        invalid(e, ".nc is for plain loads from .global");
    if (a->loose && a->space != SP_GENERIC && a->space != SP_GLOBAL && a->space != SP_SHARED)
        invalid(e, "memory that only one thread sees or writes has no ordering");
}

static struct access read_access(struct emitter *e)
{
    static const struct {
        const char *name;
        enum space space;
    } spaces[] = {
        {"global", SP_GLOBAL},          {"const", SP_CONST},        {"shared", SP_SHARED},
        {"shared::cta", SP_SHARED},     {"local", SP_LOCAL},        {"param", SP_PARAM},
        {"shared::cluster", SP_SHARED}, {"param::entry", SP_PARAM}, {"param::func", SP_PARAM}};
    static const char *const atomics[] = {"and", "or",  "xor", "cas", "exch",
                                          "add", "inc", "dec", "min", "max"};
    struct ptx_instr *in = e->in;
    struct access a = {.lanes = 1, .type = type_mod(in, 0)};
    bool atomic = strcmp(in->op, "atom") == 0 || strcmp(in->op, "red") == 0;
    if (a.type == TY_NONE || type_mod(in, 1) != TY_NONE)
        invalid(e, "one type belongs here");
    for (uint32_t i = 0; i < in->mod_count; i++) {
        const char *mod = in->mods[i];
        bool known = ptx_type_of(mod, strlen(mod)) != TY_NONE || known_hint(mod);
        for (size_t k = 0; k < sizeof(spaces) / sizeof(spaces[0]); k++)
            if (strcmp(mod, spaces[k].name) == 0) {
                a.space = spaces[k].space;
                known = true;
            }
        for (size_t k = 0; atomic && k < sizeof(atomics) / sizeof(atomics[0]); k++)
            if (strcmp(mod, atomics[k]) == 0) {
                a.op = atomics[k];
                known = true;
            }
        if (strcmp(mod, "v2") == 0 || strcmp(mod, "v4") == 0) {
            a.lanes = mod[1] == '2' ? 2 : 4;
            known = !atomic;
        } else if (strcmp(mod, "volatile") == 0 || strcmp(mod, "relaxed") == 0 ||
                   strcmp(mod, "mmio") == 0) {
            a.loose = known = true;
        } else if (strcmp(mod, "acquire") == 0) {
            a.loose = a.acquire = known = true;
        } else if (strcmp(mod, "release") == 0) {
            a.loose = a.release = known = true;
        } else if (strcmp(mod, "acq_rel") == 0 && atomic) {
            known = true;
        } else if (strcmp(mod, "noftz") == 0 && atomic) {
            a.noftz = known = true;
        }
        if (!known)
            refuse(e, say(e, ".%s", mod));
    }
    check_access(e, &a);
    return a;
}

static bool memory_type(enum ptx_type t)
{
    return (ptx_types[t].kind <= KIND_SINT && t != TY_PRED) || t == TY_F32 || t == TY_F64;
}

static bool in_decl(const struct ptx_operand *mem, uint64_t bytes, uint64_t align)
{
    const struct ptx_operand *base = &mem->parts[0];
    return mem->kind == OPND_MEM && mem->part_count == 1 && base->kind == OPND_DECL &&
           !base->decl->external && !base->decl->flexible && base->decl->align % align == 0 &&
           mem->value % align == 0 && mem->value + bytes <= base->decl->bytes &&
           mem->value <= base->decl->bytes;
}

/* C pointer for a parameter of a function or of a call made here; NULL if it is none of these. */
static const char *param_pointer(struct emitter *e, const struct ptx_operand *mem, uint64_t bytes,
                                 bool write)
{
    const struct ptx_func *f = e->body->func;
    if (mem->kind != OPND_MEM || mem->part_count != 1 || mem->parts[0].kind != OPND_DECL)
        return NULL;
    const struct ptx_decl *d = mem->parts[0].decl;
    if (d->where != IN_PARAM)
        invalid(e, "not a parameter");
    if (mem->value > d->bytes || mem->value + bytes > d->bytes)
        refuse(e, say(e, "outside of parameter %s", d->name));
    if (is_kernel_param(e, d)) {
        if (write)
            invalid(e, "kernel parameters are read-only");
        return say(e, "(PD + %s)", address_of(e, d, mem->value));
    }
    if (d >= f->params && d < f->params + f->param_count) {
        if (write)
            invalid(e, "parameters of a function are read-only");
        if (d->taken)
            return say(e, "(T->local + %s)", address_of(e, d, mem->value));
        return say(e, "(a%u + %u)", (uint32_t)(d - f->params), (uint32_t)mem->value);
    }
    if (d >= f->rets && d < f->rets + f->ret_count)
        return say(e, "(o%u + %u)", (uint32_t)(d - f->rets), (uint32_t)mem->value);
    return say(e, "(q%u + %u)", d->ordinal, (uint32_t)mem->value);
}

/* C expression of the host pointer, checked; counts the bytes. */
static const char *pointer(struct emitter *e, const struct access *a, const struct ptx_operand *mem,
                           uint32_t bytes, bool load, bool store)
{
    uint32_t counted = bytes * (e->times ? e->times : 1);
    const char *count = say(e, "%s%s", load ? say(e, "lb += %u;", counted) : "",
                            store ? say(e, "sb += %u;", counted) : "");
    if (e->row_pointer) /* checked and counted */
        return e->row_pointer;
    const char *address;
    switch (a->space) {
    case SP_PARAM: {
        const char *p = param_pointer(e, mem, bytes, store);
        if (p)
            return p;
        if (store)
            refuse(e, "a parameter's address in a register");
        if (!e->body->func->entry)
            return say(e, "RT_LOCAL(%s, %uu, %s)", memory_address(e, mem), bytes, where(e));
        return say(e, "RT_PARAM(%s, %u, %s)", memory_address(e, mem), bytes, where(e));
    }
    case SP_SHARED:
        if (in_decl(mem, bytes, bytes) && mem->parts[0].decl->where == IN_SHARED)
            return say(e, "(SB + %s)", memory_address(e, mem));
        return say(e, "RT_SHARED(%s, %uu, %s)", memory_address(e, mem), bytes, where(e));
    case SP_LOCAL:
        return say(e, "RT_LOCAL(%s, %uu, %s)", memory_address(e, mem), bytes, where(e));
    case SP_CONST:
        if (store)
            invalid(e, ".const is read-only");
        address = memory_address(e, mem);
        return say(e, "RT_GLOBAL(%s, %uu, %d, %s);%s", address, bytes, store, where(e), count);
    case SP_GLOBAL:
        address = memory_address(e, mem);
        return say(e, "RT_GLOBAL(%s, %uu, %d, %s);%s", address, bytes, store, where(e), count);
    default:
        break;
    }
    /* Generic: a name stands for its place in its own space. */
    const struct ptx_operand *base = mem->kind == OPND_MEM ? &mem->parts[0] : NULL;
    address = memory_address(e, mem);
    if (base && base->kind == OPND_DECL) {
        if (base->decl->where == IN_SHARED)
            address = say(e, "(SHARED_WINDOW + %s)", address);
        else if (base->decl->where == IN_LOCAL)
            address = say(e, "(LOCAL_WINDOW + %s)", address);
        else if (base->decl->where == IN_PARAM)
            invalid(e, "a parameter needs .param");
    }
    return say(
        e, "({const uint64_t g_ = %s; if (RT_IS_DEVICE(g_)) {%s} RT_GENERIC(g_, %uu, %d, %s);})",
        address, count, bytes, store, where(e));
}

EMITTER(emit_ld)
{
    struct access a = read_access(e);
    if (e->in->op_count == 3 && has_mod(e->in, "L2::cache_hint"))
        ; /* the policy is a hint */
    else if (e->in->op_count != 2)
        invalid(e, "two operands belong here");
    const struct ptx_operand *to = &e->in->ops[0], *mem = &e->in->ops[1];
    if (!memory_type(a.type) || a.release)
        invalid(e, "not a type that can be loaded");
    uint32_t bytes = ptx_types[a.type].bytes * a.lanes;
    if ((to->kind == OPND_VECTOR) != (a.lanes > 1) || (a.lanes > 1 && to->part_count != a.lanes) ||
        bytes > 16)
        invalid(e, "the vector does not fit");
    const char *c = ptx_types[a.type].c;
    const char *load = a.space == SP_PARAM ? "RT_LDP" : a.loose ? "RT_LDV" : "RT_LD";
    put(e, "{const void *p_ = %s;", pointer(e, &a, mem, bytes, true, false));
    if (a.lanes == 1)
        write_bits(e, to, a.type, say(e, "%s(%s, p_)", load, c));
    for (uint32_t i = 0; a.lanes > 1 && i < a.lanes; i++)
        write_bits(e, &to->parts[i], a.type, say(e, "%s(%s, (const %s *)p_ + %u)", load, c, c, i));
    put(e, "%s}", a.acquire ? "__atomic_thread_fence(__ATOMIC_ACQUIRE);" : "");
}

EMITTER(emit_st)
{
    struct access a = read_access(e);
    if (e->in->op_count == 3 && has_mod(e->in, "L2::cache_hint"))
        ;
    else if (e->in->op_count != 2)
        invalid(e, "two operands belong here");
    const struct ptx_operand *mem = &e->in->ops[0], *from = &e->in->ops[1];
    if (!memory_type(a.type) || a.acquire)
        invalid(e, "not a type that can be stored");
    uint32_t bytes = ptx_types[a.type].bytes * a.lanes;
    if ((from->kind == OPND_VECTOR) != (a.lanes > 1) ||
        (a.lanes > 1 && from->part_count != a.lanes) || bytes > 16)
        invalid(e, "the vector does not fit");
    const char *c = ptx_types[a.type].c;
    put(e, "{%svoid *p_ = (void *)%s;", a.release ? "__atomic_thread_fence(__ATOMIC_RELEASE);" : "",
        pointer(e, &a, mem, bytes, false, true));
    for (uint32_t i = 0; i < a.lanes; i++) {
        const char *v = read_bits(e, a.lanes > 1 ? &from->parts[i] : from, a.type);
        if (a.space == SP_PARAM)
            put(e, "{const %s v_ = %s; __builtin_memcpy((%s *)p_ + %u, &v_, sizeof(v_));}", c, v, c,
                i);
        else
            put(e, "%s(%s, (%s *)p_ + %u, %s);", a.loose ? "RT_STV" : "RT_ST", c, c, i, v);
    }
    put(e, "}");
}

/* ----------------------------------------------------------------------------- atomics -------- */

static bool atomic_form(const struct access *a)
{
    static const struct {
        const char *op, *types;
    } forms[] = {{"and", " b32 b64 "},
                 {"or", " b32 b64 "},
                 {"xor", " b32 b64 "},
                 {"cas", " b16 b32 b64 "},
                 {"exch", " b32 b64 "},
                 {"add", " u32 s32 u64 f32 f64 f16 f16x2 bf16 bf16x2 "},
                 {"inc", " u32 "},
                 {"dec", " u32 "},
                 {"min", " u32 s32 u64 s64 "},
                 {"max", " u32 s32 u64 s64 "}};
    char name[16] = " ";
    strcat(strcat(name, ptx_types[a->type].name), " ");
    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++)
        if (strcmp(forms[i].op, a->op) == 0)
            return strstr(forms[i].types, name) != NULL;
    return false;
}

EMITTER(emit_atom)
{
    struct access a = read_access(e);
    bool red = e->in->op[0] == 'r';
    if (!a.op)
        refuse(e, "this operation");
    uint32_t want = (red ? 2u : 3u) + (strcmp(a.op, "cas") == 0);
    bool hinted = has_mod(e->in, "L2::cache_hint") && e->in->op_count == want + 1;
    if (e->in->op_count != want && !hinted)
        invalid(e, "too few or too many operands");
    if (a.space == SP_PARAM || a.space == SP_CONST || a.space == SP_LOCAL)
        invalid(e, "atomics work on .global and .shared");
    if (!atomic_form(&a) || (red && (strcmp(a.op, "cas") == 0 || strcmp(a.op, "exch") == 0)))
        refuse(e, say(e, ".%s on .%s", a.op, ptx_types[a.type].name));
    bool small = ptx_types[a.type].kind == KIND_SMALL;
    if (small != a.noftz)
        invalid(e, small ? ".noftz belongs here" : ".noftz does not belong here");
    const struct ptx_operand *ops = red ? e->in->ops : e->in->ops + 1;
    uint32_t bytes = ptx_types[a.type].bytes;
    const char *name = ptx_types[a.type].name, *c = ptx_types[a.type].c;
    if (ptx_types[a.type].kind == KIND_BITS || strcmp(a.op, "cas") == 0 ||
        strcmp(a.op, "exch") == 0)
        name = bytes == 2 ? "b16" : bytes == 4 ? "b32" : "b64";
    const char *address = pointer(e, &a, &ops[0], bytes, true, true);
    const char *v = read_as(e, &ops[1], a.type);
    enum ptx_type result = a.type;
    if (*name == 'b' && !small) {
        result = bytes == 2 ? TY_B16 : bytes == 4 ? TY_B32 : TY_B64;
        c = ptx_types[result].c;
        v = read_as(e, &ops[1], result);
    }
    put(e, "{void *p_ = %s; const %s v_ = %s;", address, c, v);
    const char *value;
    if (strcmp(a.op, "cas") == 0)
        value = say(e, "rt_atom_cas_%s(p_, v_, %s)", name, read_as(e, &ops[2], result));
    else /* global memory flushes subnormals */
        value =
            say(e, "rt_atom_%s_%s(p_, v_%s)", a.op, name,
                a.type == TY_F32 && strcmp(a.op, "add") == 0 ? a.space == SP_SHARED ? ", 0" : ", 1"
                                                             : "");
    if (red)
        put(e, "(void)%s;", value);
    else
        write_as(e, &e->in->ops[0], result, value);
    put(e, "}");
}

/* --------------------------------------------------------------------------- addresses -------- */

static const char *window(struct emitter *e)
{
    if (has_mod(e->in, "shared") || has_mod(e->in, "shared::cta") ||
        has_mod(e->in, "shared::cluster"))
        return "SHARED_WINDOW";
    if (has_mod(e->in, "local"))
        return "LOCAL_WINDOW";
    if (has_mod(e->in, "param"))
        return "PARAM_WINDOW";
    return "0ull";
}

EMITTER(emit_cvta)
{
    if (type_mod(e->in, 0) != TY_U64)
        refuse(e, "32-bit generic addresses");
    if (e->in->op_count != 2)
        invalid(e, "two operands belong here");
    const char *v = read_as(e, &e->in->ops[1], TY_U64);
    write_as(e, &e->in->ops[0], TY_U64,
             say(e, "%s %s %s", v, has_mod(e->in, "to") ? "-" : "+", window(e)));
}

EMITTER(emit_isspacep)
{
    if (e->in->op_count != 2)
        invalid(e, "two operands belong here");
    const struct ptx_operand *a = &e->in->ops[1];
    if (a->kind == OPND_REG && ptx_types[e->body->regs[a->reg].type].bytes == 4)
        refuse(e, "32-bit generic addresses");
    const char *v = read_as(e, a, TY_U64);
    if (has_mod(e->in, "const")) { /* it lies among global memory */
        const char *any = "0";
        for (uint32_t i = 0; i < e->module->var_count; i++)
            if (e->module->vars[i]->where == IN_CONST)
                any = say(e, "%s || v_ - %s < %" PRIu64 "u", any,
                          address_of(e, e->module->vars[i], 0), e->module->vars[i]->bytes);
        put(e, "{const uint64_t v_ = %s; (void)v_;", v);
        write_as(e, &e->in->ops[0], TY_PRED, say(e, "(%s)", any));
        put(e, "}");
        return;
    }
    write_as(e, &e->in->ops[0], TY_PRED,
             has_mod(e->in, "global") ? say(e, "RT_IS_DEVICE(%s)", v)
                                      : say(e, "WINDOW_OF(%s) == %s", v, window(e)));
}

EMITTER(emit_cp_async)
{
    struct ptx_instr *in = e->in;
    bool hint = has_mod(in, "L2::cache_hint");
    uint32_t n = in->op_count - (hint && in->op_count ? 1u : 0u);
    if (n < 3 || n > 4 || in->ops[2].kind != OPND_INT)
        invalid(e, "[to], [from], size and perhaps the source's size belong here");
    uint64_t bytes = in->ops[2].value;
    if ((bytes != 4 && bytes != 8 && bytes != 16) || (has_mod(in, "cg") && bytes != 16))
        invalid(e, "not a size that can be copied");
    struct access to = {.space = SP_SHARED}, from = {.space = SP_GLOBAL};
    const char *least = say(e, "%uu", (uint32_t)bytes);
    if (n == 4 && in->ops[3].kind == OPND_REG && e->body->regs[in->ops[3].reg].type == TY_PRED)
        least = say(e, "(%s ? 0u : %uu)", read_as(e, &in->ops[3], TY_PRED), (uint32_t)bytes);
    else if (n == 4)
        least = read_as(e, &in->ops[3], TY_U32);
    put(e, "{unsigned char *p_ = (void *)%s; uint32_t n_ = %s; unsigned char t_[16] = {0};",
        pointer(e, &to, &in->ops[0], (uint32_t)bytes, false, false), least);
    put(e,
        "if (n_) {const unsigned char *s_ = %s; if (n_ > %uu) n_ = %uu; while (n_--) t_[n_] = "
        "s_[n_];}",
        pointer(e, &from, &in->ops[1], (uint32_t)bytes, true, false), (uint32_t)bytes,
        (uint32_t)bytes);
    put(e, "__builtin_memcpy(p_, t_, %u);}", (uint32_t)bytes);
}

EMITTER(emit_fence)
{
    put(e, "__atomic_thread_fence(__ATOMIC_SEQ_CST);");
}

/* Hints, and what is complete when it returns: asynchronous copies are made at once. */
EMITTER(emit_nothing)
{
    put(e, ";");
}

/* A cache policy is a hint: any value will do, for nothing reads it. */
EMITTER(emit_policy)
{
    if (!e->in->op_count)
        invalid(e, "a destination belongs here");
    write_as(e, &e->in->ops[0], TY_B64, "(uint64_t)0");
}
