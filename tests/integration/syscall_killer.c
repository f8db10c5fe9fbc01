/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs a program again and again and kills it (SIGKILL) at the entry of its N-th system call, of
 * all its threads together, counted from its exec.
 *
 *     syscall_killer PROGRAM [ARGUMENT]
 *
 * Each line on stdin is an N (0: not killed). For each it prints one line: the pid, whether it was
 * killed (else it had ended before), the number of calls it made, the number of the call, and its
 * exit status (-1: none).
 */
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SYSCALL_STOP = SIGTRAP | 0x80 };
static const long options =
    PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL;

static pid_t start(char **argv)
{
    pid_t pid = fork();

    if (pid == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        execv(argv[0], argv);
        _exit(127);
    }
    if (pid < 0 || waitpid(pid, NULL, 0) != pid)
        exit(1);
    ptrace(PTRACE_SETOPTIONS, pid, NULL, options);
    ptrace(PTRACE_SYSCALL, pid, NULL, NULL);
    return pid;
}

/* Number of the call a thread is about to make; -1: it is on its way out of one. */
static long entered(pid_t thread)
{
    struct __ptrace_syscall_info info; /* as glibc names it */
    long n = ptrace(PTRACE_GET_SYSCALL_INFO, thread, sizeof info, &info);

    return n > 0 && info.op == PTRACE_SYSCALL_INFO_ENTRY ? (long)info.entry.nr : -1;
}

static void run(char **argv, unsigned long at)
{
    pid_t pid = start(argv), thread;
    unsigned long calls = 0;
    long call = -1;
    bool executed = false, killed = false;
    int status, end = 0;

    while ((thread = waitpid(-1, &status, __WALL)) > 0) {
        int signal = 0;

        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            if (thread == pid)
                end = status;
            continue;
        }
        if (WSTOPSIG(status) == SYSCALL_STOP) {
            long now = executed ? entered(thread) : -1;

            if (now >= 0 && ++calls == at && !killed) {
                call = now;
                killed = true;
                kill(pid, SIGKILL);
            }
        } else if (status >> 8 == (SIGTRAP | PTRACE_EVENT_EXEC << 8)) {
            executed = true;
        } else if (status >> 16 == 0 && WSTOPSIG(status) != SIGSTOP) {
            signal = WSTOPSIG(status); /* its own; SIGSTOP is a new thread's first */
        }
        ptrace(PTRACE_SYSCALL, thread, NULL, signal);
    }
    killed = killed && WIFSIGNALED(end) && WTERMSIG(end) == SIGKILL;
    printf("%d %d %lu %ld %d\n", (int)pid, killed, calls, call,
           WIFEXITED(end) ? WEXITSTATUS(end) : -1);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    char line[32];

    if (argc < 2)
        return 2;
    while (fgets(line, sizeof line, stdin) != NULL)
        run(argv + 1, strtoul(line, NULL, 10));
    return 0;
}
