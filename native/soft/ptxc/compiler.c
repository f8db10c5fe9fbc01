/* SPDX-License-Identifier: Apache-2.0 */
#include "soft/ptxc/compiler.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* -ffp-contract=off and no fast-math: PTX says which operations are fused. Nor -fno-trapping-math:
 * gcc then takes an integer for the float it was cut from, and -0 comes out. */
const char *const compiler_flags[] = {
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
    NULL,
};

static const char *in_path(struct job *job, const char *name)
{
    const char *path = job_env(job, "PATH");
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
    const char *wish = job_env(job, "HARP_PTXC_CC");
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
    for (const char *const *flag = compiler_flags; *flag; flag++)
        add_text(sha, *flag);
    add_processor(sha);
    (void)job;
}
