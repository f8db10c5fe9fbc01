/* SPDX-License-Identifier: Apache-2.0
 *
 * gRPC's messages and statuses.
 */
#include "src/link/grpc.h"

#include <errno.h>
#include <string.h>

static const char *const names[HARP_GRPC_STATUSES] = {
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
};

const char *harp_grpc_name(enum harp_grpc_status status)
{
    return names[(unsigned)status < HARP_GRPC_STATUSES ? status : HARP_GRPC_UNKNOWN];
}

void harp_grpc_prefix(uint8_t prefix[HARP_GRPC_PREFIX_BYTES], uint32_t bytes)
{
    prefix[0] = 0;
    for (unsigned i = 0; i < 4; i++)
        prefix[1 + i] = (uint8_t)(bytes >> (24 - 8 * i));
}

/* The prefix is whole: judge it before a byte of the message is kept. */
static int begin(struct harp_grpc_reader *reader)
{
    const uint8_t *p = reader->prefix;
    if (p[0] != 0)
        return -EBADMSG;
    reader->bytes = (uint32_t)p[1] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 8 | p[4];
    reader->have = 0;
    return reader->bytes <= reader->limit ? 0 : -EMSGSIZE;
}

int harp_grpc_read(struct harp_grpc_reader *reader, const uint8_t **data, size_t *size,
                   const uint8_t **message, uint32_t *bytes)
{
    while (reader->prefixed < HARP_GRPC_PREFIX_BYTES) {
        if (*size == 0)
            return 0;
        reader->prefix[reader->prefixed++] = *(*data)++;
        --*size;
        int err = reader->prefixed == HARP_GRPC_PREFIX_BYTES ? begin(reader) : 0;
        if (err != 0)
            return err;
    }
    size_t missing = reader->bytes - reader->have;
    size_t n = missing < *size ? missing : *size;
    if (reader->have == 0 && n == missing) {
        *message = *data;
    } else if (reader->data == NULL) {
        return -ENOBUFS;
    } else {
        if (n != 0)
            memcpy(reader->data + reader->have, *data, n);
        *message = reader->data;
    }
    *data += n;
    *size -= n;
    reader->have += (uint32_t)n;
    if (n < missing)
        return 0;
    *bytes = reader->bytes;
    reader->prefixed = 0;
    return 1;
}

bool harp_grpc_within(const struct harp_grpc_reader *reader)
{
    return reader->prefixed != 0;
}

static bool plain(char c)
{
    return c >= ' ' && c <= '~' && c != '%';
}

void harp_grpc_percent(char *out, const char *text)
{
    static const char digits[] = "0123456789ABCDEF";
    for (; *text != '\0'; text++) {
        if (plain(*text)) {
            *out++ = *text;
            continue;
        }
        *out++ = '%';
        *out++ = digits[(unsigned char)*text >> 4];
        *out++ = digits[*text & 15];
    }
    *out = '\0';
}

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

void harp_grpc_unpercent(char *out, size_t size, const char *text, size_t text_size)
{
    size_t n = 0;
    for (size_t i = 0; i < text_size && n + 1 < size; i++) {
        int high = text[i] == '%' && text_size - i > 2 ? hex(text[i + 1]) : -1;
        int low = high >= 0 ? hex(text[i + 2]) : -1;
        out[n] = text[i];
        if (low >= 0) {
            out[n] = (char)(high << 4 | low);
            i += 2;
        }
        /* It ends up in logs and on terminals. */
        if ((unsigned char)out[n] < ' ' || out[n] == 0x7f)
            out[n] = '?';
        n++;
    }
    out[n] = '\0';
}
