/* SPDX-License-Identifier: Apache-2.0
 *
 * Bytes of the variables a module declares and of its kernels' code: PTX of every spelling,
 * objects, fat binaries, and texts cut off anywhere.
 */
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "src/shim/gate/image.h"

static const struct {
    const char *text;
    uint64_t bytes;
} cases[] = {
    {"", 0},
    {".version 7.8\n.target sm_80\n.address_size 64\n", 0},
    {".global .u32 x;", 4},
    {".visible .global .align 8 .f64 y[10];", 80},
    {".global .align 16 .v4 .f32 z[4];", 64},
    {".weak .global .b8 big[1073741824];", 1ull << 30},
    {".global .b8 m[1024][1024][4];", 4 << 20},
    {".global .u32 a, b[3], c;", 20},
    {".global .u32 t[] = {1, 2, 3, 4};", 16},
    {".global .u64 p[2] = {name, name+8};\n.global .u16 q;", 18},
    {".global .f32 g = 0f3F800000;", 4},
    {".extern .global .b8 there[4096];\n.global .b8 here[8];", 8},
    {"// .global .b8 no[100];\n/* .global .b8 no[100]; */ .global .b8 yes[0x10];", 16},
    {".entry k(.param .u64 .ptr .global .align 4 p)\n{ ld.global.u32 %r1, [%rd1];\n"
     "st.global.v4.f32 [%rd2], {%f1,%f2,%f3,%f4};\natom.global.add.u32 %r, [%rd], 1; ret; }",
     0},
    {".const .align 4 .b8 c[65536];\n.shared .b8 s[49152];", 65536},
    {".entry k() { ld.const.u32 %r1, [c]; }", 0},
    {".global .attribute(.managed) .s32 g;", 4},
    {".global .b8 huge[18446744073709551615];", 1ull << 50},
    {".global .texref tex;", 8},
};

static uint64_t image_bytes(const void *image, bool *known)
{
    struct harp_image i;
    harp_image_read(image, &i);
    uint64_t bytes = i.variables;
    *known = i.known;
    harp_image_free(&i);
    return bytes;
}

static uint64_t file_bytes(const void *content, uint64_t size, bool *known)
{
    struct harp_image i;
    harp_image_read_file(content, size, &i);
    uint64_t bytes = i.variables;
    *known = i.known;
    harp_image_free(&i);
    return bytes;
}

static uint64_t text_bytes(const char *text)
{
    bool known; /* a text as short as this is read as a file: no byte behind it is looked at */
    return file_bytes(text, strlen(text), &known);
}

static void texts(void)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t got = text_bytes(cases[i].text);
        if (got != cases[i].bytes) {
            fprintf(stderr, "%s: %llu, not %llu\n", cases[i].text, (unsigned long long)got,
                    (unsigned long long)cases[i].bytes);
            exit(1);
        }
        size_t n = strlen(cases[i].text); /* every prefix, in a buffer of exactly that size */
        for (size_t cut = 0; cut <= n; cut++) {
            char *part = malloc(cut + 1);
            CHECK(part != NULL);
            memcpy(part, cases[i].text, cut);
            part[cut] = '\0';
            text_bytes(part);
            free(part);
        }
    }
}

static size_t make_elf(unsigned char *out, uint64_t bytes)
{
    static const char names[] = "\0.nv.global\0.nv.global.init\0.text.k\0.shstrtab";
    Elf64_Ehdr head = {.e_shentsize = sizeof(Elf64_Shdr), .e_shnum = 5, .e_shstrndx = 4};
    Elf64_Shdr section[5] = {{0}};
    memcpy(head.e_ident, ELFMAG, SELFMAG);
    head.e_ident[EI_CLASS] = ELFCLASS64;
    head.e_shoff = sizeof head;
    section[1].sh_name = 1;
    section[1].sh_size = bytes;
    section[2].sh_name = 12;
    section[2].sh_size = 24;
    section[3].sh_name = 28;
    section[3].sh_size = 4096;
    section[4].sh_name = 36;
    section[4].sh_offset = sizeof head + sizeof section;
    section[4].sh_size = sizeof names;
    memcpy(out, &head, sizeof head);
    memcpy(out + sizeof head, section, sizeof section);
    memcpy(out + sizeof head + sizeof section, names, sizeof names);
    return sizeof head + sizeof section + sizeof names;
}

static size_t put_entry(unsigned char *at, uint16_t kind, const void *payload, uint64_t bytes)
{
    uint32_t head_bytes = 64;
    memset(at, 0, 64);
    memcpy(at, &kind, 2);
    memcpy(at + 4, &head_bytes, 4);
    memcpy(at + 8, &bytes, 8);
    memcpy(at + 64, payload, bytes);
    return 64 + bytes;
}

static void objects(void)
{
    static const char text[] = ".version 7.8\n.target sm_80\n.global .b8 x[5000];";
    unsigned char elf[1024], fat[4096];
    bool known;
    size_t n = make_elf(elf, 9000);
    CHECK(image_bytes(elf, &known) == 9024 && known);
    CHECK(image_bytes(text, &known) == 5000 && known);
    uint32_t magic = 0xba55ed50u;
    uint16_t words[2] = {1, 16};
    size_t at = 16 + put_entry(fat + 16, 2, elf, n);
    at += put_entry(fat + at, 1, text, sizeof text);
    uint64_t bytes = at - 16;
    memcpy(fat, &magic, 4);
    memcpy(fat + 4, words, 4);
    memcpy(fat + 8, &bytes, 8);
    CHECK(image_bytes(fat, &known) == 9024 && known);
    struct {
        uint32_t magic, version;
        const void *data;
    } wrapper = {0x466243b1u, 1, fat};
    CHECK(image_bytes(&wrapper, &known) == 9024 && known);
    at += put_entry(fat + at, 1, "\x28\xb5\x2f\xfd????", 8); /* compressed: not looked into */
    bytes = at - 16;
    memcpy(fat + 8, &bytes, 8);
    CHECK(image_bytes(fat, &known) == 9024 && !known);
    for (size_t cut = 0; cut < 16 + 64 + n; cut++) { /* cut off: no byte behind the end is read */
        unsigned char *part = malloc(16 + cut);
        CHECK(part != NULL);
        memcpy(part, fat, 16 + cut);
        bytes = cut;
        memcpy(part + 8, &bytes, 8);
        image_bytes(part, &known);
        free(part);
    }
    /* a file says what it likes of its length and of addresses */
    bytes = UINT64_MAX;
    memcpy(fat + 8, &bytes, 8);
    for (size_t size = 0; size < at; size++) {
        unsigned char *part = malloc(size + 1);
        CHECK(part != NULL);
        memcpy(part, fat, size);
        part[size] = '\0';
        file_bytes(part, size, &known);
        free(part);
    }
    CHECK(file_bytes(fat, at, &known) == 9024 && !known);
    CHECK(file_bytes(elf, n, &known) == 9024 && known);
    CHECK(file_bytes(text, sizeof text - 1, &known) == 5000 && known);
    wrapper.data = &wrapper;
    CHECK(file_bytes(&wrapper, sizeof wrapper, &known) == 0 && !known);
}

static uint64_t kernel_bytes(const struct harp_image *i, const char *name)
{
    const struct harp_kernel *k = harp_image_kernel(i, name);
    return k != NULL ? k->bytes : 0;
}

static void kernels(void)
{
    char text[4096] = ".version 7.8\n.target sm_80\n.visible .entry declared();\n"
                      ".func (.param .b32 r) half(.param .b32 x) { ret; }\n"
                      ".visible .entry large(.param .u64 p)\n.maxntid 32\n{ { .reg .b32 %r; } ";
    for (int i = 0; i < 100; i++) /* 2100 bytes of text */
        strcat(text, "add.u32 %r, %r, 12; \n");
    strcat(text, "}\n.entry small() { /* } */ ret; }\n");
    struct harp_image i;
    harp_image_read(text, &i);
    CHECK(i.known && i.n_kernels == 2 && i.variables == 0);
    CHECK(kernel_bytes(&i, "large") == 1280 && kernel_bytes(&i, "small") == 256);
    CHECK(i.code == 1536);
    CHECK(kernel_bytes(&i, "declared") == 0 && kernel_bytes(&i, "half") == 0);
    harp_image_free(&i);

    unsigned char elf[1024], fat[2048] = {0};
    static const char other[] = ".version 7.8\n.target sm_80\n.entry k() { ret; }\n.entry o() { }";
    size_t n = make_elf(elf, 9000);
    harp_image_read(elf, &i);
    CHECK(i.n_kernels == 1 && kernel_bytes(&i, "k") == 4096 && i.code == 4096);
    harp_image_free(&i);
    uint32_t magic = 0xba55ed50u;
    uint16_t words[2] = {1, 16};
    size_t at = 16 + put_entry(fat + 16, 1, other, sizeof other);
    at += put_entry(fat + at, 2, elf, n);
    uint64_t bytes = at - 16;
    memcpy(fat, &magic, 4);
    memcpy(fat + 4, words, 4);
    memcpy(fat + 8, &bytes, 8);
    harp_image_read(fat, &i); /* one of the two is loaded: the larger of each counts */
    CHECK(kernel_bytes(&i, "k") == 4096 && kernel_bytes(&i, "o") == 256 && i.code == 4096);
    harp_image_free(&i);
}

int main(void)
{
    texts();
    objects();
    kernels();
    return 0;
}
