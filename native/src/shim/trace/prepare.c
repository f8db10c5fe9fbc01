/* SPDX-License-Identifier: Apache-2.0
 *
 * Slots that the wire has in another form: kernels' parameters as the kernel reads them, images by
 * their hash, and host functions, of which nothing is said. Functions are asked once for how they
 * take their parameters and for their name, which goes into the trace before their first launch.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "generated/shim_symbols.h"
#include "soft/ptxc/sha256.h"
#include "src/shim/remote/prepared.h"
#include "src/shim/trace/state.h"

#define PLACES      4096u /* of the table; a full one begins anew */
#define PARAMS_MOST 1024u
#define HASH_MOST   (256ull << 20) /* of an image: a larger one is told as bare slots */

#define NEXT(symbol) ((harp_fn_##symbol)harp_trace_next[HARP_SYM_##symbol])

struct function {
    uint64_t handle; /* 0: free */
    bool known;      /* the driver has said how it takes its parameters */
    bool kernel;     /* a CUkernel */
    uint64_t told;   /* segments that had begun when its name was written */
    uint32_t count, bytes;
    struct {
        uint32_t offset, bytes;
    } *param;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards the two below */
static struct function *functions[PLACES];
static unsigned held;

/* --- functions -------------------------------------------------------------------------------- */

static CUresult param_info(uint64_t f, bool kernel, uint32_t i, size_t *offset, size_t *bytes)
{
    return kernel ? NEXT(cuKernelGetParamInfo)((CUkernel)f, i, offset, bytes)
                  : NEXT(cuFuncGetParamInfo)((CUfunction)f, i, offset, bytes);
}

static bool ask(struct function *out, bool kernel)
{
    size_t offset, bytes;
    for (uint32_t i = 0; i <= PARAMS_MOST; i++) {
        CUresult r = param_info(out->handle, kernel, i, &offset, &bytes);
        if (r == CUDA_ERROR_INVALID_VALUE) /* there is no such one */
            return true;
        if (r != CUDA_SUCCESS || i == PARAMS_MOST || offset > HARP_TRACE_PARAMS_MOST ||
            bytes > HARP_TRACE_PARAMS_MOST - offset)
            break;
        void *more = realloc(out->param, (i + 1) * sizeof *out->param);
        if (more == NULL)
            break;
        out->param = more;
        out->param[i].offset = (uint32_t)offset;
        out->param[i].bytes = (uint32_t)bytes;
        out->count = i + 1;
        out->bytes = (uint32_t)(offset + bytes);
    }
    return false;
}

static void tell_name(uint64_t handle, bool kernel)
{
    const char *name = NULL;
    CUresult r = kernel ? NEXT(cuKernelGetName)(&name, (CUkernel)handle)
                        : NEXT(cuFuncGetName)(&name, (CUfunction)handle);
    if (r != CUDA_SUCCESS || name == NULL)
        return;
    struct harp_trace_name record = {.handle = handle,
                                     .handle_kind =
                                         kernel ? HARP_HANDLE_CUkernel : HARP_HANDLE_CUfunction,
                                     .bytes = (uint32_t)strnlen(name, 4096)};
    struct harp_trace_part parts[] = {{&record, sizeof record}, {name, record.bytes}};
    harp_trace_write(HARP_TRACE_NAME, 0, parts, 2);
}

/* Whether its name may soon be gone from a file that wraps. */
static bool fades(const struct function *f)
{
    return f->known &&
           harp_trace_file_begun(&harp_trace.file) - f->told >= harp_trace.file.segments / 2;
}

static void free_function(struct function *f)
{
    free(f->param);
    free(f);
}

/* Lock held. */
static struct function **place_of(uint64_t handle)
{
    uint64_t at = (handle >> 4) * 0x9e3779b97f4a7c15ull >> 52;
    while (functions[at % PLACES] != NULL && functions[at % PLACES]->handle != handle)
        at++;
    return &functions[at % PLACES];
}

static void forget(void)
{
    for (unsigned i = 0; i < PLACES; i++)
        if (functions[i] != NULL) {
            free_function(functions[i]);
            functions[i] = NULL;
        }
    held = 0;
}

void harp_trace_forget_functions(void)
{
    pthread_mutex_lock(&lock);
    forget();
    pthread_mutex_unlock(&lock);
}

/* In a forked child: the parent may have been in here. What it had is lost. */
void harp_trace_prepare_reset(void)
{
    pthread_mutex_init(&lock, NULL);
    memset(functions, 0, sizeof functions);
    held = 0;
}

/* The function's facts, with the lock held; NULL, without: no memory. */
static const struct function *facts(uint64_t handle)
{
    pthread_mutex_lock(&lock);
    struct function *f = *place_of(handle);
    if (f != NULL && !fades(f))
        return f;
    if (f != NULL) {
        bool kernel = f->kernel;
        f->told = harp_trace_file_begun(&harp_trace.file);
        pthread_mutex_unlock(&lock);
        tell_name(handle, kernel);
        pthread_mutex_lock(&lock);
        f = *place_of(handle);
        if (f != NULL)
            return f;
    }
    pthread_mutex_unlock(&lock); /* not across a call of the driver */
    struct function *made = calloc(1, sizeof *made);
    if (made == NULL)
        return NULL;
    made->handle = handle;
    made->known = ask(made, false);
    if (!made->known && made->count == 0) /* drivers take one for the other */
        made->kernel = made->known = ask(made, true);
    made->told = harp_trace_file_begun(&harp_trace.file);
    if (made->known)
        tell_name(handle, made->kernel);
    pthread_mutex_lock(&lock);
    if (held >= PLACES / 2)
        forget();
    struct function **place = place_of(handle);
    if (*place != NULL) {
        free_function(made);
        return *place;
    }
    held++;
    return *place = made;
}

/* {1 pointer, 2 size, 0 end}: the whole buffer. */
static bool pack_extra(void **extra, struct harp_wire_packed *out)
{
    const size_t *size = NULL;
    *out = (struct harp_wire_packed){0};
    for (size_t i = 0; i < 8 && extra[i] != CU_LAUNCH_PARAM_END; i += 2) {
        if (extra[i] == CU_LAUNCH_PARAM_BUFFER_POINTER)
            out->data = extra[i + 1];
        else if (extra[i] == CU_LAUNCH_PARAM_BUFFER_SIZE)
            size = extra[i + 1];
        else
            return false;
    }
    if (size == NULL || out->data == NULL || *size > HARP_TRACE_PARAMS_MOST)
        return false;
    out->bytes = *size;
    return true;
}

/* One form or the other as a buffer, in t->packed. */
static bool pack(struct harp_trace_thread *t, uint64_t handle, void **params, void **extra)
{
    const struct function *f = handle != 0 ? facts(handle) : NULL; /* for its name, in any case */
    bool good = false;
    if (f == NULL)
        return false;
    if (params != NULL && extra != NULL) {
        good = false; /* the driver refuses that */
    } else if (extra != NULL) {
        good = pack_extra(extra, &t->packed);
    } else if (f->known && (params != NULL || f->count == 0)) {
        good = true;
        memset(t->params, 0, f->bytes);
        for (uint32_t i = 0; i < f->count && good; i++) {
            good = params[i] != NULL;
            if (good)
                memcpy(t->params + f->param[i].offset, params[i], f->param[i].bytes);
        }
        t->packed = (struct harp_wire_packed){f->bytes, t->params};
    }
    pthread_mutex_unlock(&lock);
    return good;
}

/* --- calls ------------------------------------------------------------------------------------ */

static bool launch(struct harp_trace_thread *t, unsigned function, unsigned params, unsigned extra)
{
    uint64_t *args = t->call.args;
    void **more = extra != 0 ? (void **)(uintptr_t)args[extra] : NULL;
    if (!pack(t, args[function], (void **)(uintptr_t)args[params], more))
        return false;
    args[params] = (uintptr_t)&t->packed;
    if (extra != 0)
        args[extra] = 0;
    return true;
}

/* A kernel node, from any version of its struct: the first members are the same. */
static bool node(struct harp_trace_thread *t, unsigned slot, size_t bytes)
{
    const void *given = (const void *)(uintptr_t)t->call.args[slot];
    if (given == NULL)
        return false;
    memset(&t->node, 0, sizeof t->node);
    memcpy(&t->node, given, bytes);
    uint64_t f = (uintptr_t)(t->node.func != NULL ? (void *)t->node.func : (void *)t->node.kern);
    if (!pack(t, f, t->node.kernelParams, t->node.extra))
        return false;
    t->node.kernelParams = (void **)&t->packed;
    t->node.extra = NULL;
    t->call.args[slot] = (uintptr_t)&t->node;
    return true;
}

static void hash(const void *data, uint64_t bytes, uint8_t out[32])
{
    struct sha256 sha;
    char hex[65];
    sha256_init(&sha);
    sha256_add(&sha, data, bytes);
    sha256_hex(&sha, hex);
    for (int i = 0; i < 32; i++) {
        const char pair[3] = {hex[2 * i], hex[2 * i + 1], 0};
        out[i] = (uint8_t)strtoul(pair, NULL, 16);
    }
}

/* `size`: the slot that says how long it is; 0: it says so itself. */
static bool image(struct harp_trace_thread *t, unsigned slot, unsigned size)
{
    const void *data = (const void *)(uintptr_t)t->call.args[slot], *from = data;
    if (data == NULL)
        return false;
    uint64_t bytes = size != 0 ? t->call.args[size] : harp_remote_image_bytes(data, &from);
    if (bytes == 0 || bytes > HASH_MOST)
        return false;
    t->image.bytes = bytes;
    hash(from, bytes, t->image.sha256);
    harp_trace_keep_image(t, from, bytes);
    t->call.args[slot] = (uintptr_t)&t->image;
    return true;
}

/* Functions of the program's and what they are given: not told. */
static bool untold(struct harp_trace_thread *t, unsigned first)
{
    t->call.args[first] = t->call.args[first + 1] = 0;
    return true;
}

bool harp_trace_prepare(struct harp_trace_thread *t)
{
    switch (t->call.op) {
    case HARP_OP_cuLaunchKernel:
        return launch(t, 0, 9, 10);
    case HARP_OP_cuLaunchCooperativeKernel:
        return launch(t, 0, 9, 0);
    case HARP_OP_cuLaunchKernelEx:
        return launch(t, 1, 2, 3);
    case HARP_OP_cuGraphAddKernelNode:
        return node(t, 4, sizeof(CUDA_KERNEL_NODE_PARAMS_v1));
    case HARP_OP_cuGraphAddKernelNode_v2:
        return node(t, 4, sizeof(CUDA_KERNEL_NODE_PARAMS));
    case HARP_OP_cuGraphKernelNodeSetParams:
        return node(t, 1, sizeof(CUDA_KERNEL_NODE_PARAMS_v1));
    case HARP_OP_cuGraphKernelNodeSetParams_v2:
        return node(t, 1, sizeof(CUDA_KERNEL_NODE_PARAMS));
    case HARP_OP_cuGraphExecKernelNodeSetParams:
        return node(t, 2, sizeof(CUDA_KERNEL_NODE_PARAMS_v1));
    case HARP_OP_cuGraphExecKernelNodeSetParams_v2:
        return node(t, 2, sizeof(CUDA_KERNEL_NODE_PARAMS));
    case HARP_OP_cuModuleLoadData:
    case HARP_OP_cuModuleLoadDataEx:
    case HARP_OP_cuModuleLoadFatBinary:
    case HARP_OP_cuLibraryLoadData:
        return image(t, 1, 0);
    case HARP_OP_cuLinkAddData:
    case HARP_OP_cuLinkAddData_v2:
        return image(t, 2, 3);
    case HARP_OP_cuLaunchHostFunc:
    case HARP_OP_cuStreamAddCallback:
    case HARP_OP_cuUserObjectCreate:
        return untold(t, 1);
    default:
        return false;
    }
}
