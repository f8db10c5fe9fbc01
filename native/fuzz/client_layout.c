/* SPDX-License-Identifier: Apache-2.0
 *
 * What a program's image says of its kernels, fed with arbitrary bytes: no access outside a buffer,
 * and no layout whose parameters lie over each other or beyond what a kernel may have.
 *
 * LLVMFuzzerTestOneInput for libFuzzer; with HARP_FUZZ_MAIN a main that damages images made from a
 * seeded generator, for ctest.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/shim/remote/layout.h"

#define ROOM 64u

static unsigned long long images, layouts, asked;

static void broken(const char *what)
{
    fprintf(stderr, "broken: %s\n", what);
    abort();
}

static void kernel(const struct harp_layouts *all, const char *name)
{
    static union {
        struct harp_layout is;
        char bytes[sizeof(struct harp_layout) + ROOM * 8];
    } got;
    uint32_t end = 0;
    if (!harp_layouts_find(all, name, &got.is, ROOM)) {
        asked++;
        return;
    }
    layouts++;
    if (got.is.count > ROOM)
        broken("more parameters than there is room for");
    for (uint32_t i = 0; i < got.is.count; i++) {
        if (got.is.param[i].offset < end || got.is.param[i].bytes == 0)
            broken("parameters over each other");
        end = got.is.param[i].offset + got.is.param[i].bytes;
    }
    if (end != got.is.bytes || end > 32764)
        broken("parameters that do not add up");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct harp_layouts *all = harp_layouts_of(data, size);
    if (all == NULL)
        return 0;
    images++;
    kernel(all, "k0");
    kernel(all, "k1");
    kernel(all, "");
    free(all);
    return 0;
}

#ifdef HARP_FUZZ_MAIN
#include "made_cubin.h"

static uint64_t draw(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return *seed >> 33;
}

static size_t make_cubin(uint64_t *seed, uint8_t *out)
{
    struct made_kernel k[2] = {{.name = "k0"}, {.name = "k1"}};
    for (unsigned i = 0; i < 2; i++) {
        unsigned end = 0;
        for (unsigned n = (unsigned)draw(seed) % 8, p = 0; p < n; p++) {
            k[i].param[p].offset = (uint16_t)end;
            k[i].param[p].bytes = (uint16_t)(1 + draw(seed) % 300);
            end += k[i].param[p].bytes;
        }
        k[i].total = (int)end;
        k[i].wide = draw(seed) % 2 != 0;
    }
    return made_cubin(out, k, 2);
}

static size_t make(uint64_t *seed, uint8_t *out)
{
    static const char ptx[] = ".version 8.0\n.entry k0(.param .u64 a, .param .align 8 .b8 s[24])"
                              " {}\n.entry k1(.param .u32 n) { ret; } // end\n";
    static uint8_t one[8192], two[8192];
    const struct made_entry entry[3] = {{MADE_CUBIN, 0, one, make_cubin(seed, one)},
                                        {MADE_PTX, 0, ptx, sizeof ptx},
                                        {MADE_CUBIN, 0, two, make_cubin(seed, two)}};
    switch (draw(seed) % 4) {
    case 0:
        memcpy(out, one, entry[0].bytes);
        return entry[0].bytes;
    case 1:
        memcpy(out, ptx, sizeof ptx);
        return sizeof ptx;
    default:
        return made_fatbin(out, entry + draw(seed) % 2, 1 + (unsigned)draw(seed) % 2);
    }
}

int main(int argc, char **argv)
{
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
    uint64_t rounds = argc > 2 ? strtoull(argv[2], NULL, 0) : 100000;
    static uint8_t data[64 << 10];
    for (uint64_t i = 0; i < rounds; i++) {
        size_t size = make(&seed, data);
        for (uint64_t n = draw(&seed) % 4; n > 0; n--) {
            static const uint8_t odd[] = {0, 1, 0x17, 0x19, 0x45, 0x7f, 0x80, 0xff};
            data[draw(&seed) % size] = odd[draw(&seed) % sizeof odd];
        }
        if (draw(&seed) % 8 == 0)
            size = draw(&seed) % (size + 1);
        uint8_t *exact = malloc(size != 0 ? size : 1);
        if (exact == NULL)
            return 1;
        memcpy(exact, data, size);
        LLVMFuzzerTestOneInput(exact, size);
        free(exact);
    }
    printf("%llu rounds: %llu images, %llu layouts, %llu asked for\n", (unsigned long long)rounds,
           images, layouts, asked);
    return layouts > rounds / 2 && asked > rounds / 2 && images < rounds ? 0 : 1;
}
#endif
