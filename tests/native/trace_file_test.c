/* SPDX-License-Identifier: Apache-2.0
 *
 * The trace file: what is appended can be walked to, in a ring whose segments go as a whole; what
 * does not fit is counted; a file that is there is not written over; a child forgets it.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "src/trace/file.h"

#define RECORDS 100000u
#define THREADS 4

static struct harp_trace_file file = {.lock = PTHREAD_MUTEX_INITIALIZER};
static char path[64];

static bool note(uint64_t number, uint32_t bytes)
{
    static const char text[300 << 10];
    enum harp_trace_why why;
    struct harp_trace_note head = {.at_ns = number, .bytes = bytes};
    struct harp_trace_part parts[] = {{&head, sizeof head}, {text, bytes}};
    return harp_trace_file_append(&file, HARP_TRACE_NOTE, 0, parts, 2, &why);
}

static void open_new(uint64_t bytes, uint32_t flags)
{
    const struct harp_trace_header h = {.flags = flags, .pid = 1};
    unlink(path);
    CHECK(harp_trace_file_open(&file, path, bytes, &h, "symbols", 7) == 0);
    CHECK(harp_trace_file_open(&file, path, bytes, &h, "symbols", 7) == -EBUSY);
}

/* How others may open it now. */
static unsigned mode(void)
{
    struct stat st;
    CHECK(stat(path, &st) == 0);
    return (unsigned)st.st_mode & 0777;
}

/* Reads the whole file again; records that are there. `last`: the largest number among them. */
static uint64_t walk(uint64_t *last, struct harp_trace_header *h)
{
    struct stat st;
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0 && fstat(fd, &st) == 0);
    uint8_t *all = malloc((size_t)st.st_size);
    CHECK(all != NULL && read(fd, all, (size_t)st.st_size) == st.st_size);
    close(fd);
    uint64_t count = 0;
    memcpy(h, all, sizeof *h);
    CHECK(memcmp(h->magic, HARP_TRACE_MAGIC, 8) == 0);
    CHECK(h->symbols_bytes == 7 && memcmp(all + h->symbols_offset, "symbols", 7) == 0);
    *last = 0;
    uint64_t begun = 0, newest = 0, before = 0; /* segments; the youngest one, records before it */
    for (uint64_t at = h->data_offset; at < (uint64_t)st.st_size; at += h->segment_bytes) {
        struct harp_trace_segment s;
        memcpy(&s, all + at, sizeof s);
        CHECK(s.magic == HARP_TRACE_SEGMENT_MAGIC);
        CHECK(s.number % h->segments == (at - h->data_offset) / h->segment_bytes);
        CHECK(s.number < h->begun && s.number + h->segments >= h->begun);
        begun++;
        uint64_t nth = 0, in = sizeof s;
        while (in + sizeof(struct harp_trace_record) <= h->segment_bytes) {
            struct harp_trace_note n;
            memcpy(&n, all + at + in, sizeof n.record);
            if (n.record.commit == 0)
                break;
            CHECK(n.record.commit == ((uint64_t)HARP_TRACE_COMMIT << 32 | ++nth));
            CHECK(n.record.bytes % 8 == 0);
            memcpy(&n, all + at + in, sizeof n);
            *last = n.at_ns > *last ? n.at_ns : *last;
            in += n.record.bytes;
            CHECK(in <= h->segment_bytes);
            count++;
        }
        if (s.number >= newest)
            newest = s.number, before = s.records_before + nth;
    }
    CHECK(begun == (h->begun < h->segments ? h->begun : h->segments));
    CHECK(before == count + h->lost_records);
    free(all);
    return count;
}

static void ring(void)
{
    struct harp_trace_header h;
    uint64_t last;
    open_new(0, 0); /* two segments at least */
    for (uint64_t i = 1; i <= RECORDS; i++)
        CHECK(note(i, (uint32_t)(i % 77)));
    uint64_t count = walk(&last, &h);
    CHECK(last == RECORDS && h.why == HARP_TRACE_RUNNING && mode() == 0400);
    CHECK(count < RECORDS && count + h.lost_records == RECORDS && h.dropped == 0);
    harp_trace_file_exits(&file);
    CHECK(walk(&last, &h) == count && h.why == HARP_TRACE_EXITED && mode() == 0600);
    CHECK(note(RECORDS + 1, 0)); /* what follows the end is there, too */
    harp_trace_file_close(&file, HARP_TRACE_TOLD);
    CHECK(!note(RECORDS + 2, 0));
    CHECK(walk(&last, &h) > 0 && last == RECORDS + 1 && h.why == HARP_TRACE_TOLD);
}

static void bounds(void)
{
    struct harp_trace_header h;
    uint64_t last;
    open_new(2 << 20, HARP_TRACE_KEEP_FIRST);
    enum harp_trace_why why;
    struct harp_trace_note head = {0};
    struct harp_trace_part large[] = {{&head, sizeof head}, {path, HARP_TRACE_SEGMENT_BYTES}};
    CHECK(!harp_trace_file_append(&file, HARP_TRACE_NOTE, 0, large, 2, &why));
    CHECK(why == HARP_TRACE_RUNNING);
    unsigned written = 0;
    for (uint64_t i = 1; i <= 20; i++)
        written += note(i, 300 << 10);
    uint64_t count = walk(&last, &h);
    CHECK(written == 6 && count == 6 && last == 6); /* three in each of two segments */
    CHECK(h.dropped == 1 + 14 && h.lost_records == 0 && h.why == HARP_TRACE_FULL);
    harp_trace_file_forget(&file);
    CHECK(!note(1, 0));
    const struct harp_trace_header given = {.pid = 1};
    CHECK(harp_trace_file_open(&file, path, 0, &given, "", 0) == -EEXIST);
    CHECK(walk(&last, &h) == 6);
}

/* A record as large as a segment has room for, and one byte larger; which are counted as calls. */
static void sizes(void)
{
    static const char text[HARP_TRACE_SEGMENT_BYTES];
    struct harp_trace_header h;
    uint64_t last;
    enum harp_trace_why why;
    struct harp_trace_call call = {.sequence = 1};
    struct harp_trace_part parts[] = {{&call, sizeof call}, {text, sizeof text}};
    parts[1].bytes -= sizeof(struct harp_trace_segment) + sizeof call;
    open_new(0, 0);
    CHECK(note(1, 0) && harp_trace_file_append(&file, HARP_TRACE_CALL, 0, parts, 2, &why));
    parts[1].bytes++;
    CHECK(!harp_trace_file_append(&file, HARP_TRACE_CALL, 0, parts, 2, &why));
    CHECK(walk(&last, &h) == 2 && h.calls == 1 && h.dropped == 1 && h.begun == 2);
    harp_trace_file_close(&file, HARP_TRACE_TOLD);
}

/* Where not even its head has room, no file is left. */
static void no_room(void)
{
    struct rlimit before, small;
    const struct harp_trace_header given = {.pid = 1};
    unlink(path);
    CHECK(getrlimit(RLIMIT_FSIZE, &before) == 0);
    small = before;
    small.rlim_cur = 100;
    CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
    CHECK(harp_trace_file_open(&file, path, 0, &given, "", 0) == -EFBIG);
    CHECK(access(path, F_OK) != 0 && errno == ENOENT);
    CHECK(setrlimit(RLIMIT_FSIZE, &before) == 0);
    open_new(0, 0);
    harp_trace_file_close(&file, HARP_TRACE_TOLD);
}

static void *many(void *arg)
{
    uint64_t base = (uintptr_t)arg;
    for (uint64_t i = 0; i < RECORDS / 20; i++)
        CHECK(note(base + i, (uint32_t)(i % 40)));
    return NULL;
}

static void threads(void)
{
    struct harp_trace_header h;
    uint64_t last;
    pthread_t thread[THREADS];
    open_new(16 << 20, 0);
    for (uintptr_t i = 0; i < THREADS; i++)
        CHECK(pthread_create(&thread[i], NULL, many, (void *)(i << 20)) == 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    harp_trace_file_close(&file, HARP_TRACE_TOLD);
    CHECK(walk(&last, &h) == THREADS * (RECORDS / 20));
}

/* The program closed all descriptors, and its own file has the number now. */
static void taken(void)
{
    char other[80];
    struct stat st;
    snprintf(other, sizeof other, "%s.other", path);
    int fd = open(other, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
    open_new(16 << 20, 0);
    CHECK(fd >= 0 && note(1, 0));
    int number = file.fd;
    CHECK(dup2(fd, number) == number);
    unsigned written = 0;
    for (uint64_t i = 1; i <= 20; i++)
        written += note(i, 300 << 10);
    CHECK(written == 3); /* what the first segment had room for */
    harp_trace_file_close(&file, HARP_TRACE_TOLD);
    CHECK(fstat(number, &st) == 0 && st.st_size == 0 && (st.st_mode & 0777) == 0640);
    close(number);
    close(fd);
    unlink(other);
}

int main(void)
{
    snprintf(path, sizeof path, "trace-test-%d", (int)getpid());
    ring();
    bounds();
    sizes();
    no_room();
    threads();
    taken();
    unlink(path);
    return 0;
}
