/* SPDX-License-Identifier: Apache-2.0
 *
 * The tenant's page in this process, and what the driver says of a function: its name, and how many
 * of its blocks a multiprocessor takes. Asked once for a function and block size, at a launch that
 * takes the slow path anyway.
 */
#include "src/shim/gate/profile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/shim/backend/table.h"
#include "src/shim/entry/entry.h"
#include "src/shim/gate/local.h"

#define ASKED_MOST 8u /* of one name: block sizes that change are no reason to ask for ever */
#define PPM        1000000u

#ifndef F_GET_SEALS /* newer than the libc we build for */
#define F_GET_SEALS   1034
#define F_SEAL_SHRINK 0x0002
#endif

static struct harp_profile *page; /* atomic; never unmapped */
static struct harp_profile nobodys __attribute__((aligned(64)));

/* NULL: it is no such page. */
static struct harp_profile *map(int fd)
{
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size != (off_t)sizeof nobodys)
        return NULL;
    struct harp_profile *p = mmap(NULL, sizeof *p, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return NULL;
    if (p->magic == HARP_PROFILE_MAGIC && p->version == HARP_PROFILE_VERSION &&
        p->rows == HARP_PROFILE_ROWS)
        return p;
    munmap(p, sizeof *p);
    return NULL;
}

static struct harp_profile *map_page(void)
{
    char path[1200];
    const char *grant = harp_env()->grant;
    if (grant == NULL || (size_t)snprintf(path, sizeof path, "%s/profile", grant) >= sizeof path)
        return &nobodys;
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    struct harp_profile *p = fd >= 0 ? map(fd) : NULL;
    if (fd >= 0)
        close(fd);
    return p != NULL ? p : &nobodys;
}

/* An arbiter that comes back mostly gives what we have: a file's number is its own while it is
 * mapped. */
void harp_profile_given(int fd)
{
    static dev_t dev;
    static ino_t ino;
    struct stat st;
    struct harp_profile *p = NULL;
    int seals = fcntl(fd, F_GET_SEALS);
    bool known = fstat(fd, &st) == 0 && ino != 0 && st.st_ino == ino && st.st_dev == dev;
    if (!known && seals >= 0 && (seals & F_SEAL_SHRINK) != 0)
        p = map(fd);
    close(fd);
    if (p == NULL) {
        if (!known)
            harp_log("profile_page_refused seals=%d effect=not_used", seals);
        return;
    }
    dev = st.st_dev;
    ino = st.st_ino;
    if (__atomic_exchange_n(&page, p, __ATOMIC_ACQ_REL) != NULL)
        harp_local_forget(); /* functions' rows are of the one before */
}

struct harp_profile *harp_profile_page(void)
{
    struct harp_profile *p = __atomic_load_n(&page, __ATOMIC_ACQUIRE), *none = NULL;
    if (p != NULL)
        return p;
    int saved = errno;
    p = map_page();
    if (!__atomic_compare_exchange_n(&page, &none, p, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
        if (p != &nobodys)
            munmap(p, sizeof *p);
        p = none; /* another thread was first */
    }
    errno = saved;
    return p;
}

struct harp_profile_row *harp_profile_of(CUfunction f)
{
    struct harp_profile *p = harp_profile_page();
    const char *name = NULL;
    if (p == &nobodys)
        return &harp_profile_none;
    if (f == NULL)
        return &p->row[HARP_PROFILE_OTHER];
    harp_enter();
    CUresult r = CUDA_ERROR_NOT_FOUND;
    if (HARP_HAS(cuFuncGetName))
        r = HARP_REAL(cuFuncGetName)(&name, f);
    if ((r != CUDA_SUCCESS || name == NULL) && HARP_HAS(cuKernelGetName))
        r = HARP_REAL(cuKernelGetName)(&name, (CUkernel)(void *)f);
    harp_leave();
    if (r != CUDA_SUCCESS || name == NULL || name[0] == '\0')
        return &p->row[HARP_PROFILE_OTHER];
    return harp_profile_named(p, name);
}

static uint32_t occupancy_ppm(CUfunction f, uint32_t threads, uint64_t shared)
{
    CUdevice device;
    int blocks = 0, most = 0;
    harp_enter();
    bool told =
        HARP_HAS(cuOccupancyMaxActiveBlocksPerMultiprocessor) &&
        HARP_REAL(cuOccupancyMaxActiveBlocksPerMultiprocessor)(&blocks, f, (int)threads, shared) ==
            CUDA_SUCCESS &&
        HARP_REAL(cuCtxGetDevice)(&device) == CUDA_SUCCESS &&
        HARP_REAL(cuDeviceGetAttribute)(&most, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR,
                                        device) == CUDA_SUCCESS;
    harp_leave();
    if (!told || blocks < 0 || most <= 0)
        return 0;
    uint64_t ppm = (uint64_t)blocks * threads * PPM / (uint64_t)most;
    return ppm < PPM ? (uint32_t)ppm : PPM;
}

struct harp_profile_row *harp_profile_launch(CUfunction f, uint64_t threads, uint64_t shared)
{
    if (harp_inside())
        return NULL;
    struct harp_profile_row *row = harp_local_row(f);
    if (row == NULL)
        row = harp_profile_of(f);
    if (row == &harp_profile_none || row < &harp_profile_page()->row[HARP_PROFILE_NAMED] ||
        threads == 0 || threads > 1024 ||
        __atomic_load_n(&row->block_threads, __ATOMIC_RELAXED) == threads ||
        __atomic_load_n(&row->asked, __ATOMIC_RELAXED) >= ASKED_MOST)
        return row;
    int saved = errno;
    __atomic_fetch_add(&row->asked, 1, __ATOMIC_RELAXED);
    uint32_t ppm = occupancy_ppm(f, (uint32_t)threads, shared);
    __atomic_store_n(&row->occupancy_ppm, ppm, __ATOMIC_RELAXED);
    __atomic_store_n(&row->block_threads, (uint32_t)threads, __ATOMIC_RELAXED);
    errno = saved;
    return row;
}

struct harp_profile_row *harp_profile_graph(void)
{
    struct harp_profile *p = harp_profile_page();
    return p != &nobodys ? &p->row[HARP_PROFILE_GRAPHS] : &harp_profile_none;
}

void harp_profile_copied(enum harp_copied way, uint64_t bytes)
{
    struct harp_profile *p = harp_profile_page();
    if (p != &nobodys && !harp_inside())
        __atomic_fetch_add(&p->copied_bytes[way], bytes, __ATOMIC_RELAXED);
}
