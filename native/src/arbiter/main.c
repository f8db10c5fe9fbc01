/* SPDX-License-Identifier: Apache-2.0
 *
 * harp-arbiter: one per machine and run folder. Options, limits, becoming a daemon.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server.h"

#define MAX_CLIENTS 8192u
#define MAX_TENANTS 1024u

struct options {
    const char *run, *lock_dir, *log;
    int daemonize, ready_fd;
    uint32_t policy;
    uint64_t quantum_us, burst_us;
};

static const char *const policies[] = {"drr", "priority", "fifo"};

static int usage(FILE *to, int code)
{
    fputs("usage: harp-arbiter --run DIR [--lock-dir DIR] [--log FILE] [--daemonize]"
          " [--ready-fd N]\n"
          "  --run DIR       folder of admin.sock; one arbiter per folder\n"
          "  --lock-dir DIR  folder of device locks, shared by all users (HARP_LOCK_DIR;"
          " default /run/lock)\n"
          "  --log FILE      append the log here (default: standard error)\n"
          "  --policy P      who is next on a device: drr (shares; default), priority, fifo\n"
          "  --quantum-us N  longest turn while another tenant waits (1000-50000, default 5000)\n"
          "  --burst-us N    engine time an idle tenant is owed when it comes back (0-1000000,"
          " default 50000)\n"
          "  --daemonize     go on in the background once ready\n"
          "  --ready-fd N    write the line 'ready' there (default 1)\n"
          "environment: HARP_MAX_CLIENTS per tenant (default 1024)\n",
          to);
    return code;
}

/* Out of range is an error, not a guess. */
static int parse_number(const char *name, const char *text, uint64_t low, uint64_t high,
                        uint64_t *value)
{
    char *end;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    if (errno != 0 || *text == 0 || *end != 0 || n < low || n > high) {
        fprintf(stderr, "harp-arbiter: %s=%s is not a number from %llu to %llu\n", name, text,
                (unsigned long long)low, (unsigned long long)high);
        return -EINVAL;
    }
    *value = n;
    return 0;
}

static int parse(int argc, char **argv, struct options *o)
{
    static const struct option table[] = {{"run", required_argument, NULL, 'r'},
                                          {"lock-dir", required_argument, NULL, 'k'},
                                          {"log", required_argument, NULL, 'l'},
                                          {"policy", required_argument, NULL, 'p'},
                                          {"quantum-us", required_argument, NULL, 'q'},
                                          {"burst-us", required_argument, NULL, 'b'},
                                          {"daemonize", no_argument, NULL, 'd'},
                                          {"ready-fd", required_argument, NULL, 'f'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    for (int c; (c = getopt_long(argc, argv, "", table, NULL)) != -1;) {
        switch (c) {
        case 'r':
            o->run = optarg;
            break;
        case 'k':
            o->lock_dir = optarg;
            break;
        case 'l':
            o->log = optarg;
            break;
        case 'p':
            o->policy = 0;
            while (o->policy < 3 && strcmp(policies[o->policy], optarg) != 0)
                o->policy++;
            if (o->policy == 3) {
                fprintf(stderr, "harp-arbiter: --policy %s is not one of drr, priority, fifo\n",
                        optarg);
                return -EINVAL;
            }
            break;
        case 'q':
            if (parse_number("--quantum-us", optarg, 1000, 50000, &o->quantum_us) != 0)
                return -EINVAL;
            break;
        case 'b':
            if (parse_number("--burst-us", optarg, 0, 1000000, &o->burst_us) != 0)
                return -EINVAL;
            break;
        case 'd':
            o->daemonize = 1;
            break;
        case 'f':
            o->ready_fd = atoi(optarg);
            break;
        case 'h':
            exit(usage(stdout, 0));
        default:
            return -EINVAL;
        }
    }
    return o->run != NULL && optind == argc ? 0 : -EINVAL;
}

/* A number from the environment, if it is there. */
static int number(const char *name, uint64_t low, uint64_t high, uint64_t *value)
{
    const char *text = getenv(name);
    return text == NULL || text[0] == 0 ? 0 : parse_number(name, text, low, high, value);
}

/* Two descriptors per client, and two per tenant (its socket, its page): as many clients as leave
 * room for a quarter as many tenants. */
static uint32_t clients_by_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return 256;
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur < 512)
        return 128;
    rlim_t n = (limit.rlim_cur - 128) * 2 / 5;
    return n > MAX_CLIENTS ? MAX_CLIENTS : (uint32_t)n;
}

static int configure(struct harp_core_config *config, const struct options *o)
{
    uint64_t clients = 1024;
    if (number("HARP_MAX_CLIENTS", 1, MAX_CLIENTS, &clients) != 0)
        return -EINVAL;
    *config = (struct harp_core_config){.quantum_ns = o->quantum_us * 1000,
                                        .burst_ns = o->burst_us * 1000,
                                        .policy = o->policy,
                                        .first_epoch = server_now_ns(),
                                        .max_clients = clients_by_descriptors(),
                                        .max_tenant_clients = (uint32_t)clients,
                                        .max_tenants = MAX_TENANTS,
                                        .slack_bytes = HARP_GRANULE_BYTES,
                                        .slack_free_bytes = 32 * HARP_GRANULE_BYTES};
    return 0;
}

/* Enters the run folder and takes its lock. */
static int enter(const char *run, char *real, int *lock)
{
    if (mkdir(run, 0755) != 0 && errno != EEXIST)
        return -errno;
    if (chdir(run) != 0 || realpath(".", real) == NULL)
        return -errno;
    *lock = open("arbiter.lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (*lock < 0)
        return -errno;
    if (flock(*lock, LOCK_EX | LOCK_NB) != 0)
        return errno == EWOULDBLOCK ? -EBUSY : -errno;
    return 0;
}

/* Goes on in a child; the parent waits for the child's word and ends with it. */
static int detach(int *word)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return -errno;
    pid_t child = fork();
    if (child < 0)
        return -errno;
    if (child > 0) {
        char ok = 0;
        close(ends[1]);
        while (read(ends[0], &ok, 1) < 0 && errno == EINTR)
            continue;
        _exit(ok == 'y' ? 0 : 1);
    }
    close(ends[0]);
    *word = ends[1];
    return 0;
}

static void alarm_handler(int signal_number)
{
}

static void own_session(int daemonize, int keep)
{
    (void)setsid(); /* fails harmlessly where a shell made us a leader already */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    struct sigaction alarm_action = {.sa_handler = alarm_handler}; /* no SA_RESTART: peer.c */
    sigaction(SIGALRM, &alarm_action, NULL);
    int null = daemonize ? open("/dev/null", O_RDWR | O_CLOEXEC) : -1;
    for (int fd = 0; null >= 0 && fd < 3; fd++)
        if (fd != keep)
            dup2(null, fd);
    if (null > 2)
        close(null);
}

int main(int argc, char **argv)
{
    static struct server server;
    static char run[PATH_MAX];
    struct options o = {.ready_fd = STDOUT_FILENO, .quantum_us = 5000, .burst_us = 50000};
    int lock = -1, word = -1, r;
    if (parse(argc, argv, &o) != 0)
        return usage(stderr, 2);
    if (configure(&server.config, &o) != 0)
        return 2;
    if (o.log != NULL && (r = log_open(o.log)) != 0) {
        fprintf(stderr, "harp-arbiter: %s: %s\n", o.log, strerror(-r));
        return 1;
    }
    umask(0022);
    if (o.daemonize && (r = detach(&word)) != 0) {
        fprintf(stderr, "harp-arbiter: cannot go to the background: %s\n", strerror(-r));
        return 1;
    }
    /* After the fork: the lock and its pid must be the one that serves. */
    char lock_dir[PATH_MAX];
    if (realpath(o.lock_dir != NULL ? o.lock_dir : devlock_default_dir(), lock_dir) == NULL) {
        fprintf(stderr, "harp-arbiter: lock folder: %s\n", strerror(errno));
        return 1;
    }
    r = enter(o.run, run, &lock);
    if (r != 0) {
        fprintf(stderr, "harp-arbiter: %s: %s\n", o.run,
                r == -EBUSY ? "another arbiter serves this run folder" : strerror(-r));
        return r == -EBUSY ? 3 : 1;
    }
    server.run_dir = run;
    server.lock_dir = lock_dir;
    own_session(0, -1);
    uint64_t idle_s = 60;
    if (number("HARP_IDLE_EXIT_S", 0, 1000000, &idle_s) != 0)
        return 2;
    server.idle_exit_ns = idle_s * 1000000000u;
    r = server_open(&server);
    if (r != 0) {
        fprintf(stderr, "harp-arbiter: %s: %s\n", run, strerror(-r));
        server_close(&server);
        return 1;
    }
    log_event("arbiter_started", "run=%s pid=%ld policy=%s quantum_us=%llu max_clients=%u", run,
              (long)getpid(), policies[server.config.policy],
              (unsigned long long)server.config.quantum_ns / 1000, server.config.max_clients);
    if (write(o.ready_fd, "ready\n", 6) != 6)
        log_event("ready_unheard", "fd=%d", o.ready_fd);
    if (o.ready_fd > 2)
        close(o.ready_fd);
    if (o.daemonize) {
        own_session(1, -1);
        (void)!write(word, "y", 1);
        close(word);
    }
    r = server_run(&server);
    server_close(&server);
    return r == 0 ? 0 : 1;
}
