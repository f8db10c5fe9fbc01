/* SPDX-License-Identifier: Apache-2.0
 *
 * Where kernels' parameters lie, by the text of their PTX.
 */
#include <string.h>

#include "check.h"
#include "src/shim/remote/layout.h"

#define ROOM 8

static union {
    struct harp_layout is;
    char bytes[sizeof(struct harp_layout) + ROOM * 8];
} got;

/* `want`: offset:bytes of each. */
static void same(const char *ptx, const char *kernel, const char *want)
{
    char text[256] = "";
    CHECK(harp_layout_of(ptx, kernel, &got.is, ROOM));
    for (uint32_t i = 0; i < got.is.count; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%u:%u", i == 0 ? "" : " ",
                 got.is.param[i].offset, got.is.param[i].bytes);
    if (strcmp(text, want) != 0)
        fprintf(stderr, "%s: %s, not %s\n", kernel, text, want);
    CHECK(strcmp(text, want) == 0);
}

static bool found(const char *ptx, const char *kernel)
{
    return harp_layout_of(ptx, kernel, &got.is, ROOM);
}

static const char text[] =
    ".version 8.0\n.target sm_80 // .entry no(.param .u64 a)\n"
    "/* .entry no(.param .u64 a) */\n"
    ".visible .entry one(\n\t.param .u64 one_param_0,\n\t.param .u32 one_param_1\n)\n{ ret; }\n"
    ".entry none() { ret; }\n.entry bare { ret; }\n.entry sized .maxntid 32, 1, 1 { ret; }\n"
    ".weak .entry gaps(.param .u8 a, .param .u16 b, .param .f64 c, .param .b8 d)\n{\n}\n"
    ".entry structs(.param .u8 a, .param .align 8 .b8 s[20], .param .align 4 .b8 t[8],"
    " .param .u32 v[3]) {}\n"
    ".entry pointers(.param .u32 n, .param .u64 .ptr .global .align 4 p, .param .u64 .ptr q) {}\n"
    ".entry halves(.param .f16x2 a, .param .b128 b) {}\n"
    ".entry many(.param .u8 a,.param .u8 b,.param .u8 c,.param .u8 d,.param .u8 e,.param .u8 f,"
    ".param .u8 g,.param .u8 h,.param .u8 i) {}\n"
    ".entry odd(.param .v4 .f32 a) {}\n.entry texture(.param .texref t) {}\n"
    ".entry huge(.param .align 8 .b8 s[40000]) {}\n.func callee(.param .u64 a) {}\n";

int main(void)
{
    same(text, "one", "0:8 8:4");
    same(text, "none", "");
    same(text, "bare", "");
    same(text, "sized", "");
    same(text, "gaps", "0:1 2:2 8:8 16:1");
    same(text, "structs", "0:1 8:20 28:8 36:12");
    same(text, "pointers", "0:4 8:8 16:8");
    same(text, "halves", "0:4 16:16");
    CHECK(got.is.bytes == 32);
    /* What is not there, too much, or not understood: it is asked for. */
    const char *const asked[] = {"no",  "on",      "onee", "callee", "many",
                                 "odd", "texture", "huge", ""};
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++)
        CHECK(!found(text, asked[i]));
    /* Cut off anywhere: no access behind its end. */
    for (size_t n = 0; n < sizeof text; n++) {
        char *part = malloc(n + 1);
        CHECK(part != NULL);
        memcpy(part, text, n);
        part[n] = '\0';
        found(part, "structs");
        found(part, "huge");
        free(part);
    }
    return 0;
}
