/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory shared by descriptors: who is charged when owners die, and processes killed at any moment.
 */
#include "soft_share_test.h"

#include <fcntl.h>
#include <sys/socket.h>

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
    CHECK_IS(2 * CONTEXT + 4 * GRANULE, used_with_context());
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    CHECK_IS(CONTEXT + 4 * GRANULE, used_with_context()); /* somebody has it still */
    OK(cuMemcpyDtoH_v2(&word, va + 8, 4));
    CHECK_IS(4242, word);
    OK(cuMemRelease(h));
    CHECK_IS(CONTEXT + 4 * GRANULE, used_with_context());
    OK(cuMemUnmap(va, 4 * GRANULE));
    CHECK_IS(CONTEXT, used_with_context());
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
    CHECK_IS(CONTEXT + GRANULE, used_with_context());
    h = import_fd(copy);
    va = map_all(h, GRANULE);
    OK(cuMemcpyDtoH_v2(&word, va, 4));
    CHECK_IS(31, word);
    OK(cuMemRelease(h));
    OK(cuMemUnmap(va, GRANULE));
    CHECK_IS(CONTEXT + GRANULE, used_with_context());
    close(copy);
    CHECK_IS(CONTEXT, used_with_context());
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

int main(void)
{
    test_run("owner dies first", "tiny", "0", owner_dies_first);
    test_run("descriptor keeps it", "tiny", "0", descriptor_keeps_it);
    test_run("file cannot be cut", "tiny", "0", file_cannot_be_cut);
    test_run("killed while sharing", "tiny", "0", killed_while_sharing);
    return 0;
}
