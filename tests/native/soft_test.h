/* SPDX-License-Identifier: Apache-2.0
 *
 * Harness of the software GPU's C tests: a private state folder, children, and a kernel that is
 * nothing but modelled time (or real work, cut into blocks that poll).
 */
#ifndef SOFT_TEST_H
#define SOFT_TEST_H

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "soft/gpu/arena.h"
#include "soft/gpu/context.h"
#include "soft/gpu/space.h"

#define MS      1000000ull
#define MIB     (1ull << 20)
#define GRANULE (2ull << 20)
#define CONTEXT (24ull << 20) /* of the tiny profile */

#define CHECK(cond)                                                                                \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #cond);                     \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

#define CHECK_IS(want, got)                                                                        \
    do {                                                                                           \
        long long want_ = (long long)(want), got_ = (long long)(got);                              \
        if (want_ != got_) {                                                                       \
            fprintf(stderr, "%s:%d: %s is %lld, should be %lld\n", __FILE__, __LINE__, #got, got_, \
                    want_);                                                                        \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

#define OK(call) CHECK_IS(CUDA_SUCCESS, call)

#define CHECK_BETWEEN(lo, hi, got)                                                                 \
    do {                                                                                           \
        double got_ = (double)(got);                                                               \
        if (!(got_ >= (double)(lo) && got_ <= (double)(hi))) {                                     \
            fprintf(stderr, "%s:%d: %s is %g, should be in %g..%g\n", __FILE__, __LINE__, #got,    \
                    got_, (double)(lo), (double)(hi));                                             \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

static char test_dir[64];

static inline void test_cleanup(void)
{
    char path[128];

    snprintf(path, sizeof path, "%s/state", test_dir);
    unlink(path);
    snprintf(path, sizeof path, "%s/slots", test_dir);
    unlink(path);
    snprintf(path, sizeof path, "%s/faults", test_dir);
    unlink(path);
    rmdir(test_dir);
}

/* A fresh machine with these devices. Children inherit it; this process must not use it itself
 * before it has forked them. */
static inline void test_machine(const char *devices, const char *teardown_ms)
{
    snprintf(test_dir, sizeof test_dir, "/dev/shm/harp-test-XXXXXX");
    CHECK(mkdtemp(test_dir) != NULL);
    setenv("HARP_SOFT_DIR", test_dir, 1);
    setenv("HARP_SOFT_DEVICES", devices, 1);
    setenv("HARP_SOFT_TEARDOWN_MS", teardown_ms, 1);
    unsetenv("CUDA_VISIBLE_DEVICES");
}

static inline void sleep_ns(uint64_t ns)
{
    struct timespec t = {(time_t)(ns / 1000000000ull), (long)(ns % 1000000000ull)};

    while (nanosleep(&t, &t) != 0 && errno == EINTR) {
    }
}

/* Runs `fn` in a child that exits 0 if no check failed. */
static inline pid_t child(void (*fn)(void *), void *arg)
{
    pid_t pid = fork();

    CHECK(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* a failed test leaves nobody behind */
        fn(arg);
        exit(0);
    }
    return pid;
}

static inline void reap_ok(pid_t pid)
{
    int status;

    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* Each test gets a machine of its own and a process of its own. What measures a host that others
 * use as well is tried up to `tries` times. */
static inline void test_try(const char *name, const char *devices, const char *teardown_ms,
                            void (*fn)(void *), int tries)
{
    pid_t pid;
    int status = 1;

    for (int i = 0; i < tries && status != 0; i++) {
        test_machine(devices, teardown_ms);
        pid = child(fn, NULL);
        CHECK(waitpid(pid, &status, 0) == pid);
        test_cleanup();
        fprintf(stderr, "%s %s\n", status == 0 ? "ok  " : i + 1 < tries ? "again" : "FAIL", name);
    }
    if (status != 0)
        _exit(1);
}

static inline void test_run(const char *name, const char *devices, const char *teardown_ms,
                            void (*fn)(void *))
{
    test_try(name, devices, teardown_ms, fn, 1);
}

static inline void test_run_noisy(const char *name, const char *devices, const char *teardown_ms,
                                  void (*fn)(void *))
{
    test_try(name, devices, teardown_ms, fn, 3);
}

static inline void *shared_page(void)
{
    void *p = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    CHECK(p != MAP_FAILED);
    return p;
}

/* ------------------------------------------------------------------------------ test kernel -- */
struct test_kernel {
    struct soft_cmd cmd;
    uint64_t modelled_ns;
    uint64_t burn_ns; /* real work, in blocks of 200 us that poll */
    CUresult result;
    _Atomic int *ran;
};

static inline CUresult test_kernel_run(struct soft_cmd *cmd, struct soft_run *run)
{
    struct test_kernel *k = (struct test_kernel *)cmd;

    run->modelled_ns = k->modelled_ns;
    for (uint64_t done = 0; done < k->burn_ns; done += 200000) {
        uint64_t until;

        if (soft_run_poll(run) != 0)
            return CUDA_SUCCESS;
        until = soft_now_ns() + 200000;
        while (soft_now_ns() < until) {
        }
    }
    if (k->ran != NULL)
        atomic_fetch_add(k->ran, 1);
    soft_ledger_kernel(run->ctx, 1, 0);
    return k->result;
}

static const struct soft_cmd_ops test_kernel_ops = {
    .name = "kernel test", .engine = SOFT_COMPUTE, .run = test_kernel_run};

static inline struct test_kernel *kernel_new(uint64_t modelled_ns, uint32_t sm_ppm)
{
    struct test_kernel *k = calloc(1, sizeof *k);

    CHECK(k != NULL);
    k->cmd.ops = &test_kernel_ops;
    k->cmd.sm_ppm = sm_ppm;
    k->modelled_ns = modelled_ns;
    return k;
}

static inline void launch(CUstream stream, uint64_t modelled_ns, uint32_t sm_ppm)
{
    struct soft_stream *s;

    OK(soft_stream_of(stream, &s));
    OK(soft_submit(s, &kernel_new(modelled_ns, sm_ppm)->cmd));
}

static inline CUcontext context(void)
{
    CUcontext ctx;

    OK(cuInit(0));
    OK(cuCtxCreate_v2(&ctx, 0, 0));
    return ctx;
}

static inline uint64_t used_with_context(void) /* bytes of the current device */
{
    size_t f, t;

    OK(cuMemGetInfo_v2(&f, &t));
    return t - f;
}

static inline uint64_t device_used(void) /* by one context of the tiny profile */
{
    return used_with_context() - CONTEXT;
}

/* How the current context may reach it: SOFT_ACCESS_*. */
static inline unsigned reach_of(CUdeviceptr ptr)
{
    CUcontext ctx;

    OK(cuCtxGetCurrent(&ctx));
    return soft_ctx_of(ctx)->arena->map[(ptr - soft_space.base) / GRANULE];
}

/* What the engine's ledger says of this process. */
static inline struct soft_slot_dev my_ledger_of(int ordinal)
{
    struct soft_slot *slots = calloc(SOFT_MAX_SLOTS, sizeof *slots);
    struct soft_slot_dev dev = {0};
    int n = soft_state_slots(soft_the_state, slots, SOFT_MAX_SLOTS);

    for (int i = 0; i < n; i++)
        if (slots[i].pid == (int32_t)getpid() && slots[i].state == SOFT_SLOT_LIVE)
            dev = slots[i].dev[ordinal];
    free(slots);
    return dev;
}

static inline struct soft_slot_dev my_ledger(void)
{
    return my_ledger_of(0);
}

#endif
