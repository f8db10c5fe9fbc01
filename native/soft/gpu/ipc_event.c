/* SPDX-License-Identifier: Apache-2.0
 *
 * What processes share of an interprocess event: a cell of 64 bytes in a file of the process that
 * made it, mapped by all that opened it. No lock: records are numbered, the latest names who made
 * it, and `done` only grows.
 *
 * A record of a process that was killed is never reached by it. Hardware would leave the waiter
 * waiting; here it counts as reached, for whatever stood before it was torn down.
 */
#include "soft/gpu/ipc.h"

#include <limits.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "soft/gpu/arena.h"

#define MAGIC      0x45435049u
#define CELLS      16384u
#define FILE_BYTES (CELLS * sizeof(struct cell))
#define LOOK_NS    10000000ull /* a waiter looks after the recorder this often */

struct cell {
    soft_u64 id;     /* of the event that has it; 0: free */
    soft_u64 record; /* number of the latest << 32 | low bits of incarnation << 11 | slot + 1 */
    soft_u64 done;   /* number of the latest reached << 32 */
    soft_u64 stamp_ns;
    soft_u32 bell; /* futex: rung when `done` has grown */
    uint32_t pad[7];
};
_Static_assert(sizeof(struct cell) == 64, "one line each");

struct cells { /* a file of them: ours, or another process's */
    struct cell *cell;
    struct soft_file file;
    uint64_t owner, ino; /* of another's */
    unsigned refs;
    struct cells *next;
};

struct soft_ipc_event {
    struct cells *of;
    struct cell *cell;
    uint64_t id;
    bool ours;
};

struct name {
    struct soft_ipc_name of;
    uint64_t id;
    uint32_t cell, pad[5];
};
_Static_assert(sizeof(struct name) == sizeof(CUipcEventHandle), "a handle");

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards the three below */
static struct cells ours = {.file = {.fd = -1}};
static uint32_t next_cell;
static struct cells *others;

static struct cell *map_cells(int fd)
{
    void *p = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (p == MAP_FAILED)
        return NULL;
    madvise(p, FILE_BYTES, MADV_DONTFORK);
    return p;
}

/* With the lock. */
static bool our_cells(void)
{
    if (ours.cell != NULL)
        return true;
    if (soft_file_make(&ours.file, FILE_BYTES) != 0)
        return false;
    ours.cell = map_cells(ours.file.fd);
    if (ours.cell == NULL)
        close(ours.file.fd);
    return ours.cell != NULL;
}

struct soft_ipc_event *soft_ipc_event_make(void)
{
    struct soft_ipc_event *event = calloc(1, sizeof *event);
    struct cell *cell = NULL;

    if (event == NULL)
        return NULL;
    pthread_mutex_lock(&lock);
    for (uint32_t n = 0; our_cells() && n < CELLS && cell == NULL; n++) {
        cell = &ours.cell[next_cell++ % CELLS];
        if (atomic_load(&cell->id) != 0)
            cell = NULL;
    }
    if (cell != NULL) {
        *event = (struct soft_ipc_event){&ours, cell, soft_span_next_id(), true};
        atomic_store(&cell->record, 0);
        atomic_store(&cell->done, 0);
        atomic_store(&cell->id, event->id);
    } else {
        free(event);
        event = NULL;
    }
    pthread_mutex_unlock(&lock);
    return event;
}

static void ring(struct cell *cell)
{
    atomic_fetch_add(&cell->bell, 1);
    syscall(SYS_futex, &cell->bell, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static void unref_other(struct cells *cells)
{
    pthread_mutex_lock(&lock);
    if (--cells->refs == 0) {
        for (struct cells **at = &others; *at != NULL; at = &(*at)->next)
            if (*at == cells) {
                *at = cells->next;
                break;
            }
        munmap(cells->cell, FILE_BYTES);
        free(cells);
    }
    pthread_mutex_unlock(&lock);
}

void soft_ipc_event_drop(struct soft_ipc_event *event)
{
    if (event == NULL)
        return;
    if (event->ours) { /* whoever waits elsewhere has nothing to wait for any more */
        atomic_store(&event->cell->id, 0);
        ring(event->cell);
    } else {
        unref_other(event->of);
    }
    free(event);
}

/* -------------------------------------------------------------------- recording and waiting ----
 */
static uint64_t recorder(void)
{
    struct soft_state *state = soft_the_state;
    uint64_t word = atomic_load(&state->map->slot[state->slot].state);

    return (SOFT_SLOT_INC(word) & 0x1fffff) << 11 | (uint64_t)(unsigned)(state->slot + 1);
}

/* The event's process may have ended it; then the cell may be another's. */
static bool is_there(const struct soft_ipc_event *event)
{
    return atomic_load(&event->cell->id) == event->id;
}

uint32_t soft_ipc_event_begin(struct soft_ipc_event *event)
{
    uint64_t was = atomic_load(&event->cell->record), is;

    if (!is_there(event))
        return 0;
    do {
        is = ((was >> 32) + 1) << 32 | recorder();
    } while (!atomic_compare_exchange_weak(&event->cell->record, &was, is));
    return (uint32_t)(is >> 32);
}

static void reach(struct cell *cell, uint32_t number, uint64_t end_ns)
{
    uint64_t was = atomic_load(&cell->done);

    while ((int32_t)(number - (uint32_t)(was >> 32)) > 0)
        if (atomic_compare_exchange_weak(&cell->done, &was, (uint64_t)number << 32)) {
            atomic_store(&cell->stamp_ns, end_ns);
            break;
        }
    ring(cell);
}

void soft_ipc_event_end(struct soft_ipc_event *event, uint32_t number, uint64_t end_ns)
{
    if (is_there(event))
        reach(event->cell, number, end_ns);
}

uint32_t soft_ipc_event_latest(struct soft_ipc_event *event)
{
    return is_there(event) ? (uint32_t)(atomic_load(&event->cell->record) >> 32) : 0;
}

/* Is whoever made the latest record still there? */
static bool recorder_lives(uint64_t record)
{
    struct soft_state *state = soft_the_state;
    uint64_t slot = record & 0x7ff, inc = record >> 11 & 0x1fffff, word;

    if (slot == 0 || slot > SOFT_MAX_SLOTS)
        return false;
    word = atomic_load(&state->map->slot[slot - 1].state);
    return (SOFT_SLOT_INC(word) & 0x1fffff) == inc &&
           soft_ipc_lives(SOFT_SLOT_INC(word) << 16 | slot);
}

bool soft_ipc_event_ready(struct soft_ipc_event *event, uint32_t number)
{
    struct cell *cell = event->cell;
    uint64_t record = atomic_load(&cell->record);

    if (!is_there(event) || (int32_t)((uint32_t)(atomic_load(&cell->done) >> 32) - number) >= 0)
        return true;
    if (recorder_lives(record))
        return false;
    reach(cell, (uint32_t)(record >> 32), soft_now_ns());
    return (int32_t)((uint32_t)(record >> 32) - number) >= 0;
}

uint64_t soft_ipc_event_wait(struct soft_ipc_event *event, uint32_t number, struct soft_ctx *ctx)
{
    struct cell *cell = event->cell;

    for (;;) {
        uint32_t seen = atomic_load(&cell->bell);

        if (soft_ipc_event_ready(event, number))
            return is_there(event) ? atomic_load(&cell->stamp_ns) : 0;
        if (atomic_load(&soft_ending) || soft_ctx_sticky(ctx) != CUDA_SUCCESS)
            return 0;
        soft_futex_wait(&cell->bell, seen, soft_now_ns() + LOOK_NS);
    }
}

/* ------------------------------------------------------------------------------------ handles --
 */
void soft_ipc_event_name(struct soft_ipc_event *event, CUipcEventHandle *handle)
{
    struct name name = {.id = event->id, .cell = (uint32_t)(event->cell - event->of->cell)};

    soft_ipc_name(&name.of, MAGIC, &event->of->file);
    memcpy(handle, &name, sizeof name);
}

/* With the lock. */
static CUresult find_cells(const struct soft_ipc_name *of, struct cells **out)
{
    struct cells *cells;
    CUresult r;
    int fd;

    for (cells = others; cells != NULL; cells = cells->next)
        if (cells->owner == of->owner && cells->ino == of->ino) {
            *out = cells;
            return soft_ipc_lives(of->owner) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
        }
    r = soft_ipc_open(of, &fd);
    if (r != CUDA_SUCCESS)
        return r;
    cells = calloc(1, sizeof *cells);
    if (cells != NULL)
        cells->cell = map_cells(fd);
    close(fd);
    if (cells == NULL || cells->cell == NULL) {
        free(cells);
        return CUDA_ERROR_MAP_FAILED;
    }
    cells->owner = of->owner;
    cells->ino = of->ino;
    cells->next = others;
    others = cells;
    *out = cells;
    return CUDA_SUCCESS;
}

CUresult soft_ipc_event_open(const CUipcEventHandle *handle, struct soft_ipc_event **out)
{
    struct soft_ipc_event *event;
    struct cells *cells;
    struct name name;
    CUresult r;

    memcpy(&name, handle, sizeof name);
    r = soft_ipc_check(&name.of, MAGIC);
    if (r == CUDA_SUCCESS && (name.cell >= CELLS || name.id == 0))
        r = CUDA_ERROR_INVALID_VALUE;
    if (r != CUDA_SUCCESS)
        return r;
    event = calloc(1, sizeof *event);
    if (event == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    pthread_mutex_lock(&lock);
    r = find_cells(&name.of, &cells);
    if (r == CUDA_SUCCESS) {
        *event = (struct soft_ipc_event){cells, &cells->cell[name.cell], name.id, false};
        cells->refs++;
    }
    pthread_mutex_unlock(&lock);
    if (r == CUDA_SUCCESS && is_there(event)) {
        *out = event;
        return CUDA_SUCCESS;
    }
    if (r == CUDA_SUCCESS)
        unref_other(cells); /* its event was destroyed */
    free(event);
    return r != CUDA_SUCCESS ? r : CUDA_ERROR_INVALID_HANDLE;
}
