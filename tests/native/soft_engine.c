/* SPDX-License-Identifier: Apache-2.0
 *
 * The compute engine among processes and streams: slices, clocks, ledger, death, stopping.
 */
#include "soft_test.h"

struct shared {
    _Atomic int ready, go, stop;
    _Atomic int launched[64];
    float ms[64];
    uint64_t busy_ns[64];
    pid_t pid[64];
};

static struct shared *sh;

static void gather(int index, int of)
{
    sh->pid[index] = getpid();
    atomic_fetch_add(&sh->ready, 1);
    while (atomic_load(&sh->ready) < of)
        sleep_ns(100000);
}

static void timed_kernel(int index, int of, uint64_t modelled_ns, uint64_t burn_ns)
{
    CUevent a, b;
    struct soft_stream *s;
    struct test_kernel *k;

    context();
    OK(cuEventCreate(&a, 0));
    OK(cuEventCreate(&b, 0));
    launch(NULL, MS / 10, 0); /* threads are up */
    OK(cuCtxSynchronize());
    gather(index, of);
    OK(cuEventRecord(a, NULL));
    OK(soft_stream_of(NULL, &s));
    k = kernel_new(modelled_ns, 0);
    k->burn_ns = burn_ns;
    OK(soft_submit(s, &k->cmd));
    OK(cuEventRecord(b, NULL));
    OK(cuEventSynchronize(b));
    OK(cuEventElapsedTime(&sh->ms[index], a, b));
    sh->busy_ns[index] = my_ledger().busy_ns[SOFT_COMPUTE];
}

static void kernel_20ms(void *arg)
{
    timed_kernel((int)(intptr_t)arg, 2, 20 * MS, 0);
}

/* The one-clock test: each event pair round its own 20 ms kernel holds the other's slices too. */
static void two_processes_share_in_slices(void *arg)
{
    pid_t a, b;

    sh = shared_page();
    a = child(kernel_20ms, (void *)0);
    b = child(kernel_20ms, (void *)1);
    reap_ok(a);
    reap_ok(b);
    fprintf(stderr, "  event pairs %.2f %.2f ms, ledger %.2f %.2f ms\n", (double)sh->ms[0],
            (double)sh->ms[1], (double)sh->busy_ns[0] / 1e6, (double)sh->busy_ns[1] / 1e6);
    for (int i = 0; i < 2; i++) {
        CHECK_BETWEEN(30, 60, sh->ms[i]);
        CHECK_BETWEEN(20.0, 20.6, (double)sh->busy_ns[i] / 1e6);
    }
}

static void kernel_burn(void *arg)
{
    timed_kernel((int)(intptr_t)arg, 2, 0, 20 * MS);
}

/* The same with kernels that really execute: they are suspended at block boundaries, so one
 * executes at a time. */
static void executing_kernels_are_suspended(void *arg)
{
    pid_t a, b;

    sh = shared_page();
    a = child(kernel_burn, (void *)0);
    b = child(kernel_burn, (void *)1);
    reap_ok(a);
    reap_ok(b);
    fprintf(stderr, "  event pairs %.2f %.2f ms, ledger %.2f %.2f ms\n", (double)sh->ms[0],
            (double)sh->ms[1], (double)sh->busy_ns[0] / 1e6, (double)sh->busy_ns[1] / 1e6);
    for (int i = 0; i < 2; i++) {
        CHECK_BETWEEN(28, 9000, sh->ms[i]);
        CHECK_BETWEEN(20.0, 9000, (double)sh->busy_ns[i] / 1e6);
    }
}

/* Timer jitter must not add up: 200 kernels of 200 us take 40 ms by the device's clock. */
static void short_kernels_last_what_they_last(void *arg)
{
    CUevent a, b;
    float ms;
    struct soft_slot_dev before, after;

    context();
    OK(cuEventCreate(&a, 0));
    OK(cuEventCreate(&b, 0));
    launch(NULL, 5 * MS, 0); /* all is queued behind it */
    before = my_ledger();
    OK(cuEventRecord(a, NULL));
    for (int i = 0; i < 200; i++)
        launch(NULL, MS / 5, 0);
    OK(cuEventRecord(b, NULL));
    OK(cuCtxSynchronize());
    OK(cuEventElapsedTime(&ms, a, b));
    after = my_ledger();
    fprintf(stderr, "  %.4f ms, ledger %.4f ms\n", (double)ms,
            (double)(after.busy_ns[0] - before.busy_ns[0]) / 1e6);
    CHECK_BETWEEN(40.0, 41.0, ms);
    CHECK_BETWEEN(44.9, 46.0, (double)after.busy_ns[0] / 1e6);
    CHECK_IS(201, after.launches);
}

static void storm(void *arg)
{
    int index = (int)(intptr_t)arg;

    context();
    gather(index, 3);
    while (!atomic_load(&sh->stop)) {
        for (int i = 0; i < 8; i++)
            launch(NULL, MS, 0);
        OK(cuCtxSynchronize());
    }
    sh->busy_ns[index] = my_ledger().busy_ns[SOFT_COMPUTE];
}

/* Two processes that always want it get the same, and the engine is hardly ever idle. */
static void equal_shares_without_harp(void *arg)
{
    pid_t a, b;
    uint64_t sum;

    sh = shared_page();
    a = child(storm, (void *)0);
    b = child(storm, (void *)1);
    gather(2, 3);
    sleep_ns(1500 * MS);
    atomic_store(&sh->stop, 1);
    reap_ok(a);
    reap_ok(b);
    sum = sh->busy_ns[0] + sh->busy_ns[1];
    fprintf(stderr, "  %.1f and %.1f ms of 1500\n", (double)sh->busy_ns[0] / 1e6,
            (double)sh->busy_ns[1] / 1e6);
    CHECK_BETWEEN(0.42, 0.58, (double)sh->busy_ns[0] / (double)sum);
    CHECK_BETWEEN(1050 * MS, 1620 * MS, sum);
}

static void hog(void *arg)
{
    context();
    launch(NULL, 100000 * MS, 0);
    gather((int)(intptr_t)arg, 2);
    sleep_ns(100000 * MS);
}

static void run_short(void *arg)
{
    uint64_t t = soft_now_ns();

    context();
    launch(NULL, 3 * MS, 0);
    OK(cuCtxSynchronize());
    sh->busy_ns[63] = soft_now_ns() - t;
}

/* The owner is killed in the middle of a kernel: the next gets the engine at once. */
static void killed_owner_lets_go(void *arg)
{
    pid_t owner, next;
    struct soft_state *state;
    char why[256];

    sh = shared_page();
    owner = child(hog, (void *)0);
    gather(1, 2);
    sleep_ns(20 * MS);
    next = child(run_short, NULL);
    sleep_ns(5 * MS);
    kill(owner, SIGKILL);
    waitpid(owner, NULL, 0);
    reap_ok(next);
    CHECK_BETWEEN(3 * MS, 3000 * MS, sh->busy_ns[63]);
    state = soft_state_open(why, sizeof why);
    CHECK(state != NULL);
    CHECK_IS(0, soft_state_used_bytes(state, 0));
}

/* A waiter is killed: the owner is not held up, and the engine is not handed to the dead. */
static void killed_waiter_is_skipped(void *arg)
{
    pid_t a, b, next;

    sh = shared_page();
    for (int round = 0; round < 5; round++) {
        atomic_store(&sh->ready, 0);
        a = child(hog, (void *)0);
        b = child(hog, (void *)0);
        while (atomic_load(&sh->ready) < 2)
            sleep_ns(MS);
        sleep_ns((unsigned long long)(3 + round) * MS);
        kill(b, SIGKILL);
        waitpid(b, NULL, 0);
        next = child(run_short, NULL); /* shares with the living hog, never with the dead */
        reap_ok(next);
        CHECK_BETWEEN(3 * MS, 3000 * MS, sh->busy_ns[63]);
        kill(a, SIGKILL);
        waitpid(a, NULL, 0);
    }
}

static void stopped(void *arg)
{
    CUevent a, b;

    context();
    OK(cuEventCreate(&a, 0));
    OK(cuEventCreate(&b, 0));
    gather(0, 2);
    OK(cuEventRecord(a, NULL));
    launch(NULL, 600 * MS, 0);
    OK(cuEventRecord(b, NULL));
    OK(cuCtxSynchronize());
    OK(cuEventElapsedTime(&sh->ms[0], a, b));
    sh->busy_ns[0] = my_ledger().busy_ns[SOFT_COMPUTE];
}

/* A stopped owner must not stop the device; when it goes on, its kernel goes on. */
static void stopped_owner_is_passed_over(void *arg)
{
    pid_t owner;

    sh = shared_page();
    owner = child(stopped, NULL);
    gather(1, 2);
    sleep_ns(20 * MS);
    kill(owner, SIGSTOP);
    for (int i = 0; i < 2; i++) {
        reap_ok(child(run_short, NULL));
        CHECK_BETWEEN(3 * MS, 3000 * MS, sh->busy_ns[63]);
    }
    sleep_ns(1000 * MS);
    kill(owner, SIGCONT);
    reap_ok(owner);
    fprintf(stderr, "  stopped kernel: %.1f ms by events, %.1f by the ledger\n", (double)sh->ms[0],
            (double)sh->busy_ns[0] / 1e6);
    CHECK_BETWEEN(1000, 9000, sh->ms[0]);
    CHECK_BETWEEN(590, 640, (double)sh->busy_ns[0] / 1e6);
}

/* Streams of one context run side by side as far as their SMs go; the ledger counts the union. */
static void streams_share_the_sms(void *arg)
{
    CUstream s[4];
    CUevent a, b;
    float ms;

    context();
    OK(cuEventCreate(&a, 0));
    OK(cuEventCreate(&b, 0));
    for (int i = 0; i < 4; i++)
        OK(cuStreamCreate(&s[i], CU_STREAM_NON_BLOCKING));
    for (int pass = 0; pass < 2; pass++) {
        uint32_t ppm = pass == 0 ? 250000 : 600000;
        uint64_t before = my_ledger().busy_ns[0];

        OK(cuEventRecord(a, s[0]));
        for (int i = 0; i < 4; i++)
            launch(s[i], 20 * MS, ppm);
        for (int i = 1; i < 4; i++) {
            OK(cuEventRecord(b, s[i]));
            OK(cuStreamWaitEvent(s[0], b, 0));
        }
        OK(cuEventRecord(b, s[0]));
        OK(cuCtxSynchronize());
        OK(cuEventElapsedTime(&ms, a, b));
        fprintf(stderr, "  4 streams at %u ppm: %.2f ms, ledger %.2f\n", ppm, (double)ms,
                (double)(my_ledger().busy_ns[0] - before) / 1e6);
        if (pass == 0)
            CHECK_BETWEEN(20, 35, ms);
        else
            CHECK_BETWEEN(80, 90, ms);
        CHECK_BETWEEN(pass == 0 ? 20 : 80, ms + 0.5f,
                      (double)(my_ledger().busy_ns[0] - before) / 1e6);
    }
}

/* Two contexts of one process take turns like two processes. */
static void contexts_of_a_process_take_turns(void *arg)
{
    CUcontext c[2];
    CUevent a[2], b[2];
    float ms;

    OK(cuInit(0));
    for (int i = 0; i < 2; i++) {
        OK(cuCtxCreate_v2(&c[i], 0, 0));
        OK(cuEventCreate(&a[i], 0));
        OK(cuEventCreate(&b[i], 0));
        launch(NULL, MS / 10, 0);
        OK(cuCtxSynchronize());
    }
    for (int i = 0; i < 2; i++) {
        OK(cuCtxSetCurrent(c[i]));
        OK(cuEventRecord(a[i], NULL));
        launch(NULL, 20 * MS, 0);
        OK(cuEventRecord(b[i], NULL));
    }
    for (int i = 0; i < 2; i++) {
        OK(cuCtxSetCurrent(c[i]));
        OK(cuCtxSynchronize());
        OK(cuEventElapsedTime(&ms, a[i], b[i]));
        CHECK_BETWEEN(30, 60, ms);
    }
    CHECK_BETWEEN(40, 41.5, (double)my_ledger().busy_ns[0] / 1e6);
}

/* Execution beyond the model is counted, and lengthens the command. */
static void overrun_is_counted(void *arg)
{
    struct soft_stream *s;
    struct test_kernel *k = kernel_new(2 * MS, 0);
    struct soft_slot_dev dev;

    context();
    OK(soft_stream_of(NULL, &s));
    k->burn_ns = 12 * MS;
    OK(soft_submit(s, &k->cmd));
    OK(cuCtxSynchronize());
    dev = my_ledger();
    CHECK_IS(2 * MS, dev.modelled_ns);
    CHECK_BETWEEN(10 * MS, 3000 * MS, dev.overrun_ns);
    CHECK_BETWEEN(12 * MS, 3002 * MS, dev.busy_ns[0]);
}

static void restless(void *arg)
{
    unsigned seed = (unsigned)getpid();
    CUstream s[3];

    context();
    for (int i = 0; i < 3; i++)
        OK(cuStreamCreate(&s[i], i == 0 ? CU_STREAM_DEFAULT : CU_STREAM_NON_BLOCKING));
    while (!atomic_load(&sh->stop)) {
        for (int i = 0; i < 6; i++) {
            struct soft_stream *on;
            struct test_kernel *k = kernel_new((uint64_t)(rand_r(&seed) % 3000) * 1000,
                                               (uint32_t)rand_r(&seed) % 900000);

            k->burn_ns = rand_r(&seed) % 4 == 0 ? 400000 : 0;
            OK(soft_stream_of(i == 5 ? NULL : s[rand_r(&seed) % 3], &on));
            OK(soft_submit(on, &k->cmd));
        }
        OK(cuCtxSynchronize());
        atomic_fetch_add(&sh->launched[(intptr_t)arg], 6);
        if (rand_r(&seed) % 8 == 0)
            sleep_ns(3 * MS); /* idle, so that it is taken from an idle owner as well */
    }
}

/* Whoever is killed or stopped, at whatever moment: all others go on, and the engine is never
 * in use twice: the sum of what all had of it is not more than the time there was. */
static void the_engine_is_one(void *arg)
{
    enum { N = 5 };
    pid_t pid[N];
    char why[256];
    struct soft_state *state = soft_state_open(why, sizeof why);
    struct soft_slot *slots = calloc(SOFT_MAX_SLOTS, sizeof *slots);
    struct soft_gone *gone = calloc(SOFT_GONE, sizeof *gone);
    uint64_t from = soft_now_ns(), sum = 0, wall;
    unsigned seed = 17;
    int n;

    CHECK(state != NULL && slots != NULL && gone != NULL);
    sh = shared_page();
    for (int i = 0; i < N; i++)
        pid[i] = child(restless, (void *)(intptr_t)i);
    for (int round = 0; round < 40; round++) {
        int v = rand_r(&seed) % N;

        sleep_ns((unsigned long long)(rand_r(&seed) % 40) * MS);
        if (round % 2 == 0) {
            kill(pid[v], SIGKILL);
            waitpid(pid[v], NULL, 0);
            pid[v] = child(restless, (void *)(intptr_t)v);
        } else {
            kill(pid[v], SIGSTOP);
            sleep_ns((unsigned long long)(rand_r(&seed) % 120) * MS);
            kill(pid[v], SIGCONT);
        }
    }
    for (int i = 0; i < N; i++) { /* nobody is left behind */
        int before = atomic_load(&sh->launched[i]);

        for (int ms = 0; ms < 5000 && atomic_load(&sh->launched[i]) <= before + 12; ms++)
            sleep_ns(MS);
        CHECK(atomic_load(&sh->launched[i]) > before + 12);
    }
    n = soft_state_slots(state, slots, SOFT_MAX_SLOTS);
    for (int i = 0; i < n; i++)
        sum += slots[i].dev[0].busy_ns[SOFT_COMPUTE];
    n = soft_state_gone(state, gone, SOFT_GONE);
    for (int i = 0; i < n; i++)
        sum += gone[i].dev[0].busy_ns[SOFT_COMPUTE];
    wall = soft_now_ns() - from;
    fprintf(stderr, "  busy %.1f of %.1f ms, %d processes killed\n", (double)sum / 1e6,
            (double)wall / 1e6, n);
    CHECK(sum <= wall);
    CHECK(sum >= wall / 3);
    atomic_store(&sh->stop, 1);
    for (int i = 0; i < N; i++)
        reap_ok(pid[i]);
    free(slots);
    free(gone);
}

/* What NVML shows: the busy share of the last second. */
static void utilisation(void *arg)
{
    uint64_t second = 1000 * MS;

    context();
    CHECK(soft_state_utilization(soft_the_state, 0, SOFT_COMPUTE, second) <= 0.0);
    for (int i = 0; i < 10; i++) {
        launch(NULL, 60 * MS, 0);
        OK(cuCtxSynchronize());
        sleep_ns(60 * MS);
    }
    CHECK_BETWEEN(0.35, 0.62, soft_state_utilization(soft_the_state, 0, SOFT_COMPUTE, second));
    /* a long kernel counts while it lasts */
    launch(NULL, 1500 * MS, 0);
    sleep_ns(1300 * MS);
    CHECK_BETWEEN(0.9, 1.0, soft_state_utilization(soft_the_state, 0, SOFT_COMPUTE, second));
    CHECK_BETWEEN(0, 0.01, soft_state_utilization(soft_the_state, 0, SOFT_COPY_IN, second));
}

int main(void)
{
    test_run("short kernels last what they last", "tiny", "0", short_kernels_last_what_they_last);
    test_run_noisy("two processes share in slices", "tiny", "0", two_processes_share_in_slices);
    test_run_noisy("executing kernels are suspended", "tiny", "0", executing_kernels_are_suspended);
    test_run_noisy("equal shares without HARP", "tiny", "0", equal_shares_without_harp);
    test_run("killed owner lets go", "tiny", "0", killed_owner_lets_go);
    test_run("killed waiter is skipped", "tiny", "0", killed_waiter_is_skipped);
    test_run_noisy("stopped owner is passed over", "tiny", "0", stopped_owner_is_passed_over);
    test_run_noisy("streams share the SMs", "tiny", "0", streams_share_the_sms);
    test_run_noisy("contexts of a process take turns", "tiny", "0",
                   contexts_of_a_process_take_turns);
    test_run_noisy("utilisation", "tiny", "0", utilisation);
    test_run_noisy("the engine is one", "tiny", "0", the_engine_is_one);
    test_run("overrun is counted", "tiny", "0", overrun_is_counted);
    return 0;
}
