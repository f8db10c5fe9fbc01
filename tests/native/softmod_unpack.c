/* SPDX-License-Identifier: Apache-2.0
 *
 * The unpackers of fat binaries and the walk through them, on real streams (zstd_streams.py) and on
 * damaged ones: nothing is read or written out of bounds (inputs and outputs have memory of their
 * own size, the sanitizers watch), and what claims to have worked is right.
 */
#include "soft_test.h"

#include "soft/gpu/module_fatbin.h"
#include "soft/gpu/module_unpack.h"
#include "soft/gpu/zstd.h"

struct stream {
    const char *name;
    size_t whole, bytes;
    const unsigned char *packed;
};

static const struct stream zstd_streams[] = {
#include "zstd_streams.inc"
};
static const struct stream lz4_blocks[] = {
#include "lz4_blocks.inc"
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define MUTATIONS    100000u

static uint64_t seed = 20261125;

static uint32_t dice(size_t sides)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(seed >> 33) % (uint32_t)sides;
}

static unsigned char *memory(size_t bytes)
{
    unsigned char *p = malloc(bytes != 0 ? bytes : 1);
    CHECK(p != NULL);
    return p;
}

static void put(unsigned char *at, uint64_t value, size_t bytes)
{
    memcpy(at, &value, bytes); /* little end first, as the machine */
}

/* A copy with a few bytes changed, at times cut short. */
static unsigned char *damaged(const unsigned char *from, size_t *bytes)
{
    unsigned char *copy = memory(*bytes);
    memcpy(copy, from, *bytes);
    for (uint32_t hits = dice(8) == 0 ? 0 : 1 + dice(3); hits > 0; hits--) {
        size_t at = dice(3) == 0 ? dice(*bytes < 40 ? *bytes : 40) : dice(*bytes);
        static const unsigned char odd[] = {0, 1, 0x7f, 0x80, 0xff};
        switch (dice(3)) {
        case 0:
            copy[at] ^= (unsigned char)(1u << dice(8));
            break;
        case 1:
            copy[at] = odd[dice(COUNT(odd))];
            break;
        default:
            copy[at] = (unsigned char)dice(256);
        }
    }
    if (dice(4) == 0) {
        size_t cut = dice(*bytes + 1);
        unsigned char *shorter = memory(cut);
        memcpy(shorter, copy, cut);
        free(copy);
        *bytes = cut;
        return shorter;
    }
    return copy;
}

static void real_streams_unpack(void *arg)
{
    for (size_t i = 0; i < COUNT(zstd_streams); i++) {
        const struct stream *s = &zstd_streams[i];
        unsigned char *out = memory(s->whole + 1);
        CHECK_IS(0, soft_zstd_unpack(s->packed, s->bytes, out, s->whole));
        CHECK_IS(-EINVAL, soft_zstd_unpack(s->packed, s->bytes, out, s->whole - 1));
        CHECK_IS(-EINVAL, soft_zstd_unpack(s->packed, s->bytes, out, s->whole + 1));
        CHECK_IS(-EINVAL, soft_zstd_unpack(s->packed, s->bytes - 1, out, s->whole));
        free(out);
    }
    for (size_t i = 0; i < COUNT(lz4_blocks); i++) {
        const struct stream *s = &lz4_blocks[i];
        unsigned char *out = memory(s->whole);
        CHECK_IS(s->whole, soft_lz4_unpack(s->packed, s->bytes, out, s->whole));
        /* the sources are the same: so are the results */
        for (size_t k = 0; k < COUNT(zstd_streams); k++) {
            if (strncmp(zstd_streams[k].name, s->name, strlen(s->name)) != 0)
                continue;
            unsigned char *other = memory(s->whole);
            CHECK_IS(0, soft_zstd_unpack(zstd_streams[k].packed, zstd_streams[k].bytes, other,
                                         s->whole));
            CHECK(memcmp(out, other, s->whole) == 0);
            free(other);
            break;
        }
        free(out);
    }
}

/* All streams have checksums: what passes is what was packed. */
static void damaged_zstd_is_an_error(void *arg)
{
    unsigned char *right[COUNT(zstd_streams)];
    unsigned passed = 0, refused = 0;
    for (size_t i = 0; i < COUNT(zstd_streams); i++) {
        right[i] = memory(zstd_streams[i].whole);
        OK(soft_zstd_unpack(zstd_streams[i].packed, zstd_streams[i].bytes, right[i],
                            zstd_streams[i].whole));
    }
    for (unsigned round = 0; round < MUTATIONS; round++) {
        size_t which = round % COUNT(zstd_streams), bytes = zstd_streams[which].bytes;
        size_t whole = dice(16) == 0 ? dice(zstd_streams[which].whole) : zstd_streams[which].whole;
        unsigned char *in = damaged(zstd_streams[which].packed, &bytes), *out = memory(whole);
        int err = soft_zstd_unpack(in, bytes, out, whole);
        CHECK(err == 0 || err == -EINVAL || err == -ENOTSUP);
        CHECK(err != 0 || (whole == zstd_streams[which].whole || whole == 0));
        CHECK(err != 0 || memcmp(out, right[which], whole) == 0);
        passed += err == 0;
        refused += err != 0;
        free(in);
        free(out);
    }
    for (size_t i = 0; i < COUNT(zstd_streams); i++)
        free(right[i]);
    CHECK(passed > 1000); /* those that nothing hit */
    CHECK(refused > MUTATIONS / 2);
}

/* Frames of random blocks: what no packer writes. Returns the bytes. */
static size_t invent(unsigned char *to)
{
    static const unsigned char magic[] = {0x28, 0xb5, 0x2f, 0xfd};
    unsigned char *at = to;
    memcpy(at, magic, 4);
    at += 4;
    *at++ = dice(2) ? 0 : 4;              /* no content size; a checksum, perhaps */
    *at++ = (unsigned char)(dice(9) * 8); /* windows of 1 to 256 KiB */
    for (uint32_t blocks = 1 + dice(4); blocks > 0; blocks--) {
        uint32_t type = dice(8) ? 1 + dice(2) : dice(4);
        uint32_t bytes = type == 1 ? dice(200000) : 2 + dice(120);
        *at++ = (unsigned char)((blocks == 1) | type << 1 | bytes << 3);
        *at++ = (unsigned char)(bytes >> 5);
        *at++ = (unsigned char)(bytes >> 13);
        bytes = type == 1 ? 1 : bytes;
        for (uint32_t i = 0; i < bytes; i++)
            at[i] = dice(3) ? (unsigned char)dice(256) : 0;
        if (type == 2 && dice(2)) { /* literals: one byte, often, far more of them than can be */
            uint32_t count = dice(2) ? dice(300) : dice(1u << 20);
            at[0] = (unsigned char)(1 | 3 << 2 | count << 4);
            at[1] = (unsigned char)(count >> 4);
            at[2] = (unsigned char)(count >> 12);
        } else if (type == 2 && bytes > 30) { /* or packed ones, which take about half of it */
            uint32_t packed = 15 + dice(bytes / 2 - 14), count = 1 + dice(400);
            at[0] = (unsigned char)(2 | (dice(2) << 2) | count << 4);
            at[1] = (unsigned char)(count >> 4 | packed << 6);
            at[2] = (unsigned char)(packed >> 2);
            at[3] = (unsigned char)(dice(2) ? 127 + 1 + dice(12) : 3 + dice(packed - 3));
        }
        at += bytes;
    }
    return (size_t)(at - to);
}

static void invented_zstd_stays_in_bounds(void *arg)
{
    unsigned char whole[1024];
    unsigned written = 0;
    for (unsigned round = 0; round < MUTATIONS / 4; round++) {
        size_t bytes = invent(whole), room = dice(4) ? dice(3000) : dice(300000);
        unsigned char *in = memory(bytes), *out = memory(room);
        memcpy(in, whole, bytes);
        if (room > 0)
            out[0] = 0x5a;
        (void)soft_zstd_unpack(in, bytes, out, room);
        written += room > 0 && out[0] != 0x5a;
        free(in);
        free(out);
    }
    CHECK(written > MUTATIONS / 200); /* it came that far */
}

/* Four streams of one bit a literal, so that a small block claims more literals than fit. */
static void too_many_literals_are_refused(void *arg)
{
    enum { COUNT = 240000, STREAM = COUNT / 4 / 8 + 1, PACKED = 2 + 6 + 4 * STREAM };
    unsigned char *in = calloc(1, 6 + 3 + 5 + PACKED + 1), *out = memory(COUNT), *at = in;
    CHECK(in != NULL);
    put(at, 0xfd2fb528, 4);
    put(at + 4, 0x4000, 2); /* a window of 256 KiB */
    put(at + 6, 1 | 2 << 1 | (5 + PACKED + 1) << 3, 3);
    put(at + 9, 2 | 3 << 2 | (uint64_t)COUNT << 4 | (uint64_t)PACKED << 22, 5);
    at += 14;
    *at++ = 128; /* one weight is told */
    *at++ = 0x10;
    for (int i = 0; i < 3; i++)
        put(at + 2 * i, STREAM, 2);
    at += 6;
    for (int i = 0; i < 4; i++, at += STREAM)
        at[STREAM - 1] = 1;
    CHECK_IS(-EINVAL, soft_zstd_unpack(in, 6 + 3 + 5 + PACKED + 1, out, COUNT));
    free(in);
    free(out);
}

static void damaged_lz4_stays_in_bounds(void *arg)
{
    unsigned refused = 0;
    for (unsigned round = 0; round < MUTATIONS / 2; round++) {
        const struct stream *s = &lz4_blocks[round % COUNT(lz4_blocks)];
        size_t bytes = s->bytes, whole = dice(16) == 0 ? dice(s->whole) : s->whole;
        unsigned char *in = damaged(s->packed, &bytes), *out = memory(whole);
        ssize_t n = soft_lz4_unpack(in, bytes, out, whole);
        CHECK(n == -1 || n == (ssize_t)whole);
        refused += n < 0;
        free(in);
        free(out);
    }
    CHECK(refused > MUTATIONS / 16); /* it has no checksum */
}

/* -------------------------------------------------------------------------- the container ----- */

static size_t entry(unsigned char *to, unsigned kind, unsigned sm, size_t header, uint64_t flags,
                    const struct stream *payload)
{
    size_t padded = (payload->bytes + 7) / 8 * 8;
    memset(to, 0, header + padded);
    put(to, kind, 2);
    put(to + 2, 0x101, 2);
    put(to + 4, header, 4);
    put(to + 8, padded, 8);
    put(to + 16, flags != 0 ? payload->bytes : 0, 4);
    put(to + 28, sm, 4);
    put(to + 40, flags | 0x11, 8);
    put(to + 56, flags != 0 ? payload->whole : 0, 8);
    memcpy(to + header, payload->packed, payload->bytes);
    return header + padded;
}

static size_t container(unsigned char *to)
{
    static const char text[] = ".version 7.0\n.target sm_70\n.address_size 64\n// the old one";
    const struct stream plain = {"", sizeof text, sizeof text, (const unsigned char *)text};
    size_t bytes = 16;
    bytes += entry(to + bytes, 2, 90, 112, 0, &lz4_blocks[2]);
    bytes += entry(to + bytes, 1, 70, 64, 0, &plain);
    bytes += entry(to + bytes, 1, 75, 80, 0x8000, &zstd_streams[2]);
    bytes += entry(to + bytes, 1, 72, 64, 0x2000, &lz4_blocks[0]);
    put(to, 0xba55ed50, 4);
    put(to + 4, 1, 2);
    put(to + 6, 16, 2);
    put(to + 8, bytes - 16, 8);
    return bytes;
}

static CUresult walk(const unsigned char *bytes, size_t count, int cc, size_t *text_bytes)
{
    char *ptx = NULL, why[256] = "";
    uint64_t used = count;
    CUresult result = soft_fatbin_ptx(bytes, count, cc, &ptx, &used, why, sizeof why);
    CHECK((result == CUDA_SUCCESS) == (ptx != NULL));
    CHECK(result == CUDA_SUCCESS || (why[0] != '\0' && strlen(why) < sizeof why));
    CHECK(result != CUDA_SUCCESS || used <= count);
    *text_bytes = ptx != NULL ? strlen(ptx) : 0;
    free(ptx);
    return result;
}

static void the_container_is_walked(void *arg)
{
    unsigned char *whole = memory(1 << 16);
    size_t bytes = container(whole), text;
    OK(walk(whole, bytes, 90, &text));
    CHECK_IS(zstd_streams[2].whole, text); /* of sm_75, unpacked */
    OK(walk(whole, bytes, 70, &text));
    CHECK(text < 100);
    CHECK_IS(CUDA_ERROR_NO_BINARY_FOR_GPU, walk(whole, bytes, 60, &text));
    for (size_t cut = 0; cut < bytes; cut += cut < 300 ? 1 : 97) {
        unsigned char *copy = memory(cut);
        memcpy(copy, whole, cut);
        CHECK_IS(CUDA_ERROR_INVALID_IMAGE, walk(copy, cut, 90, &text));
        free(copy);
    }
    free(whole);
}

static void damaged_containers_stay_in_bounds(void *arg)
{
    unsigned char *whole = memory(1 << 16);
    size_t all = container(whole);
    size_t heads[] = {0, 16, 0, 0};
    heads[2] = 16 + 112 + (lz4_blocks[2].bytes + 7) / 8 * 8;
    heads[3] = heads[2] + 64 + 64;
    unsigned good = 0, refused = 0;
    for (unsigned round = 0; round < MUTATIONS / 2; round++) {
        size_t bytes = all, text;
        unsigned char *copy = memory(all);
        memcpy(copy, whole, all);
        for (uint32_t hits = 1 + dice(3); hits > 0; hits--) {
            size_t at = heads[dice(4)] + dice(64);
            copy[at] = dice(2) ? (unsigned char)dice(256) : dice(2) ? 0xff : 0;
        }
        if (dice(4) == 0) {
            bytes = dice(all + 1);
            unsigned char *shorter = memory(bytes);
            memcpy(shorter, copy, bytes);
            free(copy);
            copy = shorter;
        }
        if (walk(copy, bytes, 90, &text) == CUDA_SUCCESS)
            good++;
        else
            refused++;
        free(copy);
    }
    free(whole);
    CHECK(good > 1000);
    CHECK(refused > 1000);
}

int main(void)
{
    test_run("real_streams_unpack", "tiny", "0", real_streams_unpack);
    test_run("damaged_zstd_is_an_error", "tiny", "0", damaged_zstd_is_an_error);
    test_run("invented_zstd_stays_in_bounds", "tiny", "0", invented_zstd_stays_in_bounds);
    test_run("too_many_literals_are_refused", "tiny", "0", too_many_literals_are_refused);
    test_run("damaged_lz4_stays_in_bounds", "tiny", "0", damaged_lz4_stays_in_bounds);
    test_run("the_container_is_walked", "tiny", "0", the_container_is_walked);
    test_run("damaged_containers_stay_in_bounds", "tiny", "0", damaged_containers_stay_in_bounds);
    return 0;
}
