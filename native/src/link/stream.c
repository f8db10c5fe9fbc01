/* SPDX-License-Identifier: Apache-2.0
 *
 * What comes on a call: bytes into messages, and what is kept when the handler would not have one.
 *
 * The window of a call opens by what has been taken, so a peer can make us keep `window` bytes
 * behind the message that waits, and that message.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/link/h2_state.h"

static void taken(struct harp_h2_stream *s, size_t bytes)
{
    if (bytes != 0 && !s->over)
        nghttp2_session_consume_stream(s->h2->session, s->id, bytes);
}

/* Keep what comes behind a message that waits. */
static void hold(struct harp_h2_stream *s, const uint8_t *data, size_t size)
{
    size_t kept = s->held_to - s->held_from;
    if (size > s->h2->limits.window - kept) {
        h2_fail(s, HARP_GRPC_RESOURCE_EXHAUSTED, "more was sent than the window allows");
        return;
    }
    if (size > s->held_room - s->held_to && s->held_from != 0) {
        memmove(s->held, s->held + s->held_from, kept);
        s->held_from = 0;
        s->held_to = kept;
    }
    if (size > s->held_room - s->held_to) {
        size_t room = 2 * (kept + size);
        room = room < s->h2->limits.window ? room : s->h2->limits.window;
        uint8_t *larger = realloc(s->held, room);
        if (larger == NULL) {
            h2_fail(s, HARP_GRPC_RESOURCE_EXHAUSTED, "no memory for what waits");
            return;
        }
        s->held = larger;
        s->held_room = room;
    }
    memcpy(s->held + s->held_to, data, size);
    s->held_to += size;
    s->h2->held += size;
}

void h2_drop_held(struct harp_h2_stream *s)
{
    s->h2->held -= s->held_to - s->held_from + (s->waiting ? s->waiting_bytes : 0);
    free(s->held);
    s->held = NULL;
    s->held_from = s->held_to = s->held_room = 0;
    s->waiting = false;
}

static void too_large(struct harp_h2_stream *s)
{
    char text[HARP_GRPC_TEXT_BYTES];
    snprintf(text, sizeof text,
             "a message of %u bytes is above %u; remedy: send larger bytes as chunks of a transfer",
             s->reader.bytes, s->reader.limit);
    h2_fail(s, HARP_GRPC_RESOURCE_EXHAUSTED, text);
}

/* Memory for a message that comes in parts, or that waits: most never do. */
static bool memory(struct harp_h2_stream *s)
{
    if (s->reader.data == NULL)
        s->reader.data = malloc(s->reader.limit);
    if (s->reader.data == NULL)
        h2_fail(s, HARP_GRPC_RESOURCE_EXHAUSTED, "no memory for a message");
    return s->reader.data != NULL;
}

/* Messages out of `data`, until one has to wait. Answers how many bytes were used. */
static size_t eat(struct harp_h2_stream *s, const uint8_t *data, size_t size)
{
    struct harp_h2 *h2 = s->h2;
    const uint8_t *from = data;
    while (!s->mute && !s->waiting) {
        const uint8_t *message, *before = data;
        uint32_t bytes;
        int got = harp_grpc_read(&s->reader, &data, &size, &message, &bytes);
        taken(s, (size_t)(data - before));
        if (got == -EBADMSG)
            h2_fail(s, HARP_GRPC_UNIMPLEMENTED,
                    "a compressed message; remedy: send them as they are (grpc-encoding: "
                    "identity)");
        else if (got == -EMSGSIZE)
            too_large(s);
        else if (got == -ENOBUFS && memory(s))
            continue;
        if (got <= 0)
            break;
        if (h2->handler.message(h2->handler.ctx, s, message, bytes) != -EAGAIN || s->mute ||
            !memory(s))
            continue;
        memmove(s->reader.data, message, bytes);
        s->waiting = true;
        s->waiting_bytes = bytes;
        h2->held += bytes;
    }
    return (size_t)(data - from);
}

void h2_take(struct harp_h2_stream *s, const uint8_t *data, size_t size)
{
    if (!s->mute && !s->waiting && !s->busy) {
        s->busy = true;
        size_t used = eat(s, data, size);
        s->busy = false;
        data += used;
        size -= used;
    }
    if (s->mute)
        taken(s, size);
    else if (size != 0)
        hold(s, data, size);
}

static bool all_taken(const struct harp_h2_stream *s)
{
    return !s->waiting && s->held_from == s->held_to;
}

/* The peer has half-closed: the handler learns it behind the last message. */
static void closed(struct harp_h2_stream *s)
{
    struct harp_h2 *h2 = s->h2;
    if (s->mute || !all_taken(s))
        return;
    if (harp_grpc_within(&s->reader))
        h2_fail(s, HARP_GRPC_INTERNAL, "the stream ends within a message");
    else if (h2->server && s->began && h2->handler.closed != NULL)
        h2->handler.closed(h2->handler.ctx, s);
}

void h2_peer_closed(struct harp_h2_stream *s)
{
    s->ended = true;
    closed(s);
}

/* The message that waited is taken: go on with what is behind it. */
static void go_on(struct harp_h2_stream *s)
{
    s->waiting = false;
    s->h2->held -= s->waiting_bytes;
    size_t used = eat(s, s->held + s->held_from, s->held_to - s->held_from);
    if (s->held == NULL) /* an error has dropped it */
        return;
    s->held_from += used;
    s->h2->held -= used;
    if (s->held_from == s->held_to)
        s->held_from = s->held_to = 0;
}

void harp_h2_resume(struct harp_h2_stream *s)
{
    struct harp_h2 *h2 = s->h2;
    if (!s->waiting || s->busy || s->mute)
        return;
    s->busy = true;
    if (h2->handler.message(h2->handler.ctx, s, s->reader.data, s->waiting_bytes) != -EAGAIN)
        go_on(s);
    s->busy = false;
    if (s->over && (s->mute || all_taken(s)))
        h2_end(s, s->status, s->text);
    else if (s->ended)
        closed(s);
}
