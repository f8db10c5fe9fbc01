/* SPDX-License-Identifier: Apache-2.0
 *
 * Frames and packs. The protobuf wire format as far as Frame needs it: varints (type 0) and bytes
 * (type 2); fixed ones (1, 5) are skipped.
 */
#include "src/wire/frame.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "src/wire/codec.h"

/* Field numbers of harp.api.v1.Frame. */
enum { SEQ = 1, OP = 2, FLAGS = 3, ACK = 4, LANE = 5, AT = 6, OF = 7, BODY = 15 };

static uint8_t *put_varint(uint8_t *at, uint64_t value)
{
    while (value > 0x7f) {
        *at++ = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    *at++ = (uint8_t)value;
    return at;
}

static uint8_t *put_number(uint8_t *at, unsigned field, uint64_t value)
{
    if (value == 0)
        return at;
    *at++ = (uint8_t)(field << 3);
    return put_varint(at, value);
}

size_t harp_frame_put(uint8_t header[HARP_FRAME_HEADER_BYTES], const struct harp_frame *frame)
{
    uint8_t *at = header;
    at = put_number(at, SEQ, frame->seq);
    at = put_number(at, OP, frame->op);
    at = put_number(at, FLAGS, frame->flags);
    at = put_number(at, ACK, frame->ack);
    at = put_number(at, LANE, frame->lane);
    at = put_number(at, AT, frame->at);
    at = put_number(at, OF, frame->of);
    if (frame->bytes != 0) {
        *at++ = BODY << 3 | 2;
        at = put_varint(at, frame->bytes);
    }
    return (size_t)(at - header);
}

static int get_varint(const uint8_t *data, size_t size, size_t *used, uint64_t *value)
{
    *value = 0;
    for (unsigned shift = 0; shift < 64 && *used < size; shift += 7) {
        uint8_t byte = data[(*used)++];
        if (shift == 63 && byte > 1)
            return -EINVAL;
        *value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return 0;
    }
    return -EINVAL;
}

static int skip(size_t size, size_t *used, uint64_t bytes)
{
    if (bytes > size - *used)
        return -EINVAL;
    *used += (size_t)bytes;
    return 0;
}

static int get_field(struct harp_frame *frame, const uint8_t *data, size_t size, size_t *used)
{
    uint64_t key, value;
    int err = get_varint(data, size, used, &key);
    if (err != 0)
        return err;
    switch (key & 7) {
    case 0:
        err = get_varint(data, size, used, &value);
        if (err != 0)
            return err;
        if (key >> 3 >= OP && key >> 3 <= LANE && key >> 3 != ACK && value > UINT32_MAX)
            return -EINVAL;
        if (key >> 3 == SEQ)
            frame->seq = value;
        else if (key >> 3 == ACK)
            frame->ack = value;
        else if (key >> 3 == OP)
            frame->op = (uint32_t)value;
        else if (key >> 3 == FLAGS)
            frame->flags = (uint32_t)value;
        else if (key >> 3 == LANE)
            frame->lane = (uint32_t)value;
        else if (key >> 3 == AT)
            frame->at = value;
        else if (key >> 3 == OF)
            frame->of = value;
        return 0;
    case 1:
        return skip(size, used, 8);
    case 2:
        err = get_varint(data, size, used, &value);
        if (err != 0 || key >> 3 != BODY)
            return err != 0 ? err : skip(size, used, value);
        if (value > HARP_WIRE_BODY_BYTES)
            return -E2BIG;
        frame->body = data + *used;
        frame->bytes = (uint32_t)value;
        return skip(size, used, value); /* -EINVAL: it is cut, and nobody looks at it */
    case 5:
        return skip(size, used, 4);
    default:
        return -EINVAL;
    }
}

int harp_frame_get(struct harp_frame *frame, const uint8_t *data, size_t size)
{
    *frame = (struct harp_frame){.op = 0};
    size_t used = 0;
    int err = 0;
    while (used < size && err == 0)
        err = get_field(frame, data, size, &used);
    return err;
}

int harp_pack_put(uint8_t *data, size_t size, size_t *used, uint16_t op, uint16_t flags,
                  uint32_t bytes)
{
    if (size - *used < HARP_PACK_HEADER_BYTES || bytes > size - *used - HARP_PACK_HEADER_BYTES)
        return -E2BIG;
    memcpy(data + *used, &op, sizeof op);
    memcpy(data + *used + 2, &flags, sizeof flags);
    memcpy(data + *used + 4, &bytes, sizeof bytes);
    *used += HARP_PACK_HEADER_BYTES;
    return 0;
}

int harp_pack_get(struct harp_frame *call, const uint8_t *data, size_t size, size_t *used)
{
    uint16_t op, flags;
    if (*used == size)
        return 0;
    if (size - *used < HARP_PACK_HEADER_BYTES)
        return -EINVAL;
    *call = (struct harp_frame){.op = 0};
    memcpy(&op, data + *used, sizeof op);
    memcpy(&flags, data + *used + 2, sizeof flags);
    memcpy(&call->bytes, data + *used + 4, sizeof call->bytes);
    *used += HARP_PACK_HEADER_BYTES;
    if (op < HARP_OP_FIRST || call->bytes % 4 != 0 || call->bytes > size - *used)
        return -EINVAL;
    call->op = op;
    call->flags = flags;
    call->body = data + *used;
    *used += call->bytes;
    return 1;
}

void harp_table_own(struct harp_table_id *id, const char *version)
{
    static const uint8_t hash[32] = HARP_WIRE_TABLE_HASH;
    *id = (struct harp_table_id){.format = HARP_WIRE_FORMAT, .cuda = HARP_WIRE_CUDA};
    memcpy(id->hash, hash, sizeof hash);
    snprintf(id->version, sizeof id->version, "%s", version);
}

void harp_table_put(char text[HARP_TABLE_TEXT], const struct harp_table_id *id)
{
    size_t at = (size_t)snprintf(text, HARP_TABLE_TEXT, "%u %u ", id->format, id->cuda);
    for (size_t i = 0; i < sizeof id->hash; i++)
        at += (size_t)snprintf(text + at, HARP_TABLE_TEXT - at, "%02x", id->hash[i]);
    snprintf(text + at, HARP_TABLE_TEXT - at, " %.*s", (int)sizeof id->version - 1, id->version);
}

static int hex(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int harp_table_get(struct harp_table_id *id, const char *text)
{
    int at = 0;
    *id = (struct harp_table_id){.format = 0};
    if (sscanf(text, "%9u %9u %n", &id->format, &id->cuda, &at) != 2 || at == 0)
        return -EINVAL;
    for (size_t i = 0; i < sizeof id->hash; i++, at += 2) {
        int high = hex(text[at]), low = high < 0 ? -1 : hex(text[at + 1]);
        if (low < 0)
            return -EINVAL;
        id->hash[i] = (uint8_t)(high << 4 | low);
    }
    if (text[at] != ' ' || strlen(text + at + 1) >= sizeof id->version)
        return -EINVAL;
    snprintf(id->version, sizeof id->version, "%s", text + at + 1);
    return 0;
}

/* `HARP 0.1.0 (format 1, CUDA 13.0, table 3f2a11c0)`; what came off the wire is made printable. */
static void name(const struct harp_table_id *id, char *text, size_t size)
{
    char version[sizeof id->version];
    snprintf(version, sizeof version, "%.*s", (int)sizeof id->version - 1, id->version);
    for (char *c = version; *c != '\0'; c++)
        if (*c < '!' || *c > '~')
            *c = '?';
    snprintf(text, size, "HARP %s (format %u, CUDA %u.%u, table %02x%02x%02x%02x)", version,
             id->format, id->cuda / 1000, id->cuda % 1000 / 10, id->hash[0], id->hash[1],
             id->hash[2], id->hash[3]);
}

int harp_table_compare(const struct harp_table_id *own, const struct harp_table_id *other,
                       char *text, size_t size)
{
    if (own->format == other->format && memcmp(own->hash, other->hash, sizeof own->hash) == 0)
        return 0;
    char ours[128], theirs[128];
    name(own, ours, sizeof ours);
    name(other, theirs, sizeof theirs);
    snprintf(
        text, size,
        "the two sides describe CUDA calls differently: here %s, there %s; remedy: install the "
        "same HARP on both",
        ours, theirs);
    return -EPROTO;
}
