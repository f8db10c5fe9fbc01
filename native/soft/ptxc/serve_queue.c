/* SPDX-License-Identifier: Apache-2.0 */
#include "soft/ptxc/serve_queue.h"

#include <stddef.h>

struct serve_peer *serve_peer_join(struct serve_queue *queue, uint64_t key)
{
    struct serve_peer *room = NULL;
    for (int i = 0; i < SERVE_CONNECTIONS; i++) {
        struct serve_peer *peer = &queue->peers[i];
        if (peer->connections && peer->key == key) {
            if (peer->connections == SERVE_PER_PEER)
                return NULL;
            peer->connections++;
            return peer;
        }
        if (!peer->connections && !room)
            room = peer;
    }
    if (room)
        *room = (struct serve_peer){.key = key, .served = ++queue->clock, .connections = 1};
    return room;
}

void serve_peer_leave(struct serve_peer *peer)
{
    peer->connections--;
}

bool serve_wait(struct serve_peer *peer)
{
    if (peer->waiting + peer->running >= SERVE_WAITING)
        return false;
    peer->waiting++;
    return true;
}

void serve_give_up(struct serve_peer *peer)
{
    peer->waiting--;
}

bool serve_may_start(const struct serve_queue *queue, const struct serve_peer *peer)
{
    uint32_t most = queue->places > 1 ? queue->places - 1 : 1;
    return queue->running < queue->places && peer->running < most;
}

bool serve_goes_before(const struct serve_peer *a, const struct serve_peer *b)
{
    if (a->running != b->running)
        return a->running < b->running;
    return a->served < b->served;
}

bool serve_ask_before(const struct serve_ask *a, const struct serve_ask *b)
{
    if (a->background != b->background)
        return b->background;
    return a->peer == b->peer ? a->arrival < b->arrival : serve_goes_before(a->peer, b->peer);
}

void serve_start(struct serve_queue *queue, struct serve_peer *peer)
{
    peer->waiting--;
    peer->running++;
    queue->running++;
    peer->served = ++queue->clock;
}

void serve_end(struct serve_queue *queue, struct serve_peer *peer)
{
    peer->running--;
    queue->running--;
}
