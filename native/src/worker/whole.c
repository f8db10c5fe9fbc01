/* SPDX-License-Identifier: Apache-2.0
 *
 * A driver is given an image by its address alone, and believes what the image says of its own
 * size. So that is looked at before: containers (as nvcc lays them out) and the entries in them, or
 * tables and sections of machine code. A wrapper of a container is none: it says where in memory
 * one is, and the memory is ours. In a container it may be a device's that is not here, and nobody
 * looks at it. What else an image may be ends with a 0, which is there (image.c).
 */
#include <string.h>

#include "src/worker/worker.h"

#define FATBIN      0xba55ed50u
#define WRAPPER     0x466243b1u
#define ENTRY_BYTES 64u
#define PACKED      0xa000u /* LZ4 or Zstandard */
#define NOTHING     8u      /* SHT_NOBITS */

static uint64_t number(const uint8_t *at, unsigned bytes)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++)
        value |= (uint64_t)at[i] << 8 * i;
    return value;
}

static bool within(uint64_t offset, uint64_t size, uint64_t bytes)
{
    return offset <= bytes && size <= bytes - offset;
}

/* A table of an ELF file, and what its rows name. */
static bool table(const uint8_t *elf, uint64_t bytes, uint64_t at, uint64_t each, uint64_t rows,
                  bool sections)
{
    if (rows == 0)
        return true;
    if (each < (sections ? 64 : 56) || !within(at, each * rows, bytes))
        return false;
    for (uint64_t i = 0; i < rows; i++) {
        const uint8_t *row = elf + at + i * each;
        const uint64_t offset = number(row + (sections ? 24 : 8), 8);
        if (sections && number(row + 4, 4) == NOTHING)
            continue;
        if (!within(offset, number(row + 32, 8), bytes))
            return false;
    }
    return true;
}

/* Sections without bytes in the file have any size, so none of them may be one that is read: names
 * of sections, and what others say that theirs are in. */
static bool read_have_bytes(const uint8_t *elf, uint64_t at, uint64_t each, uint64_t rows,
                            uint64_t names)
{
    if (rows != 0 && (names >= rows || number(elf + at + names * each + 4, 4) == NOTHING))
        return false;
    for (uint64_t i = 0; i < rows; i++) {
        const uint64_t link = number(elf + at + i * each + 40, 4);
        if (link < rows && number(elf + at + link * each + 4, 4) == NOTHING)
            return false;
    }
    return true;
}

static bool is_elf(const uint8_t *data, uint64_t bytes)
{
    return bytes >= 4 && memcmp(data, "\177ELF", 4) == 0;
}

/* One of another class or byte order no driver goes on with. */
static bool whole_elf(const uint8_t *elf, uint64_t bytes)
{
    if (bytes < 6 || elf[4] != 2 || elf[5] != 1)
        return true;
    return bytes >= 64 &&
           table(elf, bytes, number(elf + 32, 8), number(elf + 54, 2), number(elf + 56, 2),
                 false) &&
           table(elf, bytes, number(elf + 40, 8), number(elf + 58, 2), number(elf + 60, 2), true) &&
           read_have_bytes(elf, number(elf + 40, 8), number(elf + 58, 2), number(elf + 60, 2),
                           number(elf + 62, 2));
}

static bool whole_entry(const uint8_t *entry, uint64_t bytes, uint64_t *used)
{
    const uint64_t header = number(entry + 4, 4), size = number(entry + 8, 8);
    if (header < ENTRY_BYTES || !within(header, size, bytes))
        return false;
    *used = header + size;
    /* What it says that it is when unpacked is what a driver makes room for. */
    return !(number(entry + 40, 8) & PACKED) ||
           (number(entry + 16, 4) <= size && number(entry + 56, 8) <= IMAGE_MAX);
}

static bool whole_fatbin(const uint8_t *data, uint64_t bytes)
{
    if (bytes < 16 || !within(number(data + 6, 2), number(data + 8, 8), bytes))
        return false;
    const uint64_t end = number(data + 6, 2) + number(data + 8, 8);
    for (uint64_t at = number(data + 6, 2), used; end - at >= ENTRY_BYTES; at += used)
        if (at < 16 || !whole_entry(data + at, end - at, &used))
            return false;
    return true;
}

bool image_is_whole(const void *image, uint64_t bytes)
{
    if (is_elf(image, bytes))
        return whole_elf(image, bytes);
    const uint64_t magic = bytes < 4 ? 0 : number(image, 4);
    return magic != WRAPPER && (magic != FATBIN || whole_fatbin(image, bytes));
}
