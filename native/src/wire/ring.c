/* SPDX-License-Identifier: Apache-2.0
 *
 * Records through shared memory: putting, taking, waiting. Opening is in ring_open.c.
 *
 * (1) Own positions live in struct harp_ring. Of the peer's, a copy is taken, checked against the
 *     own one and the last copy, and kept: a position that goes back or beyond the ring is -EPROTO.
 * (2) Who sleeps says so, then looks again; who puts publishes, then looks who sleeps. A full fence
 *     stands between the two on either side, so one of them sees the other.
 */
#include "src/wire/ring.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "src/wire/codec.h"

/* How long a peer's death may go unseen by one that sleeps. */
#define SLICE_NS 50000000ll

#define HEADER    ((uint64_t)sizeof(struct harp_ring_record))
#define ALL_FLAGS (HARP_FRAME_END * 2u - 1u)

_Static_assert(sizeof(struct harp_ring_record) == 32, "as SESSION.md has it");
_Static_assert(sizeof(struct harp_ring_header) <= 4096, "the header is a page");
_Static_assert(offsetof(struct harp_ring_way, head) == 64, "a cache line each");

static uint64_t padded(uint32_t bytes)
{
    return ((uint64_t)bytes + 7) & ~7ull;
}

static int broken(struct harp_ring *ring)
{
    __atomic_store_n(&ring->broken, true, __ATOMIC_RELAXED);
    return -EPROTO;
}

static bool is_broken(const struct harp_ring *ring)
{
    return __atomic_load_n(&ring->broken, __ATOMIC_RELAXED);
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Sleeps while *word is `value`, at most `ns`; woken by wakes of one of `bits`. errno untouched. */
static void futex_wait(uint32_t *word, uint32_t value, uint32_t bits, int64_t ns)
{
    int64_t until = now_ns() + ns;
    struct timespec at = {(time_t)(until / 1000000000), (long)(until % 1000000000)};
    int saved = errno;
    syscall(SYS_futex, word, FUTEX_WAIT_BITSET, value, ns < 0 ? NULL : &at, NULL, bits);
    errno = saved;
}

static void futex_wake(uint32_t *word, uint32_t bits)
{
    int saved = errno;
    syscall(SYS_futex, word, FUTEX_WAKE_BITSET, INT_MAX, NULL, NULL, bits);
    errno = saved;
}

/* Wake who has said, in `sleeps`, that it is to be woken. */
static void wake(uint32_t *word, uint32_t *sleeps)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* (2) */
    if (__atomic_load_n(sleeps, __ATOMIC_RELAXED) == 0)
        return;
    uint32_t bits = __atomic_exchange_n(sleeps, 0, __ATOMIC_ACQ_REL);
    if (bits == 0)
        return;
    __atomic_add_fetch(word, 1, __ATOMIC_RELEASE);
    futex_wake(word, bits);
}

bool harp_ring_gone(const struct harp_ring *ring)
{
    char byte;
    if (ring->sock < 0)
        return false;
    int saved = errno;
    ssize_t got = recv(ring->sock, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    /* A byte is as good as the end: none is ever sent, and the end would not be seen behind it. */
    bool gone = got >= 0 || (errno != EAGAIN && errno != EINTR);
    errno = saved;
    return gone;
}

/* --- putting --- */

uint32_t harp_ring_largest(const struct harp_ring *ring)
{
    uint64_t half = ring->put.size / 2 - HEADER;
    return half < HARP_WIRE_BODY_BYTES ? (uint32_t)half : HARP_WIRE_BODY_BYTES;
}

/* Bytes that are free, by the reader's position as it is now; (1). */
static int look_for_room(struct harp_ring *ring, uint64_t need, bool *some)
{
    uint64_t head = __atomic_load_n(&ring->put.way->head, __ATOMIC_ACQUIRE);
    if (head < ring->put.head || head > ring->put.tail || head % 8 != 0)
        return broken(ring);
    ring->put.head = head;
    *some = ring->put.size - (ring->put.tail - head) >= need;
    return 0;
}

/* What a record of `bytes` takes, with what it has to skip. */
static uint64_t takes(const struct harp_ring *ring, uint32_t bytes, uint64_t *skipped)
{
    uint64_t need = HEADER + padded(bytes);
    uint64_t to_end = ring->put.size - (ring->put.tail & (ring->put.size - 1));
    *skipped = to_end < need ? to_end : 0;
    return *skipped + need;
}

int harp_ring_reserve(struct harp_ring *ring, uint32_t bytes, uint8_t **body)
{
    if (is_broken(ring))
        return -EPROTO;
    if (bytes > harp_ring_largest(ring))
        return -EMSGSIZE;
    uint64_t skipped, need = takes(ring, bytes, &skipped);
    if (ring->put.size - (ring->put.tail - ring->put.head) < need) {
        bool some;
        int err = look_for_room(ring, need, &some);
        if (err != 0)
            return err;
        if (!some)
            return -EAGAIN;
    }
    ring->put.reserved = bytes;
    ring->put.skipped = skipped;
    *body = ring->put.data + ((ring->put.tail + skipped) & (ring->put.size - 1)) + HEADER;
    return 0;
}

void harp_ring_commit(struct harp_ring *ring, struct harp_ring_record *record)
{
    if (record->bytes > ring->put.reserved) {
        broken(
            ring); /* an error of the caller's: nothing may lie in a ring that was not reserved */
        return;
    }
    uint8_t *at = ring->put.data + (ring->put.tail & (ring->put.size - 1));
    if (ring->put.skipped >= HEADER) {
        struct harp_ring_record skip = {.bytes = (uint32_t)(ring->put.skipped - HEADER),
                                        .op = HARP_RING_SKIP};
        memcpy(at, &skip, sizeof skip);
    }
    ring->put.tail += ring->put.skipped;
    at = ring->put.data + (ring->put.tail & (ring->put.size - 1));
    record->seq = record->flags & HARP_FRAME_BULK ? 0 : ++ring->put.seq;
    memcpy(at, record, sizeof *record);
    memset(at + HEADER + record->bytes, 0, padded(record->bytes) - record->bytes);
    ring->put.tail += HEADER + padded(record->bytes);
    ring->put.reserved = ring->put.skipped = 0;
    __atomic_store_n(&ring->put.way->tail, ring->put.tail, __ATOMIC_RELEASE);
}

int harp_ring_put(struct harp_ring *ring, struct harp_ring_record *record, const void *body)
{
    uint8_t *to;
    int err = harp_ring_reserve(ring, record->bytes, &to);
    if (err != 0)
        return err;
    if (record->bytes != 0)
        memcpy(to, body, record->bytes);
    harp_ring_commit(ring, record);
    return 0;
}

void harp_ring_wake(struct harp_ring *ring)
{
    wake(&ring->put.way->data, &ring->put.way->reader_sleeps);
}

/* --- taking --- */

bool harp_ring_some(struct harp_ring *ring)
{
    return __atomic_load_n(&ring->take.way->tail, __ATOMIC_ACQUIRE) !=
           __atomic_load_n(&ring->take.head, __ATOMIC_RELAXED);
}

static bool sound(const struct harp_ring *ring, const struct harp_ring_record *record)
{
    if ((record->flags & ~ALL_FLAGS) != 0)
        return false;
    if (record->flags & HARP_FRAME_BULK)
        return record->seq == 0 && record->op == 0;
    return record->seq == ring->take.seq + 1 && (record->flags & HARP_FRAME_END) == 0;
}

int harp_ring_take(struct harp_ring *ring, struct harp_ring_record *record, uint8_t *body,
                   uint32_t size)
{
    const uint64_t ring_size = ring->take.size;
    if (is_broken(ring))
        return -EPROTO;
    uint64_t tail = __atomic_load_n(&ring->take.way->tail, __ATOMIC_ACQUIRE), head;
    head = ring->take.head;
    if (tail < ring->take.tail || tail - head > ring_size || tail % 8 != 0) /* (1) */
        return broken(ring);
    ring->take.tail = tail;
    if (tail == head)
        return 0;
    for (unsigned skips = 0;; skips++) {
        uint64_t at = head & (ring_size - 1), there = tail - head, to_end = ring_size - at;
        if (skips > 1 || (to_end < HEADER ? there <= to_end : there < HEADER))
            return broken(ring);
        if (to_end < HEADER) {
            head += to_end;
            continue;
        }
        memcpy(record, ring->take.data + at, sizeof *record);
        __asm__ volatile("" ::: "memory"); /* the copy is what is checked, and used */
        uint64_t whole = HEADER + padded(record->bytes);
        if (record->op == HARP_RING_SKIP) {
            if (whole != to_end || there <= to_end)
                return broken(ring);
            head += to_end;
            continue;
        }
        if (whole > there || whole > to_end || record->bytes > size || !sound(ring, record))
            return broken(ring);
        if (record->bytes != 0)
            memcpy(body, ring->take.data + at + HEADER, record->bytes);
        __asm__ volatile("" ::: "memory");
        head += whole;
        break;
    }
    if ((record->flags & HARP_FRAME_BULK) == 0)
        ring->take.seq = record->seq;
    __atomic_store_n(&ring->take.head, head, __ATOMIC_RELAXED);
    __atomic_store_n(&ring->take.way->head, head, __ATOMIC_RELEASE);
    wake(&ring->take.way->room, &ring->take.way->writer_sleeps);
    return 1;
}

/* --- waiting --- */

struct patience {
    int64_t until_ns; /* < 0: for ever */
};

static struct patience patience(int timeout_ms)
{
    return (struct patience){timeout_ms < 0 ? -1 : now_ns() + timeout_ms * 1000000ll};
}

/* Sleep on `word` for one slice. 0: look again; -ETIMEDOUT, -EPIPE. */
static int doze(const struct harp_ring *ring, const struct patience *p, uint32_t *word,
                uint32_t value, uint32_t bits)
{
    int64_t slice = ring->sock < 0 ? -1 : SLICE_NS;
    if (p->until_ns >= 0) {
        int64_t left = p->until_ns - now_ns();
        if (left <= 0)
            return -ETIMEDOUT;
        slice = slice < 0 || left < slice ? left : slice;
    }
    int64_t began = now_ns();
    futex_wait(word, value, bits, slice);
    bool slept = slice > 0 && now_ns() - began >= slice;
    return slept && harp_ring_gone(ring) ? -EPIPE : 0;
}

/* As in harp_ring_some, but a ring that is broken is not worth waiting for. */
static int look_for_data(struct harp_ring *ring, bool *some)
{
    *some = harp_ring_some(ring);
    return is_broken(ring) ? -EPROTO : 0;
}

/* True: something is there. False: sleep. */
static bool yield_until_some(struct harp_ring *ring)
{
    if (harp_ring_some(ring))
        return true;
    int64_t now = now_ns(), end = now + ring->yield.most_us * 1000ll;
    if (!harp_yield_may(&ring->yield, now))
        return false;
    for (int64_t then = now; now < end; then = now) {
        sched_yield();
        now = now_ns();
        bool go_on = harp_yield_took(&ring->yield, now, now - then);
        if (harp_ring_some(ring)) {
            harp_yield_came(&ring->yield);
            return true;
        }
        if (!go_on)
            return false;
    }
    harp_yield_missed(&ring->yield);
    return false;
}

int harp_ring_wait(struct harp_ring *ring, enum harp_ring_waiter who, int timeout_ms)
{
    struct harp_ring_way *way = ring->take.way;
    struct patience p = patience(timeout_ms);
    bool some;
    int err = 0;
    if (who == HARP_RING_FIRST && timeout_ms != 0 && yield_until_some(ring))
        return is_broken(ring) ? -EPROTO : 0;
    while (err == 0) {
        uint32_t value = __atomic_load_n(&way->data, __ATOMIC_ACQUIRE);
        if (who == HARP_RING_SECOND) {
            /* Not records wake the second, but a writer that has read of it. */
            if (__atomic_exchange_n(&ring->summoned, false, __ATOMIC_ACQ_REL))
                return 0;
            if (__atomic_load_n(&ring->standing_by, __ATOMIC_ACQUIRE) &&
                __atomic_load_n(&way->reader_sleeps, __ATOMIC_ACQUIRE) != HARP_RING_SECOND)
                return 0;
        } else {
            __atomic_store_n(&way->reader_sleeps, who, __ATOMIC_RELAXED);
            __atomic_thread_fence(__ATOMIC_SEQ_CST); /* (2) */
            if ((err = look_for_data(ring, &some)) != 0 || some) {
                __atomic_store_n(&way->reader_sleeps, 0, __ATOMIC_RELAXED);
                return err;
            }
        }
        err = doze(ring, &p, &way->data, value, who);
    }
    if (who == HARP_RING_FIRST)
        __atomic_store_n(&way->reader_sleeps, 0, __ATOMIC_RELAXED);
    /* The peer may have put records and died. */
    return err == -EPIPE && who == HARP_RING_FIRST && harp_ring_some(ring) ? 0 : err;
}

int harp_ring_wait_room(struct harp_ring *ring, uint32_t bytes, int timeout_ms)
{
    struct harp_ring_way *way = ring->put.way;
    struct patience p = patience(timeout_ms);
    uint64_t skipped, need = takes(ring, bytes, &skipped);
    int err = 0;
    if (bytes > harp_ring_largest(ring))
        return -EMSGSIZE;
    harp_ring_wake(ring);
    while (err == 0) {
        bool some = false;
        uint32_t value = __atomic_load_n(&way->room, __ATOMIC_ACQUIRE);
        __atomic_store_n(&way->writer_sleeps, HARP_RING_FIRST, __ATOMIC_RELAXED);
        __atomic_thread_fence(__ATOMIC_SEQ_CST); /* (2) */
        err = is_broken(ring) ? -EPROTO : look_for_room(ring, need, &some);
        if (err != 0 || some)
            break;
        err = doze(ring, &p, &way->room, value, HARP_RING_FIRST);
    }
    __atomic_store_n(&way->writer_sleeps, 0, __ATOMIC_RELAXED);
    return err;
}

void harp_ring_stand_by(struct harp_ring *ring)
{
    struct harp_ring_way *way = ring->take.way;
    /* In this order: a writer may wake SECOND as soon as the word says so, and who is woken and
     * does not see that it stands by would sleep on, with nobody to be woken. */
    __atomic_store_n(&ring->standing_by, true, __ATOMIC_RELEASE);
    __atomic_store_n(&way->reader_sleeps, HARP_RING_SECOND, __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* (2) */
    if (harp_ring_some(ring))
        wake(&way->data, &way->reader_sleeps);
}

void harp_ring_stand_down(struct harp_ring *ring)
{
    uint32_t said = HARP_RING_SECOND;
    __atomic_store_n(&ring->standing_by, false, __ATOMIC_RELEASE);
    __atomic_compare_exchange_n(&ring->take.way->reader_sleeps, &said, 0, false, __ATOMIC_ACQ_REL,
                                __ATOMIC_RELAXED);
}

void harp_ring_summon(struct harp_ring *ring)
{
    __atomic_store_n(&ring->summoned, true, __ATOMIC_RELEASE);
    __atomic_add_fetch(&ring->take.way->data, 1, __ATOMIC_RELEASE);
    futex_wake(&ring->take.way->data, HARP_RING_SECOND);
}
