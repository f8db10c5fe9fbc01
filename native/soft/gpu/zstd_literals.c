/* SPDX-License-Identifier: Apache-2.0
 *
 * Literals of a Zstandard block: plain, one byte repeated, or Huffman coded in one or four streams
 * (RFC 8878, 3.1.1.3.1 and 4.2).
 */
#include <string.h>

#include "soft/gpu/zstd_parts.h"

enum { RAW, REPEATED, PACKED, PACKED_AS_BEFORE };

#define WEIGHT_LOG_MAX 6

/* ----------------------------------------------------------------------------- the tree ------- */

/* Two states take turns; the stream ends where a state wants more bits than there are. */
static unsigned unpack_weights(struct zstd_fse *table, struct zstd_bits *bits, uint8_t *weights)
{
    uint64_t state[2];
    state[0] = soft_zstd_bits_take(bits, table->log);
    state[1] = soft_zstd_bits_take(bits, table->log);
    if (bits->left < 0)
        return 0;
    for (unsigned count = 0, turn = 0; count < 254; turn ^= 1) {
        const struct zstd_fse_cell *cell = &table->cells[state[turn]];
        weights[count++] = cell->symbol;
        if (bits->left < cell->bits) {
            weights[count++] = table->cells[state[turn ^ 1]].symbol;
            return count;
        }
        state[turn] = cell->base + soft_zstd_bits_take(bits, cell->bits);
    }
    return 0;
}

/* The last weight is not stored: it is what the others leave of a power of two. */
static bool build_tree(struct zstd_huf *huf, uint8_t *weights, unsigned count)
{
    uint32_t sum = 0, starts[ZSTD_HUF_LOG_MAX + 2] = {0};
    for (unsigned i = 0; i < count; i++) {
        if (weights[i] > ZSTD_HUF_LOG_MAX)
            return false;
        sum += weights[i] > 0 ? 1u << (weights[i] - 1) : 0;
    }
    if (sum == 0 || count > 255)
        return false;
    unsigned log = 32u - (unsigned)__builtin_clz(sum);
    uint32_t rest = (1u << log) - sum;
    if (log > ZSTD_HUF_LOG_MAX || (rest & (rest - 1)) != 0)
        return false;
    weights[count++] = (uint8_t)(32 - __builtin_clz(rest));
    /* Light symbols, with the longest codes, come first. */
    for (unsigned i = 0; i < count; i++)
        if (weights[i] > 0)
            starts[weights[i] + 1] += 1u << (weights[i] - 1);
    for (unsigned w = 2; w <= ZSTD_HUF_LOG_MAX + 1; w++)
        starts[w] += starts[w - 1];
    for (unsigned i = 0; i < count; i++) {
        if (weights[i] == 0)
            continue;
        struct zstd_huf_cell cell = {(uint8_t)i, (uint8_t)(log + 1 - weights[i])};
        for (uint32_t n = 1u << (weights[i] - 1); n > 0; n--)
            huf->cells[starts[weights[i]]++] = cell;
    }
    huf->log = log;
    return true;
}

/* Returns the bytes of the tree's description, or 0. */
static size_t read_tree(struct zstd *z, const unsigned char *in, size_t bytes)
{
    uint8_t weights[256];
    if (bytes == 0)
        return 0;
    unsigned head = in[0], count = 0;
    size_t used = 1;
    z->huf.log = 0;
    if (head >= 128) { /* 4 bits each */
        count = head - 127;
        used += (count + 1) / 2;
        if (used > bytes)
            return 0;
        for (unsigned i = 0; i < count; i++)
            weights[i] = i % 2 == 0 ? in[1 + i / 2] >> 4 : in[1 + i / 2] & 15;
    } else {
        used += head;
        if (used > bytes)
            return 0;
        size_t table = soft_zstd_fse_read(&z->scratch, in + 1, head, 256, WEIGHT_LOG_MAX);
        struct zstd_bits bits;
        if (table == 0 || !soft_zstd_bits_open(&bits, in + 1 + table, head - table))
            return 0;
        count = unpack_weights(&z->scratch, &bits, weights);
    }
    return count > 0 && build_tree(&z->huf, weights, count) ? used : 0;
}

/* --------------------------------------------------------------------------- the streams ------ */

static bool unpack_stream(const struct zstd_huf *huf, const unsigned char *in, size_t bytes,
                          unsigned char *out, size_t count)
{
    struct zstd_bits bits;
    if (!soft_zstd_bits_open(&bits, in, bytes))
        return false;
    for (size_t i = 0; i < count && bits.left > 0; i++) {
        const struct zstd_huf_cell *cell = &huf->cells[soft_zstd_bits_peek(&bits, huf->log)];
        out[i] = cell->symbol;
        bits.left -= cell->bits;
        if (i + 1 == count)
            return bits.left == 0;
    }
    return false;
}

static bool unpack_four(const struct zstd_huf *huf, const unsigned char *in, size_t bytes,
                        unsigned char *out, size_t count)
{
    size_t each = (count + 3) / 4;
    if (bytes < 6 || each * 3 >= count)
        return false;
    const unsigned char *sizes = in;
    in += 6;
    bytes -= 6;
    for (unsigned i = 0; i < 4; i++) {
        size_t size = i < 3 ? sizes[2 * i] | (size_t)sizes[2 * i + 1] << 8 : bytes;
        if (size > bytes || !unpack_stream(huf, in, size, out, i < 3 ? each : count - 3 * each))
            return false;
        in += size;
        bytes -= size;
        out += each;
    }
    return true;
}

static size_t read_packed(struct zstd *z, const unsigned char *in, size_t bytes, size_t block_max)
{
    static const struct {
        uint8_t bytes, bits;
    } forms[] = {{3, 10}, {3, 10}, {4, 14}, {5, 18}};
    unsigned form = in[0] >> 2 & 3;
    uint64_t head = 0;
    if (bytes < forms[form].bytes)
        return 0;
    for (unsigned i = 0; i < forms[form].bytes; i++)
        head |= (uint64_t)in[i] << (8 * i);
    uint64_t mask = (1ull << forms[form].bits) - 1;
    size_t count = head >> 4 & mask, packed = head >> (4 + forms[form].bits) & mask;
    size_t used = forms[form].bytes;
    if (count == 0 || count > block_max || packed > bytes - used)
        return 0;
    const unsigned char *at = in + used;
    used += packed;
    if ((in[0] & 3) == PACKED) {
        size_t tree = read_tree(z, at, packed);
        if (tree == 0)
            return 0;
        at += tree;
        packed -= tree;
    }
    if (z->huf.log == 0) /* a block that wants the tree of one that had none */
        return 0;
    bool good = form == 0 ? unpack_stream(&z->huf, at, packed, z->buffer, count)
                          : unpack_four(&z->huf, at, packed, z->buffer, count);
    z->literals = z->buffer;
    z->literal_bytes = count;
    return good ? used : 0;
}

size_t soft_zstd_literals_read(struct zstd *z, const unsigned char *in, size_t bytes,
                               size_t block_max)
{
    if (bytes == 0)
        return 0;
    unsigned type = in[0] & 3, form = in[0] >> 2 & 3;
    if (type >= PACKED)
        return read_packed(z, in, bytes, block_max);
    /* the size has 5, 12 or 20 bits */
    size_t used = form == 1 ? 2 : form == 3 ? 3 : 1, count = in[0] >> (used == 1 ? 3 : 4);
    if (used > bytes)
        return 0;
    for (size_t i = 1; i < used; i++)
        count |= (size_t)in[i] << (8 * i - 4);
    if (count > block_max)
        return 0;
    z->literal_bytes = count;
    if (type == REPEATED) {
        if (used == bytes)
            return 0;
        memset(z->buffer, in[used], count);
        z->literals = z->buffer;
        return used + 1;
    }
    z->literals = in + used;
    return count <= bytes - used ? used + count : 0;
}
