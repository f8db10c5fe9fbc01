/* SPDX-License-Identifier: Apache-2.0
 *
 * A whole kernel as C: its functions, its entry, the prelude round them.
 */
#include <inttypes.h>
#include <string.h>

#include "soft/ptxc/emit.h"
#include "soft/ptxc/prelude.h"
#include "soft/ptxc/ptx_rt.h"
#include "soft/ptxc/rows.h"

enum { PARAMETERS_COPIED = 512 }; /* bytes; more would cost a block more than it gains */

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
    for (uint32_t i = 0; e->rows && i < body->code_count; i++)
        starts[i] |= e->rows->entries[i];
    return starts;
}

static void emit_registers(struct emitter *e)
{
    struct ptx_body *body = e->body;
    uint32_t in_line = 0;
    for (uint32_t i = 0; i < body->reg_count; i++) {
        if (!body->regs[i].used)
            continue;
        put(e, "%s r%u = 0;%s", register_c(&body->regs[i]), i, ++in_line % 6 ? " " : "\n");
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

/* Only what calls nothing is put in its callers' place: gcc 12 at -O2 makes 2^n copies of a chain
 * of n small functions that call the next one twice. */
static bool calls_others(const struct ptx_func *func)
{
    for (uint32_t i = 0; i < func->ref_count; i++)
        if (func->refs[i]->func)
            return true;
    return false;
}

static void emit_function(struct emitter *e, struct ptx_body *body)
{
    e->body = body;
    if (calls_others(body->func))
        put(e, "__attribute__((noinline)) ");
    signature(e, body->func);
    put(e, "\n{\nRT_LOCALS;\nuint32_t frame = 0; (void)frame;\n");
    if (e->recursive)
        put(e, "RT_STACK_CHECK(%s);\n", frame_where(e));
    put(e, "const uint32_t local_before = T->local_used;\n");
    if (body->local_bytes)
        put(e, "frame = rt_frame(T, %" PRIu64 "u, %s);\n", body->local_bytes, frame_where(e));
    for (uint32_t i = 0; i < body->func->param_count; i++)
        if (body->func->params[i].taken)
            put(e, "__builtin_memcpy(T->local + frame + %uu, a%u, %" PRIu64 "u);\n",
                body->func->params[i].ordinal, i, body->func->params[i].bytes);
    emit_registers(e);
    emit_code(e, block_starts(e));
    put(e, "done: T->local_used = local_before; RT_FLUSH;\n}\n");
}

/* Of the kernel's packed parameters. */
static uint32_t parameter_bytes(const struct emitter *e)
{
    uint64_t at = 0;
    for (uint32_t i = 0; i < e->kernel->param_count; i++) {
        const struct ptx_decl *p = &e->kernel->params[i];
        at = ((at + p->align - 1) & ~((uint64_t)p->align - 1)) + p->bytes;
    }
    return (uint32_t)at;
}

/* One thread's text and a row's, and what chooses. */
static void emit_entry_rows(struct emitter *e, struct ptx_body *body)
{
    bool *starts = block_starts(e);
    rows_emit_state(e, e->rows);
    put(e, "static __attribute__((noinline)) void rt_alone(struct thread *const T, uint32_t X0, "
           "uint32_t X1, const uint32_t TID1, const uint32_t TID2, uint32_t from, "
           "const struct rt_rows *in, uint32_t lane)\n{\nRT_LOCALS;\n"
           "const uint32_t frame = 0; (void)frame;\n"
           "for (uint32_t TID0 = X0; TID0 < X1; TID0++) {\n");
    emit_registers(e);
    rows_emit_resume(e, e->rows);
    emit_code(e, starts);
    put(e, "done:;\n}\nRT_FLUSH;\n}\n"
           "static void rt_kernel(struct thread *const T)\n{\n");
    if (e->fibers) {
        put(e, "if (T->at_once != 16) {\nrt_alone(T, T->tid[0], T->tid[0] + 1, T->tid[1], "
               "T->tid[2], T->entry, T->rows, T->first ? (uint32_t)(T - T->first) : 0);\n"
               "return;\n}\nRT_LOCALS;\nRT_ROW_LOCALS;\nconst uint32_t TID0 = T->tid[0], TID1 = "
               "T->tid[1], TID2 = T->tid[2], frame = 0; (void)TID1, (void)TID2, (void)frame;\n");
        rows_emit(e, e->rows, starts);
        put(e, "done: RT_FLUSH;\n}\n");
        return;
    }
    put(e, "RT_LOCALS;\nRT_ROW_LOCALS;\nconst uint32_t frame = 0; (void)frame;\n");
    /* No store reaches what only this function has: so what parameters decide for all rows alike is
     * computed before them. */
    uint32_t bytes = parameter_bytes(e);
    if (bytes && bytes <= PARAMETERS_COPIED)
        put(e,
            "unsigned char pd_[%u];\n__builtin_memcpy(pd_, PB, %u);\n#undef PD\n"
            "#define PD pd_\n",
            bytes, bytes);
    put(e, "for (uint32_t TID2 = 0; TID2 < BD2; TID2++)\n"
           "for (uint32_t TID1 = 0; TID1 < BD1; TID1++) {\nuint32_t TID0 = 0;\n"
           "for (; TID0 + 16 <= BD0; TID0 += 16) {\n");
    rows_emit(e, e->rows, starts);
    put(e, "done:;\n}\nif (TID0 < BD0) {\nRT_FLUSH;\nrt_alone(T, TID0, BD0, TID1, TID2, 0, NULL, "
           "0);\ndue = RT_DUE;\n}\n}\nRT_FLUSH;\n}\n#undef PD\n#define PD PB\n");
}

static void emit_entry(struct emitter *e, struct ptx_body *body)
{
    e->body = body;
    if (e->rows) {
        emit_entry_rows(e, body);
        return;
    }
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
    if (body->local_bytes || e->allocates)
        put(e, "T->local_used = 0; frame = rt_frame(T, %" PRIu64 "u, %s);\n", body->local_bytes,
            frame_where(e));
    emit_registers(e);
    emit_code(e, block_starts(e));
    put(e, "done:; RT_NEXT_THREAD;\n}\nRT_FLUSH;\n}\n");
}

/* ------------------------------------------------------------------------------ kernel -------- */

static void survey(struct emitter *e)
{
    for (uint32_t f = 0; f < e->layout.func_count; f++)
        survey_body(e, e->bodies[f]);
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
        (e->barrier ? PTX_KERNEL_HAS_BARRIER : 0) | (e->grid_sync ? PTX_KERNEL_GRID_SYNC : 0) |
            (e->quick ? PTX_KERNEL_QUICK : 0) | (e->heap ? PTX_KERNEL_HEAP : 0) |
            (e->waits ? PTX_KERNEL_WAITS : 0),
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
        if (!f->has_body) /* its call decides: some of the device's runtime are known */
            f->body = (struct ptx_lexer){.at = "", .end = "", .line = f->line};
        e->bodies[i] = body_read(e->module, f);
    }
    find_cycles(e);
    survey(e);
    if (e->recursive || e->deep_exit || (e->deep_watch && e->loop_calls))
        e->fibers = true;
    uint32_t statements = 0;
    for (uint32_t i = 0; i < e->layout.func_count; i++)
        statements += e->bodies[i]->code_count;
    struct rows rows;
    e->quick &= statements <= PTXC_BIG; /* the others have but one form */
    if (statements <= PTXC_BIG && !e->quick && rows_plan(e, e->bodies[0], &rows))
        e->rows = &rows;
    put(e, "#define RT_ROWS %d\n#define RT_QUICK %d\n", e->rows != NULL, e->quick);
    put(e, "#define RT_BIG %d\n", (statements > PTXC_BIG) + (statements > PTXC_HUGE));
    put(e, "#define RT_FIBERS %d\n#define RT_RECURSIVE %d\n#define RT_WARPS %d\n", e->fibers,
        e->recursive, e->warps);
    put(e, "#define RT_LOCAL_BYTES %" PRIu64 "u\n",
        (e->layout.local_bytes + 15 + (e->recursive || e->allocates ? 16384u : 0u)) &
            ~(uint64_t)15);
    put(e, "#define RT_NEXT_THREAD %s\n",
        e->sleeps ? "(T->in = T->sleep > T->in ? T->sleep : T->in, T->sleep = 0)" : "(void)0");
    put(e, "%s%s%s%s%s%s%s", prelude_abi, prelude_switch, prelude_core, prelude_arith,
        prelude_float, prelude_pack, prelude_atomic);
    if (e->eights)
        put(e, "%s", prelude_eights);
    if (e->meets)
        put(e, "#define RT_CLUSTER\n");
    if (e->fibers)
        put(e, "%s", prelude_fiber);
    if (e->meets)
        put(e, "%s", prelude_meet);
    if (e->heap || e->grid_barrier)
        put(e, "%s", prelude_runtime);
    if (e->rows)
        put(e, "%s", prelude_rows);
    put(e, "#define PD PB\n#define LIN T->lin\n#define TID0 T->tid[0]\n#define TID1 "
           "T->tid[1]\n#define TID2 "
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
    e->rows = NULL;
}
