/* SPDX-License-Identifier: Apache-2.0
 *
 * Several sessions behind one port. A process for each connection, which becomes its session's; and
 * a file for each session, in a folder of whoever grants them:
 *
 *   FOLDER/ID     the token; then lines NAME=VALUE, for the environment of its worker, but
 *                 resume_s=SECONDS: how long it outlives its connection
 *
 * The file is locked while the session runs. With it the session is taken away. No session outlives
 * this process, and no worker its session's.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/link/ends.h"
#include "src/link/join.h"
#include "src/link/upgrade.h"

/* Processes, and those of them that may be strangers': without a call that was accepted. */
#define PROCESSES UPGRADE_PLACES
#define STRANGERS 64

/* --- a session's file --- */

static const char resume[] = "resume_s=";

static void forget(struct far_session *s)
{
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
    s->token = "\n"; /* which no header can hold */
    s->environment = NULL;
}

void far_session_open(struct far_session *s, const char *folder, const char *name)
{
    char path[4096];
    forget(s);
    snprintf(s->name, sizeof s->name, "%s", name);
    int n = snprintf(path, sizeof path, "%s/%s", folder, name);
    if (name[0] == '\0' || name[0] == '.' || strchr(name, '/') != NULL || n < 0 ||
        (size_t)n >= sizeof path)
        return;
    s->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    ssize_t got = s->fd >= 0 ? read(s->fd, s->text, sizeof s->text - 1) : -1;
    if (got <= 0 || (size_t)got == sizeof s->text - 1)
        return;
    s->text[got] = '\0';
    char *end = strchr(s->text, '\n');
    if (end == NULL || end == s->text || end - s->text >= (ptrdiff_t)HARP_GRPC_TOKEN_BYTES)
        return;
    *end = '\0';
    s->token = s->text;
    s->environment = end + 1;
}

bool far_session_lock(const struct far_session *s)
{
    return flock(s->fd, LOCK_EX | LOCK_NB) == 0;
}

bool far_session_taken_away(const struct far_session *s)
{
    struct stat st;
    return fstat(s->fd, &st) != 0 || st.st_nlink == 0;
}

void far_session_environment(struct far_session *s)
{
    char *rest = NULL;
    for (char *line = strtok_r(s->environment, "\n", &rest); line != NULL;
         line = strtok_r(NULL, "\n", &rest))
        if (strchr(line, '=') != NULL && strncmp(line, resume, strlen(resume)) != 0)
            (void)putenv(line);
}

unsigned far_session_resume_ms(const struct far_session *s, unsigned given_ms)
{
    const char *at = s->environment;
    while (at != NULL && strncmp(at, resume, strlen(resume)) != 0) {
        at = strchr(at, '\n');
        at = at != NULL ? at + 1 : NULL;
    }
    if (at == NULL)
        return given_ms;
    char text[32];
    snprintf(text, sizeof text, "%.*s", (int)strcspn(at, "\n") - (int)strlen(resume),
             at + strlen(resume));
    int ms = ends_resume_ms(text);
    if (ms < 0)
        fprintf(
            stderr,
            "harp-link: resume_s=%s of session %s is not 0 to %d: it ends with its connection\n",
            text, s->name, ENDS_RESUME_MAX_S);
    return ms < 0 ? 0 : (unsigned)ms;
}

/* --- processes --- */

static pid_t processes[PROCESSES];
static struct far_place *places; /* shared with them */
static sigset_t usual;
static int shared[2] = {-1, -1}, listener = -1;

void far_say(const struct ends_options *options, const char *what, const char *session, pid_t pid)
{
    if (!options->attended)
        return;
    if (pid != 0)
        printf("%s %s %d\n", what, session, (int)pid);
    else
        printf("%s %s\n", what, session);
    fflush(stdout);
}

static void child_ended(int number)
{
}

static void reap(const struct ends_options *options)
{
    for (pid_t pid; (pid = waitpid(-1, NULL, WNOHANG)) > 0;)
        for (unsigned i = 0; i < PROCESSES; i++)
            if (processes[i] == pid) {
                processes[i] = 0;
                if (places[i].session[0] != '\0')
                    far_say(options, "ended", places[i].session, 0);
                harp_join_gone(i);
            }
}

/* Where a process has room; PROCESSES: nowhere. */
static unsigned room(void)
{
    unsigned at = PROCESSES, strangers = 0;
    for (unsigned i = 0; i < PROCESSES; i++) {
        if (processes[i] == 0)
            at = i;
        else
            strangers += !places[i].begun;
    }
    return strangers < STRANGERS ? at : PROCESSES;
}

static void serve(const struct ends_options *options, int fd)
{
    unsigned at = room();
    if (at == PROCESSES || harp_join_make(at) != 0) {
        close(fd);
        return;
    }
    const pid_t own = getpid();
    places[at] = (struct far_place){.begun = false};
    pid_t pid = fork();
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != own)
            _exit(1);
        harp_join_child(at);
        close(listener);
        (void)signal(SIGCHLD, SIG_DFL);
        sigprocmask(SIG_SETMASK, &usual, NULL);
        _exit(far_one(options, fd, &places[at]));
    }
    harp_join_parent(at);
    if (pid < 0) {
        fprintf(stderr, "harp-link: no process for a connection: %s\n", strerror(errno));
        harp_join_gone(at);
    } else {
        processes[at] = pid;
    }
    close(fd);
}

/* SIGCHLD comes while ppoll waits, and at no other time. */
static void hear_of_ends(void)
{
    const struct sigaction ended = {.sa_handler = child_ended};
    sigset_t ends;
    sigemptyset(&ends);
    sigaddset(&ends, SIGCHLD);
    sigprocmask(SIG_BLOCK, &ends, &usual);
    sigdelset(&usual, SIGCHLD); /* whoever started us may have had it blocked */
    sigaction(SIGCHLD, &ended, NULL);
    upgrade_hear(&usual);
}

/* Nobody attends any more. What is said meanwhile is no order. */
static bool deserted(void)
{
    char said[64];
    ssize_t n = read(STDIN_FILENO, said, sizeof said);
    return n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN);
}

/* As nobody before us, or as the one that has become us: then all are there already. */
static int open_all(const struct ends_options *options)
{
    char why[HARP_WHY_BYTES] = "no memory";
    struct upgrade_state before;
    const bool come = upgrade_come(&before);
    unsigned port;
    int err = options->tls == NULL ? harp_address_plain(&options->address, why) : 0;
    if (come) {
        memcpy(processes, before.processes, sizeof processes);
        memcpy(shared, before.shared, sizeof shared);
        listener = before.listener;
    }
    places = upgrade_share(PROCESSES * sizeof *places, &shared[0]);
    if (err == 0 && places != NULL)
        err = harp_join_open(PROCESSES, &shared[1], come ? before.giving : NULL);
    if (err == 0 && places != NULL && !come)
        err = harp_tcp_listen(&options->address, &listener, &port, why);
    if (err != 0 || places == NULL) {
        fprintf(stderr, "harp-link: %s\n", why);
        return -1;
    }
    hear_of_ends();
    if (!come) {
        printf("ready %u\n", port);
        fflush(stdout);
    }
    return 0;
}

static void give_over(void)
{
    struct upgrade_state state;
    upgrade_begin(&state, listener);
    memcpy(state.shared, shared, sizeof shared);
    memcpy(state.processes, processes, sizeof processes);
    memcpy(state.giving, harp_join_giving(), sizeof state.giving);
    upgrade_go(&state, &usual);
}

int far_many(const struct ends_options *options)
{
    if (open_all(options) != 0)
        return 1;
    for (;;) {
        struct pollfd come[2] = {{.fd = listener, .events = POLLIN},
                                 {.fd = options->attended ? STDIN_FILENO : -1, .events = POLLIN}};
        reap(options); /* an upgrade, tried or done, takes the word of an end for itself */
        int ready = ppoll(come, 2, NULL, &usual);
        reap(options);
        if (upgrade_asked())
            give_over();
        if (ready > 0 && come[1].revents != 0 && deserted())
            return 0;
        int fd = ready > 0 && come[0].revents != 0 ? harp_tcp_accept(listener) : -EAGAIN;
        if (fd >= 0)
            serve(options, fd);
        else if (fd != -EAGAIN)
            usleep(100000); /* out of descriptors: the next ones wait in the kernel meanwhile */
    }
}
