/* SPDX-License-Identifier: Apache-2.0
 *
 * Who is compiled for next: containers that ask much beside ones that ask little.
 */
#include <stdio.h>

#include "soft/ptxc/serve_queue.h"

#define CHECK(what)                                                                                \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            printf("line %d: %s\n", __LINE__, #what);                                              \
            return 1;                                                                              \
        }                                                                                          \
    } while (0)

static struct serve_queue queue;

/* The next one of those who wait; NULL: none may start. */
static struct serve_peer *next(struct serve_peer **peers, int count)
{
    struct serve_peer *best = NULL;
    for (int i = 0; i < count; i++)
        if (peers[i]->waiting && serve_may_start(&queue, peers[i]) &&
            (!best || serve_goes_before(peers[i], best)))
            best = peers[i];
    if (best)
        serve_start(&queue, best);
    return best;
}

static int one_never_has_all_places(void)
{
    struct serve_peer *greedy, *other, *both[2];
    queue = (struct serve_queue){.places = 3};
    greedy = both[0] = serve_peer_join(&queue, 1);
    for (int i = 0; i < 5; i++)
        CHECK(serve_wait(greedy));
    CHECK(next(both, 1) == greedy && next(both, 1) == greedy && !next(both, 1));
    other = both[1] = serve_peer_join(&queue, 2);
    CHECK(serve_wait(other) && next(both, 2) == other);
    CHECK(!next(both, 2) && queue.running == 3);
    serve_end(&queue, greedy);
    CHECK(next(both, 2) == greedy);
    queue = (struct serve_queue){.places = 1};
    greedy = serve_peer_join(&queue, 1);
    CHECK(serve_wait(greedy) && next(&greedy, 1) == greedy);
    return 0;
}

static int who_asks_much_waits_for_who_asks_little(void)
{
    struct serve_peer *peers[2];
    int served[2] = {0, 0};
    queue = (struct serve_queue){.places = 1};
    peers[0] = serve_peer_join(&queue, 1);
    for (int i = 0; i < 40; i++)
        CHECK(serve_wait(peers[0]));
    for (int i = 0; i < 20; i++) {
        /* comes, asks once and goes, again and again */
        peers[1] = serve_peer_join(&queue, 2);
        CHECK(serve_wait(peers[1]));
        for (int k = 0; k < 2; k++) {
            struct serve_peer *who = next(peers, 2);
            CHECK(who);
            served[who == peers[1]]++;
            serve_end(&queue, who);
        }
        CHECK(!peers[1]->waiting);
        serve_peer_leave(peers[1]);
    }
    CHECK(served[0] == 20 && served[1] == 20);
    return 0;
}

/* Else who comes again and again would always go before who waits. */
static int coming_again_is_no_way_past_who_waits(void)
{
    struct serve_peer *peers[2];
    queue = (struct serve_queue){.places = 1};
    peers[0] = serve_peer_join(&queue, 1);
    CHECK(serve_wait(peers[0]) && next(peers, 1) == peers[0]);
    serve_end(&queue, peers[0]);
    CHECK(serve_wait(peers[0]));
    peers[1] = serve_peer_join(&queue, 2);
    CHECK(serve_wait(peers[1]) && next(peers, 2) == peers[0]);
    return 0;
}

static int there_is_an_end_to_what_one_may_hold(void)
{
    queue = (struct serve_queue){.places = 1};
    struct serve_peer *peer = NULL;
    for (int i = 0; i < SERVE_PER_PEER; i++)
        CHECK((peer = serve_peer_join(&queue, 7)));
    CHECK(!serve_peer_join(&queue, 7) && serve_peer_join(&queue, 8));
    for (int i = 0; i < SERVE_WAITING; i++)
        CHECK(serve_wait(peer));
    CHECK(!serve_wait(peer));
    serve_start(&queue, peer);
    CHECK(!serve_wait(peer)); /* what runs counts */
    serve_end(&queue, peer);
    CHECK(serve_wait(peer));
    for (uint64_t key = 100; key < 100 + SERVE_CONNECTIONS - 2; key++)
        CHECK(serve_peer_join(&queue, key));
    CHECK(!serve_peer_join(&queue, 9999));
    return 0;
}

static int who_waits_goes_before_the_background(void)
{
    queue = (struct serve_queue){.places = 2};
    struct serve_peer *one = serve_peer_join(&queue, 1), *two = serve_peer_join(&queue, 2);
    struct serve_ask early = {one, 1, true}, late = {one, 2, false}, other = {two, 3, true};
    CHECK(serve_wait(one));
    serve_start(&queue, one); /* one is no more the first in turn */
    CHECK(serve_ask_before(&late, &early) && !serve_ask_before(&early, &late));
    CHECK(serve_ask_before(&late, &other) && !serve_ask_before(&other, &late));
    CHECK(serve_ask_before(&other, &early) && !serve_ask_before(&early, &other));
    early.background = late.background = other.background = false;
    CHECK(serve_ask_before(&early, &late) && serve_ask_before(&other, &early));
    return 0;
}

int main(void)
{
    return one_never_has_all_places() || who_asks_much_waits_for_who_asks_little() ||
           coming_again_is_no_way_past_who_waits() || there_is_an_end_to_what_one_may_hold() ||
           who_waits_goes_before_the_background();
}
