/* SPDX-License-Identifier: Apache-2.0
 *
 * Arrays and mipmaps: layout, life, and boxes of them as sides of copies.
 */
#include "soft/gpu/array.h"

#include <stdlib.h>

#define ROW_ALIGN  64u  /* bytes */
#define LINES      8u   /* rows, and slices of three dimensions, go by so many (as on an H200) */
#define PART_ALIGN 512u /* bytes: levels and planes */

struct soft_array_home { /* one per context that ever had an array, until the context goes */
    struct soft_ctx *ctx;
    uint64_t ctx_id;
    struct soft_array *arrays;
    struct soft_array_home *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards homes and their lists */
static struct soft_array_home *homes;

struct soft_array *soft_array_of(CUarray handle)
{
    struct soft_array *a = (struct soft_array *)(void *)handle;

    return soft_handle_is(SOFT_H_ARRAY, a) ? a : NULL;
}

struct soft_array *soft_mipmap_of(CUmipmappedArray handle)
{
    struct soft_array *a = (struct soft_array *)(void *)handle;

    return soft_handle_is(SOFT_H_MIPMAP, a) ? a : NULL;
}

static enum soft_kind kind_of(const struct soft_array *a)
{
    return a->mipmap ? SOFT_H_MIPMAP : SOFT_H_ARRAY;
}

/* ---------------------------------------------------------------------------------- layout ---- */
static uint64_t round_up(uint64_t bytes, uint64_t to)
{
    return (bytes + to - 1) / to * to;
}

/* Depth is one: not a number of layers. */
static bool is_deep(const CUDA_ARRAY3D_DESCRIPTOR *d)
{
    return d->Depth != 0 && (d->Flags & (CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_CUBEMAP)) == 0;
}

/* Extents are within the device's limits: nothing overflows. */
static void lay_out(struct soft_array *a)
{
    const CUDA_ARRAY3D_DESCRIPTOR *d = &a->desc;
    unsigned side = 1;

    a->element = soft_format_bytes(d->Format, d->NumChannels, &side);
    a->row = (d->Width + side - 1) / side * a->element;
    a->pitch = round_up(a->row, ROW_ALIGN);
    a->rows = d->Height == 0 ? 1 : (d->Height + side - 1) / side;
    a->slices = d->Depth == 0 ? 1 : d->Depth;
    a->bytes = a->pitch * (d->Height == 0 ? 1 : round_up(a->rows, LINES)) *
               (is_deep(d) ? round_up(a->slices, LINES) : a->slices);
    a->bytes = round_up(a->bytes, PART_ALIGN);
}

static size_t halved(size_t extent, unsigned level)
{
    return extent == 0 ? 0 : extent >> level > 0 ? extent >> level : 1;
}

static unsigned levels_most(const CUDA_ARRAY3D_DESCRIPTOR *d)
{
    size_t longest = d->Width > d->Height ? d->Width : d->Height;
    unsigned levels = 1;

    if (is_deep(d) && d->Depth > longest)
        longest = d->Depth;
    while (longest > 1) {
        longest >>= 1;
        levels++;
    }
    return levels;
}

static void level_desc(const CUDA_ARRAY3D_DESCRIPTOR *whole, unsigned level,
                       CUDA_ARRAY3D_DESCRIPTOR *d)
{
    *d = *whole;
    d->Width = halved(whole->Width, level);
    d->Height = halved(whole->Height, level);
    if (is_deep(whole))
        d->Depth = halved(whole->Depth, level);
}

static bool plane_desc(const CUDA_ARRAY3D_DESCRIPTOR *whole, unsigned index,
                       CUDA_ARRAY3D_DESCRIPTOR *d)
{
    struct soft_plane plane;

    if (!soft_format_plane(whole->Format, whole->NumChannels, index, &plane))
        return false;
    *d = *whole;
    d->Format = plane.format;
    d->NumChannels = plane.channels;
    d->Width = whole->Width / plane.narrower;
    d->Height = whole->Height / plane.lower;
    return true;
}

/* Levels of a mipmap, planes of a planar array. */
static CUresult make_parts(struct soft_array *a, unsigned levels)
{
    CUDA_ARRAY3D_DESCRIPTOR desc;
    unsigned most = levels_most(&a->desc);

    if (a->mipmap)
        a->part_count = levels < 1 ? 1 : levels < most ? levels : most;
    else
        while (plane_desc(&a->desc, a->part_count, &desc))
            a->part_count++;
    if (a->part_count == 0)
        return CUDA_SUCCESS;
    a->parts = calloc(a->part_count, sizeof *a->parts);
    if (a->parts == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    a->bytes = 0;
    for (unsigned i = 0; i < a->part_count; i++) {
        struct soft_array *part = &a->parts[i];

        if (a->mipmap)
            level_desc(&a->desc, i, &part->desc);
        else
            plane_desc(&a->desc, i, &part->desc);
        part->whole = a;
        part->ctx = a->ctx;
        lay_out(part);
        part->at = a->bytes; /* offset for now */
        a->bytes += part->bytes;
    }
    return CUDA_SUCCESS;
}

/* ------------------------------------------------------------------------------------ life ---- */
static void forget_handles(struct soft_array *a)
{
    soft_handle_remove(kind_of(a), a);
    for (unsigned i = 0; i < a->part_count; i++)
        soft_handle_remove(SOFT_H_ARRAY, &a->parts[i]);
}

static void free_array(struct soft_array *a)
{
    free(a->parts);
    free(a);
}

/* The context goes; its memory goes by itself. */
static void leave(void *arg)
{
    struct soft_array_home *home = arg, **at = &homes;

    pthread_mutex_lock(&lock);
    while (*at != home)
        at = &(*at)->next;
    *at = home->next;
    pthread_mutex_unlock(&lock);
    while (home->arrays != NULL) {
        struct soft_array *a = home->arrays;

        home->arrays = a->next;
        forget_handles(a);
        free_array(a);
    }
    free(home);
}

static struct soft_array_home *home_of(struct soft_ctx *ctx)
{
    struct soft_array_home *home;

    pthread_mutex_lock(&lock);
    for (home = homes; home != NULL; home = home->next)
        if (home->ctx == ctx && home->ctx_id == ctx->id)
            break;
    if (home == NULL && (home = calloc(1, sizeof *home)) != NULL) {
        *home = (struct soft_array_home){.ctx = ctx, .ctx_id = ctx->id, .next = homes};
        homes = home;
        soft_ctx_on_destroy(ctx, leave, home);
    }
    pthread_mutex_unlock(&lock);
    return home;
}

static int tell_handles(struct soft_array *a)
{
    int err = soft_handle_add(kind_of(a), a);

    for (unsigned i = 0; i < a->part_count && err == 0; i++)
        err = soft_handle_add(SOFT_H_ARRAY, &a->parts[i]);
    if (err != 0)
        forget_handles(a);
    return err;
}

CUresult soft_array_make(struct soft_ctx *ctx, const CUDA_ARRAY3D_DESCRIPTOR *desc, bool mipmap,
                         unsigned levels, struct soft_array **out)
{
    struct soft_array_home *home;
    struct soft_array *a;
    CUresult r = soft_array_check(ctx->device, desc, mipmap);

    if (r != CUDA_SUCCESS)
        return r;
    home = home_of(ctx);
    a = calloc(1, sizeof *a);
    if (home == NULL || a == NULL) {
        free(a);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    a->home = home;
    a->ctx = ctx;
    a->desc = *desc;
    a->mipmap = mipmap;
    lay_out(a);
    r = make_parts(a, levels);
    if (a->part_count > 0)
        a->element = 0;
    if (r == CUDA_SUCCESS)
        r = soft_mem_alloc_inner(ctx, a->bytes, &a->at);
    if (r != CUDA_SUCCESS) {
        free_array(a);
        return r;
    }
    for (unsigned i = 0; i < a->part_count; i++)
        a->parts[i].at += a->at;
    if (tell_handles(a) != 0) {
        soft_mem_free(ctx, a->at);
        free_array(a);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    pthread_mutex_lock(&lock);
    a->next = home->arrays;
    home->arrays = a;
    pthread_mutex_unlock(&lock);
    *out = a;
    return CUDA_SUCCESS;
}

bool soft_array_drop(struct soft_array *a, bool mipmap)
{
    if (a == NULL || a->whole != NULL || a->mipmap != mipmap)
        return false;
    soft_ctx_wait_quietly(a->ctx);
    if (!soft_handle_remove(kind_of(a), a))
        return false; /* another thread was first */
    forget_handles(a);
    pthread_mutex_lock(&lock);
    for (struct soft_array **at = &a->home->arrays; *at != NULL; at = &(*at)->next)
        if (*at == a) {
            *at = a->next;
            break;
        }
    pthread_mutex_unlock(&lock);
    soft_mem_free(a->ctx, a->at);
    free_array(a);
    return true;
}

/* ------------------------------------------------------------------------------ in a copy ----- */
static bool inside(size_t at, size_t extent, size_t room)
{
    return at <= room && extent <= room - at;
}

CUresult soft_array_place(CUarray handle, const struct soft_box *box, struct soft_place *place)
{
    const struct soft_array *a = soft_array_of(handle);
    size_t pitch, slice;
    CUresult r;

    if (a == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    /* a planar one is copied plane by plane */
    if (a->element == 0 || box->x % a->element != 0 || box->width % a->element != 0 ||
        !inside(box->x, box->width, a->row) || !inside(box->y, box->height, a->rows) ||
        !inside(box->z, box->depth, a->slices))
        return CUDA_ERROR_INVALID_VALUE;
    pitch = a->pitch;
    slice = a->pitch * a->rows;
    r = soft_place_device(a->at + box->z * slice + box->y * pitch + box->x,
                          (box->depth - 1) * slice + (box->height - 1) * pitch + box->width, place);
    place->pitch = pitch;
    place->slice_pitch = slice;
    return r;
}
