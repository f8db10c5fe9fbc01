/* SPDX-License-Identifier: Apache-2.0
 *
 * Bit streams and finite state entropy tables of Zstandard (RFC 8878, 4.1).
 */
#include "soft/gpu/zstd_parts.h"

#include <string.h>

static unsigned high_bit(uint32_t value) /* of a value other than 0 */
{
    return 31u - (unsigned)__builtin_clz(value);
}

bool soft_zstd_bits_open(struct zstd_bits *bits, const unsigned char *bytes, size_t size)
{
    if (size == 0 || bytes[size - 1] == 0)
        return false;
    *bits = (struct zstd_bits){bytes, size, (int64_t)size * 8 - 8 + high_bit(bytes[size - 1])};
    return true;
}

/* 8 bytes from `at`, zeroes behind the end. */
static uint64_t load(const unsigned char *bytes, size_t size, size_t at)
{
    uint64_t value = 0;
    if (size >= 8 && at <= size - 8) {
        memcpy(&value, bytes + at, 8);
    } else {
        for (size_t i = 0; i < 8 && at + i < size; i++)
            value |= (uint64_t)bytes[at + i] << (8 * i);
    }
    return value;
}

uint64_t soft_zstd_bits_peek(const struct zstd_bits *bits, unsigned count)
{
    int64_t from = bits->left - (int64_t)count;
    uint64_t mask = (1ull << count) - 1;
    if (from >= 0)
        return load(bits->bytes, bits->size, (size_t)from / 8) >> (from & 7) & mask;
    if (bits->left <= 0)
        return 0;
    /* what lies before the beginning is 0 */
    return load(bits->bytes, bits->size, 0) << -from & mask;
}

uint64_t soft_zstd_bits_take(struct zstd_bits *bits, unsigned count)
{
    uint64_t value = soft_zstd_bits_peek(bits, count);
    bits->left -= (int64_t)count;
    return value;
}

/* ------------------------------------------------------------------------------- tables ------- */

bool soft_zstd_fse_build(struct zstd_fse *table, const int16_t *weights, unsigned symbols,
                         unsigned log)
{
    uint16_t next[256];
    unsigned size = 1u << log, sum = 0, high = size;
    for (unsigned s = 0; s < symbols; s++) {
        sum += weights[s] < 0 ? 1u : (unsigned)weights[s];
        next[s] = weights[s] < 0 ? 1 : (uint16_t)weights[s];
    }
    if (sum != size || symbols > 256)
        return false;
    /* (1) Symbols of less than one cell sit at the end. */
    for (unsigned s = 0; s < symbols; s++)
        if (weights[s] < 0)
            table->cells[--high].symbol = (uint8_t)s;
    /* (2) The others are spread over the rest in steps that visit every cell once. */
    unsigned step = (size >> 1) + (size >> 3) + 3, at = 0;
    for (unsigned s = 0; s < symbols; s++)
        for (int i = 0; i < weights[s]; i++) {
            table->cells[at].symbol = (uint8_t)s;
            do
                at = (at + step) & (size - 1);
            while (at >= high);
        }
    if (at != 0)
        return false;
    /* (3) A symbol's cells share its states out among themselves. */
    for (unsigned i = 0; i < size; i++) {
        struct zstd_fse_cell *cell = &table->cells[i];
        unsigned state = next[cell->symbol]++;
        cell->bits = (uint8_t)(log - high_bit(state));
        cell->base = (uint16_t)((state << cell->bits) - size);
    }
    table->log = log;
    return true;
}

size_t soft_zstd_fse_read(struct zstd_fse *table, const unsigned char *in, size_t bytes,
                          unsigned symbols_max, unsigned log_max)
{
    int16_t weights[256];
    if (bytes == 0 || symbols_max > 256)
        return 0;
    unsigned log = (in[0] & 15u) + 5, symbols = 0;
    if (log > log_max)
        return 0;
    uint32_t left = 1u << log;
    size_t at = 4; /* in bits; this stream is read from its beginning */
    while (left > 0) {
        if (symbols == symbols_max || at / 8 >= bytes)
            return 0;
        /* A value in 0..left+1; the smaller ones take a bit less. */
        unsigned width = high_bit(left + 1) + 1;
        uint32_t low = (1u << (width - 1)) - 1, short_ones = (1u << width) - 2 - left;
        uint32_t value = (uint32_t)(load(in, bytes, at / 8) >> (at & 7)) & ((1u << width) - 1);
        if ((value & low) < short_ones) {
            value &= low;
            at += width - 1;
        } else {
            if (value > low)
                value -= short_ones;
            at += width;
        }
        int weight = (int)value - 1;
        left -= weight < 0 ? 1u : (uint32_t)weight; /* value is at most left + 1 */
        weights[symbols++] = (int16_t)weight;
        /* Behind a symbol that does not occur: how many more do not. */
        for (unsigned more = weight == 0 ? 3 : 0; more == 3;) {
            if (at / 8 >= bytes)
                return 0;
            more = (unsigned)(load(in, bytes, at / 8) >> (at & 7)) & 3;
            at += 2;
            if (more > symbols_max - symbols)
                return 0;
            memset(weights + symbols, 0, more * sizeof weights[0]);
            symbols += more;
        }
    }
    size_t used = (at + 7) / 8;
    return used <= bytes && soft_zstd_fse_build(table, weights, symbols, log) ? used : 0;
}

void soft_zstd_fse_constant(struct zstd_fse *table, uint8_t symbol)
{
    table->log = 0;
    table->cells[0] = (struct zstd_fse_cell){0, symbol, 0};
}
