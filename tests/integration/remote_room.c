/* SPDX-License-Identifier: Apache-2.0
 *
 * A program whose own memory lies where a device's might, with its GPU elsewhere:
 *
 *   remote_room [FROM MIB [LIMIT]]
 *
 * maps so many MiB at FROM (hexadecimal) and keeps to LIMIT MiB of address space. Then on each
 * device: allocations, filled and read back, one of a pool and a reservation; none may lie where
 * this process has something. When all are freed the devices have their memory again. Prints where
 * the first allocation of each device lies, or the call that failed.
 */
#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define DEVICES  2
#define EACH     8
#define BYTES    (3ull << 20) /* more than a chunk, less than two */
#define RESERVED (64ull << 20)

static void *driver;
static struct device {
    uintptr_t ctx;
    uint64_t at[EACH];
    size_t free; /* before */
} devices[DEVICES];

static int call4(const char *name, uintptr_t a, uintptr_t b, uintptr_t c, uintptr_t d)
{
    typedef int fn_type(uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t);
    fn_type *fn = (fn_type *)dlsym(driver, name);
    int result = fn != NULL ? fn(a, b, c, d, 0) : 500;
    if (result != 0) {
        printf("%s: %d\n", name, result);
        exit(1);
    }
    return result;
}

static int call(const char *name, uintptr_t a, uintptr_t b, uintptr_t c)
{
    return call4(name, a, b, c, 0);
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

/* Ends the program if it is this process' memory. */
static void check(uint64_t at, uint64_t bytes, uint64_t from, uint64_t taken)
{
    if (mapped(at, bytes) || (from < at + bytes && at < from + taken)) {
        printf("%#llx is this process'\n", (unsigned long long)at);
        exit(1);
    }
}

static void one_device(int device, uint64_t from, uint64_t bytes)
{
    static uint8_t there[BYTES], back[BYTES];
    struct device *d = &devices[device];
    size_t total;
    uint64_t range = 0;
    call("cuDevicePrimaryCtxRetain", (uintptr_t)&d->ctx, (uintptr_t)device, 0);
    call("cuCtxSetCurrent", d->ctx, 0, 0);
    call("cuMemGetInfo_v2", (uintptr_t)&d->free, (uintptr_t)&total, 0);
    for (int i = 0; i < EACH; i++) {
        call("cuMemAlloc_v2", (uintptr_t)&d->at[i], BYTES, 0);
        check(d->at[i], BYTES, from, bytes);
        memset(there, device * EACH + i + 1, BYTES);
        call("cuMemcpyHtoD_v2", d->at[i], (uintptr_t)there, BYTES);
    }
    for (int i = 0; i < EACH; i++) {
        memset(there, device * EACH + i + 1, BYTES);
        call("cuMemcpyDtoH_v2", (uintptr_t)back, d->at[i], BYTES);
        if (memcmp(there, back, BYTES) != 0) {
            printf("other bytes at %#llx\n", (unsigned long long)d->at[i]);
            exit(1);
        }
    }
    call("cuMemAllocAsync", (uintptr_t)&range, BYTES, 0);
    check(range, BYTES, from, bytes);
    call("cuMemsetD8_v2", range, 1, BYTES);
    call("cuMemFreeAsync", range, 0, 0);
    call("cuCtxSynchronize", 0, 0, 0);
    call4("cuMemAddressReserve", (uintptr_t)&range, RESERVED, 0, from); /* where it cannot be */
    check(range, RESERVED, from, bytes);
    call("cuMemAddressFree", range, RESERVED, 0);
    printf("%llx\n", (unsigned long long)d->at[0]); /* kept: the next device's lie elsewhere */
}

static void all_is_given_back(const struct device *d)
{
    size_t left, total;
    call("cuCtxSetCurrent", d->ctx, 0, 0);
    for (int i = 0; i < EACH; i++)
        call("cuMemFree_v2", d->at[i], 0, 0);
    call("cuMemGetInfo_v2", (uintptr_t)&left, (uintptr_t)&total, 0);
    if (left != d->free) {
        printf("%zu bytes are free: before, %zu were\n", left, d->free);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    uint64_t from = argc > 2 ? strtoull(argv[1], NULL, 16) : 0;
    uint64_t bytes = argc > 2 ? strtoull(argv[2], NULL, 10) << 20 : 0;
    int count = 0;
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
    call("cuDeviceGetCount", (uintptr_t)&count, 0, 0);
    for (int device = 0; device < count && device < DEVICES; device++)
        one_device(device, from, bytes);
    for (int device = 0; device < count && device < DEVICES; device++)
        all_is_given_back(&devices[device]);
    return 0;
}
