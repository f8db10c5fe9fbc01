/* SPDX-License-Identifier: Apache-2.0
 *
 * Where kernels' parameters lie, by machine code and by containers of it.
 */
#include <string.h>

#include "check.h"
#include "made_cubin.h"
#include "src/shim/remote/layout.h"

#define ROOM 2048

static union {
    struct harp_layout is;
    char bytes[sizeof(struct harp_layout) + ROOM * 8];
} got;
static uint8_t image[1 << 17], other[1 << 15], third[1 << 15];

/* `want`: offset:bytes of each, and of all; "asked": the image does not say. From a block of
 * exactly its size. */
static void same(const uint8_t *data, size_t bytes, const char *kernel, const char *want)
{
    char text[256] = "";
    uint8_t *exact = malloc(bytes);
    CHECK(exact != NULL);
    memcpy(exact, data, bytes);
    struct harp_layouts *all = harp_layouts_of(exact, bytes);
    free(exact);
    bool found = all != NULL && harp_layouts_find(all, kernel, &got.is, ROOM);
    free(all);
    for (uint32_t i = 0; found && i < got.is.count; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%u:%u ", got.is.param[i].offset,
                 got.is.param[i].bytes);
    if (found)
        snprintf(text + strlen(text), sizeof text - strlen(text), "= %u", got.is.bytes);
    else
        strcpy(text, "asked");
    if (strcmp(text, want) != 0)
        fprintf(stderr, "%s: %s, not %s\n", kernel, text, want);
    CHECK(strcmp(text, want) == 0);
}

static const struct made_kernel kernels[] = {
    {"add", {{0, 8}, {8, 8}, {16, 4}}, 20, 0, 0},
    {"none", {{0}}, -1, 0, 0},
    {"gaps", {{0, 1}, {8, 24}, {32, 2}}, 34, 0, 0},
    {"large", {{0, 8}, {8, 20000}}, 20008, 1, 0},
    {"_Z3addPfS_j", {{0, 8}, {8, 8}, {16, 4}}, 20, 0, 0},
    {"many", {{0, 1}, {1, 1}, {2, 1}, {3, 1}, {4, 1}, {5, 1}, {6, 1}, {7, 1}}, 8, 0, 0},
    /* what does not add up */
    {"more", {{0, 8}, {8, 8}}, 20, 0, 0},
    {"less", {{0, 8}, {8, 8}}, 12, 0, 0},
    {"unsaid", {{0, 8}}, -1, 0, 0},
    {"missing", {{0}}, 8, 0, 0},
    {"over", {{0, 8}, {4, 8}}, 12, 0, 0},
    {"huge", {{0, 32760}, {32760, 8}}, 32768, 1, 0},
    {"twice", {{0}}, 1024, 0, 1024},
};
#define KERNELS (sizeof kernels / sizeof *kernels)

static void machine_code(void)
{
    size_t bytes = made_cubin(image, kernels, KERNELS);
    same(image, bytes, "add", "0:8 8:8 16:4 = 20");
    same(image, bytes, "_Z3addPfS_j", "0:8 8:8 16:4 = 20");
    same(image, bytes, "none", "= 0");
    same(image, bytes, "gaps", "0:1 8:24 32:2 = 34");
    same(image, bytes, "large", "0:8 8:20000 = 20008");
    same(image, bytes, "many", "0:1 1:1 2:1 3:1 4:1 5:1 6:1 7:1 = 8");
    const char *const asked[] = {"more",  "less", "unsaid", "missing", "over", "huge",
                                 "twice", "ad",   "adds",   "",        "k"};
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++)
        same(image, bytes, asked[i], "asked");
    image[18]++; /* another machine's */
    same(image, bytes, "add", "asked");
}

/* One byte of a kernel's list that is not as we know it: that kernel is asked for, no other. */
static void what_is_not_known_is_asked(void)
{
    size_t bytes = made_cubin(image, kernels, 2);
    uint8_t *info = image + 64, was;
    const struct {
        unsigned at;
        uint8_t value;
    } odd[] = {{0, 5}, {2, 3}, {26, 11}, {42, 0xff}, {32, 1}, {22, 19}};
    for (unsigned i = 0; i < sizeof odd / sizeof *odd; i++) {
        was = info[odd[i].at];
        info[odd[i].at] = odd[i].value;
        same(image, bytes, "add", "asked");
        same(image, bytes, "none", "= 0");
        info[odd[i].at] = was;
    }
    same(image, bytes, "add", "0:8 8:8 16:4 = 20");
}

static void containers(void)
{
    static const char ptx[] = ".version 8.0\n.entry add(.param .u64 a) { ret; }";
    const struct made_kernel differs = {"add", {{0, 8}, {8, 8}, {16, 8}}, 24, 0, 0};
    size_t one = made_cubin(other, kernels, 2), two = made_cubin(third, &differs, 1);
    const struct made_entry text = {MADE_PTX, 0, ptx, sizeof ptx},
                            lz4 = {MADE_PTX, 0x2000, "packed", 6},
                            zstd = {MADE_CUBIN, 0x8000, other, one},
                            code = {MADE_CUBIN, 0, other, one},
                            another = {MADE_CUBIN, 0, third, two}, odd = {7, 0, third, two};
    struct made_entry all[4] = {text, lz4, code, odd};
    size_t bytes = made_fatbin(image, all, 4);
    same(image, bytes, "add", "0:8 8:8 16:4 = 20"); /* before the text */
    same(image, bytes, "none", "= 0");
    all[1] = code; /* of another device, and the same */
    same(image, made_fatbin(image, all, 4), "add", "0:8 8:8 16:4 = 20");
    all[1] = another;
    bytes = made_fatbin(image, all, 4);
    same(image, bytes, "add", "asked");
    same(image, bytes, "none", "= 0");
    all[1] = zstd, all[2] = lz4;
    same(image, made_fatbin(image, all, 4), "add", "0:8 = 8"); /* the text is all there is */
    all[0] = lz4;
    same(image, made_fatbin(image, all, 4), "add", "asked");
    same((const uint8_t *)ptx, sizeof ptx, "add", "0:8 = 8");
}

/* Cut off anywhere, in blocks of exactly that size: no access behind their end. */
static void prefixes(void)
{
    size_t one = made_cubin(other, kernels, 3);
    const struct made_entry all[] = {{MADE_CUBIN, 0, other, one},
                                     {MADE_PTX, 0, ".entry add()", 12}};
    size_t bytes = made_fatbin(image, all, 2);
    for (size_t n = 0; n < bytes; n++) {
        const uint8_t *from[] = {image, other};
        for (unsigned k = 0; k < 2; k++) {
            uint8_t *part = malloc(n != 0 ? n : 1);
            CHECK(part != NULL);
            memcpy(part, from[k], n < one || k == 0 ? n : one);
            free(harp_layouts_of(part, n < one || k == 0 ? n : one));
            free(part);
        }
    }
}

int main(void)
{
    machine_code();
    what_is_not_known_is_asked();
    containers();
    prefixes();
    return 0;
}
