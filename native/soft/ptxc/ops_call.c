/* SPDX-License-Identifier: Apache-2.0
 *
 * Calls: of the module's functions, by name or by address, and of the device's runtime.
 */
#include <inttypes.h>
#include <string.h>

#include "soft/ptxc/emit.h"

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

static const char *argument(struct emitter *e, const struct call *c, uint32_t i, const char *type)
{
    return say(e, "RT_LDP(%s, %s)", type, param_of_call(e, &c->args->parts[i]));
}

static void put_result(struct emitter *e, const struct call *c, const char *type, const char *value)
{
    put(e, "{const %s v_ = %s; __builtin_memcpy(%s, &v_, sizeof(v_));}", type, value,
        param_of_call(e, &c->rets->parts[0]));
}

static void call_vprintf(struct emitter *e, const struct call *c)
{
    put_result(e, c, "uint32_t",
               say(e, "rt_vprintf(T, %s, %s, %s)", argument(e, c, 0, "uint64_t"),
                   argument(e, c, 1, "uint64_t"), where(e)));
}

static void call_assertfail(struct emitter *e, const struct call *c)
{
    put(e, "RT_FLUSH; rt_assert(T, %s, %s, %s, %s, %s);", argument(e, c, 0, "uint64_t"),
        argument(e, c, 1, "uint64_t"), argument(e, c, 2, "uint32_t"), argument(e, c, 3, "uint64_t"),
        where(e));
}

static void call_malloc(struct emitter *e, const struct call *c)
{
    e->heap = true;
    put_result(e, c, "uint64_t", say(e, "rt_malloc(T, %s)", argument(e, c, 0, "uint64_t")));
}

static void call_free(struct emitter *e, const struct call *c)
{
    e->heap = true;
    put(e, "rt_free(T, %s, %s);", argument(e, c, 0, "uint64_t"), where(e));
}

static void call_grid_handle(struct emitter *e, const struct call *c)
{
    e->grid_barrier = true;
    put_result(e, c, "uint64_t", say(e, "rt_grid_handle(T, %s)", argument(e, c, 0, "uint32_t")));
}

/* Flags (the second argument) are reserved and 0. */
static void call_grid_sync(struct emitter *e, const struct call *c)
{
    e->fibers = e->barrier = e->grid_sync = e->grid_barrier = true;
    put_result(e, c, "uint32_t",
               say(e, "rt_grid_sync(T, %s, %s)", argument(e, c, 0, "uint64_t"), where(e)));
}

/* Functions that the software GPU has itself: how many results and arguments, and their bytes. */
static const struct external {
    const char *name;
    void (*emit)(struct emitter *e, const struct call *c);
    uint32_t ret_bytes; /* 0: none */
    uint32_t arg_count, arg_bytes[5];
} externals[] = {
    {"vprintf", call_vprintf, 4, 2, {8, 8}},
    {"__assertfail", call_assertfail, 0, 5, {8, 8, 4, 8, 8}},
    {"malloc", call_malloc, 8, 1, {8}},
    {"free", call_free, 0, 1, {8}},
    {"cudaCGGetIntrinsicHandle", call_grid_handle, 8, 1, {4}},
    {"cudaCGSynchronize", call_grid_sync, 4, 2, {8, 4}},
};

static bool is_external(const struct external *x, const struct call *c, const struct ptx_func *f)
{
    if (strcmp(f->name, x->name) != 0 || !shape_matches(c, f) || f->param_count != x->arg_count ||
        f->ret_count != (x->ret_bytes != 0) || (x->ret_bytes && f->rets[0].bytes != x->ret_bytes))
        return false;
    for (uint32_t i = 0; i < x->arg_count; i++)
        if (f->params[i].bytes != x->arg_bytes[i])
            return false;
    return true;
}

static void call_external(struct emitter *e, const struct call *c, const struct ptx_func *f)
{
    for (size_t i = 0; i < sizeof(externals) / sizeof(externals[0]); i++)
        if (is_external(&externals[i], c, f)) {
            externals[i].emit(e, c);
            return;
        }
    if (e->module->object)
        refuse(e, say(e, "function %s is not linked yet", f->name));
    else if (is_device_runtime(f->name))
        refuse(e, say(e, "function %s of the device runtime", f->name));
    else
        invalid(e, say(e, "function %s is defined nowhere", f->name));
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
