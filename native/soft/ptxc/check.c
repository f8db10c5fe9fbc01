/* SPDX-License-Identifier: Apache-2.0 */
#include "soft/ptxc/check.h"

#include <stdio.h>

#include "soft/ptxc/emit.h"

/* In memory of its own, freed at once: bodies are large. Returns PTXC_*. */
static int check_function(struct ptx_module *module, struct ptx_func *func, char *why, size_t bytes)
{
    struct job *outer = module->job, *job = job_new(outer, 1, sizeof(*job));
    module_scan(module, func);
    module->job = job;
    if (setjmp(job->out) == 0) {
        struct emitter *e = job_new(job, 1, sizeof(*e));
        e->job = job;
        e->module = module;
        e->kernel = func;
        survey_body(e, body_read(module, func));
    }
    module->job = outer;
    job_free(job->chunks);
    snprintf(why, bytes, "%s", job->why);
    return job->code;
}

void check_module(struct ptx_module *module)
{
    char why[400];
    for (struct ptx_func *f = module->funcs; f; f = f->next) {
        int code = f->has_body ? check_function(module, f, why, sizeof(why)) : PTXC_OK;
        if (code == PTXC_INVALID || code == PTXC_NO_MEMORY)
            job_fail(module->job, code, "%s", why);
    }
}
