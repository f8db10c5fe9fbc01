/* SPDX-License-Identifier: Apache-2.0
 *
 * What fault rules do to a machine: events, counters, ends of contexts, time. And which call of
 * which process they meet, by counts that processes share.
 */
#include "soft_test.h"

#include <pthread.h>

#include "soft/gpu/fault.h"

static const struct soft_door_info doors[] = {
    {"cuFirst", 0, SOFT_DOOR_RESULT, -1},
    {"cuSecond", 0, SOFT_DOOR_RESULT | SOFT_DOOR_ALLOC, -1},
    {"cuThird", 0, SOFT_DOOR_VMM | SOFT_DOOR_RESULT, -1},
    {"cuSilent", 0, 0, -1},
};

static struct soft_state *machine(void)
{
    struct soft_state *state;
    char why[512];

    state = soft_state_open(why, sizeof why);
    CHECK(state != NULL);
    soft_fault_symbols(doors, 4);
    soft_fault_attach(state);
    return state;
}

/* As harp-soft-fault does it. */
static void arm(struct soft_state *state, const char *const *lines)
{
    struct soft_fault_file *file = calloc(1, sizeof *file);
    char why[256];

    CHECK(file != NULL);
    for (; *lines != NULL; lines++)
        CHECK_IS(1, soft_fault_parse(*lines, strlen(*lines), &file->rule[file->count++], why,
                                     sizeof why));
    OK(soft_fault_file_write(state, file->rule, file->count));
    file->id = soft_fault_file_id(state);
    soft_fault_apply(state, file);
    soft_fault_announce(state);
    free(file);
}
#define ARM(state, ...) arm(state, (const char *const[]){__VA_ARGS__, NULL})

static void counts_and_filters(void *arg)
{
    struct soft_state *s = machine();
    int seen = 0;

    CHECK_IS(0, *soft_door_word);
    CHECK_IS(-1, soft_fault_decide(s, 0, 0));
    ARM(s, "fail cuFirst 7 every=3", "fail cuFirst 9 dev=1 nth=2", "oom from=2", "novmm dev=0",
        "fail cu* 5 program=nobody", "fail cuSilent 5");
    CHECK(*soft_door_word != 0);
    for (int i = 0; i < 9; i++)
        seen += soft_fault_decide(s, 0, 0) == 7;
    CHECK_IS(3, seen);
    CHECK_IS(-1, soft_fault_decide(s, 0, 1)); /* first of device 1, tenth of all */
    CHECK_IS(9, soft_fault_decide(s, 0, 1));
    CHECK_IS(7, soft_fault_decide(s, 0, 1));
    CHECK_IS(-1, soft_fault_decide(s, 1, 0));
    CHECK_IS(2, soft_fault_decide(s, 1, 0));
    CHECK_IS(801, soft_fault_decide(s, 2, 0));
    CHECK_IS(-1, soft_fault_decide(s, 2, 1));
    CHECK_IS(-1, soft_fault_decide(s, 3, 0)); /* it has no result to be another */
    CHECK_IS(SOFT_DOOR_VMM, soft_fault_lacks(0));
    CHECK_IS(0, soft_fault_lacks(1));
    arm(s, (const char *const[]){NULL});
    CHECK_IS(0, *soft_door_word);
    CHECK_IS(-1, soft_fault_decide(s, 1, 0));
    CHECK_IS(0, soft_fault_lacks(0));
}

static void call_often(void *arg)
{
    struct soft_state *s = machine();

    for (int i = 0; i < 250; i++)
        if (soft_fault_decide(s, 0, 0) == 7)
            atomic_fetch_add((_Atomic int *)arg, 1);
}

static void processes_count_together(void *arg)
{
    _Atomic int *met = shared_page();
    struct soft_state *s = machine();
    pid_t pids[4];

    ARM(s, "fail cuFirst 7 every=100 count=machine");
    for (int i = 0; i < 4; i++)
        pids[i] = child(call_often, met);
    for (int i = 0; i < 4; i++)
        reap_ok(pids[i]);
    CHECK_IS(10, atomic_load(met));
    ARM(s, "fail cuFirst 7 nth=1 count=machine"); /* new rules count anew */
    CHECK_IS(7, soft_fault_decide(s, 0, 0));
    CHECK_IS(-1, soft_fault_decide(s, 0, 0));
}

static void the_file_by_hand(void *arg)
{
    char path[128];
    struct soft_state *s;
    FILE *file;

    snprintf(path, sizeof path, "%s/faults", test_dir);
    file = fopen(path, "w");
    CHECK(file != NULL);
    fputs("# by hand\n\nfail cuFirst 7   # always\nnonsense\noom dev=99\n\tfail cuThird 8", file);
    CHECK_IS(0, fclose(file));
    s = machine();
    CHECK(*soft_door_word != 0);
    CHECK_IS(7, soft_fault_decide(s, 0, 0));
    CHECK_IS(-1, soft_fault_decide(s, 1, 0)); /* bad lines are left out, good ones hold */
    CHECK_IS(8, soft_fault_decide(s, 2, 0));
    file = fopen(path, "w");
    CHECK(file != NULL);
    fputs("fail cuSecond 9\n", file);
    CHECK_IS(0, fclose(file));
    sleep_ns(20 * MS);
    CHECK_IS(9, soft_fault_decide(s, 1, 0));
    CHECK_IS(-1, soft_fault_decide(s, 0, 0));
    CHECK_IS(0, unlink(path));
    sleep_ns(20 * MS);
    CHECK_IS(-1, soft_fault_decide(s, 1, 0));
    CHECK_IS(0, *soft_door_word);
}

static void events_and_counters(void *arg)
{
    struct soft_state *s = machine();
    uint32_t at = soft_state_event_now(s);
    struct soft_state_event e;

    ARM(s, "xid 63 dev=1 pid=42", "ecc corrected 5 dev=0", "ecc uncorrected 2 dev=1");
    CHECK(soft_state_event_next(s, &at, &e));
    CHECK(e.type == SOFT_EVENT_XID && e.data == 63 && e.dev == 1 && e.pid == 42);
    CHECK(soft_state_event_next(s, &at, &e) && e.type == SOFT_EVENT_SBE && e.dev == 0);
    CHECK(soft_state_event_next(s, &at, &e) && e.type == SOFT_EVENT_DBE && e.dev == 1);
    CHECK_IS(5, soft_state_ecc_get(s, 0, SOFT_ECC_VOLATILE, SOFT_ECC_CORRECTED, SOFT_ECC_PLACES));
    CHECK_IS(2, soft_state_ecc_get(s, 1, SOFT_ECC_VOLATILE, SOFT_ECC_UNCORRECTED, SOFT_ECC_DRAM));
    CHECK_IS(-1, soft_fault_decide(s, 0, 0)); /* who reads the rules later does not do it again */
    CHECK(!soft_state_event_next(s, &at, &e));
    ARM(s, "xid 63 dev=1 pid=42"); /* another set does */
    CHECK(soft_state_event_next(s, &at, &e) && !soft_state_event_next(s, &at, &e));
}

static void a_context_ends_and_the_next_lives(void *arg)
{
    CUcontext ctx = context(), next;
    struct test_kernel *k = kernel_new(20000 * MS, 0);
    _Atomic int ran = 0;
    struct soft_stream *stream;
    uint64_t before = soft_now_ns();

    k->ran = &ran;
    OK(soft_stream_of(NULL, &stream));
    OK(soft_submit(stream, &k->cmd));
    while (atomic_load(&ran) == 0)
        sleep_ns(MS);
    ARM(soft_the_state, "xid 48 dev=0"); /* nobody waits 20 s for a dead device */
    CHECK_IS(CUDA_ERROR_ECC_UNCORRECTABLE, cuCtxSynchronize());
    CHECK_IS(CUDA_ERROR_ECC_UNCORRECTABLE, cuCtxSynchronize());
    OK(cuCtxCreate_v2(&next, 0, 0));
    OK(cuCtxSynchronize());
    OK(cuCtxDestroy_v2(next));
    OK(cuCtxSetCurrent(ctx));
    CHECK_IS(CUDA_ERROR_ECC_UNCORRECTABLE, cuCtxSynchronize());
    OK(cuCtxDestroy_v2(ctx)); /* which waits for what still runs */
    CHECK(soft_now_ns() - before < 15000 * MS);
    CHECK(my_ledger().busy_ns[SOFT_COMPUTE] < 15000 * MS);
    OK(cuCtxCreate_v2(&next, 0, 0)); /* in the same place among the device's */
    OK(cuCtxSynchronize());
    OK(cuDevicePrimaryCtxRetain(&ctx, 0));
    OK(cuCtxSetCurrent(ctx));
    ARM(soft_the_state, "xid 43 dev=0");
    CHECK_IS(CUDA_ERROR_LAUNCH_FAILED, cuCtxSynchronize());
    OK(cuDevicePrimaryCtxReset_v2(0));
    OK(cuDevicePrimaryCtxRetain(&next, 0));
    CHECK(next == ctx);
    OK(cuCtxSynchronize());
}

static void burn(void *arg)
{
    CUstream stream;
    struct soft_stream *s;
    struct test_kernel *k;

    (void)context();
    OK(cuStreamCreate(&stream, 0));
    OK(soft_stream_of(stream, &s));
    k = kernel_new(0, 0);
    k->burn_ns = 20000 * MS;
    OK(soft_submit(s, &k->cmd));
    atomic_store((_Atomic int *)arg, 1);
    CHECK_IS(CUDA_ERROR_UNKNOWN, cuStreamSynchronize(stream));
    CHECK_IS(CUDA_ERROR_UNKNOWN, cuCtxCreate_v2(&(CUcontext){0}, 0, 0));
    _exit(0);
}

static void a_lost_device_stops_what_runs_on_it(void *arg)
{
    struct soft_state *s = machine();
    _Atomic int *runs = shared_page();
    pid_t pid = child(burn, runs);
    uint64_t before;

    while (atomic_load(runs) == 0)
        sleep_ns(MS);
    sleep_ns(50 * MS);
    before = soft_now_ns();
    ARM(s, "lost dev=0");
    CHECK(soft_state_lost(s, 0) && !soft_state_lost(s, 1));
    reap_ok(pid);
    CHECK(soft_now_ns() - before < 15000 * MS);
    ARM(s, "oom");
    CHECK(!soft_state_lost(s, 0));
}

static void *kill_it_later(void *arg)
{
    sleep_ns(50 * MS);
    ARM(soft_the_state, "xid 31 dev=0");
    return NULL;
}

/* Nobody else calls anything meanwhile: the waiting thread itself must see the end. */
static void a_wait_for_a_value_ends_with_its_context(void *arg)
{
    CUdeviceptr word;
    CUstream stream;
    pthread_t killer;

    alarm(60);
    context();
    soft_fault_symbols(doors, 4);
    OK(cuMemAlloc_v2(&word, 4));
    OK(cuMemsetD32_v2(word, 0, 1));
    OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    OK(cuStreamWaitValue32_v2(stream, word, 1, CU_STREAM_WAIT_VALUE_EQ));
    CHECK(pthread_create(&killer, NULL, kill_it_later, NULL) == 0);
    CHECK_IS(CUDA_ERROR_ILLEGAL_ADDRESS, cuStreamSynchronize(stream));
    pthread_join(killer, NULL);
}

static void owner(void *arg)
{
    _Atomic int *told = arg;

    (void)context();
    atomic_fetch_add(told, 1);
    while (atomic_load(&told[1]) == 0)
        sleep_ns(MS);
    /* the one that the rule names, by the exit status */
    _exit(cuCtxSynchronize() == CUDA_ERROR_ILLEGAL_ADDRESS ? 3 : 4);
}

static void only_the_process_named(void *arg)
{
    struct soft_state *s = machine();
    _Atomic int *told = shared_page();
    pid_t hit = child(owner, told), spared = child(owner, told);
    char line[64];
    int status;

    while (atomic_load(told) < 2)
        sleep_ns(MS);
    snprintf(line, sizeof line, "xid 31 dev=0 pid=%d", (int)hit);
    ARM(s, line);
    atomic_store(&told[1], 1);
    CHECK(waitpid(hit, &status, 0) == hit && WEXITSTATUS(status) == 3);
    CHECK(waitpid(spared, &status, 0) == spared && WEXITSTATUS(status) == 4);
}

static void slower(void *arg)
{
    struct soft_slot_dev before, after;

    (void)context();
    launch(NULL, 10 * MS, 0);
    OK(cuCtxSynchronize());
    before = my_ledger();
    ARM(soft_the_state, "slowdev factor=2.5 dev=0", "slowdev factor=100 dev=1");
    launch(NULL, 10 * MS, 0);
    OK(cuCtxSynchronize());
    after = my_ledger();
    CHECK_IS(10 * MS, before.modelled_ns);
    CHECK_IS(25 * MS, after.modelled_ns - before.modelled_ns);
}

int main(void)
{
    test_run("counts and filters", "tiny,tiny", "0", counts_and_filters);
    test_run("processes count together", "tiny", "0", processes_count_together);
    test_run("the file by hand", "tiny", "0", the_file_by_hand);
    test_run("events and counters", "tiny,tiny", "0", events_and_counters);
    test_run("a context ends", "tiny", "0", a_context_ends_and_the_next_lives);
    test_run("a lost device", "tiny,tiny", "0", a_lost_device_stops_what_runs_on_it);
    test_run("a wait for a value ends", "tiny", "0", a_wait_for_a_value_ends_with_its_context);
    test_run("only the process named", "tiny", "0", only_the_process_named);
    test_run("slower", "tiny,tiny", "0", slower);
    return 0;
}
