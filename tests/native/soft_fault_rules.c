/* SPDX-License-Identifier: Apache-2.0
 *
 * The grammar of fault rules, and damaged rules through it under the sanitizers: every line ends in
 * a rule that prints and reads back as itself, in nothing, or in one line that explains.
 * HARP_TEST_SEED and HARP_FUZZ_S set the seed and the seconds.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "check.h"
#include "soft/gpu/fault.h"

static const char *const good[] = {
    "fail cuMemAlloc_v2 2 nth=3",
    "fail nvmlDeviceGetMemoryInfo 15 dev=15 pid=2147483647 program=python3.11",
    "slow cuMemcpy* 50ms every=7 count=machine",
    "slow cuInit 3600s from=1099511627776",
    "oom dev=0 nth=1",
    "xid 79 dev=1",
    "xid 94 dev=0 pid=12 program=a",
    "ecc corrected 1000000000 dev=3",
    "ecc uncorrected 1 dev=0",
    "lost dev=2",
    "slowdev factor=4.000 dev=1",
    "slowdev factor=1000.000",
    "slowteardown 2s",
    "slowteardown 1500ns",
    "novmm pid=7",
    "nopools",
    "noipc dev=0",
    "nomanaged program=x",
};
#define GOOD (sizeof good / sizeof good[0])

static const struct {
    const char *line, *says; /* a part of the explanation */
} wrong[] = {
    {"explode", "no such fault"},
    {"fail", "symbol ''"},
    {"fail memcpy 2", "symbol 'memcpy'"},
    {"fail cu*Alloc 2", "symbol 'cu*Alloc'"},
    {"fail cuInit", "result ''"},
    {"fail cuInit 0", "result '0'"},
    {"fail cuInit 100000", "1 to 99999"},
    {"fail cuInit 2x", "result '2x'"},
    {"fail cuInit -1", "result '-1'"},
    {"fail cuInit 2 nth=0", "nth=0"},
    {"fail cuInit 2 nth=1 every=2", "one of them"},
    {"fail cuInit 2 nth=1 nth=1", "said twice"},
    {"fail cuInit 2 dev=16", "0 to 15"},
    {"fail cuInit 2 pid=0", "pid=0"},
    {"fail cuInit 2 program=sixteencharacter", "1 to 15"},
    {"fail cuInit 2 program=", "1 to 15"},
    {"fail cuInit 2 count=world", "process or machine"},
    {"fail cuInit 2 soon", "not KEY=VALUE"},
    {"fail cuInit 2 factor=4", "no such option"},
    {"slow cuInit 50", "duration '50'"},
    {"slow cuInit 3601s", "up to 3600s"},
    {"slow cuInit 18446744073709551616ns", "duration"},
    {"slow cuInit 18446744073709551s", "duration"},
    {"xid 0 dev=0", "1 to 999"},
    {"xid 31", "needs dev"},
    {"xid 31 dev=0 nth=2", "no such option"},
    {"ecc some 1 dev=0", "corrected or uncorrected"},
    {"ecc corrected 0 dev=0", "not a number of errors"},
    {"ecc corrected 1", "needs dev"},
    {"lost", "needs dev"},
    {"lost dev=0 pid=1", "no such option"},
    {"slowdev dev=0", "needs factor"},
    {"slowdev factor=0.5", "1 to 1000"},
    {"slowdev factor=1000.001", "1 to 1000"},
    {"slowdev factor=1.0000", "decimals"},
    {"slowdev factor=1.", "decimals"},
    {"slowdev factor=2 factor=3", "(again)"},
    {"slowteardown 1s dev=0", "no such option"},
    {"novmm nth=1", "no such option"},
};

static int parse(const char *line, size_t bytes, struct soft_fault_rule *rule, char *why)
{
    char *copy = malloc(bytes + 1); /* exactly as long as said: a read beyond is seen */
    int is;

    CHECK(copy != NULL);
    copy = realloc(copy, bytes > 0 ? bytes : 1);
    CHECK(copy != NULL);
    memcpy(copy, line, bytes);
    memset(why, 'x', 64);
    is = soft_fault_parse(copy, bytes, rule, why, 64);
    free(copy);
    if (is < 0)
        CHECK(is == -EINVAL && memchr(why, '\0', 64) != NULL && strlen(why) > 8);
    return is;
}

static void round_trip(const struct soft_fault_rule *rule)
{
    char text[SOFT_FAULT_LINE + 1], again[SOFT_FAULT_LINE + 1], why[64];
    struct soft_fault_rule back;
    int n = soft_fault_print(rule, text, sizeof text);

    CHECK(n > 0 && n < (int)sizeof text);
    CHECK(parse(text, (size_t)n, &back, why) == 1);
    soft_fault_print(&back, again, sizeof again);
    CHECK(strcmp(text, again) == 0);
    CHECK(back.kind == rule->kind && back.number == rule->number && back.ns == rule->ns &&
          back.errors == rule->errors && back.milli == rule->milli && back.dev == rule->dev &&
          back.pid == rule->pid && back.nth == rule->nth && back.every == rule->every &&
          back.from == rule->from && back.machine == rule->machine &&
          back.uncorrected == rule->uncorrected && strcmp(back.name, rule->name) == 0 &&
          strcmp(back.program, rule->program) == 0);
}

static void grammar(void)
{
    struct soft_fault_rule rule;
    char why[256], text[SOFT_FAULT_LINE + 1];

    for (size_t i = 0; i < GOOD; i++) {
        CHECK(parse(good[i], strlen(good[i]), &rule, why) == 1);
        soft_fault_print(&rule, text, sizeof text);

        CHECK(strcmp(text, good[i]) == 0);
        round_trip(&rule);
    }
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        int is = soft_fault_parse(wrong[i].line, strlen(wrong[i].line), &rule, why, sizeof why);

        if (is != -EINVAL || strstr(why, wrong[i].says) == NULL)
            fprintf(stderr, "'%s': %d, %s\n", wrong[i].line, is, why);
        CHECK(is == -EINVAL && strstr(why, wrong[i].says) != NULL);
    }
    CHECK(parse("", 0, &rule, why) == 0);
    CHECK(parse(" \t# fail", 8, &rule, why) == 0);
    CHECK(parse("oom#nth=x", 9, &rule, why) == 1 && rule.nth == 0);
    CHECK(parse("oom\0 nth=2", 10, &rule, why) == -EINVAL);
    CHECK(parse("oom\r", 4, &rule, why) == 1); /* an editor's line ends */
}

static void lengths(void)
{
    struct soft_fault_rule rule;
    char why[256], line[SOFT_FAULT_LINE + 2];

    for (int name = 70; name < 80; name++) {
        snprintf(line, sizeof line, "fail cu%0*d 2", name - 2, 7);
        CHECK(parse(line, strlen(line), &rule, why) == (name < 72 ? 1 : -EINVAL));
    }
    memset(line, 'a', sizeof line);
    CHECK(parse(line, SOFT_FAULT_LINE, &rule, why) == -EINVAL && strstr(why, "such") != NULL);
    CHECK(parse(line, sizeof line - 1, &rule, why) == -EINVAL && strstr(why, "up to 255") != NULL);
    memcpy(line, "oom #", 5); /* a comment may be longer */
    CHECK(parse(line, sizeof line, &rule, why) == 1);
}

static bool due(const char *line, uint64_t count)
{
    struct soft_fault_rule rule;
    char why[64];

    CHECK(parse(line, strlen(line), &rule, why) == 1);
    return soft_fault_due(&rule, count);
}

static bool names(const char *name, const char *symbol)
{
    struct soft_fault_rule rule = {0};

    snprintf(rule.name, sizeof rule.name, "%s", name);
    return soft_fault_names(&rule, symbol);
}

static void which_calls(void)
{
    CHECK(due("oom", 1) && due("oom", 9));
    CHECK(!due("oom nth=3", 2) && due("oom nth=3", 3) && !due("oom nth=3", 4));
    CHECK(!due("oom every=3", 2) && due("oom every=3", 3) && due("oom every=3", 6));
    CHECK(!due("oom from=3", 2) && due("oom from=3", 3) && due("oom from=3", 4));
    CHECK(names("cuMemAlloc_v2", "cuMemAlloc_v2") && !names("cuMemAlloc", "cuMemAlloc_v2"));
    CHECK(names("cuMemcpy", "cuMemcpy_ptds") && names("cuLaunchKernel", "cuLaunchKernel_ptsz"));
    CHECK(!names("cuMemcpy_ptds", "cuMemcpy") && !names("cuMemcpyA", "cuMemcpy"));
    CHECK(names("cuMem*", "cuMemcpy") && names("cu*", "cuInit") && !names("cuMem*", "cuMe"));
}

static uint64_t seed;

static uint32_t draw(uint32_t below)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(seed >> 33) % below;
}

static void fuzz(double seconds)
{
    static const char *const words[] = {
        "fail",
        "slow",
        "oom",
        "=",
        "dev=",
        "nth=",
        "18446744073709551615",
        "99999",
        "cuInit",
        "nvml*",
        "factor=",
        "1.5",
        "count=",
        "machine",
        "#",
        "\t",
        "50ms",
        "uncorrected",
        "\0a",
        "program=",
        "0000000000000000000001",
        "\xff",
        "cuNameThatIsFarLongerThanAnyFunctionOfTheDriverHasEverHadAndMoreThanFitsInARule",
        "*",
        "from=1",
        "\n",
        "xid",
        "lost dev=0",
        "pid=-1",
    };
    clock_t end = clock() + (clock_t)(seconds * CLOCKS_PER_SEC);
    unsigned long rounds = 0, rules = 0, refused = 0;

    while (clock() < end || rounds < 100000) {
        char line[900], why[64];
        const char *from = good[draw(GOOD)];
        size_t bytes = strlen(from);
        struct soft_fault_rule rule;
        int is;

        memcpy(line, from, bytes);
        for (uint32_t n = draw(5); n > 0; n--) {
            size_t at = draw((uint32_t)bytes + 1);
            const char *word = words[draw(sizeof words / sizeof words[0])];
            size_t more = strlen(word) + (word[0] == '\0' ? 2 : 0);

            switch (draw(4)) {
            case 0: /* a byte becomes another */
                if (at < bytes)
                    line[at] = (char)draw(256);
                break;
            case 1: /* cut */
                bytes = at;
                break;
            case 2: /* a word comes in */
                if (bytes + more < sizeof line) {
                    memmove(line + at + more, line + at, bytes - at);
                    memcpy(line + at, word, more);
                    bytes += more;
                }
                break;
            default: /* it goes on with another rule's end */
                from = good[draw(GOOD)];
                more = draw((uint32_t)strlen(from));
                if (bytes + strlen(from) - more < sizeof line) {
                    memcpy(line + bytes, from + more, strlen(from) - more);
                    bytes += strlen(from) - more;
                }
                break;
            }
        }
        is = parse(line, bytes, &rule, why);
        CHECK(is == 0 || is == 1 || is == -EINVAL);
        if (is == 1)
            round_trip(&rule);
        rounds++;
        rules += is == 1;
        refused += is < 0;
    }
    fprintf(stderr, "%lu lines: %lu rules, %lu refused\n", rounds, rules, refused);
    CHECK(rules > rounds / 50 && refused > rounds / 4);
}

int main(void)
{
    const char *text = getenv("HARP_TEST_SEED"), *seconds = getenv("HARP_FUZZ_S");

    grammar();
    lengths();
    which_calls();
    for (uint64_t i = 0; i < 3; i++) {
        seed = (text != NULL ? strtoull(text, NULL, 0) : 20261125) + i;
        fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
        fuzz(seconds != NULL ? atof(seconds) : 0.5);
    }
    return 0;
}
