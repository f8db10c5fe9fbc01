/* SPDX-License-Identifier: Apache-2.0
 *
 * Images from outside: fat binaries, LZ4, PTX text; damaged in every way, none may be read past
 * its end. They lie in memory of their own size: the sanitizer sees one byte too far.
 */
#include "soft_test.h"

#include "soft/gpu/module.h"
#include "soft/gpu/module_unpack.h"

static const char ptx[] = ".version 8.0\n.target sm_75\n.address_size 64\n"
                          ".visible .global .align 4 .u32 counter = 7;\n"
                          ".visible .entry nothing(.param .u32 n)\n{\n    ret;\n}\n";

static uint64_t seed = 1;

static uint32_t dice(uint32_t sides)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(seed >> 33) % sides;
}

static CUresult load(const unsigned char *bytes, size_t count, char why[256])
{
    /* as soft_file_read() gives it: exactly so many bytes, zeroes behind them */
    char *data = calloc(1, count + 4);
    CHECK(data != NULL);
    memcpy(data, bytes, count);
    struct soft_image *image = NULL;
    CUresult result = soft_image_load(data, count, 90, &image, why, 256);
    free(data);
    if (result == CUDA_SUCCESS) {
        CHECK(image->index.entry_count <= 1);
        soft_image_unref(image);
    }
    return result;
}

static void put(unsigned char *at, uint64_t value, size_t bytes)
{
    memcpy(at, &value, bytes); /* little end first, as the machine */
}

/* Literals, then one match that repeats the last byte: the shortest that has both. */
static size_t lz4_pack(const char *text, size_t bytes, unsigned char *out)
{
    unsigned char *to = out;
    size_t left = bytes - 15;
    *to++ = 0xf0;
    for (; left >= 255; left -= 255)
        *to++ = 255;
    *to++ = (unsigned char)left;
    memcpy(to, text, bytes);
    return (size_t)(to - out) + bytes;
}

static size_t fatbin(unsigned char *out, bool packed)
{
    unsigned char *entry = out + 16, *payload = entry + 64;
    memset(out, 0, 80);
    size_t bytes = sizeof ptx - 1;
    if (packed)
        bytes = lz4_pack(ptx, bytes, payload);
    else
        memcpy(payload, ptx, bytes);
    size_t padded = (bytes + 7) / 8 * 8;
    memset(payload + bytes, 0, padded - bytes);
    put(out, 0xba55ed50, 4);
    put(out + 4, 1, 2);
    put(out + 6, 16, 2);
    put(out + 8, 64 + padded, 8);
    put(entry, 1, 2);
    put(entry + 4, 64, 4);
    put(entry + 8, padded, 4);
    put(entry + 16, packed ? bytes : 0, 4);
    put(entry + 28, 75, 4);
    put(entry + 40, packed ? 0x2000 : 0, 8);
    put(entry + 56, packed ? sizeof ptx - 1 : 0, 8);
    return 80 + padded;
}

static void good_images_load(void *arg)
{
    unsigned char image[1024];
    char why[256] = "";
    OK(load((const unsigned char *)ptx, sizeof ptx - 1, why));
    OK(load(image, fatbin(image, false), why));
    OK(load(image, fatbin(image, true), why));
}

static void damaged_images_are_errors(void *arg)
{
    unsigned char whole[1024], image[1024];
    unsigned good = 0, refused = 0;
    for (unsigned round = 0; round < 6000; round++) {
        bool packed = round % 2 == 1;
        size_t bytes = round % 3 == 2 ? sizeof ptx - 1 : fatbin(whole, packed);
        if (round % 3 == 2)
            memcpy(whole, ptx, bytes);
        memcpy(image, whole, bytes);
        for (unsigned hits = 1 + dice(4); hits > 0; hits--) {
            static const unsigned char odd[] = {0, 1, 0x7f, 0x80, 0xff};
            image[dice(4) ? dice(96) : dice((uint32_t)bytes)] =
                dice(2) ? odd[dice(sizeof odd)] : (unsigned char)dice(256);
        }
        if (dice(3) == 0)
            bytes = dice((uint32_t)bytes + 1);
        char why[256] = "";
        if (load(image, bytes, why) == CUDA_SUCCESS) {
            good++;
        } else {
            refused++;
            CHECK(why[0] != '\0' && strlen(why) < sizeof why);
        }
    }
    /* damage in comments and names goes unseen; most does not */
    CHECK(refused > 3000);
    CHECK(good > 10);
}

static void every_prefix_of_lz4_is_safe(void *arg)
{
    unsigned char packed[1024];
    size_t bytes = lz4_pack(ptx, sizeof ptx - 1, packed);
    for (size_t cut = 0; cut <= bytes; cut++) {
        unsigned char *in = malloc(cut + 1), *out = malloc(sizeof ptx - 1);
        CHECK(in != NULL && out != NULL);
        memcpy(in, packed, cut);
        ssize_t n = soft_lz4_unpack(in, cut, out, sizeof ptx - 1);
        CHECK(n == (cut == bytes ? (ssize_t)sizeof ptx - 1 : -1));
        CHECK(n < 0 || memcmp(out, ptx, sizeof ptx - 1) == 0);
        free(in);
        free(out);
    }
    /* a match: 4 literals, then 9 bytes from 2 back; it overlaps itself */
    const unsigned char repeat[] = {0x45, 'a', 'b', 'c', 'd', 2, 0};
    unsigned char out[13];
    CHECK_IS(13, soft_lz4_unpack(repeat, sizeof repeat, out, sizeof out));
    CHECK(memcmp(out, "abcdcdcdcdcdc", 13) == 0);
    CHECK_IS(-1, soft_lz4_unpack(repeat, sizeof repeat, out, 12));
    const unsigned char far[] = {0x45, 'a', 'b', 'c', 'd', 5, 0};
    CHECK_IS(-1, soft_lz4_unpack(far, sizeof far, out, sizeof out));
}

int main(void)
{
    test_run("good_images_load", "tiny", "0", good_images_load);
    test_run("damaged_images_are_errors", "tiny", "0", damaged_images_are_errors);
    test_run("every_prefix_of_lz4_is_safe", "tiny", "0", every_prefix_of_lz4_is_safe);
    return 0;
}
