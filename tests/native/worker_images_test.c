/* SPDX-License-Identifier: Apache-2.0
 *
 * A worker's tables: images, in memory and in a folder.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "soft/ptxc/sha256.h"
#include "src/worker/store.h"
#include "src/worker/worker.h"

static void put_number(uint8_t *at, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        at[i] = (uint8_t)(value >> 8 * i);
}

/* A section, a segment, and 32 bytes that both name. */
static uint64_t make_elf(uint8_t *to)
{
    memset(to, 0, 64 + 56 + 128 + 32);
    memcpy(to, "\177ELF\2\1", 6);
    put_number(to + 32, 64, 8);
    put_number(to + 54, 56, 2);
    put_number(to + 56, 1, 2);
    put_number(to + 40, 120, 8);
    put_number(to + 58, 64, 2);
    put_number(to + 60, 2, 2);
    put_number(to + 64 + 8, 248, 8);
    put_number(to + 64 + 32, 32, 8);
    put_number(to + 120 + 24, 248, 8);
    put_number(to + 120 + 32, 32, 8);
    put_number(to + 184 + 4, 8, 4); /* in memory alone, and larger than the file */
    put_number(to + 184 + 32, 1u << 30, 8);
    return 280;
}

static uint64_t make_fatbin(uint8_t *to)
{
    memset(to, 0, 16 + 64);
    put_number(to, 0xba55ed50, 4);
    put_number(to + 6, 16, 2);
    uint64_t elf = make_elf(to + 80);
    put_number(to + 16, 2, 2);
    put_number(to + 20, 64, 4);
    put_number(to + 24, elf, 8);
    uint8_t *text = to + 80 + elf; /* and one that is packed */
    memset(text, 0, 64 + 8);
    put_number(text, 1, 2);
    put_number(text + 4, 64, 4);
    put_number(text + 8, 8, 8);
    put_number(text + 16, 7, 4);
    put_number(text + 40, 0x2011, 8);
    put_number(text + 56, 1000, 8);
    put_number(to + 8, 64 + elf + 72, 8);
    return 80 + elf + 72;
}

/* At its very size, so that a byte too many is seen. */
static bool is_whole(const uint8_t *data, uint64_t bytes)
{
    uint8_t *exact = malloc(bytes + (bytes == 0));
    CHECK(exact != NULL);
    memcpy(exact, data, bytes);
    bool whole = image_is_whole(exact, bytes);
    free(exact);
    return whole;
}

static void test_an_image_ends_where_it_says(void)
{
    uint8_t image[512];
    const uint64_t elf = make_elf(image);
    CHECK(is_whole(image, elf));
    for (uint64_t cut = 6; cut < elf; cut++)
        CHECK(!is_whole(image, cut));
    CHECK(is_whole(image, 4)); /* what that is supposed to be a driver has to say */
    put_number(image + 120 + 24, UINT64_MAX - 8, 8);
    CHECK(!is_whole(image, elf));
    make_elf(image);
    put_number(image + 40, elf - 2, 8); /* two rows of a byte each */
    put_number(image + 58, 1, 2);
    CHECK(!is_whole(image, elf));
    const uint64_t all = make_fatbin(image);
    CHECK(is_whole(image, all));
    for (uint64_t cut = 4; cut < all; cut++)
        CHECK(!is_whole(image, cut));
    put_number(image + 80 + 120 + 32, 33, 8); /* what machine code there says nobody looks at */
    CHECK(is_whole(image, all));
    make_fatbin(image);
    put_number(image + 24, UINT64_MAX - 63, 8);
    CHECK(!is_whole(image, all));
    make_fatbin(image);
    put_number(image + 80 + elf + 56, 1ull << 40, 8); /* a bomb, by its own word */
    CHECK(!is_whole(image, all));
    make_fatbin(image);
    put_number(image + 80 + elf + 16, 9, 4);
    CHECK(!is_whole(image, all));
    CHECK(is_whole((const uint8_t *)".version 7.0", 12) && is_whole(image, 3));
}

static void test_where_an_image_is_in_memory_is_none(void)
{
    uint8_t image[16] = {0};
    put_number(image, 0x466243b1, 4);
    put_number(image + 4, 1, 4);
    put_number(image + 8, (uintptr_t)image, 8);
    CHECK(!is_whole(image, 16) && !is_whole(image, 4) && is_whole(image, 3));
}

static void test_a_section_without_bytes_is_none_that_is_read(void)
{
    uint8_t image[512];
    const uint64_t elf = make_elf(image);
    put_number(image + 62, 1, 2); /* the names */
    CHECK(!is_whole(image, elf));
    put_number(image + 62, 2, 2);
    CHECK(!is_whole(image, elf));
    make_elf(image);
    put_number(image + 120 + 40, 1, 4); /* what another one's are in */
    CHECK(!is_whole(image, elf));
    put_number(image + 184 + 4, 1, 4);
    put_number(image + 184 + 32, 0, 8);
    CHECK(is_whole(image, elf));
}

static void test_no_byte_of_an_image_makes_it_read_beyond(void)
{
    uint8_t image[512], good[512];
    uint32_t seed = 6;
    const uint64_t all = make_fatbin(good);
    for (unsigned turn = 0; turn < 200000; turn++) {
        memcpy(image, good, all);
        for (unsigned i = 0; i < 3; i++) {
            seed = seed * 1664525u + 1013904223u;
            image[(seed >> 8) % all] = (uint8_t)(seed & 1 ? seed >> 24 : 0xff);
        }
        (void)is_whole(image, all);
    }
}

static void hash(struct harp_wire_image *image, const char *data)
{
    struct sha256 sha;
    char hex[65];
    sha256_init(&sha);
    sha256_add(&sha, data, image->bytes);
    sha256_hex(&sha, hex);
    for (unsigned i = 0; i < 32; i++) {
        unsigned byte;
        CHECK(sscanf(hex + 2 * i, "%2x", &byte) == 1);
        image->sha256[i] = (unsigned char)byte;
    }
}

static void test_an_image_is_what_its_hash_says(void)
{
    const char text[] = "version 7"; /* without its end: a driver finds one all the same */
    struct harp_wire_image image = {.bytes = 9}, other;
    hash(&image, text);
    CHECK(image_take(&image) == NULL);
    other = image;
    other.sha256[31] ^= 1;
    CHECK(image_put(&other, text, 9) == -EBADMSG && image_take(&other) == NULL);
    CHECK(image_put(&image, text, 8) == -EBADMSG && image_put(&image, text, 10) == -EBADMSG);
    CHECK(image_put(&image, text, 9) == 0 && image_put(&image, text, 9) == 0);
    struct image *found = image_take(&image);
    CHECK(found != NULL && strcmp(image_data(found), text) == 0);
    image_give(found);
    other = image;
    other.bytes = 10;
    CHECK(image_take(&other) == NULL);
}

static void test_the_image_used_longest_ago_goes_first(void)
{
    enum { BYTES = KEPT_MAX / 4 };
    static char data[BYTES];
    struct harp_wire_image images[6];
    struct image *held = NULL;
    for (unsigned i = 0; i < 6; i++) {
        images[i] = (struct harp_wire_image){.bytes = BYTES};
        data[0] = (char)i;
        hash(&images[i], data);
        CHECK(image_put(&images[i], data, BYTES) == 0);
        struct image *used = image_take(&images[0]); /* always the latest */
        CHECK(used != NULL);
        image_give(used);
        if (i == 1)
            held = image_take(&images[1]); /* in a call */
    }
    CHECK(held != NULL && *(const char *)image_data(held) == 1);
    CHECK(image_take(&images[2]) == NULL && image_take(&images[3]) == NULL);
    CHECK(image_take(&images[4]) != NULL || image_take(&images[5]) != NULL);
}

enum { PUTTERS = 8 };
static struct harp_wire_image put_images[PUTTERS];
static char put_data[PUTTERS][KEPT_MAX];

static void *put_one(void *arg)
{
    uintptr_t i = (uintptr_t)arg;
    for (unsigned turn = 0; turn < 5; turn++)
        CHECK(image_put(&put_images[i], put_data[i], KEPT_MAX) == 0);
    return NULL;
}

/* Each is as much as is kept: they are taken in one after the other. */
static void test_the_largest_images_are_put_by_many_at_once(void)
{
    pthread_t threads[PUTTERS];
    for (uintptr_t i = 0; i < PUTTERS; i++) {
        put_images[i] = (struct harp_wire_image){.bytes = KEPT_MAX};
        memset(put_data[i], (int)i + 1, KEPT_MAX);
        hash(&put_images[i], put_data[i]);
    }
    for (uintptr_t i = 0; i < PUTTERS; i++)
        CHECK(pthread_create(&threads[i], NULL, put_one, (void *)i) == 0);
    for (unsigned i = 0; i < PUTTERS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
}

/* In the folder, which the first of these opens. */
static char folder[] = "/tmp/harp-store-XXXXXX";

static const char *path_of(const struct harp_wire_image *image)
{
    static char path[128];
    int n = snprintf(path, sizeof path, "%s/", folder);
    for (unsigned i = 0; i < 32; i++)
        n += snprintf(path + n, sizeof path - (size_t)n, "%02x", image->sha256[i]);
    return path;
}

static bool is_there(const struct harp_wire_image *image)
{
    return access(path_of(image), F_OK) == 0;
}

static void put_file(const struct harp_wire_image *image, const char *data, size_t bytes)
{
    FILE *f = fopen(path_of(image), "w");
    CHECK(f != NULL && fwrite(data, 1, bytes, f) == bytes && fclose(f) == 0);
}

static void test_a_folder_is_the_users_and_nobody_elses(void)
{
    char text[512] = "";
    CHECK(mkdtemp(folder) != NULL && chmod(folder, 0750) == 0);
    CHECK(store_open("/nowhere", getuid(), text, sizeof text) == -ENOENT);
    CHECK(store_open(folder, getuid(), text, sizeof text) == -EPERM);
    CHECK(strstr(text, "mode 750") != NULL);
    CHECK(chmod(folder, 0700) == 0);
    CHECK(store_open(folder, getuid() + 1, text, sizeof text) == -EPERM);
    CHECK(store_open(folder, getuid(), text, sizeof text) == 0);
}

static void test_an_image_of_the_folder_is_what_its_hash_says(void)
{
    const char text[] = "by somebody", lie[] = "by anybody!";
    struct harp_wire_image image = {.bytes = 11}, shorter = {.bytes = 10};
    char target[64];
    hash(&image, text);
    put_file(&image, lie, 11);
    CHECK(image_take(&image) == NULL && !is_there(&image)); /* and is gone */
    put_file(&image, text, 10);
    CHECK(image_take(&image) == NULL);
    snprintf(target, sizeof target, "%s/target", folder);
    CHECK(rename(path_of(&image), target) == 0 && symlink(target, path_of(&image)) == 0);
    CHECK(image_take(&image) == NULL);
    CHECK(unlink(path_of(&image)) == 0 && mkfifo(path_of(&image), 0600) == 0);
    CHECK(image_take(&image) == NULL); /* and nobody waits for a writer */
    CHECK(unlink(path_of(&image)) == 0 && unlink(target) == 0);
    put_file(&image, text, 11);
    memcpy(shorter.sha256, image.sha256, sizeof image.sha256);
    CHECK(image_take(&shorter) == NULL);
    struct image *found = image_take(&image);
    CHECK(found != NULL && strcmp(image_data(found), text) == 0);
    image_give(found);
}

/* STORE_MAX is 1000. */
static void test_the_folder_has_a_bound(void)
{
    char data[400] = "";
    struct harp_wire_image images[5];
    uint64_t there = 0;
    for (unsigned i = 0; i < 5; i++) {
        images[i] = (struct harp_wire_image){.bytes = sizeof data - i};
        data[0] = (char)(i + 100);
        hash(&images[i], data);
        CHECK(image_put(&images[i], data, images[i].bytes) == 0);
        CHECK(is_there(&images[i]));
        usleep(20000); /* files are as old as the kernel's clock ticks */
        if (i == 1) {  /* used again: now the other one is older */
            int fd = store_find(&images[0]);
            CHECK(fd >= 0 && store_read(fd, data, images[0].bytes) == 0);
            usleep(20000);
        }
        if (i == 2)
            CHECK(is_there(&images[0]) && !is_there(&images[1]));
    }
    for (unsigned i = 0; i < 5; i++)
        there += is_there(&images[i]) ? images[i].bytes : 0;
    CHECK(there > 400 && there <= 1000);
    for (unsigned i = 0; i < 5; i++)
        unlink(path_of(&images[i]));
}

static void test_images_of_a_few_bytes_are_bounded_by_number(void)
{
    struct harp_wire_image first = {.bytes = 4}, image = {.bytes = 4};
    hash(&first, "abcd");
    CHECK(image_put(&first, "abcd", 4) == 0);
    CHECK(unlink(path_of(&first)) == 0);
    for (uint32_t i = 0; i < 4096; i++) {
        hash(&image, (const char *)&i);
        CHECK(image_put(&image, &i, 4) == 0);
        CHECK(unlink(path_of(&image)) == 0);
    }
    CHECK(image_take(&first) == NULL);
}

int main(void)
{
    test_an_image_ends_where_it_says();
    test_where_an_image_is_in_memory_is_none();
    test_a_section_without_bytes_is_none_that_is_read();
    test_no_byte_of_an_image_makes_it_read_beyond();
    test_an_image_is_what_its_hash_says();
    test_the_image_used_longest_ago_goes_first();
    test_the_largest_images_are_put_by_many_at_once();
    test_a_folder_is_the_users_and_nobody_elses();
    test_an_image_of_the_folder_is_what_its_hash_says();
    test_the_folder_has_a_bound();
    test_images_of_a_few_bytes_are_bounded_by_number();
    CHECK(rmdir(folder) == 0);
    return 0;
}
