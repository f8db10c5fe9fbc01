/* SPDX-License-Identifier: Apache-2.0
 *
 * Both sides of a connection fed with arbitrary bytes: no access outside a buffer, no leak, every
 * call that began ends once, and what a peer can make us keep stays within the windows.
 *
 * LLVMFuzzerTestOneInput for libFuzzer: the first byte says which side, the second how its user
 * behaves. With HARP_FUZZ_MAIN a main that records what a real peer says and damages it, frame by
 * frame and byte by byte, for ctest.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/link/h2.h"

#define WINDOW (64u << 10)

static struct {
    unsigned long long messages, ends, refused, held_back;
} seen;

static void broken(const char *what)
{
    fprintf(stderr, "broken: %s\n", what);
    abort();
}

static uint64_t draw(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return *seed >> 33;
}

/* One side: its bytes come from `data` in pieces; what it says is kept in `said`, if there is. */
struct side {
    struct harp_h2 *h2;
    const uint8_t *data;
    size_t size;
    uint64_t seed;
    bool server, lazy;
    unsigned began, ended;
    struct harp_h2_stream *waiting;
    uint8_t *said;
    size_t said_bytes, said_room;
};

static ssize_t from_peer(void *ctx, void *data, size_t size)
{
    struct side *s = ctx;
    if (s->size == 0)
        return -EAGAIN;
    size_t n = s->said != NULL ? s->size : 1 + draw(&s->seed) % s->size;
    n = n < size ? n : size;
    memcpy(data, s->data, n);
    s->data += n;
    s->size -= n;
    return (ssize_t)n;
}

static ssize_t to_peer(void *ctx, const struct iovec *pieces, int count)
{
    struct side *s = ctx;
    size_t sum = 0;
    for (int i = 0; i < count; i++) {
        const uint8_t *from = pieces[i].iov_base;
        volatile uint8_t last = pieces[i].iov_len != 0 ? from[pieces[i].iov_len - 1] : 0;
        (void)last; /* ASan looks at what would be sent */
        if (s->said != NULL && pieces[i].iov_len <= s->said_room - s->said_bytes) {
            memcpy(s->said + s->said_bytes, from, pieces[i].iov_len);
            s->said_bytes += pieces[i].iov_len;
        }
        sum += pieces[i].iov_len;
    }
    return s->said != NULL || draw(&s->seed) % 2 == 0 ? (ssize_t)sum
                                                      : (ssize_t)(1 + draw(&s->seed) % sum);
}

static void release(struct harp_h2_message *message)
{
    free(message);
}

static int put(struct harp_h2_stream *stream, const void *body, uint32_t bytes)
{
    struct harp_h2_message *m = malloc(sizeof *m + bytes);
    if (m == NULL)
        exit(1);
    if (bytes != 0)
        memcpy(m + 1, body, bytes);
    const struct harp_frame frame = {
        .seq = 1, .op = 70, .body = (const uint8_t *)(m + 1), .bytes = bytes};
    harp_h2_frame(m, &frame);
    m->release = release;
    int err = harp_h2_put(stream, m);
    if (err != 0)
        free(m);
    return err;
}

static enum harp_grpc_status begin(void *ctx, struct harp_h2_stream *stream,
                                   const struct harp_grpc_call *call, char *text)
{
    struct side *s = ctx;
    struct harp_table_id own;
    harp_table_own(&own, "1");
    const struct harp_grpc_rule rule = {.token = "t", .own = &own};
    enum harp_grpc_status status = harp_grpc_check(call, &rule, text);
    s->began += status == HARP_GRPC_OK;
    seen.refused += status != HARP_GRPC_OK;
    return status;
}

static int message(void *ctx, struct harp_h2_stream *stream, const uint8_t *data, uint32_t bytes)
{
    struct side *s = ctx;
    seen.messages++;
    if (bytes > HARP_GRPC_MESSAGE_BYTES)
        broken("a message beyond the limit");
    if (s->lazy && (s->waiting == NULL || s->waiting == stream) && draw(&s->seed) % 2 == 0) {
        s->waiting = stream;
        return -EAGAIN;
    }
    if (s->waiting == stream)
        s->waiting = NULL;
    switch (draw(&s->seed) % 16) {
    case 0:
        if (s->server)
            harp_h2_finish(stream, HARP_GRPC_OK, "");
        else
            harp_h2_close(stream);
        return 0;
    case 1:
        harp_h2_cancel(stream);
        return 0;
    default:
        return put(stream, data, bytes) == -EAGAIN && s->waiting == NULL
                   ? (s->waiting = stream, -EAGAIN)
                   : 0;
    }
}

static void closed(void *ctx, struct harp_h2_stream *stream)
{
    harp_h2_finish(stream, HARP_GRPC_OK, "");
}

static void end(void *ctx, struct harp_h2_stream *stream, enum harp_grpc_status status,
                const char *text)
{
    struct side *s = ctx;
    if (s->waiting == stream)
        s->waiting = NULL;
    if (++s->ended > s->began || status >= HARP_GRPC_STATUSES || (status != 0 && text == NULL))
        broken("an end too many, or one that is none");
    seen.ends++;
}

static const struct harp_h2_limits limits = {
    .window = WINDOW, .queue = WINDOW, .streams = 4, .refused = 8};

static void open_side(struct side *s)
{
    const struct harp_h2_handler handler = {
        .ctx = s, .begin = begin, .message = message, .closed = closed, .end = end};
    const struct harp_io io = {.ctx = s, .recv = from_peer, .send = to_peer};
    if (harp_h2_open(&s->h2, s->server, &limits, &handler, &io, "1 1") != 0)
        exit(1);
}

static void calls(struct side *s)
{
    static const uint8_t body[5000] = {1, 2, 3};
    char table[HARP_TABLE_TEXT];
    struct harp_table_id own;
    harp_table_own(&own, "1");
    harp_table_put(table, &own);
    const struct harp_h2_request request = {.method = HARP_GRPC_SESSION,
                                            .authority = "a",
                                            .token = "t",
                                            .session = "s",
                                            .table = table};
    for (unsigned i = 0; i < 3; i++) {
        struct harp_h2_stream *stream;
        if (harp_h2_call(s->h2, &request, &stream) != 0)
            broken("a call that cannot be made");
        s->began++;
        for (unsigned n = 0; n < 4; n++)
            (void)put(stream, body, n * n * 500);
        if (i == 0)
            harp_h2_close(stream);
    }
}

/* Until nothing more is said. */
static void run(struct side *s)
{
    for (unsigned round = 0; round < 1000; round++) {
        size_t before = s->size;
        int got = harp_h2_readable(s->h2);
        int sent = harp_h2_flush(s->h2);
        if (harp_h2_held(s->h2) > limits.streams * (WINDOW + HARP_GRPC_MESSAGE_BYTES))
            broken("more is kept than the windows allow");
        seen.held_back += s->waiting != NULL;
        if (s->waiting != NULL)
            harp_h2_resume(s->waiting);
        if (got < 0 || sent < 0 || (s->size == 0 && before == 0))
            break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    struct side s = {.server = data[0] % 4 != 0, .lazy = data[1] % 2 != 0, .seed = data[1] / 2};
    s.data = data + 2;
    s.size = size - 2;
    open_side(&s);
    if (!s.server) {
        calls(&s);
        (void)harp_h2_flush(s.h2);
    }
    run(&s);
    harp_h2_free(s.h2, "over");
    if (s.began != s.ended)
        broken("a call that began and did not end");
    return 0;
}

#ifdef HARP_FUZZ_MAIN
/* What both sides of an honest connection say. */
static struct side client, server;

static void record(void)
{
    static uint8_t said[2][256 << 10];
    client = (struct side){.said = said[0], .said_room = sizeof said[0], .seed = 5};
    server = (struct side){.server = true, .said = said[1], .said_room = sizeof said[1], .seed = 6};
    open_side(&client);
    open_side(&server);
    calls(&client);
    size_t to_server = 0, to_client = 0;
    for (unsigned round = 0; round < 20; round++) {
        (void)harp_h2_flush(client.h2);
        server.data = client.said + to_server;
        server.size = client.said_bytes - to_server;
        to_server = client.said_bytes;
        (void)harp_h2_readable(server.h2);
        (void)harp_h2_flush(server.h2);
        client.data = server.said + to_client;
        client.size = server.said_bytes - to_client;
        to_client = server.said_bytes;
        (void)harp_h2_readable(client.h2);
    }
    harp_h2_free(client.h2, "over");
    harp_h2_free(server.h2, "over");
}

/* Damage: a byte, a number in a frame's head, a frame twice, a frame left out, a foreign frame. */
static size_t damage(uint64_t *seed, uint8_t *data, size_t size, size_t room, bool magic)
{
    size_t heads[512], count = 0, at = magic ? 24 : 0;
    while (at + 9 <= size && count < 512) {
        heads[count++] = at;
        at += 9 + ((size_t)data[at] << 16 | (size_t)data[at + 1] << 8 | data[at + 2]);
    }
    size_t pick = count != 0 ? heads[draw(seed) % count] : 0;
    size_t frame = 9 + ((size_t)data[pick] << 16 | (size_t)data[pick + 1] << 8 | data[pick + 2]);
    frame = frame < size - pick ? frame : size - pick;
    switch (draw(seed) % 6) {
    case 0:
        data[draw(seed) % size] = (uint8_t)draw(seed);
        return size;
    case 1:
        data[(pick + draw(seed) % 9) % size] ^= (uint8_t)(1u << draw(seed) % 8);
        return size;
    case 2:
        if (frame > room - size)
            return size;
        memmove(data + pick + frame, data + pick, size - pick);
        return size + frame;
    case 3:
        memmove(data + pick, data + pick + frame, size - pick - frame);
        return size - frame;
    case 4:
        if (frame > 9)
            data[pick + 9 + draw(seed) % (frame - 9)] = (uint8_t)draw(seed);
        return size;
    default:
        if (room - size < 17)
            return size;
        memmove(data + pick + 17, data + pick, size - pick);
        memset(data + pick, 0, 9);
        for (unsigned i = 0; i < 8; i++)
            data[pick + 9 + i] = (uint8_t)(draw(seed) % 4 == 0 ? draw(seed) : 0);
        data[pick + 2] = 8;
        data[pick + 3] = (uint8_t)(draw(seed) % 11);
        data[pick + 4] = (uint8_t)(draw(seed) % 4 == 0 ? draw(seed) : 0);
        data[pick + 8] = (uint8_t)(draw(seed) % 8);
        return size + 17;
    }
}

int main(int argc, char **argv)
{
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
    unsigned rounds = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 0) : 20000;
    static uint8_t data[300 << 10];
    record();
    printf("seed %llu, %u rounds; honest sides say %zu and %zu bytes\n", (unsigned long long)seed,
           rounds, client.said_bytes, server.said_bytes);
    seen.ends = seen.messages = seen.refused = 0;
    for (unsigned i = 0; i < rounds; i++) {
        data[0] = (uint8_t)(draw(&seed) % 8);
        data[1] = (uint8_t)draw(&seed);
        const struct side *honest = data[0] % 4 != 0 ? &client : &server;
        size_t size = honest->said_bytes;
        memcpy(data + 2, honest->said, size);
        for (uint64_t n = draw(&seed) % 5; n > 0 && size > 24; n--)
            size = damage(&seed, data + 2, size, sizeof data - 2, honest == &client);
        if (draw(&seed) % 8 == 0)
            size = draw(&seed) % (size + 1);
        uint8_t *exact = malloc(size + 2);
        if (exact == NULL)
            return 1;
        memcpy(exact, data, size + 2);
        (void)LLVMFuzzerTestOneInput(exact, size + 2);
        free(exact);
    }
    printf("messages %llu, ends %llu, calls refused %llu, rounds held back %llu\n", seen.messages,
           seen.ends, seen.refused, seen.held_back);
    return seen.messages == 0 || seen.ends == 0 || seen.refused == 0 || seen.held_back == 0;
}
#endif
