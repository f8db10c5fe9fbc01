/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "soft/ptxc/check.h"
#include "soft/ptxc/module.h"
#include "soft/ptxc/ptx_index.h"

/* Virtual registers are written once each, so their number says little about how many live at the
 * same time. An estimate in the range real compilers end in: it must not make launches fail that
 * hardware would run. */
static uint32_t estimate_registers(const struct ptx_func *func, uint32_t declared)
{
    uint32_t n = 10 + declared / 6, cap = 64;
    const uint32_t *block = func->reqntid[0] ? func->reqntid : func->maxntid;
    uint64_t threads = (uint64_t)block[0] * block[1] * block[2];
    if (threads && threads <= 1024) {
        cap = (uint32_t)(65536 / threads);
        cap = cap > 255 ? 255 : cap & ~7u;
    }
    if (func->maxnreg && func->maxnreg < cap)
        cap = func->maxnreg;
    n = (n + 7) & ~7u;
    return n > cap ? cap : n;
}

static void index_entry(struct ptx_module *module, struct ptx_func *func, struct ptx_entry *entry)
{
    struct module_layout layout;
    module_layout(module, func, &layout);
    uint64_t at = 0;
    uint32_t registers = 0;
    entry->name = job_text(module->job, func->name, strlen(func->name));
    entry->params = job_new(module->job, func->param_count, sizeof(*entry->params));
    entry->param_count = func->param_count;
    for (uint32_t i = 0; i < func->param_count; i++) {
        const struct ptx_decl *p = &func->params[i];
        at = (at + p->align - 1) & ~((uint64_t)p->align - 1);
        if (p->flexible || at + p->bytes > 32764)
            job_fail(module->job, PTXC_INVALID,
                     "line %u: parameters of `%s`: more than 32764 bytes", p->line, func->name);
        entry->params[i] = (struct ptx_param){
            .offset = (uint32_t)at, .bytes = (uint32_t)p->bytes, .align = p->align};
        at += p->bytes;
    }
    entry->params_bytes = (uint32_t)at;
    memcpy(entry->reqntid, func->reqntid, sizeof(entry->reqntid));
    memcpy(entry->maxntid, func->maxntid, sizeof(entry->maxntid));
    entry->minnctapersm = func->minnctapersm;
    entry->static_shared_bytes = (uint32_t)layout.shared_bytes;
    entry->local_bytes = (uint32_t)layout.local_bytes;
    for (uint32_t i = 0; i < layout.func_count; i++) {
        if (layout.funcs[i]->registers > registers)
            registers = layout.funcs[i]->registers;
        if (layout.funcs[i]->has_body)
            entry->text_bytes += (uint64_t)(layout.funcs[i]->body.end - layout.funcs[i]->body.at);
    }
    entry->registers = estimate_registers(func, registers);
}

static void index_variable(struct ptx_module *module, const struct ptx_decl *var,
                           struct ptx_variable *out)
{
    out->name = job_text(module->job, var->name, strlen(var->name));
    out->space = var->where == IN_CONST ? PTX_CONST : PTX_GLOBAL;
    out->bytes = var->bytes;
    out->align = var->align;
    out->init = var->init;
    out->init_bytes = var->init_bytes;
    out->visible = var->visible;
    out->managed = var->managed;
    out->relocs = job_new(module->job, var->reloc_count, sizeof(*out->relocs));
    out->reloc_count = var->reloc_count;
    for (uint32_t i = 0; i < var->reloc_count; i++) {
        out->relocs[i].offset = var->relocs[i].offset;
        out->relocs[i].variable = var->relocs[i].symbol->var->ordinal;
        out->relocs[i].addend = var->relocs[i].addend;
    }
}

static void index_build(struct job *job, const char *text, size_t bytes, bool object,
                        struct ptx_index *out)
{
    struct ptx_module *module =
        object ? module_read_object(job, text, bytes) : module_read(job, text, bytes);
    uint32_t n = 0, variables = 0;
    out->ptx_major = module->major;
    out->ptx_minor = module->minor;
    out->target_sm = module->target;
    out->target_kind = module->target_kind;
    out->address_size = module->address_bytes ? module->address_bytes * 8 : 32;
    if (out->address_size != 64)
        job_fail(job, PTXC_INVALID, "line 1: .address_size %u; only 64 runs", out->address_size);
    if (bytes <= CHECK_MAX_BYTES)
        check_module(module);
    for (struct ptx_func *f = module->funcs; f; f = f->next)
        n += f->entry && f->has_body;
    for (uint32_t i = 0; i < module->var_count; i++)
        variables += module->vars[i]->where == IN_GLOBAL || module->vars[i]->where == IN_CONST;
    out->entries = job_new(job, n, sizeof(*out->entries));
    out->variables = job_new(job, variables, sizeof(*out->variables));
    for (struct ptx_func *f = module->funcs; f; f = f->next)
        if (f->entry && f->has_body)
            index_entry(module, f, &out->entries[out->entry_count++]);
    for (uint32_t i = 0; i < module->var_count; i++)
        if (module->vars[i]->where == IN_GLOBAL || module->vars[i]->where == IN_CONST)
            index_variable(module, module->vars[i], &out->variables[out->variable_count++]);
}

static int index_read(const char *text, size_t bytes, bool object, struct ptx_index *out, char *why,
                      size_t why_bytes)
{
    struct job job = {0};
    memset(out, 0, sizeof(*out));
    if (why_bytes)
        why[0] = 0;
    if (setjmp(job.out)) {
        job_free(job.chunks);
        memset(out, 0, sizeof(*out));
        if (why_bytes)
            snprintf(why, why_bytes, "%s", job.why);
        return job.code == PTXC_NO_MEMORY ? -ENOMEM : -EINVAL;
    }
    index_build(&job, text, bytes, object, out);
    out->memory = job.chunks;
    return 0;
}

int ptx_index_read(const char *text, size_t bytes, struct ptx_index *out, char *why,
                   size_t why_bytes)
{
    return index_read(text, bytes, false, out, why, why_bytes);
}

int ptx_index_object(const char *text, size_t bytes, struct ptx_index *out, char *why,
                     size_t why_bytes)
{
    return index_read(text, bytes, true, out, why, why_bytes);
}

void ptx_index_free(struct ptx_index *index)
{
    job_free(index->memory);
    memset(index, 0, sizeof(*index));
}
