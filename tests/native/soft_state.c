/* SPDX-License-Identifier: Apache-2.0
 *
 * The machine-wide state: memory of many processes, death at any moment, teardown, creation races,
 * slots, names of what went wrong.
 */
#include "soft_test.h"

#include <fcntl.h>
#include <sys/stat.h>

#define TOTAL (1024ull << 20)

struct shared {
    _Atomic int ready, stop;
    _Atomic int oom, got;
    _Atomic uint64_t bytes;
};

static struct shared *sh;

static uint64_t free_bytes(void)
{
    size_t f, t;

    OK(cuMemGetInfo_v2(&f, &t));
    CHECK_IS(TOTAL, t);
    return f;
}

static void holder(void *arg)
{
    CUdeviceptr p;

    context();
    OK(cuMemAlloc_v2(&p, 500ull << 20));
    atomic_store(&sh->ready, 1);
    for (;;)
        sleep_ns(1000 * MS);
}

static pid_t start_holder(void)
{
    pid_t pid;

    atomic_store(&sh->ready, 0);
    pid = child(holder, NULL);
    while (!atomic_load(&sh->ready))
        sleep_ns(MS);
    return pid;
}

static void look_at_holder(void *arg)
{
    context();
    CHECK_IS(TOTAL - 2 * CONTEXT - (500ull << 20), free_bytes());
}

static void killed_memory(uint64_t teardown_ms)
{
    pid_t pid;
    uint64_t t;
    CUdeviceptr p;

    sh = shared_page();
    pid = start_holder();
    reap_ok(child(look_at_holder, NULL));
    context();
    CHECK_IS(TOTAL - 2 * CONTEXT - (500ull << 20), free_bytes());
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    t = soft_now_ns();
    if (teardown_ms == 0) {
        CHECK_IS(TOTAL - CONTEXT, free_bytes());
        OK(cuMemAlloc_v2(&p, 900ull << 20));
        return;
    }
    CHECK_IS(TOTAL - 2 * CONTEXT - (500ull << 20), free_bytes());
    CHECK_IS(CUDA_ERROR_OUT_OF_MEMORY, cuMemAlloc_v2(&p, 900ull << 20));
    while (cuMemAlloc_v2(&p, 900ull << 20) != CUDA_SUCCESS)
        sleep_ns(5 * MS);
    CHECK_BETWEEN(teardown_ms * MS, (teardown_ms + 500) * MS, soft_now_ns() - t);
    CHECK_IS(TOTAL - CONTEXT - (900ull << 20), free_bytes());
}

static void killed_memory_at_once(void *arg)
{
    killed_memory(0);
}

static void killed_memory_after_teardown(void *arg)
{
    killed_memory(300);
}

/* Nobody looked since the death: the device is full of the dead for this call only. */
static void killed_unseen(void *arg)
{
    pid_t pid;
    CUdeviceptr p;

    sh = shared_page();
    pid = start_holder();
    context();
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    OK(cuMemAlloc_v2(&p, 900ull << 20));
    CHECK_IS(TOTAL - CONTEXT - (900ull << 20), free_bytes());
}

/* The same for memory that can be exported. */
static void killed_unseen_shareable(void *arg)
{
    CUmemAllocationProp prop = {
        .type = CU_MEM_ALLOCATION_TYPE_PINNED,
        .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
        .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0},
    };
    CUmemGenericAllocationHandle h;
    pid_t pid;

    sh = shared_page();
    pid = start_holder();
    context();
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    OK(cuMemCreate(&h, 900ull << 20, &prop, 0));
    CHECK_IS(TOTAL - CONTEXT - (900ull << 20), free_bytes());
}

/* Without a context, managed memory of another one gives way all the same. */
static void no_context_reclaims(void *arg)
{
    CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};
    CUmemGenericAllocationHandle h;
    CUcontext ctx;
    CUdeviceptr p;

    context();
    OK(cuMemAllocManaged(&p, 500ull << 20, CU_MEM_ATTACH_GLOBAL));
    OK(cuMemPrefetchAsync(p, 500ull << 20, 0, NULL));
    OK(cuCtxSynchronize());
    CHECK_IS(TOTAL - CONTEXT - (500ull << 20), free_bytes());
    OK(cuCtxPopCurrent_v2(&ctx));
    OK(cuMemCreate(&h, 900ull << 20, &prop, 0));
    OK(cuCtxPushCurrent_v2(ctx));
    CHECK(free_bytes() <= TOTAL - CONTEXT - (900ull << 20));
}

static void leaver(void *arg)
{
    CUdeviceptr p;

    context();
    OK(cuMemAlloc_v2(&p, 500ull << 20));
    launch(NULL, 10000 * MS, 0); /* a process may exit with work under way, and does not hang */
}

static void exited_memory_is_back(void *arg)
{
    uint64_t t = soft_now_ns();

    reap_ok(child(leaver, NULL));
    CHECK_BETWEEN(0, 2000 * MS, soft_now_ns() - t);
    context();
    CHECK_IS(TOTAL - CONTEXT, free_bytes());
}

/* 16 processes fight for the last bytes and die at random: never more than there is is handed out,
 * and at the end all is back. */
static void fight(void)
{
    unsigned seed = (unsigned)getpid();
    static CUdeviceptr p[64];

    for (int i = 0; i < 3000; i++) {
        int k = (int)(rand_r(&seed) % 64);

        if (p[k] != 0) {
            OK(cuMemFree_v2(p[k]));
            p[k] = 0;
        } else {
            CUresult r = cuMemAlloc_v2(&p[k], (size_t)(1 + rand_r(&seed) % 16) << 20);

            CHECK(r == CUDA_SUCCESS || r == CUDA_ERROR_OUT_OF_MEMORY);
            atomic_fetch_add(r == CUDA_SUCCESS ? &sh->got : &sh->oom, 1);
            if (r != CUDA_SUCCESS)
                p[k] = 0;
        }
    }
}

static void enter_fight(void)
{
    CUcontext ctx;

    OK(cuInit(0));
    while (cuCtxCreate_v2(&ctx, 0, 0) == CUDA_ERROR_OUT_OF_MEMORY)
        sleep_ns(MS);
}

static void fighter(void *arg)
{
    enter_fight();
    fight();
}

static void endless_fighter(void *arg)
{
    enter_fight();
    for (;;)
        fight();
}

static void watch_totals(pid_t *pid, int count)
{
    struct soft_slot *slots = calloc(SOFT_MAX_SLOTS, sizeof *slots);
    char why[256];
    struct soft_state *state = soft_state_open(why, sizeof why);
    unsigned seed = 1;

    CHECK(state != NULL && slots != NULL);
    for (int i = 0; i < 60; i++) {
        uint64_t sum = 0;
        int n = soft_state_slots(state, slots, SOFT_MAX_SLOTS);

        for (int s = 0; s < n; s++)
            sum += slots[s].dev[0].mem_bytes + slots[s].dev[0].context_bytes;
        CHECK(sum <= TOTAL);
        CHECK(soft_state_used_bytes(state, 0) <= TOTAL);
        if (i % 4 == 3) { /* a victim, and one in its place */
            int v = rand_r(&seed) % count;

            kill(pid[v], SIGKILL);
            waitpid(pid[v], NULL, 0);
            pid[v] = child(fighter, NULL);
        }
        sleep_ns(5 * MS);
    }
    free(slots);
    for (int i = 0; i < count; i++)
        kill(pid[i], SIGKILL);
    for (int i = 0; i < count; i++)
        waitpid(pid[i], NULL, 0);
    CHECK_IS(0, soft_state_used_bytes(state, 0));
}

static void totals_hold_whoever_dies(void *arg)
{
    pid_t pid[16];

    sh = shared_page();
    for (int i = 0; i < 16; i++)
        pid[i] = child(fighter, NULL);
    watch_totals(pid, 16);
    CHECK(atomic_load(&sh->got) > 500);
    CHECK(atomic_load(&sh->oom) > 50);
}

static void forked(void *arg)
{
    int n;
    CUdeviceptr p;

    CHECK_IS(CUDA_ERROR_NOT_INITIALIZED, cuInit(0));
    CHECK_IS(CUDA_ERROR_NOT_INITIALIZED, cuDeviceGetCount(&n));
    CHECK_IS(CUDA_ERROR_NOT_INITIALIZED, cuMemAlloc_v2(&p, 4));
    CHECK_IS(CUDA_ERROR_NOT_INITIALIZED, cuCtxSynchronize());
}

/* Like a driver's own code, an allocation cannot be stopped half-way: a process that stands still,
 * wherever it was stopped, holds nobody up; and what the device says is in use is what the slots
 * say they have, to the byte. */
static void stopped_hold_nobody_up(void *arg)
{
    enum { N = 8 };
    pid_t pid[N];
    char why[256];
    struct soft_state *state = soft_state_open(why, sizeof why);
    struct soft_slot slots[2 * N];
    int stuck = 0;

    CHECK(state != NULL);
    sh = shared_page();
    for (int i = 0; i < N; i++)
        pid[i] = child(endless_fighter, NULL);
    while (atomic_load(&sh->got) < 100 || soft_state_slots(state, slots, 2 * N) < N)
        sleep_ns(MS);
    for (int round = 0; round < 100; round++) {
        int before;

        kill(pid[round % N], SIGSTOP);
        before = atomic_load(&sh->got);
        for (int ms = 0; ms < 500 && atomic_load(&sh->got) < before + 50; ms++)
            sleep_ns(MS);
        stuck += atomic_load(&sh->got) < before + 50;
        kill(pid[round % N], SIGCONT);
        if (round % 10 == 0) { /* all stand: the sums agree */
            uint64_t sum = 0;
            int n;

            for (int i = 0; i < N; i++)
                kill(pid[i], SIGSTOP);
            for (int i = 0; i < N; i++) {
                int status;

                waitpid(pid[i], &status, WUNTRACED);
            }
            n = soft_state_slots(state, slots, 2 * N);
            CHECK_IS(N, n);
            for (int i = 0; i < n; i++)
                sum += slots[i].dev[0].mem_bytes + slots[i].dev[0].context_bytes;
            CHECK_IS(sum, soft_state_used_bytes(state, 0));
            for (int i = 0; i < N; i++)
                kill(pid[i], SIGCONT);
        }
    }
    for (int i = 0; i < N; i++)
        kill(pid[i], SIGKILL);
    for (int i = 0; i < N; i++)
        waitpid(pid[i], NULL, 0);
    CHECK_IS(0, soft_state_used_bytes(state, 0));
    CHECK_IS(0, stuck);
}

/* Another user of the machine: shares the device, whoever made the state. */
static void as_nobody(void *arg)
{
    CHECK(setgid(65534) == 0 && setuid(65534) == 0);
    context();
    launch(NULL, 30 * MS, 0);
    atomic_store(&sh->ready, 1);
    OK(cuCtxSynchronize());
    CHECK_IS(arg != NULL ? TOTAL - 2 * CONTEXT : TOTAL - CONTEXT, free_bytes());
    while (!atomic_load(&sh->stop))
        sleep_ns(MS);
}

static void two_users(void *arg)
{
    pid_t pid;

    if (geteuid() != 0) {
        fprintf(stderr, "  not root: left out\n");
        return;
    }
    sh = shared_page();
    CHECK(chmod(test_dir, 01777) == 0);
    umask(077);
    pid = child(as_nobody, NULL); /* makes the state */
    while (!atomic_load(&sh->ready))
        sleep_ns(MS);
    sleep_ns(60 * MS);
    context();
    launch(NULL, 5 * MS, 0);
    OK(cuCtxSynchronize());
    CHECK_IS(TOTAL - 2 * CONTEXT, free_bytes());
    atomic_store(&sh->stop, 1);
    reap_ok(pid);
    CHECK_IS(TOTAL - CONTEXT, free_bytes());
    reap_ok(child(forked, NULL));
}

/* Whoever comes first makes the file; whoever comes at the same time takes that one. */
static void racer(void *arg)
{
    while (!atomic_load(&sh->ready))
        sleep_ns(10000);
    context();
    atomic_fetch_add(&sh->bytes, CONTEXT);
    while (!atomic_load(&sh->stop))
        sleep_ns(MS);
    CHECK_IS(TOTAL - atomic_load(&sh->bytes), free_bytes());
    atomic_fetch_add(&sh->got, 1);
    while (atomic_load(&sh->got) < 24)
        sleep_ns(MS);
}

static void creation_race(void *arg)
{
    pid_t pid[24];
    struct stat st;
    char path[128];

    sh = shared_page();
    umask(077);
    for (int i = 0; i < 24; i++)
        pid[i] = child(racer, NULL);
    atomic_store(&sh->ready, 1);
    while (atomic_load(&sh->bytes) < 24 * CONTEXT)
        sleep_ns(MS);
    atomic_store(&sh->stop, 1);
    for (int i = 0; i < 24; i++)
        reap_ok(pid[i]);
    /* for all users, whatever the umask */
    snprintf(path, sizeof path, "%s/state", test_dir);
    CHECK(stat(path, &st) == 0);
    CHECK_IS(0666, st.st_mode & 0777);
}

static void visitor(void *arg)
{
    CUdeviceptr p;

    context();
    OK(cuMemAlloc_v2(&p, 2 << 20));
    launch(NULL, MS / 100, 0);
    OK(cuCtxSynchronize());
    if ((intptr_t)arg % 3 == 0)
        kill(getpid(), SIGKILL);
    if ((intptr_t)arg % 3 == 1)
        _exit(0);
}

/* More processes than there are slots, one after the other, most of them dying badly. */
static void slots_come_back(void *arg)
{
    struct soft_gone *gone = calloc(SOFT_GONE, sizeof *gone);
    struct soft_state *state;
    char why[256];
    int n;

    CHECK(gone != NULL);
    for (int i = 0; i < 1100; i += 10) {
        pid_t pid[10];

        for (int k = 0; k < 10; k++)
            pid[k] = child(visitor, (void *)(intptr_t)(i + k));
        for (int k = 0; k < 10; k++)
            waitpid(pid[k], NULL, 0);
    }
    state = soft_state_open(why, sizeof why);
    CHECK(state != NULL);
    CHECK_IS(0, soft_state_used_bytes(state, 0));
    n = soft_state_gone(state, gone, SOFT_GONE);
    CHECK_IS(1100, n);
    for (int i = 0; i < n; i++) {
        CHECK_IS(1, gone[i].dev[0].launches);
        CHECK_BETWEEN(10000, 500 * MS, gone[i].dev[0].busy_ns[SOFT_COMPUTE]);
        CHECK_IS(CONTEXT + (2 << 20), gone[i].dev[0].peak_bytes);
    }
    free(gone);
    context();
    CHECK(soft_the_state->slot < 64);
}

static void bad_files(void *arg)
{
    char path[128], why[512] = "";
    int fd;

    snprintf(path, sizeof path, "%s/state", test_dir);
    fd = open(path, O_WRONLY | O_CREAT, 0666);
    CHECK(fd >= 0);
    CHECK(ftruncate(fd, 100000) == 0);
    close(fd);
    CHECK(soft_state_open(why, sizeof why) == NULL);
    CHECK(strstr(why, "remedy") != NULL && strstr(why, test_dir) != NULL);
    unlink(path);
    setenv("HARP_SOFT_DEVICES", "tiny,h200", 1);
    CHECK(soft_state_open(why, sizeof why) == NULL);
    CHECK(strstr(why, "h200") != NULL && strstr(why, "remedy") != NULL);
    setenv("HARP_SOFT_DIR", "/proc/nothing/here", 1);
    setenv("HARP_SOFT_DEVICES", "tiny", 1);
    CHECK(soft_state_open(why, sizeof why) == NULL);
    CHECK(strstr(why, "remedy") != NULL);
    CHECK_IS(CUDA_ERROR_UNKNOWN, cuInit(0));
    setenv("HARP_SOFT_DIR", test_dir, 1);
    OK(cuInit(0));
}

static void no_devices(void *arg)
{
    int n;

    CHECK_IS(CUDA_ERROR_NO_DEVICE, cuInit(0));
    CHECK_IS(CUDA_ERROR_NOT_INITIALIZED, cuDeviceGetCount(&n));
    CHECK_IS(0, cuDriverGetVersion(&n));
    CHECK_IS(13000, n);
}

/* A child has no driver; its end takes nothing from the parent. */
static void fork_has_no_driver(void *arg)
{
    CUdeviceptr p;

    context();
    OK(cuMemAlloc_v2(&p, 100 << 20));
    reap_ok(child(forked, NULL));
    CHECK_IS(TOTAL - CONTEXT - (100 << 20), free_bytes());
    launch(NULL, MS, 0);
    OK(cuCtxSynchronize());
}

static CUresult *after_the_end; /* in shared memory; set: write the answers there */

/* Runs after the driver's own destructor. */
__attribute__((destructor(101))) static void last_words(void)
{
    CUdeviceptr p;

    if (after_the_end == NULL)
        return;
    after_the_end[0] = cuMemAlloc_v2(&p, 4);
    after_the_end[1] = cuCtxSynchronize();
    after_the_end[2] = cuInit(0);
    after_the_end[3] = CUDA_ERROR_UNKNOWN; /* it came this far */
}

static void ends(void *arg)
{
    context();
    after_the_end = (CUresult *)(void *)sh;
    launch(NULL, 10000 * MS, 0);
}

static void calls_after_the_end(void *arg)
{
    CUresult *said;

    sh = shared_page();
    said = (CUresult *)(void *)sh;
    reap_ok(child(ends, NULL));
    for (int i = 0; i < 3; i++)
        CHECK_IS(CUDA_ERROR_DEINITIALIZED, said[i]);
    CHECK_IS(CUDA_ERROR_UNKNOWN, said[3]);
}

int main(void)
{
    test_run("killed: memory at once", "tiny", "0", killed_memory_at_once);
    test_run("killed: memory after teardown", "tiny", "300", killed_memory_after_teardown);
    test_run("killed: nobody looked, memory is there", "tiny", "50", killed_unseen);
    test_run("killed: nobody looked, shareable memory is there", "tiny", "50",
             killed_unseen_shareable);
    test_run("no context: managed memory gives way", "tiny", "0", no_context_reclaims);
    test_run("exited: memory is back", "tiny", "10000", exited_memory_is_back);
    test_run("totals hold whoever dies", "tiny", "0", totals_hold_whoever_dies);
    test_run("stopped ones hold nobody up", "tiny", "0", stopped_hold_nobody_up);
    test_run("two users", "tiny", "0", two_users);
    test_run("creation race", "tiny", "0", creation_race);
    test_run("slots come back", "tiny", "0", slots_come_back);
    test_run("bad files", "tiny", "0", bad_files);
    test_run("no devices", "", "0", no_devices);
    test_run("calls after the end", "tiny", "0", calls_after_the_end);
    test_run("fork has no driver", "tiny", "0", fork_has_no_driver);
    return 0;
}
