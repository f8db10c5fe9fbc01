/* SPDX-License-Identifier: Apache-2.0
 *
 * Pinned host memory: allocated here or registered by the client. Its device address is its host
 * address (unified addressing), and kernels reach it there.
 */
#include "soft/gpu/arena.h"
#include "soft/gpu/capture.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define REGISTER_FLAGS 0x0fu
#define ALLOC_FLAGS    0x07u

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards the three below */
static struct soft_span *spans; /* sorted by start, apart from each other */
static size_t count, room;
_Atomic uint64_t soft_host_changes;

/* Index of the first span that ends beyond `ptr`. */
static size_t at_or_after(uint64_t ptr)
{
    size_t lo = 0, hi = count;

    while (lo < hi) {
        size_t mid = (lo + hi) / 2;

        if (spans[mid].start + spans[mid].bytes <= ptr)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

bool soft_host_find(uint64_t ptr, struct soft_span *span)
{
    size_t i;
    bool found;

    pthread_mutex_lock(&lock);
    i = at_or_after(ptr);
    found = i < count && spans[i].start <= ptr;
    if (found)
        *span = spans[i];
    pthread_mutex_unlock(&lock);
    return found;
}

static CUresult add(struct soft_span span)
{
    CUresult r = CUDA_ERROR_OUT_OF_MEMORY;
    size_t i;

    pthread_mutex_lock(&lock);
    if (count == room) {
        size_t more = room == 0 ? 64 : room * 2;
        struct soft_span *wider = realloc(spans, more * sizeof *spans);

        if (wider == NULL)
            goto out;
        spans = wider;
        room = more;
    }
    i = at_or_after(span.start);
    r = CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
    if (i < count && spans[i].start < span.start + span.bytes)
        goto out;
    memmove(&spans[i + 1], &spans[i], (count - i) * sizeof *spans);
    spans[i] = span;
    count++;
    r = CUDA_SUCCESS;
out:
    pthread_mutex_unlock(&lock);
    return r;
}

/* Takes the span that begins at `p` out; false: there is none of that kind. */
static bool take(uint64_t p, bool registered, struct soft_span *span)
{
    bool found;
    size_t i;

    pthread_mutex_lock(&lock);
    i = at_or_after(p);
    found = i < count && spans[i].start == p && spans[i].registered == registered;
    if (found) {
        *span = spans[i];
        memmove(&spans[i], &spans[i + 1], (count - i - 1) * sizeof *spans);
        count--;
        soft_host_changes++;
    }
    pthread_mutex_unlock(&lock);
    return found;
}

/* The context goes, and with it the host memory allocated in it. */
void soft_host_forget(struct soft_ctx *ctx)
{
    size_t kept = 0;

    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < count; i++) {
        if (spans[i].ctx != ctx)
            spans[kept++] = spans[i];
        else if (!spans[i].registered)
            munmap(spans[i].host, spans[i].bytes);
    }
    count = kept;
    soft_host_changes++;
    if (count == 0) {
        free(spans);
        spans = NULL;
        room = 0;
    }
    pthread_mutex_unlock(&lock);
}

/* Pinned memory is there when the call returns: no copy waits for it later. Where the host has not
 * got it to spare it comes page by page, as it is touched; so it does before Linux 5.14. */
static void pin(void *p, uint64_t bytes)
{
    long free_pages = sysconf(_SC_AVPHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);

    if (free_pages > 0 && bytes <= (uint64_t)free_pages / 2 * (uint64_t)page_bytes)
        madvise(p, bytes, MADV_POPULATE_WRITE);
}

CUresult cuMemHostAlloc(void **pp, size_t bytesize, unsigned int Flags)
{
    struct soft_ctx *ctx;
    CUresult r = soft_current(&ctx);
    void *p;

    if (r == CUDA_SUCCESS)
        r = soft_capture_check_unsafe();
    if (r != CUDA_SUCCESS)
        return r;
    if (pp == NULL || bytesize == 0 || (Flags & ~ALLOC_FLAGS) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (bytesize > (size_t)1 << 46)
        return CUDA_ERROR_OUT_OF_MEMORY;
    p = mmap(NULL, bytesize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return CUDA_ERROR_OUT_OF_MEMORY;
    r = add((struct soft_span){.ctx = ctx,
                               .ordinal = ctx->ordinal,
                               .start = (uint64_t)(uintptr_t)p,
                               .bytes = bytesize,
                               .id = soft_span_next_id(),
                               .host = p,
                               .flags = Flags | CU_MEMHOSTALLOC_DEVICEMAP});
    if (r != CUDA_SUCCESS) {
        munmap(p, bytesize);
        return r;
    }
    pin(p, bytesize);
    *pp = p;
    return CUDA_SUCCESS;
}

CUresult cuMemAllocHost_v2(void **pp, size_t bytesize)
{
    return cuMemHostAlloc(pp, bytesize, 0);
}

CUresult cuMemFreeHost(void *p)
{
    struct soft_ctx *ctx;
    struct soft_span span;
    CUresult r = soft_current_any(&ctx);

    if (r == CUDA_SUCCESS)
        r = soft_capture_check_unsafe();
    if (r != CUDA_SUCCESS)
        return r;
    if (!soft_host_find((uint64_t)(uintptr_t)p, &span) || span.registered ||
        span.start != (uint64_t)(uintptr_t)p)
        return CUDA_ERROR_INVALID_VALUE;
    soft_ctx_wait_all(); /* work under way may read or write it, in whatever context */
    if (!take((uint64_t)(uintptr_t)p, false, &span))
        return CUDA_ERROR_INVALID_VALUE;
    munmap(span.host, span.bytes);
    return soft_ctx_sticky(ctx);
}

CUresult cuMemHostRegister_v2(void *p, size_t bytesize, unsigned int Flags)
{
    struct soft_ctx *ctx;
    CUresult r = soft_current(&ctx);

    if (r != CUDA_SUCCESS)
        return r;
    if (p == NULL || bytesize == 0 || (Flags & ~REGISTER_FLAGS) != 0 ||
        soft_is_device_range((uint64_t)(uintptr_t)p))
        return CUDA_ERROR_INVALID_VALUE;
    if ((Flags & CU_MEMHOSTREGISTER_IOMEMORY) != 0)
        return CUDA_ERROR_NOT_SUPPORTED;
    return add((struct soft_span){.ctx = ctx,
                                  .ordinal = ctx->ordinal,
                                  .start = (uint64_t)(uintptr_t)p,
                                  .bytes = bytesize,
                                  .id = soft_span_next_id(),
                                  .host = p,
                                  .registered = true,
                                  .flags = Flags | CU_MEMHOSTREGISTER_DEVICEMAP});
}

CUresult cuMemHostUnregister(void *p)
{
    struct soft_ctx *ctx;
    struct soft_span span;
    CUresult r = soft_current_any(&ctx);

    if (r != CUDA_SUCCESS)
        return r;
    if (p == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (!soft_host_find((uint64_t)(uintptr_t)p, &span) || !span.registered ||
        span.start != (uint64_t)(uintptr_t)p)
        return CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
    soft_ctx_wait_all();
    if (!take((uint64_t)(uintptr_t)p, true, &span))
        return CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
    return soft_ctx_sticky(ctx);
}

CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *pdptr, void *p, unsigned int Flags)
{
    struct soft_ctx *ctx;
    struct soft_span span;
    CUresult r = soft_current(&ctx);

    if (r != CUDA_SUCCESS)
        return r;
    if (pdptr == NULL || Flags != 0 || !soft_host_find((uint64_t)(uintptr_t)p, &span))
        return CUDA_ERROR_INVALID_VALUE;
    *pdptr = (CUdeviceptr)(uintptr_t)p;
    return CUDA_SUCCESS;
}

CUresult cuMemHostGetFlags(unsigned int *pFlags, void *p)
{
    struct soft_ctx *ctx;
    struct soft_span span;
    CUresult r = soft_current(&ctx);

    if (r != CUDA_SUCCESS)
        return r;
    if (pFlags == NULL || !soft_host_find((uint64_t)(uintptr_t)p, &span))
        return CUDA_ERROR_INVALID_VALUE;
    *pFlags = span.flags;
    return CUDA_SUCCESS;
}
