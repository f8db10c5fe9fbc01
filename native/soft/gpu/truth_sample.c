/* SPDX-License-Identifier: Apache-2.0
 *
 * harp-soft-truth --sample: the most that anybody held at once, looked at many times a second.
 *
 * Slots are read one after the other, so their sum may be of no moment at all: what one process
 * freed is counted and what another made of it as well. Two things are exact. The device's total is
 * one word; while nobody makes or ends a context that says what all hold together. And slots
 * between two readings of that word which are equal are of one moment; these samples are counted
 * (`exact`) and only they say what a process group held.
 */
#include "soft/gpu/truth.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "soft/gpu/soft.h"

#define MOST_GROUPS 4096
#define MOST_SEEN   (4 * SOFT_MAX_SLOTS)
#define TRIES       4 /* to catch a moment in which nobody changes anything */

struct group { /* of processes, as the kernel knows it; 0: ended before it was seen */
    pid_t id;
    uint64_t now[SOFT_MAX_DEVICES], peak[SOFT_MAX_DEVICES];
};

struct seen { /* whose slot it was when its process still lived */
    int32_t pid;
    uint64_t start_ns;
    int group; /* place in `group` */
};

static struct group *group;
static struct seen *seen;
static struct soft_slot *slots;
static int groups, seen_count;
static uint64_t device_peak[SOFT_MAX_DEVICES], device_last[SOFT_MAX_DEVICES];
static uint64_t samples, exact, longest_ns;

static int group_at(pid_t id)
{
    for (int i = 0; i < groups; i++)
        if (group[i].id == id)
            return i;
    if (groups == MOST_GROUPS)
        return 0;
    group[groups].id = id;
    return groups++;
}

/* The group outlives its process here: what the dead hold is theirs until the device has it. */
static int group_of(const struct soft_slot *slot)
{
    for (int i = seen_count < MOST_SEEN ? seen_count : MOST_SEEN; i-- > 0;)
        if (seen[i].pid == slot->pid && seen[i].start_ns == slot->start_ns)
            return seen[i].group;
    pid_t id = getpgid(slot->pid);
    int at = group_at(id > 0 ? id : 0);
    seen[seen_count++ % MOST_SEEN] = /* the latest: more than there can be slots */
        (struct seen){.pid = slot->pid, .start_ns = slot->start_ns, .group = at};
    return at;
}

/* Who has which contexts, as one number. */
static uint64_t contexts_mark(int n, int devices)
{
    uint64_t mark = 14695981039346656037ull; /* FNV-1a, by words */

    for (int i = 0; i < n; i++)
        for (int dev = 0; dev < devices; dev++) {
            mark = (mark ^ slots[i].start_ns) * 1099511628211ull;
            mark = (mark ^ slots[i].dev[dev].context_bytes) * 1099511628211ull;
        }
    return mark;
}

/* Memory of the devices without contexts, by their words, in `slots` read before. Where a context
 * came or went meanwhile nothing can be said; one that did both is not noticed. */
static void look_at_devices(struct soft_state *state, int n, int devices)
{
    uint64_t total[SOFT_MAX_DEVICES], mark = contexts_mark(n, devices);

    for (int dev = 0; dev < devices; dev++)
        total[dev] = soft_state_used_bytes(state, dev);
    n = soft_state_slots(state, slots, SOFT_MAX_SLOTS);
    if (contexts_mark(n, devices) != mark)
        return;
    for (int dev = 0; dev < devices; dev++) {
        uint64_t contexts = 0;

        for (int i = 0; i < n; i++)
            contexts += slots[i].dev[dev].context_bytes;
        device_last[dev] = total[dev] > contexts ? total[dev] - contexts : 0;
        if (device_last[dev] > device_peak[dev])
            device_peak[dev] = device_last[dev];
    }
}

static void look_at_groups(int n, int devices)
{
    for (int g = 0; g < groups; g++)
        for (int dev = 0; dev < devices; dev++)
            group[g].now[dev] = 0;
    for (int i = 0; i < n; i++) {
        int g = group_of(&slots[i]);

        for (int dev = 0; dev < devices; dev++)
            group[g].now[dev] += slots[i].dev[dev].mem_bytes;
    }
    for (int g = 0; g < groups; g++)
        for (int dev = 0; dev < devices; dev++)
            if (group[g].now[dev] > group[g].peak[dev])
                group[g].peak[dev] = group[g].now[dev];
}

static bool one_moment(struct soft_state *state, const uint64_t *before, int devices)
{
    for (int dev = 0; dev < devices; dev++)
        if (soft_state_memory_word(state, dev) != before[dev])
            return false;
    return true;
}

static void look(struct soft_state *state)
{
    int devices = soft_state_device_count(state), n = 0;
    uint64_t word[SOFT_MAX_DEVICES];
    bool good = false;

    for (int try = 0; try < TRIES && !good; try++) {
        for (int dev = 0; dev < devices; dev++)
            word[dev] = soft_state_memory_word(state, dev);
        n = soft_state_slots(state, slots, SOFT_MAX_SLOTS);
        good = one_moment(state, word, devices);
    }
    samples++;
    exact += good;
    if (good)
        look_at_groups(n, devices);
    look_at_devices(state, n, devices);
}

static int report(const struct soft_state *state, double hz, double seconds)
{
    const char *comma = "";

    printf("{\"hz\": %.1f, \"seconds\": %.3f, \"samples\": %llu, \"exact\": %llu, "
           "\"longest_gap_ms\": %.3f, \"devices\": [",
           hz, seconds, (unsigned long long)samples, (unsigned long long)exact,
           (double)longest_ns / 1e6);
    for (int dev = 0; dev < soft_state_device_count(state); dev++)
        printf("%s{\"device\": %d, \"peak_bytes\": %llu, \"last_bytes\": %llu}", dev ? ", " : "",
               dev, (unsigned long long)device_peak[dev], (unsigned long long)device_last[dev]);
    printf("], \"groups\": [");
    for (int g = 0; g < groups; g++)
        for (int dev = 0; dev < soft_state_device_count(state); dev++) {
            printf("%s{\"group\": %d, \"device\": %d, \"peak_bytes\": %llu, \"last_bytes\": %llu}",
                   comma, (int)group[g].id, dev, (unsigned long long)group[g].peak[dev],
                   (unsigned long long)group[g].now[dev]);
            comma = ", ";
        }
    printf("]}\n");
    return fflush(stdout) == 0 ? 0 : 1;
}

/* Until standard input ends. True: it has. */
static bool ends_before(uint64_t until_ns)
{
    struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
    uint64_t now = soft_now_ns(), left = until_ns > now ? until_ns - now : 0;
    struct timespec wait = {.tv_sec = (time_t)(left / 1000000000ull),
                            .tv_nsec = (long)(left % 1000000000ull)};
    char unused[64];

    if (ppoll(&in, 1, &wait, NULL) <= 0)
        return false;
    return read(STDIN_FILENO, unused, sizeof unused) <= 0;
}

int truth_sample(struct soft_state *state, double hz)
{
    uint64_t step_ns = (uint64_t)(1e9 / hz), begin = soft_now_ns(), last = begin, next = begin;

    group = calloc(MOST_GROUPS, sizeof *group);
    seen = calloc(MOST_SEEN, sizeof *seen);
    slots = calloc(SOFT_MAX_SLOTS, sizeof *slots);
    if (group == NULL || seen == NULL || slots == NULL) {
        fputs("harp-soft-truth: out of memory\n", stderr);
        return 1;
    }
    group_at(0);
    puts("{\"sampling\": true}"); /* who started it may let the others go now */
    fflush(stdout);
    do {
        uint64_t now = soft_now_ns();

        if (samples > 0 && now - last > longest_ns)
            longest_ns = now - last;
        last = now;
        look(state);
        next += step_ns; /* a late sample is made up for: the rate is of all samples */
        if (next + 20 * step_ns < now)
            next = now; /* but not by a burst */
    } while (!ends_before(next));
    return report(state, hz, (double)(soft_now_ns() - begin) / 1e9);
}
