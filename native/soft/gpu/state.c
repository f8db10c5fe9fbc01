/* SPDX-License-Identifier: Apache-2.0
 *
 * Opening the state file, or making it: the first process that comes writes a complete file under
 * a name of its own and links it into place, so nobody ever maps half a state, and two users may
 * race. Only open() without O_CREAT touches files of others (fs.protected_regular).
 */
#include "soft/gpu/driver.h"
#include "soft/gpu/fault.h"
#include "soft/gpu/mounted.h"
#include "soft/gpu/shared.h"
#include "soft/gpu/state_knobs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define DEFAULT_DEVICES     "h100-80g"
#define DEFAULT_TEARDOWN_MS 50
#define SOFT_MOUNTED_DIR    "/opt/harp/soft"

static pthread_mutex_t open_lock = PTHREAD_MUTEX_INITIALIZER; /* guards the_state */
static struct soft_state *the_state;

uint64_t soft_now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static uint64_t hash_text(uint64_t hash, const char *text)
{
    for (; *text != '\0'; text++)
        hash = (hash ^ (unsigned char)*text) * 0x100000001b3ull;
    return hash;
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

/* The same on every boot of one machine, different on two: pools tell devices by it. */
static void make_uuid(uint8_t uuid[16], const char *dir, int dev)
{
    char text[256] = "";
    uint64_t hash = hash_text(0xcbf29ce484222325ull, dir);
    int fd = open("/etc/machine-id", O_RDONLY | O_CLOEXEC);

    if (fd >= 0) {
        ssize_t n = read(fd, text, sizeof text - 1);

        text[n > 0 ? n : 0] = '\0';
        close(fd);
    }
    hash = hash_text(hash, text);
    if (gethostname(text, sizeof text) == 0) {
        text[sizeof text - 1] = '\0';
        hash = hash_text(hash, text);
    }
    for (int i = 0; i < 2; i++) {
        uint64_t word =
            mix(hash + (uint64_t)(unsigned)(dev * 2 + i + 1) * (uint64_t)0x9e3779b97f4a7c15);

        memcpy(uuid + 8 * i, &word, 8);
    }
}

/* "a100-40g,tiny" -> profiles; -EINVAL names the bad one in `why`. */
static int read_config(const char *config, const struct soft_profile **profiles, char *why,
                       size_t why_bytes)
{
    int count = 0, devices = 0;

    for (const char *p = config; *p != '\0';) {
        size_t bytes = strcspn(p, ",");
        const struct soft_profile *profile = soft_profile_find(p, bytes);

        if (profile != NULL)
            devices += profile->instances > 0 ? profile->instances : 1;
        if (profile == NULL || devices > SOFT_MAX_DEVICES) {
            snprintf(
                why, why_bytes,
                "HARP_SOFT_DEVICES: %s '%.*s'; remedy: up to %d of h100-80g, a100-40g, t4-16g, "
                "tiny, h100-mini, h100-mig-2x40g (counts twice), with commas between",
                profile == NULL ? "no profile is called" : "too many devices at", (int)bytes, p,
                SOFT_MAX_DEVICES);
            return -EINVAL;
        }
        profiles[count++] = profile;
        p += bytes;
        if (*p == ',')
            p++;
    }
    return count;
}

/* One device; or each of its instances, numbered as NVML numbers two halves: 1 and 2. */
static void add_board(struct soft_shared *map, const struct soft_profile *profile, const char *dir,
                      int board)
{
    int size = profile->instances > 0 ? profile->instances : 1;

    for (int i = 0; i < size; i++) {
        struct soft_shared_dev *d = &map->dev[map->device_count++];

        snprintf(d->key, sizeof d->key, "%s", profile->key);
        make_uuid(d->board_uuid, dir, board);
        make_uuid(d->uuid, dir, size == 1 ? board : SOFT_MAX_DEVICES * (i + 1) + board);
        d->board = board;
        d->instance = size == 1 ? SOFT_NO_INSTANCE : (uint32_t)i + 1;
    }
}

static int make_file(const char *dir, const char *name, uint64_t bytes, const char *config,
                     const struct soft_profile **profiles, int count)
{
    char temp[512], path[512];
    const char *teardown = getenv("HARP_SOFT_TEARDOWN_MS"), *driver = getenv("HARP_SOFT_DRIVER");
    struct soft_shared *map;
    int fd, err = 0;

    snprintf(path, sizeof path, "%s/%s", dir, name);
    snprintf(temp, sizeof temp, "%s/.%s.%d.%llx", dir, name, (int)getpid(),
             (unsigned long long)soft_now_ns());
    fd = open(temp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return -errno;
    /* the umask must not keep other users of the machine out */
    if (fchmod(fd, 0666) != 0 || ftruncate(fd, (off_t)bytes) != 0) {
        err = -errno;
        goto out;
    }
    if (count >= 0) {
        char why[256];

        map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (map == MAP_FAILED) {
            err = -errno;
            goto out;
        }
        map->magic = SOFT_MAGIC;
        map->version = SOFT_STATE_VERSION;
        map->bytes = bytes;
        map->birth = mix(soft_now_ns() ^ (uint64_t)getpid() << 40);
        map->made_ns = soft_now_ns();
        map->teardown_ns = DEFAULT_TEARDOWN_MS * 1000000ull;
        if (teardown != NULL && teardown[0] != '\0')
            map->teardown_ns = strtoull(teardown, NULL, 10) * 1000000ull;
        soft_knobs_read(&map->slice_ns, &map->switch_ns, why, sizeof why); /* checked */
        snprintf(map->config, sizeof map->config, "%s", config);
        map->driver = soft_driver_parse(driver);
        map->fault.door = map->driver < SOFT_DRIVER_VERSION ? SOFT_DOOR_OLD_DRIVER : 0;
        for (int i = 0; i < count; i++)
            add_board(map, profiles[i], dir, i);
        munmap(map, bytes);
    }
    if (link(temp, path) != 0 && errno != EEXIST)
        err = -errno;
out:
    unlink(temp);
    close(fd);
    return err;
}

static int make_dir(const char *dir)
{
    if (mkdir(dir, 0777) == 0)
        return chmod(dir, 01777) == 0 ? 0 : -errno;
    return errno == EEXIST ? 0 : -errno;
}

static int open_or_make(const char *dir, const char *name, uint64_t bytes, const char *config,
                        const struct soft_profile **profiles, int count)
{
    char path[512];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    for (int tries = 0; tries < 3; tries++) {
        int fd = open(path, O_RDWR | O_CLOEXEC);
        int err;

        if (fd >= 0)
            return fd;
        if (errno != ENOENT)
            return -errno;
        err = make_file(dir, name, bytes, config, profiles, count);
        if (err != 0)
            return err;
    }
    return -ENOENT;
}

/* Which process this is: pid, its namespace, its birth (a pid alone may be used again). */
static void identify(struct soft_state *state)
{
    struct stat ns;
    char text[1024];
    int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);

    state->pid = (int32_t)getpid();
    state->pidns = stat("/proc/self/ns/pid", &ns) == 0 ? (uint64_t)ns.st_ino : 0;
    state->birth = 0;
    if (fd >= 0) {
        ssize_t n = read(fd, text, sizeof text - 1);
        char *p;

        close(fd);
        text[n > 0 ? n : 0] = '\0';
        p = strrchr(text, ')');
        for (int field = 2; p != NULL && field < 22; field++)
            p = strchr(p + 1, ' ');
        if (p != NULL)
            state->birth = strtoull(p, NULL, 10);
    }
}

static void where(char *dir, size_t bytes, const char *config)
{
    const char *given = getenv("HARP_SOFT_DIR");

    /* A container's: there is no other GPU for it, whatever its environment says. */
    if (soft_is_mounted(SOFT_MOUNTED_DIR))
        given = SOFT_MOUNTED_DIR;
    if (given != NULL && given[0] != '\0') {
        snprintf(dir, bytes, "%s", given);
    } else {
        const char *driver = getenv("HARP_SOFT_DRIVER");
        uint64_t hash = hash_text(0xcbf29ce484222325ull, config) + SOFT_STATE_VERSION;

        if (driver != NULL && driver[0] != '\0' && soft_driver_parse(driver) < SOFT_DRIVER_VERSION)
            hash = hash_text(hash, driver);

        snprintf(dir, bytes, "%s/harp-soft-%08x",
                 access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp",
                 (unsigned)(mix(hash) & 0xffffffffu));
    }
}

static int map_state(struct soft_state *state, int fd, const char *dir, char *why, size_t why_bytes)
{
    struct stat st;
    struct soft_shared *map;

    if (fstat(fd, &st) != 0)
        return -errno;
    if ((uint64_t)st.st_size < sizeof(uint32_t) * 4)
        goto foreign;
    map = mmap(NULL, sizeof *map, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return -errno;
    if (map->magic != SOFT_MAGIC || map->version != SOFT_STATE_VERSION ||
        (uint64_t)st.st_size != sizeof *map || map->bytes != sizeof *map) {
        munmap(map, sizeof *map);
        goto foreign;
    }
    for (int i = 0; i < map->device_count; i++) {
        state->profile[i] = soft_profile_find(map->dev[i].key, strlen(map->dev[i].key));
        if (state->profile[i] == NULL) {
            munmap(map, sizeof *map);
            goto foreign;
        }
    }
    state->map = map;
    return 0;
foreign:
    snprintf(
        why, why_bytes,
        "%s/state was made by another version of the software GPU (this one writes version %u); "
        "remedy: end the programs that use it and remove that folder, or name another one in "
        "HARP_SOFT_DIR",
        dir, SOFT_STATE_VERSION);
    return -EPROTO;
}

/* Is there a complete state of this version? Asked before the slots are opened, which are never
 * closed again. */
static bool is_there(const char *dir)
{
    char path[512];
    struct {
        uint32_t magic, version;
        uint64_t bytes;
    } head;
    bool good = false;
    int fd;

    snprintf(path, sizeof path, "%s/slots", dir);
    if (access(path, R_OK | W_OK) != 0)
        return false;
    snprintf(path, sizeof path, "%s/state", dir);
    fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd >= 0) {
        good = read(fd, &head, sizeof head) == (ssize_t)sizeof head && head.magic == SOFT_MAGIC &&
               head.version == SOFT_STATE_VERSION && head.bytes == sizeof(struct soft_shared);
        close(fd);
    }
    return good;
}

static struct soft_state *open_once(bool make, char *why, size_t why_bytes)
{
    const char *given = getenv("HARP_SOFT_DEVICES");
    const char *config = given != NULL ? given : DEFAULT_DEVICES;
    const struct soft_profile *profiles[SOFT_MAX_DEVICES];
    struct soft_state *state = calloc(1, sizeof *state);
    char *dir = state != NULL ? state->dir : (char[400]){""};
    char *real;
    uint64_t slice_ns, switch_ns;
    int count, fd, err = -ENOMEM;

    if (state == NULL)
        goto fail;
    state->slots_fd = state->slot = -1;
    count = read_config(config, profiles, why, why_bytes);
    if (count < 0 || !soft_driver_check(getenv("HARP_SOFT_DRIVER"), why, why_bytes) ||
        !soft_knobs_read(&slice_ns, &switch_ns, why, why_bytes)) {
        free(state);
        return NULL;
    }
    where(dir, sizeof state->dir, config);
    err = make ? make_dir(dir) : is_there(dir) ? 0 : -ENOENT;
    if (err != 0)
        goto fail;
    err = state->slots_fd = open_or_make(dir, "slots", SOFT_MAX_SLOTS, "", NULL, -1);
    if (err < 0)
        goto fail;
    err = fd = open_or_make(dir, "state", sizeof *state->map, config, profiles, count);
    if (err < 0)
        goto fail;
    why[0] = '\0';
    err = map_state(state, fd, dir, why, why_bytes);
    close(fd);
    if (err != 0)
        goto fail;
    if (given != NULL && strcmp(state->map->config, config) != 0)
        soft_log("%s holds devices \"%s\" since it was made; HARP_SOFT_DEVICES=\"%s\" changes "
                 "nothing",
                 dir, state->map->config, config);
    if ((slice_ns != SOFT_KNOB_UNSET && slice_ns != state->map->slice_ns) ||
        (switch_ns != SOFT_KNOB_UNSET && switch_ns != state->map->switch_ns))
        soft_log("%s was made with other time slices; HARP_SOFT_SLICE_US and HARP_SOFT_SWITCH_US "
                 "change nothing",
                 dir);
    /* looked at later, from wherever the program has gone */
    real = realpath(dir, NULL);
    if (real != NULL && strlen(real) < sizeof state->dir)
        memcpy(state->dir, real, strlen(real) + 1);
    free(real);
    pthread_mutex_init(&state->mutex, NULL);
    identify(state);
    return state;
fail:
    if (err != -EPROTO)
        snprintf(why, why_bytes,
                 "cannot open the software GPU's state in %s: %s; remedy: let HARP_SOFT_DIR name a "
                 "folder on a local file system that this user may write to",
                 dir, strerror(-err));
    /* slots_fd stays open: another copy of this library may hold locks of this process on it */
    free(state);
    return NULL;
}

/* A fork that was not followed by exec: the child is another process, with no slot yet. */
static void adopt(struct soft_state *state)
{
    pthread_mutex_init(&state->mutex, NULL); /* a thread of the parent may have held it */
    state->slot = -1;
    identify(state);
}

static struct soft_state *get(bool make, char *why, size_t why_bytes)
{
    struct soft_state *state;

    pthread_mutex_lock(&open_lock);
    if (the_state == NULL)
        the_state = open_once(make, why, why_bytes);
    else if (the_state->pid != (int32_t)getpid())
        adopt(the_state);
    state = the_state;
    pthread_mutex_unlock(&open_lock);
    return state;
}

struct soft_state *soft_state_open(char *why, size_t why_bytes)
{
    return get(true, why, why_bytes);
}

struct soft_state *soft_state_find(void)
{
    char why[512];

    return get(false, why, sizeof why);
}
