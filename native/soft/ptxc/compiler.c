/* SPDX-License-Identifier: Apache-2.0 */
#include "soft/ptxc/compiler.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* -ffp-contract=off and no fast-math: PTX says which operations are fused. Nor -fno-trapping-math:
 * gcc then takes an integer for the float it was cut from, and -0 comes out. */
static const char *const flags[] = {
    "-std=gnu11",
    "-shared",
    "-fPIC",
    "-nostdlib",
    "-ffreestanding",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-strict-aliasing",
    "-fwrapv",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-fvisibility=hidden",
    "-fstack-usage",
    "-fno-tree-loop-distribute-patterns", /* memset's own loop is not to become a call of memset */
    "-w",
#if defined(__x86_64__)
    "-march=native",
    "-fcf-protection=none",
#else
    "-mcpu=native",
#endif
    "-Wl,-z,defs",
    "-Wl,-z,noexecstack",
    "-Wl,--build-id=none",
};
enum { FLAGS = sizeof(flags) / sizeof(flags[0]) };
/* For rows of threads (rows.h): on its own -O2 takes few loops for worth it. gcc's cost model of
 * this name is the dynamic one. */
static const char *const best[] = {"-ftree-vectorize", "-fvect-cost-model"};
enum { BEST = sizeof(best) / sizeof(best[0]) };

static const char *in_path(struct job *job, const char *name)
{
    const char *path = getenv("PATH");
    if (strchr(name, '/'))
        return access(name, X_OK) == 0 ? name : NULL;
    if (!path || !*path)
        path = "/usr/local/bin:/usr/bin:/bin";
    while (*path) {
        size_t bytes = strcspn(path, ":");
        /* Relative entries would mean the client's working folder. */
        if (bytes && *path == '/') {
            char *full = job_new(job, bytes + strlen(name) + 2, 1);
            memcpy(full, path, bytes);
            full[bytes] = '/';
            strcpy(full + bytes + 1, name);
            struct stat st;
            if (stat(full, &st) == 0 && S_ISREG(st.st_mode) && access(full, X_OK) == 0)
                return full;
        }
        path += bytes + (path[bytes] == ':');
    }
    return NULL;
}

void compiler_find(struct job *job, struct compiler *out)
{
    static const char *const names[] = {"cc", "gcc", "clang"};
    const char *wish = getenv("HARP_PTXC_CC");
    if (wish && *wish) {
        out->path = in_path(job, wish);
        if (!out->path)
            job_fail(job, PTXC_NO_COMPILER,
                     "HARP_PTXC_CC=%s is no program; remedy: unset it or name a C compiler", wish);
        return;
    }
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if ((out->path = in_path(job, names[i])))
            return;
    job_fail(job, PTXC_NO_COMPILER,
             "no C compiler (cc, gcc or clang) in PATH: kernels cannot be compiled; remedy: apt "
             "install gcc, or set HARP_PTXC_CC=/path/to/cc");
}

static void add_text(struct sha256 *sha, const char *text)
{
    sha256_add(sha, text, strlen(text) + 1);
}

/* Lines of /proc/cpuinfo that say what code this processor can run. */
static void add_processor(struct sha256 *sha)
{
    static const char *const keys[] = {"vendor_id", "cpu family", "model",       "flags",
                                       "Features",  "CPU part",   "CPU variant", "CPU implementer"};
    char line[8192];
    FILE *f = fopen("/proc/cpuinfo", "re");
    if (!f)
        return;
    while (fgets(line, sizeof(line), f) && *line != '\n')
        for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
            if (strncmp(line, keys[i], strlen(keys[i])) == 0)
                add_text(sha, line);
    fclose(f);
}

void compiler_identity(struct job *job, const struct compiler *compiler, struct sha256 *sha)
{
    struct stat st = {0};
    char *real = realpath(compiler->path, NULL);
    add_text(sha, real ? real : compiler->path);
    if (stat(real ? real : compiler->path, &st) == 0) {
        sha256_add(sha, &st.st_size, sizeof(st.st_size));
        sha256_add(sha, &st.st_mtim, sizeof(st.st_mtim));
    }
    free(real);
    for (size_t i = 0; i < FLAGS; i++)
        add_text(sha, flags[i]);
    add_processor(sha);
    (void)job;
}

void compiler_run(struct job *job, const struct compiler *compiler, const char *level)
{
    char *argv[FLAGS + BEST + 7], path[1024];
    /* The client's LD_PRELOAD and LD_LIBRARY_PATH are not the compiler's. */
    const char *client_path = getenv("PATH");
    snprintf(path, sizeof(path), "PATH=%s",
             client_path && *client_path ? client_path : "/usr/local/bin:/usr/bin:/bin");
    char lang[] = "LC_ALL=C", tmp[] = "TMPDIR=.";
    char *env[] = {path, lang, tmp, NULL};
    size_t n = 0;
    argv[n++] = (char *)(uintptr_t)compiler->path;
    argv[n++] = (char *)(uintptr_t)level;
    for (size_t i = 0; i < FLAGS; i++)
        argv[n++] = (char *)(uintptr_t)flags[i];
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
