/* SPDX-License-Identifier: Apache-2.0
 *
 * The account of code.h. The lock is held across no lease and no call of the driver.
 */
#include "src/shim/gate/code.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "harp/lease.h"
#include "src/shim/entry/entry.h"
#include "src/shim/gate/session.h"

struct kernel_in { /* a kernel whose code is there */
    struct kernel_in *next;
    uint64_t name, bytes;
};

struct place { /* a module's, or a library's, in one context */
    struct place *next;
    CUcontext ctx;
    CUmodule module; /* of a library, once it was told */
    int dev;
    uint64_t variables, all; /* all: code that came at once (eager loading) */
    struct kernel_in *kernels;
};

struct harp_loaded {
    struct harp_loaded *next;
    const void *handle;
    bool library, eager;
    struct harp_image image;
    struct place *places;
};

static struct {
    pthread_mutex_t lock;
    struct harp_loaded *all;
} c = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* --- what is loaded where -------------------------------------------------------------------- */

static bool loads_eagerly(void)
{
    CUmoduleLoadingMode mode = CU_MODULE_EAGER_LOADING; /* all there was before 11.7 */
    CUresult r = CUDA_SUCCESS;
    if (HARP_HAS(cuModuleGetLoadingMode))
        HARP_INSIDE(r, HARP_REAL(cuModuleGetLoadingMode)(&mode));
    return r == CUDA_SUCCESS && mode == CU_MODULE_EAGER_LOADING;
}

static void place_free(struct place *p)
{
    while (p->kernels != NULL) {
        struct kernel_in *k = p->kernels;
        p->kernels = k->next;
        free(k);
    }
    free(p);
}

/* Gives back all that a place holds, and forgets it. */
static void place_end(struct place *p)
{
    for (const struct kernel_in *k = p->kernels; k != NULL; k = k->next)
        harp_packed_unlease(p->ctx, p->dev, k->bytes);
    harp_packed_unlease(p->ctx, p->dev, p->variables);
    harp_packed_unlease(p->ctx, p->dev, p->all);
    place_free(p);
}

static struct place *place_of(const struct harp_loaded *l, CUcontext ctx)
{
    struct place *p = l->places;
    while (p != NULL && p->ctx != ctx)
        p = p->next;
    return p;
}

/* Leased, and on no list yet. */
static CUresult place_make(const struct harp_loaded *l, CUcontext ctx, int dev, struct place **out)
{
    struct place *p = calloc(1, sizeof *p);
    *out = NULL;
    if (p == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *p = (struct place){.ctx = ctx, .dev = dev};
    CUresult r = harp_packed_lease(ctx, dev, l->image.variables);
    if (r == CUDA_SUCCESS) {
        p->variables = l->image.variables;
        r = l->eager ? harp_packed_lease(ctx, dev, l->image.code) : CUDA_SUCCESS;
    }
    if (r != CUDA_SUCCESS) {
        place_end(p);
        return r;
    }
    p->all = l->eager ? l->image.code : 0;
    *out = p;
    return r;
}

static void loaded_end(struct harp_loaded *l)
{
    while (l->places != NULL) {
        struct place *p = l->places;
        l->places = p->next;
        place_end(p);
    }
    harp_image_free(&l->image);
    free(l);
}

struct into {
    struct harp_loaded *l;
    CUresult result;
};

static void load_into(void *arg, CUcontext ctx, int dev)
{
    struct into *into = arg;
    struct place *p;
    if (into->result != CUDA_SUCCESS || place_of(into->l, ctx) != NULL)
        return;
    into->result = place_make(into->l, ctx, dev, &p);
    if (p != NULL) {
        p->next = into->l->places;
        into->l->places = p;
    }
}

CUresult harp_code_loading(struct harp_image *image, bool library, struct harp_loaded **out)
{
    struct harp_loaded *l = calloc(1, sizeof *l);
    int dev;
    CUcontext ctx;
    *out = NULL;
    if (l == NULL) {
        harp_image_free(image);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *l = (struct harp_loaded){.library = library, .image = *image, .eager = loads_eagerly()};
    struct into into = {l, CUDA_SUCCESS};
    if (harp_device_current(&dev, &ctx) == CUDA_SUCCESS && dev >= 0)
        load_into(&into, ctx, dev);
    else if (!library) /* the driver's own error */
        goto none;
    if (library && l->eager)
        harp_contexts_each(load_into, &into);
    if (into.result == CUDA_SUCCESS) {
        *out = l;
        return CUDA_SUCCESS;
    }
none:
    loaded_end(l);
    return into.result;
}

static void list(struct harp_loaded *l)
{
    pthread_mutex_lock(&c.lock);
    l->next = c.all;
    c.all = l;
    pthread_mutex_unlock(&c.lock);
}

void harp_code_loaded(struct harp_loaded *l, CUresult r, const void *handle)
{
    if (l == NULL)
        return;
    l->handle = handle;
    if (r == CUDA_SUCCESS)
        list(l);
    else
        loaded_end(l);
}

struct harp_loaded *harp_code_unloading(const void *handle)
{
    struct harp_loaded *found = NULL;
    pthread_mutex_lock(&c.lock);
    for (struct harp_loaded **at = &c.all; *at != NULL; at = &(*at)->next)
        if ((*at)->handle == handle) {
            found = *at;
            *at = found->next;
            break;
        }
    pthread_mutex_unlock(&c.lock);
    return found;
}

void harp_code_unloaded(struct harp_loaded *l, bool gone)
{
    if (l != NULL && gone)
        loaded_end(l);
    else if (l != NULL)
        list(l);
}

/* --- use ------------------------------------------------------------------------------------- */

/* Lock held. */
static struct harp_loaded *find(const void *handle, CUcontext ctx, struct place **at)
{
    struct harp_loaded *l = c.all;
    for (; l != NULL; l = l->next) {
        struct place *p = place_of(l, ctx);
        if (l->handle == handle || (p != NULL && p->module != NULL && p->module == handle)) {
            *at = p;
            return l;
        }
    }
    return NULL;
}

/* A library's place in a context, made if there is none. */
static CUresult arrive(const void *library, CUcontext ctx, int dev)
{
    struct place *p = NULL, *there = NULL;
    struct harp_loaded copy;
    pthread_mutex_lock(&c.lock);
    const struct harp_loaded *l = find(library, ctx, &there);
    bool missing = l != NULL && there == NULL;
    if (missing)
        copy = *l;
    pthread_mutex_unlock(&c.lock);
    if (!missing)
        return CUDA_SUCCESS;
    CUresult r = place_make(&copy, ctx, dev, &p); /* reads sizes alone */
    if (r != CUDA_SUCCESS)
        return r;
    pthread_mutex_lock(&c.lock);
    struct harp_loaded *now = find(library, ctx, &there);
    if (now != NULL && there == NULL) {
        p->next = now->places;
        now->places = p;
        p = NULL;
    }
    pthread_mutex_unlock(&c.lock);
    if (p != NULL) /* another thread was first */
        place_end(p);
    return r;
}

/* Puts a kernel on the list of what is there. False: it is, or is not ours to know. */
static bool add_kernel(const void *handle, CUcontext ctx, const char *name, struct kernel_in *k)
{
    struct place *p = NULL;
    pthread_mutex_lock(&c.lock);
    const struct harp_loaded *l = find(handle, ctx, &p);
    const struct harp_kernel *known =
        p != NULL && !l->eager ? harp_image_kernel(&l->image, name) : NULL;
    bool fresh = known != NULL;
    for (const struct kernel_in *at = fresh ? p->kernels : NULL; at != NULL; at = at->next)
        fresh = fresh && at->name != known->name;
    if (fresh) {
        *k = (struct kernel_in){.next = p->kernels, .name = known->name, .bytes = known->bytes};
        p->kernels = k;
    }
    pthread_mutex_unlock(&c.lock);
    return fresh;
}

static struct kernel_in *drop_kernel(const void *handle, CUcontext ctx, uint64_t name)
{
    struct place *p = NULL;
    struct kernel_in *gone = NULL;
    pthread_mutex_lock(&c.lock);
    find(handle, ctx, &p);
    for (struct kernel_in **at = p != NULL ? &p->kernels : NULL; at != NULL && *at != NULL;
         at = &(*at)->next)
        if ((*at)->name == name) {
            gone = *at;
            *at = gone->next;
            break;
        }
    pthread_mutex_unlock(&c.lock);
    return gone;
}

CUresult harp_code_use(const void *handle, bool library, const char *kernel, struct harp_use *use)
{
    int dev;
    *use = (struct harp_use){.handle = handle};
    if (harp_device_current(&dev, &use->ctx) != CUDA_SUCCESS || dev < 0)
        return CUDA_SUCCESS; /* the driver's own error */
    CUresult r = library ? arrive(handle, use->ctx, dev) : CUDA_SUCCESS;
    if (r != CUDA_SUCCESS || kernel == NULL)
        return r;
    struct kernel_in *k = calloc(1, sizeof *k);
    if (k == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (!add_kernel(handle, use->ctx, kernel, k)) {
        free(k);
        return CUDA_SUCCESS;
    }
    uint64_t name = k->name;
    r = harp_packed_lease(use->ctx, dev, k->bytes);
    if (r == CUDA_SUCCESS)
        use->kernel = name;
    else
        free(drop_kernel(handle, use->ctx, name));
    return r;
}

void harp_code_not_used(const struct harp_use *use)
{
    struct kernel_in *k = use->kernel != 0 ? drop_kernel(use->handle, use->ctx, use->kernel) : NULL;
    int dev;
    CUcontext ctx;
    if (k != NULL && harp_device_current(&dev, &ctx) == CUDA_SUCCESS)
        harp_packed_unlease(use->ctx, dev, k->bytes);
    free(k);
}

void harp_code_module(const void *library, CUmodule module)
{
    int dev;
    CUcontext ctx;
    struct place *p = NULL;
    if (harp_device_current(&dev, &ctx) != CUDA_SUCCESS)
        return;
    pthread_mutex_lock(&c.lock);
    find(library, ctx, &p);
    if (p != NULL)
        p->module = module;
    pthread_mutex_unlock(&c.lock);
}

/* --- the end --------------------------------------------------------------------------------- */

void harp_code_owner_gone(CUcontext ctx)
{
    struct place *gone = NULL;
    pthread_mutex_lock(&c.lock);
    for (struct harp_loaded **l = &c.all; *l != NULL;) {
        for (struct place **at = &(*l)->places; *at != NULL;) {
            struct place *p = *at;
            if (p->ctx != ctx) {
                at = &p->next;
                continue;
            }
            *at = p->next;
            p->next = gone;
            gone = p;
        }
        struct harp_loaded *dead = !(*l)->library && (*l)->places == NULL ? *l : NULL;
        if (dead == NULL) {
            l = &(*l)->next;
            continue;
        }
        *l = dead->next; /* a module goes with its context */
        harp_image_free(&dead->image);
        free(dead);
    }
    pthread_mutex_unlock(&c.lock);
    while (gone != NULL) {
        struct place *p = gone;
        gone = p->next;
        place_end(p);
    }
}

void harp_code_forked(void)
{
    pthread_mutex_init(&c.lock, NULL);
    c.all = NULL; /* not freed: the heap may have been in mid-change */
}
