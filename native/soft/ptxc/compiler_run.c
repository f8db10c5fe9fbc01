/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "soft/ptxc/compiler.h"

/* For rows of threads (rows.h): on its own -O2 takes few loops for worth it. gcc's cost model of
 * this name is the dynamic one. */
static const char *const best[] = {"-ftree-vectorize", "-fvect-cost-model"};
enum { BEST = sizeof(best) / sizeof(best[0]) };

void compiler_run(struct job *job, const struct compiler *compiler, const char *level)
{
    char *argv[FLAGS_MOST + BEST + 7], path[1024];
    /* The client's LD_PRELOAD and LD_LIBRARY_PATH are not the compiler's. */
    const char *client_path = job_env(job, "PATH");
    snprintf(path, sizeof(path), "PATH=%s",
             client_path && *client_path ? client_path : "/usr/local/bin:/usr/bin:/bin");
    char lang[] = "LC_ALL=C", tmp[] = "TMPDIR=.";
    char *env[] = {path, lang, tmp, NULL};
    size_t n = 0;
    argv[n++] = (char *)(uintptr_t)compiler->path;
    argv[n++] = (char *)(uintptr_t)level;
    for (size_t i = 0; compiler_flags[i]; i++)
        argv[n++] = (char *)(uintptr_t)compiler_flags[i];
    for (size_t i = 0; strcmp(level, "-O2") == 0 && i < BEST; i++)
        argv[n++] = (char *)(uintptr_t)best[i];
    char out[] = "-o", so[] = "kernel.so", c[] = "kernel.c";
    argv[n++] = out;
    argv[n++] = so;
    argv[n++] = c;
    argv[n] = NULL;
    posix_spawn_file_actions_t files;
    pid_t pid;
    int status = 0;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&files, 1, "errors", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_adddup2(&files, 1, 2);
    int r = posix_spawn(&pid, compiler->path, &files, NULL, argv, env);
    posix_spawn_file_actions_destroy(&files);
    if (r)
        job_fail(job, PTXC_NO_COMPILER, "%s: %s", compiler->path, strerror(r));
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            job_fail(job, PTXC_INTERNAL, "waiting for %s: %s", compiler->path, strerror(errno));
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return;
    char line[300] = "no message";
    FILE *f = fopen("errors", "re");
    while (f && fgets(line, sizeof(line), f) && !strstr(line, "error"))
        ;
    if (f)
        fclose(f);
    line[strcspn(line, "\n")] = 0;
    job_fail(job, PTXC_INTERNAL, "%s failed: %s", compiler->path, line);
}

uint64_t compiler_stack(struct job *job)
{
    uint64_t sum = 0;
    DIR *dir = opendir(".");
    if (!dir)
        job_fail(job, PTXC_INTERNAL, "listing the work folder: %s", strerror(errno));
    for (struct dirent *entry; (entry = readdir(dir));) {
        size_t bytes = strlen(entry->d_name);
        char line[1024];
        if (bytes < 4 || strcmp(entry->d_name + bytes - 3, ".su") != 0)
            continue;
        FILE *f = fopen(entry->d_name, "re");
        while (f && fgets(line, sizeof(line), f)) {
            char *tab = strchr(line, '\t');
            /* The call itself and its alignment come on top. */
            if (tab)
                sum += strtoull(tab, NULL, 10) + 64;
        }
        if (f)
            fclose(f);
    }
    closedir(dir);
    return sum;
}
