/* SPDX-License-Identifier: Apache-2.0
 *
 * Rings: records of all sizes round the end, a full ring, two processes that sleep and wake each
 * other, peers that die, peers that lie, and how sessions open.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "src/wire/ring.h"

#define SMALL (64u << 10)
static const struct harp_ring_sizes small = {SMALL, SMALL, 256u << 10};

static uint8_t body[1u << 20], got[1u << 20];

static uint64_t next(uint64_t *seed)
{
    *seed += 0x9e3779b97f4a7c15ull;
    uint64_t x = *seed;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    return (x ^ x >> 27) * 0x94d049bb133111ebull >> 16;
}

static void fill(uint8_t *to, uint32_t bytes, uint64_t seed)
{
    for (uint32_t i = 0; i < bytes; i++)
        to[i] = (uint8_t)(seed * 31 + i);
}

static void both(struct harp_ring *client, struct harp_ring *worker)
{
    int memfd;
    CHECK(harp_ring_make(client, &small, &memfd) == 0);
    CHECK(harp_ring_join(worker, HARP_RING_WORKER, &small, memfd) == 0);
    close(memfd);
}

/* --- one process --- */

static void test_records_of_all_sizes_go_round(void)
{
    struct harp_ring client, worker;
    uint64_t seed = 7, put = 0, taken = 0, sizes[4096], full = 0, largest = 0;
    both(&client, &worker);
    CHECK(harp_ring_largest(&client) == SMALL / 2 - 32);
    while (taken < 60000) {
        struct harp_ring_record r = {.op = (uint32_t)(put % 500), .lane = 3, .ack = put * 3};
        r.bytes = (uint32_t)(next(&seed) % (next(&seed) % 16 == 0 ? SMALL / 2 - 31 : 120));
        fill(body, r.bytes, put);
        int err = harp_ring_put(&client, &r, body);
        if (err == 0) {
            CHECK(r.seq == put + 1);
            largest = r.bytes > largest ? r.bytes : largest;
            sizes[put++ % 4096] = r.bytes;
        } else {
            CHECK(err == -EAGAIN);
            full++;
        }
        if (err == 0 && next(&seed) % 3 != 0)
            continue;
        for (uint64_t n = next(&seed) % 8; n > 0 && taken < put; n--) {
            CHECK(harp_ring_take(&worker, &r, got, sizeof got) == 1);
            CHECK(r.bytes == sizes[taken % 4096] && r.ack == taken * 3 && r.lane == 3);
            CHECK(r.seq == taken + 1 && r.op == taken % 500);
            fill(body, r.bytes, taken++);
            CHECK(memcmp(got, body, r.bytes) == 0);
        }
    }
    CHECK(full > 100 && largest > SMALL / 2 - 1000);
    struct harp_ring_record big = {.bytes = SMALL / 2 - 31};
    CHECK(harp_ring_put(&client, &big, body) == -EMSGSIZE);
    harp_ring_close(&client);
    harp_ring_close(&worker);
}

static void test_what_is_left_before_the_end_is_skipped(void)
{
    /* Every distance from the end: 8, 16, 24 bytes have no room for a header. */
    for (uint32_t left = 8; left <= 96; left += 8) {
        struct harp_ring client, worker;
        both(&client, &worker);
        struct harp_ring_record r = {.bytes = SMALL / 2 - 32};
        CHECK(harp_ring_put(&client, &r, body) == 0);
        CHECK(harp_ring_take(&worker, &r, got, sizeof got) == 1);
        r = (struct harp_ring_record){.bytes = SMALL / 2 - 32 - left};
        CHECK(harp_ring_put(&client, &r, body) == 0);
        CHECK(harp_ring_take(&worker, &r, got, sizeof got) == 1);
        r = (struct harp_ring_record){.bytes = 100};
        fill(body, 100, left);
        CHECK(harp_ring_put(&client, &r, body) == 0);
        CHECK(client.put.tail == SMALL + 136);
        CHECK(harp_ring_take(&worker, &r, got, sizeof got) == 1);
        CHECK(r.bytes == 100 && memcmp(got, body, 100) == 0);
        CHECK(harp_ring_take(&worker, &r, got, sizeof got) == 0);
        harp_ring_close(&client);
        harp_ring_close(&worker);
    }
}

static void test_an_empty_ring_has_room_for_the_largest(void)
{
    struct harp_ring client, worker;
    uint64_t seed = 11;
    both(&client, &worker);
    for (int i = 0; i < 500; i++) {
        struct harp_ring_record r = {.bytes = (uint32_t)(next(&seed) % 9000)};
        CHECK(harp_ring_put(&client, &r, body) == 0);
        CHECK(harp_ring_take(&worker, &r, got, sizeof got) == 1);
        r = (struct harp_ring_record){.bytes = harp_ring_largest(&client)};
        CHECK(harp_ring_put(&client, &r, body) == 0);
        CHECK(harp_ring_take(&worker, &r, got, sizeof got) == 1);
    }
    harp_ring_close(&client);
    harp_ring_close(&worker);
}

static void test_a_region_lies_in_the_bulk_area(void)
{
    struct harp_ring client, worker;
    both(&client, &worker);
    CHECK(harp_ring_region(&worker, 4096, 100) == worker.bulk + 4096);
    CHECK(harp_ring_region(&worker, 0, 256u << 10) == worker.bulk);
    CHECK(harp_ring_region(&worker, 0, (256u << 10) + 1) == NULL);
    CHECK(harp_ring_region(&worker, 4096, 256u << 10) == NULL);
    CHECK(harp_ring_region(&worker, 4095, 1) == NULL);
    CHECK(harp_ring_region(&worker, 1ull << 63, 1) == NULL);
    CHECK(harp_ring_region(&worker, 4096, UINT64_MAX) == NULL);
    client.bulk[8192] = 77;
    CHECK(*harp_ring_region(&worker, 8192, 1) == 77);
    harp_ring_close(&client);
    harp_ring_close(&worker);
}

static void test_regions_do_not_overlap(void)
{
    enum { PAGES = 128, HELD = 64 };
    uint64_t words[PAGES / 64] = {0}, at[HELD] = {0}, bytes[HELD] = {0}, seed = 3;
    struct harp_bulk bulk = {.taken = words, .pages = PAGES};
    uint8_t owner[PAGES] = {0};
    CHECK(harp_bulk_largest(&bulk) == 32 * 4096);
    CHECK(harp_bulk_take(&bulk, 32 * 4096 + 1, &at[0]) == -EMSGSIZE);
    for (int i = 0; i < 4; i++) /* four of the largest, always */
        CHECK(harp_bulk_take(&bulk, 32 * 4096, &at[i]) == 0);
    CHECK(harp_bulk_take(&bulk, 1, &at[4]) == -EAGAIN);
    for (int i = 0; i < 4; i++)
        harp_bulk_give(&bulk, at[i], 32 * 4096);
    for (int round = 0; round < 20000; round++) {
        unsigned i = (unsigned)(next(&seed) % HELD);
        if (bytes[i] != 0) {
            for (uint64_t p = at[i] / 4096; p < (at[i] + bytes[i] + 4095) / 4096; p++) {
                CHECK(owner[p] == i + 1);
                owner[p] = 0;
            }
            harp_bulk_give(&bulk, at[i], bytes[i]);
            bytes[i] = 0;
            continue;
        }
        uint64_t want = 1 + next(&seed) % (20 * 4096);
        if (harp_bulk_take(&bulk, want, &at[i]) != 0)
            continue;
        bytes[i] = want;
        for (uint64_t p = at[i] / 4096; p < (at[i] + want + 4095) / 4096; p++) {
            CHECK(p < PAGES && owner[p] == 0);
            owner[p] = (uint8_t)(i + 1);
        }
    }
}

/* --- a peer that lies --- */

static void lie(void (*how)(struct harp_ring *client))
{
    struct harp_ring client, worker;
    struct harp_ring_record r = {.bytes = 40};
    both(&client, &worker);
    CHECK(harp_ring_put(&client, &r, body) == 0);
    CHECK(harp_ring_take(&worker, &r, got, sizeof got) == 1);
    r = (struct harp_ring_record){.bytes = 40};
    CHECK(harp_ring_put(&client, &r, body) == 0);
    how(&client);
    CHECK(harp_ring_take(&worker, &r, got, sizeof got) == -EPROTO);
    CHECK(harp_ring_take(&worker, &r, got, sizeof got) == -EPROTO); /* for good */
    CHECK(harp_ring_put(&worker, &r, body) == -EPROTO);
    CHECK(harp_ring_wait(&worker, HARP_RING_FIRST, 0) == -EPROTO);
    harp_ring_close(&client);
    harp_ring_close(&worker);
}

static struct harp_ring_record *second(struct harp_ring *client)
{
    return (struct harp_ring_record *)(client->put.data + 72);
}

static void tail_back(struct harp_ring *c)
{
    c->put.way->tail = 64;
}
static void tail_beyond(struct harp_ring *c)
{
    c->put.way->tail = 72 + SMALL + 8;
}
static void tail_odd(struct harp_ring *c)
{
    c->put.way->tail += 4;
}
static void tail_short(struct harp_ring *c)
{
    c->put.way->tail = 72 + 64;
}
static void body_beyond(struct harp_ring *c)
{
    second(c)->bytes = 0xfffffff0u;
}
static void seq_twice(struct harp_ring *c)
{
    second(c)->seq = 1;
}
static void seq_gap(struct harp_ring *c)
{
    second(c)->seq = 3;
}
static void unknown_flag(struct harp_ring *c)
{
    second(c)->flags = 1u << 6;
}
static void bulk_in_order(struct harp_ring *c)
{
    second(c)->flags = HARP_FRAME_BULK;
}
static void skip_short(struct harp_ring *c)
{
    second(c)->op = HARP_RING_SKIP;
}
static void skip_to_nothing(struct harp_ring *c)
{
    *second(c) = (struct harp_ring_record){.op = HARP_RING_SKIP, .bytes = SMALL - 72 - 32};
    c->put.way->tail = SMALL;
}
/* All is well but for the size of what is skipped. */
static void skip_of_another_size(struct harp_ring *c)
{
    struct harp_ring_record r = {.seq = 2};
    *second(c) = (struct harp_ring_record){.op = HARP_RING_SKIP, .bytes = 8};
    memcpy(c->put.data, &r, sizeof r);
    c->put.way->tail = SMALL + 32;
}

static void test_a_tail_that_goes_back_is_a_lie(void)
{
    struct harp_ring client, worker;
    struct harp_ring_record r = {.bytes = 0};
    both(&client, &worker);
    for (int i = 0; i < 3; i++)
        CHECK(harp_ring_put(&client, &r, NULL) == 0);
    CHECK(harp_ring_take(&worker, &r, got, sizeof got) == 1);
    client.put.way->tail = 64; /* as if only the second one had ever been there */
    CHECK(harp_ring_take(&worker, &r, got, sizeof got) == -EPROTO);
    harp_ring_close(&client);
    harp_ring_close(&worker);
}

static void test_a_lie_ends_the_session(void)
{
    lie(tail_back);
    lie(tail_beyond);
    lie(tail_odd);
    lie(tail_short);
    lie(body_beyond);
    lie(seq_twice);
    lie(seq_gap);
    lie(unknown_flag);
    lie(bulk_in_order);
    lie(skip_short);
    lie(skip_to_nothing);
    lie(skip_of_another_size);
    struct harp_ring client, worker;
    for (int i = 0; i < 2; i++) {
        struct harp_ring_record r = {.bytes = SMALL / 2 - 32};
        both(&client, &worker);
        CHECK(harp_ring_put(&client, &r, body) == 0 && harp_ring_put(&client, &r, body) == 0);
        worker.take.way->head = i == 0 ? SMALL + 8 : 4; /* more than there is; between records */
        CHECK(harp_ring_put(&client, &r, body) == -EPROTO);
        harp_ring_close(&client);
        harp_ring_close(&worker);
    }
    both(&client, &worker);
    struct harp_ring_record r = {.bytes = 100};
    CHECK(harp_ring_put(&client, &r, body) == 0);
    CHECK(harp_ring_take(&worker, &r, got, 99) == -EPROTO); /* more than the taker has room for */
    harp_ring_close(&client);
    harp_ring_close(&worker);
}

/* --- two that wait for each other --- */

enum { STREAM = 100000, PINGS = 5000 };

static void put_waiting(struct harp_ring *ring, struct harp_ring_record *r)
{
    int err;
    while ((err = harp_ring_put(ring, r, body)) == -EAGAIN)
        CHECK(harp_ring_wait_room(ring, r->bytes, 20000) == 0);
    CHECK(err == 0);
}

static void take_waiting(struct harp_ring *ring, struct harp_ring_record *r, uint8_t *to)
{
    int n;
    while ((n = harp_ring_take(ring, r, to, 1u << 16)) == 0)
        CHECK(harp_ring_wait(ring, HARP_RING_FIRST, 20000) == 0);
    CHECK(n == 1);
}

static void *worker_side(void *arg)
{
    static uint8_t theirs[1u << 16];
    struct harp_ring *worker = arg;
    struct harp_ring_record r;
    uint64_t seed = 5;
    for (uint64_t i = 0; i < STREAM; i++) {
        take_waiting(worker, &r, theirs);
        CHECK(r.seq == i + 1 && r.bytes == next(&seed) % 700);
        CHECK(r.bytes == 0 || (theirs[0] == 9 && theirs[r.bytes - 1] == 9));
    }
    for (uint64_t i = 0; i < PINGS; i++) {
        take_waiting(worker, &r, theirs);
        struct harp_ring_record reply = {.flags = HARP_FRAME_REPLY, .ack = r.seq, .bytes = 8};
        while (harp_ring_put(worker, &reply, theirs) == -EAGAIN)
            CHECK(harp_ring_wait_room(worker, 8, 20000) == 0);
        harp_ring_wake(worker);
    }
    return NULL;
}

static void client_side(struct harp_ring *client)
{
    struct harp_ring_record r;
    uint64_t seed = 5;
    memset(body, 9, sizeof body);
    for (uint64_t i = 0; i < STREAM; i++) {
        r = (struct harp_ring_record){.bytes = (uint32_t)(next(&seed) % 700)};
        put_waiting(client, &r);
        if (i % 1000 == 999)
            harp_ring_wake(client);
    }
    for (uint64_t i = 0; i < PINGS; i++) {
        r = (struct harp_ring_record){.flags = HARP_FRAME_WANTED, .bytes = 8};
        put_waiting(client, &r);
        uint64_t asked = r.seq;
        harp_ring_wake(client);
        take_waiting(client, &r, got);
        CHECK(r.ack == asked && r.seq == i + 1);
    }
}

static void test_two_threads_wake_each_other(void)
{
    struct harp_ring client, worker;
    pthread_t thread;
    both(&client, &worker);
    CHECK(pthread_create(&thread, NULL, worker_side, &worker) == 0);
    client_side(&client);
    CHECK(pthread_join(thread, NULL) == 0);
    harp_ring_close(&client);
    harp_ring_close(&worker);
}

#ifndef __SANITIZE_THREAD__
static void test_two_processes_wake_each_other(void)
{
    struct harp_ring client, worker;
    int memfd, status;
    CHECK(harp_ring_make(&client, &small, &memfd) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        harp_ring_close(&client);
        CHECK(harp_ring_join(&worker, HARP_RING_WORKER, &small, memfd) == 0);
        worker_side(&worker);
        _exit(0);
    }
    client_side(&client);
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    close(memfd);
    harp_ring_close(&client);
}
#endif

/* A second thread stands by while the first is away; nobody wakes it at other times. It may have
 * been told as the first came back (ring.h), and then looks again. */
static struct {
    struct harp_ring *ring;
    atomic_bool away;
    sem_t woken, on;
} deputy;
enum { TURNS = 200 };

static void *stand(void *arg)
{
    for (int i = 0; i < TURNS; i++) {
        do
            CHECK(harp_ring_wait(deputy.ring, HARP_RING_SECOND, 20000) == 0);
        while (!atomic_load(&deputy.away));
        sem_post(&deputy.woken);
        sem_wait(&deputy.on);
    }
    return NULL;
}

static void test_the_second_is_woken_when_the_first_is_away(void)
{
    struct harp_ring client, worker;
    pthread_t thread;
    both(&client, &worker);
    deputy.ring = &worker;
    sem_init(&deputy.woken, 0, 0);
    sem_init(&deputy.on, 0, 0);
    CHECK(pthread_create(&thread, NULL, stand, NULL) == 0);
    for (int i = 0; i < TURNS; i++) {
        struct harp_ring_record r = {.bytes = 8};
        CHECK(harp_ring_put(&client, &r, body) == 0); /* nobody is away: nobody is woken */
        harp_ring_wake(&client);
        CHECK(harp_ring_take(&worker, &r, got, sizeof got) == 1);
        harp_ring_stand_by(&worker);
        harp_ring_stand_down(&worker); /* and back, before anything came */
        CHECK(sem_trywait(&deputy.woken) != 0);
        atomic_store(&deputy.away, true);
        if (i % 2 == 0)
            usleep(200); /* it sleeps, or is about to */
        r = (struct harp_ring_record){.bytes = 8};
        if (i % 4 == 3) { /* there is a record already */
            CHECK(harp_ring_put(&client, &r, body) == 0);
            harp_ring_stand_by(&worker);
        } else if (i % 4 == 2) {
            CHECK(harp_ring_put(&client, &r, body) == 0);
            harp_ring_summon(&worker);
        } else {
            harp_ring_stand_by(&worker);
            CHECK(harp_ring_put(&client, &r, body) == 0);
            harp_ring_wake(&client);
        }
        sem_wait(&deputy.woken);
        harp_ring_stand_down(&worker);
        atomic_store(&deputy.away, false);
        sem_post(&deputy.on);
        CHECK(harp_ring_take(&worker, &r, got, sizeof got) == 1);
    }
    CHECK(pthread_join(thread, NULL) == 0);
    harp_ring_close(&client);
    harp_ring_close(&worker);
}

/* It looks again and again, whatever the first has still to do before it is away. */
static void test_the_second_is_told_until_the_first_is_back(void)
{
    struct harp_ring client, worker;
    struct harp_ring_record r = {.bytes = 8};
    both(&client, &worker);
    harp_ring_stand_by(&worker);
    CHECK(harp_ring_wait(&worker, HARP_RING_SECOND, 20) == -ETIMEDOUT);
    CHECK(harp_ring_put(&client, &r, body) == 0);
    harp_ring_wake(&client);
    for (int i = 0; i < 3; i++)
        CHECK(harp_ring_wait(&worker, HARP_RING_SECOND, 20000) == 0);
    harp_ring_stand_down(&worker);
    CHECK(harp_ring_wait(&worker, HARP_RING_SECOND, 20) == -ETIMEDOUT);
    harp_ring_close(&client);
    harp_ring_close(&worker);
}

/* --- opening, and its end: by processes, which TSan does not follow --- */

#ifndef __SANITIZE_THREAD__

static void test_a_stray_byte_hides_no_end(void)
{
    struct harp_ring ring;
    int memfd, sock[2];
    CHECK(harp_ring_make(&ring, &small, &memfd) == 0);
    close(memfd);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sock) == 0);
    ring.sock = sock[0];
    CHECK(!harp_ring_gone(&ring));
    CHECK(send(sock[1], "x", 1, MSG_NOSIGNAL) == 1);
    close(sock[1]);
    CHECK(harp_ring_gone(&ring));
    CHECK(harp_ring_wait(&ring, HARP_RING_FIRST, 20000) == -EPIPE);
    harp_ring_close(&ring);
    close(sock[0]);
}

static struct harp_table_id own;
static char own_text[HARP_TABLE_TEXT];

/* A worker for one dial; answers its exit status. */
static pid_t serve(int sock[2], const struct harp_table_id *table, int afterwards)
{
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sock) == 0);
    pid_t pid = fork();
    if (pid != 0) {
        close(sock[1]);
        return pid;
    }
    struct harp_ring worker;
    char text[256];
    close(sock[0]);
    int err = harp_ring_accept(&worker, sock[1], table, 2000, text, sizeof text);
    if (err != 0) {
        harp_ring_refuse(sock[1], text);
        _exit(-err);
    }
    CHECK(harp_ring_answer(&worker) == 0);
    if (afterwards == SIGKILL) {
        struct harp_ring_record r = {.bytes = 3};
        CHECK(harp_ring_put(&worker, &r, "abc") == 0);
        kill(getpid(), SIGKILL);
    }
    _exit(harp_ring_wait(&worker, HARP_RING_FIRST, afterwards) == -EPIPE ? 0 : 9);
}

static int ended(pid_t pid)
{
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void test_a_session_opens_and_both_see_the_other_die(void)
{
    struct harp_ring ring;
    struct harp_ring_record r;
    char text[256];
    int sock[2];
    pid_t pid = serve(sock, &own, 20000);
    CHECK(harp_ring_dial(&ring, sock[0], NULL, own_text, 5000, text, sizeof text) == 0);
    CHECK(ring.sizes.bulk == HARP_RING_BULK_BYTES && !harp_ring_gone(&ring));
    close(sock[0]);
    CHECK(ended(pid) == 0);
    harp_ring_close(&ring);

    pid = serve(sock, &own, SIGKILL);
    CHECK(harp_ring_dial(&ring, sock[0], &small, own_text, 5000, text, sizeof text) == 0);
    CHECK(ended(pid) == -SIGKILL);
    CHECK(harp_ring_wait(&ring, HARP_RING_FIRST, 20000) == 0); /* its last words */
    CHECK(harp_ring_take(&ring, &r, got, sizeof got) == 1 && memcmp(got, "abc", 3) == 0);
    CHECK(harp_ring_wait(&ring, HARP_RING_FIRST, 20000) == -EPIPE);
    CHECK(harp_ring_wait_room(&ring, 8, 20000) == 0); /* there is some */
    for (int i = 0; i < 3; i++) {
        r = (struct harp_ring_record){.bytes = harp_ring_largest(&ring)};
        if (harp_ring_put(&ring, &r, body) == -EAGAIN)
            CHECK(harp_ring_wait_room(&ring, r.bytes, 20000) == -EPIPE);
    }
    CHECK(harp_ring_gone(&ring));
    close(sock[0]);
    harp_ring_close(&ring);
}

static void test_other_tables_are_refused_with_both_versions(void)
{
    struct harp_ring ring;
    struct harp_table_id other = own;
    char text[256];
    int sock[2];
    other.hash[5] ^= 1;
    snprintf(other.version, sizeof other.version, "9.8.7");
    pid_t pid = serve(sock, &other, 0);
    CHECK(harp_ring_dial(&ring, sock[0], NULL, own_text, 5000, text, sizeof text) == -ECONNREFUSED);
    CHECK(strstr(text, "9.8.7") != NULL && strstr(text, "1.2.3") != NULL);
    CHECK(ended(pid) == EPROTO);
    close(sock[0]);
}

/* A hello as a client that means harm would send it. */
static int hello(uint64_t magic, uint32_t version, const struct harp_ring_sizes *sizes, int fd,
                 size_t cut)
{
    struct {
        uint64_t magic;
        uint32_t version, reserved;
        struct harp_ring_sizes sizes;
        char table[HARP_TABLE_TEXT];
    } h = {magic, version, 0, *sizes, {0}};
    char control[CMSG_SPACE(sizeof fd)] = {0};
    int sock[2];
    memcpy(h.table, own_text, sizeof own_text);
    pid_t pid = serve(sock, &own, 0);
    struct iovec iov = {&h, sizeof h - cut};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (fd >= 0) {
        msg.msg_control = control;
        msg.msg_controllen = sizeof control;
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(c), &fd, sizeof fd);
    }
    CHECK(sendmsg(sock[0], &msg, MSG_NOSIGNAL) == (ssize_t)iov.iov_len);
    if (cut != 0)
        shutdown(sock[0], SHUT_WR);
    int status = ended(pid);
    close(sock[0]);
    return status;
}

static void test_segments_that_could_be_pulled_away_are_refused(void)
{
    const uint64_t magic = HARP_RING_MAGIC;
    off_t bytes = 4096 + (off_t)(small.calls + small.answers + small.bulk);
    int sealed = memfd_create("t", MFD_ALLOW_SEALING), file = memfd_create("t", MFD_ALLOW_SEALING);
    CHECK(ftruncate(sealed, bytes) == 0 && ftruncate(file, bytes) == 0);
    CHECK(fcntl(file, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SEAL) == 0); /* may shrink */
    CHECK(fcntl(sealed, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) == 0);
    CHECK(hello(magic, 1, &small, sealed, 0) == 9); /* opens; the wait for 0 ms ends it */
    CHECK(hello(magic, 1, &small, file, 0) == EPERM);
    CHECK(hello(magic, 1, &small, STDERR_FILENO, 0) == EPERM);
    CHECK(hello(magic, 1, &small, -1, 0) == EBADF);
    CHECK(hello(magic + 1, 1, &small, sealed, 0) == EPROTO);
    CHECK(hello(magic, 2, &small, sealed, 0) == EPROTO);
    CHECK(hello(magic, 1, &small, sealed, 1) == EPIPE);
    struct harp_ring_sizes s = small;
    s.bulk += 64u << 10; /* more than there is */
    CHECK(hello(magic, 1, &s, sealed, 0) == EINVAL);
    s = small;
    s.calls = 96u << 10; /* no power of two */
    s.answers = 32u << 10;
    CHECK(hello(magic, 1, &s, sealed, 0) == EINVAL);
    s.calls = UINT64_MAX - 4095;
    CHECK(hello(magic, 1, &s, sealed, 0) == EINVAL);
    close(sealed);
    close(file);
}
#endif

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    test_records_of_all_sizes_go_round();
    test_what_is_left_before_the_end_is_skipped();
    test_an_empty_ring_has_room_for_the_largest();
    test_a_region_lies_in_the_bulk_area();
    test_regions_do_not_overlap();
    test_a_tail_that_goes_back_is_a_lie();
    test_a_lie_ends_the_session();
    test_two_threads_wake_each_other();
    test_the_second_is_woken_when_the_first_is_away();
    test_the_second_is_told_until_the_first_is_back();
#ifndef __SANITIZE_THREAD__
    harp_table_own(&own, "1.2.3");
    harp_table_put(own_text, &own);
    test_two_processes_wake_each_other();
    test_a_stray_byte_hides_no_end();
    test_a_session_opens_and_both_see_the_other_die();
    test_other_tables_are_refused_with_both_versions();
    test_segments_that_could_be_pulled_away_are_refused();
#endif
    return 0;
}
