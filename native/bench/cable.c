/* SPDX-License-Identifier: Apache-2.0
 *
 * A cable between two network namespaces, for kernels without netem: a TUN device `harp0` in each,
 * and between them what real cables have, the same both ways.
 *
 *   harp-bench-cable NAMESPACE NAMESPACE DELAY_US LOSS_PPM RATE_KBIT     (rate 0: as fast as it
 * goes)
 *
 * Says "ready" when both devices are there; they are gone with it, and it with its input. Losses
 * are the same ones at every run. Beyond LIMIT packets under way the next ones are lost, as in a
 * switch.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "bench/bench.h"

#define LIMIT        4096u
#define PACKET_BYTES 65535u

struct packet {
    struct packet *next;
    uint64_t due_ns;
    size_t bytes;
    uint8_t data[];
};

struct way {
    int from, to;
    struct packet *first, **last;
    unsigned count;
    uint64_t free_ns; /* when the cable has passed what was put on it */
};

static uint64_t delay_ns, loss_ppm, rate_kbit, state = 88172645463325252ull;

static int device(const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "/run/netns/%s", name);
    int ns = open(path, O_RDONLY | O_CLOEXEC);
    if (ns < 0 || setns(ns, CLONE_NEWNET) != 0)
        bench_fail(path, errno);
    close(ns);
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    struct ifreq request = {.ifr_name = "harp0"};
    request.ifr_flags = IFF_TUN | IFF_NO_PI;
    if (fd < 0 || ioctl(fd, TUNSETIFF, &request) != 0)
        bench_fail("/dev/net/tun", errno);
    return fd;
}

static bool lost(void)
{
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state % 1000000 < loss_ppm;
}

/* What has been put on the cable at one end. */
static void take(struct way *w)
{
    static uint8_t buffer[PACKET_BYTES];
    ssize_t n;
    while ((n = read(w->from, buffer, sizeof buffer)) > 0) {
        if (lost() || w->count == LIMIT)
            continue;
        struct packet *p = malloc(sizeof *p + (size_t)n);
        if (p == NULL)
            continue;
        uint64_t now_ns = bench_now_ns();
        if (w->free_ns < now_ns)
            w->free_ns = now_ns;
        if (rate_kbit != 0)
            w->free_ns += (uint64_t)n * 8 * 1000000 / rate_kbit;
        p->next = NULL;
        p->due_ns = w->free_ns + delay_ns;
        p->bytes = (size_t)n;
        memcpy(p->data, buffer, (size_t)n);
        *w->last = p;
        w->last = &p->next;
        w->count++;
    }
}

/* What has arrived at the other end, where the device may be down: then it is lost. */
static void give(struct way *w)
{
    for (struct packet *p; (p = w->first) != NULL && p->due_ns <= bench_now_ns();) {
        ssize_t n = write(w->to, p->data, p->bytes);
        (void)n;
        w->first = p->next;
        if (w->first == NULL)
            w->last = &w->first;
        w->count--;
        free(p);
    }
}

int main(int argc, char **argv)
{
    if (argc != 6) {
        fputs("usage: harp-bench-cable NAMESPACE NAMESPACE DELAY_US LOSS_PPM RATE_KBIT\n", stderr);
        return 2;
    }
    delay_ns = strtoull(argv[3], NULL, 10) * 1000;
    loss_ppm = strtoull(argv[4], NULL, 10);
    rate_kbit = strtoull(argv[5], NULL, 10);
    prctl(PR_SET_TIMERSLACK, 1);
    int a = device(argv[1]), b = device(argv[2]);
    struct way ways[2] = {{.from = a, .to = b}, {.from = b, .to = a}};
    puts("ready");
    fflush(stdout);
    for (unsigned i = 0; i < 2; i++)
        ways[i].last = &ways[i].first;
    struct pollfd fds[3] = {{.fd = a, .events = POLLIN},
                            {.fd = b, .events = POLLIN},
                            {.fd = STDIN_FILENO, .events = POLLIN}};
    for (;;) {
        uint64_t next_ns = UINT64_MAX, now_ns;
        for (unsigned i = 0; i < 2; i++) {
            give(&ways[i]);
            if (ways[i].first != NULL && ways[i].first->due_ns < next_ns)
                next_ns = ways[i].first->due_ns;
        }
        now_ns = bench_now_ns();
        uint64_t wait_ns = next_ns > now_ns ? next_ns - now_ns : 0;
        const struct timespec wait = {(time_t)(wait_ns / 1000000000), (long)(wait_ns % 1000000000)};
        if (ppoll(fds, 3, next_ns == UINT64_MAX ? NULL : &wait, NULL) < 0 && errno != EINTR)
            bench_fail("ppoll", errno);
        if (fds[2].revents != 0)
            return 0;
        for (unsigned i = 0; i < 2; i++)
            take(&ways[i]);
    }
}
