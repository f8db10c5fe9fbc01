/* SPDX-License-Identifier: Apache-2.0
 *
 * Frames, packs, and two sides with different tables.
 */
#include "src/wire/frame.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "check.h"
#include "src/wire/codec.h"

static const struct harp_frame frames[] = {
    {.seq = 1, .op = HARP_OP_cuInit, .flags = HARP_FRAME_WANTED, .lane = 1, .bytes = 4},
    {.seq = UINT64_MAX,
     .ack = UINT64_MAX,
     .op = UINT32_MAX,
     .flags = UINT32_MAX,
     .lane = UINT32_MAX,
     .at = UINT64_MAX,
     .of = UINT64_MAX,
     .bytes = 300},
    {.ack = 5, .op = 1},
    {.ack = 5, .flags = HARP_FRAME_BULK, .at = 256u << 10, .of = 4u << 20, .bytes = 7},
};

static void round_trips(void)
{
    for (unsigned i = 0; i < sizeof frames / sizeof *frames; i++) {
        uint8_t bytes[HARP_FRAME_HEADER_BYTES + 300] = {0};
        size_t header = harp_frame_put(bytes, &frames[i]);
        CHECK(header <= HARP_FRAME_HEADER_BYTES);
        struct harp_frame read;
        CHECK(harp_frame_get(&read, bytes, header + frames[i].bytes) == 0);
        CHECK(read.seq == frames[i].seq && read.ack == frames[i].ack && read.op == frames[i].op);
        CHECK(read.flags == frames[i].flags && read.bytes == frames[i].bytes);
        CHECK(read.lane == frames[i].lane);
        CHECK(read.at == frames[i].at && read.of == frames[i].of);
        CHECK(read.bytes == 0 || read.body == bytes + header);
        for (size_t size = 1; read.bytes != 0 && size < frames[i].bytes; size++)
            CHECK(harp_frame_get(&read, bytes, header + size) == -EINVAL);
    }
}

static void foreign_fields(void)
{
    /* What a later HARP may add, in any order: field 9 fixed64, 10 fixed32, 11 bytes, 12 varint. */
    static const uint8_t bytes[] = {0x49, 1, 2,    3,  4,    5, 6, 7, 8,    0x55, 1, 2,
                                    3,    4, 0x10, 70, 0x5a, 2, 9, 9, 0x60, 0xff, 1};
    struct harp_frame read;
    CHECK(harp_frame_get(&read, bytes, sizeof bytes) == 0 && read.op == 70);
    static const uint8_t bad[][4] = {{0x0b}, {0x10, 0x80}, {0x7a, 9}, {0x0d, 1, 2}};
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(harp_frame_get(&read, bad[i], i == 0 ? 1 : i == 3 ? 3 : 2) == -EINVAL);
}

static void large_bodies(void)
{
    static uint8_t bytes[HARP_FRAME_HEADER_BYTES + HARP_WIRE_BODY_BYTES + 1];
    struct harp_frame frame = {.op = 70, .bytes = HARP_WIRE_BODY_BYTES}, read;
    CHECK(harp_frame_get(&read, bytes, harp_frame_put(bytes, &frame) + frame.bytes) == 0);
    frame.bytes++;
    CHECK(harp_frame_get(&read, bytes, harp_frame_put(bytes, &frame) + frame.bytes) == -E2BIG);
}

static void packs(void)
{
    uint8_t data[64];
    size_t used = 0;
    CHECK(harp_pack_put(data, sizeof data, &used, HARP_OP_cuLaunchKernel, 4, 8) == 0);
    memset(data + used, 7, 8);
    used += 8;
    CHECK(harp_pack_put(data, sizeof data, &used, HARP_OP_cuEventRecord, 0, 0) == 0);
    CHECK(harp_pack_put(data, sizeof data, &used, HARP_OP_cuEventRecord, 0, 64) == -E2BIG);
    size_t size = used, at = 0;
    struct harp_frame call;
    CHECK(harp_pack_get(&call, data, size, &at) == 1);
    CHECK(call.op == HARP_OP_cuLaunchKernel && call.flags == 4 && call.bytes == 8);
    CHECK(call.body[7] == 7);
    CHECK(harp_pack_get(&call, data, size, &at) == 1 && call.op == HARP_OP_cuEventRecord);
    CHECK(harp_pack_get(&call, data, size, &at) == 0);
    at = 0;
    CHECK(harp_pack_get(&call, data, 15, &at) == -EINVAL); /* the body is cut */
    uint16_t own = HARP_OP_PACK;
    memcpy(data, &own, sizeof own); /* a pack in a pack */
    at = 0;
    CHECK(harp_pack_get(&call, data, size, &at) == -EINVAL);
}

static void tables(void)
{
    struct harp_table_id own, other;
    char text[512] = "";
    harp_table_own(&own, "0.1.0");
    harp_table_own(&other, "0.1.1");
    CHECK(harp_table_compare(&own, &other, text, sizeof text) == 0); /* the version may differ */
    char line[HARP_TABLE_TEXT];
    struct harp_table_id read;
    harp_table_put(line, &other);
    CHECK(harp_table_get(&read, line) == 0 && memcmp(&read, &other, sizeof read) == 0);
    for (size_t size = strlen(line); size-- > 0;) {
        line[size] = '\0'; /* numbers, hash and a blank are 73 characters; a version may be cut */
        CHECK(harp_table_get(&read, line) == (size >= 73 ? 0 : -EINVAL));
    }
    CHECK(harp_table_get(&read, "") == -EINVAL && harp_table_get(&read, "1 13000 xyz") == -EINVAL);
    other.hash[0] ^= 1;
    other.cuda = 13010;
    CHECK(harp_table_compare(&own, &other, text, sizeof text) == -EPROTO);
    CHECK(strstr(text, "here HARP 0.1.0 (format 1, CUDA 13.0, table ") != NULL);
    CHECK(strstr(text, "there HARP 0.1.1 (format 1, CUDA 13.1, table ") != NULL);
    CHECK(strstr(text, "remedy: ") != NULL);
    memset(other.version, '\n', sizeof other.version); /* no NUL, nothing to print */
    CHECK(harp_table_compare(&own, &other, text, sizeof text) == -EPROTO);
    CHECK(strchr(text, '\n') == NULL && strstr(text, "remedy: ") != NULL);
}

/* For the comparison with protobuf: `seq ack op flags lane bytes header`, one frame a line. */
static void vectors(void)
{
    for (unsigned i = 0; i < sizeof frames / sizeof *frames; i++) {
        const struct harp_frame *f = &frames[i];
        uint8_t header[HARP_FRAME_HEADER_BYTES];
        size_t bytes = harp_frame_put(header, f);
        printf("%llu %llu %llu %llu %u %u %u %u ", (unsigned long long)f->seq,
               (unsigned long long)f->ack, (unsigned long long)f->at, (unsigned long long)f->of,
               f->op, f->flags, f->lane, f->bytes);
        for (size_t b = 0; b < bytes; b++)
            printf("%02x", header[b]);
        putchar('\n');
    }
}

int main(int argc, char **argv)
{
    (void)argv;
    if (argc > 1) {
        vectors();
        return 0;
    }
    round_trips();
    foreign_fields();
    large_bodies();
    packs();
    tables();
    return 0;
}
