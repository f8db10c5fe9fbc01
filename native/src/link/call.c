/* SPDX-License-Identifier: Apache-2.0
 *
 * Headers that we send, of calls and of answers to them; what belongs to a call.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "src/link/h2_state.h"

nghttp2_nv h2_header(const char *name, const char *value)
{
    return (nghttp2_nv){.name = (uint8_t *)(uintptr_t)name,
                        .value = (uint8_t *)(uintptr_t)value,
                        .namelen = strlen(name),
                        .valuelen = strlen(value)};
}

void h2_answer(struct harp_h2_stream *s)
{
    nghttp2_nv nv[5] = {h2_header(":status", "200"), h2_header("content-type", "application/grpc")};
    size_t n = 2;
    if (s->h2->table != NULL)
        nv[n++] = h2_header("harp-table", s->h2->table);
    if (s->resume[0] != '\0')
        nv[n++] = h2_header("harp-resume", s->resume);
    if (s->bulk[0] != '\0')
        nv[n++] = h2_header("harp-bulk", s->bulk);
    nghttp2_data_provider provider = h2_provider(s);
    nghttp2_submit_response(s->h2->session, s->id, nv, n, &provider);
}

/* "Trailers-Only": one block of headers, with the status. */
void h2_refuse(struct harp_h2_stream *s)
{
    char status[8], text[3 * HARP_GRPC_TEXT_BYTES + 1];
    snprintf(status, sizeof status, "%d", s->status);
    harp_grpc_percent(text, s->text);
    const nghttp2_nv nv[] = {
        h2_header(":status", "200"),
        h2_header("content-type", "application/grpc"),
        h2_header("grpc-status", status),
        h2_header("grpc-message", text),
    };
    nghttp2_submit_response(s->h2->session, s->id, nv, 4, NULL);
}

void harp_h2_say_resume(struct harp_h2_stream *s, const char *text)
{
    snprintf(s->resume, sizeof s->resume, "%s", text);
}

void harp_h2_say_bulk(struct harp_h2_stream *s, unsigned others)
{
    snprintf(s->bulk, sizeof s->bulk, "%u", others);
}

void harp_h2_accept(struct harp_h2_stream *s)
{
    if (!s->later)
        return;
    s->later = false;
    h2_answer(s);
}

void harp_h2_refuse(struct harp_h2_stream *s, enum harp_grpc_status status, const char *text)
{
    if (!s->later)
        return;
    s->later = false;
    s->mute = s->closing = true;
    s->status = status;
    snprintf(s->text, sizeof s->text, "%s", text);
    h2_refuse(s);
}

bool harp_h2_broke(const struct harp_h2_stream *s)
{
    return s->broken;
}

int harp_h2_call(struct harp_h2 *h2, const struct harp_h2_request *request,
                 struct harp_h2_stream **out)
{
    char bearer[HARP_GRPC_TOKEN_BYTES + 8];
    snprintf(bearer, sizeof bearer, "Bearer %s", request->token != NULL ? request->token : "");
    nghttp2_nv nv[11] = {
        h2_header(":method", "POST"),
        h2_header(":scheme", request->tls ? "https" : "http"),
        h2_header(":path",
                  request->method == HARP_GRPC_BULK ? HARP_GRPC_BULK_PATH : HARP_GRPC_SESSION_PATH),
        h2_header(":authority", request->authority),
        h2_header("te", "trailers"),
        h2_header("content-type", "application/grpc"),
        h2_header("harp-session", request->session),
        h2_header("harp-table", request->table),
    };
    size_t n = 8;
    if (request->token != NULL) {
        nv[n] = h2_header("authorization", bearer);
        nv[n++].flags = NGHTTP2_NV_FLAG_NO_INDEX; /* kept out of the compression's memory */
    }
    if (request->resume != NULL)
        nv[n++] = h2_header("harp-resume", request->resume);
    if (request->bulk != NULL)
        nv[n++] = h2_header("harp-bulk", request->bulk);
    struct harp_h2_stream *s = h2->draining ? NULL : h2_new_stream(h2);
    if (s == NULL)
        return h2->draining ? -EPIPE : -ENOMEM;
    nghttp2_data_provider provider = h2_provider(s);
    s->data = request->data;
    s->began = true;
    s->id = nghttp2_submit_request(h2->session, NULL, nv, n, &provider, s);
    if (s->id < 0) {
        int err = s->id == NGHTTP2_ERR_NOMEM ? -ENOMEM : -EPIPE;
        h2_free_stream(s);
        return err;
    }
    *out = s;
    return 0;
}

void **harp_h2_data(struct harp_h2_stream *stream)
{
    return &stream->data;
}

void harp_h2_own(struct harp_h2 *h2, void *owner)
{
    h2->owner = owner;
}

void *harp_h2_owner(const struct harp_h2_stream *stream)
{
    return stream->h2->owner;
}
