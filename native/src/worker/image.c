/* SPDX-License-Identifier: Apache-2.0
 *
 * Module images by content: in memory, and behind that in a folder of the tenant's (store.c). Who
 * asks for a hash learns nothing of what others have loaded.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "soft/ptxc/sha256.h"
#include "src/worker/store.h"
#include "src/worker/worker.h"

#ifndef KEPT_MAX /* tests have less */
#define KEPT_MAX IMAGE_MAX
#endif
#define IMAGES_MAX   4096u
#define HEADER_BYTES 64u /* of ELF */

struct image {
    struct harp_wire_image what;
    unsigned users;
    struct image *next; /* the one used longest ago comes last */
    uint8_t data[];
};

/* Guarded by lock. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct image *images;
static uint64_t kept_bytes;
static unsigned kept_count;
/* Copies that are being hashed: together no more than is kept. Who comes later waits. */
static uint64_t coming_bytes;
static pthread_cond_t fewer_come = PTHREAD_COND_INITIALIZER;

static struct image **find(const struct harp_wire_image *wanted)
{
    struct image **at = &images;
    while (*at != NULL && ((*at)->what.bytes != wanted->bytes ||
                           memcmp((*at)->what.sha256, wanted->sha256, 32) != 0))
        at = &(*at)->next;
    return at;
}

static struct image *kept(const struct harp_wire_image *wanted)
{
    pthread_mutex_lock(&lock);
    struct image **at = find(wanted), *image = *at;
    if (image != NULL) {
        image->users++;
        *at = image->next;
        image->next = images;
        images = image;
    }
    pthread_mutex_unlock(&lock);
    return image;
}

const void *image_data(const struct image *image)
{
    return image->data;
}

uint64_t image_bytes(const struct image *image)
{
    return image->what.bytes;
}

void image_give(struct image *image)
{
    pthread_mutex_lock(&lock);
    image->users--;
    pthread_mutex_unlock(&lock);
}

/* Make room by forgetting what was used longest ago. */
static void forget(uint64_t need)
{
    while (kept_bytes + need > KEPT_MAX || kept_count >= IMAGES_MAX) {
        struct image **last = NULL;
        for (struct image **at = &images; *at != NULL; at = &(*at)->next)
            last = (*at)->users == 0 ? at : last;
        if (last == NULL)
            return;
        struct image *gone = *last;
        *last = gone->next;
        kept_bytes -= gone->what.bytes;
        kept_count--;
        free(gone);
    }
}

static void comes(uint64_t bytes)
{
    pthread_mutex_lock(&lock);
    while (coming_bytes + bytes > KEPT_MAX)
        pthread_cond_wait(&fewer_come, &lock);
    coming_bytes += bytes;
    pthread_mutex_unlock(&lock);
}

static void has_come(uint64_t bytes)
{
    pthread_mutex_lock(&lock);
    coming_bytes -= bytes;
    pthread_cond_broadcast(&fewer_come);
    pthread_mutex_unlock(&lock);
}

/* Zeros behind it: a driver reads PTX as a text, and of machine code a header, however short. */
static struct image *room_for(const struct harp_wire_image *what)
{
    struct image *made = malloc(sizeof *made + what->bytes + HEADER_BYTES);
    if (made != NULL) {
        *made = (struct image){.what = *what};
        memset(made->data + what->bytes, 0, HEADER_BYTES);
    }
    return made;
}

static bool is_what_it_says(const struct image *made)
{
    struct sha256 sha;
    char hex[65], said[65];
    sha256_init(&sha);
    sha256_add(&sha, made->data, made->what.bytes);
    sha256_hex(&sha, hex);
    for (unsigned i = 0; i < 32; i++) {
        static const char digits[] = "0123456789abcdef";
        said[2 * i] = digits[made->what.sha256[i] >> 4];
        said[2 * i + 1] = digits[made->what.sha256[i] & 15];
    }
    return memcmp(hex, said, 64) == 0;
}

static void keep(struct image *made)
{
    pthread_mutex_lock(&lock);
    if (*find(&made->what) != NULL) {
        free(made);
    } else {
        forget(made->what.bytes);
        made->next = images;
        images = made;
        kept_bytes += made->what.bytes;
        kept_count++;
    }
    pthread_mutex_unlock(&lock);
}

/* From the folder: another process of the tenant has put it. What lies there is believed as little
 * as what a client sends. */
static void load(const struct harp_wire_image *wanted, int fd)
{
    struct image *made = room_for(wanted);
    if (made == NULL) {
        close(fd);
    } else if (store_read(fd, made->data, wanted->bytes) == 0 && is_what_it_says(made)) {
        keep(made);
    } else {
        store_drop(wanted);
        free(made);
    }
}

struct image *image_take(const struct harp_wire_image *wanted)
{
    struct image *image = kept(wanted);
    if (image != NULL || wanted->bytes == 0 || wanted->bytes > KEPT_MAX)
        return image;
    int fd = store_find(wanted);
    if (fd < 0)
        return NULL;
    comes(wanted->bytes);
    load(wanted, fd);
    has_come(wanted->bytes);
    return kept(wanted);
}

int image_put(const struct harp_wire_image *image, const void *data, uint64_t bytes)
{
    int err = 0;
    if (bytes != image->bytes || bytes == 0 || bytes > KEPT_MAX)
        return -EBADMSG;
    comes(bytes);
    /* A copy first: what lies in shared memory may change while it is hashed. */
    struct image *made = room_for(image);
    if (made == NULL) {
        err = -ENOMEM;
    } else {
        memcpy(made->data, data, bytes);
        if (is_what_it_says(made)) {
            store_write(image, made->data);
            keep(made);
        } else {
            err = -EBADMSG;
            free(made);
        }
    }
    has_come(bytes);
    return err;
}
