/* SPDX-License-Identifier: Apache-2.0
 *
 * Whose turn it is: a few compiles at once, shared out among the containers that ask. Pure.
 *
 * (1) Of those who wait, who has the fewest compiles under way goes first, then who was served
 *     least lately. (2) Nobody has all places: one stays for whoever comes next, if there are two.
 * (3) Whoever comes stands behind those who wait already, so that coming again gains nothing.
 * (4) What a program waits for goes before all that is made in the background: of whoever may
 * start.
 */
#ifndef HARP_PTXC_SERVE_QUEUE_H
#define HARP_PTXC_SERVE_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

enum {
    SERVE_CONNECTIONS = 512, /* of all */
    SERVE_PER_PEER = 64,     /* of one, those that are told to come again included */
    SERVE_WAITING = 48,      /* of one, the others */
};

struct serve_peer {
    uint64_t key; /* says who it is */
    uint64_t served;
    uint32_t connections, waiting, running; /* the last two are among the first */
};

struct serve_queue {
    struct serve_peer peers[SERVE_CONNECTIONS];
    uint64_t clock;
    uint32_t places, running;
};

/* One connection more of that peer; NULL: it has too many. */
struct serve_peer *serve_peer_join(struct serve_queue *queue, uint64_t key);
void serve_peer_leave(struct serve_peer *peer);
/* A request of it waits from now on. False: it has too many; it shall come again. */
bool serve_wait(struct serve_peer *peer);
/* It waits no more. */
void serve_give_up(struct serve_peer *peer);
bool serve_may_start(const struct serve_queue *queue, const struct serve_peer *peer);
/* Whether a request of `a` goes before one of `b`. */
bool serve_goes_before(const struct serve_peer *a, const struct serve_peer *b);

struct serve_ask { /* one that waits */
    const struct serve_peer *peer;
    uint64_t arrival;
    bool background; /* the program runs meanwhile */
};
/* Whether request `a` goes before `b`, of those that may start. */
bool serve_ask_before(const struct serve_ask *a, const struct serve_ask *b);
void serve_start(struct serve_queue *queue, struct serve_peer *peer);
void serve_end(struct serve_queue *queue, struct serve_peer *peer);

#endif
