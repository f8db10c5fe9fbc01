/* SPDX-License-Identifier: Apache-2.0
 *
 * execve, and a word to who comes after it: HARP_LINK_UPGRADE=check FD VERSION, or =state FD.
 */
#include "src/link/upgrade.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define WORD "HARP_LINK_UPGRADE"
/* To come up: files to read, names to look up. */
#define TRY_MS 10000

static char path[PATH_MAX];
static char **arguments;
static volatile sig_atomic_t asked;
static int check_fd = -1, state_fd = -1;
static bool checked;

static void ask(int number)
{
    asked = 1;
}

static void block(int how)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    sigprocmask(how, &set, NULL);
}

/* Replaced already, its name says so; what is there now is the one to become. */
static void read_path(void)
{
    static const char gone[] = " (deleted)";
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    path[n > 0 ? n : 0] = '\0';
    size_t length = strlen(path), tail = sizeof gone - 1;
    if (length > tail && strcmp(path + length - tail, gone) == 0 && access(path, F_OK) != 0)
        path[length - tail] = '\0';
}

void upgrade_open(char **given)
{
    block(SIG_BLOCK);
    (void)signal(SIGUSR2, SIG_DFL); /* ignored, it would not wait */
    read_path();
    arguments = given;
    const char *word = getenv(WORD);
    unsigned version = 0;
    if (word != NULL && sscanf(word, "check %d %u", &check_fd, &version) == 2)
        checked = true;
    else if (word != NULL)
        (void)sscanf(word, "state %d", &state_fd);
    if (checked && version != UPGRADE_VERSION)
        _exit(1);
    (void)unsetenv(WORD);
}

bool upgrade_tried(void)
{
    if (checked && write(check_fd, "", 1) != 1)
        _exit(1);
    return checked;
}

bool upgrade_come(struct upgrade_state *state)
{
    if (state_fd < 0)
        return false;
    bool whole = pread(state_fd, state, sizeof *state, 0) == (ssize_t)sizeof *state &&
                 state->version == UPGRADE_VERSION;
    close(state_fd);
    state_fd = -1;
    const int fds[] = {whole ? state->listener : -1, whole ? state->shared[0] : -1,
                       whole ? state->shared[1] : -1};
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++)
        if (fds[i] >= 0)
            (void)fcntl(fds[i], F_SETFD, FD_CLOEXEC);
    for (unsigned i = 0; whole && i < UPGRADE_PLACES; i++)
        if (state->giving[i] >= 0)
            (void)fcntl(state->giving[i], F_SETFD, FD_CLOEXEC);
    return whole;
}

void upgrade_begin(struct upgrade_state *state, int listener)
{
    *state = (struct upgrade_state){
        .version = UPGRADE_VERSION, .listener = listener, .shared = {-1, -1}};
    memset(state->giving, -1, sizeof state->giving);
}

void upgrade_hear(sigset_t *waiting)
{
    const struct sigaction action = {.sa_handler = ask};
    block(SIG_BLOCK);
    sigdelset(waiting, SIGUSR2);
    sigaction(SIGUSR2, &action, NULL);
}

void upgrade_deaf(void)
{
    (void)signal(SIGUSR2, SIG_IGN);
    block(SIG_UNBLOCK);
}

bool upgrade_asked(void)
{
    const bool now = asked != 0;
    asked = 0;
    return now;
}

/* --- becoming it --- */

static void run(const char *word, int fd, unsigned version, const sigset_t *usual)
{
    char value[64];
    (void)fcntl(fd, F_SETFD, 0);
    snprintf(value, sizeof value, "%s %d %u", word, fd, version);
    (void)setenv(WORD, value, 1);
    sigset_t mask = *usual;
    sigaddset(&mask, SIGUSR2); /* until it hears */
    sigprocmask(SIG_SETMASK, &mask, NULL);
    execv(path, arguments);
}

/* Whether it comes up: it says so by a byte. */
static bool tries(const sigset_t *usual)
{
    int pipe[2];
    char byte;
    if (pipe2(pipe, O_CLOEXEC) != 0)
        return false;
    pid_t pid = fork();
    if (pid == 0) {
        run("check", pipe[1], UPGRADE_VERSION, usual);
        fprintf(stderr, "harp-link: %s: %s\n", path, strerror(errno));
        _exit(1);
    }
    close(pipe[1]);
    struct pollfd told = {.fd = pipe[0], .events = POLLIN};
    bool ok = pid > 0 && poll(&told, 1, TRY_MS) > 0 && read(pipe[0], &byte, 1) == 1;
    close(pipe[0]);
    if (!ok && pid > 0)
        (void)kill(pid, SIGKILL);
    return ok; /* it is taken in as other children are */
}

static void stay(const struct upgrade_state *state, bool open)
{
    const int fds[] = {state->listener, state->shared[0], state->shared[1]};
    const int flag = open ? 0 : FD_CLOEXEC;
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++)
        if (fds[i] >= 0)
            (void)fcntl(fds[i], F_SETFD, flag);
    for (unsigned i = 0; i < UPGRADE_PLACES; i++)
        if (state->giving[i] >= 0)
            (void)fcntl(state->giving[i], F_SETFD, flag);
}

void upgrade_go(const struct upgrade_state *state, const sigset_t *usual)
{
    sigset_t before;
    sigprocmask(SIG_SETMASK, NULL, &before);
    int fd = tries(usual) ? memfd_create("harp-link", MFD_CLOEXEC) : -1;
    if (fd >= 0 && write(fd, state, sizeof *state) == (ssize_t)sizeof *state) {
        stay(state, true);
        run("state", fd, UPGRADE_VERSION, usual);
        (void)unsetenv(WORD);
        stay(state, false);
    }
    if (fd >= 0)
        close(fd);
    sigprocmask(SIG_SETMASK, &before, NULL);
    fprintf(stderr,
            "harp-link: %s does not take over, and all stays as it is; remedy: see what it says, "
            "or start anew\n",
            path);
}

void upgrade_wait(const struct upgrade_state *state, const sigset_t *usual)
{
    struct pollfd come = {.fd = state->listener, .events = POLLIN};
    while (ppoll(&come, 1, NULL, usual) < 0)
        if (upgrade_asked())
            upgrade_go(state, usual);
}

void *upgrade_share(size_t bytes, int *fd)
{
    if (*fd < 0)
        *fd = memfd_create("harp-link", MFD_CLOEXEC);
    if (*fd < 0 || ftruncate(*fd, (off_t)bytes) != 0)
        return NULL;
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
    return at != MAP_FAILED ? at : NULL;
}
