/* SPDX-License-Identifier: Apache-2.0
 *
 * Grammar of the fault rules. One a line, '#' begins a comment:
 *
 *   fail SYMBOL RESULT [WHO] [WHEN]      the call answers RESULT and does nothing
 *   slow SYMBOL DURATION [WHO] [WHEN]    the call takes that much longer
 *   oom [WHO] [WHEN]                     an allocation of device memory of any kind answers 2
 *   xid NUMBER dev=I [pid=P] [program=NAME]
 *   ecc corrected|uncorrected COUNT dev=I [pid=P] [program=NAME]
 *   lost dev=I
 *   slowdev factor=F [dev=I]
 *   slowteardown DURATION
 *   novmm | nopools | noipc | nomanaged [WHO]
 *
 *   WHO    dev=I pid=P program=NAME
 *   WHEN   nth=N | every=N | from=N, and count=process (which it is unless given) | machine
 *
 * SYMBOL is an exported name; the per-thread twin (_ptsz, _ptds) of a plain one is meant with it,
 * and "cuMem*" means all that begin so. DURATION is a number and ns, us, ms or s.
 */
#include "soft/gpu/fault.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define MAX_SLEEP_NS 3600000000000ull
#define MAX_FACTOR   1000

enum { WHO = 1, WHEN = 2, DEV = 4, DEV_MUST = 8, FACTOR = 16, OWNER = 32 };

static const struct {
    const char *word;
    unsigned takes;
} kinds[SOFT_FAULT_KINDS] = {
    [SOFT_FAULT_FAIL] = {"fail", WHO | WHEN},
    [SOFT_FAULT_SLOW] = {"slow", WHO | WHEN},
    [SOFT_FAULT_OOM] = {"oom", WHO | WHEN},
    [SOFT_FAULT_XID] = {"xid", DEV | DEV_MUST | OWNER},
    [SOFT_FAULT_ECC] = {"ecc", DEV | DEV_MUST | OWNER},
    [SOFT_FAULT_LOST] = {"lost", DEV | DEV_MUST},
    [SOFT_FAULT_SLOWDEV] = {"slowdev", DEV | FACTOR},
    [SOFT_FAULT_SLOWTEARDOWN] = {"slowteardown", 0},
    [SOFT_FAULT_NOVMM] = {"novmm", WHO},
    [SOFT_FAULT_NOPOOLS] = {"nopools", WHO},
    [SOFT_FAULT_NOIPC] = {"noipc", WHO},
    [SOFT_FAULT_NOMANAGED] = {"nomanaged", WHO},
};

struct reader {
    const char *at, *end;
    char word[SOFT_FAULT_LINE + 1];
    char *why;
    size_t why_bytes;
};

__attribute__((format(printf, 2, 3))) static int bad(const struct reader *in, const char *format,
                                                     ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(in->why, in->why_bytes, format, args);
    va_end(args);
    return -EINVAL;
}

static bool blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

/* The next word, "" at the end. It fits: no line is longer. */
static const char *next(struct reader *in)
{
    size_t n = 0;

    while (in->at < in->end && blank(*in->at))
        in->at++;
    while (in->at < in->end && !blank(*in->at))
        in->word[n++] = *in->at++;
    in->word[n] = '\0';
    return in->word;
}

/* Decimal digits and nothing else, up to `most`; *rest: where they end. */
static bool digits(const char *text, uint64_t most, uint64_t *out, const char **rest)
{
    uint64_t value = 0;
    const char *p = text;

    for (; *p >= '0' && *p <= '9'; p++) {
        if (value > (UINT64_MAX - 9) / 10)
            return false;
        value = value * 10 + (uint64_t)(*p - '0');
    }
    *rest = p;
    *out = value;
    return p != text && value <= most;
}

static bool number(const char *text, uint64_t least, uint64_t most, uint64_t *out)
{
    const char *rest;

    return digits(text, most, out, &rest) && *rest == '\0' && *out >= least;
}

static int read_duration(struct reader *in, uint64_t *ns)
{
    static const struct {
        const char *unit;
        uint64_t ns;
    } units[] = {{"ns", 1}, {"us", 1000}, {"ms", 1000000}, {"s", 1000000000}};
    const char *word = next(in), *rest;
    uint64_t value;

    if (digits(word, MAX_SLEEP_NS, &value, &rest))
        for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
            if (strcmp(rest, units[i].unit) == 0 && value <= MAX_SLEEP_NS / units[i].ns) {
                *ns = value * units[i].ns;
                return 0;
            }
    return bad(in,
               "duration '%.40s': not a number with ns, us, ms or s, up to 3600s; remedy: 50ms, "
               "for example",
               word);
}

static int read_name(struct reader *in, char *out, size_t bytes)
{
    const char *word = next(in);
    size_t n = strlen(word);
    bool cuda = strncmp(word, "cu", 2) == 0, nvml = strncmp(word, "nvml", 4) == 0;

    for (size_t i = 0; i < n; i++) {
        char c = word[i];
        bool good = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                    c == '_' || (c == '*' && i + 1 == n);

        if (!good)
            n = 0;
    }
    if (n == 0 || n >= bytes || (!cuda && !nvml))
        return bad(in,
                   "symbol '%.40s': not the name of an exported function, up to %d characters; "
                   "remedy: cuMemAlloc_v2, for example, or cuMem* for all that begin so",
                   word, (int)bytes - 1);
    memcpy(out, word, n + 1);
    return 0;
}

static int read_head(struct reader *in, struct soft_fault_rule *rule)
{
    uint64_t value;
    int err;

    switch (rule->kind) {
    case SOFT_FAULT_FAIL:
        err = read_name(in, rule->name, sizeof rule->name);
        if (err == 0 && !number(next(in), 1, 99999, &value))
            err = bad(in,
                      "result '%.40s': not the number of an error, 1 to 99999; remedy: 2 for "
                      "CUDA_ERROR_OUT_OF_MEMORY, 15 for NVML_ERROR_GPU_IS_LOST, for example",
                      in->word);
        rule->number = err == 0 ? (uint32_t)value : 0;
        return err;
    case SOFT_FAULT_SLOW:
        err = read_name(in, rule->name, sizeof rule->name);
        return err != 0 ? err : read_duration(in, &rule->ns);
    case SOFT_FAULT_SLOWTEARDOWN:
        return read_duration(in, &rule->ns);
    case SOFT_FAULT_XID:
        if (!number(next(in), 1, 999, &value))
            return bad(in,
                       "xid '%.40s': not a number from 1 to 999; remedy: xid 79 dev=0, for example",
                       in->word);
        rule->number = (uint32_t)value;
        return 0;
    case SOFT_FAULT_ECC:
        rule->uncorrected = strcmp(next(in), "uncorrected") == 0;
        if (!rule->uncorrected && strcmp(in->word, "corrected") != 0)
            return bad(in, "ecc '%.40s': errors are corrected or uncorrected", in->word);
        if (!number(next(in), 1, 1000000000, &rule->errors))
            return bad(in,
                       "ecc '%.40s': not a number of errors from 1 to 1000000000; remedy: ecc "
                       "corrected 3 dev=0, for example",
                       in->word);
        return 0;
    default:
        return 0;
    }
}

/* "4", "1.5", "2.125" */
static bool read_factor(const char *text, uint32_t *milli)
{
    uint64_t whole, part = 0;
    const char *rest;

    if (!digits(text, MAX_FACTOR, &whole, &rest))
        return false;
    if (*rest == '.') {
        const char *from = rest + 1;

        if (!digits(from, 999, &part, &rest) || rest - from > 3)
            return false;
        for (long i = rest - from; i < 3; i++)
            part *= 10;
    }
    *milli = (uint32_t)(whole * 1000 + part);
    return *rest == '\0' && *milli >= 1000 && *milli <= MAX_FACTOR * 1000;
}

/* One KEY=VALUE; `seen` has a bit for each key that was there. */
static int read_option(struct reader *in, struct soft_fault_rule *rule, unsigned *seen)
{
    enum { SEEN_DEV = 1, SEEN_PID = 2, SEEN_PROGRAM = 4, SEEN_WHEN = 8, SEEN_COUNT = 16 };
    unsigned takes = kinds[rule->kind].takes, key = 0;
    char *value = strchr(in->word, '=');
    uint64_t n;

    if (value == NULL)
        return bad(in, "'%.40s': not KEY=VALUE; remedy: dev=0, nth=3, for example", in->word);
    *value++ = '\0';
    if (strcmp(in->word, "dev") == 0 && (takes & (WHO | DEV)) != 0) {
        key = SEEN_DEV;
        if (!number(value, 0, SOFT_MAX_DEVICES - 1, &n))
            return bad(in, "dev=%.40s: not a device; remedy: 0 to %d, as NVML numbers them", value,
                       SOFT_MAX_DEVICES - 1);
        rule->dev = (int)n;
    } else if (strcmp(in->word, "pid") == 0 && (takes & (WHO | OWNER)) != 0) {
        key = SEEN_PID;
        if (!number(value, 1, INT32_MAX, &n))
            return bad(in, "pid=%.40s: not a process; remedy: a number from 1 to 2147483647",
                       value);
        rule->pid = (int32_t)n;
    } else if (strcmp(in->word, "program") == 0 && (takes & (WHO | OWNER)) != 0) {
        key = SEEN_PROGRAM;
        if (value[0] == '\0' || strlen(value) >= sizeof rule->program)
            return bad(in,
                       "program=%.40s: not 1 to %d characters; remedy: the name in "
                       "/proc/PID/comm, which the kernel cuts there",
                       value, (int)sizeof rule->program - 1);
        memcpy(rule->program, value, strlen(value) + 1);
    } else if ((takes & WHEN) != 0 &&
               (strcmp(in->word, "nth") == 0 || strcmp(in->word, "every") == 0 ||
                strcmp(in->word, "from") == 0)) {
        key = SEEN_WHEN;
        if (!number(value, 1, 1ull << 40, &n))
            return bad(in, "%s=%.40s: not a count from 1 to 2^40; the first call is 1", in->word,
                       value);
        *(in->word[0] == 'n' ? &rule->nth : in->word[0] == 'e' ? &rule->every : &rule->from) = n;
    } else if (strcmp(in->word, "count") == 0 && (takes & WHEN) != 0) {
        key = SEEN_COUNT;
        rule->machine = strcmp(value, "machine") == 0;
        if (!rule->machine && strcmp(value, "process") != 0)
            return bad(in, "count=%.40s: calls are counted by process or machine", value);
    } else if (strcmp(in->word, "factor") == 0 && (takes & FACTOR) != 0 && rule->milli == 0) {
        if (!read_factor(value, &rule->milli))
            return bad(in, "factor=%.40s: not a number from 1 to %d, up to 3 decimals", value,
                       MAX_FACTOR);
        return 0;
    } else {
        return bad(in, "%.40s=: '%s' takes no such option (again)", in->word,
                   kinds[rule->kind].word);
    }
    if ((*seen & key) != 0)
        return bad(in, "%.40s=: said twice, or beside one of nth, every, from; remedy: one of them",
                   in->word);
    *seen |= key;
    return 0;
}

int soft_fault_parse(const char *line, size_t bytes, struct soft_fault_rule *rule, char *why,
                     size_t why_bytes)
{
    struct reader in = {.at = line, .why = why, .why_bytes = why_bytes};
    const char *comment = memchr(line, '#', bytes);
    unsigned seen = 0;
    int kind = 0, err;

    in.end = comment != NULL ? comment : line + bytes;
    if (memchr(line, '\0', bytes) != NULL || memchr(line, '\n', bytes) != NULL)
        return bad(&in, "a rule is one line of text");
    if (in.end - in.at > SOFT_FAULT_LINE)
        return bad(&in, "a rule of %ld characters; remedy: up to %d", (long)(in.end - in.at),
                   SOFT_FAULT_LINE);
    if (*next(&in) == '\0')
        return 0;
    while (kind < SOFT_FAULT_KINDS && strcmp(in.word, kinds[kind].word) != 0)
        kind++;
    if (kind == SOFT_FAULT_KINDS)
        return bad(&in,
                   "'%.40s': no such fault; remedy: one of fail, slow, oom, xid, ecc, lost, "
                   "slowdev, slowteardown, novmm, nopools, noipc, nomanaged",
                   in.word);
    *rule = (struct soft_fault_rule){.kind = (enum soft_fault_kind)kind, .dev = -1};
    err = read_head(&in, rule);
    while (err == 0 && *next(&in) != '\0')
        err = read_option(&in, rule, &seen);
    if (err != 0)
        return err;
    if ((kinds[kind].takes & DEV_MUST) != 0 && rule->dev < 0)
        return bad(&in, "'%s' needs dev=I; remedy: dev=0, for example", kinds[kind].word);
    if (rule->kind == SOFT_FAULT_SLOWDEV && rule->milli == 0)
        return bad(&in, "'slowdev' needs factor=F; remedy: factor=4, for example");
    return 1;
}

static const char *print_ns(uint64_t ns, char text[32])
{
    const char *unit = ns % 1000000000 == 0 ? "s" : ns % 1000000 == 0 ? "ms" : "ns";
    uint64_t per = ns % 1000000000 == 0 ? 1000000000 : ns % 1000000 == 0 ? 1000000 : 1;

    snprintf(text, 32, "%llu%s", (unsigned long long)(ns / per), unit);
    return text;
}

int soft_fault_print(const struct soft_fault_rule *r, char *out, size_t bytes)
{
    char head[160] = "", who[80] = "", when[64] = "", ns[32];
    uint64_t n = r->nth != 0 ? r->nth : r->every != 0 ? r->every : r->from;
    int at = 0;

    if (r->kind == SOFT_FAULT_FAIL)
        snprintf(head, sizeof head, " %s %u", r->name, r->number);
    else if (r->kind == SOFT_FAULT_SLOW)
        snprintf(head, sizeof head, " %s %s", r->name, print_ns(r->ns, ns));
    else if (r->kind == SOFT_FAULT_SLOWTEARDOWN)
        snprintf(head, sizeof head, " %s", print_ns(r->ns, ns));
    else if (r->kind == SOFT_FAULT_XID)
        snprintf(head, sizeof head, " %u", r->number);
    else if (r->kind == SOFT_FAULT_ECC)
        snprintf(head, sizeof head, " %s %llu", r->uncorrected ? "uncorrected" : "corrected",
                 (unsigned long long)r->errors);
    else if (r->kind == SOFT_FAULT_SLOWDEV)
        snprintf(head, sizeof head, " factor=%u.%03u", r->milli / 1000, r->milli % 1000);
    if (r->dev >= 0)
        at += snprintf(who + at, sizeof who - (size_t)at, " dev=%d", r->dev);
    if (r->pid != 0)
        at += snprintf(who + at, sizeof who - (size_t)at, " pid=%d", (int)r->pid);
    if (r->program[0] != '\0')
        snprintf(who + at, sizeof who - (size_t)at, " program=%s", r->program);
    if (n != 0)
        snprintf(when, sizeof when, " %s=%llu",
                 r->nth != 0     ? "nth"
                 : r->every != 0 ? "every"
                                 : "from",
                 (unsigned long long)n);
    return snprintf(out, bytes, "%s%s%s%s%s", kinds[r->kind].word, head, who, when,
                    r->machine ? " count=machine" : "");
}

bool soft_fault_names(const struct soft_fault_rule *rule, const char *symbol)
{
    size_t n = strlen(rule->name);
    const char *rest = symbol + n;

    if (n == 0)
        return false;
    if (rule->name[n - 1] == '*')
        return strncmp(symbol, rule->name, n - 1) == 0;
    return strncmp(symbol, rule->name, n) == 0 &&
           (*rest == '\0' || strcmp(rest, "_ptsz") == 0 || strcmp(rest, "_ptds") == 0);
}

bool soft_fault_due(const struct soft_fault_rule *rule, uint64_t count)
{
    if (rule->nth != 0)
        return count == rule->nth;
    if (rule->every != 0)
        return count % rule->every == 0;
    return count >= rule->from;
}
