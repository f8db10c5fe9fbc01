/* SPDX-License-Identifier: Apache-2.0
 *
 * A program whose own memory lies where a device's might, with its GPU elsewhere:
 *
 *   remote_room [FROM MIB [LIMIT]]
 *
 * maps so many MiB at FROM (hexadecimal) and keeps to LIMIT MiB of address space. Then on each
 * device: allocations, filled and read back; none may lie where this process has something. Prints
 * where the first of each device lies, or the call that failed.
 */
#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define EACH  8
#define BYTES (3ull << 20) /* more than a chunk, less than two */

static void *driver;

static int call(const char *name, uintptr_t a, uintptr_t b, uintptr_t c)
{
    int (*fn)(uintptr_t, uintptr_t, uintptr_t) =
        (int (*)(uintptr_t, uintptr_t, uintptr_t))dlsym(driver, name);
    int result = fn != NULL ? fn(a, b, c) : 500;
    if (result != 0) {
        printf("%s: %d\n", name, result);
        exit(1);
    }
    return result;
}

/* What this process has mapped there, but for reservations without access. */
static bool mapped(uint64_t from, uint64_t bytes)
{
    char line[512], may[8];
    unsigned long long start, end;
    bool found = false;
    FILE *maps = fopen("/proc/self/maps", "re");
    while (maps != NULL && fgets(line, sizeof line, maps) != NULL)
        if (sscanf(line, "%llx-%llx %4s", &start, &end, may) == 3 && start < from + bytes &&
            from < end)
            found |= strncmp(may, "---", 3) != 0;
    if (maps != NULL)
        fclose(maps);
    return found;
}

static void one_device(int device, uint64_t from, uint64_t bytes)
{
    static uint8_t there[BYTES], back[BYTES];
    uint64_t at[EACH];
    uintptr_t ctx = 0;
    call("cuDevicePrimaryCtxRetain", (uintptr_t)&ctx, (uintptr_t)device, 0);
    call("cuCtxSetCurrent", ctx, 0, 0);
    for (int i = 0; i < EACH; i++) {
        call("cuMemAlloc_v2", (uintptr_t)&at[i], BYTES, 0);
        if (mapped(at[i], BYTES) || (from < at[i] + BYTES && at[i] < from + bytes)) {
            printf("%#llx is this process'\n", (unsigned long long)at[i]);
            exit(1);
        }
        memset(there, device * EACH + i + 1, BYTES);
        call("cuMemcpyHtoD_v2", at[i], (uintptr_t)there, BYTES);
    }
    for (int i = 0; i < EACH; i++) {
        memset(there, device * EACH + i + 1, BYTES);
        call("cuMemcpyDtoH_v2", (uintptr_t)back, at[i], BYTES);
        if (memcmp(there, back, BYTES) != 0) {
            printf("other bytes at %#llx\n", (unsigned long long)at[i]);
            exit(1);
        }
    }
    printf("%llx\n", (unsigned long long)at[0]); /* kept: the next device's lie elsewhere */
}

int main(int argc, char **argv)
{
    uint64_t from = argc > 2 ? strtoull(argv[1], NULL, 16) : 0;
    uint64_t bytes = argc > 2 ? strtoull(argv[2], NULL, 10) << 20 : 0;
    int devices = 0;
    if (bytes != 0 && mmap((void *)(uintptr_t)from, bytes, PROT_NONE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1,
                           0) != (void *)(uintptr_t)from) {
        printf("%s is not free\n", argv[1]);
        return 1;
    }
    if (argc > 3) {
        const rlim_t most = strtoull(argv[3], NULL, 10) << 20;
        setrlimit(RLIMIT_AS, &(struct rlimit){most, most});
    }
    driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (driver == NULL) {
        printf("%s\n", dlerror());
        return 1;
    }
    call("cuInit", 0, 0, 0);
    call("cuDeviceGetCount", (uintptr_t)&devices, 0, 0);
    for (int device = 0; device < devices; device++)
        one_device(device, from, bytes);
    return 0;
}
