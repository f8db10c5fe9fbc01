/* SPDX-License-Identifier: Apache-2.0
 *
 * Addresses are kept as long as their session: a driver gives out again what was freed.
 */
#include "src/shim/remote/room.h"

#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>

#include "src/shim/entry/entry.h"
#include "src/shim/remote/forget.h"
#include "src/shim/remote/ranges.h"

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#define CHUNK HARP_REMOTE_CHUNK

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards it */
static struct harp_ranges kept;

int harp_remote_hold(uint64_t at, uint64_t bytes)
{
    void *want = (void *)(uintptr_t)at;
    void *got = mmap(want, bytes, PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (got == want)
        return 0;
    if (got == MAP_FAILED)
        return errno == EEXIST ? -EEXIST : -ENOMEM;
    munmap(got, bytes); /* a kernel of before 4.17 */
    return -EEXIST;
}

static void keep(uint64_t base, uint64_t bytes)
{
    const struct harp_range range = {.base = base, .bytes = bytes};
    harp_ranges_add(&kept, &range);
}

void harp_remote_held(uint64_t base, uint64_t bytes)
{
    pthread_mutex_lock(&lock);
    keep(base, bytes);
    pthread_mutex_unlock(&lock);
}

/* Runs of chunks that are not kept yet. */
int harp_remote_reserve(uint64_t base, uint64_t bytes)
{
    int saved = errno, err = 0;
    uint64_t at = base & ~(CHUNK - 1), end = base + bytes;
    pthread_mutex_lock(&lock);
    while (err != -EEXIST && at < end) {
        const struct harp_range *ours = harp_ranges_find(&kept, at);
        if (ours != NULL) {
            at = ours->base + ours->bytes;
            continue;
        }
        uint64_t stop = at;
        while (stop < end && harp_ranges_find(&kept, stop) == NULL)
            stop += CHUNK;
        err = harp_remote_hold(at, stop - at);
        if (err == 0)
            keep(at, stop - at);
        at = stop;
    }
    pthread_mutex_unlock(&lock);
    errno = saved;
    return err == -EEXIST ? err : 0;
}

void harp_remote_taken(uint64_t address, uint64_t bytes)
{
    harp_log("remote_address_taken address=%#llx bytes=%llu why=\"this process has memory of its "
             "own there\" remedy=\"start it with fewer libraries, or with setarch -R\"",
             (unsigned long long)address, (unsigned long long)bytes);
}

void harp_remote_forget_room(void)
{
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < kept.count; i++)
        munmap((void *)(uintptr_t)kept.at[i].base, kept.at[i].bytes);
    kept.count = 0;
    pthread_mutex_unlock(&lock);
}
