/* SPDX-License-Identifier: Apache-2.0
 *
 * One session's traffic, said on stdout.
 */
#include "src/link/traffic.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#define SAY_MS 2000

static struct {
    struct harp_loop *loop;
    const char *session;
    struct harp_conn *const *conn;
    struct harp_traffic said;
    struct harp_timer timer;
    int out; /* negative: nobody is told */
} of = {.out = -1};

/* A pipe opened anew has flags of its own: it does not wait, and whoever shares stdout with us does
 * as before. To ask whether there is room and then write would not do, for others write too. */
static int open_out(void)
{
    return open("/proc/self/fd/1", O_WRONLY | O_APPEND | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

/* In one write: lines of several processes do not mix. */
static void say(void)
{
    char line[256];
    if (harp_traffic.received == of.said.received && harp_traffic.sent == of.said.sent)
        return;
    const unsigned rtt_us = *of.conn != NULL ? harp_conn_rtt_us(*of.conn) : 0;
    int n = snprintf(line, sizeof line, "traffic %s %" PRIu64 " %" PRIu64 " %u\n", of.session,
                     harp_traffic.received, harp_traffic.sent, rtt_us);
    /* Of so few bytes (PIPE_BUF) all or none. */
    if (n > 0 && (size_t)n < sizeof line && of.out >= 0 && write(of.out, line, (size_t)n) == n)
        of.said = harp_traffic;
}

static void again(struct harp_timer *timer)
{
    say();
    harp_timer_set(of.loop, timer, SAY_MS);
}

void traffic_begin(struct harp_loop *loop, const char *session, struct harp_conn *const *conn)
{
    of.loop = loop;
    of.session = session;
    of.conn = conn;
    of.out = open_out();
    of.timer.fire = again;
    harp_timer_set(loop, &of.timer, SAY_MS);
}

void traffic_end(void)
{
    if (of.session != NULL)
        say();
}
