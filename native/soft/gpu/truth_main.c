/* SPDX-License-Identifier: Apache-2.0
 *
 * harp-soft-truth: prints the engine's own ledger, one JSON object on stdout. This is what benches
 * and tests judge HARP by; no other part of HARP may read it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "soft/gpu/soft.h"
#include "soft/gpu/truth.h"

static const char usage[] =
    "usage: harp-soft-truth [--json] [--pid PID] [--watch SECONDS] [--sample HZ]\n"
    "Prints what each process really had of each software GPU: engine time, memory, launches.\n"
    "The devices are those of $HARP_SOFT_DIR. --watch prints again until interrupted.\n"
    "--sample looks so often until standard input ends, then prints the most that was held.\n";

static void print_string(const char *text)
{
    putchar('"');
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\')
            putchar('\\');
        if ((unsigned char)*text < 0x20)
            printf("\\u%04x", (unsigned)*text);
        else
            putchar(*text);
    }
    putchar('"');
}

static bool used(const struct soft_slot_dev *d)
{
    return d->context_bytes != 0 || d->mem_bytes != 0 || d->peak_bytes != 0 || d->launches != 0 ||
           d->busy_ns[SOFT_COMPUTE] != 0 || d->busy_ns[SOFT_COPY_IN] != 0 ||
           d->busy_ns[SOFT_COPY_OUT] != 0;
}

static void print_process(int pid, const char *name, const char *state, int dev,
                          const struct soft_slot_dev *d, bool *first)
{
    printf("%s\n  {\"pid\": %d, \"name\": ", *first ? "" : ",", pid);
    print_string(name);
    printf(
        ", \"device\": %d, \"state\": \"%s\", \"busy_ns\": {\"compute\": %llu, \"copy_in\": %llu, "
        "\"copy_out\": %llu}",
        dev, state, (unsigned long long)d->busy_ns[SOFT_COMPUTE],
        (unsigned long long)d->busy_ns[SOFT_COPY_IN],
        (unsigned long long)d->busy_ns[SOFT_COPY_OUT]);
    printf(
        ", \"launches\": %llu, \"instructions\": %llu, \"modelled_ns\": %llu, \"overrun_ns\": %llu"
        ", \"mem_bytes\": %llu, \"context_bytes\": %llu, \"peak_bytes\": %llu}",
        (unsigned long long)d->launches, (unsigned long long)d->instructions,
        (unsigned long long)d->modelled_ns, (unsigned long long)d->overrun_ns,
        (unsigned long long)d->mem_bytes, (unsigned long long)d->context_bytes,
        (unsigned long long)d->peak_bytes);
    *first = false;
}

static void print_devices(struct soft_state *state)
{
    printf("{\"now_ns\": %llu, \"devices\": [", (unsigned long long)soft_now_ns());
    for (int i = 0; i < soft_state_device_count(state); i++) {
        const struct soft_profile *p = soft_state_profile(state, i);
        uint8_t u[16];

        soft_state_uuid(state, i, u);
        printf("%s\n  {\"index\": %d, \"profile\": \"%s\", \"name\": \"%s\", \"uuid\": \"%s-",
               i ? "," : "", i, p->key, p->name,
               soft_state_instance(state, i) == SOFT_NO_INSTANCE ? "GPU" : "MIG");
        for (int b = 0; b < 16; b++)
            printf("%s%02x", b == 4 || b == 6 || b == 8 || b == 10 ? "-" : "", u[b]);
        printf("\", \"capacity_bytes\": %llu, \"used_bytes\": %llu}",
               (unsigned long long)p->memory_bytes,
               (unsigned long long)soft_state_used_bytes(state, i));
    }
    printf("]");
}

static int print_all(struct soft_state *state, int only_pid)
{
    struct soft_slot *slots = calloc(SOFT_MAX_SLOTS, sizeof *slots);
    struct soft_gone *gone = calloc(SOFT_GONE, sizeof *gone);
    bool first = true;
    int n;

    if (slots == NULL || gone == NULL) {
        free(slots);
        free(gone);
        fputs("harp-soft-truth: out of memory\n", stderr);
        return 1;
    }
    print_devices(state);
    printf(", \"processes\": [");
    n = soft_state_slots(state, slots, SOFT_MAX_SLOTS);
    for (int i = 0; i < n; i++)
        for (int dev = 0; dev < soft_state_device_count(state); dev++)
            if (used(&slots[i].dev[dev]) && (only_pid == 0 || slots[i].pid == only_pid))
                print_process(slots[i].pid, slots[i].name,
                              slots[i].state == SOFT_SLOT_LIVE ? "live" : "teardown", dev,
                              &slots[i].dev[dev], &first);
    n = soft_state_gone(state, gone, SOFT_GONE);
    for (int i = 0; i < n; i++)
        for (int dev = 0; dev < soft_state_device_count(state); dev++)
            if (used(&gone[i].dev[dev]) && (only_pid == 0 || gone[i].pid == only_pid))
                print_process(gone[i].pid, gone[i].name, "gone", dev, &gone[i].dev[dev], &first);
    printf("]}\n");
    free(slots);
    free(gone);
    return fflush(stdout) == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
    double watch_s = 0, sample_hz = 0;
    int only_pid = 0;
    struct soft_state *state;
    char why[512];

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) {
            continue;
        } else if (strcmp(argv[i], "--pid") == 0 && i + 1 < argc && atoi(argv[i + 1]) > 0) {
            only_pid = atoi(argv[++i]);
        } else if (strcmp(argv[i], "--watch") == 0 && i + 1 < argc && atof(argv[i + 1]) > 0) {
            watch_s = atof(argv[++i]);
        } else if (strcmp(argv[i], "--sample") == 0 && i + 1 < argc && atof(argv[i + 1]) > 0) {
            sample_hz = atof(argv[++i]);
        } else {
            fputs(usage, strcmp(argv[i], "--help") == 0 ? stdout : stderr);
            return strcmp(argv[i], "--help") == 0 ? 0 : 2;
        }
    }
    state = soft_state_open(why, sizeof why);
    if (state == NULL) {
        fprintf(stderr, "harp-soft-truth: %s\n", why);
        return 1;
    }
    if (sample_hz > 0)
        return truth_sample(state, sample_hz);
    for (;;) {
        int rc = print_all(state, only_pid);

        if (watch_s <= 0 || rc != 0)
            return rc;
        nanosleep(&(struct timespec){.tv_sec = (time_t)watch_s,
                                     .tv_nsec = (long)((watch_s - (double)(time_t)watch_s) * 1e9)},
                  NULL);
    }
}
