/* SPDX-License-Identifier: Apache-2.0
 *
 * LZ4 blocks: a token (high nibble literals, low nibble match length - 4; 15 means that bytes of
 * 255 and a last one follow), literals, a two-byte distance, the match. The last sequence has no
 * match.
 */
#include "soft/gpu/module_unpack.h"

#include <string.h>

static int extend(const unsigned char **in, const unsigned char *end, size_t *length)
{
    unsigned char byte;
    do {
        if (*in == end)
            return -1;
        byte = *(*in)++;
        *length += byte;
    } while (byte == 255);
    return 0;
}

ssize_t soft_lz4_unpack(const unsigned char *in, size_t in_bytes, unsigned char *out,
                        size_t out_bytes)
{
    const unsigned char *end = in + in_bytes;
    size_t done = 0;
    while (in < end) {
        unsigned char token = *in++;
        size_t literals = token >> 4;
        if (literals == 15 && extend(&in, end, &literals) != 0)
            return -1;
        if (literals > (size_t)(end - in) || literals > out_bytes - done)
            return -1;
        memcpy(out + done, in, literals);
        in += literals;
        done += literals;
        if (in == end || done == out_bytes)
            break;
        if (end - in < 2)
            return -1;
        size_t distance = (size_t)in[0] | (size_t)in[1] << 8;
        in += 2;
        size_t match = token & 15u;
        if (match == 15 && extend(&in, end, &match) != 0)
            return -1;
        match += 4;
        if (distance == 0 || distance > done || match > out_bytes - done)
            return -1;
        for (size_t i = 0; i < match; i++, done++)
            out[done] = out[done - distance];
    }
    return done == out_bytes ? (ssize_t)done : -1;
}
