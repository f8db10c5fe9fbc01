/* SPDX-License-Identifier: Apache-2.0
 *
 * Variables of modules: their addresses, what is in them at first.
 *
 * A module's own share one allocation of its context. Managed ones share another, which all
 * contexts and the host reach. Those of a library are one for all its modules, whichever images
 * these are of: the same name is the same variable. They live from the first module to the unload.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "soft/gpu/fault.h"
#include "soft/gpu/managed.h"
#include "soft/gpu/module_library.h"

#define VARIABLE_ALIGN 256u
#define VARIABLE_MOST  (1ull << 40)

static uint64_t round_up(uint64_t value, uint64_t align)
{
    return (value + align - 1) / align * align;
}

static uint64_t align_of(const struct ptx_variable *variable)
{
    return variable->align > VARIABLE_ALIGN ? variable->align : VARIABLE_ALIGN;
}

static CUresult check_bytes(const struct ptx_variable *variable, char *why, size_t why_bytes)
{
    if (variable->bytes <= VARIABLE_MOST)
        return CUDA_SUCCESS;
    snprintf(why, why_bytes, "ptx input: variable %s has %llu bytes", variable->name,
             (unsigned long long)variable->bytes);
    return CUDA_ERROR_INVALID_PTX;
}

/* --------------------------------------------------------------------------------- managed ---- */
CUresult soft_variables_check(const struct soft_image *image, int ordinal, char *why,
                              size_t why_bytes)
{
    for (uint32_t i = 0; i < image->index.variable_count; i++)
        if (image->index.variables[i].managed) {
            if ((soft_fault_lacks(soft_at(ordinal)) & SOFT_DOOR_MANAGED) == 0)
                return CUDA_SUCCESS;
            snprintf(why, why_bytes,
                     "ptx input: %s is managed memory, which the device does not support",
                     image->index.variables[i].name);
            return CUDA_ERROR_NOT_SUPPORTED;
        }
    return CUDA_SUCCESS;
}

static struct soft_managed_variables *managed_of(struct soft_module *module)
{
    return module->library != NULL ? &module->library->managed : &module->managed;
}

static struct soft_managed_variable *find(const struct soft_managed_variables *all,
                                          const char *name)
{
    for (uint32_t i = 0; i < all->count; i++)
        if (strcmp(all->variables[i].name, name) == 0)
            return &all->variables[i];
    return NULL;
}

static CUresult collect(struct soft_managed_variables *all, const struct soft_image *image,
                        char *why, size_t why_bytes)
{
    const struct ptx_index *index = &image->index;
    uint32_t more = 0;
    for (uint32_t i = 0; i < index->variable_count; i++)
        more += index->variables[i].managed != 0;
    if (more == 0)
        return CUDA_SUCCESS;
    struct soft_managed_variable *room =
        realloc(all->variables, ((size_t)all->count + more) * sizeof *room);
    if (room == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    all->variables = room;
    for (uint32_t i = 0; i < index->variable_count; i++) {
        const struct ptx_variable *variable = &index->variables[i];
        if (!variable->managed)
            continue;
        CUresult result = check_bytes(variable, why, why_bytes);
        if (result != CUDA_SUCCESS)
            return result;
        struct soft_managed_variable *known = find(all, variable->name);
        if (known == NULL) {
            known = &all->variables[all->count++];
            *known = (struct soft_managed_variable){.name = variable->name};
        }
        known->visible = known->visible || variable->visible != 0;
        if (variable->bytes > known->bytes)
            known->bytes = variable->bytes;
        if (align_of(variable) > known->align)
            known->align = align_of(variable);
    }
    return CUDA_SUCCESS;
}

static void forget(struct soft_managed_variables *all)
{
    free(all->variables);
    *all = (struct soft_managed_variables){0};
}

static CUresult collect_all(struct soft_module *module, char *why, size_t why_bytes)
{
    struct soft_managed_variables *all = managed_of(module);
    CUresult result = CUDA_SUCCESS;
    if (module->library == NULL)
        return collect(all, module->image, why, why_bytes);
    for (int dev = 0; result == CUDA_SUCCESS && dev < SOFT_MAX_DEVICES; dev++)
        if (module->library->images[dev] != NULL)
            result = collect(all, module->library->images[dev], why, why_bytes);
    return result;
}

/* Makes them, unless the library has them already. */
static CUresult make_managed(struct soft_module *module, char *why, size_t why_bytes)
{
    struct soft_managed_variables *all = managed_of(module);
    uint64_t total = 0;
    if (all->base != 0)
        return CUDA_SUCCESS;
    CUresult result = collect_all(module, why, why_bytes);
    for (uint32_t i = 0; result == CUDA_SUCCESS && i < all->count; i++) {
        total = round_up(total, all->variables[i].align);
        all->variables[i].at = total;
        total += all->variables[i].bytes == 0 ? 1 : all->variables[i].bytes;
    }
    if (result == CUDA_SUCCESS && total > 0) {
        /* a library's outlive every context */
        struct soft_ctx *ctx = module->library != NULL ? NULL : module->ctx;
        result = soft_managed_alloc_inner(ctx, total, &all->base);
        if (result != CUDA_SUCCESS)
            snprintf(why, why_bytes, "no memory for %llu bytes of managed variables",
                     (unsigned long long)total);
    }
    if (result != CUDA_SUCCESS)
        forget(all);
    return result;
}

void soft_managed_variables_free(struct soft_managed_variables *all)
{
    if (all->base != 0)
        soft_managed_free_inner(all->base);
    forget(all);
}

CUresult soft_library_managed(const struct soft_library *library, const char *name,
                              CUdeviceptr *ptr, size_t *bytes)
{
    const struct soft_managed_variable *found = find(&library->managed, name);
    if (found == NULL || !found->visible)
        return CUDA_ERROR_NOT_FOUND;
    if (ptr != NULL)
        *ptr = library->managed.base + found->at;
    if (bytes != NULL)
        *bytes = found->bytes;
    return CUDA_SUCCESS;
}

bool soft_library_has_managed(const struct soft_library *library, const char *name)
{
    for (int dev = 0; dev < SOFT_MAX_DEVICES; dev++) {
        const struct soft_image *image = library->images[dev];
        for (uint32_t i = 0; image != NULL && i < image->index.variable_count; i++) {
            const struct ptx_variable *variable = &image->index.variables[i];
            if (variable->managed && variable->visible && strcmp(variable->name, name) == 0)
                return true;
        }
    }
    return false;
}

/* --------------------------------------------------------------------------- of the module ---- */
static CUresult write_one(struct soft_module *module, uint32_t at)
{
    const struct ptx_index *index = &module->image->index;
    const struct ptx_variable *variable = &index->variables[at];
    unsigned char *host = soft_mem_host(module->ctx, module->global_addrs[at], variable->bytes);
    if (host == NULL)
        return CUDA_ERROR_UNKNOWN;
    if (!variable->managed) /* those are fresh */
        memset(host, 0, variable->bytes);
    if (variable->init != NULL) {
        uint64_t bytes = variable->init_bytes;
        memcpy(host, variable->init, bytes < variable->bytes ? bytes : variable->bytes);
    }
    for (uint32_t r = 0; r < variable->reloc_count; r++) {
        uint64_t offset = variable->relocs[r].offset;
        uint32_t target = variable->relocs[r].variable;
        if (target >= index->variable_count || variable->bytes < 8 || offset > variable->bytes - 8)
            return CUDA_ERROR_INVALID_PTX;
        uint64_t address = module->global_addrs[target] + variable->relocs[r].addend;
        memcpy(host + offset, &address, sizeof address);
    }
    return CUDA_SUCCESS;
}

/* A managed variable of a library is written by its first module: later ones find what the program
 * has made of it. */
static CUresult write_all(struct soft_module *module)
{
    const struct ptx_index *index = &module->image->index;
    CUresult result = CUDA_SUCCESS;
    for (uint32_t i = 0; result == CUDA_SUCCESS && i < index->variable_count; i++) {
        const struct ptx_variable *variable = &index->variables[i];
        struct soft_managed_variable *managed =
            variable->managed ? find(managed_of(module), variable->name) : NULL;
        if (variable->bytes == 0 || (managed != NULL && managed->written))
            continue;
        result = write_one(module, i);
        if (managed != NULL)
            managed->written = result == CUDA_SUCCESS;
    }
    return result;
}

/* Offsets into the module's own allocation, until its base is known. */
static CUresult lay_out(struct soft_module *module, uint64_t *total, char *why, size_t why_bytes)
{
    const struct ptx_index *index = &module->image->index;
    uint64_t constant = 0;
    *total = 0;
    for (uint32_t i = 0; i < index->variable_count; i++) {
        const struct ptx_variable *variable = &index->variables[i];
        CUresult result = check_bytes(variable, why, why_bytes);
        if (result != CUDA_SUCCESS)
            return result;
        if (variable->space == PTX_CONST)
            constant += variable->bytes;
        if (variable->managed)
            continue;
        *total = round_up(*total, align_of(variable));
        module->global_addrs[i] = *total;
        *total += variable->bytes == 0 ? 1 : variable->bytes;
    }
    if (constant > 65536) {
        snprintf(why, why_bytes, "ptx input: %llu bytes of constants; the limit is 65536",
                 (unsigned long long)constant);
        return CUDA_ERROR_INVALID_PTX;
    }
    return CUDA_SUCCESS;
}

CUresult soft_variables_place(struct soft_module *module, char *why, size_t why_bytes)
{
    const struct ptx_index *index = &module->image->index;
    uint64_t total = 0;
    CUresult result = lay_out(module, &total, why, why_bytes);
    if (result == CUDA_SUCCESS && total > 0) {
        result = soft_mem_alloc_inner(module->ctx, total, &module->globals);
        if (result != CUDA_SUCCESS)
            snprintf(why, why_bytes, "no device memory for %llu bytes of module variables",
                     (unsigned long long)total);
    }
    if (result == CUDA_SUCCESS)
        result = make_managed(module, why, why_bytes);
    if (result != CUDA_SUCCESS)
        return result;
    const struct soft_managed_variables *managed = managed_of(module);
    for (uint32_t i = 0; i < index->variable_count; i++)
        module->global_addrs[i] = index->variables[i].managed
                                      ? managed->base + find(managed, index->variables[i].name)->at
                                      : module->globals + module->global_addrs[i];
    return write_all(module);
}

CUresult soft_module_global(const struct soft_module *module, const char *name, CUdeviceptr *ptr,
                            size_t *bytes)
{
    const struct ptx_index *index = &module->image->index;
    for (uint32_t i = 0; i < index->variable_count; i++) {
        if (!index->variables[i].visible || strcmp(index->variables[i].name, name) != 0)
            continue;
        if (ptr != NULL)
            *ptr = module->global_addrs[i];
        if (bytes != NULL)
            *bytes = index->variables[i].bytes;
        return CUDA_SUCCESS;
    }
    return CUDA_ERROR_NOT_FOUND;
}
