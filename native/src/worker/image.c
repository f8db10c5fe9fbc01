/* SPDX-License-Identifier: Apache-2.0
 *
 * Module images by content. In memory and this session's: who asks for a hash learns nothing of
 * what others have loaded.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "soft/ptxc/sha256.h"
#include "src/worker/worker.h"

#ifndef KEPT_MAX /* tests have less */
#define KEPT_MAX (256ull << 20)
#endif

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

struct image *image_take(const struct harp_wire_image *wanted)
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
    while (kept_bytes + need > KEPT_MAX) {
        struct image **last = NULL;
        for (struct image **at = &images; *at != NULL; at = &(*at)->next)
            last = (*at)->users == 0 ? at : last;
        if (last == NULL)
            return;
        struct image *gone = *last;
        *last = gone->next;
        kept_bytes -= gone->what.bytes;
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

static int take_in(const struct harp_wire_image *image, const void *data, uint64_t bytes)
{
    /* A copy first: what lies in shared memory may change while it is hashed. A zero behind it, for
     * drivers that read PTX as a text. */
    struct image *made = malloc(sizeof *made + bytes + 1);
    if (made == NULL)
        return -ENOMEM;
    *made = (struct image){.what = *image};
    memcpy(made->data, data, bytes);
    made->data[bytes] = 0;
    struct sha256 sha;
    char hex[65], said[65];
    sha256_init(&sha);
    sha256_add(&sha, made->data, bytes);
    sha256_hex(&sha, hex);
    for (unsigned i = 0; i < 32; i++) {
        static const char digits[] = "0123456789abcdef";
        said[2 * i] = digits[image->sha256[i] >> 4];
        said[2 * i + 1] = digits[image->sha256[i] & 15];
    }
    if (memcmp(hex, said, 64) != 0) {
        free(made);
        return -EBADMSG;
    }
    pthread_mutex_lock(&lock);
    if (*find(image) != NULL) {
        free(made);
    } else {
        forget(bytes);
        made->next = images;
        images = made;
        kept_bytes += bytes;
    }
    pthread_mutex_unlock(&lock);
    return 0;
}

int image_put(const struct harp_wire_image *image, const void *data, uint64_t bytes)
{
    if (bytes != image->bytes || bytes == 0 || bytes > KEPT_MAX)
        return -EBADMSG;
    comes(bytes);
    int err = take_in(image, data, bytes);
    has_come(bytes);
    return err;
}
