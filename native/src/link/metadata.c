/* SPDX-License-Identifier: Apache-2.0
 *
 * Metadata of calls and answers: which headers mean something, and what a call must bring.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "src/link/grpc.h"

static bool is(const char *text, size_t size, const char *word)
{
    return size == strlen(word) && memcmp(text, word, size) == 0;
}

static bool starts(const char *text, size_t size, const char *word)
{
    return size >= strlen(word) && memcmp(text, word, strlen(word)) == 0;
}

/* `application/grpc`, or that with `+proto` or parameters; not `application/grpc-web`. */
static bool is_grpc(const char *value, size_t size)
{
    static const char type[] = "application/grpc";
    size_t n = sizeof type - 1;
    return starts(value, size, type) &&
           (size == n || value[n] == ';' || is(value + n, size - n, "+proto"));
}

/* Once, whole, without NULs. */
static bool keep(char *to, size_t room, const char *value, size_t size)
{
    if (to[0] != '\0' || size >= room || memchr(value, '\0', size) != NULL)
        return false;
    memcpy(to, value, size);
    to[size] = '\0';
    return true;
}

static bool keep_token(struct harp_grpc_call *call, const char *value, size_t size)
{
    static const char scheme[] = "Bearer ";
    size_t n = sizeof scheme - 1;
    return starts(value, size, scheme) &&
           keep(call->token, sizeof call->token, value + n, size - n);
}

void harp_grpc_header(struct harp_grpc_call *call, const char *name, size_t name_size,
                      const char *value, size_t value_size)
{
    bool ok = true;
    if (is(name, name_size, ":method"))
        call->post = is(value, value_size, "POST");
    else if (is(name, name_size, ":path"))
        call->method = is(value, value_size, HARP_GRPC_SESSION_PATH) ? HARP_GRPC_SESSION
                       : is(value, value_size, HARP_GRPC_BULK_PATH)  ? HARP_GRPC_BULK
                                                                     : HARP_GRPC_OTHER;
    else if (is(name, name_size, "content-type"))
        call->grpc = is_grpc(value, value_size);
    else if (is(name, name_size, "te"))
        call->trailers = is(value, value_size, "trailers");
    else if (is(name, name_size, "authorization"))
        ok = keep_token(call, value, value_size);
    else if (is(name, name_size, "harp-session"))
        ok = keep(call->session, sizeof call->session, value, value_size);
    else if (is(name, name_size, "harp-table"))
        ok = keep(call->table, sizeof call->table, value, value_size);
    else if (is(name, name_size, "harp-resume"))
        ok = keep(call->resume, sizeof call->resume, value, value_size);
    else if (is(name, name_size, "harp-bulk"))
        ok = keep(call->bulk, sizeof call->bulk, value, value_size);
    call->damaged |= !ok;
}

/* How long it takes says nothing of where the two differ. */
static bool same_secret(const char *own, const char *told)
{
    size_t n = strlen(own), m = strlen(told);
    unsigned differ = n != m;
    for (size_t i = 0; i < m; i++)
        differ |= (unsigned char)(told[i] ^ own[i < n ? i : 0]);
    return differ == 0;
}

static enum harp_grpc_status refuse(enum harp_grpc_status status, char *text, const char *why)
{
    snprintf(text, HARP_GRPC_TEXT_BYTES, "%s", why);
    return status;
}

enum harp_grpc_status harp_grpc_check(const struct harp_grpc_call *call,
                                      const struct harp_grpc_rule *rule, char *text)
{
    text[0] = '\0';
    if (!call->post || call->method == HARP_GRPC_OTHER)
        return refuse(HARP_GRPC_UNIMPLEMENTED, text,
                      "only GpuSession.Session and GpuSession.Bulk of harp.api.v1 are served here");
    if (!call->trailers)
        return refuse(HARP_GRPC_INVALID_ARGUMENT, text,
                      "the header `te: trailers` is missing; remedy: use a gRPC client, and no "
                      "proxy that takes trailers away");
    /* Who has no right here learns nothing else. */
    if (rule->token != NULL && !same_secret(rule->token, call->token))
        return refuse(HARP_GRPC_UNAUTHENTICATED, text,
                      call->token[0] == '\0'
                          ? "no token in the metadata `authorization: Bearer ...`; remedy: attach "
                            "again, and use the token of AttachReply"
                          : "the token is not this session's, or no longer; remedy: attach again");
    if (call->damaged)
        return refuse(
            HARP_GRPC_INVALID_ARGUMENT, text,
            "authorization, harp-session, harp-table, harp-resume or harp-bulk is there twice, or "
            "too long");
    if (rule->session != NULL && strcmp(rule->session, call->session) != 0)
        return refuse(HARP_GRPC_INVALID_ARGUMENT, text,
                      "harp-session is not the session that this worker is for; remedy: use the "
                      "id and the address of the same AttachReply");
    struct harp_table_id other;
    if (call->table[0] == '\0' || harp_table_get(&other, call->table) != 0)
        return refuse(HARP_GRPC_INVALID_ARGUMENT, text,
                      "harp-table is missing or is not `format cuda hash version`");
    if (harp_table_compare(rule->own, &other, text, HARP_GRPC_TEXT_BYTES) != 0)
        return HARP_GRPC_FAILED_PRECONDITION;
    return HARP_GRPC_OK;
}

/* A decimal number below 1000, or -1. */
static int small_number(const char *value, size_t size)
{
    int n = 0;
    if (size == 0 || size > 3)
        return -1;
    for (size_t i = 0; i < size; i++) {
        if (value[i] < '0' || value[i] > '9')
            return -1;
        n = n * 10 + value[i] - '0';
    }
    return n;
}

int harp_bulk_wish(unsigned *others, const char *text)
{
    int n = text[0] == '\0' ? 0 : small_number(text, strlen(text));
    *others = n > 0 ? (unsigned)n : 0;
    return text[0] != '\0' && (n < 1 || n > (int)HARP_BULK_MOST) ? -EINVAL : 0;
}

void harp_grpc_answer_header(struct harp_grpc_answer *answer, const char *name, size_t name_size,
                             const char *value, size_t value_size)
{
    if (is(name, name_size, ":status")) {
        int n = small_number(value, value_size);
        answer->http = n < 0 ? 0 : (unsigned)n;
    } else if (is(name, name_size, "content-type")) {
        answer->grpc = is_grpc(value, value_size);
    } else if (is(name, name_size, "grpc-status")) {
        int n = small_number(value, value_size);
        answer->told = true;
        answer->status =
            n < 0 || n >= (int)HARP_GRPC_STATUSES ? HARP_GRPC_UNKNOWN : (enum harp_grpc_status)n;
    } else if (is(name, name_size, "grpc-message")) {
        harp_grpc_unpercent(answer->text, sizeof answer->text, value, value_size);
    } else if (is(name, name_size, "harp-table")) {
        if (!keep(answer->table, sizeof answer->table, value, value_size))
            answer->table[0] = '\0'; /* twice: then none */
    } else if (is(name, name_size, "harp-resume")) {
        if (!keep(answer->resume, sizeof answer->resume, value, value_size))
            answer->resume[0] = '\0';
    } else if (is(name, name_size, "harp-bulk")) {
        if (!keep(answer->bulk, sizeof answer->bulk, value, value_size))
            answer->bulk[0] = '\0';
    }
}

/* What gRPC's own clients make of answers that are none of gRPC's. */
static enum harp_grpc_status by_http(unsigned http)
{
    switch (http) {
    case 400:
        return HARP_GRPC_INTERNAL;
    case 401:
        return HARP_GRPC_UNAUTHENTICATED;
    case 403:
        return HARP_GRPC_PERMISSION_DENIED;
    case 404:
        return HARP_GRPC_UNIMPLEMENTED;
    case 429:
    case 502:
    case 503:
    case 504:
        return HARP_GRPC_UNAVAILABLE;
    default:
        return HARP_GRPC_UNKNOWN;
    }
}

enum harp_grpc_status harp_grpc_outcome(struct harp_grpc_answer *answer)
{
    if (answer->told)
        return answer->status;
    if (answer->http == 200 && answer->grpc) {
        snprintf(answer->text, sizeof answer->text, "the call ended without a grpc-status");
        return HARP_GRPC_INTERNAL;
    }
    snprintf(answer->text, sizeof answer->text,
             "the other side answered HTTP %u and no gRPC; is there a proxy, or another service, "
             "at this address?",
             answer->http);
    return by_http(answer->http);
}
