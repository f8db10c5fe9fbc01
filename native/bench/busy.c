/* SPDX-License-Identifier: Apache-2.0
 *
 * harp-bench-busy: work of a known length, counted by the program that has it done.
 *
 * Kernels only sleep, so on the software GPU their length is the model's and not the host's. Every
 * count is of work whose end the driver has told of. Says on stdout, one JSON object a line:
 *   {"pid", "ready": true, "kernel_us", "mode"}     its first kernel has run
 *   {"pid", "t_ns", "iterations"}                   kernels (or copies) ended until then
 *   {"pid", "request", "arrived_ns", "begun_ns", "ended_ns"}
 *   {"pid", "kernel_ns", "kernels"}                 --calibrate, and nothing else
 * t_ns and its like are CLOCK_MONOTONIC. busy_work.c has the work, this file what is asked for.
 */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/busy.h"

static const char usage[] =
    "usage: harp-bench-busy [OPTIONS]\n"
    "  --mode saturate|sync|graph|copy|requests   what is kept going (saturate)\n"
    "  --kernel-us N       length of a kernel, 1 to 1000000 (200)\n"
    "  --graph-nodes N     kernels of a graph (8)\n"
    "  --copy-bytes N      of a copy to the device (1048576)\n"
    "  --request-kernels N kernels of a request (10)\n"
    "  --rate N            requests a second (30)\n"
    "  --arrivals poisson|fixed   when requests come (poisson)\n"
    "  --seed N            of the arrivals (1)\n"
    "  --requests N        end after so many (0: go on)\n"
    "  --processes N       so many processes do the same, 1 to 64 (1)\n"
    "  --report-ms N       between two counts (50)\n"
    "  --seconds N         end after so long (0: go on until killed)\n"
    "  --go                begin when a byte comes on stdin, one for each process; end when it is "
    "closed\n"
    "  --calibrate         alone on the device: how long a kernel takes, by events; then end\n";

struct busy_options busy = {
    .mode = BUSY_SATURATE,
    .kernel_us = 200,
    .graph_nodes = 8,
    .copy_bytes = 1 << 20,
    .request_kernels = 10,
    .rate = 30,
    .poisson = true,
    .seed = 1,
    .processes = 1,
    .report_ms = 50,
};

/* One write, so that lines of several processes stay whole in a pipe. */
void busy_say(const char *format, ...)
{
    char line[512];
    va_list arguments;
    int n;

    va_start(arguments, format);
    n = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (n <= 0 || (size_t)n >= sizeof line || write(STDOUT_FILENO, line, (size_t)n) != n)
        _exit(1); /* nobody reads any more */
}

static void bad(const char *option, const char *value)
{
    fprintf(stderr, "harp-bench-busy: %s %s is not possible\n%s", option, value, usage);
    exit(2);
}

static long number(const char *option, const char *text, long low, long high)
{
    char *end;
    long value;

    errno = 0;
    value = strtol(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || value < low || value > high)
        bad(option, text);
    return value;
}

static int choice(const char *option, const char *text, const char *const *words, int count)
{
    for (int i = 0; i < count; i++)
        if (strcmp(text, words[i]) == 0)
            return i;
    bad(option, text);
    return -1;
}

static const char *const modes[] = {"saturate", "sync", "graph", "copy", "requests"};
static const char *const arrivals[] = {"fixed", "poisson"};

const char *busy_mode_name(void)
{
    return modes[busy.mode];
}

static void read_options(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *o = argv[i], *v = i + 1 < argc ? argv[i + 1] : "";

        if (strcmp(o, "--go") == 0) {
            busy.go = true;
            continue;
        }
        if (strcmp(o, "--calibrate") == 0) {
            busy.calibrate = true;
            continue;
        }
        if (strcmp(o, "--help") == 0) {
            fputs(usage, stdout);
            exit(0);
        }
        i++;
        if (strcmp(o, "--mode") == 0)
            busy.mode = (enum busy_mode)choice(o, v, modes, BUSY_MODES);
        else if (strcmp(o, "--kernel-us") == 0)
            busy.kernel_us = (unsigned)number(o, v, 1, 1000000);
        else if (strcmp(o, "--graph-nodes") == 0)
            busy.graph_nodes = (int)number(o, v, 1, 1000);
        else if (strcmp(o, "--copy-bytes") == 0)
            busy.copy_bytes = (size_t)number(o, v, 1, 1 << 30);
        else if (strcmp(o, "--request-kernels") == 0)
            busy.request_kernels = (int)number(o, v, 1, 900);
        else if (strcmp(o, "--rate") == 0)
            busy.rate = (int)number(o, v, 1, 100000);
        else if (strcmp(o, "--arrivals") == 0)
            busy.poisson = choice(o, v, arrivals, 2) == 1;
        else if (strcmp(o, "--seed") == 0)
            busy.seed = (uint64_t)number(o, v, 0, 1000000000);
        else if (strcmp(o, "--requests") == 0)
            busy.requests = number(o, v, 0, 100000000);
        else if (strcmp(o, "--processes") == 0)
            busy.processes = (int)number(o, v, 1, 64);
        else if (strcmp(o, "--report-ms") == 0)
            busy.report_ms = (int)number(o, v, 1, 60000);
        else if (strcmp(o, "--seconds") == 0)
            busy.seconds = (int)number(o, v, 0, 86400);
        else
            bad(o, "");
    }
}

/* The driver is first opened in the children: a context does not survive a fork. */
static int run_children(void)
{
    pid_t parent = getpid();
    int worst = 0, status;

    for (int i = 0; i < busy.processes; i++) {
        pid_t pid = fork();

        if (pid < 0) {
            perror("harp-bench-busy: fork");
            return 1; /* those that run end with us */
        }
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (getppid() != parent)
                _exit(1);
            busy.seed += (uint64_t)i;
            exit(busy_work());
        }
    }
    while (wait(&status) > 0)
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
            worst = 1;
    return worst;
}

int main(int argc, char **argv)
{
    read_options(argc, argv);
    return busy.processes > 1 ? run_children() : busy_work();
}
