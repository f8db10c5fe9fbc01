/* SPDX-License-Identifier: Apache-2.0
 *
 * Sequences of a Zstandard block: how many literals, then a match of how many bytes from how far
 * back (RFC 8878, 3.1.1.3.2 to 3.1.1.5).
 */
#include <string.h>

#include "soft/gpu/zstd_parts.h"

enum { PREDEFINED, ONE_SYMBOL, DESCRIBED, AS_BEFORE };

struct code { /* a length: base + that many bits */
    uint32_t base;
    uint8_t bits;
};

static const struct code literal_codes[] = {
    {0, 0},     {1, 0},      {2, 0},      {3, 0},      {4, 0},   {5, 0},     {6, 0},     {7, 0},
    {8, 0},     {9, 0},      {10, 0},     {11, 0},     {12, 0},  {13, 0},    {14, 0},    {15, 0},
    {16, 1},    {18, 1},     {20, 1},     {22, 1},     {24, 2},  {28, 2},    {32, 3},    {40, 3},
    {48, 4},    {64, 6},     {128, 7},    {256, 8},    {512, 9}, {1024, 10}, {2048, 11}, {4096, 12},
    {8192, 13}, {16384, 14}, {32768, 15}, {65536, 16},
};
static const struct code match_codes[] = {
    {3, 0},     {4, 0},     {5, 0},      {6, 0},      {7, 0},      {8, 0},   {9, 0},     {10, 0},
    {11, 0},    {12, 0},    {13, 0},     {14, 0},     {15, 0},     {16, 0},  {17, 0},    {18, 0},
    {19, 0},    {20, 0},    {21, 0},     {22, 0},     {23, 0},     {24, 0},  {25, 0},    {26, 0},
    {27, 0},    {28, 0},    {29, 0},     {30, 0},     {31, 0},     {32, 0},  {33, 0},    {34, 0},
    {35, 1},    {37, 1},    {39, 1},     {41, 1},     {43, 2},     {47, 2},  {51, 3},    {59, 3},
    {67, 4},    {83, 4},    {99, 5},     {131, 7},    {259, 8},    {515, 9}, {1027, 10}, {2051, 11},
    {4099, 12}, {8195, 13}, {16387, 14}, {32771, 15}, {65539, 16},
};

#define OFFSET_CODES 32u

static const int16_t literal_weights[] = {4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1,  1,  2,  2,
                                          2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1, -1, -1, -1, -1};
static const int16_t offset_weights[] = {1, 1, 1, 1, 1, 1, 2, 2, 2, 1,  1,  1,  1,  1, 1,
                                         1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1};
static const int16_t match_weights[] = {1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1,  1,  1,  1,  1,  1,  1, 1,
                                        1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,  1,  1,  1,  1,  1,  1, 1,
                                        1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1};

#define COUNT(array) ((unsigned)(sizeof(array) / sizeof((array)[0])))

static const struct kind {
    const int16_t *weights;
    unsigned weight_count, weight_log, symbols, log_max;
} kinds[ZSTD_TABLES] = {
    [ZSTD_LITERALS] = {literal_weights, COUNT(literal_weights), 6, COUNT(literal_codes), 9},
    [ZSTD_OFFSETS] = {offset_weights, COUNT(offset_weights), 5, OFFSET_CODES, 8},
    [ZSTD_MATCHES] = {match_weights, COUNT(match_weights), 6, COUNT(match_codes), 9},
};

/* Makes the table of one of the three codes ready; moves *in on. */
static bool read_table(struct zstd *z, unsigned which, unsigned mode, const unsigned char **in,
                       size_t *bytes)
{
    const struct kind *kind = &kinds[which];
    struct zstd_fse *table = &z->tables[which];
    size_t used = 0;
    bool good = true;
    switch (mode) {
    case PREDEFINED:
        good = soft_zstd_fse_build(table, kind->weights, kind->weight_count, kind->weight_log);
        break;
    case ONE_SYMBOL:
        good = *bytes > 0 && **in < kind->symbols;
        if (good)
            soft_zstd_fse_constant(table, **in);
        used = 1;
        break;
    case DESCRIBED:
        used = soft_zstd_fse_read(table, *in, *bytes, kind->symbols, kind->log_max);
        good = used > 0;
        break;
    default:
        return z->has_table[which];
    }
    z->has_table[which] = good;
    if (good) {
        *in += used;
        *bytes -= used;
    }
    return good;
}

/* 1 to 3 mean an earlier offset; without literals before the match they mean one further on. */
static uint64_t offset_of(struct zstd *z, uint64_t value, bool no_literals)
{
    uint64_t *last = z->repeats, offset;
    if (value > 3) {
        offset = value - 3;
    } else {
        uint64_t which = value - 1 + (no_literals ? 1 : 0);
        if (which == 0)
            return last[0];
        offset = which == 3 ? last[0] - 1 : last[which];
        if (which == 1) {
            last[1] = last[0];
            last[0] = offset;
            return offset;
        }
    }
    last[2] = last[1];
    last[1] = last[0];
    last[0] = offset;
    return offset;
}

static bool put_literals(struct zstd *z, size_t count)
{
    if (count > z->literal_bytes || count > z->room - z->done)
        return false;
    if (count > 0)
        memcpy(z->out + z->done, z->literals, count);
    z->literals += count;
    z->literal_bytes -= count;
    z->done += count;
    return true;
}

static bool put_match(struct zstd *z, uint64_t offset, size_t count)
{
    if (offset == 0 || offset > z->done || offset > z->window || count > z->room - z->done)
        return false;
    unsigned char *to = z->out + z->done;
    const unsigned char *from = to - offset;
    if (offset >= count)
        memcpy(to, from, count);
    else
        for (size_t i = 0; i < count; i++) /* it repeats itself */
            to[i] = from[i];
    z->done += count;
    return true;
}

static uint64_t first_state(const struct zstd_fse *table, struct zstd_bits *bits)
{
    return soft_zstd_bits_take(bits, table->log);
}

static void next_state(const struct zstd_fse *table, struct zstd_bits *bits, uint64_t *state)
{
    const struct zstd_fse_cell *cell = &table->cells[*state];
    *state = cell->base + soft_zstd_bits_take(bits, cell->bits);
}

static bool run(struct zstd *z, struct zstd_bits *bits, unsigned count, size_t limit)
{
    const struct zstd_fse *literals = &z->tables[ZSTD_LITERALS],
                          *offsets = &z->tables[ZSTD_OFFSETS], *matches = &z->tables[ZSTD_MATCHES];
    uint64_t at_literals = first_state(literals, bits);
    uint64_t at_offsets = first_state(offsets, bits);
    uint64_t at_matches = first_state(matches, bits);
    for (unsigned i = 0; i < count; i++) {
        if (bits->left < 0)
            return false;
        struct code literal = literal_codes[literals->cells[at_literals].symbol];
        struct code match = match_codes[matches->cells[at_matches].symbol];
        unsigned width = offsets->cells[at_offsets].symbol;
        uint64_t value = (1ull << width) + soft_zstd_bits_take(bits, width);
        size_t match_bytes = match.base + (size_t)soft_zstd_bits_take(bits, match.bits);
        size_t literal_bytes = literal.base + (size_t)soft_zstd_bits_take(bits, literal.bits);
        if (bits->left < 0 || !put_literals(z, literal_bytes) ||
            !put_match(z, offset_of(z, value, literal_bytes == 0), match_bytes) || z->done > limit)
            return false;
        if (i + 1 == count)
            break;
        next_state(literals, bits, &at_literals);
        next_state(matches, bits, &at_matches);
        next_state(offsets, bits, &at_offsets);
    }
    return bits->left == 0;
}

bool soft_zstd_sequences_run(struct zstd *z, const unsigned char *in, size_t bytes,
                             size_t block_max)
{
    size_t limit = z->done + block_max, head = 1;
    if (bytes == 0)
        return false;
    unsigned count = in[0];
    if (count >= 128) {
        head = count == 255 ? 3 : 2;
        if (bytes < head)
            return false;
        count = count == 255 ? in[1] + (in[2] * 256u) + 0x7f00u : (count - 128) * 256u + in[1];
    }
    in += head;
    bytes -= head;
    if (count == 0) {
        if (bytes != 0)
            return false;
    } else {
        if (bytes == 0 || (in[0] & 3) != 0)
            return false;
        unsigned modes = *in++;
        bytes--;
        struct zstd_bits bits;
        if (!read_table(z, ZSTD_LITERALS, modes >> 6, &in, &bytes) ||
            !read_table(z, ZSTD_OFFSETS, modes >> 4 & 3, &in, &bytes) ||
            !read_table(z, ZSTD_MATCHES, modes >> 2 & 3, &in, &bytes) ||
            !soft_zstd_bits_open(&bits, in, bytes) || !run(z, &bits, count, limit))
            return false;
    }
    return put_literals(z, z->literal_bytes) && z->done <= limit;
}
