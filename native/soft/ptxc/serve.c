/* SPDX-License-Identifier: Apache-2.0 */
#include "soft/ptxc/serve.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "soft/ptxc/cache.h"
#include "soft/ptxc/ptx_rt.h"
#include "soft/ptxc/serve_job.h"
#include "soft/ptxc/serve_log.h"
#include "soft/ptxc/serve_place.h"
#include "soft/ptxc/serve_queue.h"
#include "soft/ptxc/service.h"

enum { ASK_MS = 5000, TICK_MS = 250, TRIM_MS = 10000, GONE_MS = 100 };

enum state { FREE, ASKING, WAITING, RUNNING };

struct connection {
    enum state state;
    int socket, text;
    struct serve_peer *peer;
    uint64_t since_ms, arrival;
    struct ptxc_request asked;
    char *kernel;
    pid_t child;
    uint64_t gone_ms; /* whoever asked is gone since then; 0: is there */
    bool too_long;
};

struct server {
    const struct serve_settings *settings;
    char cache[4096];
    int listener, signals, lock;
    bool stop;
    uint64_t arrivals, trim_ms;
    uint64_t full_ms; /* no descriptor was left for a connection, then */
    struct serve_queue queue;
    volatile bool *begun; /* of each connection: its job answers already; shared with the jobs */
    struct connection connections[SERVE_CONNECTIONS];
};

/* -------------------------------------------------------------------------- connections ------- */

static void drop(struct server *server, struct connection *c)
{
    if (c->state == RUNNING)
        serve_end(&server->queue, c->peer);
    else if (c->state == WAITING)
        serve_give_up(c->peer);
    serve_peer_leave(c->peer);
    close(c->socket);
    if (c->text >= 0)
        close(c->text);
    free(c->kernel);
    *c = (struct connection){.state = FREE, .socket = -1, .text = -1};
}

static void refuse(struct server *server, struct connection *c, uint32_t status, const char *why)
{
    serve_refuse(c->socket, status, why);
    drop(server, c);
}

static bool welcome(struct server *server)
{
    struct connection *c = server->connections;
    struct serve_peer *peer = NULL;
    uint64_t key;
    while (c < server->connections + SERVE_CONNECTIONS && c->state != FREE)
        c++;
    int fd = accept4(server->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
            server->full_ms = serve_now_ms();
        return errno == EINTR || errno == ECONNABORTED;
    }
    if (c < server->connections + SERVE_CONNECTIONS && serve_peer_key(fd, &key))
        peer = serve_peer_join(&server->queue, key);
    if (!peer) {
        close(fd);
        return true;
    }
    *c = (struct connection){
        .state = ASKING, .socket = fd, .text = -1, .peer = peer, .since_ms = serve_now_ms()};
    return true;
}

/* All who have come, while it can be seen yet who they are; not without end. */
static void welcome_all(struct server *server)
{
    for (int i = 0; i < SERVE_CONNECTIONS && welcome(server); i++)
        ;
}

static void hear(struct server *server, struct connection *c)
{
    static char message[PTXC_REQUEST_MAX], kernel[PTXC_KERNEL_MAX + 1];
    char why[PTXC_WHY_MAX + 1];
    ssize_t n = ptxc_receive(c->socket, message, sizeof(message), &c->text);
    if (n == -EAGAIN || n == -EINTR)
        return;
    if (n == 0 || (n < 0 && n != -EMSGSIZE && n != -EPROTO)) {
        drop(server, c);
        return;
    }
    if (n < 0) {
        refuse(server, c, PTXC_USAGE,
               n == -EPROTO ? "more than one descriptor in a request"
                            : "a request that is too long");
        return;
    }
    if (!ptxc_request_read(message, (size_t)n, &c->asked, kernel, why, sizeof(why))) {
        refuse(server, c, PTXC_USAGE, why);
        return;
    }
    if (c->asked.abi != PTX_RT_ABI) {
        snprintf(why, sizeof(why),
                 "this compiler makes kernels of ABI %u, the program runs ABI %u; remedy: the "
                 "same version of HARP for both",
                 PTX_RT_ABI, c->asked.abi);
        refuse(server, c, PTXC_INTERNAL, why);
        return;
    }
    if (c->text < 0 || !ptxc_is_sealed(c->text, c->asked.text_bytes)) {
        refuse(server, c, PTXC_USAGE,
               "the text is no sealed memory file of the bytes it is said to have");
        return;
    }
    c->kernel = strdup(kernel);
    if (!c->kernel || !serve_wait(c->peer)) {
        refuse(server, c, PTXC_BUSY, "too many kernels of this container wait to be compiled");
        return;
    }
    c->state = WAITING;
    c->since_ms = serve_now_ms();
    c->arrival = ++server->arrivals;
}

/* -------------------------------------------------------------------------------- jobs -------- */

static _Noreturn void become_job(struct server *server, const struct connection *mine)
{
    const struct serve_request asked = {.socket = mine->socket,
                                        .text = mine->text,
                                        .text_bytes = mine->asked.text_bytes,
                                        .sm = mine->asked.sm,
                                        .quick = mine->asked.fast == 0,
                                        .begun = &server->begun[mine - server->connections],
                                        .kernel = mine->kernel};
    struct serve_settings settings = *server->settings;
    sigset_t none;
    settings.cache = server->cache;
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    close(server->listener);
    close(server->signals);
    close(server->lock);
    signal(SIGPIPE, SIG_DFL); /* as a compiler finds it anywhere */
    for (struct connection *c = server->connections; c < server->connections + SERVE_CONNECTIONS;
         c++)
        if (c != mine && c->state != FREE) {
            close(c->socket);
            if (c->text >= 0)
                close(c->text);
        }
    serve_job(&settings, &asked);
}

static void start(struct server *server, struct connection *c)
{
    server->begun[c - server->connections] = false;
    pid_t child = fork();
    if (child == 0)
        become_job(server, c);
    if (child < 0) {
        refuse(server, c, PTXC_BUSY, "the compiler's service has no process left");
        return;
    }
    setpgid(child, child);
    serve_start(&server->queue, c->peer);
    c->state = RUNNING;
    c->child = child;
    c->since_ms = serve_now_ms();
}

static void start_all(struct server *server)
{
    for (;;) {
        struct connection *next = NULL;
        struct serve_ask first = {0};
        for (struct connection *c = server->connections;
             c < server->connections + SERVE_CONNECTIONS; c++) {
            if (c->state != WAITING || !serve_may_start(&server->queue, c->peer))
                continue;
            const struct serve_ask ask = {c->peer, c->arrival, c->asked.fast != 0};
            if (!next || serve_ask_before(&ask, &first))
                next = c, first = ask;
        }
        if (!next)
            return;
        start(server, next);
    }
}

static void finish(struct server *server, struct connection *c, int status)
{
    uint64_t ms = serve_now_ms() - c->since_ms;
    char why[PTXC_WHY_MAX + 1];
    if (WIFEXITED(status)) {
        serve_say("kernel_%s kernel=%.200s code=%d ms=%llu",
                  WEXITSTATUS(status) ? "refused" : "served", c->kernel, WEXITSTATUS(status),
                  (unsigned long long)ms);
    } else {
        if (c->too_long)
            snprintf(why, sizeof(why), "kernel %.300s: the compiler took more than %u s", c->kernel,
                     server->settings->timeout_s);
        else
            snprintf(why, sizeof(why), "kernel %.300s: the compiler was ended by signal %d",
                     c->kernel, WTERMSIG(status));
        serve_say("kernel_%s kernel=%.200s ms=%llu",
                  c->gone_ms    ? "dropped"
                  : c->too_long ? "timed_out"
                                : "crashed",
                  c->kernel, (unsigned long long)ms);
        cache_forget(server->cache, c->child);
        /* Amid a kernel's bytes this would be taken for some of them. */
        if (!c->gone_ms && !server->begun[c - server->connections])
            serve_refuse(c->socket, PTXC_INTERNAL, why);
    }
    drop(server, c);
}

static void reap(struct server *server)
{
    for (;;) {
        siginfo_t info = {0};
        int status = 0;
        if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0)
            return;
        struct connection *c = server->connections;
        while (c < server->connections + SERVE_CONNECTIONS &&
               (c->state != RUNNING || c->child != info.si_pid))
            c++;
        bool job = c < server->connections + SERVE_CONNECTIONS;
        /* Before it is reaped, while the number is its own: its compiler may live still. */
        if (job)
            kill(-c->child, SIGKILL);
        waitpid(info.si_pid, &status, 0);
        if (job)
            finish(server, c, status);
    }
}

static void look_at_clocks(struct server *server)
{
    uint64_t now = serve_now_ms();
    for (struct connection *c = server->connections; c < server->connections + SERVE_CONNECTIONS;
         c++) {
        if (c->state == ASKING && now - c->since_ms > ASK_MS) {
            drop(server, c);
        } else if (c->state == RUNNING && c->gone_ms && now - c->gone_ms > GONE_MS) {
            kill(-c->child, SIGKILL);
        } else if (c->state == RUNNING && !c->too_long &&
                   now - c->since_ms > server->settings->timeout_s * 1000ull) {
            c->too_long = true;
            kill(-c->child, SIGKILL);
        }
    }
    if (now - server->trim_ms > TRIM_MS) {
        cache_trim(server->cache, (uint64_t)server->settings->cache_mib << 20);
        server->trim_ms = now;
    }
}

/* Whoever asked is gone: has its answer, or does not want it any more. */
static void leave(struct server *server, struct connection *c)
{
    if (c->state != RUNNING)
        drop(server, c);
    else
        c->gone_ms = serve_now_ms();
}

/* -------------------------------------------------------------------------------- loop -------- */

static void read_signals(struct server *server)
{
    struct signalfd_siginfo info;
    while (read(server->signals, &info, sizeof(info)) == sizeof(info))
        if (info.ssi_signo != SIGCHLD)
            server->stop = true;
    reap(server);
}

static void turn(struct server *server)
{
    static struct pollfd fds[SERVE_CONNECTIONS + 2];
    static struct connection *whose[SERVE_CONNECTIONS + 2];
    nfds_t n = 1;
    bool busy = false;
    fds[0] = (struct pollfd){.fd = server->signals, .events = POLLIN};
    for (struct connection *c = server->connections; c < server->connections + SERVE_CONNECTIONS;
         c++) {
        busy = busy || c->state != FREE;
        if (c->state == FREE || c->gone_ms)
            continue;
        whose[n] = c;
        fds[n++] = (struct pollfd){.fd = c->socket, .events = c->state == ASKING ? POLLIN : 0};
    }
    nfds_t known = n;
    /* Who waits to be accepted would wake us at once again. */
    bool full = server->full_ms && serve_now_ms() - server->full_ms < TICK_MS;
    if (known - 1 < SERVE_CONNECTIONS && !full)
        fds[n++] = (struct pollfd){.fd = server->listener, .events = POLLIN};
    if (poll(fds, n, busy || full ? TICK_MS : -1) < 0)
        return;
    for (nfds_t i = 1; i < known; i++) {
        if (fds[i].revents & POLLIN)
            hear(server, whose[i]);
        else if (fds[i].revents)
            leave(server, whose[i]);
    }
    if (fds[0].revents)
        read_signals(server);
    if (n > known && fds[known].revents)
        welcome_all(server);
    look_at_clocks(server);
    start_all(server);
}

static void end_all(struct server *server)
{
    for (struct connection *c = server->connections; c < server->connections + SERVE_CONNECTIONS;
         c++)
        if (c->state == RUNNING) {
            pid_t child = c->child;
            kill(-child, SIGKILL);
            waitpid(child, NULL, 0);
            cache_forget(server->cache, child);
            drop(server, c);
        } else if (c->state != FREE) {
            drop(server, c);
        }
}

int serve(const struct serve_settings *settings)
{
    static struct server server;
    static struct job job;
    struct serve_place place;
    sigset_t signals;
    server.settings = settings;
    server.queue.places = settings->jobs;
    server.begun = mmap(NULL, SERVE_CONNECTIONS * sizeof(*server.begun), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (setjmp(job.out) != 0) {
        serve_say("%s", job.why);
        return job.code;
    }
    if (server.begun == MAP_FAILED)
        job_fail(&job, PTXC_NO_MEMORY, "out of memory");
    snprintf(server.cache, sizeof(server.cache), "%s", cache_folder(&job, settings->cache));
    serve_place_take(&job, &place, settings->socket, server.cache);
    serve_raise_files(4 * SERVE_CONNECTIONS);
    sigemptyset(&signals);
    sigaddset(&signals, SIGCHLD);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN); /* whoever reads the log may end before us */
    server.signals = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    if (server.signals < 0)
        job_fail(&job, PTXC_INTERNAL, "signalfd: %s", strerror(errno));
    server.listener = place.listener;
    server.lock = place.lock;
    for (int i = 0; i < SERVE_CONNECTIONS; i++)
        server.connections[i] = (struct connection){.socket = -1, .text = -1};
    cache_trim(server.cache, (uint64_t)settings->cache_mib << 20);
    server.trim_ms = serve_now_ms();
    serve_say("serving socket=%s cache=%s jobs=%u timeout_s=%u", settings->socket, server.cache,
              settings->jobs, settings->timeout_s);
    while (!server.stop)
        turn(&server);
    end_all(&server);
    serve_place_leave(&place);
    serve_say("stopped");
    job_free(job.chunks);
    return PTXC_OK;
}
