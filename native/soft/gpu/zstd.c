/* SPDX-License-Identifier: Apache-2.0
 *
 * Frames and blocks of Zstandard (RFC 8878, 3.1). The output is the window: it is all there.
 */
#include "soft/gpu/zstd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "soft/gpu/zstd_parts.h"

#define FRAME_MAGIC     0xfd2fb528u
#define SKIPPABLE_MAGIC 0x184d2a50u /* and the 15 above it */
#define PADDING_MAX     7u

struct input {
    const unsigned char *at;
    size_t left;
};

/* The next `bytes` (at most 8) as a number, little end first. */
static bool number(struct input *in, size_t bytes, uint64_t *value)
{
    *value = 0;
    if (bytes > in->left)
        return false;
    for (size_t i = 0; i < bytes; i++)
        *value |= (uint64_t)in->at[i] << (8 * i);
    in->at += bytes;
    in->left -= bytes;
    return true;
}

/* ------------------------------------------------------------------------------- XXH64 -------- */

#define PRIME_1 0x9e3779b185ebca87ull
#define PRIME_2 0xc2b2ae3d27d4eb4full
#define PRIME_3 0x165667b19e3779f9ull
#define PRIME_4 0x85ebca77c2b2ae63ull
#define PRIME_5 0x27d4eb2f165667c5ull

static uint64_t turn(uint64_t value, unsigned by)
{
    return value << by | value >> (64 - by);
}

static uint64_t mix(uint64_t lane, uint64_t value)
{
    return turn(lane + value * PRIME_2, 31) * PRIME_1;
}

static uint64_t checksum(const unsigned char *bytes, size_t count)
{
    struct input in = {bytes, count};
    uint64_t value, hash = PRIME_5;
    if (count >= 32) {
        uint64_t lanes[4] = {PRIME_1 + PRIME_2, PRIME_2, 0, 0 - PRIME_1};
        while (in.left >= 32)
            for (int i = 0; i < 4; i++)
                if (number(&in, 8, &value))
                    lanes[i] = mix(lanes[i], value);
        hash = turn(lanes[0], 1) + turn(lanes[1], 7) + turn(lanes[2], 12) + turn(lanes[3], 18);
        for (int i = 0; i < 4; i++)
            hash = (hash ^ mix(0, lanes[i])) * PRIME_1 + PRIME_4;
    }
    hash += count;
    while (number(&in, 8, &value))
        hash = turn(hash ^ mix(0, value), 27) * PRIME_1 + PRIME_4;
    if (number(&in, 4, &value))
        hash = turn(hash ^ value * PRIME_1, 23) * PRIME_2 + PRIME_3;
    while (number(&in, 1, &value))
        hash = turn(hash ^ value * PRIME_5, 11) * PRIME_1;
    hash = (hash ^ hash >> 33) * PRIME_2;
    hash = (hash ^ hash >> 29) * PRIME_3;
    return hash ^ hash >> 32;
}

/* ------------------------------------------------------------------------------- blocks ------- */

enum { BLOCK_RAW, BLOCK_REPEATED, BLOCK_PACKED };

static bool read_block(struct zstd *z, struct input *in, size_t block_max, bool *last)
{
    uint64_t head;
    if (!number(in, 3, &head))
        return false;
    size_t bytes = (size_t)(head >> 3), stored = bytes;
    unsigned type = head >> 1 & 3;
    *last = head & 1;
    if (type == BLOCK_REPEATED)
        stored = 1;
    if (bytes > block_max || stored > in->left)
        return false;
    const unsigned char *at = in->at;
    in->at += stored;
    in->left -= stored;
    if (type == BLOCK_PACKED) {
        size_t used = soft_zstd_literals_read(z, at, bytes, block_max);
        return used > 0 && soft_zstd_sequences_run(z, at + used, bytes - used, block_max);
    }
    if (type > BLOCK_PACKED || bytes > z->room - z->done)
        return false;
    if (type == BLOCK_RAW && bytes > 0)
        memcpy(z->out + z->done, at, bytes);
    else if (bytes > 0)
        memset(z->out + z->done, *at, bytes);
    z->done += bytes;
    return true;
}

/* ------------------------------------------------------------------------------- frames ------- */

struct frame {
    uint64_t window, content;
    bool has_content, has_checksum;
};

static int read_header(struct input *in, struct frame *frame)
{
    static const uint8_t dictionary_bytes[] = {0, 1, 2, 4}, content_bytes[] = {0, 2, 4, 8};
    uint64_t flags, value = 0, dictionary;
    if (!number(in, 1, &flags) || (flags & 8) != 0)
        return -EINVAL;
    bool single = (flags & 0x20) != 0;
    size_t bytes = content_bytes[flags >> 6];
    if (single && bytes == 0)
        bytes = 1;
    if (!single) {
        if (!number(in, 1, &value))
            return -EINVAL;
        frame->window = 1ull << (10 + (value >> 3));
        frame->window += (frame->window >> 3) * (value & 7);
    }
    if (!number(in, dictionary_bytes[flags & 3], &dictionary) ||
        !number(in, bytes, &frame->content))
        return -EINVAL;
    if (dictionary != 0)
        return -ENOTSUP;
    if (bytes == 2)
        frame->content += 256;
    frame->has_content = bytes > 0;
    frame->has_checksum = (flags & 4) != 0;
    if (single)
        frame->window = frame->content;
    return 0;
}

static int read_frame(struct zstd *z, struct input *in)
{
    struct frame frame = {0};
    int err = read_header(in, &frame);
    if (err != 0)
        return err;
    if (frame.has_content && frame.content > z->room)
        return -EINVAL;
    if (frame.has_content)
        z->room = (size_t)frame.content;
    z->done = 0;
    z->window = frame.window;
    z->repeats[0] = 1, z->repeats[1] = 4, z->repeats[2] = 8;
    z->huf.log = 0;
    memset(z->has_table, 0, sizeof z->has_table);
    size_t block_max = frame.window < ZSTD_BLOCK_MAX ? (size_t)frame.window : ZSTD_BLOCK_MAX;
    for (bool last = false; !last;)
        if (!read_block(z, in, block_max, &last))
            return -EINVAL;
    uint64_t told;
    if (frame.has_content && z->done != frame.content)
        return -EINVAL;
    if (frame.has_checksum &&
        (!number(in, 4, &told) || told != (checksum(z->out, z->done) & 0xffffffff)))
        return -EINVAL;
    return 0;
}

static bool is_padding(const struct input *in)
{
    static const unsigned char zeroes[PADDING_MAX];
    return in->left <= PADDING_MAX && memcmp(in->at, zeroes, in->left) == 0;
}

int soft_zstd_unpack(const unsigned char *in, size_t in_bytes, unsigned char *out, size_t out_bytes)
{
    struct input input = {in, in_bytes};
    struct zstd *z = malloc(sizeof *z);
    size_t done = 0;
    int err = z == NULL ? -ENOMEM : 0;
    while (err == 0 && input.left > 0 && !is_padding(&input)) {
        uint64_t magic, bytes;
        if (!number(&input, 4, &magic)) {
            err = -EINVAL;
        } else if ((magic & ~0xfull) == SKIPPABLE_MAGIC) {
            if (!number(&input, 4, &bytes) || bytes > input.left) {
                err = -EINVAL;
            } else {
                input.at += bytes;
                input.left -= (size_t)bytes;
            }
        } else if (magic == FRAME_MAGIC) {
            z->out = out + done;
            z->room = out_bytes - done;
            err = read_frame(z, &input);
            done += z->done;
        } else {
            err = -EINVAL;
        }
    }
    free(z);
    return err == 0 && done != out_bytes ? -EINVAL : err;
}
