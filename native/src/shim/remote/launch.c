/* SPDX-License-Identifier: Apache-2.0
 *
 * Launches: parameters as the kernel reads them, and when one may go without an answer.
 *
 * A driver says at once what is wrong with a launch's shape. So the first of a shape (blocks,
 * shared memory, parameters, context) is asked; one of a shape that went is told, if its grid is
 * within what the device takes. Nothing of what the driver judges is judged here a second time.
 */
#include <pthread.h>
#include <stdlib.h>

#include "src/shim/remote/calls.h"
#include "src/shim/remote/prepared.h"
#include "src/shim/remote/snapshot.h"

#define PARAMS_MOST 1024u /* of one kernel */
#define BYTES_MOST  HARP_PARAMS_MOST
#define SHAPES      8u

struct shape {
    uint32_t block[3], shared, bytes;
    uint32_t limits; /* as they were */
    uint64_t ctx;    /* 0: none yet */
};

struct function { /* facts of a CUfunction or CUkernel */
    struct shape went[SHAPES];
    unsigned next;
    unsigned allowed;          /* 1 more than the shared memory that the program has said; atomic */
    struct harp_layout layout; /* last: it has its parameters behind it */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards shapes, and making facts */
static uint32_t limits; /* how often an attribute may have made some launch too large; atomic */

/* --- layouts ---------------------------------------------------------------------------------- */

static CUresult ask_layout(CUfunction f, bool kernel, struct function *out)
{
    size_t offset, bytes;
    for (uint32_t i = 0; i < PARAMS_MOST; i++) {
        CUresult r = kernel ? harp_sent_cuKernelGetParamInfo((CUkernel)f, i, &offset, &bytes)
                            : harp_sent_cuFuncGetParamInfo(f, i, &offset, &bytes);
        if (r == CUDA_ERROR_INVALID_VALUE) /* there is no such one */
            return CUDA_SUCCESS;
        if (r != CUDA_SUCCESS)
            return r;
        if (offset > BYTES_MOST || bytes > BYTES_MOST - offset)
            return CUDA_ERROR_INVALID_VALUE;
        out->layout.param[i].offset = (uint32_t)offset;
        out->layout.param[i].bytes = (uint32_t)bytes;
        out->layout.count = i + 1;
        out->layout.bytes = (uint32_t)(offset + bytes);
    }
    return CUDA_SUCCESS;
}

/* Made to fit; another thread's if that was faster. NULL: no memory. */
static struct function *keep(struct harp_thing *thing, struct function *made)
{
    size_t need = sizeof *made + made->layout.count * sizeof made->layout.param[0];
    struct function *fits = realloc(made, need);
    if (fits == NULL) {
        free(made);
        return NULL;
    }
    pthread_mutex_lock(&lock);
    if (thing->facts == NULL)
        __atomic_store_n((struct function **)&thing->facts, fits, __ATOMIC_RELEASE);
    else
        free(fits);
    fits = thing->facts;
    pthread_mutex_unlock(&lock);
    return fits;
}

static struct function *roomy(void)
{
    struct function *made;
    return calloc(1, sizeof *made + PARAMS_MOST * sizeof made->layout.param[0]);
}

void harp_remote_note_layout(CUfunction f, const struct harp_layouts *image, const char *name)
{
    struct harp_thing *thing = harp_thing_of(HARP_HANDLE_CUfunction, (uintptr_t)f);
    struct function *made = thing != NULL ? roomy() : NULL;
    if (made != NULL && harp_layouts_find(image, name, &made->layout, PARAMS_MOST))
        keep(thing, made);
    else
        free(made);
}

/* The function's facts, asked for once; NULL: why in *r. */
static struct function *facts_of(CUfunction f, CUresult *r)
{
    struct harp_thing *thing = harp_thing_of(HARP_HANDLE_CUfunction, (uintptr_t)f);
    *r = harp_remote_ready();
    if (*r == CUDA_SUCCESS && thing == NULL)
        *r = CUDA_ERROR_INVALID_HANDLE;
    if (*r != CUDA_SUCCESS)
        return NULL;
    struct function *known = __atomic_load_n((struct function **)&thing->facts, __ATOMIC_ACQUIRE);
    if (known != NULL)
        return known;
    struct function *asked = roomy();
    if (asked == NULL) {
        *r = CUDA_ERROR_OUT_OF_MEMORY;
        return NULL;
    }
    *r = ask_layout(f, thing->kind == HARP_HANDLE_CUkernel, asked);
    if (*r != CUDA_SUCCESS) {
        free(asked);
        return NULL;
    }
    known = keep(thing, asked);
    *r = known != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
    return known;
}

/* {1 pointer, 2 size, 0 end}: the whole buffer. */
static CUresult pack_extra(void **extra, struct harp_wire_packed *out)
{
    const size_t *size = NULL;
    out->data = NULL;
    for (size_t i = 0; extra[i] != CU_LAUNCH_PARAM_END; i += 2) {
        if (extra[i] == CU_LAUNCH_PARAM_BUFFER_POINTER)
            out->data = extra[i + 1];
        else if (extra[i] == CU_LAUNCH_PARAM_BUFFER_SIZE)
            size = extra[i + 1];
        else
            return CUDA_ERROR_INVALID_VALUE;
    }
    if (size == NULL || (out->data == NULL && *size > 0) || *size > BYTES_MOST)
        return CUDA_ERROR_INVALID_VALUE;
    out->bytes = *size;
    return CUDA_SUCCESS;
}

/* One form or the other as a buffer. `room` of BYTES_MOST bytes. */
static CUresult pack(const struct function *f, void **params, void **extra, uint8_t *room,
                     struct harp_wire_packed *out)
{
    const struct harp_layout *l = &f->layout;
    if (params != NULL && extra != NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (extra != NULL)
        return pack_extra(extra, out);
    if (params == NULL && l->count > 0)
        return CUDA_ERROR_INVALID_VALUE;
    memset(room, 0, l->bytes);
    for (uint32_t i = 0; i < l->count; i++) {
        if (params[i] == NULL)
            return CUDA_ERROR_INVALID_VALUE;
        memcpy(room + l->param[i].offset, params[i], l->param[i].bytes);
    }
    *out = (struct harp_wire_packed){l->bytes, room};
    return CUDA_SUCCESS;
}

/* --- shapes ----------------------------------------------------------------------------------- */

static uint64_t context_of(CUstream stream)
{
    const struct harp_lane *lane = harp_lane();
    const struct harp_thing *thing = harp_thing_of(HARP_HANDLE_CUstream, (uintptr_t)stream);
    return thing != NULL ? thing->owner : lane != NULL ? harp_lane_current(lane) : 0;
}

static bool same(const struct shape *a, const struct shape *b)
{
    return a->ctx == b->ctx && a->bytes == b->bytes && a->shared == b->shared &&
           a->limits == b->limits && memcmp(a->block, b->block, sizeof a->block) == 0;
}

static bool has_gone(struct function *f, const struct shape *shape)
{
    bool found = false;
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < SHAPES && !found; i++)
        found = same(&f->went[i], shape);
    pthread_mutex_unlock(&lock);
    return found && shape->ctx != 0;
}

static void note(struct function *f, const struct shape *shape)
{
    pthread_mutex_lock(&lock);
    f->went[f->next] = *shape;
    f->next = (f->next + 1) % SHAPES;
    pthread_mutex_unlock(&lock);
}

static bool within(uint64_t ctx, const uint32_t grid[3])
{
    CUresult r;
    const struct harp_thing *thing = harp_thing_by_id(HARP_HANDLE_CUcontext, ctx, false);
    const struct harp_wire_device *is =
        thing == NULL || thing->device < 0 ? NULL : harp_remote_device(thing->device, &r);
    for (int i = 0; i < 3 && is != NULL; i++)
        if (grid[i] == 0 ||
            grid[i] > (uint32_t)is->attributes[CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X + i])
            return false;
    return is != NULL;
}

static struct shape shape_of(const struct harp_launch *l)
{
    struct shape shape = {.shared = l->shared,
                          .bytes = (uint32_t)l->packed.bytes,
                          .limits = __atomic_load_n(&limits, __ATOMIC_RELAXED),
                          .ctx = l->ctx};
    memcpy(shape.block, l->block, sizeof shape.block);
    return shape;
}

CUresult harp_remote_prepare(struct harp_launch *l)
{
    CUresult r;
    struct function *facts = facts_of(l->f, &r);
    if (facts != NULL)
        r = pack(facts, l->params, l->extra, l->room, &l->packed);
    if (r != CUDA_SUCCESS)
        return r;
    struct shape shape = shape_of(l);
    bool fits = within(l->ctx, l->grid);
    l->went = has_gone(facts, &shape);
    if (!fits || !l->went)
        harp_remote_doubt();
    return CUDA_SUCCESS;
}

void harp_remote_accepted(const struct harp_launch *l)
{
    CUresult r;
    struct shape shape = shape_of(l);
    struct function *facts = l->went ? NULL : facts_of(l->f, &r);
    if (facts != NULL)
        note(facts, &shape);
}

void **harp_remote_unpack(CUfunction f, const struct harp_wire_packed *packed)
{
    CUresult r;
    const struct function *facts = facts_of(f, &r);
    const uint8_t *data = packed->data;
    if (facts == NULL)
        return NULL;
    const struct harp_layout *l = &facts->layout;
    struct harp_lane *lane = harp_lane();
    size_t bytes = (l->count + 2) * sizeof(void *);
    if (lane == NULL || !harp_lane_lends(lane, bytes))
        return NULL;
    void **params = (void **)(void *)(lane->lent + (lane->lent_used + 7) / 8 * 8);
    lane->lent_used += bytes;
    memset(params, 0, bytes - sizeof(void *));
    for (uint32_t i = 0; i < l->count; i++)
        if (l->param[i].offset + l->param[i].bytes <= packed->bytes)
            params[i] = (void *)(uintptr_t)(data + l->param[i].offset);
    return params;
}

/* What went may be refused now, by whatever handle: each shape is asked again. Not where a program
 * says before each launch what it has said before. */
static CUresult limited(const void *f, CUfunction_attribute attribute, int value, CUresult r)
{
    const struct harp_thing *thing = harp_thing_of(HARP_HANDLE_CUfunction, (uintptr_t)f);
    struct function *known =
        thing == NULL ? NULL : __atomic_load_n((struct function **)&thing->facts, __ATOMIC_ACQUIRE);
    bool shared = attribute == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    if (r != CUDA_SUCCESS || attribute == CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT)
        return r;
    unsigned now = (unsigned)value + 1;
    if (!shared || known == NULL ||
        __atomic_exchange_n(&known->allowed, now, __ATOMIC_RELAXED) != now)
        __atomic_add_fetch(&limits, 1, __ATOMIC_RELAXED);
    return r;
}

CUresult harp_remote_cuFuncSetAttribute(CUfunction hfunc, CUfunction_attribute attrib, int value)
{
    return limited(hfunc, attrib, value, harp_sent_cuFuncSetAttribute(hfunc, attrib, value));
}

CUresult harp_remote_cuKernelSetAttribute(CUfunction_attribute attrib, int val, CUkernel kernel,
                                          CUdevice dev)
{
    return limited(kernel, attrib, val, harp_sent_cuKernelSetAttribute(attrib, val, kernel, dev));
}

/* --- calls ------------------------------------------------------------------------------------ */

CUresult harp_remote_cuLaunchKernel(CUfunction f, unsigned int gridDimX, unsigned int gridDimY,
                                    unsigned int gridDimZ, unsigned int blockDimX,
                                    unsigned int blockDimY, unsigned int blockDimZ,
                                    unsigned int sharedMemBytes, CUstream hStream,
                                    void **kernelParams, void **extra)
{
    struct harp_launch l; /* its room is not worth zeroing */
    l.f = f;
    l.grid[0] = gridDimX, l.grid[1] = gridDimY, l.grid[2] = gridDimZ;
    l.block[0] = blockDimX, l.block[1] = blockDimY, l.block[2] = blockDimZ;
    l.shared = sharedMemBytes;
    l.ctx = context_of(hStream);
    l.params = kernelParams;
    l.extra = extra;
    CUresult r = harp_remote_prepare(&l);
    if (r != CUDA_SUCCESS)
        return r;
    r = harp_sent_cuLaunchKernel(f, gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ,
                                 sharedMemBytes, hStream, (void **)&l.packed, NULL);
    if (r == CUDA_SUCCESS)
        harp_remote_accepted(&l);
    return r;
}

/* Attributes may say anything: asked, always. */
CUresult harp_remote_cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction f,
                                      void **kernelParams, void **extra)
{
    struct harp_launch l = {.f = f, .params = kernelParams, .extra = extra};
    if (config != NULL && config->numAttrs == 0)
        return harp_remote_cuLaunchKernel(f, config->gridDimX, config->gridDimY, config->gridDimZ,
                                          config->blockDimX, config->blockDimY, config->blockDimZ,
                                          config->sharedMemBytes, config->hStream, kernelParams,
                                          extra);
    CUresult r = harp_remote_prepare(&l);
    if (r == CUDA_SUCCESS && config == NULL)
        r = CUDA_ERROR_INVALID_VALUE;
    return r != CUDA_SUCCESS ? r : harp_sent_cuLaunchKernelEx(config, f, (void **)&l.packed, NULL);
}

/* How many blocks fit at once is the driver's to say: no shape, asked. */
CUresult harp_remote_cuLaunchCooperativeKernel(CUfunction f, unsigned int gridDimX,
                                               unsigned int gridDimY, unsigned int gridDimZ,
                                               unsigned int blockDimX, unsigned int blockDimY,
                                               unsigned int blockDimZ, unsigned int sharedMemBytes,
                                               CUstream hStream, void **kernelParams)
{
    struct harp_launch l = {.f = f, .params = kernelParams};
    CUresult r = harp_remote_prepare(&l);
    if (r != CUDA_SUCCESS)
        return r;
    return harp_sent_cuLaunchCooperativeKernel(f, gridDimX, gridDimY, gridDimZ, blockDimX,
                                               blockDimY, blockDimZ, sharedMemBytes, hStream,
                                               (void **)&l.packed);
}
