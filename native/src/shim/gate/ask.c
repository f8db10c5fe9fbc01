/* SPDX-License-Identifier: Apache-2.0
 *
 * Questions to the arbiter and their answers, and what it said of devices.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "src/shim/entry/entry.h"
#include "src/shim/gate/link.h"
#include "src/shim/gate/session_state.h"
#include "src/shim/gate/swap.h"
#include "src/shim/gate/thread.h"

#define ASK_NS   (HARP_MEM_WAIT_NS + 500 * MS) /* the arbiter's own limit comes first */
#define SWAP_NS  (HARP_SWAP_WAIT_NS + 500 * MS)
#define AGAIN_NS (1000 * MS) /* after a failure: deny at once for so long */

/* Lets time pass until something may have changed. Without a service thread we read ourselves. */
static void await(uint64_t ns)
{
    if (s->thread || s->fd < 0) {
        harp_wait_ns(&s->changed, &s->lock, ns);
        return;
    }
    struct pollfd p = {.fd = s->fd, .events = POLLIN};
    uint64_t before = s->connection;
    if (poll(&p, 1, (int)(ns / MS)) > 0 && s->fd >= 0 && s->connection == before)
        harp_session_drain();
}

/* Most answers come within the time that it takes to fall asleep and wake up: we read that one
 * ourselves, also beside the service thread. Others may ask meanwhile. */
static void await_soon(const struct question *q)
{
    int fd = s->fd;
    pthread_mutex_unlock(&s->lock);
    bool soon = harp_link_soon(fd, &q->done);
    pthread_mutex_lock(&s->lock);
    if (soon && !q->done && harp_session_drain())
        harp_session_wake(); /* it has been woken by what we read, and found nothing */
}

static bool ready_until(uint64_t deadline)
{
    if (s->failed_ns != 0 && harp_now_ns() - s->failed_ns < AGAIN_NS)
        return s->fd >= 0;
    for (;;) {
        if (harp_session_connect())
            return true;
        uint64_t now = harp_now_ns();
        if (now >= deadline)
            break;
        harp_wait_ns(&s->changed, &s->lock, 50 * MS);
    }
    if (s->failed_ns == 0)
        harp_log("arbiter_unreachable grant=%s effect=\"new memory is refused\" remedy=\"is harp "
                 "daemon running? try: harp doctor\"",
                 harp_env()->grant);
    s->failed_ns = harp_now_ns();
    return false;
}

bool harp_session_ready(void)
{
    if (harp_env()->grant == NULL)
        return false;
    int saved = errno;
    harp_session_check_fork();
    pthread_mutex_lock(&s->lock);
    bool ok = s->fd >= 0 || ready_until(harp_now_ns() + HARP_MEM_WAIT_NS);
    pthread_mutex_unlock(&s->lock);
    errno = saved;
    return ok;
}

/* Until when the answer to what is sent now is waited for: memory of an oversubscribing tenant may
 * be granted when another's has left the device. */
static uint64_t answer_by(const struct harp_msg *msg, uint64_t deadline)
{
    bool swap = harp_swap_granted_on((int)msg->dev);
    return msg->op == HARP_LEASE_MEM && swap ? harp_now_ns() + SWAP_NS : deadline;
}

int harp_session_ask(struct harp_msg *msg)
{
    int saved = errno;
    harp_session_check_fork();
    uint64_t deadline = harp_now_ns() + ASK_NS;
    int result = -1;
    pthread_mutex_lock(&s->lock);
    struct question *q = NULL;
    while ((q = NULL, harp_now_ns() < deadline)) {
        for (size_t i = 0; i < HARP_MAX_WAITING && q == NULL; i++)
            if (s->asked[i].seq == 0)
                q = &s->asked[i];
        if (q != NULL)
            break;
        await(20 * MS); /* as many questions as the arbiter takes are open already */
    }
    if (q == NULL)
        goto out;
    q->done = false;
    while (!q->done && harp_now_ns() < deadline) {
        if (s->fd < 0 && !ready_until(deadline))
            break;
        if (q->done)
            break;
        if (!s->devices[msg->dev % HARP_MAX_DEVICES].known) {
            await(20 * MS); /* a new arbiter is still being told of devices and tenants */
            continue;
        }
        q->seq = msg->seq = ++s->seq != 0 ? s->seq : ++s->seq;
        if (!harp_session_send(msg)) {
            harp_session_disconnect();
            continue;
        }
        uint64_t connection = s->connection;
        uint64_t until = answer_by(msg, deadline);
        if (s->serve_soon)
            harp_session_start();
        await_soon(q);
        while (!q->done && s->fd >= 0 && s->connection == connection && harp_now_ns() < until)
            await(100 * MS);
    }
    if (q->done) {
        *msg = q->answer;
        result = 0;
    }
    q->seq = 0;
    pthread_cond_broadcast(&s->changed);
out:
    pthread_mutex_unlock(&s->lock);
    errno = saved;
    return result;
}

/* --- what is known of devices ----------------------------------------------------------------- */

uint32_t harp_session_rate(int dev)
{
    const struct harp_device *d = &s->devices[dev];
    if (d->share_ppm == 0 || (d->limit_ppm != 0 && d->limit_ppm < d->share_ppm))
        return d->limit_ppm;
    return d->share_ppm;
}

int harp_session_device(const uint8_t uuid[16])
{
    int found = -1;
    pthread_mutex_lock(&s->lock);
    for (int i = 0; i < (int)HARP_MAX_DEVICES && found < 0; i++)
        if (s->devices[i].ever && memcmp(s->devices[i].uuid, uuid, 16) == 0)
            found = i;
    pthread_mutex_unlock(&s->lock);
    return found;
}

struct harp_device harp_session_about(int dev)
{
    struct harp_device d = {0};
    pthread_mutex_lock(&s->lock);
    if (dev >= 0 && dev < (int)HARP_MAX_DEVICES)
        d = s->devices[dev];
    pthread_mutex_unlock(&s->lock);
    return d;
}

uint64_t harp_session_slack(int dev)
{
    return __atomic_load_n(&s->devices[dev].slack_bytes, __ATOMIC_RELAXED);
}

int harp_session_any(void)
{
    int found = -1;
    if (!harp_session_ready())
        return found;
    pthread_mutex_lock(&s->lock);
    for (int i = (int)HARP_MAX_DEVICES - 1; i >= 0; i--)
        found = s->devices[i].known ? i : found;
    pthread_mutex_unlock(&s->lock);
    return found;
}

bool harp_session_limited(void)
{
    if (!harp_session_ready())
        return true;
    bool limited = false;
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < HARP_MAX_DEVICES; i++)
        limited |= s->devices[i].limit_bytes != 0;
    pthread_mutex_unlock(&s->lock);
    return limited;
}
