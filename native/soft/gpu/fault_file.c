/* SPDX-License-Identifier: Apache-2.0
 *
 * The file of the fault rules: whole or not at all (written beside and renamed), and which version
 * of it this is.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "soft/gpu/fault.h"

#define MOST_BYTES 65536

static void path_of(const struct soft_state *state, char path[512])
{
    snprintf(path, 512, "%s/faults", state->dir);
}

static uint64_t mix(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) * 0x9e3779b97f4a7c15ull;
    return hash ^ (hash >> 29);
}

static uint64_t id_of(const struct stat *st)
{
    uint64_t id = mix(1, (uint64_t)st->st_ino);

    id = mix(id, (uint64_t)st->st_size);
    id = mix(id, (uint64_t)st->st_mtim.tv_sec);
    id = mix(id, (uint64_t)st->st_mtim.tv_nsec);
    return id != 0 && id != SOFT_FAULT_UNSEEN ? id : 1;
}

uint64_t soft_fault_file_id(const struct soft_state *state)
{
    char path[512];
    struct stat st;

    path_of(state, path);
    if (stat(path, &st) == 0)
        return id_of(&st);
    return errno == ENOENT ? 0 : SOFT_FAULT_UNSEEN;
}

static void tell(void (*bad)(int line, const char *why), int line, const char *why)
{
    if (bad != NULL)
        bad(line, why);
}

static void read_rules(const char *text, size_t bytes, struct soft_fault_file *out,
                       void (*bad)(int line, const char *why))
{
    const char *end = text + bytes;

    for (int line = 1; text < end; line++) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        struct soft_fault_rule rule;
        char why[256];
        int is;

        if (stop == NULL)
            stop = end;
        is = soft_fault_parse(text, (size_t)(stop - text), &rule, why, sizeof why);
        if (is < 0) {
            tell(bad, line, why);
        } else if (is > 0 && out->count == SOFT_MAX_FAULTS) {
            snprintf(why, sizeof why, "more than %d rules; remedy: take some out", SOFT_MAX_FAULTS);
            tell(bad, line, why);
            return;
        } else if (is > 0) {
            out->rule[out->count++] = rule;
        }
        text = stop + 1;
    }
}

int soft_fault_file_read(const struct soft_state *state, struct soft_fault_file *out,
                         void (*bad)(int line, const char *why))
{
    char path[512], *text;
    struct stat st;
    size_t got = 0;
    ssize_t n = 0;
    int fd;

    out->id = 0;
    out->count = 0;
    path_of(state, path);
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    text = malloc(MOST_BYTES);
    if (text == NULL || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        free(text);
        close(fd);
        return -EINVAL;
    }
    out->id = id_of(&st);
    while (got < MOST_BYTES && (n = read(fd, text + got, MOST_BYTES - got)) > 0)
        got += (size_t)n;
    close(fd);
    if (got == MOST_BYTES)
        tell(bad, 0, "more than 64 KiB; the rest is not read");
    read_rules(text, got, out, bad);
    free(text);
    return n < 0 ? -EIO : 0;
}

int soft_fault_file_write(const struct soft_state *state, const struct soft_fault_rule *rules,
                          int count)
{
    char path[512], temp[600], line[SOFT_FAULT_LINE + 2];
    FILE *file;
    int fd, err = 0;

    path_of(state, path);
    if (count == 0)
        return unlink(path) == 0 || errno == ENOENT ? 0 : -errno;
    snprintf(temp, sizeof temp, "%s/.faults.%d.%llx", state->dir, (int)getpid(),
             (unsigned long long)soft_now_ns());
    fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0)
        return -errno;
    file = fdopen(fd, "w");
    if (file == NULL) {
        err = -errno;
        close(fd);
    } else {
        for (int i = 0; i < count; i++) {
            soft_fault_print(&rules[i], line, sizeof line);
            fprintf(file, "%s\n", line);
        }
        /* every user's processes read it, whatever the umask of who wrote it */
        if (fchmod(fd, 0644) != 0 || ferror(file) != 0)
            err = -EIO;
        if (fclose(file) != 0)
            err = -errno;
    }
    if (err == 0 && rename(temp, path) != 0)
        err = -errno;
    if (err != 0)
        unlink(temp);
    return err;
}

void soft_fault_announce(struct soft_state *state)
{
    struct soft_shared_fault *f = &state->map->fault;
    uint64_t id;

    do { /* whoever else writes it at the same time: the last one looks again */
        uint32_t was = atomic_load(&f->door), now;

        id = soft_fault_file_id(state);
        do {
            now = was & SOFT_DOOR_OLD_DRIVER;
            if (id != 0)
                now |= (atomic_fetch_add(&f->changes, 1) + 1) << 2 | SOFT_DOOR_ARMED;
        } while (!atomic_compare_exchange_weak(&f->door, &was, now));
    } while (soft_fault_file_id(state) != id);
}
