/* SPDX-License-Identifier: Apache-2.0
 *
 * gRPC's messages and metadata as bytes: nothing here needs nghttp2 or a network.
 */
#include "src/link/grpc.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "check.h"

#define LIMIT 300u

static uint8_t stream[4096];
static size_t stream_bytes;

static void add(const void *data, uint32_t bytes)
{
    harp_grpc_prefix(stream + stream_bytes, bytes);
    memcpy(stream + stream_bytes + HARP_GRPC_PREFIX_BYTES, data, bytes);
    stream_bytes += HARP_GRPC_PREFIX_BYTES + bytes;
}

/* Three messages, cut at every place and into every size of piece. */
static void messages_come_in_pieces(void)
{
    static uint8_t memory[LIMIT], body[LIMIT];
    static const uint32_t sizes[] = {0, LIMIT, 7};
    for (unsigned i = 0; i < LIMIT; i++)
        body[i] = (uint8_t)(i * 7);
    stream_bytes = 0;
    for (unsigned i = 0; i < 3; i++)
        add(body, sizes[i]);
    for (size_t piece = 1; piece <= stream_bytes; piece++) {
        struct harp_grpc_reader reader = {.data = memory, .limit = LIMIT};
        unsigned seen = 0;
        for (size_t at = 0; at < stream_bytes; at += piece) {
            const uint8_t *data = stream + at, *message;
            size_t size = piece < stream_bytes - at ? piece : stream_bytes - at;
            uint32_t bytes;
            while (harp_grpc_read(&reader, &data, &size, &message, &bytes) == 1) {
                CHECK(seen < 3 && bytes == sizes[seen]);
                CHECK(memcmp(message, body, bytes) == 0);
                seen++;
            }
            CHECK(size == 0);
        }
        CHECK(seen == 3 && !harp_grpc_within(&reader));
    }
}

/* Refused by the prefix alone, before anything is kept. */
static void bad_messages_are_refused(void)
{
    static const struct {
        uint8_t prefix[HARP_GRPC_PREFIX_BYTES];
        int err;
    } cases[] = {
        {{1, 0, 0, 0, 1}, -EBADMSG},
        {{255, 0, 0, 0, 1}, -EBADMSG},
        {{0, 0, 0, 1, LIMIT - 255}, -EMSGSIZE}, /* 256 + 45 = LIMIT + 1 */
        {{0, 255, 255, 255, 255}, -EMSGSIZE},
        {{0, 0, 0, 1, LIMIT - 256}, -ENOBUFS}, /* not refused: it asks for memory */
    };
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct harp_grpc_reader reader = {.data = NULL, .limit = LIMIT};
        const uint8_t *data = cases[i].prefix, *message;
        size_t size = sizeof cases[i].prefix;
        uint32_t bytes;
        CHECK(harp_grpc_read(&reader, &data, &size, &message, &bytes) == cases[i].err);
        CHECK(harp_grpc_within(&reader));
    }
}

struct header {
    const char *name, *value;
};

static struct harp_table_id own;
static char own_text[HARP_TABLE_TEXT];
static const struct harp_grpc_rule rule = {.token = "geheim", .session = "s-1", .own = &own};

/* The call that is right, with one header changed or, with value NULL, left out; and one more. */
static enum harp_grpc_status judge(struct header change, struct header more, char *text,
                                   struct harp_grpc_call *call)
{
    const struct header headers[] = {
        {":method", "POST"},
        {":path", HARP_GRPC_SESSION_PATH},
        {"content-type", "application/grpc"},
        {"te", "trailers"},
        {"authorization", "Bearer geheim"},
        {"harp-session", "s-1"},
        {"harp-table", own_text},
        {"user-agent", "test"},
        more,
    };
    *call = (struct harp_grpc_call){.post = false};
    for (unsigned i = 0; i < sizeof headers / sizeof *headers; i++) {
        struct header h = headers[i];
        if (h.name != NULL && change.name != NULL && strcmp(h.name, change.name) == 0 &&
            i + 1 < sizeof headers / sizeof *headers)
            h = change;
        if (h.name != NULL && h.value != NULL)
            harp_grpc_header(call, h.name, strlen(h.name), h.value, strlen(h.value));
    }
    return harp_grpc_check(call, &rule, text);
}

static void metadata_is_judged(void)
{
    static char long_token[HARP_GRPC_TOKEN_BYTES + 8], other[HARP_TABLE_TEXT];
    struct harp_table_id theirs = own;
    theirs.hash[31] ^= 1;
    snprintf(theirs.version, sizeof theirs.version, "9.9.9");
    harp_table_put(other, &theirs);
    memset(long_token, 'a', sizeof long_token - 1);
    memcpy(long_token, "Bearer ", 7);
    const struct {
        struct header change, more;
        enum harp_grpc_status status;
        const char *says;
    } cases[] = {
        {{0}, {0}, HARP_GRPC_OK, ""},
        {{":path", HARP_GRPC_BULK_PATH}, {0}, HARP_GRPC_OK, ""},
        {{":path", "/harp.api.v1.GpuSession/Sessions"}, {0}, HARP_GRPC_UNIMPLEMENTED, "GpuSession"},
        {{":method", "GET"}, {0}, HARP_GRPC_UNIMPLEMENTED, ""},
        {{"te", NULL}, {0}, HARP_GRPC_INVALID_ARGUMENT, "te: trailers"},
        {{"authorization", NULL}, {0}, HARP_GRPC_UNAUTHENTICATED, "no token"},
        {{"authorization", "Bearer "}, {0}, HARP_GRPC_UNAUTHENTICATED, "no token"},
        {{"authorization", "Basic geheim"}, {0}, HARP_GRPC_UNAUTHENTICATED, "no token"},
        {{"authorization", "Bearer geheim2"}, {0}, HARP_GRPC_UNAUTHENTICATED, "not this session"},
        {{"authorization", "Bearer gehei"}, {0}, HARP_GRPC_UNAUTHENTICATED, "not this session"},
        {{"authorization", "Bearer Geheim"}, {0}, HARP_GRPC_UNAUTHENTICATED, "not this session"},
        {{"authorization", long_token}, {0}, HARP_GRPC_UNAUTHENTICATED, ""},
        {{0}, {"authorization", "Bearer geheim"}, HARP_GRPC_INVALID_ARGUMENT, "twice"},
        {{0}, {"harp-session", "s-1"}, HARP_GRPC_INVALID_ARGUMENT, "twice"},
        {{0}, {"harp-table", "1 2"}, HARP_GRPC_INVALID_ARGUMENT, "twice"},
        {{"harp-session", NULL}, {0}, HARP_GRPC_INVALID_ARGUMENT, "harp-session"},
        {{"harp-session", "s-2"}, {0}, HARP_GRPC_INVALID_ARGUMENT, "harp-session"},
        {{"harp-table", NULL}, {0}, HARP_GRPC_INVALID_ARGUMENT, "harp-table"},
        {{"harp-table", "1 13000 zz 1"}, {0}, HARP_GRPC_INVALID_ARGUMENT, "harp-table"},
        {{"harp-table", other}, {0}, HARP_GRPC_FAILED_PRECONDITION, "HARP 9.9.9"},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[HARP_GRPC_TEXT_BYTES];
        struct harp_grpc_call call;
        enum harp_grpc_status status = judge(cases[i].change, cases[i].more, text, &call);
        if (status != cases[i].status || strstr(text, cases[i].says) == NULL) {
            fprintf(stderr, "case %u: %s: %s\n", i, harp_grpc_name(status), text);
            exit(1);
        }
        CHECK(status != HARP_GRPC_FAILED_PRECONDITION || strstr(text, "HARP 1.2.3") != NULL);
    }
}

static void what_is_grpc(void)
{
    static const struct {
        const char *type;
        bool grpc;
    } cases[] = {{"application/grpc", true},       {"application/grpc+proto", true},
                 {"application/grpc;v=1", true},   {"application/grpc-web", false},
                 {"application/grpc+json", false}, {"application/grp", false},
                 {"application/json", false},      {"", false}};
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[HARP_GRPC_TEXT_BYTES];
        struct harp_grpc_call call;
        judge((struct header){"content-type", cases[i].type}, (struct header){0}, text, &call);
        CHECK(call.grpc == cases[i].grpc);
    }
}

static void answers_have_an_outcome(void)
{
    static const struct {
        const char *http, *type, *status, *message;
        enum harp_grpc_status outcome;
        const char *says;
    } cases[] = {
        {"200", "application/grpc", "0", NULL, HARP_GRPC_OK, ""},
        {"200", "application/grpc", "8", "z%C3%A4h%20%25 %zz%4", HARP_GRPC_RESOURCE_EXHAUSTED,
         "z\xc3\xa4h % %zz%4"},
        {"200", "application/grpc", "14", "a%0d%0ab", HARP_GRPC_UNAVAILABLE, "a??b"},
        {"200", "application/grpc", "17", NULL, HARP_GRPC_UNKNOWN, ""},
        {"200", "application/grpc", "-1", NULL, HARP_GRPC_UNKNOWN, ""},
        {"200", "application/grpc", "", NULL, HARP_GRPC_UNKNOWN, ""},
        {"200", "application/grpc", NULL, NULL, HARP_GRPC_INTERNAL, "without a grpc-status"},
        {"200", "text/html", NULL, NULL, HARP_GRPC_UNKNOWN, "HTTP 200"},
        {"404", "text/html", NULL, NULL, HARP_GRPC_UNIMPLEMENTED, "HTTP 404"},
        {"503", "text/html", NULL, NULL, HARP_GRPC_UNAVAILABLE, "HTTP 503"},
        {"999999", "text/html", NULL, NULL, HARP_GRPC_UNKNOWN, "HTTP 0"},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct harp_grpc_answer answer = {.http = 0};
        const struct header headers[] = {{":status", cases[i].http},
                                         {"content-type", cases[i].type},
                                         {"grpc-status", cases[i].status},
                                         {"grpc-message", cases[i].message}};
        for (unsigned h = 0; h < 4; h++)
            if (headers[h].value != NULL)
                harp_grpc_answer_header(&answer, headers[h].name, strlen(headers[h].name),
                                        headers[h].value, strlen(headers[h].value));
        CHECK(harp_grpc_outcome(&answer) == cases[i].outcome);
        CHECK(strstr(answer.text, cases[i].says) != NULL);
    }
}

static void texts_survive(void)
{
    char all[256], encoded[3 * 255 + 1], back[256];
    for (int i = 1; i < 256; i++)
        all[i - 1] = (char)i;
    all[255] = '\0';
    harp_grpc_percent(encoded, all);
    for (const char *c = encoded; *c != '\0'; c++)
        CHECK(*c >= ' ' && *c <= '~');
    harp_grpc_unpercent(back, sizeof back, encoded, strlen(encoded));
    for (int i = 0; i < 255; i++) /* control characters are no text */
        CHECK(back[i] == ((unsigned char)all[i] < ' ' || all[i] == 0x7f ? '?' : all[i]));
    harp_grpc_percent(encoded, "%41");
    CHECK(strcmp(encoded, "%2541") == 0);
    harp_grpc_unpercent(back, 4, "abcdef", 6);
    CHECK(strcmp(back, "abc") == 0);
}

int main(void)
{
    harp_table_own(&own, "1.2.3");
    harp_table_put(own_text, &own);
    messages_come_in_pieces();
    bad_messages_are_refused();
    metadata_is_judged();
    what_is_grpc();
    answers_have_an_outcome();
    texts_survive();
    return 0;
}
