/* SPDX-License-Identifier: Apache-2.0
 *
 * The loop: an event of the world becomes an event of the core, the core's actions become sends.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "server.h"

#define LONELY_LOOK_MS 1000
#define AT_ONCE        64

uint64_t server_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

int server_watch(struct server *s, int fd, uint32_t events, enum source source, uint32_t number)
{
    struct epoll_event e = {.events = events, .data.u64 = (uint64_t)source << 32 | number};
    return epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &e) == 0 ? 0 : -errno;
}

static void log_core(const struct harp_msg *m)
{
    log_event(m->text, "tenant=%u client=%u pid=%d uid=%u dev=%d bytes=%llu", m->tenant, m->client,
              m->pid, m->uid, (int)m->dev, (unsigned long long)m->bytes);
}

static void act(void *ctx, const struct harp_action *action)
{
    struct server *s = ctx;
    const struct harp_msg *m = &action->msg;
    switch (action->kind) {
    case HARP_ACT_SEND:
        peer_send(s, action->client, m);
        break;
    case HARP_ACT_REPLY:
        if (m->op == HARP_OK || m->op == HARP_ERR)
            s->reply = *m;
        else if (s->replying_to >= 0)
            admin_reply(s, (uint32_t)s->replying_to, m);
        break;
    case HARP_ACT_EVENT:
        if (m->op == HARP_EVENT_CLIENT)
            log_event(m->d == HARP_CLIENT_LIVE       ? "client_joined"
                      : m->d == HARP_CLIENT_DRAINING ? "client_died_draining"
                                                     : "client_gone",
                      "tenant=%u client=%u pid=%d uid=%u program=%s", m->tenant, m->client, m->pid,
                      m->uid, m->text);
        admin_publish(s, m);
        break;
    case HARP_ACT_JOINED:
        s->joined = action->client;
        break;
    case HARP_ACT_CLOSE:
        peer_close(s, action->client);
        break;
    case HARP_ACT_LOG:
        log_core(m);
        break;
    default:
        break;
    }
}

void server_step(struct server *s, const struct harp_event *event)
{
    const struct harp_sink sink = {.emit = act, .ctx = s};
    harp_core_step(s->core, event, server_now_ns(), &sink);
    /* Whose socket failed has died in the meantime; its death may doom others. */
    while (s->n_doomed > 0) {
        struct harp_event dead = {.kind = HARP_EV_DEAD, .client = s->doomed[--s->n_doomed]};
        harp_core_step(s->core, &dead, server_now_ns(), &sink);
    }
}

static void set_timer(struct server *s)
{
    uint64_t next = harp_core_next(s->core);
    if (next == s->timer_ns)
        return;
    struct itimerspec at = {{0, 0}, {0, 0}};
    if (next != HARP_NEVER) {
        at.it_value.tv_sec = (time_t)(next / 1000000000u);
        at.it_value.tv_nsec = (long)(next % 1000000000u);
        if (next == 0)
            at.it_value.tv_nsec = 1;
    }
    if (timerfd_settime(s->timer, TFD_TIMER_ABSTIME, &at, NULL) == 0)
        s->timer_ns = next;
}

static int fail(const char *what, int number)
{
    log_event("start_failed", "what=%s error=%s", what, strerror(number));
    return -number;
}

int server_open(struct server *s)
{
    size_t bytes = harp_core_bytes(&s->config);
    void *memory = bytes != 0 ? calloc(1, bytes) : NULL;
    s->conns = calloc(s->config.max_clients, sizeof *s->conns);
    s->listeners = calloc(s->config.max_tenants, sizeof *s->listeners);
    s->doomed = calloc(s->config.max_clients, sizeof *s->doomed);
    s->epoll = s->timer = s->signals = s->admin_listener = s->spare = -1;
    s->replying_to = -1;
    s->timer_ns = HARP_NEVER;
    for (uint32_t i = 0; i < ADMIN_MAX; i++)
        s->admins[i].fd = -1;
    if (memory == NULL || s->conns == NULL || s->listeners == NULL || s->doomed == NULL) {
        free(memory);
        return fail("memory", ENOMEM);
    }
    s->core = harp_core_init(memory, &s->config);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    if (sigprocmask(SIG_BLOCK, &set, NULL) != 0)
        return fail("signals", errno);
    s->epoll = epoll_create1(EPOLL_CLOEXEC);
    s->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    s->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (s->epoll < 0 || s->timer < 0 || s->signals < 0)
        return fail("descriptors", errno);
    s->spare = dup(s->epoll);
    int r = server_watch(s, s->timer, EPOLLIN, SOURCE_TIMER, 0);
    if (r == 0)
        r = server_watch(s, s->signals, EPOLLIN, SOURCE_SIGNAL, 0);
    if (r != 0)
        return fail("epoll", -r);
    r = admin_open(s);
    return r != 0 ? fail("admin.sock", -r) : 0;
}

static void dispatch(struct server *s, const struct epoll_event *e)
{
    uint32_t number = (uint32_t)e->data.u64;
    struct harp_event event = {.client = number};
    uint64_t expirations;
    switch ((enum source)(e->data.u64 >> 32)) {
    case SOURCE_CLIENT:
        peer_read(s, number);
        break;
    case SOURCE_PIDFD:
        event.kind = HARP_EV_DEAD;
        peer_close(s, number);
        server_step(s, &event);
        break;
    case SOURCE_LISTENER:
        peer_accept(s, number);
        break;
    case SOURCE_ADMIN:
        admin_event(s, number, e->events);
        break;
    case SOURCE_ADMIN_LISTENER:
        admin_accept(s);
        break;
    case SOURCE_TIMER:
        if (read(s->timer, &expirations, sizeof expirations) > 0) {
            s->timer_ns = HARP_NEVER;
            event.kind = HARP_EV_TICK;
            server_step(s, &event);
        }
        break;
    case SOURCE_SIGNAL:
        s->stopping = 1;
        break;
    }
}

/* Nobody to serve and nobody who could send somebody: neither harpd nor a client, for so long. A
 * tenant's socket may still be used by a program that has not come yet: patience is longer then. */
static int lonely(struct server *s)
{
    uint64_t now = server_now_ns(), patience = s->idle_exit_ns;
    if (now - s->looked_ns < LONELY_LOOK_MS * 1000000ull)
        return 0;
    s->looked_ns = now;
    int listens = 0, served = harp_core_clients(s->core) != 0;
    for (uint32_t i = 0; i < ADMIN_MAX; i++)
        served |= s->admins[i].fd >= 0;
    for (uint32_t i = 0; i < s->config.max_tenants; i++)
        listens |= s->listeners[i].tenant != 0;
    if (served || s->lonely_ns == 0)
        s->lonely_ns = now;
    if (patience == 0 || now - s->lonely_ns < (listens ? 10 * patience : patience))
        return 0;
    log_event("arbiter_lonely", "seconds=%llu",
              (unsigned long long)((now - s->lonely_ns) / 1000000000u));
    return 1;
}

static int is_admins(const struct epoll_event *e)
{
    return e->data.u64 >> 32 == SOURCE_ADMIN;
}

/* The admins' questions come after what clients have said: an answer knows what was sent before it
 * was asked for, however early the question before it had made the admin's socket ready. Where more
 * is ready than fits they come again with the next ones, until all has had its turn. */
static void dispatch_all(struct server *s, const struct epoll_event *events, int n)
{
    for (int i = 0; i < n && !s->stopping; i++)
        if (!is_admins(&events[i]))
            dispatch(s, &events[i]);
    s->full_batches = n == AT_ONCE ? s->full_batches + 1 : 0;
    if (s->full_batches > 0 && s->full_batches <= s->config.max_clients / AT_ONCE)
        return;
    for (int i = 0; i < n && !s->stopping; i++)
        if (is_admins(&events[i]))
            dispatch(s, &events[i]);
}

int server_run(struct server *s)
{
    struct epoll_event events[AT_ONCE];
    while (!s->stopping && !lonely(s)) {
        set_timer(s);
        int n = epoll_wait(s->epoll, events, AT_ONCE, s->idle_exit_ns != 0 ? LONELY_LOOK_MS : -1);
        if (n < 0 && errno != EINTR)
            return fail("epoll_wait", errno);
        dispatch_all(s, events, n);
    }
    log_event("arbiter_stopped", "run=%s", s->run_dir);
    return 0;
}

void server_close(struct server *s)
{
    if (s->epoll >= 0)
        admin_close_all(s); /* first: the last picture may take tenants' sockets along */
    for (uint32_t i = 0; s->conns != NULL && i < s->config.max_clients; i++)
        if (s->conns[i].id != 0)
            peer_close(s, s->conns[i].id);
    for (uint32_t i = 0; s->listeners != NULL && i < s->config.max_tenants; i++)
        peer_unlisten(s, s->listeners[i].tenant);
    devlock_release_all(s);
    const int fds[] = {s->epoll, s->timer, s->signals, s->spare};
    for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    free(s->core);
    free(s->conns);
    free(s->listeners);
    free(s->doomed);
}
