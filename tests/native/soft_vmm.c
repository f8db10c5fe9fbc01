/* SPDX-License-Identifier: Apache-2.0
 *
 * Virtual memory management: what is charged, when it goes, what each call refuses; sharing between
 * processes, and processes that are killed while they do it.
 */
#include "soft_test.h"

#include <fcntl.h>
#include <sys/socket.h>

#include "soft/gpu/phys.h"
#include "soft/gpu/shared.h"

#define GRANULE (2ull << 20)
#define CONTEXT (24ull << 20) /* of the tiny profile */

static CUmemAllocationProp pinned(CUmemAllocationHandleType types)
{
    return (CUmemAllocationProp){.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                 .requestedHandleTypes = types,
                                 .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};
}

static uint64_t used(void)
{
    size_t f, t;

    OK(cuMemGetInfo_v2(&f, &t));
    return t - f;
}

static unsigned below(unsigned *seed, unsigned most)
{
    return (unsigned)rand_r(seed) % most;
}

static CUmemGenericAllocationHandle make(uint64_t bytes, CUmemAllocationHandleType types)
{
    CUmemAllocationProp prop = pinned(types);
    CUmemGenericAllocationHandle handle;

    OK(cuMemCreate(&handle, bytes, &prop, 0));
    return handle;
}

static void give_access(CUdeviceptr ptr, uint64_t bytes, CUmemAccess_flags flags)
{
    CUmemAccessDesc desc = {{CU_MEM_LOCATION_TYPE_DEVICE, 0}, flags};

    OK(cuMemSetAccess(ptr, bytes, &desc, 1));
}

/* Bytes live as long as a handle or a mapping does; each step shows. */
static void charged_till_the_last(void *arg)
{
    CUmemGenericAllocationHandle h, again;
    CUdeviceptr va;
    unsigned word = 0;

    context();
    CHECK_IS(CONTEXT, used());
    OK(cuMemAddressReserve(&va, 64 * GRANULE, 0, 0, 0));
    CHECK_IS(CONTEXT, used());
    h = make(4 * GRANULE, CU_MEM_HANDLE_TYPE_NONE);
    CHECK_IS(CONTEXT + 4 * GRANULE, used());
    OK(cuMemMap(va, 4 * GRANULE, 0, h, 0));
    OK(cuMemMap(va + 8 * GRANULE, 2 * GRANULE, 0, h, 0)); /* a part, a second time */
    CHECK_IS(CONTEXT + 4 * GRANULE, used());
    OK(cuMemRelease(h));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemRelease(h));
    CHECK_IS(CONTEXT + 4 * GRANULE, used());
    give_access(va, 4 * GRANULE, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
    give_access(va + 8 * GRANULE, 2 * GRANULE, CU_MEM_ACCESS_FLAGS_PROT_READ);
    OK(cuMemsetD32_v2(va, 77, GRANULE));
    OK(cuMemcpyDtoH_v2(&word, va + 8 * GRANULE + 12, 4)); /* the same bytes */
    CHECK_IS(77, word);
    OK(cuMemRetainAllocationHandle(&again, (void *)(uintptr_t)(va + GRANULE + 5)));
    CHECK_IS(h, again);
    OK(cuMemUnmap(va, 4 * GRANULE));
    OK(cuMemUnmap(va + 8 * GRANULE, 2 * GRANULE));
    CHECK_IS(CONTEXT + 4 * GRANULE, used());
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemRetainAllocationHandle(&again, (void *)(uintptr_t)va));
    OK(cuMemRelease(h));
    CHECK_IS(CONTEXT, used());
    OK(cuMemAddressFree(va, 64 * GRANULE));
}

static void refusals(void *arg)
{
    CUmemAllocationProp prop = pinned(CU_MEM_HANDLE_TYPE_NONE), bad;
    CUmemGenericAllocationHandle h;
    CUdeviceptr va, other;
    CUmemAccessDesc desc = {{CU_MEM_LOCATION_TYPE_DEVICE, 0}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    size_t gran, f, t;
    int fd;

    CHECK_IS(CUDA_ERROR_NOT_INITIALIZED, cuMemAddressReserve(&va, GRANULE, 0, 0, 0));
    context();
    /* ranges */
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemAddressReserve(NULL, GRANULE, 0, 0, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemAddressReserve(&va, 0, 0, 0, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemAddressReserve(&va, GRANULE + 1, 0, 0, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemAddressReserve(&va, GRANULE, 3 << 20, 0, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemAddressReserve(&va, GRANULE, 0, 0, 1));
    CHECK_IS(CUDA_ERROR_OUT_OF_MEMORY, cuMemAddressReserve(&va, 1ull << 60, 0, 0, 0));
    OK(cuMemAddressReserve(&va, 8 * GRANULE, 64 * GRANULE, 0, 0));
    CHECK_IS(0, va % (64 * GRANULE));
    OK(cuMemAddressReserve(&other, GRANULE, 0, va + 16 * GRANULE, 0)); /* a hint that can be met */
    CHECK_IS(va + 16 * GRANULE, other);
    OK(cuMemAddressFree(other, GRANULE));
    OK(cuMemAddressReserve(&other, GRANULE, 0, va, 0)); /* and one that cannot */
    CHECK(other != va);
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemAddressFree(va, 7 * GRANULE));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemAddressFree(va + GRANULE, 7 * GRANULE));
    /* allocations */
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemCreate(&h, GRANULE / 2, &prop, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemCreate(&h, 0, &prop, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemCreate(&h, GRANULE, &prop, 1));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemCreate(&h, GRANULE, NULL, 0));
    OK(cuMemGetInfo_v2(&f, &t));
    CHECK_IS(CUDA_ERROR_OUT_OF_MEMORY, cuMemCreate(&h, f + GRANULE, &prop, 0));
    bad = prop, bad.type = CU_MEM_ALLOCATION_TYPE_MANAGED;
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemCreate(&h, GRANULE, &bad, 0));
    bad = prop, bad.location.id = 1;
    CHECK_IS(CUDA_ERROR_INVALID_DEVICE, cuMemCreate(&h, GRANULE, &bad, 0));
    bad = prop, bad.location.type = CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT;
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemCreate(&h, GRANULE, &bad, 0));
    bad = prop, bad.requestedHandleTypes = CU_MEM_HANDLE_TYPE_FABRIC;
    CHECK_IS(CUDA_ERROR_NOT_SUPPORTED, cuMemCreate(&h, GRANULE, &bad, 0));
    bad = prop, bad.requestedHandleTypes = CU_MEM_HANDLE_TYPE_WIN32;
    CHECK_IS(CUDA_ERROR_NOT_SUPPORTED, cuMemCreate(&h, GRANULE, &bad, 0));
    bad = prop, bad.allocFlags.compressionType = CU_MEM_ALLOCATION_COMP_GENERIC;
    CHECK_IS(CUDA_ERROR_NOT_SUPPORTED, cuMemCreate(&h, GRANULE, &bad, 0));
    bad = prop, bad.allocFlags.usage = CU_MEM_CREATE_USAGE_TILE_POOL;
    CHECK_IS(CUDA_ERROR_NOT_SUPPORTED, cuMemCreate(&h, GRANULE, &bad, 0));
    bad = pinned(CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
    bad.location.type = CU_MEM_LOCATION_TYPE_HOST;
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemCreate(&h, GRANULE, &bad, 0));
    OK(cuMemGetAllocationGranularity(&gran, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
    CHECK_IS(GRANULE, gran);
    OK(cuMemGetAllocationGranularity(&gran, &prop, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED));
    CHECK_IS(GRANULE, gran);
    /* mappings */
    h = make(2 * GRANULE, CU_MEM_HANDLE_TYPE_NONE);
    OK(cuMemGetAllocationPropertiesFromHandle(&bad, h));
    CHECK(memcmp(&bad, &prop, sizeof bad) == 0);
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemMap(va, 2 * GRANULE, GRANULE, h, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemMap(va, 3 * GRANULE, 0, h, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemMap(va + 512, GRANULE, 0, h, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemMap(va + 7 * GRANULE, 2 * GRANULE, 0, h, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemMap(va, 2 * GRANULE, 0, h + 1, 0));
    OK(cuMemMap(va + GRANULE, 2 * GRANULE, 0, h, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemMap(va, 2 * GRANULE, 0, h, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemMap(va + 2 * GRANULE, GRANULE, 0, h, 0));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemAddressFree(va, 8 * GRANULE)); /* in use */
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemFree_v2(va + GRANULE));
    /* access: none yet; whole mappings only, without a hole */
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemsetD8_v2(va + GRANULE, 1, 1));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemSetAccess(va + GRANULE, GRANULE, &desc, 1));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemSetAccess(va, 3 * GRANULE, &desc, 1));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemSetAccess(va + GRANULE, 2 * GRANULE, NULL, 1));
    desc.flags = (CUmemAccess_flags)2;
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemSetAccess(va + GRANULE, 2 * GRANULE, &desc, 1));
    desc.flags = CU_MEM_ACCESS_FLAGS_PROT_READ;
    desc.location.id = 3;
    CHECK_IS(CUDA_ERROR_INVALID_DEVICE, cuMemSetAccess(va + GRANULE, 2 * GRANULE, &desc, 1));
    desc.location = (CUmemLocation){CU_MEM_LOCATION_TYPE_HOST_NUMA, 0};
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemSetAccess(va + GRANULE, 2 * GRANULE, &desc, 1));
    give_access(va + GRANULE, 2 * GRANULE, CU_MEM_ACCESS_FLAGS_PROT_READ);
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemsetD8_v2(va + GRANULE, 1, 1));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD_v2(va + GRANULE, &fd, 4));
    OK(cuMemcpyDtoH_v2(&fd, va + GRANULE, 4));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemUnmap(va + GRANULE, GRANULE));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemUnmap(va, 3 * GRANULE));
    /* not made for it */
    CHECK_IS(CUDA_ERROR_INVALID_VALUE,
             cuMemExportToShareableHandle(&fd, h, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
    OK(cuMemUnmap(va + GRANULE, 2 * GRANULE));
    OK(cuMemAddressFree(va, 8 * GRANULE));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemAddressFree(va, 8 * GRANULE));
}

/* Several touching mappings are one to copies, to access and to unmapping. */
static void side_by_side(void *arg)
{
    CUmemGenericAllocationHandle h[4];
    CUmemLocation where = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
    static unsigned char out[8 << 20], in[8 << 20];
    unsigned long long flags;
    CUcontext later;
    CUdeviceptr va, base;
    size_t n;

    context();
    OK(cuMemAddressReserve(&va, 4 * GRANULE, 0, 0, 0));
    for (uint64_t i = 0; i < 4; i++) {
        h[i] = make(GRANULE, CU_MEM_HANDLE_TYPE_NONE);
        OK(cuMemMap(va + i * GRANULE, GRANULE, 0, h[i], 0));
        OK(cuMemRelease(h[i]));
    }
    OK(cuMemGetAccess(&flags, &where, va));
    CHECK_IS(0, flags);
    give_access(va, 4 * GRANULE, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
    OK(cuMemGetAccess(&flags, &where, va + 3 * GRANULE + 1));
    CHECK_IS(3, flags);
    for (size_t i = 0; i < sizeof out; i++)
        out[i] = (unsigned char)(i * 7 + i / 4096);
    OK(cuMemcpyHtoD_v2(va, out, sizeof out));
    OK(cuMemcpyDtoH_v2(in, va, sizeof in));
    CHECK(memcmp(in, out, sizeof in) == 0);
    OK(cuMemGetAddressRange_v2(&base, &n, va + GRANULE + 7));
    CHECK_IS(va + GRANULE, base);
    CHECK_IS(GRANULE, n);
    /* zeroed is zeroed, in whole pages as well, for whoever looks */
    OK(cuMemsetD8_v2(va, 0, 4 * GRANULE));
    OK(cuMemcpyDtoH_v2(in, va, sizeof in));
    for (size_t i = 0; i < sizeof in; i++)
        CHECK(in[i] == 0);
    OK(cuCtxCreate_v2(&later, 0, 0)); /* access is the device's: contexts made later have it */
    OK(cuMemsetD8_v2(va, 5, GRANULE));
    OK(cuCtxDestroy_v2(later));
    OK(cuMemUnmap(va + GRANULE, 2 * GRANULE));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD_v2(va, out, 2 * GRANULE)); /* over the hole */
    OK(cuMemUnmap(va, GRANULE));
    OK(cuMemUnmap(va + 3 * GRANULE, GRANULE));
    CHECK_IS(CONTEXT, used());
}

/* Host memory: charged to nobody; the CPU reaches it once it was let. */
static void of_the_host(void *arg)
{
    CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                .location = {CU_MEM_LOCATION_TYPE_HOST_NUMA, 0}};
    CUmemAccessDesc desc[2] = {
        {{CU_MEM_LOCATION_TYPE_DEVICE, 0}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE},
        {{CU_MEM_LOCATION_TYPE_HOST_NUMA, 0}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE}};
    CUmemGenericAllocationHandle h;
    unsigned long long flags;
    volatile unsigned *p;
    CUdeviceptr va;
    unsigned word;
    int type;

    context();
    OK(cuMemCreate(&h, 2 * GRANULE, &prop, 0));
    CHECK_IS(CONTEXT, used());
    OK(cuMemAddressReserve(&va, 2 * GRANULE, 0, 0, 0));
    OK(cuMemMap(va, 2 * GRANULE, 0, h, 0));
    OK(cuMemSetAccess(va, 2 * GRANULE, desc, 1));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD_v2(va, (void *)(uintptr_t)va, 4));
    OK(cuMemSetAccess(va, 2 * GRANULE, desc, 2));
    OK(cuMemcpyHtoD_v2(va, (void *)(uintptr_t)(va + GRANULE), 4));
    OK(cuMemGetAccess(&flags, &desc[1].location, va));
    CHECK_IS(3, flags);
    p = (volatile unsigned *)(uintptr_t)va;
    p[100] = 4711;
    OK(cuMemcpyDtoH_v2(&word, va + 400, 4));
    CHECK_IS(4711, word);
    OK(cuMemsetD32_v2(va, 1234, 1000));
    OK(cuCtxSynchronize());
    CHECK_IS(1234, p[999]);
    OK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, va));
    CHECK_IS(CU_MEMORYTYPE_HOST, type);
    desc[1].flags = CU_MEM_ACCESS_FLAGS_PROT_NONE;
    OK(cuMemSetAccess(va, 2 * GRANULE, &desc[1], 1));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoH_v2((void *)(uintptr_t)va, va, 4));
    OK(cuMemUnmap(va, 2 * GRANULE));
    OK(cuMemRelease(h));
    OK(cuMemAddressFree(va, 2 * GRANULE));
}

/* What is unmapped while it is used crashes nobody. */
static _Atomic int copied, copying = 1;

static void *copier(void *arg)
{
    CUdeviceptr va = *(CUdeviceptr *)arg;
    static char host[GRANULE];
    CUcontext ctx;

    OK(cuCtxCreate_v2(&ctx, 0, 0));
    while (atomic_load(&copying)) {
        CUresult r = cuMemcpyHtoD_v2(va, host, sizeof host);

        CHECK(r == CUDA_SUCCESS || r == CUDA_ERROR_INVALID_VALUE);
        atomic_fetch_add(&copied, r == CUDA_SUCCESS);
    }
    return NULL;
}

static void unmapped_in_use(void *arg)
{
    CUmemGenericAllocationHandle h;
    CUdeviceptr va;
    pthread_t thread;
    unsigned seed = 3;

    context();
    OK(cuMemAddressReserve(&va, GRANULE, 0, 0, 0));
    h = make(GRANULE, CU_MEM_HANDLE_TYPE_NONE);
    CHECK(pthread_create(&thread, NULL, copier, &va) == 0);
    for (int i = 0; i < 1000 || (atomic_load(&copied) < 300 && i < 20000); i++) {
        OK(cuMemMap(va, GRANULE, 0, h, 0));
        give_access(va, GRANULE, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
        sleep_ns(below(&seed, 1000) * 1000);
        OK(cuMemUnmap(va, GRANULE));
    }
    atomic_store(&copying, 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(atomic_load(&copied) >= 300);
}

/* ---------------------------------------------------------------------- between processes ------
 */
static bool send_fd(int to, int fd)
{
    char byte = 'f', room[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec io = {&byte, 1};
    struct msghdr m = {
        .msg_iov = &io, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);

    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    return sendmsg(to, &m, 0) == 1;
}

static int receive_fd(int from) /* -1: nobody there any more */
{
    char byte, room[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec io = {&byte, 1};
    struct msghdr m = {
        .msg_iov = &io, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    int fd;

    if (recvmsg(from, &m, 0) != 1 || CMSG_FIRSTHDR(&m) == NULL)
        return -1;
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd);
    return fd;
}

static int pair[2];

static int export_fd(CUmemGenericAllocationHandle h)
{
    int fd;

    OK(cuMemExportToShareableHandle(&fd, h, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
    return fd;
}

static CUmemGenericAllocationHandle import_fd(int fd)
{
    CUmemGenericAllocationHandle h;

    OK(cuMemImportFromShareableHandle(&h, (void *)(intptr_t)fd,
                                      CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
    return h;
}

static CUdeviceptr map_all(CUmemGenericAllocationHandle h, uint64_t bytes)
{
    CUdeviceptr va;

    OK(cuMemAddressReserve(&va, bytes, 0, 0, 0));
    OK(cuMemMap(va, bytes, 0, h, 0));
    give_access(va, bytes, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
    return va;
}

static void exporter(void *arg)
{
    CUmemGenericAllocationHandle h;
    CUdeviceptr va;
    int fd;
    char byte;

    context();
    h = make(4 * GRANULE, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
    va = map_all(h, 4 * GRANULE);
    OK(cuMemsetD32_v2(va, 99, GRANULE));
    OK(cuCtxSynchronize());
    fd = export_fd(h);
    CHECK(send_fd(pair[0], fd));
    close(fd);
    CHECK(read(pair[0], &byte, 1) == 1);
    OK(cuMemcpyDtoH_v2(&fd, va + 8, 4));
    CHECK_IS(4242, fd);
    CHECK_IS(4 * GRANULE, my_ledger().mem_bytes); /* the owner is charged */
    CHECK(write(pair[0], &byte, 1) == 1);
    for (;;)
        sleep_ns(1000 * MS);
}

static void owner_dies_first(void *arg)
{
    CUmemGenericAllocationHandle h;
    CUmemAllocationProp prop;
    CUdeviceptr va;
    unsigned word;
    char byte = 'x';
    pid_t pid;
    int fd;

    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    pid = child(exporter, NULL);
    close(pair[0]);
    context();
    fd = receive_fd(pair[1]);
    CHECK(fd >= 0);
    h = import_fd(fd);
    OK(cuMemGetAllocationPropertiesFromHandle(&prop, h));
    CHECK_IS(CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, prop.requestedHandleTypes);
    close(fd);
    va = map_all(h, 4 * GRANULE);
    OK(cuMemcpyDtoH_v2(&word, va + 8, 4));
    CHECK_IS(99, word);
    OK(cuMemsetD32_v2(va + 8, 4242, 1));
    OK(cuCtxSynchronize());
    CHECK_IS(0, my_ledger().mem_bytes);
    CHECK(write(pair[1], &byte, 1) == 1 && read(pair[1], &byte, 1) == 1);
    CHECK_IS(2 * CONTEXT + 4 * GRANULE, used());
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    CHECK_IS(CONTEXT + 4 * GRANULE, used()); /* somebody has it still */
    OK(cuMemcpyDtoH_v2(&word, va + 8, 4));
    CHECK_IS(4242, word);
    OK(cuMemRelease(h));
    CHECK_IS(CONTEXT + 4 * GRANULE, used());
    OK(cuMemUnmap(va, 4 * GRANULE));
    CHECK_IS(CONTEXT, used());
}

/* A descriptor alone keeps the memory, as documented; so long as its exporter lives. */
static void descriptor_keeps_it(void *arg)
{
    CUmemGenericAllocationHandle h;
    CUdeviceptr va;
    unsigned word;
    int fd, copy;

    context();
    h = make(GRANULE, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
    va = map_all(h, GRANULE);
    OK(cuMemsetD32_v2(va, 31, 1));
    OK(cuCtxSynchronize());
    fd = export_fd(h);
    copy = dup(fd);
    OK(cuMemRelease(h));
    OK(cuMemUnmap(va, GRANULE));
    close(fd);
    CHECK_IS(CONTEXT + GRANULE, used());
    h = import_fd(copy);
    va = map_all(h, GRANULE);
    OK(cuMemcpyDtoH_v2(&word, va, 4));
    CHECK_IS(31, word);
    OK(cuMemRelease(h));
    OK(cuMemUnmap(va, GRANULE));
    CHECK_IS(CONTEXT + GRANULE, used());
    close(copy);
    CHECK_IS(CONTEXT, used());
    /* what is no such descriptor, or none at all */
    fd = open("/dev/null", O_RDWR);
    CHECK_IS(CUDA_ERROR_INVALID_VALUE,
             cuMemImportFromShareableHandle(&h, (void *)(intptr_t)fd,
                                            CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
    close(fd);
    CHECK_IS(CUDA_ERROR_INVALID_VALUE,
             cuMemImportFromShareableHandle(&h, (void *)(intptr_t)fd,
                                            CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
    CHECK_IS(CUDA_ERROR_NOT_SUPPORTED,
             cuMemImportFromShareableHandle(&h, &fd, CU_MEM_HANDLE_TYPE_FABRIC));
}

/* Cutting the file under an importer would be a signal in it. */
static void file_cannot_be_cut(void *arg)
{
    int fd;

    context();
    fd = export_fd(make(GRANULE, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
    CHECK(ftruncate(fd, 0) != 0);
}

/* ------------------------------------------------------------------- killed at any moment ------
 */
#define CROWD 6

static int crowd[CROWD][2]; /* each has a socket that the others send descriptors to */

/* Makes, exports to a random other, imports what came, drops, for ever. */
static void crowd_member(void *arg)
{
    int me = (int)(intptr_t)arg;
    unsigned seed = (unsigned)getpid() * 2654435761u;
    CUmemGenericAllocationHandle have[24];
    int count = 0;
    CUcontext ctx;

    OK(cuInit(0));
    while (cuCtxCreate_v2(&ctx, 0, 0) != CUDA_SUCCESS)
        sleep_ns(MS);
    for (;;) {
        int what = (int)below(&seed, 4);
        CUmemAllocationProp prop = pinned(CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);

        if (what == 0 && count < 24) {
            if (cuMemCreate(&have[count], GRANULE * (1 + below(&seed, 4)), &prop, 0) ==
                CUDA_SUCCESS)
                count++;
        } else if (what == 1 && count > 0) {
            int fd = export_fd(have[below(&seed, (unsigned)count)]);

            send_fd(crowd[below(&seed, CROWD)][0], fd);
            close(fd);
        } else if (what == 2 && count < 24) {
            int fd = receive_fd(crowd[me][1]);

            if (fd < 0)
                continue;
            if (cuMemImportFromShareableHandle(&have[count], (void *)(intptr_t)fd,
                                               CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) ==
                CUDA_SUCCESS)
                count++;
            close(fd);
        } else if (what == 3 && count > 0) {
            int i = (int)below(&seed, (unsigned)count);

            OK(cuMemRelease(have[i]));
            have[i] = have[--count];
        }
    }
}

/* It had gone on until then: no check of its own had failed. */
static void reap_killed(pid_t pid)
{
    int status;

    CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
}

static int rows_in_use(struct soft_state *state)
{
    int rows = 0;

    for (int i = 0; i < SOFT_MAX_OBJECTS; i++) {
        const struct soft_shared_object *o = &state->map->object[i];

        rows += SOFT_SLOT_IS(atomic_load(&o->word)) != SOFT_SLOT_FREE;
        for (int c = 0; c < SOFT_OBJECT_HOLDERS; c++)
            rows += atomic_load(&o->holder[c]) != 0;
    }
    return rows;
}

static void killed_while_sharing(void *arg)
{
    struct soft_state *state;
    char why[256];
    pid_t pid[CROWD];
    unsigned seed = 5;
    int most = 0;

    for (int i = 0; i < CROWD; i++) {
        CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, crowd[i]) == 0);
        for (int end = 0; end < 2; end++)
            CHECK(fcntl(crowd[i][end], F_SETFL, O_NONBLOCK) == 0);
    }
    state = soft_state_open(why, sizeof why);
    CHECK(state != NULL);
    for (int i = 0; i < CROWD; i++)
        pid[i] = child(crowd_member, (void *)(intptr_t)i);
    for (int round = 0; round < 150; round++) {
        int v = (int)below(&seed, CROWD), rows;

        sleep_ns(below(&seed, 20) * MS);
        kill(pid[v], round % 3 == 0 ? SIGSTOP : SIGKILL);
        if (round % 3 == 0) { /* stands still for a while: the others go on with what it began */
            sleep_ns(10 * MS);
            kill(pid[v], SIGCONT);
        } else {
            reap_killed(pid[v]);
            pid[v] = child(crowd_member, (void *)(intptr_t)v);
        }
        CHECK(soft_state_used_bytes(state, 0) <= 1024ull << 20);
        rows = rows_in_use(state);
        most = rows > most ? rows : most;
    }
    CHECK(most > 10);
    for (int i = 0; i < CROWD; i++)
        kill(pid[i], SIGKILL);
    for (int i = 0; i < CROWD; i++)
        reap_killed(pid[i]);
    CHECK_IS(0, soft_state_used_bytes(state, 0));
    CHECK_IS(0, rows_in_use(state));
}

/* Many come and go at one row, so that who joins meets who ends it: whoever was let in finds it
 * alive, and charged, until he leaves. */
struct row {
    _Atomic uint64_t row, word; /* may not fit each other, or be long gone */
    _Atomic int joined, gone, wrong;
};

static struct row *the_row;

static void comer(void *arg)
{
    struct soft_state *state;

    OK(cuInit(0));
    state = soft_the_state;
    CHECK(soft_slot_take(state) >= 0);
    for (;;) {
        int row = (int)atomic_load(&the_row->row);
        uint64_t word = atomic_load(&the_row->word);

        if (soft_object_join(state, row, word) != 0) {
            atomic_fetch_add(&the_row->gone, 1);
            row = soft_object_make(state, 0, 3 * GRANULE, &word);
            CHECK(row >= 0);
            atomic_store(&the_row->row, (uint64_t)row);
            atomic_store(&the_row->word, word);
        } else {
            atomic_fetch_add(&the_row->joined, 1);
        }
        for (int i = 0; i < 3; i++) {
            uint64_t now = atomic_load(&state->map->object[row].word);

            if (!SOFT_OBJECT_SAME(now, word) || SOFT_SLOT_IS(now) == SOFT_SLOT_FREE ||
                SOFT_SLOT_IS(now) == SOFT_SLOT_DRAINING ||
                soft_hold_bytes(state, 0, SOFT_MAX_SLOTS + row) != 3 * GRANULE)
                atomic_fetch_add(&the_row->wrong, 1);
        }
        soft_object_leave(state, row, word);
    }
}

static void join_at_the_last_moment(void *arg)
{
    struct soft_state *state;
    char why[256];
    pid_t pid[CROWD];
    unsigned seed = 11;

    the_row = shared_page();
    state = soft_state_open(why, sizeof why);
    CHECK(state != NULL);
    for (int i = 0; i < CROWD; i++)
        pid[i] = child(comer, NULL);
    for (int round = 0; round < 300; round++) {
        int v = (int)below(&seed, CROWD);

        sleep_ns(below(&seed, 8000) * 1000);
        if (round % 4 != 0) {
            kill(pid[v], SIGSTOP);
            sleep_ns(below(&seed, 8000) * 1000);
            kill(pid[v], SIGCONT);
        } else {
            kill(pid[v], SIGKILL);
            reap_killed(pid[v]);
            pid[v] = child(comer, NULL);
        }
    }
    for (int i = 0; i < CROWD; i++)
        kill(pid[i], SIGKILL);
    for (int i = 0; i < CROWD; i++)
        reap_killed(pid[i]);
    CHECK(atomic_load(&the_row->joined) > 1000 && atomic_load(&the_row->gone) > 1000);
    CHECK_IS(0, atomic_load(&the_row->wrong));
    CHECK_IS(0, soft_state_used_bytes(state, 0));
    CHECK_IS(0, rows_in_use(state));
}

/* ------------------------------------------------- the rows themselves, a step at a time --------
 */
/* Someone looked at the cells, found nobody, and sleeps: what happens to the row meanwhile must
 * not let it take from those who came. */
static void late_joiner(void *arg)
{
    struct soft_state *state;
    struct soft_shared_object *o;
    uint64_t word, next, owner;
    int row;

    context();
    state = soft_the_state;
    owner = atomic_load(&state->map->slot[state->slot].state) >> 8 << 16 |
            (uint64_t)(unsigned)(state->slot + 1);
    row = soft_object_make(state, 0, 3 * GRANULE, &word);
    CHECK(row >= 0);
    o = &state->map->object[row];
    CHECK_IS(CONTEXT + 3 * GRANULE, used());
    /* a sleeper took it from LIVE as the last holder left; somebody joins */
    atomic_store(&o->holder[0], 0);
    atomic_store(&o->word, (word & ~0xffull) | SOFT_SLOT_RETIRING);
    OK((CUresult)soft_object_join(state, row, word));
    next = atomic_load(&o->word);
    CHECK_IS(SOFT_SLOT_LIVE, SOFT_SLOT_IS(next));
    /* the sleeper wakes, and has not the word that it would need */
    soft_hold_retire(state, 0, SOFT_MAX_SLOTS + row, (word & ~0xffull) | SOFT_SLOT_DRAINING);
    CHECK_IS(CONTEXT + 3 * GRANULE, used());
    /* once it drains nobody joins */
    atomic_store(&o->holder[0], 0);
    atomic_store(&o->word, (next & ~0xffull) | SOFT_SLOT_DRAINING);
    CHECK_IS(-ENOENT, soft_object_join(state, row, word));
    CHECK_IS(CONTEXT, used());
    CHECK_IS(0, rows_in_use(state));
    /* who comes with the name of a use long gone leaves the next one alone */
    CHECK_IS(row, soft_object_make(state, 0, GRANULE, &next));
    CHECK_IS(-ENOENT, soft_object_join(state, row, word));
    CHECK_IS(owner, atomic_load(&o->holder[0]));
    CHECK_IS(0, atomic_load(&o->holder[1]));
    soft_object_leave(state, row, word); /* nor does his leaving */
    CHECK_IS(CONTEXT + GRANULE, used());
    soft_object_leave(state, row, next);
    CHECK_IS(CONTEXT, used());
    CHECK_IS(0, rows_in_use(state));
}

int main(void)
{
    test_run("charged till the last", "tiny", "0", charged_till_the_last);
    test_run("refusals", "tiny", "0", refusals);
    test_run("side by side", "tiny", "0", side_by_side);
    test_run("of the host", "tiny", "0", of_the_host);
    test_run("unmapped in use", "tiny", "0", unmapped_in_use);
    test_run("owner dies first", "tiny", "0", owner_dies_first);
    test_run("descriptor keeps it", "tiny", "0", descriptor_keeps_it);
    test_run("file cannot be cut", "tiny", "0", file_cannot_be_cut);
    test_run("late joiner", "tiny", "0", late_joiner);
    test_run("join at the last moment", "tiny", "0", join_at_the_last_moment);
    test_run("killed while sharing", "tiny", "0", killed_while_sharing);
    return 0;
}
