/* SPDX-License-Identifier: Apache-2.0
 *
 * Preloaded into a program on the software GPU.
 *
 *  - MEDDLE_FORK: as it starts a child, the program also forks, and the fork stays as long as the
 *    program lives, with all that was open in between;
 *  - MEDDLE_BYTES: aligned memory of more than so many bytes is not to be had.
 */
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *files,
                const posix_spawnattr_t *attributes, char *const argv[], char *const envp[])
{
    int (*real)(pid_t *, const char *, const posix_spawn_file_actions_t *,
                const posix_spawnattr_t *, char *const[], char *const[]) =
        dlsym(RTLD_NEXT, "posix_spawn");
    if (getenv("MEDDLE_FORK")) {
        pid_t parent = getpid();
        if (fork() == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            while (getppid() == parent)
                usleep(100000);
            _exit(0);
        }
    }
    return real(pid, path, files, attributes, argv, envp);
}

int posix_memalign(void **out, size_t align, size_t bytes)
{
    int (*real)(void **, size_t, size_t) = dlsym(RTLD_NEXT, "posix_memalign");
    const char *most = getenv("MEDDLE_BYTES");
    return most && bytes > strtoull(most, NULL, 10) ? ENOMEM : real(out, align, bytes);
}
