/* SPDX-License-Identifier: Apache-2.0 */
#include "src/trace/file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE    4096ull
#define WRITTEN 0400 /* mode while it is written: who truncates what is mapped ends the program */
#define ENDED   0600

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

/* Blocks of the disk for a part of the file: to touch a mapped page that the disk has no room for
 * would be a signal to the program. Zeroes where a file system cannot promise them. */
static int reserve(int fd, uint64_t at, uint64_t bytes)
{
    static const char zeroes[PAGE];
    struct rlimit most;
    /* beyond it the kernel would send a signal */
    if (getrlimit(RLIMIT_FSIZE, &most) == 0 && at + bytes > most.rlim_cur)
        return -EFBIG;
    if (syscall(SYS_fallocate, fd, 0, (off_t)at, (off_t)bytes) == 0)
        return 0;
    if (errno != EOPNOTSUPP && errno != ENOSYS)
        return -errno;
    for (uint64_t done = 0; done < bytes;) {
        uint64_t left = bytes - done;
        ssize_t n = pwrite(fd, zeroes, left < PAGE ? left : PAGE, (off_t)(at + done));
        if (n <= 0 && errno != EINTR)
            return n == 0 ? -ENOSPC : -errno;
        done += n > 0 ? (uint64_t)n : 0;
    }
    return 0;
}

static void drop_held(struct harp_trace_file *f)
{
    if (f->held != NULL)
        munmap(f->held, f->segments * sizeof *f->held);
    f->held = NULL;
}

/* Whether the descriptor is ours still. */
static bool own_fd(const struct harp_trace_file *f)
{
    struct stat st;
    return f->fd >= 0 && fstat(f->fd, &st) == 0 && (uint64_t)st.st_dev == f->st_dev &&
           (uint64_t)st.st_ino == f->st_ino;
}

static int begin(struct harp_trace_file *f, const char *path, uint64_t bytes,
                 const struct harp_trace_header *given, const void *symbols, uint32_t symbols_bytes)
{
    struct harp_trace_header h = *given;
    h.header_bytes = HARP_TRACE_HEADER_BYTES;
    h.version = HARP_TRACE_VERSION;
    h.segment_bytes = HARP_TRACE_SEGMENT_BYTES;
    h.segments = bytes < 2ull * h.segment_bytes ? 2 : (uint32_t)(bytes / h.segment_bytes);
    h.symbols_offset = HARP_TRACE_HEADER_BYTES;
    h.symbols_bytes = symbols_bytes;
    h.data_offset = (HARP_TRACE_HEADER_BYTES + symbols_bytes + PAGE - 1) / PAGE * PAGE;
    f->map_bytes = h.data_offset + (uint64_t)h.segments * h.segment_bytes;
    f->segments = h.segments;
    /* not by malloc: a forked child gives it back, too */
    void *held = mmap(NULL, h.segments * sizeof *f->held, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (held == MAP_FAILED)
        return -ENOMEM;
    f->held = held;
    f->fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY, WRITTEN);
    if (f->fd < 0)
        return -errno;
    struct stat st;
    int err = fstat(f->fd, &st) != 0 ? -errno : reserve(f->fd, 0, h.data_offset);
    if (err != 0)
        return err;
    f->st_dev = (uint64_t)st.st_dev;
    f->st_ino = (uint64_t)st.st_ino;
    /* beyond its end: reached only where a segment has been reserved */
    void *map = mmap(NULL, f->map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0);
    if (map == MAP_FAILED)
        return -errno;
    f->header = map;
    memcpy((uint8_t *)map + HARP_TRACE_HEADER_BYTES, symbols, symbols_bytes);
    memcpy((uint8_t *)map + sizeof h.magic, (const uint8_t *)&h + sizeof h.magic,
           sizeof h - sizeof h.magic);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    memcpy(map, HARP_TRACE_MAGIC, sizeof h.magic);
    f->at = h.segment_bytes; /* full: the first record begins a segment */
    f->nth = 0;
    f->begun = f->records = 0;
    f->map = map;
    return 0;
}

int harp_trace_file_open(struct harp_trace_file *file, const char *path, uint64_t bytes,
                         const struct harp_trace_header *header, const void *symbols,
                         uint32_t symbols_bytes)
{
    int saved = errno;
    pthread_mutex_lock(&file->lock);
    int err = file->map != NULL ? -EBUSY : -EINVAL;
    if (file->map == NULL) {
        file->fd = -1;
        file->held = NULL;
        err = begin(file, path, bytes, header, symbols, symbols_bytes);
        if (err != 0 && file->fd >= 0) {
            close(file->fd);
            unlink(path);
        }
        if (err != 0)
            drop_held(file);
    }
    pthread_mutex_unlock(&file->lock);
    errno = saved;
    return err;
}

/* Lock held. */
static void end(struct harp_trace_file *f, enum harp_trace_why why)
{
    if (f->map == NULL)
        return;
    f->header->why = why;
    f->header->ended_ns = now_ns();
    munmap(f->map, f->map_bytes);
    if (own_fd(f)) {
        fchmod(f->fd, ENDED);
        close(f->fd);
    }
    drop_held(f);
    f->map = NULL;
    f->header = NULL;
}

/* A segment begins, over the oldest one if it must be. 0 or why not. Lock held. */
static enum harp_trace_why turn(struct harp_trace_file *f)
{
    uint32_t place = (uint32_t)(f->begun % f->segments);
    uint64_t at = f->header->data_offset + (uint64_t)place * HARP_TRACE_SEGMENT_BYTES;
    struct harp_trace_segment *s = (struct harp_trace_segment *)(f->map + at);
    if (f->begun >= f->segments && (f->header->flags & HARP_TRACE_KEEP_FIRST) != 0)
        return HARP_TRACE_FULL;
    if (f->begun < f->segments && !own_fd(f))
        return HARP_TRACE_DISK_FULL; /* nothing more can be promised of it */
    if (f->begun < f->segments && reserve(f->fd, at, HARP_TRACE_SEGMENT_BYTES) != 0)
        return HARP_TRACE_DISK_FULL;
    if (f->begun != 0)
        f->held[(f->begun - 1) % f->segments] = f->nth;
    f->header->lost_records += f->held[place];
    __atomic_store_n(&s->magic, 0u, __ATOMIC_RELEASE);
    s->spare = 0;
    s->number = f->begun;
    s->begin_ns = now_ns();
    s->records_before = f->records;
    memset(s->reserved, 0, sizeof s->reserved);
    memset(s + 1, 0, sizeof(uint64_t)); /* no first record */
    __atomic_store_n(&s->magic, HARP_TRACE_SEGMENT_MAGIC, __ATOMIC_RELEASE);
    __atomic_store_n(&f->begun, f->begun + 1, __ATOMIC_RELAXED);
    f->header->begun = f->begun;
    f->at = sizeof *s;
    f->nth = 0;
    return HARP_TRACE_RUNNING;
}

/* Lock held; the record fits. */
static void write_record(struct harp_trace_file *f, struct harp_trace_record head,
                         const struct harp_trace_part *parts, unsigned count)
{
    uint64_t place = (f->begun - 1) % f->segments;
    uint8_t *to = f->map + f->header->data_offset + place * HARP_TRACE_SEGMENT_BYTES + f->at;
    uint8_t *end = to + head.bytes, *p = to + sizeof head;
    if (HARP_TRACE_SEGMENT_BYTES - f->at - head.bytes >= sizeof head.commit)
        memset(end, 0, sizeof head.commit);
    memcpy(to + sizeof head.commit, (const uint8_t *)&head + sizeof head.commit,
           sizeof head - sizeof head.commit);
    for (unsigned i = 0; i < count; i++) {
        const uint8_t *from = parts[i].data;
        uint64_t skip = i == 0 ? sizeof head : 0;
        if (parts[i].bytes > skip)
            memcpy(p, from + skip, parts[i].bytes - skip);
        p += parts[i].bytes - skip;
    }
    memset(p, 0, (size_t)(end - p));
    f->at += head.bytes;
    f->records++;
    uint64_t commit = (uint64_t)HARP_TRACE_COMMIT << 32 | ++f->nth;
    __atomic_store_n((uint64_t *)(void *)to, commit, __ATOMIC_RELEASE);
}

bool harp_trace_file_append(struct harp_trace_file *file, uint16_t kind, uint16_t flags,
                            struct harp_trace_part *parts, unsigned count, enum harp_trace_why *why)
{
    uint64_t bytes = 0;
    int saved = errno;
    for (unsigned i = 0; i < count; i++)
        bytes += parts[i].bytes;
    bytes = (bytes + 7) & ~7ull;
    *why = HARP_TRACE_RUNNING;
    pthread_mutex_lock(&file->lock);
    bool fits = bytes <= HARP_TRACE_SEGMENT_BYTES - sizeof(struct harp_trace_segment);
    if (file->map != NULL && fits && file->at + bytes > HARP_TRACE_SEGMENT_BYTES)
        *why = turn(file);
    bool written = file->map != NULL && fits && *why == HARP_TRACE_RUNNING;
    if (written) {
        struct harp_trace_record head = {.bytes = (uint32_t)bytes, .kind = kind, .flags = flags};
        write_record(file, head, parts, count);
        file->header->calls += kind == HARP_TRACE_CALL;
    } else if (file->map != NULL) {
        file->header->dropped++;
        if (*why == HARP_TRACE_FULL)
            file->header->why = HARP_TRACE_FULL;
        else if (*why == HARP_TRACE_DISK_FULL)
            end(file, *why);
    }
    pthread_mutex_unlock(&file->lock);
    errno = saved;
    return written;
}

uint64_t harp_trace_file_begun(const struct harp_trace_file *file)
{
    return __atomic_load_n(&file->begun, __ATOMIC_RELAXED);
}

void harp_trace_file_exits(struct harp_trace_file *file)
{
    pthread_mutex_lock(&file->lock);
    if (file->header != NULL) {
        file->header->why = HARP_TRACE_EXITED;
        file->header->ended_ns = now_ns();
        if (own_fd(file))
            fchmod(file->fd, ENDED);
    }
    pthread_mutex_unlock(&file->lock);
}

void harp_trace_file_inner(struct harp_trace_file *file)
{
    /* From a signal handler, too, whose thread may hold the lock: then nobody counts it. */
    if (pthread_mutex_trylock(&file->lock) != 0)
        return;
    if (file->header != NULL)
        file->header->inner_calls++;
    pthread_mutex_unlock(&file->lock);
}

void harp_trace_file_close(struct harp_trace_file *file, enum harp_trace_why why)
{
    int saved = errno;
    pthread_mutex_lock(&file->lock);
    end(file, why);
    pthread_mutex_unlock(&file->lock);
    errno = saved;
}

void harp_trace_file_forget(struct harp_trace_file *file)
{
    int saved = errno;
    pthread_mutex_init(&file->lock, NULL);
    if (file->map != NULL) {
        munmap(file->map, file->map_bytes);
        if (own_fd(file))
            close(file->fd);
        drop_held(file);
    }
    file->map = NULL;
    file->header = NULL;
    errno = saved;
}
