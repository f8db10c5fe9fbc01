/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside of the Zstandard decoder: bits, tables, and the two halves of a block.
 */
#ifndef HARP_SOFT_ZSTD_PARTS_H
#define HARP_SOFT_ZSTD_PARTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ZSTD_BLOCK_MAX   131072u
#define ZSTD_FSE_LOG_MAX 9  /* of literal lengths and match lengths; offsets have 8, weights 6 */
#define ZSTD_HUF_LOG_MAX 11 /* bits of the longest literal */

/* A bit stream that is read from its end: the last byte's highest one bit marks the end. */
struct zstd_bits {
    const unsigned char *bytes;
    size_t size;
    int64_t left; /* bits not read yet; negative: more were read than there are (they were 0) */
};
/* zstd_bits.c; false: there is no mark. */
bool soft_zstd_bits_open(struct zstd_bits *bits, const unsigned char *bytes, size_t size);
uint64_t soft_zstd_bits_peek(const struct zstd_bits *bits, unsigned count); /* count <= 56 */
uint64_t soft_zstd_bits_take(struct zstd_bits *bits, unsigned count);

struct zstd_fse { /* decoding table of a finite state entropy code */
    unsigned log;
    struct zstd_fse_cell {
        uint16_t base;
        uint8_t symbol, bits;
    } cells[1 << ZSTD_FSE_LOG_MAX];
};
/* From probabilities (-1: less than one); they must add up to 1 << log. */
bool soft_zstd_fse_build(struct zstd_fse *table, const int16_t *weights, unsigned symbols,
                         unsigned log);
/* From a description at `in`; returns its bytes, or 0 if it is none. */
size_t soft_zstd_fse_read(struct zstd_fse *table, const unsigned char *in, size_t bytes,
                          unsigned symbols_max, unsigned log_max);
/* A table that always says `symbol` and needs no bits. */
void soft_zstd_fse_constant(struct zstd_fse *table, uint8_t symbol);

struct zstd_huf {
    unsigned log; /* 0: none yet */
    struct zstd_huf_cell {
        uint8_t symbol, bits;
    } cells[1 << ZSTD_HUF_LOG_MAX];
};

enum { ZSTD_LITERALS, ZSTD_OFFSETS, ZSTD_MATCHES, ZSTD_TABLES };

struct zstd {           /* one decoder; what outlives a block is reset with each frame */
    unsigned char *out; /* of the frame: matches reach back to here */
    size_t done, room;
    uint64_t window;
    uint64_t repeats[3]; /* the last offsets */
    struct zstd_huf huf;
    struct zstd_fse tables[ZSTD_TABLES];
    bool has_table[ZSTD_TABLES];
    struct zstd_fse scratch; /* of Huffman weights */
    /* literals of the block: in `buffer` or in the input */
    const unsigned char *literals;
    size_t literal_bytes;
    unsigned char buffer[ZSTD_BLOCK_MAX];
};

/* zstd_literals.c: reads the literals section; returns its bytes, or 0. */
size_t soft_zstd_literals_read(struct zstd *z, const unsigned char *in, size_t bytes,
                               size_t block_max);
/* zstd_sequences.c: the rest of the block; executes it. */
bool soft_zstd_sequences_run(struct zstd *z, const unsigned char *in, size_t bytes,
                             size_t block_max);

#endif
