/* SPDX-License-Identifier: Apache-2.0
 *
 * Whether there is a trace, and where. Told by $HARP_GRANT/trace, which `harp trace start` and
 * `harp run --trace` write and `stop` removes, else by HARP_TRACE: a file, or the same lines:
 *
 *   file=PATH       the first process to come makes it, later ones PATH.PID
 *   bytes=N         of the file, at most      data=N   of host bytes a call; 0: none, no images
 *   keep=first      what comes when it is full is dropped, instead of the oldest
 *   device=off      launches and copies are not measured
 *   id=TEXT         another one is another trace           about=JSON   for the header
 *
 * Looked at when the process begins, and whenever the arbiter says something of the tenant: who
 * changes the file has it said again (`harp trace` does). A file of another user's (but
 * root) tells nothing: it would choose what is written as us.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "generated/shim_symbols.h"
#include "src/shim/backend/table.h"
#include "src/shim/entry/entry.h"
#include "src/shim/trace/state.h"

#define TEXT_MOST     8192u
#define DEFAULT_BYTES (256ull << 20)
#define SYMBOLS_MOST  (128u << 10)

struct told {
    char file[1024], id[64], about[3584];
    uint64_t bytes, data;
    bool keep_first, no_device;
};

void *harp_trace_next[HARP_SYMS];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* starting and stopping */
static struct told current;
static bool loaded;          /* harp_trace_next is filled; atomic */
static uint64_t generations; /* given out; under the lock */
static bool due;             /* atomic */
static unsigned *own;        /* 0 in a child made by any kind of fork; NULL: the kernel cannot */
static unsigned own_pid;

/* --- what is told ----------------------------------------------------------------------------- */

static bool line(const char *text, const char *name, char *out, size_t size)
{
    size_t n = strlen(name);
    for (const char *at = text; at != NULL && *at != '\0'; at = strchr(at, '\n')) {
        at += *at == '\n';
        if (strncmp(at, name, n) != 0 || at[n] != '=')
            continue;
        size_t bytes = strcspn(at + n + 1, "\n");
        if (bytes >= size)
            return false;
        memcpy(out, at + n + 1, bytes);
        out[bytes] = '\0';
        return true;
    }
    return false;
}

static uint64_t number(const char *text, const char *name, uint64_t otherwise)
{
    char value[24], *end;
    if (!line(text, name, value, sizeof value))
        return otherwise;
    unsigned long long n = strtoull(value, &end, 10);
    return *end == '\0' && end != value ? n : otherwise;
}

static bool parse(const char *text, struct told *out)
{
    char word[16];
    memset(out, 0, sizeof *out);
    if (strncmp(text, "file=", 5) != 0) { /* a user's own: a path alone */
        if (strlen(text) >= sizeof out->file || strchr(text, '\n') != NULL)
            return false;
        strcpy(out->file, text);
    } else if (!line(text, "file", out->file, sizeof out->file)) {
        return false;
    }
    line(text, "id", out->id, sizeof out->id);
    line(text, "about", out->about, sizeof out->about);
    out->bytes = number(text, "bytes", DEFAULT_BYTES);
    out->data = number(text, "data", 0);
    out->keep_first = line(text, "keep", word, sizeof word) && strcmp(word, "first") == 0;
    out->no_device = line(text, "device", word, sizeof word) && strcmp(word, "off") == 0;
    return out->file[0] != '\0';
}

/* By the grant's folder. Lock held. */
static bool read_control(struct told *out)
{
    static const char *said; /* once, until another reason or a file that is taken */
    char path[1200], text[TEXT_MOST];
    struct stat st;
    snprintf(path, sizeof path, "%s/trace", harp_env()->grant);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK), err = errno;
    if (fd < 0 && err == ENOENT)
        return false;
    const char *why = NULL;
    if (fd < 0 || fstat(fd, &st) != 0)
        why = "it cannot be opened";
    else if (!S_ISREG(st.st_mode))
        why = "it is no file";
    else if (st.st_uid != geteuid() && st.st_uid != 0)
        why = "it is another user's";
    else if ((st.st_mode & (S_IWGRP | S_IWOTH)) != 0)
        why = "others may write to it";
    ssize_t n = why == NULL ? read(fd, text, sizeof text - 1) : 0;
    text[n > 0 ? n : 0] = '\0';
    if (why == NULL && !parse(text, out))
        why = "it names no file to write";
    if (why != NULL && why != said)
        harp_log("trace_not_taken file=%s why=\"%s\" errno=%d", path, why, fd < 0 ? err : 0);
    said = why;
    if (fd >= 0)
        close(fd);
    return why == NULL;
}

static bool wanted(struct told *out)
{
    if (harp_env()->grant != NULL && read_control(out))
        return true;
    return harp_env()->trace != NULL && parse(harp_env()->trace, out);
}

/* --- on and off ------------------------------------------------------------------------------- */

static void swap_entries(bool on)
{
    for (unsigned i = 0; i < harp_sym_count; i++) {
        void *to = on && harp_traced[i] != NULL ? harp_traced[i] : harp_trace_next[i];
        __atomic_store_n(&harp_entry[i], to, __ATOMIC_RELEASE);
    }
}

static uint32_t pack_symbols(uint8_t *out)
{
    uint32_t at = 0;
    for (unsigned i = 0; i < harp_sym_count; i++) {
        const struct harp_trace_row *row = &harp_trace_rows[i];
        size_t length = strlen(harp_sym_name[i]);
        struct harp_trace_symbol s = {.op = row->op,
                                      .kind = row->kind,
                                      .flags = row->per_thread,
                                      .length = (uint16_t)length,
                                      .parameters = row->parameters};
        if (at + sizeof s + length > SYMBOLS_MOST)
            break;
        memcpy(out + at, &s, sizeof s);
        memcpy(out + at + sizeof s, harp_sym_name[i], length);
        at += (uint32_t)(sizeof s + length);
    }
    return at;
}

static uint64_t realtime_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void program(char *out, size_t size)
{
    int fd = open("/proc/self/comm", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, out, size - 1) : -1;
    if (fd >= 0)
        close(fd);
    out[n > 0 ? n - 1 : 0] = '\0'; /* a newline ends it */
}

/* PATH, or the first of PATH.PID, PATH.PID.2, ... that is not there. */
static int open_file(const struct told *t, const struct harp_trace_header *header,
                     const uint8_t *symbols, uint32_t symbols_bytes, char *path, size_t size)
{
    int err = -EEXIST;
    for (unsigned i = 0; i < 100 && err == -EEXIST; i++) {
        if (i == 0)
            snprintf(path, size, "%s", t->file);
        else if (i == 1)
            snprintf(path, size, "%s.%u", t->file, header->pid);
        else
            snprintf(path, size, "%s.%u.%u", t->file, header->pid, i);
        err =
            harp_trace_file_open(&harp_trace.file, path, t->bytes, header, symbols, symbols_bytes);
    }
    return err;
}

/* A page that is zero again in whatever is forked off. */
static void mark_own(void)
{
    own_pid = (unsigned)getpid();
    if (own == NULL) {
        void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (page != MAP_FAILED && madvise(page, 4096, 18 /* MADV_WIPEONFORK */) == 0)
            own = page;
        else if (page != MAP_FAILED)
            munmap(page, 4096);
    }
    if (own != NULL)
        *own = 1;
}

/* Lock held. `live`: the program is under way. */
static void start(const struct told *t, bool live, unsigned parent)
{
    static uint8_t symbols[SYMBOLS_MOST];
    static const uint8_t tables[32] = HARP_WIRE_TABLE_HASH;
    char path[1100];
    bool remote = harp_env()->remote != NULL && harp_env()->grant == NULL;
    struct harp_trace_header h = {.symbols = harp_sym_count,
                                  .wire_format = HARP_WIRE_FORMAT,
                                  .cuda = HARP_WIRE_CUDA,
                                  .pid = (uint32_t)getpid(),
                                  .parent = (uint32_t)getppid(),
                                  .data_bytes = t->data};
    h.flags = (t->data != 0 ? HARP_TRACE_DATA : 0u) | (remote ? HARP_TRACE_REMOTE : 0u) |
              (live ? HARP_TRACE_LIVE : 0u) | (t->keep_first ? HARP_TRACE_KEEP_FIRST : 0u);
    bool times = !remote && harp_env()->grant != NULL && !harp_env()->gate_off && !t->no_device;
    h.flags |= times ? HARP_TRACE_DEVICE : 0u;
    memcpy(h.table_hash, tables, sizeof h.table_hash);
    h.monotonic_ns = harp_trace_now_ns();
    h.realtime_ns = realtime_ns();
    program(h.program, sizeof h.program);
    snprintf(h.about, sizeof h.about, "%s", t->about);
    current = *t; /* also where it fails: it is not tried again and again */
    int err = open_file(t, &h, symbols, pack_symbols(symbols), path, sizeof path);
    if (err != 0) {
        harp_log("trace_not_started file=%s errno=%d effect=\"nothing is recorded\"", path, -err);
        return;
    }
    harp_trace.data_bytes = t->data;
    __atomic_store_n(&harp_trace.sequence, 0, __ATOMIC_RELAXED);
    harp_trace_host_reset();
    harp_trace_forget_functions();
    mark_own();
    if (parent != 0)
        harp_trace_note("fork of=%u", parent);
    else
        harp_trace_note("started %s", live ? "live" : "with the program");
    if (harp_trace.file.map == NULL) { /* its first segment had no room */
        harp_log("trace_not_started file=%s why=\"the disk is full\"", path);
        return;
    }
    harp_log("trace_started file=%s bytes=%llu", path, (unsigned long long)t->bytes);
    static bool told_at_exit;
    if (!told_at_exit)
        told_at_exit = atexit(harp_trace_exiting) == 0;
    __atomic_store_n(&harp_trace.generation, ++generations, __ATOMIC_RELEASE);
    swap_entries(true);
    __atomic_store_n(&harp_trace_times, times, __ATOMIC_RELAXED);
    if (times)
        harp_time_unsee_all();
}

void harp_trace_over(enum harp_trace_why why)
{
    if (__atomic_exchange_n(&harp_trace.generation, 0, __ATOMIC_ACQ_REL) == 0)
        return;
    __atomic_store_n(&harp_trace_times, 0, __ATOMIC_RELAXED);
    swap_entries(false);
    if (why == HARP_TRACE_TOLD)
        harp_trace_note("stopped why=told");
    harp_trace_file_close(&harp_trace.file, why);
    harp_log("trace_stopped why=%s", why == HARP_TRACE_DISK_FULL ? "\"the disk is full\"" : "told");
}

static bool same(const struct told *a, const struct told *b)
{
    return strcmp(a->file, b->file) == 0 && strcmp(a->id, b->id) == 0;
}

static void look(bool live)
{
    struct told t;
    pthread_mutex_lock(&lock);
    if (!wanted(&t)) {
        harp_trace_over(HARP_TRACE_TOLD);
        memset(&current, 0, sizeof current);
    } else if (!same(&t, &current)) {
        harp_trace_over(HARP_TRACE_TOLD);
        start(&t, live, 0);
    }
    pthread_mutex_unlock(&lock);
}

void harp_trace_loaded(void)
{
    for (unsigned i = 0; i < harp_sym_count; i++)
        harp_trace_next[i] = harp_entry[i];
    __atomic_store_n(&loaded, true, __ATOMIC_RELEASE);
    look(false);
}

void harp_trace_due(void)
{
    __atomic_store_n(&due, true, __ATOMIC_RELEASE);
}

void harp_trace_check(void)
{
    int saved = errno;
    if (__atomic_load_n(&due, __ATOMIC_RELAXED) && __atomic_load_n(&loaded, __ATOMIC_ACQUIRE)) {
        __atomic_store_n(&due, false, __ATOMIC_SEQ_CST); /* before the look */
        look(true);
    }
    errno = saved;
}

void harp_trace_exiting(void)
{
    if (__atomic_load_n(&harp_trace.generation, __ATOMIC_ACQUIRE) == 0 || harp_trace_is_child())
        return;
    harp_trace_note("the program ends");
    harp_trace_file_exits(&harp_trace.file);
}

/* --- children --------------------------------------------------------------------------------- */

bool harp_trace_is_child(void)
{
    if (own != NULL)
        return __atomic_load_n(own, __ATOMIC_RELAXED) == 0;
    return own_pid != (unsigned)getpid();
}

void harp_trace_after_fork(void)
{
    pthread_mutex_init(&lock, NULL);
    pthread_mutex_init(&harp_trace.file.lock, NULL);
    harp_trace_prepare_reset();
    harp_trace_host_reset();
}

/* The first recorded call of a child, whose only thread this is. */
bool harp_trace_forked(void)
{
    unsigned parent = own_pid;
    struct told t = current;
    harp_trace_after_fork();
    harp_trace_file_forget(&harp_trace.file);
    harp_trace_thread_forked();
    harp_trace.generation = 0;
    pthread_mutex_lock(&lock);
    start(&t, false, parent);
    if (harp_trace.generation == 0) {
        mark_own();
        __atomic_store_n(&harp_trace_times, 0, __ATOMIC_RELAXED);
        swap_entries(false);
    }
    pthread_mutex_unlock(&lock);
    return harp_trace.generation != 0;
}
