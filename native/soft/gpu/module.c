/* SPDX-License-Identifier: Apache-2.0
 *
 * Modules: an image in a context.
 *
 * Contract: a module's record lives while commands refer to it; its variables go at unload, after
 * the context is idle, or with the context.
 */
#include "soft/gpu/module.h"
#include "soft/gpu/context.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CODE_ALIGN 256u

pthread_mutex_t soft_module_lock = PTHREAD_MUTEX_INITIALIZER;
static struct soft_module *modules; /* all live ones; guarded by soft_module_lock */

struct watched { /* a context that tells us when it goes */
    struct soft_ctx *ctx;
    uint64_t id;
    struct watched *next;
};
static struct watched *watched; /* guarded by soft_module_lock */

void soft_module_ref(struct soft_module *module)
{
    atomic_fetch_add_explicit(&module->refs, 1, memory_order_relaxed);
}

void soft_module_unref(struct soft_module *module)
{
    if (atomic_fetch_sub_explicit(&module->refs, 1, memory_order_acq_rel) != 1)
        return;
    if (module->functions != NULL)
        for (uint32_t i = 0; i < module->image->index.entry_count; i++)
            free(module->functions[i].params);
    free(module->functions);
    free(module->global_addrs);
    soft_image_unref(module->image);
    free(module);
}

static uint64_t round_up(uint64_t value, uint64_t align)
{
    return (value + align - 1) / align * align;
}

static void context_goes(void *arg)
{
    struct watched *gone = arg;
    pthread_mutex_lock(&soft_module_lock);
    for (struct watched **link = &watched; *link != NULL; link = &(*link)->next)
        if (*link == gone) {
            *link = gone->next;
            break;
        }
    struct soft_module *module;
    do {
        for (module = modules; module != NULL; module = module->all_next)
            if (module->ctx == gone->ctx && module->ctx_id == gone->id)
                break;
        if (module != NULL) {
            module->globals = 0; /* memory goes with the context */
            module->managed.base = 0;
            for (uint32_t i = 0; i < module->image->index.entry_count; i++)
                module->functions[i].code_memory = 0;
            soft_module_destroy(module);
        }
    } while (module != NULL);
    pthread_mutex_unlock(&soft_module_lock);
    free(gone);
}

static CUresult watch_context(struct soft_ctx *ctx)
{
    for (struct watched *w = watched; w != NULL; w = w->next)
        if (w->ctx == ctx && w->id == soft_ctx_id(ctx))
            return CUDA_SUCCESS;
    struct watched *w = calloc(1, sizeof *w);
    if (w == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *w = (struct watched){ctx, soft_ctx_id(ctx), watched};
    watched = w;
    soft_ctx_on_destroy(ctx, context_goes, w);
    return CUDA_SUCCESS;
}

CUresult soft_module_create(struct soft_ctx *ctx, struct soft_image *image,
                            struct soft_library *library, struct soft_module **out, char *why,
                            size_t why_bytes)
{
    const struct ptx_index *index = &image->index;
    int cc = soft_profile_cc(soft_ctx_profile(ctx));
    if (!soft_target_fits(index, cc, why, why_bytes))
        return CUDA_ERROR_INVALID_PTX;
    CUresult result = soft_variables_check(image, soft_ctx_ordinal(ctx), why, why_bytes);
    if (result != CUDA_SUCCESS)
        return result;
    struct soft_module *module = calloc(1, sizeof *module);
    if (module == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    soft_fifo_flush(ctx);
    soft_image_ref(image);
    module->refs = 1;
    module->ctx = ctx;
    module->ctx_id = soft_ctx_id(ctx);
    module->image = image;
    module->library = library;
    module->functions = calloc(index->entry_count + 1, sizeof *module->functions);
    module->global_addrs = calloc(index->variable_count + 1, sizeof *module->global_addrs);
    result = CUDA_ERROR_OUT_OF_MEMORY;
    if (module->functions == NULL || module->global_addrs == NULL)
        goto fail;
    result = soft_variables_place(module, why, why_bytes);
    if (result == CUDA_SUCCESS)
        result = watch_context(ctx);
    if (result == CUDA_SUCCESS && soft_handle_add(SOFT_H_MODULE, module) != 0)
        result = CUDA_ERROR_OUT_OF_MEMORY;
    for (uint32_t i = 0; result == CUDA_SUCCESS && i < index->entry_count; i++) {
        struct soft_function *function = &module->functions[i];
        function->module = module;
        function->kernel = &image->kernels[i];
        function->carveout = -1;
        function->max_dynamic_shared = -1;
        if (soft_handle_add(SOFT_H_FUNCTION, function) != 0)
            result = CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (result != CUDA_SUCCESS)
        goto fail;
    module->all_next = modules;
    modules = module;
    *out = module;
    return CUDA_SUCCESS;
fail:
    soft_module_destroy(module);
    return result;
}

/* What the code of a kernel would take on a device: machine code is about half of its PTX. */
static uint64_t code_bytes(const struct ptx_entry *entry)
{
    return round_up(entry->text_bytes / 2 + 1, CODE_ALIGN);
}

CUresult soft_function_load(struct soft_function *function, const struct ptx_kernel **code,
                            char *why, size_t why_bytes)
{
    *code = atomic_load_explicit(&function->code, memory_order_acquire);
    if (*code != NULL)
        return CUDA_SUCCESS;
    const struct ptx_kernel *compiled = NULL;
    CUresult result = soft_kernel_code(function->kernel, &compiled, why, why_bytes);
    if (result != CUDA_SUCCESS)
        return result;
    uint64_t bytes = code_bytes(function->kernel->entry);
    pthread_mutex_lock(&soft_module_lock);
    if (function->code_memory == 0)
        result = soft_mem_alloc_inner(function->module->ctx, bytes, &function->code_memory);
    pthread_mutex_unlock(&soft_module_lock);
    if (result != CUDA_SUCCESS) {
        if (why != NULL)
            snprintf(why, why_bytes, "no device memory for the code of %s: %llu bytes",
                     function->kernel->entry->name, (unsigned long long)bytes);
        return result;
    }
    atomic_store_explicit(&function->code, compiled, memory_order_release);
    *code = compiled;
    return CUDA_SUCCESS;
}

CUresult soft_module_load_all(struct soft_module *module, char *why, size_t why_bytes)
{
    CUresult result = CUDA_SUCCESS;
    const struct ptx_kernel *code;
    for (uint32_t i = 0; result == CUDA_SUCCESS && i < module->image->index.entry_count; i++)
        result = soft_function_load(&module->functions[i], &code, why, why_bytes);
    return result;
}

static void function_unload(struct soft_function *function)
{
    soft_handle_remove(SOFT_H_FUNCTION, function);
    if (function->code_memory != 0)
        soft_mem_free(function->module->ctx, function->code_memory);
    function->code_memory = 0;
}

void soft_module_destroy(struct soft_module *module)
{
    soft_fifo_flush(module->ctx);
    for (struct soft_module **link = &modules; *link != NULL; link = &(*link)->all_next)
        if (*link == module) {
            *link = module->all_next;
            break;
        }
    soft_handle_remove(SOFT_H_MODULE, module);
    for (uint32_t i = 0; module->functions != NULL && i < module->image->index.entry_count; i++)
        function_unload(&module->functions[i]);
    if (module->library != NULL)
        soft_library_forget(module->library, module);
    if (module->globals != 0)
        soft_mem_free(module->ctx, module->globals);
    module->globals = 0;
    soft_managed_variables_free(&module->managed);
    soft_module_unref(module);
}

CUresult soft_module_entry(const struct soft_image *image, const char *name, uint32_t *at)
{
    for (uint32_t i = 0; i < image->index.entry_count; i++)
        if (strcmp(image->index.entries[i].name, name) == 0) {
            *at = i;
            return CUDA_SUCCESS;
        }
    return CUDA_ERROR_NOT_FOUND;
}
