/* SPDX-License-Identifier: Apache-2.0
 *
 * harp-link-echo: both sides of a session's streams without a session behind them, for tests and
 * for measuring. The server gives frames back as replies; the client sends some and checks them.
 */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/link/conn.h"

struct options {
    bool serve, bulk;
    const char *address, *token, *session, *name;
    struct harp_tls_files files;
    unsigned frames, bytes, window, streams;
    unsigned depth; /* frames without an answer at a time; 1: one after the other */
};

/* A frame with a copy of its body behind it. */
struct owned {
    struct harp_h2_message message; /* first: its address is the memory's */
    uint8_t body[];
};

static void release(struct harp_h2_message *message)
{
    free(message);
}

/* 0, or put's answer. */
static int send_frame(struct harp_h2_stream *stream, const struct harp_frame *frame)
{
    struct owned *owned = malloc(sizeof *owned + frame->bytes);
    if (owned == NULL)
        return -ENOMEM;
    struct harp_frame copy = *frame;
    if (frame->bytes != 0)
        memcpy(owned->body, frame->body, frame->bytes);
    copy.body = owned->body;
    harp_h2_frame(&owned->message, &copy);
    owned->message.release = release;
    int err = harp_h2_put(stream, &owned->message);
    if (err != 0)
        free(owned);
    return err;
}

/* --- server --- */

static struct harp_grpc_rule rule;
static struct harp_table_id own_table;

static enum harp_grpc_status begin(void *ctx, struct harp_h2_stream *stream,
                                   const struct harp_grpc_call *call, char *text)
{
    return harp_grpc_check(call, &rule, text);
}

static int echo(void *ctx, struct harp_h2_stream *stream, const uint8_t *data, uint32_t bytes)
{
    struct harp_frame frame;
    int err = harp_frame_get(&frame, data, bytes);
    if (err != 0) {
        harp_h2_finish(stream,
                       err == -E2BIG ? HARP_GRPC_RESOURCE_EXHAUSTED : HARP_GRPC_INVALID_ARGUMENT,
                       err == -E2BIG ? "a frame with a body above 1 MiB"
                                     : "a message that is no Frame of harp.api.v1");
        return 0;
    }
    void **last = harp_h2_data(stream); /* seq of the last reply */
    frame.flags |= HARP_FRAME_REPLY;
    frame.ack = frame.seq;
    frame.seq = (uintptr_t)*last + 1;
    err = send_frame(stream, &frame);
    if (err == 0)
        *last = (void *)(uintptr_t)frame.seq;
    return err;
}

static void closed(void *ctx, struct harp_h2_stream *stream)
{
    harp_h2_finish(stream, HARP_GRPC_OK, "");
}

static void room(void *ctx, struct harp_h2_stream *stream)
{
    harp_h2_resume(stream);
}

static void log_gone(void *ctx, struct harp_conn *conn, const char *why)
{
    if (why[0] != '\0')
        fprintf(stderr, "connection: %s\n", why);
}

static int serve(const struct options *o, const struct harp_address *address, struct harp_tls *tls)
{
    char why[HARP_WHY_BYTES], table[HARP_TABLE_TEXT];
    struct harp_loop loop;
    struct harp_server server;
    rule = (struct harp_grpc_rule){.token = o->token, .session = o->session, .own = &own_table};
    harp_table_put(table, &own_table);
    struct harp_conn_user user = {
        .gone = log_gone,
        .handler = {.begin = begin, .message = echo, .closed = closed, .room = room},
        .limits = harp_h2_default,
        .own_table = table,
    };
    user.limits.window = user.limits.queue = o->window;
    int err = harp_loop_open(&loop);
    if (err == 0)
        err = harp_server_open(&server, &loop, address, tls, 64, &user, why);
    if (err != 0) {
        fprintf(stderr, "harp-link-echo: %s\n", why);
        return 1;
    }
    printf("ready %u\n", server.port);
    fflush(stdout);
    err = harp_loop_run(&loop);
    harp_server_close(&server);
    harp_loop_close(&loop);
    return err != 0;
}

/* --- client --- */

struct client {
    const struct options *o;
    struct harp_loop loop;
    struct harp_conn *conn;
    uint8_t *body;
    unsigned running;
    unsigned long long sent, back, wrong;
    enum harp_grpc_status status;
    char text[HARP_GRPC_TEXT_BYTES], table[HARP_TABLE_TEXT];
};

struct one {
    struct client *client;
    struct harp_h2_stream *stream;
    unsigned sent, back;
    bool full;
};

static struct one ones[64];

static void pump(struct one *one)
{
    struct client *c = one->client;
    one->full = false;
    while (one->sent < c->o->frames && one->sent - one->back < c->o->depth && !one->full) {
        struct harp_frame frame = {.seq = one->sent + 1,
                                   .op = 4711,
                                   .flags = HARP_FRAME_WANTED,
                                   .lane = 1 + one->sent % 7,
                                   .body = c->body,
                                   .bytes = c->o->bytes};
        int err = send_frame(one->stream, &frame);
        if (err == -EPIPE)
            return;
        one->full = err != 0;
        one->sent += err == 0;
        c->sent += err == 0;
    }
    if (one->sent == c->o->frames)
        harp_h2_close(one->stream);
}

static void answered(void *ctx, struct harp_h2_stream *stream,
                     const struct harp_grpc_answer *answer)
{
    struct one *one = *harp_h2_data(stream);
    memcpy(one->client->table, answer->table, sizeof answer->table);
}

static int reply(void *ctx, struct harp_h2_stream *stream, const uint8_t *data, uint32_t bytes)
{
    struct one *one = *harp_h2_data(stream);
    struct client *c = one->client;
    struct harp_frame frame;
    one->back++;
    c->back++;
    if (harp_frame_get(&frame, data, bytes) != 0 || frame.ack != one->back || frame.op != 4711 ||
        frame.flags != (HARP_FRAME_WANTED | HARP_FRAME_REPLY) ||
        frame.lane != 1 + (one->back - 1) % 7 || frame.bytes != c->o->bytes ||
        (frame.bytes != 0 && memcmp(frame.body, c->body, frame.bytes) != 0))
        c->wrong++;
    if (one->sent < c->o->frames)
        pump(one);
    return 0;
}

static void again(void *ctx, struct harp_h2_stream *stream)
{
    pump(*harp_h2_data(stream));
}

static void ended(void *ctx, struct harp_h2_stream *stream, enum harp_grpc_status status,
                  const char *text)
{
    struct one *one = *harp_h2_data(stream);
    struct client *c = one->client;
    if (c->status == HARP_GRPC_OK) {
        c->status = status;
        snprintf(c->text, sizeof c->text, "%s", text);
    }
    one->stream = NULL;
    if (--c->running == 0)
        harp_conn_close(c->conn, "");
}

static void dialled(void *ctx, struct harp_conn *conn)
{
    struct client *c = ctx;
    char table[HARP_TABLE_TEXT];
    harp_table_put(table, &own_table);
    struct harp_h2_request request = {.method = c->o->bulk ? HARP_GRPC_BULK : HARP_GRPC_SESSION,
                                      .tls = c->o->files.ca != NULL,
                                      .authority = c->o->address,
                                      .token = c->o->token,
                                      .session = c->o->session != NULL ? c->o->session : "echo",
                                      .table = table};
    c->conn = conn;
    for (unsigned i = 0; i < c->o->streams; i++) {
        ones[i] = (struct one){.client = c};
        request.data = &ones[i];
        if (harp_h2_call(harp_conn_h2(conn), &request, &ones[i].stream) != 0)
            continue;
        c->running++;
        pump(&ones[i]);
    }
}

static void lost(void *ctx, struct harp_conn *conn, const char *why)
{
    struct client *c = ctx;
    if (why[0] != '\0' && c->status == HARP_GRPC_OK) {
        c->status = HARP_GRPC_UNAVAILABLE;
        snprintf(c->text, sizeof c->text, "%s", why);
    }
    c->loop.stop = true;
}

/* One line of JSON. The sentence may hold what JSON would have to be told about. */
static void report(const struct client *c, uint64_t ms)
{
    printf("{\"status\": \"%s\", \"sent\": %llu, \"back\": %llu, \"wrong\": %llu, \"ms\": %llu, "
           "\"table\": \"%s\", \"text\": \"",
           harp_grpc_name(c->status), c->sent, c->back, c->wrong, (unsigned long long)ms, c->table);
    for (const char *t = c->text; *t != '\0'; t++)
        printf((unsigned char)*t < ' ' || *t == '"' || *t == '\\' ? "\\u%04x" : "%c",
               (unsigned char)*t);
    printf("\"}\n");
}

static int call(const struct options *o, const struct harp_address *address, struct harp_tls *tls)
{
    static struct client c;
    char why[HARP_WHY_BYTES];
    struct harp_conn *conn;
    c.o = o;
    c.body = malloc(o->bytes + 1);
    for (unsigned i = 0; c.body != NULL && i < o->bytes; i++)
        c.body[i] = (uint8_t)(i * 2654435761u >> 24);
    struct harp_conn_user user = {
        .ctx = &c,
        .open = dialled,
        .gone = lost,
        .handler = {.answered = answered, .message = reply, .room = again, .end = ended},
        .limits = harp_h2_default,
    };
    user.limits.window = user.limits.queue = o->window;
    int err = c.body != NULL ? harp_loop_open(&c.loop) : -ENOMEM;
    if (err != 0)
        return 1;
    uint64_t from = harp_now_ms();
    err = harp_conn_dial(&conn, &c.loop, address, tls, o->name, &user, why);
    if (err != 0)
        lost(&c, NULL, why);
    err = harp_loop_run(&c.loop);
    report(&c, harp_now_ms() - from);
    harp_loop_close(&c.loop);
    free(c.body);
    return err != 0 || c.status != HARP_GRPC_OK || c.wrong != 0;
}

/* --- command line --- */

static int usage(void)
{
    fputs("usage: harp-link-echo serve|call ADDRESS [--token T] [--session S] [--window BYTES]\n"
          "         [--cert FILE --key FILE] [--ca FILE] [--name NAME]\n"
          "         [--frames N] [--bytes N] [--depth N] [--streams N] [--bulk]\n",
          stderr);
    return 2;
}

static int parse(int argc, char **argv, struct options *o)
{
    static const struct option table[] = {
        {"token", 1, NULL, 't'},   {"session", 1, NULL, 's'}, {"window", 1, NULL, 'w'},
        {"cert", 1, NULL, 'c'},    {"key", 1, NULL, 'k'},     {"ca", 1, NULL, 'a'},
        {"name", 1, NULL, 'n'},    {"frames", 1, NULL, 'f'},  {"bytes", 1, NULL, 'b'},
        {"streams", 1, NULL, 'm'}, {"depth", 1, NULL, 'd'},   {"bulk", 0, NULL, 'u'},
        {NULL, 0, NULL, 0}};
    for (int c; (c = getopt_long(argc, argv, "", table, NULL)) != -1;) {
        unsigned n = optarg != NULL ? (unsigned)strtoul(optarg, NULL, 0) : 0;
        switch (c) {
        case 't':
            o->token = optarg;
            break;
        case 's':
            o->session = optarg;
            break;
        case 'w':
            o->window = n;
            break;
        case 'c':
            o->files.certificate = optarg;
            break;
        case 'k':
            o->files.key = optarg;
            break;
        case 'a':
            o->files.ca = optarg;
            break;
        case 'n':
            o->name = optarg;
            break;
        case 'f':
            o->frames = n;
            break;
        case 'b':
            o->bytes = n;
            break;
        case 'd':
            o->depth = n;
            break;
        case 'm':
            o->streams = n;
            break;
        case 'u':
            o->bulk = true;
            break;
        default:
            return -EINVAL;
        }
    }
    if (argc - optind != 2 || o->streams - 1 >= sizeof ones / sizeof *ones)
        return -EINVAL;
    o->serve = strcmp(argv[optind], "serve") == 0;
    o->address = argv[optind + 1];
    return o->serve || strcmp(argv[optind], "call") == 0 ? 0 : -EINVAL;
}

int main(int argc, char **argv)
{
    struct options o = {.frames = 1,
                        .bytes = 64,
                        .streams = 1,
                        .depth = UINT_MAX,
                        .window = harp_h2_default.window};
    struct harp_address address;
    struct harp_tls *tls = NULL;
    char why[HARP_WHY_BYTES];
    if (parse(argc, argv, &o) != 0)
        return usage();
    harp_table_own(&own_table, HARP_VERSION);
    int err = harp_address_parse(&address, o.address, why);
    if (err == 0 && (o.files.certificate != NULL || o.files.ca != NULL))
        err = harp_tls_open(&tls, o.serve, &o.files, why);
    if (err != 0) {
        fprintf(stderr, "harp-link-echo: %s\n", why);
        return 1;
    }
    int code = o.serve ? serve(&o, &address, tls) : call(&o, &address, tls);
    harp_tls_close(tls);
    return code;
}
