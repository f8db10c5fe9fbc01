/* SPDX-License-Identifier: Apache-2.0
 *
 * A session's worker, as a process: its start and its end.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/link/ends.h"

static pid_t worker = -1;

static void run_worker(const struct ends_options *given, struct far_session *session, int sock,
                       pid_t beside)
{
    char number[16], *arguments[64];
    unsigned n = 0;
    for (; n < given->worker_args && n < 60; n++)
        arguments[n] = given->worker[n];
    /* Should this session's process be killed, nobody would end a worker that is stopped. */
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != beside)
        _exit(1);
    snprintf(number, sizeof number, "%d", sock);
    arguments[n++] = (char[]){"--socket"};
    arguments[n++] = number;
    arguments[n] = NULL;
    fcntl(sock, F_SETFD, 0);
    if (given->sessions != NULL)
        far_session_environment(session);
    if (given->attended) { /* stdout is for what is said of sessions */
        int none = open("/dev/null", O_RDONLY);
        if (none < 0 || dup2(none, STDIN_FILENO) < 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0)
            _exit(127);
        close(none);
    }
    (void)signal(SIGPIPE, SIG_DFL);
    (void)signal(SIGUSR2, SIG_DFL);
    execv(arguments[0], arguments);
    fprintf(stderr, "harp-link: %s: %s\n", arguments[0], strerror(errno));
    _exit(127);
}

int far_worker_start(const struct ends_options *given, struct far_session *session, int *sock)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return -errno;
    const pid_t own = getpid();
    worker = fork();
    if (worker == 0)
        run_worker(given, session, pair[1], own);
    close(pair[1]);
    *sock = pair[0];
    return worker < 0 ? -errno : 0;
}

void far_worker_end(int sock)
{
    if (worker <= 0)
        return;
    shutdown(sock, SHUT_RDWR);
    for (unsigned i = 0; i < 200; i++) {
        if (waitpid(worker, NULL, WNOHANG) != 0)
            return;
        usleep(10000);
    }
    kill(worker, SIGKILL);
    waitpid(worker, NULL, 0);
}
