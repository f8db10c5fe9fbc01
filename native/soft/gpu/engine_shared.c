/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine word that all processes of the machine share: taking, keeping, handing over, and what
 * is done about owners that died or stand stopped.
 */
#include "soft/gpu/engine.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define RECHECK_NS 10000000ull /* a waiter looks after its owner this often */
#define GRACE_NS   50000000ull /* past its slice, before an owner may be taken for stopped */

void soft_futex_wait(soft_u32 *word, uint32_t seen, uint64_t until_ns)
{
    struct timespec t = {(time_t)(until_ns / 1000000000ull), (long)(until_ns % 1000000000ull)};

    syscall(SYS_futex, word, FUTEX_WAIT_BITSET, seen, until_ns == SOFT_NEVER ? NULL : &t, NULL,
            FUTEX_BITSET_MATCH_ANY);
}

static soft_u32 *bell_of(const struct soft_turn *turn, int client)
{
    return &turn->device->client[client].at[turn->which].bell;
}

void soft_engine_ring(const struct soft_turn *turn, int client)
{
    soft_u32 *bell = bell_of(turn, client);

    atomic_fetch_add(bell, 1);
    syscall(SYS_futex, bell, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static uint32_t me(const struct soft_turn *turn)
{
    return (uint32_t)turn->client + 1;
}

bool soft_engine_mine(const struct soft_turn *turn)
{
    uint64_t word = atomic_load(&turn->engine->word);

    return SOFT_WORD_OWNER(word) == me(turn) && SOFT_WORD_EPOCH(word) == turn->epoch;
}

bool soft_engine_wanted(const struct soft_turn *turn)
{
    for (int i = 0; i < SOFT_WANT_WORDS; i++) {
        uint64_t want = atomic_load(&turn->engine->want[i]);

        if (i == turn->client / 64)
            want &= ~(1ull << (turn->client % 64));
        if (want != 0)
            return true;
    }
    return false;
}

static int next_wanting(const struct soft_turn *turn)
{
    int from = turn->client + 1;

    for (int n = 0; n <= SOFT_WANT_WORDS; n++) {
        int w = (from / 64 + n) % SOFT_WANT_WORDS;
        uint64_t want = atomic_load(&turn->engine->want[w]);

        if (n == 0)
            want &= from % 64 == 0 ? ~0ull : ~((1ull << (from % 64)) - 1);
        if (w == turn->client / 64)
            want &= ~(1ull << (turn->client % 64));
        if (want != 0)
            return w * 64 + __builtin_ctzll(want);
    }
    return -1;
}

static void unwant(const struct soft_turn *turn, int client)
{
    atomic_fetch_and(&turn->engine->want[client / 64], ~(1ull << (client % 64)));
}

bool soft_engine_resume(struct soft_turn *turn)
{
    uint64_t word = SOFT_WORD(turn->epoch, me(turn), false);

    return atomic_compare_exchange_strong(&turn->engine->word, &word,
                                          SOFT_WORD(turn->epoch, me(turn), true));
}

static void stamp(struct soft_turn *turn, uint64_t grant_ns)
{
    atomic_store(&turn->engine->grant_ns, grant_ns);
    atomic_store(&turn->engine->slice_ns, grant_ns);
}

/* From when on the next owner has it: right after the last, but a host that slept does not get
 * more than a slice of the past. */
static uint64_t grant_after(const struct soft_turn *turn, uint64_t free_ns)
{
    uint64_t now = soft_now_ns();
    uint64_t oldest = now > turn->slice_ns ? now - turn->slice_ns : 0;

    return (free_ns > oldest ? free_ns : oldest) + turn->switch_ns;
}

bool soft_engine_hand_over(struct soft_turn *turn, uint64_t free_ns)
{
    uint64_t word = SOFT_WORD(turn->epoch, me(turn), true);
    int next = next_wanting(turn);

    if (next < 0)
        return false;
    unwant(turn, next);
    stamp(turn, grant_after(turn, free_ns));
    /* fails when it was taken from us: then it is gone as well */
    if (atomic_compare_exchange_strong(&turn->engine->word, &word,
                                       SOFT_WORD(turn->epoch + 1, (uint32_t)next + 1, true)))
        soft_engine_ring(turn, next);
    return true;
}

void soft_engine_idle(struct soft_turn *turn, uint64_t free_ns)
{
    uint64_t word = SOFT_WORD(turn->epoch, me(turn), true);

    turn->busy = false;
    atomic_store(&turn->engine->grant_ns, free_ns);
    atomic_compare_exchange_strong(&turn->engine->word, &word,
                                   SOFT_WORD(turn->epoch, me(turn), false));
    /* a waiter that set its bit before it saw us idle sleeps: one of us two sees the other */
    if (soft_engine_wanted(turn) && soft_engine_resume(turn)) {
        turn->busy = true;
        if (soft_engine_hand_over(turn, free_ns))
            turn->owned = turn->busy = false;
        else
            soft_engine_idle(turn, free_ns);
    }
}

static bool take(struct soft_turn *turn, uint64_t word, uint64_t grant_ns, bool from_idle)
{
    uint32_t epoch = SOFT_WORD_EPOCH(word) + 1;

    if (!atomic_compare_exchange_strong(&turn->engine->word, &word,
                                        SOFT_WORD(epoch, me(turn), true)))
        return false;
    /* what the idle owner stored last before it went idle */
    if (from_idle)
        grant_ns = grant_after(turn, atomic_load(&turn->engine->grant_ns));
    stamp(turn, grant_ns);
    turn->epoch = epoch;
    turn->grant_ns = grant_ns;
    unwant(turn, turn->client);
    return true;
}

static bool is_stopped(int32_t pid)
{
    char path[64], text[256];
    ssize_t n;
    char *p;
    int fd;

    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n > 0 ? n : 0] = '\0';
    p = strrchr(text, ')');
    return p != NULL && p[1] == ' ' && strchr("TtZX", p[2]) != NULL && p[2] != '\0';
}

/* The owner has not answered for a while: is it dead, or stopped? */
static bool take_from_lost(struct soft_turn *turn, uint64_t word)
{
    int owner = (int)SOFT_WORD_OWNER(word) - 1;
    struct soft_client *client = &turn->device->client[owner];
    uint32_t slot_plus1 = (uint32_t)(atomic_load(&client->owner) & 0xffff);
    uint64_t now = soft_now_ns();
    uint64_t due = atomic_load(&turn->engine->slice_ns) + turn->slice_ns + GRACE_NS;

    if (slot_plus1 != 0 && !soft_slot_is_dead(turn->state, (int)slot_plus1 - 1)) {
        int32_t pid;

        if (now < due)
            return false;
        pid = soft_slot_pid(turn->state, (int)slot_plus1 - 1);
        if (pid <= 0 || pid == (int32_t)getpid() || !is_stopped(pid))
            return false;
        atomic_store(&client->at[turn->which].lost_ns, now);
    }
    if (!take(turn, word, now, false))
        return false;
    soft_log("engine %d of device %d taken from client %d, which is dead or stopped",
             (int)turn->which, turn->dev, owner);
    return true;
}

bool soft_engine_acquire(struct soft_turn *turn, uint64_t until_ns)
{
    soft_u32 *bell = bell_of(turn, turn->client);
    uint32_t seen = atomic_load(bell);
    uint64_t bit = 1ull << (turn->client % 64), now, word;
    soft_u64 *want = &turn->engine->want[turn->client / 64];

    for (;;) {
        word = atomic_load(&turn->engine->word);
        if (SOFT_WORD_OWNER(word) == me(turn) && (word & SOFT_WORD_BUSY) != 0) {
            /* handed to us */
            turn->epoch = SOFT_WORD_EPOCH(word);
            turn->grant_ns = atomic_load(&turn->engine->grant_ns);
            unwant(turn, turn->client);
            return true;
        }
        if (SOFT_WORD_OWNER(word) == 0) {
            if (take(turn, word, soft_now_ns(), false))
                return true;
            continue;
        }
        if ((word & SOFT_WORD_BUSY) == 0) {
            if (take(turn, word, 0, true))
                return true;
            continue;
        }
        if ((atomic_fetch_or(want, bit) & bit) == 0)
            soft_engine_ring(turn, (int)SOFT_WORD_OWNER(word) - 1);
        if (atomic_load(&turn->engine->word) == word)
            break;
    }
    now = soft_now_ns();
    if (until_ns > now + RECHECK_NS)
        until_ns = now + RECHECK_NS;
    pthread_mutex_unlock(&turn->lock);
    soft_futex_wait(bell, seen, until_ns);
    pthread_mutex_lock(&turn->lock);
    if (soft_now_ns() >= now + RECHECK_NS && atomic_load(&turn->engine->word) == word &&
        !atomic_load(&soft_ending))
        return take_from_lost(turn, word);
    return false;
}
