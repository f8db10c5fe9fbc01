/* SPDX-License-Identifier: Apache-2.0
 *
 * harp-soft-fault: faults on request. Checks rules, replaces the file that holds them, carries out
 * what they do to the machine and tells its running processes.
 */
#include <stdio.h>
#include <string.h>

#include "soft/gpu/fault.h"

static const char usage[] =
    "usage: harp-soft-fault set RULE... | clear | show\n"
    "Makes the software GPUs of $HARP_SOFT_DIR misbehave. Each RULE is one argument:\n"
    "  'fail SYMBOL RESULT [WHO] [WHEN]'    a call answers RESULT and does nothing\n"
    "  'slow SYMBOL 50ms [WHO] [WHEN]'      a call takes longer\n"
    "  'oom [WHO] [WHEN]'                   allocating device memory answers 2\n"
    "  'xid NUMBER dev=I [pid=P] [program=NAME]'\n"
    "  'ecc corrected|uncorrected COUNT dev=I [pid=P] [program=NAME]'\n"
    "  'lost dev=I'   'slowdev factor=4 [dev=I]'   'slowteardown 2s'\n"
    "  'novmm [WHO]'  'nopools [WHO]'  'noipc [WHO]'  'nomanaged [WHO]'\n"
    "  WHO:  dev=I pid=P program=NAME\n"
    "  WHEN: nth=N | every=N | from=N, count=process|machine\n"
    "set replaces all rules there are; each set carries its xid and ecc rules out once.\n";

#define HARP_RESULT(name, text) name,
static const CUresult results[] = {
#include "generated/results.inc"
};
#undef HARP_RESULT

static bool is_result(const struct soft_fault_rule *rule)
{
    if (strncmp(rule->name, "nvml", 4) == 0)
        return rule->number <= 30 || rule->number == 999;
    for (size_t i = 0; i < sizeof results / sizeof results[0]; i++)
        if ((uint32_t)results[i] == rule->number)
            return true;
    return false;
}

/* How many functions it names; *usable: those that answer a result. */
static unsigned named(const struct soft_fault_rule *rule, unsigned *usable)
{
    unsigned all = 0;

    for (int library = 0; library < 2; library++) {
        const struct soft_door_info *doors = library == 0 ? soft_doors_cuda : soft_doors_nvml;
        unsigned count = library == 0 ? soft_doors_cuda_count : soft_doors_nvml_count;

        for (unsigned i = 0; i < count; i++)
            if (soft_fault_names(rule, doors[i].name)) {
                all++;
                *usable += (doors[i].flags & SOFT_DOOR_RESULT) != 0;
            }
    }
    return all;
}

/* What only this machine and these libraries can tell of a rule. */
static bool fits(const struct soft_state *state, const struct soft_fault_rule *rule, char *why,
                 size_t why_bytes)
{
    int devices = soft_state_device_count(state);
    unsigned usable = 0;

    if (rule->dev >= devices) {
        snprintf(why, why_bytes, "dev=%d: this machine has %d; remedy: a number below that",
                 rule->dev, devices);
        return false;
    }
    if (rule->kind != SOFT_FAULT_FAIL && rule->kind != SOFT_FAULT_SLOW)
        return true;
    if (named(rule, &usable) == 0) {
        snprintf(why, why_bytes,
                 "%s: no such function is exported; remedy: its full name with its _v2 "
                 "(cuMemAlloc_v2), or the beginning and *",
                 rule->name);
        return false;
    }
    if (rule->kind == SOFT_FAULT_FAIL && usable == 0) {
        snprintf(why, why_bytes, "%s: answers no result that could be another; remedy: slow",
                 rule->name);
        return false;
    }
    if (rule->kind == SOFT_FAULT_FAIL && !is_result(rule)) {
        snprintf(why, why_bytes, "%u: not the number of a %s; remedy: see %s", rule->number,
                 strncmp(rule->name, "nvml", 4) == 0 ? "nvmlReturn_t" : "CUresult",
                 strncmp(rule->name, "nvml", 4) == 0 ? "nvmlErrorString" : "cuGetErrorName");
        return false;
    }
    return true;
}

static void print_bad(int line, const char *why)
{
    fprintf(stderr, "harp-soft-fault: line %d of the file: %s\n", line, why);
}

static int write_rules(struct soft_state *state, int count, char **texts)
{
    static struct soft_fault_file file;
    char why[320] = "";
    int err;

    if (count > SOFT_MAX_FAULTS) {
        fprintf(stderr, "harp-soft-fault: %d rules; remedy: up to %d\n", count, SOFT_MAX_FAULTS);
        return 2;
    }
    for (int i = 0; i < count; i++) {
        struct soft_fault_rule *rule = &file.rule[file.count];
        int is = soft_fault_parse(texts[i], strlen(texts[i]), rule, why, sizeof why);

        if (is < 0 || (is > 0 && !fits(state, rule, why, sizeof why))) {
            fprintf(stderr, "harp-soft-fault: '%s': %s\n", texts[i], why);
            return 2;
        }
        file.count += is;
    }
    err = soft_fault_file_write(state, file.rule, file.count);
    if (err != 0) {
        fprintf(stderr,
                "harp-soft-fault: cannot write %s/faults: %s; remedy: the user who owns that file, "
                "or another HARP_SOFT_DIR\n",
                state->dir, strerror(-err));
        return 1;
    }
    file.id = soft_fault_file_id(state);
    soft_fault_apply(state, &file);
    soft_fault_announce(state);
    return 0;
}

static int show(struct soft_state *state)
{
    static struct soft_fault_file file;
    int err = soft_fault_file_read(state, &file, print_bad);

    if (err != 0) {
        fprintf(stderr, "harp-soft-fault: cannot read %s/faults: %s\n", state->dir, strerror(-err));
        return 1;
    }
    for (int i = 0; i < file.count; i++) {
        char line[SOFT_FAULT_LINE + 1];

        soft_fault_print(&file.rule[i], line, sizeof line);
        printf("%s\n", line);
    }
    return fflush(stdout) == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    struct soft_state *state;
    char why[512];
    bool help = strcmp(what, "--help") == 0;

    if (!(strcmp(what, "set") == 0 && argc > 2) &&
        !((strcmp(what, "clear") == 0 || strcmp(what, "show") == 0) && argc == 2)) {
        fputs(usage, help ? stdout : stderr);
        return help ? 0 : 2;
    }
    state = soft_state_open(why, sizeof why);
    if (state == NULL) {
        fprintf(stderr, "harp-soft-fault: %s\n", why);
        return 1;
    }
    if (strcmp(what, "show") == 0)
        return show(state);
    return write_rules(state, argc - 2, argv + 2);
}
