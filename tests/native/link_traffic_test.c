/* SPDX-License-Identifier: Apache-2.0
 *
 * What a session says of its traffic, into a pipe that others fill at the same time.
 */
#include "src/link/traffic.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "check.h"

struct harp_traffic harp_traffic;
static struct harp_timer *timer;
static int told[2], said;

void harp_timer_set(struct harp_loop *loop, struct harp_timer *t, uint64_t ms)
{
    timer = t;
}

unsigned harp_conn_rtt_us(const struct harp_conn *conn)
{
    return 70;
}

/* Another session takes the room that there was when we asked. */
int poll(struct pollfd *fds, nfds_t n, int ms)
{
    for (nfds_t i = 0; i < n; i++)
        fds[i].revents = fds[i].events;
    return (int)n;
}

static void look(const char *expected)
{
    char line[256] = "";
    ssize_t n = read(told[0], line, sizeof line - 1);
    CHECK(n == (ssize_t)strlen(expected) && strcmp(line, expected) == 0);
}

int main(void)
{
    char full[4096] = {0};
    struct harp_conn *conn = (struct harp_conn *)&harp_traffic;
    said = dup(STDOUT_FILENO);
    CHECK(pipe(told) == 0 && dup2(told[1], STDOUT_FILENO) == STDOUT_FILENO);
    int other = open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK);
    CHECK(other >= 0);
    alarm(20); /* who waits for room waits for ever */

    traffic_begin(NULL, "s", &conn);
    harp_traffic.received = 5;
    timer->fire(timer);
    look("traffic s 5 0 70\n");

    size_t filled = 0;
    for (ssize_t n; (n = write(other, full, sizeof full)) > 0;)
        filled += (size_t)n;
    harp_traffic.sent = 6;
    timer->fire(timer);
    for (ssize_t n; filled > 0; filled -= (size_t)n)
        CHECK((n = read(told[0], full, sizeof full)) > 0);
    timer->fire(timer); /* what was left out is in the next one */
    look("traffic s 5 6 70\n");
    timer->fire(timer); /* nothing new */
    traffic_end();
    CHECK((fcntl(told[0], F_SETFL, O_NONBLOCK)) == 0 && read(told[0], full, sizeof full) < 0);
    /* Whoever else has our stdout waits for room as ever. */
    CHECK((fcntl(STDOUT_FILENO, F_GETFL) & O_NONBLOCK) == 0);

    CHECK(dup2(said, STDOUT_FILENO) == STDOUT_FILENO);
    puts("ok");
    return 0;
}
