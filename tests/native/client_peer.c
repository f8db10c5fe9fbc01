/* SPDX-License-Identifier: Apache-2.0 */
#include "client_peer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "src/wire/frame.h"
#include "src/wire/table.h"

void peer_end(struct peer *p)
{
    char folder[sizeof p->path];
    memcpy(folder, p->path, sizeof folder);
    unlink(p->path);
    *strrchr(folder, '/') = '\0';
    rmdir(folder);
}

static int transfer(void *ctx, enum harp_wire_way way, uint64_t bytes, void **data, uint64_t *id)
{
    struct peer *p = ctx;
    if (p->gathered != NULL && way == HARP_WIRE_SEND && p->gathered_bytes == bytes) {
        *data = p->gathered;
        return 0;
    }
    for (unsigned i = 0; i < 64; i++)
        if (p->region[i].id == *id && p->region[i].bytes == bytes) {
            p->region[i].used = true;
            *data = harp_ring_region(&p->ring, p->region[i].offset, bytes);
            return *data == NULL ? -EPROTO : 0;
        }
    return -EPROTO; /* not announced */
}

static void put(struct peer *p, struct harp_ring_record *record, const void *body)
{
    while (harp_ring_put(&p->ring, record, body) == -EAGAIN)
        CHECK(harp_ring_wait_room(&p->ring, record->bytes, 5000) == 0);
    harp_ring_wake(&p->ring);
}

/* The worker is done with a region. */
static void done(struct peer *p, unsigned i)
{
    struct harp_ring_region region = {p->region[i].offset, p->region[i].bytes};
    struct harp_ring_record record = {.bytes = p->region[i].end ? 0 : sizeof region,
                                      .flags = HARP_FRAME_BULK |
                                               (p->region[i].end ? HARP_FRAME_END : 0u),
                                      .ack = p->region[i].id};
    p->region[i].id = 0;
    p->region[i].used = false;
    put(p, &record, &region);
}

/* With what the last call has named. */
static void named_done(struct peer *p)
{
    for (unsigned i = 0; i < 64; i++)
        if (p->region[i].used && !p->silent)
            done(p, i);
}

/* And with all of what came in pieces. */
static void all_done(struct peer *p)
{
    struct harp_ring_record record = {.flags = HARP_FRAME_BULK | HARP_FRAME_END,
                                      .ack = p->gathered_id};
    put(p, &record, NULL);
    free(p->gathered);
    p->gathered = NULL;
    p->gathered_bytes = 0;
}

static void bulk(struct peer *p, const struct harp_ring_record *record, const uint8_t *body)
{
    struct harp_ring_region region;
    unsigned i = 0;
    CHECK(record->bytes == sizeof region && record->lane != 0);
    memcpy(&region, body, sizeof region);
    p->pieces++;
    while (i < 64 && p->region[i].id != 0)
        i++;
    CHECK(i < 64);
    p->region[i].id = record->ack;
    p->region[i].offset = region.offset;
    p->region[i].bytes = region.bytes;
    p->region[i].end = (record->flags & HARP_FRAME_END) != 0;
    if (p->region[i].end && p->gathered == NULL)
        return;
    p->gathered = realloc(p->gathered, p->gathered_bytes + region.bytes);
    CHECK(p->gathered != NULL);
    memcpy(p->gathered + p->gathered_bytes, harp_ring_region(&p->ring, region.offset, region.bytes),
           region.bytes);
    p->gathered_bytes += region.bytes;
    p->gathered_id = record->ack;
    p->region[i].end = false;
    done(p, i);
}

static void reply(struct peer *p, struct harp_wire_call *call, const struct harp_wire_side *side,
                  const struct harp_ring_record *to)
{
    static _Thread_local uint8_t out[HARP_WIRE_BODY_BYTES];
    struct harp_wire_buffer body = {out, sizeof out, 0};
    CHECK(harp_wire_put_reply(call, side, &body) == 0);
    struct harp_ring_record record = {.bytes = (uint32_t)body.used,
                                      .op = call->op,
                                      .flags = p->nonsense ? 0 : HARP_FRAME_REPLY,
                                      .lane = to->lane,
                                      .ack = to->seq};
    put(p, &record, out);
}

static void call_came(struct peer *p, const struct harp_ring_record *record, uint8_t *data)
{
    static _Thread_local uint8_t memory[HARP_WIRE_ARENA_BYTES];
    const struct harp_wire_side side = {.ctx = p, .transfer = transfer};
    struct harp_wire_call call = {.op = (uint16_t)record->op};
    struct harp_wire_buffer body = {data, record->bytes, 0}, arena = {memory, sizeof memory, 0};
    if (record->flags & HARP_FRAME_REVERSE) { /* an answer to what was said */
        CHECK((record->flags & HARP_FRAME_REPLY) && record->bytes == 4 && record->ack != 0);
        p->note[p->notes++ % PEER_NOTES] =
            (struct peer_note){.op = record->op, .flags = record->flags, .args = {record->ack}};
        return;
    }
    int err = harp_wire_get_request(&call, &side, &body, &arena);
    if (err != 0) {
        fprintf(stderr, "peer: op %u: %d\n", record->op, err);
        abort();
    }
    struct peer_note *n = &p->note[p->notes++ % PEER_NOTES];
    *n = (struct peer_note){
        .op = record->op, .flags = record->flags, .lane = record->lane, .made = call.made_id};
    memcpy(n->args, call.args, sizeof n->args);
    if (p->fail_op == record->op) {
        call.result = p->fail_result;
        p->fail_op = 0;
    } else {
        call.result = p->answer(p, &call);
    }
    if (!p->late)
        named_done(p);
    if (p->gathered != NULL)
        all_done(p);
    if (record->flags & HARP_FRAME_WANTED) {
        p->wanted++;
        reply(p, &call, &side, record);
    }
    if (p->late) {
        usleep(5000); /* who does not wait for it is gone by then */
        named_done(p);
    }
}

static void *run(void *at)
{
    static _Thread_local uint8_t body[HARP_WIRE_BODY_BYTES];
    struct peer *p = at;
    struct harp_table_id own;
    struct harp_ring_record record;
    char text[256];
    p->sock = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC);
    peer_end(p); /* nothing is left behind, however the test ends */
    if (p->sock < 0)
        return NULL;
    harp_table_own(&own, "peer");
    CHECK(harp_ring_accept(&p->ring, p->sock, &own, 5000, text, sizeof text) == 0);
    CHECK(harp_ring_answer(&p->ring) == 0);
    while (harp_ring_wait(&p->ring, HARP_RING_FIRST, -1) == 0) {
        int got;
        while ((got = harp_ring_take(&p->ring, &record, body, sizeof body)) == 1) {
            pthread_mutex_lock(&p->lock);
            bool leave = p->leave;
            if (record.flags & HARP_FRAME_BULK)
                bulk(p, &record, body);
            else if (!leave)
                call_came(p, &record, body);
            pthread_mutex_unlock(&p->lock);
            if (leave)
                goto out;
        }
        if (got < 0)
            break;
    }
out:
    close(p->sock);
    return NULL;
}

static void listen_there(struct peer *p, uint32_t (*answer)(struct peer *, struct harp_wire_call *))
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    pthread_mutex_init(&p->lock, NULL);
    p->answer = answer;
    memcpy(name.sun_path, p->path, sizeof name.sun_path);
    p->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(bind(p->listener, (struct sockaddr *)&name, sizeof name) == 0);
    CHECK(listen(p->listener, 1) == 0);
    CHECK(pthread_create(&p->thread, NULL, run, p) == 0);
}

void peer_start(struct peer *p, uint32_t (*answer)(struct peer *, struct harp_wire_call *))
{
    char folder[] = "/tmp/harp-client-XXXXXX";
    CHECK(mkdtemp(folder) != NULL);
    snprintf(p->path, sizeof p->path, "%s/s", folder);
    setenv("HARP_REMOTE", p->path, 1);
    listen_there(p, answer);
}

void peer_start_at(struct peer *p, const char *path,
                   uint32_t (*answer)(struct peer *, struct harp_wire_call *))
{
    char folder[sizeof p->path];
    memcpy(p->path, path, sizeof p->path);
    memcpy(folder, path, sizeof folder);
    *strrchr(folder, '/') = '\0';
    CHECK(mkdir(folder, 0700) == 0);
    listen_there(p, answer);
}

unsigned peer_count(struct peer *p, uint32_t op, struct peer_note *last)
{
    unsigned n = 0;
    pthread_mutex_lock(&p->lock);
    CHECK(p->notes < PEER_NOTES);
    for (unsigned i = 0; i < p->notes; i++)
        if (p->note[i].op == op) {
            n++;
            if (last != NULL)
                *last = p->note[i];
        }
    pthread_mutex_unlock(&p->lock);
    return n;
}

unsigned peer_wanted(struct peer *p)
{
    pthread_mutex_lock(&p->lock);
    unsigned n = p->wanted;
    pthread_mutex_unlock(&p->lock);
    return n;
}

void peer_fail(struct peer *p, uint32_t op, uint32_t result)
{
    pthread_mutex_lock(&p->lock);
    p->fail_op = op;
    p->fail_result = result;
    pthread_mutex_unlock(&p->lock);
}

void peer_say(struct peer *p, uint32_t op, uint32_t lane, const uint64_t *args, unsigned count)
{
    uint8_t out[1024];
    struct harp_wire_call call = {.op = (uint16_t)op};
    struct harp_wire_buffer body = {out, sizeof out, 0};
    const struct harp_wire_side side = {.ctx = p};
    memcpy(call.args, args, count * sizeof *args);
    CHECK(harp_wire_put_request(&call, &side, &body) == 0);
    uint32_t flags = HARP_FRAME_REVERSE | (op == HARP_OP_harpHostCall ? HARP_FRAME_WANTED : 0u);
    struct harp_ring_record record = {
        .bytes = (uint32_t)body.used, .op = op, .flags = flags, .lane = lane};
    put(p, &record, out);
    p->said = record.seq;
}

int peer_scenarios(const struct peer_scenario *all, size_t count, int argc, char **argv)
{
    int failed = 0;
    for (size_t i = 0; i < count; i++) {
        int status = 0;
        if (argc > 1 && strcmp(argv[1], all[i].name) != 0)
            continue;
        pid_t pid = fork();
        if (pid == 0) {
            alarm(100);
            all[i].run();
            exit(0);
        }
        CHECK(waitpid(pid, &status, 0) == pid);
        if (status != 0)
            fprintf(stderr, "%s: %#x\n", all[i].name, (unsigned)status);
        failed += status != 0;
    }
    return failed;
}

/* Traces are of the whole libharp (src/shim/trace): these parts record nothing. */
void harp_trace_loaded(void);

void harp_trace_loaded(void)
{
}
