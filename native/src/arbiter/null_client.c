/* SPDX-License-Identifier: Apache-2.0
 *
 * harp-null-client: an accelerator that is none, to show that the arbiter knows nothing of CUDA.
 *
 * Takes memory leases and engine time like libharp does, but its engine is a pretended one: a lock
 * on a file that all null clients of a test share, held for as long as a "kernel" sleeps. The file
 * holds the engine's own ledger, one 64-bit word of busy ns per lane, which the test reads.
 *
 *   harp-null-client --grant DIR --engine FILE --lane N [--kernel-us K] [--seconds S]
 *                    [--mem-bytes B] [--burst N --idle-us U] [--no-gate] [--dev D]
 *
 * Ends with one line: key=value of what it leased, launched and counted itself.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "harp/lease.h"

struct null_client {
    int sock, engine;
    uint64_t *ledger; /* shared with the other processes: atomic adds only */
    uint32_t dev;
    uint64_t lane, kernel_ns, burst, idle_ns;
    int gated;
    /* gate */
    int open, closing;
    uint64_t epoch, deadline_ns; /* 0: until CLOSE */
    uint64_t first_ns, last_ns;  /* of the launches since OPEN */
    /* account */
    uint64_t leased, launches, used_ns, opens;
};

static uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void sleep_ns(uint64_t ns)
{
    struct timespec ts = {.tv_sec = (time_t)(ns / 1000000000u),
                          .tv_nsec = (long)(ns % 1000000000u)};
    while (nanosleep(&ts, &ts) != 0 && errno == EINTR)
        continue;
}

static void say(struct null_client *n, struct harp_msg m)
{
    m.version = HARP_LEASE_VERSION;
    m.dev = n->dev;
    if (send(n->sock, &m, sizeof m, MSG_NOSIGNAL) != (ssize_t)sizeof m) {
        perror("harp-null-client: send");
        exit(1);
    }
}

/* Handles one message if there is one within `timeout_ms` (-1: waits). Returns its op, or 0. */
static int hear(struct null_client *n, int timeout_ms, struct harp_msg *m)
{
    struct pollfd p = {.fd = n->sock, .events = POLLIN};
    if (poll(&p, 1, timeout_ms) <= 0)
        return 0;
    if (recv(n->sock, m, sizeof *m, 0) != (ssize_t)sizeof *m) {
        fprintf(stderr, "harp-null-client: the arbiter closed the connection\n");
        exit(1);
    }
    switch (m->op) {
    case HARP_RECALL_MEM: /* all it leased is in use */
        say(n, (struct harp_msg){.op = HARP_RECALLED, .seq = m->seq});
        break;
    case HARP_OPEN_GATE:
        if (m->a == 1 && !n->open) /* crossed our yield: the gate is not ours any more */
            break;
        if (!n->open)
            n->opens++;
        n->open = 1;
        n->closing = 0;
        n->epoch = m->epoch;
        n->deadline_ns = m->quantum_ns != 0 ? now_ns() + m->quantum_ns : 0;
        break;
    case HARP_CLOSE_GATE:
        if (n->open && m->epoch == n->epoch)
            n->closing = 1;
        break;
    default:
        break;
    }
    return m->op;
}

static void connect_to(struct null_client *n, const char *grant)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX, .sun_path = "arbiter.sock"};
    struct harp_msg m;
    n->sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (n->sock < 0 || chdir(grant) != 0 ||
        connect(n->sock, (const struct sockaddr *)&at, sizeof at) != 0) {
        perror("harp-null-client: grant folder");
        exit(1);
    }
    struct harp_msg hello = {.op = HARP_HELLO, .a = HARP_KIND_NULL, .pid = (int32_t)getpid()};
    memcpy(hello.text, "null", 5);
    say(n, hello);
    while (hear(n, -1, &m) != HARP_WELCOME)
        continue;
}

static int lease(struct null_client *n, uint64_t bytes)
{
    struct harp_msg m = {.op = HARP_LEASE_MEM, .seq = 1, .bytes = bytes};
    int op;
    say(n, m);
    do
        op = hear(n, -1, &m);
    while (op != HARP_MEM_GRANT && op != HARP_MEM_DENY);
    if (op == HARP_MEM_GRANT)
        n->leased += bytes;
    return op == HARP_MEM_GRANT;
}

/* Runs one kernel: the engine is ours until it has slept. */
static void kernel(struct null_client *n)
{
    if (flock(n->engine, LOCK_EX) != 0)
        exit(1);
    uint64_t start = now_ns();
    sleep_ns(n->kernel_ns);
    uint64_t end = now_ns();
    __atomic_fetch_add(&n->ledger[n->lane], end - start, __ATOMIC_RELAXED);
    (void)flock(n->engine, LOCK_UN);
    if (n->first_ns == 0)
        n->first_ns = start;
    n->last_ns = end;
    n->launches++;
}

static void yield(struct null_client *n, int backlogged)
{
    uint64_t used = n->first_ns != 0 ? n->last_ns - n->first_ns : 0;
    struct harp_msg m = {
        .op = HARP_YIELD_TIME, .epoch = n->epoch, .a = (uint32_t)backlogged, .used_ns = used};
    n->used_ns += used;
    n->first_ns = n->last_ns = 0;
    n->open = n->closing = 0;
    say(n, m);
}

static void work(struct null_client *n, uint64_t until_ns)
{
    struct harp_msg m;
    int wanting = 0, launched = 0;
    uint64_t left = n->burst;
    while (now_ns() < until_ns) {
        while (n->gated && hear(n, 0, &m) != 0)
            continue;
        if (n->gated && !n->open) {
            if (!wanting)
                say(n, (struct harp_msg){.op = HARP_WANT_TIME});
            wanting = 1;
            launched = 0;
            (void)hear(n, 100, &m);
            continue;
        }
        wanting = 0;
        uint64_t t = now_ns();
        int late = n->deadline_ns != 0 && t + n->kernel_ns > n->deadline_ns;
        if (n->gated && launched && (n->closing || late)) {
            yield(n, 1);
            wanting = 1;
            launched = 0;
            continue;
        }
        kernel(n);
        launched = 1;
        if (n->burst != 0 && --left == 0) {
            left = n->burst;
            if (n->gated)
                yield(n, 0);
            launched = 0;
            sleep_ns(n->idle_ns);
        }
    }
    if (n->gated && n->open)
        yield(n, 0);
}

static uint64_t value(int argc, char **argv, int *i)
{
    if (*i + 1 >= argc) {
        fprintf(stderr, "harp-null-client: %s needs a number\n", argv[*i]);
        exit(2);
    }
    return strtoull(argv[++*i], NULL, 10);
}

int main(int argc, char **argv)
{
    struct null_client n = {.kernel_ns = 200000, .gated = 1};
    const char *grant = NULL, *engine = NULL;
    uint64_t seconds = 1, mem = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--grant") == 0 && i + 1 < argc)
            grant = argv[++i];
        else if (strcmp(argv[i], "--engine") == 0 && i + 1 < argc)
            engine = argv[++i];
        else if (strcmp(argv[i], "--lane") == 0)
            n.lane = value(argc, argv, &i) % 512;
        else if (strcmp(argv[i], "--kernel-us") == 0)
            n.kernel_ns = value(argc, argv, &i) * 1000;
        else if (strcmp(argv[i], "--seconds") == 0)
            seconds = value(argc, argv, &i);
        else if (strcmp(argv[i], "--mem-bytes") == 0)
            mem = value(argc, argv, &i);
        else if (strcmp(argv[i], "--burst") == 0)
            n.burst = value(argc, argv, &i);
        else if (strcmp(argv[i], "--idle-us") == 0)
            n.idle_ns = value(argc, argv, &i) * 1000;
        else if (strcmp(argv[i], "--dev") == 0)
            n.dev = (uint32_t)value(argc, argv, &i);
        else if (strcmp(argv[i], "--no-gate") == 0)
            n.gated = 0;
        else
            return 2;
    }
    n.engine = engine != NULL ? open(engine, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (grant == NULL || n.engine < 0 || ftruncate(n.engine, 4096) != 0)
        return 2;
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, n.engine, 0);
    if (page == MAP_FAILED)
        return 1;
    n.ledger = page;
    connect_to(&n, grant);
    int granted = mem == 0 || lease(&n, mem);
    work(&n, now_ns() + seconds * 1000000000u);
    printf("granted=%d leased_bytes=%llu launches=%llu used_ns=%llu opens=%llu\n", granted,
           (unsigned long long)n.leased, (unsigned long long)n.launches,
           (unsigned long long)n.used_ns, (unsigned long long)n.opens);
    return 0;
}
