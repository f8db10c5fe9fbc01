/* SPDX-License-Identifier: Apache-2.0
 *
 * harp-worker: started for one session, on a connection that has been accepted, and gone with it.
 *
 *   harp-worker --socket FD --driver PATH [--user UID[:GID]] [--images FOLDER] [--no-seccomp]
 *               [--no-wipe]
 *
 * HARP_WORKER_USER and HARP_WORKER_IMAGES say the same as the options, where these do not.
 *
 * Whose tenant the session is, and how much it may have, is what libharp at PATH finds in the
 * environment (HARP_GRANT); the worker itself trusts nobody and owns nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "src/worker/confine.h"
#include "src/worker/store.h"
#include "src/worker/worker.h"

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#define HELLO_MS 5000

static struct session session;

/* Signals by which somebody ends us: there is something to do first. */
static void ends_of(sigset_t *ends)
{
    sigemptyset(ends);
    sigaddset(ends, SIGTERM);
    sigaddset(ends, SIGINT);
}

/* The client's end, or what it has become, or somebody's who may end us (SIGTERM): the process
 * ends, and with it whatever the session had of the device. Calls that are under way are not waited
 * for.
 */
static void *watch(void *arg)
{
    struct ucred peer;
    socklen_t size = sizeof peer;
    struct pollfd fds[3] = {{.fd = *(const int *)arg}, {.fd = -1}, {.fd = -1}};
    sigset_t ends;
    ends_of(&ends);
    /* A forked child may keep the socket open after its parent's death. */
    if (getsockopt(fds[0].fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.pid > 0 &&
        peer.pid != getpid()) {
        fds[1].fd = (int)syscall(SYS_pidfd_open, peer.pid, 0);
        if (fds[1].fd < 0 && errno == ESRCH)
            session_over(0); /* dead already; without the call (Linux < 5.3) the socket has to do */
    }
    fds[2].fd = signalfd(-1, &ends, SFD_CLOEXEC);
    for (unsigned i = 0; i < 3; i++)
        fds[i].events = POLLIN;
    while (poll(fds, 3, -1) < 0 && errno == EINTR)
        ;
    session_over(0);
}

struct options {
    int sock;
    const char *driver, *images;
    bool other_user, no_filter, no_wipe;
    struct confine_user user;
};

static int number(const char *text, long most)
{
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    return errno != 0 || *end != '\0' || end == text || value < 0 || value > most ? -1 : (int)value;
}

/* An option that has a value. */
static bool take(struct options *o, const char *name, const char *value)
{
    if (strcmp(name, "--socket") == 0)
        return (o->sock = number(value, 1 << 20)) >= 0;
    if (strcmp(name, "--driver") == 0)
        return (o->driver = value) != NULL;
    if (strcmp(name, "--images") == 0)
        return (o->images = value) != NULL;
    if (strcmp(name, "--user") == 0)
        return o->other_user = confine_parse(value, &o->user) == 0;
    return false;
}

static bool read_options(int argc, char **argv, struct options *o)
{
    *o = (struct options){.sock = -1};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--no-seccomp") == 0)
            o->no_filter = true;
        else if (strcmp(argv[i], "--no-wipe") == 0)
            o->no_wipe = true;
        else if (i + 1 == argc || !take(o, argv[i], argv[i + 1]))
            return false;
        else
            i++;
    }
    return o->sock >= 0 && o->driver != NULL;
}

/* What differs between sessions of one command line (harp-link far). Whom it cannot read it does
 * not serve as root. */
static bool read_environment(struct options *o)
{
    const char *user = getenv("HARP_WORKER_USER");
    if (o->images == NULL)
        o->images = getenv("HARP_WORKER_IMAGES");
    if (user == NULL || o->other_user)
        return true;
    return o->other_user = confine_parse(user, &o->user) == 0;
}

/* Before anything of the client's or the driver's is looked at. */
static int give_up(const struct options *o, char *text, size_t size)
{
    uid_t owner = o->other_user ? o->user.uid : geteuid();
    int err = o->images != NULL ? store_open(o->images, owner, text, size) : 0;
    if (err == 0 && o->other_user)
        err = confine_become(&o->user, text, size);
    return err == 0 ? confine_self(text, size) : err;
}

/* The filter comes last: a driver may need more while it is loaded. */
static int open_all(const struct options *o, char *text, size_t size)
{
    char other[512];
    struct harp_table_id own;
    harp_table_own(&own, "harp-worker");
    int given = give_up(o, text, size);
    /* Also for a refusal: it is not heard before the hello is taken. */
    int err = harp_ring_accept(&session.ring, o->sock, &own, HELLO_MS, given == 0 ? text : other,
                               given == 0 ? size : sizeof other);
    if (given != 0 || err != 0)
        return given != 0 ? given : err;
    /* Before the answer: a client is told that there is no driver, and not that its calls fail. */
    err = driver_open(o->driver, text, size);
    if (err == 0 && o->no_filter)
        fputs("harp-worker: no seccomp filter, as --no-seccomp says\n", stderr);
    else if (err == 0)
        err = filter_install(text, size);
    return err;
}

int main(int argc, char **argv)
{
    struct options o;
    char text[512] = "";
    if (!read_options(argc, argv, &o) || !read_environment(&o)) {
        fputs("usage: harp-worker --socket FD --driver PATH [--user UID[:GID]] [--images FOLDER] "
              "[--no-seccomp] [--no-wipe]\n"
              "HARP_WORKER_USER and HARP_WORKER_IMAGES: as --user and --images\n",
              stderr);
        return 1;
    }
    sigset_t ends;
    ends_of(&ends);
    pthread_sigmask(SIG_BLOCK, &ends, NULL); /* before there are threads: watch takes them */
    signal(SIGPIPE, SIG_IGN);
    fcntl(o.sock, F_SETFD, FD_CLOEXEC);
    if (open_all(&o, text, sizeof text) != 0) {
        fprintf(stderr, "harp-worker: %s\n", text);
        harp_ring_refuse(o.sock, text);
        return 1;
    }
    harp_adapt_begin();
    if (o.no_wipe)
        wipe_not();
    session.ring.yield.most_us = HARP_YIELD_US;
    pthread_mutex_init(&session.put, NULL);
    pthread_mutex_init(&session.lock, NULL);
    if (harp_ring_answer(&session.ring) != 0)
        return 0;           /* gone already */
    session.ring.sock = -1; /* a thread sees to it: those that wait for records just wait */
    pthread_t thread;
    if (pthread_create(&thread, NULL, watch, &o.sock) != 0)
        session_end("no thread to watch the client with");
    session_run(&session);
}
