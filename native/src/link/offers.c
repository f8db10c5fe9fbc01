/* SPDX-License-Identifier: Apache-2.0
 *
 * Sessions that whoever has a lease offers to programs: a folder of files, the mirror of many.c.
 *
 *   FOLDER/ID         the token; then to=HOST:PORT and name=NAME, where --to and --name do not say
 *   FOLDER/.ID        the same file, while a program has it; with it the session is taken away
 *   FOLDER/.refused   why there are no sessions: one line, passed on to programs that find none
 *
 * stdout says `taken ID` when a program has got one, and `ended ID` when its process has gone. With
 * stdout's reader this process ends, and with it those of the sessions.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/link/conn.h"
#include "src/link/ends.h"
#include "src/link/upgrade.h"

/* Programs of one lease; a node has fewer sessions for it. */
#define PROCESSES UPGRADE_PLACES
/* How long a program waits for a session to be offered, and how often it looks. */
#define OFFER_MS 10000
#define LOOK_MS  20

struct process {
    pid_t pid;
    char name[HARP_GRPC_SESSION_BYTES]; /* by its process, once it has a session */
};
static struct process *processes; /* shared with them */
static struct process *mine;
static sigset_t usual;

/* --- by a session's process --- */

static void say(const char *word, const char *name)
{
    char line[HARP_GRPC_SESSION_BYTES + 16];
    int n = snprintf(line, sizeof line, "%s %s\n", word, name);
    ssize_t done = write(STDOUT_FILENO, line, (size_t)n);
    (void)done; /* who does not listen any more will be seen to have gone */
}

static int offer_read(struct near_offer *o, int fd, const char **to, char *why)
{
    ssize_t got = read(fd, o->text, sizeof o->text - 1);
    char *rest = NULL;
    snprintf(why, HARP_WHY_BYTES, "the offered session %.64s cannot be read", o->name);
    if (got <= 0 || (size_t)got == sizeof o->text - 1)
        return -EINVAL;
    o->text[got] = '\0';
    char *token = strtok_r(o->text, "\n", &rest);
    if (token == NULL || strlen(token) >= sizeof o->token)
        return -EINVAL;
    snprintf(o->token, sizeof o->token, "%s", token);
    for (char *line; (line = strtok_r(NULL, "\n", &rest)) != NULL;) {
        if (strncmp(line, "to=", 3) == 0)
            *to = line + 3;
        else if (strncmp(line, "name=", 5) == 0)
            o->peer = line + 5;
    }
    return 0;
}

/* Whoever renames it has it: two programs never get the same one. */
static int take(struct near_offer *o, const char *folder, const char *name)
{
    char from[4096], to[4096];
    int n = snprintf(from, sizeof from, "%s/%s", folder, name);
    int m = snprintf(to, sizeof to, "%s/.%s", folder, name);
    if (n < 0 || m < 0 || (size_t)m >= sizeof to || strlen(name) >= sizeof o->name)
        return -ENAMETOOLONG;
    if (rename(from, to) != 0)
        return -errno;
    snprintf(o->name, sizeof o->name, "%s", name);
    memcpy(mine->name, o->name, sizeof mine->name);
    o->fd = open(to, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    say("taken", name);
    return 0;
}

/* 0: one is taken. -ENOENT: none is there. */
static int take_any(struct near_offer *o, const char *folder, char *why)
{
    DIR *all = opendir(folder);
    int err = -ENOENT;
    if (all == NULL) {
        snprintf(why, HARP_WHY_BYTES, "no sessions are offered any more: %s", strerror(errno));
        return -ENOTDIR;
    }
    for (struct dirent *e; err != 0 && (e = readdir(all)) != NULL;)
        if (e->d_name[0] != '.')
            err = take(o, folder, e->d_name) == 0 ? 0 : -ENOENT;
    closedir(all);
    return err;
}

static bool refused(const char *folder, char *why)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/.refused", folder);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    ssize_t got = fd >= 0 ? read(fd, why, HARP_WHY_BYTES - 1) : -1;
    if (fd >= 0)
        close(fd);
    if (got <= 0)
        return false;
    why[got] = '\0';
    why[strcspn(why, "\n")] = '\0';
    return true;
}

int near_offer_take(struct near_offer *o, const struct ends_options *options, int sock, char *why)
{
    const char *to = NULL;
    const uint64_t until_ms = harp_now_ms() + OFFER_MS;
    int err;
    *o = (struct near_offer){.fd = -1, .peer = options->name, .address = options->address};
    while ((err = take_any(o, options->sessions, why)) == -ENOENT) {
        struct pollfd program = {.fd = sock, .events = POLLRDHUP};
        if (refused(options->sessions, why))
            return -ECONNREFUSED;
        if (harp_now_ms() > until_ms) {
            snprintf(why, HARP_WHY_BYTES,
                     "no session was offered within %u s; remedy: see what the program that holds "
                     "the lease says",
                     OFFER_MS / 1000);
            return -ETIMEDOUT;
        }
        if (poll(&program, 1, LOOK_MS) > 0)
            return -EPIPE;
    }
    if (err == 0)
        err = offer_read(o, o->fd, &to, why);
    if (err == 0 && to != NULL)
        err = harp_address_parse(&o->address, to, why);
    if (err == 0 && o->address.count == 0) {
        snprintf(why, HARP_WHY_BYTES, "session %.64s names no host, and neither does --to",
                 o->name);
        err = -EINVAL;
    }
    return err;
}

/* --- by the process that listens --- */

static void child_ended(int number)
{
}

static void reap(const char *folder)
{
    for (pid_t pid; (pid = waitpid(-1, NULL, WNOHANG)) > 0;)
        for (unsigned i = 0; i < PROCESSES; i++) {
            struct process *p = &processes[i];
            char path[4096];
            if (p->pid != pid)
                continue;
            p->name[sizeof p->name - 1] = '\0';
            if (p->name[0] != '\0') {
                snprintf(path, sizeof path, "%s/.%s", folder, p->name);
                (void)unlink(path);
                say("ended", p->name);
            }
            *p = (struct process){0};
        }
}

static int begin(const struct ends_options *options, int listener, int sock, int (*serve)(int sock))
{
    const pid_t parent = getpid();
    unsigned at = 0;
    while (at < PROCESSES && processes[at].pid != 0)
        at++;
    if (at == PROCESSES) {
        errno = EAGAIN;
        return -1;
    }
    mine = &processes[at];
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        if (getppid() != parent)
            _exit(1);
        close(listener);
        (void)signal(SIGCHLD, SIG_DFL);
        sigprocmask(SIG_SETMASK, &usual, NULL);
        _exit(serve(sock));
    }
    if (pid > 0)
        processes[at].pid = pid;
    return pid < 0 ? -1 : 0;
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

void near_offers(const struct ends_options *options, struct upgrade_state *state, bool come,
                 int (*serve)(int sock), void (*no_process)(int sock))
{
    const int listener = state->listener;
    processes = upgrade_share(PROCESSES * sizeof *processes, &state->shared[0]);
    if (processes == NULL) {
        fprintf(stderr, "harp-link: no memory for the list of sessions\n");
        return;
    }
    hear_of_ends();
    if (!come) {
        printf("ready\n");
        fflush(stdout);
    }
    for (;;) {
        struct pollfd all[2] = {{.fd = listener, .events = POLLIN}, {.fd = STDOUT_FILENO}};
        reap(
            options->sessions); /* an upgrade, tried or done, takes the word of an end for itself */
        int ready = ppoll(all, 2, NULL, &usual);
        reap(options->sessions);
        if (upgrade_asked())
            upgrade_go(state, &usual);
        if (ready <= 0)
            continue;
        if ((all[1].revents & POLLERR) != 0)
            return;
        int sock = all[0].revents != 0 ? accept4(listener, NULL, NULL, SOCK_CLOEXEC) : -1;
        if (sock < 0) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOMEM)
                usleep(100000);
            continue;
        }
        if (begin(options, listener, sock, serve) != 0)
            no_process(sock);
        close(sock);
    }
}
