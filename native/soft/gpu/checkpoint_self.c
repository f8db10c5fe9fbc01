/* SPDX-License-Identifier: Apache-2.0
 *
 * Checkpoints: the process that is locked, put away and brought back. One thread does it, begun
 * with the process's slot; the locks that it takes keep its owner's calls out until it unlocks.
 *
 * Bytes stay where they are, since a software GPU's memory is the host's: what a checkpoint gives
 * back is all that the device counts. Room for them is taken on the host all the same, for a driver
 * needs it.
 *
 * What fails leaves the process where it was, as seen on an H200 (driver 580): locked where it has
 * memory that a checkpoint cannot hold (managed: 801), CHECKPOINTED where the device has no room
 * for it (2), and both may be tried again. Memory of another process, and no room on the host, were
 * not tried there; a host without room is taken for what the documents say: FAILED, for good.
 */
#include "soft/gpu/checkpoint.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "soft/gpu/door.h"
#include "soft/gpu/fault.h"
#include "soft/gpu/managed.h"

#define STACK_BYTES (256u << 10)
#define POLL_US     500u
#define LOOK_NS     100000000ull

static soft_u32 shut; /* a futex: 1 while the client's calls wait */
static pthread_mutex_t start_lock = PTHREAD_MUTEX_INITIALIZER;
static bool started; /* guarded by it */

/* of the thread's own: what to bring back */
static struct {
    uint64_t mem_bytes[SOFT_MAX_DEVICES], context_bytes[SOFT_MAX_DEVICES]; /* by ordinal */
    void *room;
    uint64_t room_bytes;
} away;

void soft_checkpoint_wait(unsigned flags)
{
    const struct soft_thread *t;

    if (atomic_load_explicit(&shut, memory_order_acquire) == 0 || (flags & SOFT_DOOR_FREE) != 0)
        return;
    t = soft_thread();
    if (t != NULL && t->in_callback)
        return; /* work that a lock waits for; it is told that it may not call */
    while (atomic_load_explicit(&shut, memory_order_acquire) != 0 && !atomic_load(&soft_ending) &&
           !soft_forked())
        soft_futex_wait(&shut, 1, soft_now_ns() + LOOK_NS);
}

static void shut_doors(bool closed)
{
    atomic_store_explicit(&shut, closed, memory_order_release);
    soft_fault_doors(closed);
    if (!closed)
        syscall(SYS_futex, &shut, 1 /* FUTEX_WAKE */, 0x7fffffff, NULL, NULL, 0);
}

/* ------------------------------------------------------------------------------------- locking --
 * The order is soft.h's; soft_lock first, so that the list of contexts stays what it is. A queue
 * that is full keeps its context's lock, perhaps for ever: then it is not idle. */
static bool is_idle(struct soft_ctx *ctx)
{
    for (struct soft_stream *s = ctx->streams; s != NULL; s = s->next)
        if (!soft_stream_idle(s))
            return false;
    return true;
}

static void unlock_before(const struct soft_ctx *end)
{
    for (struct soft_ctx *c = soft_ctx_first(); c != end; c = c->next)
        pthread_mutex_unlock(&c->submit_lock);
}

static bool try_lock(void)
{
    struct soft_ctx *c;

    soft_lock();
    for (c = soft_ctx_first(); c != NULL; c = c->next) {
        if (pthread_mutex_trylock(&c->submit_lock) != 0)
            break;
        if (atomic_load(&c->ending) || !is_idle(c)) {
            pthread_mutex_unlock(&c->submit_lock);
            if (atomic_load(&c->alive))
                break;
            pthread_mutex_lock(&c->submit_lock); /* long gone */
        }
    }
    if (c == NULL) {
        soft_space_lock();
        return true;
    }
    unlock_before(c);
    soft_unlock();
    return false;
}

static void unlock(void)
{
    soft_space_unlock();
    unlock_before(NULL);
    soft_unlock();
}

/* Who asked waits no longer, or was killed: a lock that nobody knows of would be for ever. */
static bool has_given_up(uint64_t until_ns)
{
    return (until_ns != 0 && soft_now_ns() >= until_ns) || !soft_mail_is_awaited(soft_the_state);
}

static CUresult lock_process(uint64_t until_ns)
{
    shut_doors(true);
    while (!try_lock()) {
        if (has_given_up(until_ns)) {
            shut_doors(false);
            return CUDA_ERROR_NOT_READY;
        }
        usleep(POLL_US);
    }
    if (!has_given_up(until_ns))
        return CUDA_SUCCESS;
    unlock();
    shut_doors(false);
    return CUDA_ERROR_NOT_READY;
}

/* ----------------------------------------------------------------------- away, and back again ---
 */
static void take_time(uint64_t bytes, int ordinal)
{
    usleep((unsigned)((double)bytes / soft_the_state->profile[ordinal]->pcie_bytes_per_ns / 1e3));
}

static CUresult leave_devices(struct soft_shared_mail *mail)
{
    struct soft_state *state = soft_the_state;
    uint64_t all = 0;

    if (soft_managed_first() != NULL || soft_phys_shared()) {
        soft_log("no checkpoint of managed memory, or of memory that processes share");
        return CUDA_ERROR_NOT_SUPPORTED;
    }
    for (int i = 0; i < soft_state_device_count(state); i++) {
        uint64_t held = soft_hold_bytes(state, soft_at(i), state->slot);

        away.context_bytes[i] = atomic_load(&soft_slot_ledger(state, soft_at(i))->context_bytes);
        away.mem_bytes[i] = held - away.context_bytes[i];
        all += away.mem_bytes[i];
    }
    away.room_bytes = all;
    away.room = all == 0
                    ? NULL
                    : mmap(NULL, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (away.room == MAP_FAILED) {
        soft_log("no room on the host for %llu bytes of device memory", (unsigned long long)all);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    for (struct soft_ctx *c = soft_ctx_first(); c != NULL; c = c->next) {
        if (!atomic_load(&c->alive))
            continue;
        for (int e = 0; e < SOFT_ENGINES; e++)
            soft_turn_leave_device(&c->turn[e]);
        soft_client_leave(state, soft_at(c->ordinal), c->client);
    }
    for (int i = 0; i < soft_state_device_count(state); i++) {
        take_time(away.mem_bytes[i], i);
        soft_slot_release(state, soft_at(i), away.mem_bytes[i], away.context_bytes[i]);
    }
    atomic_store(&mail->host_bytes, all);
    return CUDA_SUCCESS;
}

static int device_named(const uint8_t uuid[16])
{
    for (int d = 0; d < soft_state_device_count(soft_the_state); d++)
        if (memcmp(soft_the_state->map->dev[d].uuid, uuid, 16) == 0)
            return d;
    return -1;
}

/* Every device that the process sees, onto one of the same kind each; the rest of the machine stays
 * a permutation, so that each device has one ordinal. */
static bool new_places(const struct soft_mail_args *args, int8_t places[SOFT_MAX_DEVICES])
{
    uint32_t named = 0, taken = 0;

    for (int i = 0; i < SOFT_MAX_DEVICES; i++)
        places[i] = (int8_t)soft_at(i);
    if (args->pairs == 0)
        return true;
    for (unsigned p = 0; p < args->pairs; p++) {
        int from = soft_from(device_named(args->from[p])), to = device_named(args->to[p]);

        if (from < 0 || to < 0 || (named >> from & 1) != 0 || (taken >> to & 1) != 0 ||
            soft_the_state->profile[to] != soft_the_state->profile[soft_at(from)] ||
            soft_fault_lost(soft_the_state, to))
            return false;
        named |= 1u << from;
        taken |= 1u << to;
        places[from] = (int8_t)to;
    }
    for (int v = 0; v < soft_visible_count(); v++)
        if ((named >> soft_visible_ordinal(v) & 1) == 0) {
            soft_log("a restore on other devices must name all that the process sees");
            return false;
        }
    for (int i = 0; i < SOFT_MAX_DEVICES; i++) {
        int free = soft_at(i);

        if ((named >> i & 1) != 0)
            continue;
        for (int d = 0; (taken >> free & 1) != 0; d++)
            free = d;
        taken |= 1u << free;
        places[i] = (int8_t)free;
    }
    return true;
}

static void give_back(const int8_t places[SOFT_MAX_DEVICES], int count)
{
    for (int i = 0; i < count; i++)
        soft_slot_release(soft_the_state, places[i], away.mem_bytes[i], away.context_bytes[i]);
}

/* Contexts before `end` have entered. */
static void leave_again(const struct soft_ctx *end, const int8_t places[SOFT_MAX_DEVICES])
{
    for (struct soft_ctx *c = soft_ctx_first(); c != end; c = c->next) {
        if (!atomic_load(&c->alive))
            continue;
        for (int e = 0; e < SOFT_ENGINES; e++)
            soft_turn_leave_device(&c->turn[e]);
        soft_client_leave(soft_the_state, places[c->ordinal], c->client);
    }
}

static CUresult enter_devices(struct soft_shared_mail *mail, const struct soft_mail_args *args)
{
    struct soft_state *state = soft_the_state;
    int8_t places[SOFT_MAX_DEVICES];
    int count = soft_state_device_count(state);

    if (!new_places(args, places))
        return CUDA_ERROR_INVALID_VALUE;
    for (int i = 0; i < count; i++) {
        if (soft_slot_charge(state, places[i], away.mem_bytes[i], away.context_bytes[i]) == 0)
            continue;
        give_back(places, i);
        soft_log("no room on device %d for what is to come back", places[i]);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    for (struct soft_ctx *c = soft_ctx_first(); c != NULL; c = c->next) {
        if (!atomic_load(&c->alive))
            continue;
        c->client = soft_client_take(state, places[c->ordinal]);
        if (c->client < 0) {
            leave_again(c, places);
            give_back(places, count);
            return CUDA_ERROR_OUT_OF_MEMORY;
        }
        for (int e = 0; e < SOFT_ENGINES; e++)
            soft_turn_enter_device(&c->turn[e], places[c->ordinal], c->client);
    }
    for (int i = 0; i < SOFT_MAX_DEVICES; i++)
        atomic_store(&soft_places[i], places[i]);
    for (int i = 0; i < count; i++)
        take_time(away.mem_bytes[i], i);
    if (away.room != NULL)
        munmap(away.room, away.room_bytes);
    atomic_store(&mail->host_bytes, 0);
    return CUDA_SUCCESS;
}

/* ------------------------------------------------------------------------------------ requests --
 */
static CUresult carry_out(struct soft_shared_mail *mail, enum soft_mail_op op,
                          const struct soft_mail_args *args)
{
    static const struct {
        CUprocessState from, to;
    } steps[] = {
        [SOFT_MAIL_LOCK] = {CU_PROCESS_STATE_RUNNING, CU_PROCESS_STATE_LOCKED},
        [SOFT_MAIL_CHECKPOINT] = {CU_PROCESS_STATE_LOCKED, CU_PROCESS_STATE_CHECKPOINTED},
        [SOFT_MAIL_RESTORE] = {CU_PROCESS_STATE_CHECKPOINTED, CU_PROCESS_STATE_LOCKED},
        [SOFT_MAIL_UNLOCK] = {CU_PROCESS_STATE_LOCKED, CU_PROCESS_STATE_RUNNING},
    };
    CUresult r = CUDA_SUCCESS;

    if (atomic_load(&mail->state) != (uint32_t)steps[op].from)
        return CUDA_ERROR_ILLEGAL_STATE;
    if (op == SOFT_MAIL_LOCK)
        r = lock_process(args->until_ns);
    else if (op == SOFT_MAIL_CHECKPOINT)
        r = leave_devices(mail);
    else if (op == SOFT_MAIL_RESTORE)
        r = enter_devices(mail, args);
    if (r == CUDA_SUCCESS)
        atomic_store(&mail->state, (uint32_t)steps[op].to);
    else if (op == SOFT_MAIL_CHECKPOINT && r == CUDA_ERROR_OUT_OF_MEMORY)
        atomic_store(&mail->state, CU_PROCESS_STATE_FAILED);
    if (op == SOFT_MAIL_UNLOCK) {
        unlock();
        shut_doors(false);
    }
    return r;
}

static void *answer(void *arg)
{
    struct soft_shared_mail *mail = arg;
    struct soft_mail_args args;

    prctl(PR_SET_NAME, "harp-soft-ckpt", 0, 0, 0);
    atomic_store(&mail->thread, (uint32_t)syscall(SYS_gettid));
    for (;;) {
        enum soft_mail_op op = soft_mail_next(mail, &args);

        while (atomic_load(&soft_ending))
            usleep(100000); /* exit() has begun */
        soft_mail_answer(mail, (int)carry_out(mail, op, &args));
    }
    return NULL;
}

int soft_present(struct soft_state *state)
{
    int slot = soft_slot_take(state);
    sigset_t all, before;
    pthread_attr_t attr;
    pthread_t thread;

    if (slot < 0)
        return slot;
    pthread_mutex_lock(&start_lock);
    if (!started) {
        pthread_attr_init(&attr);
        pthread_attr_setstacksize(&attr, STACK_BYTES);
        pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
        sigfillset(&all); /* the client's signals are the client's threads' */
        pthread_sigmask(SIG_SETMASK, &all, &before);
        started = pthread_create(&thread, &attr, answer, &state->map->slot[slot].mail) == 0;
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        pthread_attr_destroy(&attr);
        if (!started) { /* the device is there all the same */
            atomic_store(&state->map->slot[slot].mail.thread, SOFT_MAIL_NOBODY);
            soft_log("no thread for checkpoints of this process");
        }
    }
    pthread_mutex_unlock(&start_lock);
    return slot;
}
