/* SPDX-License-Identifier: Apache-2.0
 *
 * Rings: two threads, and two processes, that wait for each other.
 */
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include "ring_pair.h"

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

/* A record that comes soon finds a reader that is awake: nobody has to be woken. */
static void *look_on(void *arg)
{
    struct harp_ring *ring = arg;
    CHECK(harp_ring_wait(ring, HARP_RING_FIRST, 20000) == 0);
    return NULL;
}

static void test_a_reader_yields_before_it_sleeps(void)
{
    struct harp_ring client, worker;
    both(&client, &worker);
    for (int may = 0; may < 2; may++) {
        pthread_t thread;
        struct harp_ring_record r = {.bytes = 8};
        worker.yield = (struct harp_yield){.most_us = may ? 10000000 : 0};
        CHECK(pthread_create(&thread, NULL, look_on, &worker) == 0);
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
        /* On a machine that is busy, one that yields may have found that out. */
        uint32_t sleeps = __atomic_load_n(&client.put.way->reader_sleeps, __ATOMIC_ACQUIRE);
        CHECK(may || sleeps == HARP_RING_FIRST);
        put_waiting(&client, &r);
        harp_ring_wake(&client);
        CHECK(pthread_join(thread, NULL) == 0);
        CHECK(!may || (sleeps == 0 && worker.yield.good == 1) || worker.yield.pause != 0);
        take_waiting(&worker, &r, got);
    }
    harp_ring_close(&client);
    harp_ring_close(&worker);
}

int main(void)
{
    test_two_threads_wake_each_other();
    test_the_second_is_woken_when_the_first_is_away();
    test_the_second_is_told_until_the_first_is_back();
    test_a_reader_yields_before_it_sleeps();
#ifndef __SANITIZE_THREAD__
    test_two_processes_wake_each_other();
#endif
    return 0;
}
