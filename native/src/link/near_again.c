/* SPDX-License-Identifier: Apache-2.0
 *
 * Two timers: the next attempt, and the end of all attempts.
 */
#include "src/link/near_again.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

/* Between attempts: at first, and at most. */
#define FIRST_MS 20u
#define MOST_MS  1000u

static struct bridge *bridge;
static struct harp_resume resume;
static unsigned window_ms, wait_ms;
static struct harp_timer next, over;
/* Of the window, what connections that were of no use have left; since when the last one is there;
 * and what had been acknowledged and taken in when the one before was lost. */
static uint64_t left_ms, open_ms, acked, taken_in, moved;
static int (*dial)(char *why);
static char reason[HARP_WHY_BYTES];

static void attempt(struct harp_timer *timer)
{
    char why[HARP_WHY_BYTES];
    if (!bridge->ended && dial(why) != 0)
        near_again_lost(bridge, why);
}

static void too_long(struct harp_timer *timer)
{
    char why[HARP_WHY_BYTES + 64];
    snprintf(why, sizeof why, "%s; no connection for %u ms", reason, window_ms);
    bridge_fail(bridge, why);
}

int near_again_open(struct bridge *b, int (*how)(char *why))
{
    uint8_t random[(HARP_RESUME_KEY_BYTES - 1) / 2];
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        return -EIO;
    for (size_t i = 0; i < sizeof random; i++)
        snprintf(resume.key + 2 * i, 3, "%02x", random[i]);
    bridge = b;
    dial = how;
    next.fire = attempt;
    over.fire = too_long;
    return 0;
}

void near_again_text(char text[HARP_RESUME_TEXT], const struct bridge *b)
{
    resume.taken = b->replay.taken;
    harp_resume_put(text, &resume);
    resume.attempt++;
}

bool near_again_first(const struct harp_grpc_answer *answer)
{
    uint64_t taken;
    if (harp_resume_answered(&taken, &window_ms, answer->resume) != 0 || taken != 0)
        return false;
    open_ms = harp_now_ms();
    left_ms = window_ms;
    return true;
}

void near_again_answered(struct bridge *b, struct harp_conn *conn, struct harp_h2_stream *stream,
                         const struct harp_grpc_answer *answer)
{
    uint64_t taken;
    int err = harp_resume_answered(&taken, &window_ms, answer->resume);
    if (err == 0)
        err = bridge_resume(b, conn, stream, taken);
    else
        err = -EPROTO;
    if (err != 0) {
        b->conn = conn; /* on which the other side is told */
        b->stream = stream;
        bridge_fail(b, bridge_no_resume(err));
        return;
    }
    open_ms = harp_now_ms();
    left_ms = over.at_ms > open_ms ? over.at_ms - open_ms : 0;
    harp_timer_clear(&over);
}

/* Whether the connection before was of any use; else what makes each break could go on for ever. */
static bool of_use(const struct bridge *b)
{
    return b->replay.acked != acked || b->replay.taken != taken_in || b->moved != moved ||
           harp_now_ms() - open_ms >= window_ms;
}

void near_again_lost(struct bridge *b, const char *why)
{
    if (over.link == NULL) { /* not an attempt: one that was answered */
        if (of_use(b)) {
            left_ms = window_ms;
            wait_ms = 0;
        }
        acked = b->replay.acked;
        taken_in = b->replay.taken;
        moved = b->moved;
        snprintf(reason, sizeof reason, "%s", why);
        harp_timer_set(b->loop, &over, left_ms);
    }
    harp_timer_set(b->loop, &next, wait_ms);
    wait_ms = wait_ms == 0 ? FIRST_MS : wait_ms < MOST_MS / 2 ? 2 * wait_ms : MOST_MS;
}
