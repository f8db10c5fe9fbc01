/* SPDX-License-Identifier: Apache-2.0
 *
 * Which file is the real library, and which file names mean it.
 *
 * The real one is opened by its absolute path: the loader then compares files, not sonames, so our
 * own soname (the same) does not answer for it.
 */
#include "src/shim/entry/entry.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *const folders[] = {
    /* where distributions and container tools put drivers */
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib/wsl/lib",
    "/usr/local/nvidia/lib64",
    "/run/opengl-driver/lib",
    "/usr/lib64-nvidia",
};

/* By number: the name `stat` is an inline function over different symbols in glibc < 2.33. */
static bool file_id(const char *path, dev_t *dev, ino_t *ino)
{
    struct stat st;
    memset(&st, 0, sizeof st);
    if (syscall(SYS_newfstatat, AT_FDCWD, path, &st, 0) != 0)
        return false;
    *dev = st.st_dev;
    *ino = st.st_ino;
    return true;
}

static bool same_file(const char *a, const char *b)
{
    dev_t ad, bd;
    ino_t ai, bi;
    return a != NULL && b != NULL && file_id(a, &ad, &ai) && file_id(b, &bd, &bi) && ad == bd &&
           ai == bi;
}

static int base_kind(const char *path)
{
    const char *base = strrchr(path, '/');
    base = base != NULL ? base + 1 : path;
    if (strncmp(base, "libcuda.so", 10) == 0 && (base[10] == '\0' || base[10] == '.'))
        return 1;
    if (strncmp(base, "libnvidia-ml.so", 15) == 0 && (base[15] == '\0' || base[15] == '.'))
        return 2;
    return 0;
}

int harp_loader_which(const char *file)
{
    int kind = base_kind(file);
    if (kind != 0 || strchr(file, '/') == NULL)
        return kind;
    /* another name for the same file: a hard link, a bind mount, a symbolic link */
    const struct harp_env *env = harp_env();
    if (same_file(file, env->cuda_real))
        return 1;
    if (same_file(file, env->nvml_real))
        return 2;
    char resolved[PATH_MAX];
    return realpath(file, resolved) != NULL ? base_kind(resolved) : 0;
}

void *harp_loader_open(const char *told, const char *soname)
{
    const struct harp_env *env = harp_env();
    const char *own = harp_own_path();
    if (told != NULL) {
        void *handle = same_file(told, own) ? NULL : env->dlopen(told, RTLD_NOW | RTLD_LOCAL);
        if (handle == NULL)
            harp_log("driver_not_loaded path=%s why=\"%s\"", told, dlerror());
        return handle;
    }
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        char path[PATH_MAX];
        if ((size_t)snprintf(path, sizeof path, "%s/%s", folders[i], soname) >= sizeof path)
            continue;
        if (access(path, R_OK) != 0 || same_file(path, own))
            continue;
        void *handle = env->dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (handle != NULL)
            return handle;
    }
    harp_log("driver_not_found name=%s remedy=\"set HARP_CUDA_REAL and HARP_NVML_REAL to the "
             "driver's own files\"",
             soname);
    return NULL;
}
