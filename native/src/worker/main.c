/* SPDX-License-Identifier: Apache-2.0
 *
 * harp-worker: started for one session, on a connection that has been accepted, and gone with it.
 *
 *   harp-worker --socket FD --driver PATH [--spin US]
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
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "src/worker/worker.h"

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#define HELLO_MS 5000

static struct session session;

/* The client's end, or what it has become: the process ends, and with it whatever the session had
 * of the device. Calls that are under way are not waited for. */
static void *watch(void *arg)
{
    struct ucred peer;
    socklen_t size = sizeof peer;
    struct pollfd fds[2] = {{.fd = *(const int *)arg, .events = POLLIN}, {.fd = -1}};
    /* A forked child may keep the socket open after its parent's death. */
    if (getsockopt(fds[0].fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.pid > 0 &&
        peer.pid != getpid()) {
        fds[1].fd = (int)syscall(SYS_pidfd_open, peer.pid, 0);
        if (fds[1].fd < 0 && errno == ESRCH)
            _exit(0); /* dead already; without the call (Linux < 5.3) the socket has to do */
    }
    fds[1].events = POLLIN;
    while (poll(fds, 2, -1) < 0 && errno == EINTR)
        ;
    _exit(0);
}

static int number(const char *text, long most)
{
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    return errno != 0 || *end != '\0' || end == text || value < 0 || value > most ? -1 : (int)value;
}

int main(int argc, char **argv)
{
    const char *driver = NULL;
    char text[512];
    int sock = -1, spin = 0;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--socket") == 0)
            sock = number(argv[i + 1], 1 << 20);
        else if (strcmp(argv[i], "--driver") == 0)
            driver = argv[i + 1];
        else if (strcmp(argv[i], "--spin") == 0)
            spin = number(argv[i + 1], 1000);
        else
            argc = 0;
    }
    if (argc % 2 == 0 || sock < 0 || driver == NULL || spin < 0) {
        fputs("usage: harp-worker --socket FD --driver PATH [--spin US]\n", stderr);
        return 1;
    }
    signal(SIGPIPE, SIG_IGN);
    fcntl(sock, F_SETFD, FD_CLOEXEC);
    struct harp_table_id own;
    harp_table_own(&own, "harp-worker");
    int err = harp_ring_accept(&session.ring, sock, &own, HELLO_MS, text, sizeof text);
    /* Before the answer: a client is told that there is no driver, and not that its calls fail. */
    if (err == 0)
        err = driver_open(driver, text, sizeof text);
    if (err != 0) {
        fprintf(stderr, "harp-worker: %s\n", text);
        harp_ring_refuse(sock, text);
        return 1;
    }
    prepare_begin();
    session.ring.spin_us = harp_ring_spin_us((unsigned)spin);
    pthread_mutex_init(&session.put, NULL);
    pthread_mutex_init(&session.lock, NULL);
    if (harp_ring_answer(&session.ring) != 0)
        return 0;           /* gone already */
    session.ring.sock = -1; /* a thread sees to it: those that wait for records just wait */
    pthread_t thread;
    if (pthread_create(&thread, NULL, watch, &sock) != 0)
        session_end("no thread to watch the client with");
    session_run(&session);
}
