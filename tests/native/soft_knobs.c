/* SPDX-License-Identifier: Apache-2.0
 *
 * HARP_SOFT_SLICE_US and HARP_SOFT_SWITCH_US: who makes the machine decides, all agree, nonsense is
 * refused by name, and the engine obeys.
 */
#include "soft_test.h"

#include "soft/gpu/shared.h"
#include "soft/gpu/state_knobs.h"

struct shared {
    uint64_t slice_ns, switch_ns;
    float ms[2];
    _Atomic int here;
};

static struct shared *sh;

static void look(void *arg)
{
    char why[512] = "";
    struct soft_state *state = soft_state_open(why, sizeof why);

    CHECK(state != NULL);
    sh->slice_ns = soft_knobs_slice_ns(state->map, state->profile[0]);
    sh->switch_ns = soft_knobs_switch_ns(state->map, state->profile[0]);
}

static void look_with(const char *slice_us, const char *switch_us)
{
    setenv("HARP_SOFT_SLICE_US", slice_us, 1);
    setenv("HARP_SOFT_SWITCH_US", switch_us, 1);
    reap_ok(child(look, NULL));
}

static void the_maker_decides(void *arg)
{
    sh = shared_page();
    look_with("6000", "0");
    CHECK_IS(6000000, sh->slice_ns);
    CHECK_IS(0, sh->switch_ns);
    look_with("1000", "300"); /* too late: it is made */
    CHECK_IS(6000000, sh->slice_ns);
    CHECK_IS(0, sh->switch_ns);
}

static void unset_is_the_profiles(void *arg)
{
    sh = shared_page();
    look_with("", "");
    CHECK_IS(soft_profile_find("tiny", 4)->slice_ns, sh->slice_ns);
    CHECK_IS(soft_profile_find("tiny", 4)->switch_ns, sh->switch_ns);
}

static void refused(const char *name, const char *value, const char *limits)
{
    char why[512] = "";

    unsetenv("HARP_SOFT_SLICE_US");
    unsetenv("HARP_SOFT_SWITCH_US");
    setenv(name, value, 1);
    CHECK(soft_state_open(why, sizeof why) == NULL);
    CHECK(strstr(why, name) != NULL && strstr(why, value) != NULL && strstr(why, limits) != NULL &&
          strstr(why, "remedy") != NULL);
}

static void nonsense_is_refused(void *arg)
{
    refused("HARP_SOFT_SLICE_US", "199", "200 to 300000");
    refused("HARP_SOFT_SLICE_US", "300001", "200 to 300000");
    refused("HARP_SOFT_SLICE_US", "2ms", "200 to 300000");
    refused("HARP_SOFT_SLICE_US", "-2000", "200 to 300000");
    refused("HARP_SOFT_SWITCH_US", "10001", "0 to 10000");
    refused("HARP_SOFT_SWITCH_US", "99999999999999999999999", "0 to 10000");
}

static void kernel_20ms(void *arg)
{
    CUevent from, to;

    context();
    OK(cuEventCreate(&from, 0));
    OK(cuEventCreate(&to, 0));
    atomic_fetch_add(&sh->here, 1);
    while (atomic_load(&sh->here) < 2)
        sleep_ns(100000);
    OK(cuEventRecord(from, NULL));
    launch(NULL, 20 * MS, 0);
    OK(cuEventRecord(to, NULL));
    OK(cuEventSynchronize(to));
    OK(cuEventElapsedTime(&sh->ms[(intptr_t)arg], from, to));
}

/* Two kernels of 20 ms in slices of 5 ms with switches of 10 ms: some seven of them. In the
 * profile's slices the later ends after 41 ms. */
static void the_engine_obeys(void *arg)
{
    pid_t a, b;

    sh = shared_page();
    setenv("HARP_SOFT_SLICE_US", "5000", 1);
    setenv("HARP_SOFT_SWITCH_US", "10000", 1);
    a = child(kernel_20ms, (void *)0);
    b = child(kernel_20ms, (void *)1);
    reap_ok(a);
    reap_ok(b);
    fprintf(stderr, "  event pairs %.2f %.2f ms\n", (double)sh->ms[0], (double)sh->ms[1]);
    CHECK(sh->ms[0] > 75 || sh->ms[1] > 75);
}

int main(void)
{
    test_run("the maker decides", "tiny", "0", the_maker_decides);
    test_run("unset is the profile's", "tiny", "0", unset_is_the_profiles);
    test_run("nonsense is refused", "tiny", "0", nonsense_is_refused);
    test_run_noisy("the engine obeys", "tiny", "0", the_engine_obeys);
    return 0;
}
